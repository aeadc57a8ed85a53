"""The table of verdicts is total and sound, and every row is what a live server does."""

import pytest
from tests.protocol.conftest import ANSWERS, ASKED, DATA, EHLO, MAIL, MESSAGE, QUIT, RCPT, Driver, respond

from qpsmtpd.protocol import (
    DECLINED,
    DENY,
    DENY_DISCONNECT,
    DENYSOFT,
    DENYSOFT_DISCONNECT,
    DONE,
    FAILED,
    OK,
    VERDICTS,
    hooks,
)
from qpsmtpd.protocol.hooks import HOOKS

ROWS = [(name, answer) for name in HOOKS for answer in ANSWERS]
LIVE_ROWS = [(name, answer) for name in HOOKS if name in ASKED for answer in ANSWERS]
REPLIES = [(name, answer) for name, answer in ROWS if VERDICTS[name][answer].reply is not None]
NO_REPLY_IS_DUE = set(HOOKS) - {name for name, answer in REPLIES if answer is FAILED}

TO_CONTENT = (EHLO, MAIL, RCPT, DATA)
TRIGGER = {
    "connect": (),
    "helo_parse": (b"HELO client.example\r\n",),
    "helo": (b"HELO client.example\r\n",),
    "ehlo_parse": (EHLO,),
    "ehlo": (EHLO,),
    "mail_parse": (EHLO, MAIL),
    "mail_pre": (EHLO, MAIL),
    "mail": (EHLO, MAIL),
    "rcpt_parse": (EHLO, MAIL, RCPT),
    "rcpt_pre": (EHLO, MAIL, RCPT),
    "rcpt": (EHLO, MAIL, RCPT),
    "data": TO_CONTENT,
    "data_headers_end": (*TO_CONTENT, MESSAGE),
    "data_post_headers": (*TO_CONTENT, MESSAGE),
    "received_line": (*TO_CONTENT, MESSAGE),
    "data_post": (*TO_CONTENT, MESSAGE),
    "queue_pre": (*TO_CONTENT, MESSAGE),
    "queue": (*TO_CONTENT, MESSAGE),
    "queue_post": (*TO_CONTENT, MESSAGE),
    "reset_transaction": (EHLO, b"RSET\r\n"),
    "noop": (EHLO, b"NOOP\r\n"),
    "vrfy": (EHLO, b"VRFY user\r\n"),
    "help": (EHLO, b"HELP\r\n"),
    "unrecognized_command": (EHLO, b"XYZZY\r\n"),
    "quit": (EHLO, QUIT),
    "disconnect": (EHLO, QUIT),
}
"""What a client sends until a hook is asked."""

SUBJECT = {
    "connect": "localhost ESMTP qpsmtpd",
    "helo": "localhost",
    "ehlo": "localhost\nPIPELINING\n8BITMIME\nSIZE\nSMTPUTF8\nENHANCEDSTATUSCODES",
    "mail": "<sender@example.org>",
    "rcpt": "<rcpt@example.net>",
}


def test_there_is_a_row_for_every_hook_and_answer():
    assert {(name, answer) for name, rows in VERDICTS.items() for answer in rows} == set(ROWS)


def test_every_hook_the_server_asks_has_a_trigger():
    assert TRIGGER.keys() == ASKED


@pytest.mark.parametrize(("name", "answer"), REPLIES)
def test_the_class_of_a_reply_fits_its_status_code(name, answer):
    reply = VERDICTS[name][answer].reply
    assert reply.enhanced is None or reply.enhanced[0] == str(reply.code)[0]


@pytest.mark.parametrize(("name", "answer"), REPLIES)
def test_a_temporary_refusal_that_closes_is_421(name, answer):
    verdict = VERDICTS[name][answer]
    temporary = 400 <= verdict.reply.code <= 499
    assert (verdict.reply.code == 421) == (temporary and verdict.close)


@pytest.mark.parametrize(("name", "answer"), REPLIES)
def test_greetings_have_no_status_code(name, answer):
    if name in {"connect", "pre-connection", "helo_parse", "helo", "ehlo_parse", "ehlo"}:
        assert VERDICTS[name][answer].reply.enhanced is None


@pytest.mark.parametrize("name", ["connect", "pre-connection"])
def test_a_connection_is_refused_with_554_or_421(name):
    codes = {
        answer: VERDICTS[name][answer].reply.code for answer in (DENY, DENYSOFT, DENY_DISCONNECT, DENYSOFT_DISCONNECT)
    }
    assert codes == {DENY: 554, DENY_DISCONNECT: 554, DENYSOFT: 421, DENYSOFT_DISCONNECT: 421}


