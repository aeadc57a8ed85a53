"""Which clients `dnsbl` refuses, and what it tells them."""

import re

import pytest
from gathered import Gathered
from hypothesis import given
from hypothesis import strategies as st
from name_server import DROP, GARBAGE, REFUSED, SERVFAIL, STRANGE, TRUNCATED

from qpsmtpd import Plugin
from qpsmtpd.config import ConfigError
from qpsmtpd.protocol import parse_reply
from qpsmtpd.testing import Kit, Names

ZONES = {"dnsbl_zones": ["bl.example", "other.example:Listed, see https://other.example/?%IP%"]}
LISTED = {"10.2.0.192.bl.example": {"A": ["127.0.0.2"], "TXT": ["a source of spam"]}}
OTHER = {"10.2.0.192.other.example": {"A": ["127.0.0.9"]}}


def greeting(stage, ip="192.0.2.10"):
    client = stage.connect(ip)
    return parse_reply(client.replies), client


def test_a_listed_client_is_told_what_the_list_says(kit):
    stage = kit("dnsbl", config=ZONES, names=Names(LISTED))
    reply, client = greeting(stage)
    assert (reply.code, reply.text, client.closed) == (554, "a source of spam", True)
    assert client.connection.notes["karma"] == -1
    assert client.connection.notes["dnsbl"] == "a source of spam"
    assert stage.logged("dnsbl: fail, bl.example")


def test_or_what_the_line_says(kit):
    reply, _ = greeting(kit("dnsbl", config=ZONES, names=Names(OTHER)))
    assert reply.text == "Listed, see https://other.example/?192.0.2.10"


def test_or_that_it_is_listed(kit):
    names = Names({"10.2.0.192.bl.example": {"A": ["127.0.0.2"]}})
    assert greeting(kit("dnsbl", config=ZONES, names=names))[0].text == "192.0.2.10 is listed by bl.example"


def test_the_first_list_of_the_file_speaks_and_the_log_names_all(kit):
    stage = kit("dnsbl", config={"dnsbl_zones": list(reversed(ZONES["dnsbl_zones"]))}, names=Names(LISTED | OTHER))
    assert greeting(stage)[0].text.startswith("Listed, see")
    assert stage.logged("fail, other.example, bl.example")


def test_what_the_site_has_to_say_stands_before_it(kit):
    config = ZONES | {"dnsbl_rejectmsg": ["You were refused.", "Ask your provider."]}
    reply, _ = greeting(kit("dnsbl", config=config, names=Names(LISTED)))
    assert reply.text == "You were refused.\nAsk your provider.\na source of spam"


def test_others_pass(kit):
    stage = kit("dnsbl", config=ZONES, names=Names(LISTED))
    assert greeting(stage, "192.0.2.11")[0].code == 220
    assert stage.logged("dnsbl: pass")


@pytest.mark.parametrize("address", ["192.0.2.1", "8.8.8.8", "127.0.0.1", "127.255.255.254", "128.0.0.2"])
def test_what_is_no_entry_does_not_count_and_is_logged(kit, address):
    stage = kit("dnsbl", config=ZONES, names=Names({"10.2.0.192.bl.example": {"A": [address], "TXT": ["x"]}}))
    assert greeting(stage)[0].code == 220
    assert stage.logged(f"error, bl.example answers {address}, which is no entry")


def test_an_entry_beside_other_addresses_counts(kit):
    names = Names({"10.2.0.192.bl.example": {"A": ["192.0.2.1", "127.0.0.4"]}})
    assert greeting(kit("dnsbl", config=ZONES, names=names))[0].code == 554


@pytest.mark.parametrize(
    ("ip", "entry"),
    [("127.0.0.2", "2.0.0.127"),
     ("2001:db8::2", "2.0.0.0." + "0." * 20 + "8.b.d.0.1.0.0.2")],
)  # fmt: skip
def test_addresses_are_looked_up_as_rfc_5782_says(kit, ip, entry):
    names = Names({f"{entry}.bl.example": {"A": ["127.0.0.2"]}})
    assert greeting(kit("dnsbl", config=ZONES, names=names), ip)[0].code == 554


@pytest.mark.parametrize(
    ("ip", "never"),
    [("192.0.2.10", "1.0.0.127"), ("2001:db8::1", "1.0.0.0.0.0.f.7.f.f.f.f" + ".0" * 20)],
)
def test_a_list_of_the_whole_world_is_left_out(kit, ip, never):
    class Everything(Names):
        def look_up_blocking(self, name, kind):
            super().look_up_blocking(name, kind)
            return ("127.0.0.2",) if name.endswith("bl.example") else ()

    names = Everything()
    stage = kit("dnsbl", config=ZONES, names=names)
    assert greeting(stage, ip)[0].code == 220
    assert stage.logged("error, bl.example lists everything, and is left out")
    assert (f"{never}.bl.example", "A") in names.asked


