"""Which messages `virus/klez_filter` takes for the Klez worm."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qpsmtpd import OK, Plugin
from qpsmtpd.testing import Kit

WORM = b"TVqQAAMAAAAEAAAA//8AALgAAAAAAAAAQA"
KIND = b"Content-Type: audio/x-wav;\r\n"
PADDING = b"x" * 60_000 + b"\r\n"


def answer(kit, body, padding=PADDING):
    stage = kit("virus/klez_filter")
    return stage, stage.connect().deliver(b"Subject: x\r\n\r\n" + body + padding)[-1]


@pytest.mark.parametrize(
    "body",
    [KIND + WORM + b"AAA\r\n", b"content-type: APPLICATION/octet-stream\r\n\r\n" + WORM + b"\r\n",
     KIND + b"y\r\n" * 38 + WORM + b"\r\n", b"\r\n" + KIND + b"Content-Type: text/plain\r\n" + WORM + b"\r\n"],
)  # fmt: skip
def test_the_worm_is_refused(kit, body):
    stage, reply = answer(kit, body)
    assert reply.code == 554
    assert stage.logged("virus::klez_filter: fail, Klez")


@pytest.mark.parametrize(
    "body",
    [WORM + b"\r\n" + KIND, WORM + b"\r\n", KIND, KIND + b" " + WORM + b"\r\n", KIND + WORM.lower() + b"\r\n",
     KIND + b"y\r\n" * 39 + WORM + b"\r\n", b"Content-Type: image/gif\r\n" + WORM + b"\r\n",
     b"X-Content-Type: audio/x\r\n" + WORM + b"\r\n", KIND + WORM[:-1] + b"x\r\n"],
)  # fmt: skip
def test_other_messages_pass(kit, body):
    assert answer(kit, body)[1].code == 250


def test_a_small_message_is_not_looked_at(kit):
    assert answer(kit, KIND + WORM + b"\r\n", b"x" * 998 + b"\r\n")[1].code == 250


def test_a_spooled_message_is_looked_at_too(kit):
    stage = kit("virus/klez_filter", config={"size_threshold": ("1000",)})
    assert stage.connect().deliver(b"Subject: x\r\n\r\n" + KIND + WORM + b"\r\n" + PADDING)[-1].code == 554


class Accepts(Plugin):
    def hook_rcpt(self, transaction, recipient, parameters):
        return OK

    def hook_queue(self, transaction):
        return OK


@given(st.binary(max_size=200), st.sampled_from([b"", KIND, WORM, b"Content-Type:" + b"audio" * 9000]))
def test_any_content_is_decided_on(content, more):
    body = content.replace(b"\r", b"").replace(b"\n", b"\r\n") + b"\r\n" + more + b"\r\n"
    stage = Kit("virus/klez_filter", Accepts)
    assert stage.connect().deliver(b"Subject: x\r\n\r\n" + body + PADDING)[-1].code in (250, 554)
    assert not stage.logged("failed")
