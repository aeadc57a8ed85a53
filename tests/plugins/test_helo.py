"""Which names in HELO and EHLO `helo` refuses, by its policy."""

import re

import pytest
from gathered import Gathered
from hypothesis import given
from hypothesis import strategies as st
from name_server import DROP, GARBAGE, SERVFAIL

from qpsmtpd import Plugin
from qpsmtpd.config import ConfigError
from qpsmtpd.testing import Kit, Names

BAD = {"badhelo": ["yahoo.example", "Mixed.Example", r"^dsl-.*\.example$", r"!\w", "(broken", "UPPER$"]}
PTR = "10.2.0.192.in-addr.arpa"
MATCHING = {"mx.example.org": {"A": ["192.0.2.10"]}, PTR: {"PTR": ["mx.example.org"]}}


def hello(stage, name, command="EHLO", ip="192.0.2.10"):
    client = stage.connect(ip)
    return client.say(f"{command} {name}"), client


@pytest.mark.parametrize("command", ["HELO", "EHLO"])
@pytest.mark.parametrize(
    ("name", "why"),
    [("yahoo.example", "in badhelo: yahoo.example"), ("YAHOO.example", "in badhelo: yahoo.example"),
     ("mixed.example", "in badhelo: Mixed.Example"), ("dsl-1-2.x.example", r"in badhelo: ^dsl-"), ("...", r"in badhelo: !\w"),
     ("LocalHost", "invalid localhost"), ("192.0.2.10", "plain IP"), ("2001:db8::1", "plain IP"), ("255.1.2.3", "plain IP")],
)  # fmt: skip
def test_a_bad_name_is_refused_and_the_client_sent_away(kit, command, name, why):
    stage = kit("check_spamhelo", config=BAD, names=Names())
    reply, client = hello(stage, name, command)
    assert (reply.code, client.closed) == (550, True)
    assert client.connection.notes["karma"] == -1
    assert stage.logged(f"fail, {why}")
    assert len(stage.logged("left out the line '(broken'")) == 1


@pytest.mark.parametrize(
    "name", ["good.example", "nodots", "[192.0.2.10]", "[192.0.2.99]", "[IPv6:::1]", "xyahoo.example", "upper", "1.2.3"]
)
def test_a_lenient_policy_lets_other_names_pass_and_asks_nobody(kit, name):
    names = Names()
    assert hello(kit("helo", config=BAD, names=names), name)[0].code == 250
    assert not names.asked


def test_this_machine_is_localhost(kit):
    stage = kit("helo", names=Names())
    assert hello(stage, "localhost", ip="127.0.0.1")[0].code == 250
    assert hello(stage, "127.0.0.1", ip="127.0.0.1")[0].code == 550


@pytest.mark.parametrize(
    ("records", "name", "why"),
    [(MATCHING, "mx.example.org", "pass"), (MATCHING, "MX.Example.ORG", "pass"), (MATCHING, "[192.0.2.10]", "pass"),
     (MATCHING, "[IPv6:2001:db8::1]", "pass"), (MATCHING, "nodots", "not FQDN"), (MATCHING, "a_b.example", "invalid FQDN chars"),
     (MATCHING, "[192.0.2.999]", "invalid FQDN chars"), (MATCHING, "nowhere.example", "no such host"),
     ({"x.example": {"AAAA": ["2001:db8::1"]}}, "x.example", "no rDNS"), ({}, "[192.0.2.10]", "no rDNS")],
)  # fmt: skip
def test_policy_rfc_wants_a_name_with_an_address_and_an_address_with_a_name(kit, records, name, why):
    stage = kit("helo policy rfc", names=Names(records))
    assert hello(stage, name)[0].code == (250 if why == "pass" else 550)
    assert stage.logged("helo: pass" if why == "pass" else f"fail, {why}")


@pytest.mark.parametrize(
    ("forward", "reverse", "karma", "why"),
    [("192.0.2.10", "mx.example.org", 1, "pass"), ("192.0.2.99", "mx2.example.org", 1, "pass"),
     ("192.0.2.10", "other.example", 0, "pass"), ("198.51.100.1", "b.example.org", 0, "pass"),
     ("198.51.100.1", "mx.example.net", -1, "no matching DNS"), ("2001:db8::1", "org", -1, "no matching DNS")],
)  # fmt: skip
def test_policy_strict_wants_them_to_match(kit, forward, reverse, karma, why):
    kind = "AAAA" if ":" in forward else "A"
    stage = kit("helo policy strict", names=Names({"mx.example.org": {kind: [forward]}, PTR: {"PTR": [reverse]}}))
    reply, client = hello(stage, "mx.example.org")
    assert reply.code == (250 if why == "pass" else 550)
    assert client.connection.notes.get("karma", 0) == karma
    assert client.connection.notes.get("helo_forward_match", False) is forward.startswith("192.0.2.")
    assert client.connection.notes.get("helo_reverse_match", False) is reverse.endswith("example.org")


def test_policy_strict_takes_no_literal_and_knows_networks_of_ipv6(kit):
    stage = kit("helo policy strict", names=Names(MATCHING))
    assert hello(stage, "[192.0.2.10]")[0].code == 550
    assert stage.logged("fail, bracketed IP")
    pointer = "1.0.0.0." + "0." * 20 + "8.b.d.0.1.0.0.2.ip6.arpa"
    six = Names({"mx.example.org": {"AAAA": ["2001:db8::2"]}, pointer: {"PTR": ["x.example"]}})
    assert hello(kit("helo policy strict", names=six), "mx.example.org", ip="2001:db8::1")[0].code == 250