@pytest.mark.parametrize("name", sorted(set(HOOKS) - NO_REPLY_IS_DUE))
def test_a_hook_that_fails_lets_nothing_through(name):
    verdict = VERDICTS[name][FAILED]
    expected = {"connect": 421, "pre-connection": 421, "quit": 221}.get(
        name, 454 if issubclass(HOOKS[name], hooks.Auth) else 451
    )
    assert verdict.reply.code == expected
    assert verdict.proceed == (name in {"quit", "queue"})  # behind queue there is only queue_post


def test_hooks_whose_reply_is_not_due_are_these():
    assert {"queue_post", "reset_transaction", "disconnect"} == NO_REPLY_IS_DUE & ASKED


def took_effect(driver, name):
    """Whether the command at whose hook the driver stands took its effect."""
    names = driver.names
    match name:
        case "connect":
            return driver.code(EHLO) == 250
        case "helo_parse" | "helo" | "ehlo_parse" | "ehlo":
            return driver.code(MAIL) == 250
        case "mail_parse" | "mail_pre" | "mail":
            return driver.code(RCPT) == 250
        case "rcpt_parse" | "rcpt_pre" | "rcpt":
            return driver.code(DATA) == 354
        case "data":
            return driver.server.in_content
        case "data_headers_end" | "data_post_headers" | "received_line" | "data_post" | "queue_pre":
            return "queue" in names
        case "queue":
            return "queue_post" in names
    return None


@pytest.mark.parametrize(("name", "answer"), LIVE_ROWS)
def test_a_live_server_does_what_the_row_says(name, answer):
    verdict = VERDICTS[name][answer]
    # OK with a text replaces the path, or the whole argument, here, which has a test of its own.
    pre = name.endswith(("_pre", "_parse"))
    path = {
        "mail_parse": "<sender@example.org>",
        "mail_pre": "<sender@example.org>",
        "rcpt_parse": "<rcpt@example.net>",
        "rcpt_pre": "<rcpt@example.net>",
    }.get(name, "plugin text")
    driver = Driver(asked=ASKED, answers={name: (answer, path)})
    replies = driver.replies
    for chunk in TRIGGER[name]:
        assert name == "reset_transaction" or name not in driver.names
        replies = driver.send(chunk)
    behind = driver.names[driver.names.index(name) + 1 :]

    if verdict.reply is not None:
        (reply,) = replies
        text = verdict.reply.text.replace("%s", SUBJECT.get(name, "%s"))
        assert (reply.code, reply.enhanced) == (verdict.reply.code, verdict.reply.enhanced)
        assert reply.text == (path if verdict.plugin_text else text)
    elif answer is DONE and not (pre or verdict.proceed):
        assert replies == []  # the plugin did not respond either
    if name not in {"reset_transaction", "disconnect"}:
        assert driver.closed == verdict.close
    if verdict.close:
        assert behind == ["disconnect", "reset_transaction"]
    elif verdict.reset and name != "data_headers_end":
        assert behind == ["reset_transaction"] + ["queue_post"] * verdict.proceed
    elif verdict.reset:
        assert behind == ["reset_transaction"]
    elif not verdict.proceed:
        assert behind == []
    if not verdict.close:
        assert took_effect(driver, name) in (verdict.proceed, None)


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("name", sorted(ASKED))
def test_a_plugins_own_reply_is_sent_where_the_table_says_so(name, answer):
    driver = Driver(*TRIGGER[name], answers=respond(name, answer, 299, "from", "the plugin"))
    driver.eof()
    own = [reply for reply in driver.replies if reply.code == 299]
    assert bool(own) == VERDICTS[name][answer].own_reply
    assert {reply.text for reply in own} <= {"from\nthe plugin"}


@pytest.mark.parametrize("answer", [DECLINED, OK, FAILED])
@pytest.mark.parametrize("name", ["noop", "reset_transaction"])
def test_a_plugins_own_reply_never_answers_another_command(name, answer):
    driver = Driver(EHLO, asked={name}, answers=respond(name, answer, 299, "late"))
    driver.send(b"NOOP\r\n", b"RSET\r\n", b"NOOP\r\n")
    driver.eof()
    assert 299 not in {reply.code for reply in driver.replies}
