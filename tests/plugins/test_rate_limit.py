"""How much `rate_limit` lets through, and for whom it counts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qpsmtpd import OK, Plugin
from qpsmtpd.config import ConfigError
from qpsmtpd.store import StoreError
from qpsmtpd.testing import Kit


class Users(Plugin):
    def hook_auth_plain(self, transaction, mechanism, user, password, digest, ticket):
        return OK


def codes(stage, number, command, ip="192.0.2.10"):
    """The codes of a command that is said so often, each in a connection of its own."""
    found = []
    for _ in range(number):
        client = stage.connect(ip)
        if client.closed:
            found.append(int(client.replies[:3]))
            continue
        client.say("EHLO c.example")
        for line in command[:-1]:
            client.say(line)
        found.append(client.say(command[-1]).code)
    return found


MAIL = ["MAIL FROM:<a@x.example>"]
RCPT = [*MAIL, "RCPT TO:<b@example.org>"]
USER = ["AUTH PLAIN AGFubmEAcHc="]  # anna


def test_connections_of_a_client_have_a_limit_that_passes(kit):
    stage = kit("rate_limit connections 2/1m")
    assert codes(stage, 3, ["NOOP"]) == [250, 250, 421]
    assert codes(stage, 1, ["NOOP"], "192.0.2.11") == [250]
    stage.clock.advance(59)
    assert codes(stage, 1, ["NOOP"]) == [421]
    stage.clock.advance(2)
    assert codes(stage, 1, ["NOOP"]) == [250]
    assert stage.logged("rate_limit: fail, 192.0.2.10: more than 2 connections in 60 s")


@pytest.mark.parametrize(("kind", "command"), [("mails", MAIL), ("recipients", RCPT)])
def test_mails_and_recipients_of_a_client_have_limits(kit, kind, command):
    stage = kit(f"rate_limit {kind} 2/1h")
    assert codes(stage, 3, command) == [250, 250, 450]
    assert stage.logged(f"more than 2 {kind} in 3600 s")


@pytest.mark.parametrize(("kind", "command"), [("user_mails", MAIL), ("user_recipients", RCPT)])
def test_a_user_has_limits_from_wherever_and_strangers_have_none(kit, kind, command):
    stage = kit(Users, f"rate_limit {kind} 2/1d")
    found = [codes(stage, 1, [*USER, *command], f"192.0.2.{number}")[0] for number in range(1, 4)]
    assert found == [250, 250, 450]
    assert codes(stage, 3, command) == [250, 250, 250]


def test_a_sender_has_a_limit_from_wherever_and_bounces_have_none(kit):
    stage = kit("rate_limit sender_mails 2/1d")
    senders = ("a@x.example", "A@X.example", "a@x.example", "b@x.example")
    found = [
        codes(stage, 1, [f"MAIL FROM:<{sender}>"], f"192.0.2.{number}")[0] for number, sender in enumerate(senders)
    ]
    assert found == [250, 250, 450, 250]
    assert codes(stage, 3, ["MAIL FROM:<>"]) == [250, 250, 250]


def test_a_recipient_has_a_limit_whoever_writes(kit):
    stage = kit("rate_limit recipient_mails 2/1d")
    found = [codes(stage, 1, RCPT, f"192.0.2.{number}")[0] for number in range(1, 4)]
    assert found == [250, 250, 450]
    assert stage.logged("b@example.org: more than 2 recipient_mails in 86400 s")
    assert codes(stage, 1, [*MAIL, "RCPT TO:<c@example.org>"]) == [250]


def test_addresses_of_one_network_are_one_client(kit):
    stage = kit("rate_limit connections 1/10")
    assert codes(stage, 1, ["NOOP"], "2001:db8::1") == [250]
    assert codes(stage, 1, ["NOOP"], "2001:db8::2") == [421]
    assert codes(stage, 1, ["NOOP"], "2001:db8:0:1::1") == [250]
    stage = kit("rate_limit connections 1/10 ipv6_prefix 128")
    assert codes(stage, 1, ["NOOP"], "2001:db8::1") == [250]
    assert codes(stage, 1, ["NOOP"], "2001:db8::2") == [250]


def test_several_limits_of_a_kind_count_apart(kit):
    stage = kit("rate_limit:0 mails 1/1s", "rate_limit:1 mails 2/1h")
    assert codes(stage, 1, MAIL) == [250]
    assert codes(stage, 1, MAIL) == [450]
    stage.clock.advance(2)
    assert codes(stage, 1, MAIL) == [250]
    stage.clock.advance(2)
    assert codes(stage, 1, MAIL) == [450]


def test_relay_clients_have_no_limits_as_clients(kit):
    limits = "mails 1/1h recipients 1/1h sender_mails 1/1h recipient_mails 1/1h"
    stage = kit("relay", f"rate_limit {limits}", config={"relayclients": ["192.0.2.10"]})
    assert codes(stage, 3, RCPT) == [250, 250, 250]
    assert codes(stage, 2, MAIL, "192.0.2.11") == [250, 450]


def test_with_reject_0_it_is_only_logged(kit):
    stage = kit("rate_limit mails 1/1h reject 0")
    assert codes(stage, 2, MAIL) == [250, 250]
    assert stage.logged("fail, reject disabled, 192.0.2.10: more than 1 mails")


def test_a_store_that_fails_lets_everybody_in(kit, monkeypatch):
    stage = kit("rate_limit mails 1/1h")

    def fail(*_):
        raise StoreError("the disk is full")

    monkeypatch.setattr(stage.site.plugins[0]._store._backend, "add", fail)
    assert codes(stage, 2, MAIL) == [250, 250]
    assert stage.logged("rate_limit: error, the disk is full")


@pytest.mark.parametrize(
    "args",
    ["", "mails", "mails 0/1h", "mails 5", "mails 5/0", "mails 5/1w", "mails x/1h", "ipv6_prefix 64", "mail 1/1h"],
)
def test_bad_arguments_are_seen_at_load(kit, args):
    with pytest.raises(ConfigError, match="plugins:1: rate_limit: "):
        kit(f"rate_limit {args}")


@given(local=st.text(min_size=1, max_size=300))
def test_any_sender_and_recipient_is_counted(local):
    stage = Kit("rate_limit sender_mails 1/1h recipient_mails 1/1h")
    quoted = (
        local.encode("utf-8", "surrogatepass")
        .decode("latin-1")
        .translate(dict(zip(b'\n\r\0"\\', "nr0qb", strict=True)))
    )
    refused = {450, 500, 501, 503, 553}
    for wanted in ({250, *refused} - {450}, refused):
        client = stage.connect()
        client.say("EHLO c.example")
        assert client.say(f'MAIL FROM:<"{quoted}"@x.example> SMTPUTF8').code in wanted
        client.say(f'RCPT TO:<"{quoted}"@y.example>')
    assert not stage.logged("Traceback")


@given(user=st.text(min_size=1, max_size=300), ip=st.ip_addresses().map(str))
def test_any_client_and_user_is_counted(user, ip):
    stage = Kit("rate_limit mails 1/1h user_mails 1/1h")
    (plugin,) = stage.site.plugins
    plugin.__class__ = type("Named", (type(plugin),), {"auth_user": user})
    assert codes(stage, 2, MAIL, ip) == [250, 450]
    assert not stage.logged("Traceback")