def test_a_second_greeting_is_judged_by_itself(kit):
    names = Names(MATCHING | {"bad.example": {"A": ["198.51.100.1"]}})
    client = kit("helo policy strict reject_type perm", names=names).connect()
    assert client.say("EHLO mx.example.org").code == 250
    assert client.say("EHLO bad.example").code == 550


@pytest.mark.parametrize("policy", ["rfc", "strict"])
@pytest.mark.parametrize("trouble", [DROP, SERVFAIL, GARBAGE])
def test_nobody_is_refused_while_the_dns_is_down(kit, name_server, trouble, policy):
    name_server.set({"mx.example.org": trouble, PTR: trouble})
    stage = kit(f"helo policy {policy}", config={"nameservers": name_server.config, "timeoutdns": ["0.3"]})
    assert hello(stage, "mx.example.org")[0].code == 250
    assert stage.logged("error, no name server can tell the addresses of the name")
    assert stage.logged("error, no name server can tell the names of 192.0.2.10")


@pytest.mark.parametrize("dead", ["mx.example.org", PTR])
def test_half_of_an_answer_is_none(kit, dead):
    records = {"mx.example.org": {"A": ["198.51.100.1"]}, PTR: {"PTR": ["other.example"]}}
    assert hello(kit("helo policy strict", names=Names(records, failing=[dead])), "mx.example.org")[0].code == 250
    assert hello(kit("helo policy strict", names=Names(records)), "mx.example.org")[0].code == 550


def test_answers_of_a_name_server(kit, name_server):
    name_server.set({"mx.example.org": {"A": ["192.0.2.10"]}, PTR: {"PTR": ["mx.example.org."]}})
    stage = kit("helo policy strict", config={"nameservers": name_server.config, "timeoutdns": ["0.5"]})
    assert hello(stage, "mx.example.org")[0].code == 250
    assert hello(stage, "nowhere.example")[0].code == 550


def test_everything_is_looked_up_at_the_same_time(kit):
    assert hello(kit("helo policy rfc", names=Gathered(MATCHING, at_once=3)), "mx.example.org")[0].code == 250


@pytest.mark.parametrize(
    ("args", "code", "closed"),
    [("reject 0", 250, False), ("reject_type perm", 550, False), ("reject_type temp", 450, False),
     ("reject_type temp_disconnect", 421, True), ("reject naughty", 250, False)],
)  # fmt: skip
def test_the_arguments_say_how_to_refuse(kit, args, code, closed):
    reply, client = hello(kit(f"helo {args}", config=BAD, names=Names()), "yahoo.example")
    assert (reply.code, client.closed) == (code, closed)
    assert bool(client.connection.notes.get("naughty")) is ("naughty" in args)


@pytest.mark.parametrize("args", ["policy harsh", "x", "policy rfc timeout 0"])
def test_bad_arguments_are_seen_at_load(kit, args):
    with pytest.raises(ConfigError, match="plugins:1: helo: "):
        kit(f"helo {args}", names=Names())


def test_relay_clients_are_not_checked(kit):
    class Relays(Plugin):
        def hook_connect(self, transaction):
            self.connection.relay_client = True

    assert hello(kit(Relays, "helo policy strict", names=Names()), "localhost")[0].code == 250


class Shows(Plugin):
    def hook_queue(self, transaction):
        Shows.header = bytes(transaction.header)


@pytest.mark.parametrize(
    ("name", "shown"), [("c.example", b"c.example"), ("b\u00fc\x01", b"b??"), ("x" * 300, b"x" * 255)]
)
def test_the_name_stands_in_the_message_made_safe(kit, name, shown):
    client = kit("helo", Shows, names=Names()).connect()
    client.say(f"HELO {name}")
    client.send(b"MAIL FROM:<>\r\nRCPT TO:<a@x.example>\r\nDATA\r\n")
    client.send(b"x-helo: forged\r\nSubject: x\r\n\r\ny\r\n.\r\n")
    assert Shows.header.startswith(b"X-HELO: " + shown + b"\r\n")
    assert b"forged" not in Shows.header


@given(
    name=st.text().map(lambda text: text.encode("utf-8", "surrogatepass")) | st.binary(),
    ptr=st.lists(st.text()),
    policy=st.sampled_from(["lenient", "rfc", "strict"]),
)
def test_any_name_and_any_name_of_the_address_has_one_reply(name, ptr, policy):
    class Everywhere(Names):
        def look_up_blocking(self, name, kind):
            return tuple(ptr) if kind == "PTR" else ("198.51.100.1",)

    client = Kit(f"helo policy {policy}", config=BAD, names=Everywhere()).connect()
    reply = client.send(b"HELO " + re.sub(rb"[\r\n]", b"", name) + b"\r\n")
    assert re.fullmatch(rb"[0-9]{3} [ -~]+\r\n", reply)


def test_no_expression_is_tried_on_a_name_of_any_length(kit):
    stage = kit("helo", config={"badhelo": ["plain.example", r"^(a|aa)+$"]})
    reply, _ = hello(stage, "a" * 300 + "!")
    assert reply.code == 550
    assert stage.logged("fail, a name of 301 characters")
    stage = kit("helo", config={"badhelo": ["plain.example"]})
    assert hello(stage, "a" * 300)[0].code == 250
