"""Which senders `rhsbl` refuses, and what it tells them."""

import re

import pytest
from gathered import Gathered
from hypothesis import given
from hypothesis import strategies as st
from name_server import DROP, GARBAGE, REFUSED, SERVFAIL

from qpsmtpd import Plugin
from qpsmtpd.config import ConfigError
from qpsmtpd.testing import Kit, Names

ZONES = {"rhsbl_zones": ["dbl.example", "abuse.example \t it does not take complaints"]}
LISTED = {"spam.example.dbl.example": {"A": ["127.0.1.2"], "TXT": ["sends spam"]}}


def answer(stage, path="<a@spam.example>"):
    client = stage.connect()
    client.send(b"EHLO c.example\r\n")
    return client.say(f"MAIL FROM:{path}"), client


def test_a_listed_domain_is_refused_with_what_the_list_says(kit):
    stage = kit("rhsbl", config=ZONES, names=Names(LISTED))
    reply, client = answer(stage, "<a@Spam.Example>")
    assert (reply.code, reply.text) == (550, "Mail from Spam.Example is not taken: sends spam")
    assert client.connection.notes["karma"] == -1
    assert stage.logged("rhsbl: fail, Spam.Example in dbl.example")


def test_or_with_the_text_of_the_line(kit):
    names = Names({"rude.example.abuse.example": {"A": ["127.0.0.2"]}})
    reply, _ = answer(kit("rhsbl", config=ZONES, names=names), "<a@rude.example>")
    assert reply.text == "Mail from rude.example is not taken: it does not take complaints"


def test_or_with_the_name_of_the_list(kit):
    names = Names({"spam.example.dbl.example": {"A": ["127.0.1.2"]}})
    assert answer(kit("rhsbl", config=ZONES, names=names))[0].text.endswith(": it is listed by dbl.example")


@pytest.mark.parametrize(
    ("path", "asked"),
    [("<a@good.example>", True), ("<>", False), ("<a@[192.0.2.1]>", False), ("<a@[IPv6:::1]>", False)],
)
def test_other_senders_pass(kit, path, asked):
    names = Names(LISTED)
    assert answer(kit("rhsbl", config=ZONES, names=names), path)[0].code == 250
    assert bool(names.asked) is asked


@pytest.mark.parametrize("address", ["192.0.2.1", "127.0.0.1", "127.255.255.254"])
def test_what_is_no_entry_does_not_count_and_is_logged(kit, address):
    stage = kit("rhsbl", config=ZONES, names=Names({"spam.example.dbl.example": {"A": [address]}}))
    assert answer(stage)[0].code == 250
    assert stage.logged(f"error, dbl.example answers {address}, which is no entry")


def test_a_list_of_all_domains_is_left_out(kit):
    names = Names(LISTED | {"invalid.dbl.example": {"A": ["127.0.1.2"]}})
    stage = kit("rhsbl", config=ZONES, names=names)
    assert answer(stage)[0].code == 250
    assert stage.logged("error, dbl.example lists everything")


def test_all_lists_are_asked_at_the_same_time(kit):
    zones = [f"dbl{number}.example" for number in range(10)]
    names = Gathered({"spam.example.dbl7.example": {"A": ["127.0.1.2"]}}, at_once=20)
    assert answer(kit("rhsbl", config={"rhsbl_zones": zones}, names=names))[0].text.endswith("dbl7.example")


@pytest.mark.parametrize("trouble", [DROP, SERVFAIL, REFUSED, GARBAGE])
def test_a_list_that_does_not_answer_counts_as_empty_and_is_logged(kit, name_server, trouble):
    name_server.set({"spam.example.dbl.example": trouble})
    stage = kit("rhsbl", config=ZONES | {"nameservers": name_server.config, "timeoutdns": ["0.3"]})
    assert answer(stage)[0].code == 250
    assert stage.logged("error, dbl.example cannot be asked")
    name_server.set({"rude.example.abuse.example": {"A": ["127.0.0.2"]}})
    assert answer(stage, "<a@rude.example>")[0].code == 550


@pytest.mark.parametrize(
    ("args", "code", "closed"),
    [("reject 0", 250, False), ("reject_type soft", 450, False), ("disconnect", 550, True), ("", 550, False)],
)
def test_the_arguments_say_how_to_refuse(kit, args, code, closed):
    reply, client = answer(kit(f"rhsbl {args}", config=ZONES, names=Names(LISTED)))
    assert (reply.code, client.closed) == (code, closed)


def test_naughty_hears_of_it(kit):
    stage = kit("rhsbl reject naughty", "naughty reject mail reject_type perm", config=ZONES, names=Names(LISTED))
    assert answer(stage)[0].text == "Mail from spam.example is not taken: sends spam"


@pytest.mark.parametrize("args", ["nonsense", "timeout -1", "reject 1 zone x"])
def test_bad_arguments_are_seen_at_load(kit, args):
    with pytest.raises(ConfigError, match="plugins:1: rhsbl: "):
        kit(f"rhsbl {args}", names=Names())


def test_without_a_list_and_for_relay_clients_nothing_is_looked_up(kit):
    class Relays(Plugin):
        def hook_connect(self, transaction):
            self.connection.relay_client = True

    names = Names(LISTED)
    assert answer(kit("rhsbl", names=names))[0].code == 250
    assert answer(kit(Relays, "rhsbl", config=ZONES, names=names))[0].code == 250
    assert not names.asked


@given(
    domain=st.text().map(lambda text: text.encode("utf-8", "surrogatepass"))
    | st.binary()
    | st.just("b\u00fccher.de".encode()),
    text=st.text(),
)
def test_any_domain_is_looked_up_and_whatever_a_list_says_is_one_line(domain, text):
    class Everything(Names):
        def look_up_blocking(self, name, kind):
            if kind == "TXT":
                return (text,)
            return () if name.startswith("invalid.") else ("127.0.0.2",)

    client = Kit("rhsbl", config=ZONES, names=Everything()).connect()
    client.send(b"EHLO c.example\r\n")
    reply = client.send(b"MAIL FROM:<a@" + re.sub(rb"[\r\n]", b"", domain) + b"> SMTPUTF8\r\n")
    assert re.fullmatch(rb"[0-9]{3} [ -~\x80-\xff]{1,700}\r\n", reply)