def test_all_lists_are_asked_at_the_same_time(kit):
    zones = [f"bl{number}.example" for number in range(20)]
    names = Gathered({"10.2.0.192.bl7.example": {"A": ["127.0.0.2"]}}, at_once=40)
    assert greeting(kit("dnsbl", config={"dnsbl_zones": zones}, names=names))[0].text.endswith("bl7.example")


@pytest.mark.parametrize("trouble", [DROP, SERVFAIL, REFUSED, GARBAGE])
def test_a_list_that_does_not_answer_counts_as_empty_and_is_logged(kit, name_server, trouble):
    name_server.set({"10.2.0.192.bl.example": trouble})
    config = ZONES | {"nameservers": name_server.config, "timeoutdns": ["0.3"]}
    stage = kit("dnsbl", config=config)
    assert greeting(stage)[0].code == 220
    assert stage.logged("error, bl.example cannot be asked")
    name_server.set({"10.2.0.192.other.example": {"A": ["127.0.0.9"]}})
    assert greeting(kit("dnsbl", config=config))[0].code == 554  # the other list counts all the same


@pytest.mark.parametrize(
    ("records", "text"),
    [({"A": ["127.0.0.2"], "TXT": ['"a source " "of spam"']}, "a source of spam"), ({"TXT": ['"no entry"']}, None),
     ({}, None), (STRANGE, None), (TRUNCATED, None)],
)  # fmt: skip
def test_answers_of_a_name_server(kit, name_server, records, text):
    name_server.set({"10.2.0.192.bl.example": records})
    stage = kit("dnsbl", config=ZONES | {"nameservers": name_server.config, "timeoutdns": ["0.5"]})
    reply, _ = greeting(stage)
    assert (reply.code, reply.text) == (554, text) if text else reply.code == 220


def test_a_list_whose_reason_cannot_be_had_still_counts(kit):
    class NoTexts(Names):
        def look_up_blocking(self, name, kind):
            self.failing = {name} if kind == "TXT" else set()
            return super().look_up_blocking(name, kind)

    assert greeting(kit("dnsbl", config=ZONES, names=NoTexts(LISTED)))[0].text == "192.0.2.10 is listed by bl.example"


def test_the_argument_timeout_bounds_a_look_up(kit, name_server):
    name_server.set({"10.2.0.192.bl.example": DROP})
    config = ZONES | {"nameservers": name_server.config, "timeoutdns": ["3600"]}
    stage = kit("dnsbl timeout 0.2", config=config)
    assert greeting(stage)[0].code == 220
    assert stage.logged("error, bl.example cannot be asked")


@pytest.mark.parametrize(
    ("line", "spared"),
    [("192.0.2.10", True), ("192.0.2.", True), ("192.0.2", True), ("192.0", True), ("192.0.2.0/28", True), ("192.0.2.1", False),
     ("2001:db8::/32", False), ("nonsense", False)],
)  # fmt: skip
def test_allowed_clients_are_not_looked_up(kit, line, spared):
    names = Names(LISTED)
    stage = kit("dnsbl", config=ZONES | {"dnsbl_allow": [line]}, names=names)
    assert greeting(stage)[0].code == (220 if spared else 554)
    assert bool(stage.logged("skip, in dnsbl_allow")) is spared is not bool(names.asked)
    assert bool(stage.logged("left out the line 'nonsense'")) is (line == "nonsense")


def test_without_a_list_nothing_is_looked_up(kit):
    names = Names(LISTED)
    assert greeting(kit("dnsbl", names=names))[0].code == 220
    assert not names.asked


def test_a_client_without_an_ip_address_passes(kit):
    assert greeting(kit("dnsbl", config=ZONES, names=Names()), "unknown")[0].code == 220


def test_bad_lines_are_logged_and_left_out(kit):
    lines = [": text", "a zone!", "-!-", "bl.example.", "x" * 64 + ".example"]
    stage = kit("dnsbl", config={"dnsbl_zones": lines}, names=Names(LISTED))
    assert greeting(stage)[0].code == 554
    assert len(stage.logged("left out the line")) == 3  # and the second is a list `a`


