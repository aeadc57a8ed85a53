"""LMTP (RFC 2033): LHLO, and behind the content a reply for each recipient."""

import pytest
from tests.protocol.conftest import BODY, DATA, MAIL, MESSAGE, Driver

from qpsmtpd.protocol import DECLINED, DENY, DENY_DISCONNECT, DENYSOFT, FAILED, OK, Limits

LHLO = b"LHLO client.example\r\n"


def rcpt(*names):
    return b"".join(f"RCPT TO:<{name}@example.net>\r\n".encode() for name in names)


def begun(*names, **settings):
    return Driver(LHLO, MAIL, rcpt(*names), lmtp=True, **settings)


def each(answers):
    """Queue answers by the number of the recipient."""

    def answer(server, hook):
        if hook.name == "queue":
            code = answers[hook.recipient]
            server.fail() if code is FAILED else server.answer(code, f"for {hook.recipient}")
        else:
            server.answer(OK if hook.name == "rcpt" else DECLINED)

    return answer


@pytest.mark.parametrize("hello", [b"HELO x\r\n", b"EHLO x\r\n"])
def test_smtp_greetings_are_unknown(hello):
    assert Driver(lmtp=True).code(hello) == 500


def test_lhlo_is_unknown_to_smtp():
    assert Driver().code(LHLO) == 500


def test_the_greeting_says_what_is_spoken():
    assert Driver(lmtp=True).replies[0].text == "localhost LMTP qpsmtpd"
    assert Driver().replies[0].text == "localhost ESMTP qpsmtpd"


def test_lhlo_is_answered_as_ehlo():
    driver = Driver(LHLO, lmtp=True)
    assert driver.replies[-1].code == 250
    assert "PIPELINING" in driver.replies[-1].text
    assert driver.asked("ehlo")[0].host == "client.example"


def test_each_recipient_has_a_reply_from_its_own_answer():
    driver = begun("a", "b", "c", "d", answers=each([OK, DENY, DENYSOFT, FAILED]))
    driver.send(DATA)
    replies = driver.send(MESSAGE)
    assert [reply.code for reply in replies] == [250, 552, 452, 451]
    assert [reply.text for reply in replies[:3]] == ["for 0", "for 1", "for 2"]
    assert driver.names[-1] == "queue_post"
    assert driver.names.count("queue_post") == 1
    assert driver.code(MAIL) == 250


def test_refused_recipients_have_no_reply_behind_the_content():
    def answer(server, hook):
        good = hook.name in ("queue", "rcpt") and "b@" not in str(hook.recipient)
        server.answer(OK if good else DENY if hook.name == "rcpt" else DECLINED)

    driver = begun("a", "b", answers=answer)
    assert [reply.code for reply in driver.replies[-2:]] == [250, 550]
    driver.send(DATA)
    assert len(driver.send(MESSAGE)) == 1


def test_data_without_a_recipient_is_refused():
    driver = begun(answers={"rcpt": DENY})
    assert driver.code(DATA) == 503


@pytest.mark.parametrize("hook", ["data_post", "queue_pre", "data_headers_end"])
@pytest.mark.parametrize(("answer", "code"), [(DENY, 554), (DENYSOFT, 451), (FAILED, 451)])
def test_a_refusal_of_the_message_is_said_once_for_each(hook, answer, code):
    driver = begun("a", "b", "c", answers={hook: answer})
    driver.send(DATA)
    assert [reply.code for reply in driver.send(MESSAGE)] == [code] * 3
    assert driver.code(MAIL) == 250


def test_a_closing_refusal_is_said_to_each_before_closing():
    driver = begun("a", "b", answers={"data_post": DENY_DISCONNECT})
    driver.send(DATA)
    assert [reply.code for reply in driver.send(MESSAGE)] == [554, 554]
    assert driver.closed


def test_one_recipient_that_closes_waits_for_the_others():
    driver = begun("a", "b", answers=each([DENY_DISCONNECT, OK]))
    driver.send(DATA)
    assert [reply.code for reply in driver.send(MESSAGE)] == [552, 250]
    assert driver.closed


@pytest.mark.parametrize(
    ("content", "code"), [(b"a\rb\r\n.\r\n", 554), (b"x" * 99 + b"\r\n.\r\n", 552)], ids=["bare", "large"]
)
def test_content_that_is_refused_is_refused_to_each(content, code):
    driver = begun("a", "b", limits=Limits(message_size=50))
    driver.send(DATA)
    assert [reply.code for reply in driver.send(content)] == [code] * 2


def test_chunks_have_one_reply_each_and_the_last_one_for_each_recipient():
    driver = begun("a", "b")
    assert [reply.code for reply in driver.send(b"BDAT 3\r\na\r\n")] == [250]
    assert [reply.code for reply in driver.send(b"BDAT 0 LAST\r\n")] == [250, 250]


def test_the_trace_field_says_lmtp():
    driver = begun("a")
    driver.send(DATA, MESSAGE)
    assert driver.asked("received_line")[0].protocol == "LMTP"


def test_without_the_queue_hook_nothing_is_accepted():
    driver = begun("a", "b", asked={"rcpt"})
    driver.send(DATA)
    assert [reply.code for reply in driver.send(BODY + b".\r\n")] == [451, 451]


@pytest.mark.parametrize(("answer", "code"), [(DENY, 554), (DENYSOFT, 451), (FAILED, 451)])
def test_a_refused_last_chunk_has_a_reply_for_each_recipient(answer, code):
    driver = begun("a", "b", "c", answers={"data": answer})
    assert [reply.code for reply in driver.send(b"BDAT 3 LAST\r\na\r\n")] == [code] * 3
    assert driver.code(MAIL) == 250
