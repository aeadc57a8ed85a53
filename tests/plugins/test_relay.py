"""Which clients `relay` lets relay."""

import ipaddress

import constant_database
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from qpsmtpd.config import ConfigError
from qpsmtpd.networks import is_listed, parse_network

CLIENTS = {"relayclients": ("192.0.2.10", "198.51.100.", "203.0.113.0/24", "2001:db8:1::1", "2001:DB8:2:", "fd00::/8")}


def relays(stage, ip):
    return stage.connect(ip).session.connection.relay_client


@pytest.mark.parametrize(
    "ip",
    ["192.0.2.10", "198.51.100.0", "198.51.100.77", "203.0.113.0", "203.0.113.7", "203.0.113.255", "2001:db8:1::1",
     "2001:DB8:1:0:0:0:0:1", "2001:db8:2::", "2001:db8:2:ffff::9", "fd12::1", "::ffff:192.0.2.10"],
)  # fmt: skip
def test_listed_clients_may_relay(kit, ip):
    assert relays(kit("relay", config=CLIENTS), ip) is True


@pytest.mark.parametrize(
    "ip", ["192.0.2.11", "192.0.2.1", "198.51.101.1", "203.0.114.0", "203.0.112.255", "2001:db8:1::2", "2001:db8:20::", "::1", "", "x"]
)  # fmt: skip
def test_of_other_clients_nothing_is_said(kit, ip):
    assert relays(kit("relay", config=CLIENTS), ip) is None


@pytest.mark.parametrize(
    "line", ["192.0.2.77/24", "::ffff:192.0.2.10", "::ffff:192.0.2.0/120", "192.0.2.0/255.255.255.0"]
)
def test_a_network_may_be_written_in_several_ways(kit, line):
    assert relays(kit("relay", config={"relayclients": (line,)}), "192.0.2.10") is True


def test_more_clients_stand_in_a_second_file(kit):
    assert relays(kit("relay", config={"morerelayclients": ("192.0.2.",)}), "192.0.2.10") is True


@pytest.mark.parametrize(
    ("ip", "may"),
    [("192.0.2.10", True), ("192.0.2.1", None), ("198.51.100.7", True), ("198.51.10.7", None), ("10.1.2.3", True),
     ("2001:db8::1", True), ("2001:db8:0::2", None), ("2001:db8:2:ffff::9", True), ("2001:db8:20::", None), ("2001:db8:3::1", True), ("x", None)],
)  # fmt: skip
def test_many_clients_stand_in_a_constant_database(kit, directory, ip, may):
    keys = ["192.0.2.10", "198.51.100.", "10.", "2001:db8::1", "2001:db8:2:", "2001:db8:3:0:"]
    constant_database.write(directory / "morerelayclients.cdb", keys)
    stage = kit("relay")
    assert relays(stage, ip) is may
    assert not stage.logged("error")


def test_nobody_is_in_a_database_that_cannot_be_read(kit, directory):
    (directory / "morerelayclients.cdb").mkdir()
    stage = kit("relay", config=CLIENTS)
    assert relays(stage, "192.0.2.10") is True
    assert relays(stage, "192.0.2.99") is None
    assert stage.logged("relay: error, morerelayclients.cdb: ")


@pytest.mark.parametrize("ip", ["192.0.2.10", "192.0.2.11"])
def test_norelayclients_come_first(kit, monkeypatch, ip):
    monkeypatch.setenv("RELAYCLIENT", "")
    stage = kit("relay", config={**CLIENTS, "norelayclients": ("192.0.2.",)})
    assert relays(stage, ip) is False
    monkeypatch.setenv("RELAYCLIENT", "1")
    assert relays(stage, ip) is False


@pytest.mark.parametrize("value", ["1", ""])
def test_the_environment_may_make_a_relay_client(kit, monkeypatch, value):
    stage = kit("relay", config=CLIENTS)
    monkeypatch.setenv("RELAYCLIENT", value)
    assert relays(stage, "192.0.2.99") is True


def test_a_line_that_makes_no_sense_is_logged_and_left_out(kit):
    stage = kit("relay", config={"relayclients": ("192.0.2", "10.0.0.0/33", "host.example", "192.0.2.10 the gateway")})
    assert [line.partition("left out the line ")[2] for line in stage.logged("left out")] == [
        "'192.0.2'\n", "'10.0.0.0/33'\n", "'host.example'\n",
    ]  # fmt: skip
    assert relays(stage, "192.0.2.10") is True


@pytest.mark.parametrize(("ip", "code"), [("192.0.2.10", b"250"), ("192.0.2.11", b"550")])
def test_with_only_every_recipient_depends_on_the_client(kit, ip, code):
    client = kit("relay only 1", base=False, config=CLIENTS).connect(ip)
    client.send(b"EHLO c.example\r\nMAIL FROM:<a@c.example>\r\n")
    assert client.send(b"RCPT TO:<u@d.example>\r\n").startswith(code)


def test_without_only_recipients_are_left_to_others(kit):
    client = kit("relay only 0", base=False, config=CLIENTS).connect("192.0.2.10")
    client.send(b"EHLO c.example\r\nMAIL FROM:<a@c.example>\r\n")
    assert client.send(b"RCPT TO:<u@d.example>\r\n").startswith(b"450")


def test_the_environment_may_ask_for_relay_clients_only(kit, monkeypatch):
    monkeypatch.setenv("RELAY_ONLY", "1")
    client = kit("relay", base=False).connect()
    client.send(b"EHLO c.example\r\nMAIL FROM:<a@c.example>\r\n")
    assert client.send(b"RCPT TO:<u@d.example>\r\n").startswith(b"550")


@pytest.mark.parametrize("line", ["relay only", "relay onyl 1"])
def test_bad_arguments_are_seen_at_load(kit, line):
    with pytest.raises(ConfigError, match="plugins:1: relay: "):
        kit(line)


def test_the_old_name_is_still_good(kit):
    assert relays(kit("check_relay", config=CLIENTS), "192.0.2.10") is True


@given(st.text() | st.from_regex(r"[0-9a-f.:]{1,20}(/[0-9]{1,3})?", fullmatch=True))
def test_any_text_is_a_network_or_a_value_error(text):
    try:
        network = parse_network(text)
    except ValueError:
        return
    assert is_listed(str(network[0]), [network])
    assert is_listed(str(network[-1]), [network])


@given(st.ip_addresses(v=4), st.integers(1, 4))
def test_a_beginning_of_octets_means_what_begins_so(ip, count):
    prefix = "".join(octet + "." for octet in str(ip).split(".")[:count])
    assert str(parse_network(prefix)) == str(ipaddress.ip_network(f"{ip}/{8 * count}", strict=False))


@given(st.ip_addresses(v=6), st.integers(1, 7))
def test_a_beginning_of_groups_means_what_begins_so(ip, count):
    prefix = "".join(group + ":" for group in ip.exploded.split(":")[:count])
    assume(ip.ipv4_mapped is None)
    assert is_listed(str(ip), [parse_network(prefix)])
    assert parse_network(prefix).num_addresses == 2 ** (128 - 16 * count)
