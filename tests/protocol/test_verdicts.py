"""The table of verdicts is total and sound, says what is written down in `verdicts.txt`, and is what a server does.

The checks of single rows are functions, since `test_table_is_pinned` runs them with tables that are wrong.
"""

from dataclasses import replace
from pathlib import Path

import pytest
from tests.protocol.conftest import (
    ANSWERS,
    ASKED,
    AUTH_HOOKS,
    DATA,
    EHLO,
    MAIL,
    MESSAGE,
    QUIT,
    RCPT,
    Driver,
    respond,
    split_replies,
)

from qpsmtpd import Plugin
from qpsmtpd.protocol import (
    DECLINED,
    DENY,
    DENY_DISCONNECT,
    DENYSOFT,
    DENYSOFT_DISCONNECT,
    FAILED,
    OK,
    VERDICTS,
    Reply,
    hooks,
)
from qpsmtpd.protocol.hooks import HOOKS
from qpsmtpd.protocol.verdicts import Verdict
from qpsmtpd.testing import Kit

ROWS = [(name, answer) for name in HOOKS for answer in ANSWERS]
IN_TWO_STEPS = {"auth-scram-sha-256", "auth-xoauth2", "auth-oauthbearer"}
"""The exchange goes on behind these hooks, and the reply comes at its end; see `test_auth`."""
AUTH = AUTH_HOOKS - IN_TWO_STEPS
LIVE_ROWS = [(name, answer) for name in HOOKS if name in ASKED | AUTH for answer in ANSWERS]
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
    "auth_parse": (EHLO, b"AUTH PLAIN AHVzZXIAcGFzcw==\r\n"),
    "auth": (EHLO, b"AUTH PLAIN AHVzZXIAcGFzcw==\r\n"),
    "auth-plain": (EHLO, b"AUTH PLAIN AHVzZXIAcGFzcw==\r\n"),
    "auth-login": (EHLO, b"AUTH LOGIN dXNlcg==\r\n", b"cGFzcw==\r\n"),
    "auth-cram-md5": (EHLO, b"AUTH CRAM-MD5\r\n", b"dXNlciBkaWdlc3Q=\r\n"),
}
"""What a client sends until a hook is asked."""

SUBJECT = {
    "connect": "localhost ESMTP qpsmtpd",
    "helo": "localhost",
    "ehlo": "localhost\nPIPELINING\n8BITMIME\nSIZE\nSMTPUTF8\nENHANCEDSTATUSCODES\nCHUNKING\nDSN\nLIMITS RCPTMAX=1000",
    "help": "HELO EHLO MAIL RCPT DATA BDAT RSET NOOP QUIT VRFY HELP",
    "mail": "<sender@example.org>",
    "rcpt": "<rcpt@example.net>",
}


def test_there_is_a_row_for_every_hook_and_answer():
    assert {(name, answer) for name, rows in VERDICTS.items() for answer in rows} == set(ROWS)


def test_every_hook_the_server_asks_has_a_trigger():
    assert TRIGGER.keys() == ASKED | AUTH


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
        name, 454 if issubclass(HOOKS[name], hooks.Auth) or name in IN_TWO_STEPS else 451
    )
    assert verdict.reply.code == expected
    assert verdict.proceed == (name in {"quit", "queue"})  # behind queue there is only queue_post


def test_hooks_whose_reply_is_not_due_are_these():
    assert {"queue_post", "reset_transaction", "disconnect"} == NO_REPLY_IS_DUE & ASKED


def took_effect(driver, name):  # noqa: PLR0911 - one a command
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
        case "auth_parse":
            return "auth" in names
        case "auth" | "auth-plain" | "auth-login" | "auth-cram-md5":
            return driver.code(b"AUTH PLAIN =\r\n") == 503
    return None


WRITTEN_DOWN = Path(__file__).with_name("verdicts.txt")
FLAGS = {"go": "proceed", "text": "plugin_text", "reset": "reset", "close": "close", "own": "own_reply"}


def read_rows(text):
    """The rows of a table that is written down, by hook and answer."""
    by_name = {answer.name: answer for answer in ANSWERS}
    rows = {}
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        hook, answer, code, status, flags, *words = line.split(maxsplit=5)
        reply = None if code == "-" else Reply(int(code), None if status == "-" else status, *words)
        on = {FLAGS[flag]: True for flag in flags.split(",") if flag != "-"}
        assert (hook, by_name[answer]) not in rows, line
        rows[hook, by_name[answer]] = Verdict(reply, **{"proceed": False, **on})
    return rows


GOLDEN = read_rows(WRITTEN_DOWN.read_text(encoding="utf-8"))


def check_row(table, name, answer):
    """The table says what is written down."""
    assert table[name][answer] == GOLDEN[name, answer]


OWN = (299, "from", "the plugin")
WHOLE = ["data_post_headers", "received_line", "data_post", "queue_pre", "queue", "reset_transaction", "queue_post"]
BEHIND = {
    "helo_parse": ["helo"],
    "ehlo_parse": ["ehlo"],
    "mail_parse": ["mail_pre", "mail"],
    "mail_pre": ["mail"],
    "rcpt_parse": ["rcpt_pre", "rcpt"],
    "rcpt_pre": ["rcpt"],
    "data_headers_end": WHOLE,
    "data_post_headers": WHOLE[1:],
    "received_line": WHOLE[2:],
    "data_post": WHOLE[3:],
    "queue_pre": WHOLE[4:],
    "queue": ["queue_post"],
    "disconnect": ["reset_transaction"],
    "auth_parse": ["auth"],
}
"""What is asked behind a hook, within the same command, if that goes on."""
SAID_BEFORE = {"queue_post": 250, "reset_transaction": 250, "disconnect": 221}
SAID_BEHIND = dict.fromkeys(BEHIND.keys() - {"queue", "disconnect"}, 250) | {"auth_parse": 535}
PATH = {"mail": "<sender@example.org>", "rcpt": "<rcpt@example.net>"}


