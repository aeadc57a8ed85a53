"""Which bounces `bogus_bounce` takes for bogus, and what it does about them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qpsmtpd import OK, Plugin
from qpsmtpd.config import ConfigError
from qpsmtpd.testing import Kit

ONE, TWO = ["b@example.org"], ["b@example.org", "c@example.org"]


class RelayClient(Plugin):
    def hook_connect(self, transaction):
        self.connection.relay_client = True


def answer(stage, recipients=ONE, header=b"Subject: x\r\n", sender="", client=None):
    client = client or stage.connect()
    *_, reply = client.deliver(header + b"\r\nHello\r\n", sender=sender, recipients=recipients)
    return reply


@pytest.mark.parametrize(
    "header", [b"Subject: x\r\n", b"Return-Path: <>\r\n", b"Return-Path:\r\n", b"return-path:  <> \r\n"]
)
def test_a_bounce_to_one_recipient_without_a_return_path_passes(kit, header):
    assert answer(kit("bogus_bounce deny"), header=header).code == 250
    assert answer(kit("bogus_bounce deny"), [*ONE, *ONE], header=header).code == 250


def test_a_bounce_to_several_is_bogus(kit):
    stage = kit("bogus_bounce deny")
    reply = answer(stage, TWO)
    assert (reply.code, reply.text) == (554, "a bounce has one recipient")
    assert stage.logged("bogus_bounce: fail, a bounce to 2 recipients")


@pytest.mark.parametrize("header", [b"Return-Path: <a@b.example>\r\n", b"Return-Path: <>\r\nreturn-path: x\r\n"])
def test_a_bounce_with_a_return_path_is_bogus(kit, header):
    reply = answer(kit("bogus_bounce deny"), header=header)
    assert (reply.code, reply.text) == (554, "the return path of a bounce is empty (RFC 3834)")


def test_what_is_no_bounce_passes(kit):
    stage = kit("bogus_bounce deny")
    assert answer(stage, TWO, b"Return-Path: <a@b.example>\r\n", sender="a@client.example").code == 250
    assert stage.logged("bogus_bounce: pass, not a bounce")


@pytest.mark.parametrize(
    ("args", "code"),
    [("", 250), ("log", 250), ("deny", 554), ("denysoft", 451), ("reject 0", 250), ("reject 1", 554),
     ("reject 1 reject_type temp", 451), ("deny reject_type soft", 451), ("denysoft reject_type perm", 554),
     ("deny reject 0", 250), ("reject naughty", 250), ("reject_type soft", 250)],
)  # fmt: skip
def test_the_arguments_say_what_to_do(kit, args, code):
    stage = kit(f"bogus_bounce {args}")
    assert answer(stage, TWO).code == code
    assert stage.logged("a bounce to 2 recipients")


def test_the_client_may_be_marked(kit):
    assert answer(kit("check_bogus_bounce reject naughty", "naughty"), TWO).code == 554


def test_relay_clients_are_judged_too(kit):
    assert answer(kit(RelayClient, "bogus_bounce deny"), TWO).code == 554


def test_recipients_that_plugins_have_removed_do_not_count(kit):
    class Removes(Plugin):
        def hook_data(self, transaction):
            transaction.remove_recipient(transaction.recipients[0])

    assert answer(kit(Removes, "bogus_bounce deny"), TWO).code == 250


@pytest.mark.parametrize("args", ["dney", "deny log", "deny rejct 1", "reject_type nonsense", "reject 1 deny"])
def test_bad_arguments_are_seen_at_load(kit, args):
    with pytest.raises(ConfigError, match="plugins:1: bogus_bounce: "):
        kit(f"bogus_bounce {args}")


def test_any_return_path_gets_a_reply():
    class Accepts(Plugin):
        def hook_rcpt(self, transaction, recipient, parameters):
            return OK

        def hook_queue(self, transaction):
            return OK

    stage = Kit("bogus_bounce deny", Accepts)

    @given(st.binary(max_size=60))
    def judged(path):
        path = path.replace(b"\r", b"").replace(b"\n", b"")
        assert answer(stage, header=b"Return-Path:" + path + b"\r\n").code == (
            250 if path.strip(b" \t") in (b"", b"<>") else 554
        )

    judged()
    assert not stage.logged("Traceback")
