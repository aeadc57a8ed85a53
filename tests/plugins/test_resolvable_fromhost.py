"""Which senders `resolvable_fromhost` refuses."""

import re

import pytest
from gathered import Gathered
from hypothesis import given
from hypothesis import strategies as st
from name_server import DROP, GARBAGE, REFUSED, SERVFAIL

from qpsmtpd import Plugin
from qpsmtpd.config import ConfigError
from qpsmtpd.testing import Kit, Names

RECORDS = {
    "good.example": {"MX": ["dead-mx.example", "mx.example"]}, "mx.example": {"A": ["192.0.2.1"]},
    "six.example": {"MX": ["mx6.example"]}, "mx6.example": {"AAAA": ["2001:db8::1"]},
    "host.example": {"A": ["192.0.2.2"]}, "host6.example": {"AAAA": ["2001:db8::1"]},
    "null.example": {"MX": [""]}, "nomx.example": {"MX": ["dead-mx.example"]},
    "ip.example": {"MX": ["192.0.2.3"]}, "badip.example": {"MX": ["127.0.0.1"]},
    "inside.example": {"MX": ["in-mx.example"]}, "in-mx.example": {"A": ["10.1.2.3"]},
    "both.example": {"MX": ["both-mx.example"]}, "both-mx.example": {"A": ["10.1.2.3", "192.0.2.1"]},
    "local.example": {"A": ["127.0.0.1"]}, "doubt.example": {"MX": ["silent.example", "dead-mx.example"]},
}  # fmt: skip
CONFIG = {"invalid_resolvable_fromhost": ["127.0.0.0/8", "10.0.0.0/8", "fe80::/10", "rubbish"]}


def answer(stage, path):
    client = stage.connect()
    client.send(b"EHLO c.example\r\n")
    return client.say(f"MAIL FROM:{path}"), client


class Keeps(Plugin):
    def hook_deny(self, transaction, plugin, code, text):
        Keeps.notes = dict(transaction.notes)

    hook_ok = hook_deny


@pytest.mark.parametrize(
    ("path", "note", "karma"),
    [("<a@good.example>", "mx", 0), ("<a@six.example>", "mx", 0), ("<a@ip.example>", "mx", 0), ("<a@both.example>", "mx", 0),
     ("<a@host.example>", "a", -1), ("<a@host6.example>", "a", -1), ("<>", "null", 0), ("<a@[192.0.2.1]>", "ip", -1),
     ("<a@[IPv6:::1]>", "ip", -1)],
)  # fmt: skip
def test_good_senders_pass(kit, path, note, karma):
    reply, client = answer(kit("require_resolvable_fromhost", Keeps, config=CONFIG, names=Names(RECORDS)), path)
    assert reply.code == 250
    assert Keeps.notes["resolvable_fromhost"] == note
    assert Keeps.notes.get("resolvable_fromhost_host", "") == path.strip("<>").partition("@")[2]
    assert client.connection.notes.get("karma", 0) == karma


@pytest.mark.parametrize(
    ("domain", "note", "karma"),
    [("nowhere.example", "nowhere.example has no MX, and no good address", -2), ("null.example", "null.example takes no mail", -2),
     ("nomx.example", "invalid MX for nomx.example", -2), ("badip.example", "invalid MX for badip.example", -2),
     ("inside.example", "invalid MX for inside.example", -2), ("local.example", "local.example has no MX, and no good address", -2)],
)  # fmt: skip
def test_bad_senders_are_refused(kit, domain, note, karma):
    stage = kit("resolvable_fromhost", Keeps, config=CONFIG, names=Names(RECORDS))
    reply, client = answer(stage, f"<a@{domain}>")
    assert (reply.code, reply.enhanced) == (450, "4.1.8")
    assert Keeps.notes["resolvable_fromhost"] == note
    assert client.connection.notes["karma"] == karma
    assert stage.logged(f"resolvable_fromhost: fail, {note}")
    assert len(stage.logged("left out the line 'rubbish'")) == 1


def test_a_sender_without_a_domain_is_refused(kit):
    assert answer(kit("resolvable_fromhost", names=Names()), "<postmaster>")[0].code == 450


