"""What `fcrdns` makes of the names of a client's address."""

import pytest
from gathered import Gathered
from hypothesis import given
from hypothesis import strategies as st
from name_server import DROP, GARBAGE, SERVFAIL

from qpsmtpd import Plugin
from qpsmtpd.config import ConfigError
from qpsmtpd.session.trace import AUTHENTICATION_RESULTS
from qpsmtpd.testing import Kit, Names

PTR = "10.2.0.192.in-addr.arpa"


def names(*hosts, failing=(), **addresses):
    """The names of the client, and the addresses of mx, a and b."""
    records = {f"{host}.example": {"AAAA" if ":" in value else "A": [value]} for host, value in addresses.items()}
    return Names(records | {PTR: {"PTR": hosts}}, failing=failing)


def outcome(stage, ip="192.0.2.10", host=None):
    client = stage.connect(ip, host)
    notes = client.connection.notes
    results = notes.get(AUTHENTICATION_RESULTS, [""])
    assert len(results) == 1
    return results[0].partition(" ")[0].removeprefix("iprev="), notes.get("karma", 0), client


@pytest.mark.parametrize(
    ("given_names", "result", "karma", "why"),
    [(names("mx.example", mx="192.0.2.10"), "pass", 1, "pass, the name leads back"),
     (names("mx.example", "a.example", a="192.0.2.10", mx="198.51.100.1"), "pass", 1, "pass, the name leads back"),
     (names("mx.example", mx="192.0.2.77"), "pass", 0, "pass, a name leads to the same network"),
     (names("mx.example", mx="198.51.100.1"), "fail", 0, "fail, reject disabled, the names lead elsewhere"),
     (names("mx.example", mx="2001:db8::1"), "fail", 0, "the names lead elsewhere"),
     (names("mx.example"), "fail", -1, "fail, reject disabled, no PTR host has forward DNS"),
     (Names(), "permerror", -1, "fail, reject disabled, no rDNS"),
     (names("mx.example", failing=["mx.example"]), "temperror", 0, "error, no name server can tell"),
     (Names(failing=[PTR]), "temperror", 0, "error, PTR of")],
)  # fmt: skip
def test_the_result_is_told_and_changes_the_karma(kit, given_names, result, karma, why):
    stage = kit("fcrdns", names=given_names)
    assert outcome(stage)[:2] == (result, karma)
    assert stage.logged(f"fcrdns: {why}") or stage.logged(why)


@pytest.mark.parametrize(
    ("ip", "result"), [("2001:db8::1", "pass"), ("2001:db8::2", "pass"), ("2001:db8:0:1::1", "fail")]
)
def test_ipv6(kit, ip, result):
    pointer = "1.0.0.0." + "0." * 20 + "8.b.d.0.1.0.0.2.ip6.arpa"
    found = Names({pointer: {"PTR": ["mx.example"]}, "mx.example": {"AAAA": [ip]}})
    stage = kit("fcrdns", names=found)
    got, _, client = outcome(stage, "2001:db8::1")
    assert got == result
    assert client.connection.notes[AUTHENTICATION_RESULTS] == [f'iprev={result} policy.iprev="2001:db8::1"']


def test_the_result_stands_in_the_message_and_the_name_too(kit):
    class Shows(Plugin):
        def hook_queue(self, transaction):
            Shows.header = bytes(transaction.header)

    kit("fcrdns", Shows, names=names("mx.example", mx="192.0.2.10")).connect(host=None).deliver()
    assert b"iprev=pass policy.iprev=192.0.2.10" in Shows.header
    assert b"(mx.example [192.0.2.10])" in Shows.header


@pytest.mark.parametrize("name", ["evil\\032x.example", "x_y.example", "nodots"])
def test_a_name_that_is_none_is_not_the_clients(kit, name):
    found = Names({PTR: {"PTR": [name]}, name: {"A": ["192.0.2.10"]}})
    result, _, client = outcome(kit("fcrdns", names=found))
    assert (result, client.connection.remote_host) == ("pass", "[192.0.2.10]")


@pytest.mark.parametrize(
    ("host", "why"), [("localhost", "not localhost"), ("nodots", "not FQDN"), ("a b.example", "invalid FQDN chars")]
)
def test_a_name_that_the_client_came_with_must_be_one(kit, host, why):
    stage = kit("fcrdns", names=names("mx.example", mx="192.0.2.10"))
    assert outcome(stage, host=host)[:2] == ("", -1)
    assert stage.logged(why)
    assert outcome(stage, host="given.example")[2].connection.remote_host == "given.example"


def test_this_machine_passes(kit):
    stage = kit("fcrdns reject 1", names=Names())
    assert outcome(stage, "127.0.0.1", "localhost")[:2] == ("", 1)


@pytest.mark.parametrize(
    ("args", "code"),
    [("", b"220"), ("reject 1", b"421"), ("reject 1 reject_type perm", b"554"), ("reject naughty", b"220")],
)
def test_who_fails_is_refused_if_the_arguments_say_so(kit, args, code):
    client = kit(f"fcrdns {args}", names=Names()).connect()
    assert client.replies.startswith(code)
    assert bool(client.connection.notes.get("naughty")) is ("naughty" in args)


def test_nobody_is_refused_while_the_dns_is_down(kit, name_server):
    name_server.set({PTR: DROP})
    config = {"nameservers": name_server.config, "timeoutdns": ["0.3"]}
    assert outcome(kit("fcrdns reject 1", config=config))[0] == "temperror"
    for trouble in (DROP, SERVFAIL, GARBAGE):
        name_server.set({PTR: {"PTR": ["mx.example."]}, "mx.example": trouble})
        stage = kit("fcrdns reject 1", config=config)
        assert outcome(stage)[0] == "temperror"
    name_server.set({"mx.example": {"A": ["192.0.2.10"]}})
    assert outcome(kit("fcrdns reject 1", config=config))[0] == "pass"


def test_the_addresses_of_ten_names_are_looked_up_at_the_same_time(kit):
    class AfterTheFirst(Gathered):
        async def look_up(self, name, kind):
            return self.look_up_blocking(name, kind) if kind == "PTR" else await super().look_up(name, kind)

    found = AfterTheFirst({PTR: {"PTR": [f"mx{number}.example" for number in range(30)]}}, at_once=20)
    assert outcome(kit("fcrdns", names=found))[0] == "fail"
    assert len(found.asked) == 21


def test_a_client_without_an_ip_address_and_bad_arguments(kit):
    assert outcome(kit("fcrdns", names=Names()), "unknown")[:2] == ("", 0)
    with pytest.raises(ConfigError, match="plugins:1: fcrdns: "):
        kit("fcrdns x", names=Names())


@given(st.lists(st.text()), st.sampled_from(["192.0.2.10", "198.51.100.1"]))
def test_any_names_have_a_result(hosts, address):
    found = Names({host: {"A": [address]} for host in hosts} | {PTR: {"PTR": hosts}})
    result, _, client = outcome(Kit("fcrdns reject 1", names=found))
    assert result in ("pass", "fail", "permerror")
    assert client.replies.isascii()
    assert (client.connection.peer.remote_host or "").isascii()