def test_the_variable_of_tcpserver_refuses_or_spares(kit, monkeypatch):
    names = Names(LISTED)
    stage = kit("dnsbl", config=ZONES | {"dnsbl_rejectmsg": ["No."]}, names=names)
    monkeypatch.setenv("RBLSMTPD", "go away, %IP%")
    assert greeting(stage)[0].text == "No.\ngo away, 192.0.2.10"
    monkeypatch.setenv("RBLSMTPD", "")
    assert greeting(stage)[0].code == 220
    assert not names.asked
    monkeypatch.delenv("RBLSMTPD")
    assert greeting(stage)[0].code == 554


@pytest.mark.parametrize(
    ("args", "code"),
    [("reject 0", 220), ("reject_type temp", 421), ("reject_type disconnect", 554), ("disconnect", 554), ("soft", 421),
     ("soft loglevel 3", 421), ("reject connect", 554)],
)  # fmt: skip
def test_the_arguments_say_how_to_refuse(kit, args, code):
    reply, client = greeting(kit(f"dnsbl {args}", config=ZONES, names=Names(LISTED)))
    assert reply.code == code
    assert client.connection.notes["karma"] == -1


@pytest.mark.parametrize("args", ["nonsense", "timeout 0", "timeout soon", "zones x", "reject_type never"])
def test_bad_arguments_are_seen_at_load(kit, args):
    with pytest.raises(ConfigError, match="plugins:1: dnsbl: "):
        kit(f"dnsbl {args}", names=Names())


def test_relay_clients_are_not_looked_up(kit):
    class Relays(Plugin):
        def hook_connect(self, transaction):
            self.connection.relay_client = True

    names = Names(LISTED)
    assert greeting(kit(Relays, "dnsbl", config=ZONES, names=names))[0].code == 220
    assert not names.asked


# reject naughty


def talk(stage, *recipients):
    client = stage.connect()
    client.send(b"EHLO c.example\r\nMAIL FROM:<a@c.example>\r\n")
    codes = [client.say(f"RCPT TO:<{recipient}>").code for recipient in recipients]
    return codes, client


NAUGHTY = ("dnsbl reject naughty", "naughty reject_type perm")


def test_a_listed_client_may_complain_to_postmaster_but_to_nobody_else(kit):
    stage = kit(*NAUGHTY, config=ZONES, names=Names(LISTED))
    codes, client = talk(stage, "Postmaster@x.example", "user@x.example", "ABUSE@x.example")
    assert codes == [250, 550, 250]
    assert client.say("DATA").code == 354
    assert client.say("Subject: why?\r\n\r\nx\r\n.").code == 250
    client.send(b"MAIL FROM:<a@c.example>\r\n")
    assert client.say("RCPT TO:<user@x.example>").code == 550


def test_who_gets_by_beside_postmaster_is_refused_at_the_end(kit):
    stage = kit("dnsbl reject naughty", "naughty reject data_post reject_type perm", config=ZONES, names=Names(LISTED))
    codes, client = talk(stage, "user@x.example", "postmaster@x.example")
    assert codes == [250, 250]
    client.send(b"DATA\r\n")
    reply = client.say("Subject: buy\r\n\r\nx\r\n.")
    assert (reply.code, reply.text) == (554, "a source of spam")


def test_the_mark_of_another_plugin_stays(kit):
    class Mark(Plugin):
        def hook_mail(self, transaction, sender, parameters):
            self.is_naughty("for another reason")

    assert talk(kit(Mark, *NAUGHTY, config=ZONES, names=Names(LISTED)), "postmaster@x.example")[0] == [550]


def test_a_client_that_is_not_listed_is_not_marked(kit):
    assert talk(kit(*NAUGHTY, config=ZONES, names=Names()), "postmaster@x", "u@x.example")[0] == [250, 250]


# Hostile lists


@given(st.text() | st.binary().map(lambda data: data.decode("utf-8", "surrogateescape")))
def test_whatever_a_list_says_is_shown_on_one_bounded_line(text):
    names = Names({"10.2.0.192.bl.example": {"A": ["127.0.0.2"], "TXT": [text]}})
    client = Kit("dnsbl", config=ZONES, names=names).connect()
    assert re.fullmatch(rb"554 (?:[0-9.]+ )?[ -~]{1,320}\r\n", client.replies)


def test_a_long_reason_is_cut(kit):
    names = Names({"10.2.0.192.bl.example": {"A": ["127.0.0.2"], "TXT": ["x" * 60_000]}})
    assert greeting(kit("dnsbl", config=ZONES, names=names))[0].text == "x" * 300