@pytest.mark.parametrize(
    ("args", "code", "enhanced", "closed"),
    [
        ("reject 0", 250, None, False),
        ("reject_type perm", 550, "5.1.8", False),
        ("reject_type disconnect", 550, "5.1.8", True),
    ],
)
def test_the_arguments_say_how_to_refuse(kit, args, code, enhanced, closed):
    reply, client = answer(kit(f"resolvable_fromhost {args}", names=Names()), "<a@nowhere.example>")
    assert (reply.code, client.closed) == (code, closed)
    assert enhanced in (None, reply.enhanced)


def test_naughty_hears_of_it(kit):
    stage = kit("resolvable_fromhost reject naughty", "naughty reject mail", names=Names())
    assert answer(stage, "<a@nowhere.example>")[0].code == 450  # reject_type is soft


@pytest.mark.parametrize("trouble", [DROP, SERVFAIL, REFUSED, GARBAGE])
@pytest.mark.parametrize("args", ["", "reject_type perm", "reject naughty", "reject 0"])
def test_while_nobody_can_say_it_is_refused_for_now(kit, name_server, trouble, args):
    name_server.set({"doubt.example": trouble})
    config = {"nameservers": name_server.config, "timeoutdns": ["0.2"]}
    stage = kit(f"resolvable_fromhost {args}", config=config)
    reply, client = answer(stage, "<a@doubt.example>")
    assert (reply.code, reply.enhanced) == ((450, "4.4.3") if args != "reject 0" else (250, "2.1.0"))
    assert stage.logged("error, MX of doubt.example")
    assert "naughty" not in client.connection.notes


def test_an_exchange_nobody_can_tell_of_is_in_doubt_unless_another_is_good(kit):
    names = Names(RECORDS, failing=["silent.example"])
    assert answer(kit("resolvable_fromhost", names=names), "<a@doubt.example>")[0].enhanced == "4.4.3"
    names.records["dead-mx.example"] = {"A": ["192.0.2.1"]}
    assert answer(kit("resolvable_fromhost", names=names), "<a@doubt.example>")[0].code == 250


def test_ten_exchanges_are_looked_up_at_the_same_time(kit):
    class AfterTheFirst(Gathered):
        async def look_up(self, name, kind):
            return self.look_up_blocking(name, kind) if kind == "MX" else await super().look_up(name, kind)

    names = AfterTheFirst({"many.example": {"MX": [f"mx{number}.example" for number in range(50)]}}, at_once=20)
    assert answer(kit("resolvable_fromhost", names=names), "<a@many.example>")[0].code == 450
    assert len(names.asked) == 21


def test_records_of_a_name_server(kit, name_server):
    name_server.set(
        {
            "good.example": {"MX": ["10 mx.example."]},
            "mx.example": {"A": ["192.0.2.1"]},
            "null.example": {"MX": ["0 ."]},
        }
    )
    stage = kit("resolvable_fromhost", config={"nameservers": name_server.config, "timeoutdns": ["0.5"]})
    assert answer(stage, "<a@good.example>")[0].code == 250
    assert answer(stage, "<a@null.example>")[0].code == 450


def test_relay_clients_are_not_checked_and_bad_arguments_are_seen(kit):
    class Relays(Plugin):
        def hook_connect(self, transaction):
            self.connection.relay_client = True

    assert answer(kit(Relays, "resolvable_fromhost", names=Names()), "<a@nowhere.example>")[0].code == 250
    with pytest.raises(ConfigError, match="plugins:1: resolvable_fromhost: "):
        kit("resolvable_fromhost x y", names=Names())


@given(
    domain=st.text().map(lambda text: text.encode("utf-8", "surrogatepass")) | st.binary(),
    records=st.fixed_dictionaries({"MX": st.lists(st.text()), "A": st.lists(st.ip_addresses(v=4).map(str))}),
)
def test_any_domain_with_any_records_has_one_reply(domain, records):
    class Everywhere(Names):
        def look_up_blocking(self, name, kind):
            return tuple(records.get(kind, ()))

    client = Kit("resolvable_fromhost", config=CONFIG, names=Everywhere()).connect()
    client.send(b"EHLO c.example\r\n")
    reply = client.send(b"MAIL FROM:<a@" + re.sub(rb"[\r\n]", b"", domain) + b"> SMTPUTF8\r\n")
    assert re.fullmatch(rb"[0-9]{3} [ -~\x80-\xff]+\r\n", reply)  # UTF-8: the sender, who speaks it
