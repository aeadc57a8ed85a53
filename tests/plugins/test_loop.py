"""When `loop` takes a message for one that goes round in circles."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qpsmtpd import OK, Plugin
from qpsmtpd.config import ConfigError
from qpsmtpd.testing import Kit


def answer(stage, *fields):
    *_, reply = stage.connect().deliver(b"".join(b"%s: x\r\n" % field for field in fields) + b"\r\nHello\r\n")
    return reply.code


@pytest.mark.parametrize(
    ("fields", "code"),
    [((), 250), ((b"Received",), 250), ((b"Received", b"Delivered-To"), 554), ((b"RECEIVED", b"received"), 554),
     ((b"Delivered-To",) * 7, 554), ((b"X-Received", b"Received", b"Subject"), 250)],
)  # fmt: skip
def test_hops_are_counted_the_one_to_this_server_among_them(kit, fields, code):
    assert answer(kit("loop 3"), *fields) == code


def test_a_hundred_are_too_many_by_default(kit):
    stage = kit("check_loop")
    assert answer(stage, *[b"Received"] * 98) == 250
    assert answer(stage, *[b"Received"] * 99) == 554
    assert stage.logged("loop: fail, 100 hops")


def test_the_status_says_routing_loop(kit):
    *_, reply = kit("loop 1").connect().deliver()
    assert (reply.code, reply.enhanced) == (554, "5.4.6")


@pytest.mark.parametrize("args", ["x", "0", "-1", "1.5", "3 4"])
def test_bad_arguments_are_seen_at_load(kit, args):
    with pytest.raises(ConfigError, match="plugins:1: loop: "):
        kit(f"loop {args}")


def test_any_header_gets_a_reply():
    class Accepts(Plugin):
        def hook_rcpt(self, transaction, recipient, parameters):
            return OK

    stage = Kit("loop 3", Accepts)

    @given(st.binary(max_size=80))
    def answered(header):
        content = header.replace(b"\r", b"\n").replace(b"\n", b"\r\n") + b"\r\n\r\n"
        *_, reply = stage.connect().deliver(content)
        assert reply.code in (451, 554)

    answered()
    assert not stage.logged("Traceback")
