"""Which recipients `badrcptto` refuses, and how."""

import pytest

from qpsmtpd import Plugin

LIST = {
    "badrcptto": ("bad@dest.example", "@closed.example", "reason@dest.example Custom Reason Text", "^root", "MiXed@Dest.example", "!weird", "^postmaster")
}  # fmt: skip


class RelayClient(Plugin):
    def hook_connect(self, transaction):
        self.connection.relay_client = True


def answer(stage, path):
    client = stage.connect()
    client.send(b"EHLO c.example\r\nMAIL FROM:<a@c.example>\r\n")
    return client.send(f"RCPT TO:{path}\r\n".encode()), client.session.connection.notes.get("karma")


@pytest.mark.parametrize(
    "path",
    ["<bad@dest.example>", "<BAD@Dest.example>", "<x@closed.example>", "<root@any.example>", "<mixed@dest.example>",
     "<very!weird@any.example>", "<postmaster@dest.example>"],
)  # fmt: skip
def test_listed_recipients_are_refused_and_lower_the_karma(kit, path):
    reply, karma = answer(kit("badrcptto", config=LIST), path)
    assert (reply[:3], karma) == (b"550", -2)


@pytest.mark.parametrize(
    "path", ["<x@sub.closed.example>", "<xroot@any.example>", "<postmaster>", "<good@dest.example>"]
)
def test_others_pass_and_so_does_the_postmaster(kit, path):
    reply, karma = answer(kit("badrcptto", config=LIST), path)
    assert (reply[:3], karma) == (b"250", None)


def test_the_client_is_told_the_reason(kit):
    assert answer(kit("badrcptto", config=LIST), "<reason@dest.example>")[0] == b"550 5.7.1 Custom Reason Text\r\n"


def test_without_a_reason_the_status_is_that_of_an_unknown_address(kit):
    text = b"mail to this address is not accepted here\r\n"
    for args, reply in (("", b"550 5.1.1 "), ("reject_type temp", b"450 4.1.1 ")):
        assert answer(kit(f"badrcptto {args}", config=LIST), "<bad@dest.example>")[0] == reply + text


def test_rejecting_may_be_soft_or_off(kit):
    assert answer(kit("badrcptto reject_type soft", config=LIST), "<bad@dest.example>")[0].startswith(b"450")
    assert answer(kit("badrcptto reject 0", config=LIST), "<bad@dest.example>")[0].startswith(b"250")


def test_relay_clients_pass(kit):
    assert answer(kit(RelayClient, "badrcptto", config=LIST), "<bad@dest.example>")[0].startswith(b"250")


def test_an_address_too_long_for_expressions_is_refused_where_there_is_one(kit):
    at_most, longer = (f"<{'a' * (310 + more)}@x.example>" for more in (0, 1))
    plain, expressions = ({"badrcptto": lines} for lines in (("b@y.example",), ("b@y.example", "(a+)+$")))
    assert answer(kit("badrcptto", config=plain), longer)[0].startswith(b"250")
    assert answer(kit("badrcptto", config={"badrcptto": ("^b@",)}), at_most)[0].startswith(b"250")
    stage = kit("badrcptto", config=expressions)
    assert answer(stage, longer)[0] == b"550 5.7.1 this address is too long\r\n"
    assert stage.logged("fail, more than 320 characters")