def played(name, answer, texts, own):
    """A session up to the command at which a hook is asked, which is answered so; and the replies to that command."""

    def answers(server, hook):
        if hook.name != name:
            server.answer(OK if hook.name in {"rcpt", "queue"} else DECLINED)
            return
        if own:
            server.respond(*own)
        server.fail() if answer is FAILED else server.answer(answer, *texts)

    asked = {name, "auth"} if name in {"auth", "auth_parse"} else {name}
    driver = Driver(asked=ASKED | asked, answers=answers, auth_in_clear=True, nonce=lambda: "nonce")
    replies = driver.replies
    for chunk in TRIGGER[name]:
        assert name == "reset_transaction" or name not in driver.names
        replies = driver.send(chunk)
    return driver, replies


def ways(name, answer):
    """Texts to answer with, and replies that the plugin has prepared itself."""
    if answer is FAILED:
        texts = [()]
    elif (name, answer) == ("auth_parse", OK):
        texts = [("PLAIN", "AHVzZXIAcGFzcw==")]
    elif answer is OK and name.endswith(("_pre", "_parse")):
        texts = [(PATH.get(name.partition("_")[0], "client.example"),)]  # without one there is nothing to go on with
    else:
        texts = [(), ("plugin", "text")]
    return [(some, own) for some in texts for own in (None, OWN)]


def check_live(name, answer):
    """A server does what the row says that is written down, whatever its own table says."""
    row = GOLDEN[name, answer]
    for texts, own in ways(name, answer):
        driver, replies = played(name, answer, texts, own)
        said = row.reply
        if own and row.own_reply:
            said = Reply(own[0], None, "\n".join(own[1:]))
        elif said is not None and texts and row.plugin_text:
            said = replace(said, text="\n".join(texts))
        elif said is not None:
            said = replace(said, text=said.text.replace("%s", SUBJECT.get(name, "%s")))
        before = [SAID_BEFORE[name]] if name in SAID_BEFORE else []
        behind = [SAID_BEHIND[name]] if name in SAID_BEHIND and row.proceed else []
        assert [reply.code for reply in replies] == [*before, *([said.code] if said else []), *behind]
        assert said is None or replies[len(before)] == said

        asked = driver.names[driver.names.index(name) + 1 :]
        if row.close:
            assert asked == ["disconnect", "reset_transaction"]
        else:
            assert asked == ["reset_transaction"] * row.reset + (BEHIND.get(name, []) if row.proceed else [])
        assert driver.closed == (row.close or name == "disconnect")
        if not row.close:
            assert took_effect(driver, name) in (row.proceed, None)


SESSION_ROWS = [(name, answer) for name in ("pre-connection", "deny", "ok", "post-connection") for answer in ANSWERS]


def session(name, answer, texts):
    """What a client is told, and who is asked, where a plugin answers a hook of the session so, and another declines."""

    def answers(plugin, transaction, *arguments):
        if answer is FAILED:
            raise ValueError
        return (answer, *texts)

    class Commands(Plugin):
        def hook_noop(self, transaction):
            return DENY

        def hook_vrfy(self, transaction):
            return OK

    method = f"hook_{name.replace('-', '_')}"
    first = type("First", (Plugin,), {method: answers})
    second = type("Second", (Plugin,), {method: lambda plugin, transaction, *arguments: DECLINED})
    kit = Kit(first, second, Commands)
    client = kit.connect()
    if not client.closed:
        client.send(b"NOOP\r\nVRFY someone\r\nQUIT\r\n")
    return client.replies, [(call.plugin, call.hook) for call in kit.trace]


def check_session(name, answer):
    """A session does what the row says that is written down, whatever its own table says."""
    row = GOLDEN[name, answer]
    for texts in ((), ("plugin", "text")):
        told, asked = session(name, answer, texts)
        second_is_asked = ("Second", name) in asked
        if row.reply is None:
            assert [reply.code for reply in split_replies(told)] == [220, 500, 250, 221]
            assert second_is_asked == (answer in {DECLINED, FAILED})
        else:
            said = "\n".join(texts) if texts and row.plugin_text and answer is not FAILED else row.reply.text
            assert split_replies(told) == [Reply(row.reply.code, None, said)]
            assert not second_is_asked


@pytest.mark.parametrize(("name", "answer"), SESSION_ROWS)
def test_a_session_does_what_the_row_says(name, answer):
    check_session(name, answer)


def test_as_many_rows_are_written_down_as_there_are():
    assert GOLDEN.keys() == set(ROWS)


@pytest.mark.parametrize("name", HOOKS)
def test_the_table_says_what_is_written_down(name):
    for answer in ANSWERS:
        check_row(VERDICTS, name, answer)


@pytest.mark.parametrize(("name", "answer"), LIVE_ROWS)
def test_a_live_server_does_what_the_row_says(name, answer):
    check_live(name, answer)


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
