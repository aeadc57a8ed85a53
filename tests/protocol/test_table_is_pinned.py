"""Every row of the table of verdicts is broken in turn, and the tests of the table must see it.

Each row is changed in every way that a slip could change it. What is written down in `verdicts.txt` must then
differ, and a server that runs with the changed table must fail the check that `test_verdicts` makes of the row.
Changes that nobody outside could see are listed in `UNSEEN`, with the reason: then the server must behave as
before to the last octet, so that the list cannot hide a row that is not read, and holds nothing too much.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
from tests.protocol.conftest import ANSWERS, AUTH_HOOKS, DATA, MAIL, MESSAGE, QUIT, RCPT
from tests.protocol.test_verdicts import (
    IN_TWO_STEPS,
    LIVE_ROWS,
    SESSION_ROWS,
    check_live,
    check_row,
    check_session,
    played,
    session,
    ways,
)

from qpsmtpd.protocol import FAILED, VERDICTS, Reply
from qpsmtpd.protocol.hooks import HOOKS


def changes(verdict):
    """Every way to break a row, by name."""
    reply = verdict.reply
    if reply is None:
        yield "a reply", replace(verdict, reply=Reply(298, "2.9.8", "Made up"))
    else:
        yield "no reply", replace(verdict, reply=None)
        code = reply.code + (1 if reply.code % 10 < 9 else -1)
        yield "code", replace(verdict, reply=replace(reply, code=code))
        yield "status", replace(verdict, reply=replace(reply, enhanced=f"{reply.code // 100}.9.9"))
        yield "text", replace(verdict, reply=replace(reply, text=f"{reply.text} or so"))
        if reply.enhanced is not None:
            yield "no status", replace(verdict, reply=replace(reply, enhanced=None))
    for flag in ("proceed", "plugin_text", "reset", "close", "own_reply"):
        yield flag, replace(verdict, **{flag: not getattr(verdict, flag)})


def broken(name, answer):
    """The table with one row broken, in each way."""
    for change, verdict in changes(VERDICTS[name][answer]):
        yield change, {**VERDICTS, name: {**VERDICTS[name], answer: verdict}}


@dataclass(frozen=True)
class Unseen:
    """Changes of rows that change nothing outside."""

    change: str
    where: Callable[..., bool]
    """Of the hook, the answer and the row."""
    why: str

    def __str__(self):
        return f"{self.change}: {self.why}"


_PARSES_OR_MENDS = ("_parse", "_pre")
_NOTHING_BEHIND = {
    *("connect", "noop", "vrfy", "help", "unrecognized_command", "quit"),
    *("queue_post", "reset_transaction", "disconnect"),
}

UNSEEN = (
    Unseen("plugin_text", lambda name, answer, row: row.reply is None, "there is no text that could be replaced"),
    Unseen("plugin_text", lambda name, answer, row: answer is FAILED and row.reply, "a failure brings no text"),
    Unseen("proceed", lambda name, answer, row: name in _NOTHING_BEHIND, "nothing comes behind that could be left out"),
    Unseen("proceed", lambda name, answer, row: name in {"helo", "ehlo"} and row.close, "nobody is left to be greeted"),
    Unseen(
        "proceed",
        lambda name, answer, row: name == "data_headers_end",
        "the content is read to its end in any case; whether there is a reply decides what comes then",
    ),
    Unseen("reset", lambda name, answer, row: row.close, "closing forgets the transaction anyway"),
    Unseen(
        "reset",
        lambda name, answer, row: name == "data_headers_end" and not row.close,
        "a message is forgotten if there is a reply, since that refuses it, and goes on if there is none",
    ),
    Unseen(
        "own_reply",
        lambda name, answer, row: name == "data_headers_end" and row.reply and not row.close,
        "the reply is given when the content has ended, long after the plugin has prepared its own",
    ),
    # The server does not read these, and no row has them set; one that had would fail the live check.
    Unseen(
        "reset", lambda name, answer, row: name.endswith(_PARSES_OR_MENDS) and name != "queue_pre", "not carried out"
    ),
    Unseen(
        "close", lambda name, answer, row: name.endswith(_PARSES_OR_MENDS) and name != "queue_pre", "not carried out"
    ),
    Unseen("reset", lambda name, answer, row: name in AUTH_HOOKS - {"auth_parse"}, "not carried out"),
    Unseen("close", lambda name, answer, row: name in AUTH_HOOKS - {"auth_parse"}, "not carried out"),
    Unseen("reset", lambda name, answer, row: name in {"mail", "rcpt"} and row.proceed, "not carried out"),
    Unseen("close", lambda name, answer, row: name in {"mail", "rcpt"} and row.proceed, "not carried out"),
)
"""Changes that a client or an embedder of `Server` cannot see."""

UNSEEN_IN_SESSIONS = (
    Unseen("a reply", lambda name, answer, row: name != "pre-connection" and answer is not FAILED, "it is ignored"),
    Unseen("plugin_text", lambda name, answer, row: row.reply is None, "there is no text that could be replaced"),
    Unseen("plugin_text", lambda name, answer, row: answer is FAILED and row.reply, "a failure brings no text"),
    Unseen("status", lambda name, answer, row: True, "no status code is shown before EHLO has offered them"),
    Unseen("proceed", lambda name, answer, row: True, "whether there is a reply decides if the session begins"),
    Unseen(
        "reset", lambda name, answer, row: True, "there is no transaction yet, or no longer; or the answer is ignored"
    ),
    Unseen("close", lambda name, answer, row: True, "as `proceed`: who is refused is sent away"),
    Unseen("own_reply", lambda name, answer, row: True, "a plugin cannot reply to what is no command"),
)
"""Changes of the rows of the session's own hooks that cannot be seen either; only their replies are read."""

NOT_ASKED = {"post-fork", "config", "user_config", "logging"}
"""Hooks of the site and the daemon, whose answers are not looked up in the table."""


def reasons(change, name, answer, unseen=UNSEEN):
    """Why a change of a row cannot be seen; none if it can."""
    row = VERDICTS[name][answer]
    return [reason for reason in unseen if reason.change == change and reason.where(name, answer, row)]


def observed(name, answer):
    """All that a client and an embedder can see of a session in which a hook is answered so, to its end."""
    sessions = []
    for texts, own in ways(name, answer):
        try:
            driver, _ = played(name, answer, texts, own)
            closed = driver.closed
            driver.send(b"NOOP\r\n", RCPT, DATA, MESSAGE, MAIL, RCPT, DATA, MESSAGE, b"EHLO again.example\r\n", QUIT)
            driver.eof()
        except RecursionError:
            sessions.append("there is no end to it")
        else:
            sessions.append((driver.output, driver.events, closed, driver.closed))
    return sessions


@pytest.mark.parametrize(("name", "answer"), [(name, answer) for name in HOOKS for answer in ANSWERS])
def test_no_row_can_be_changed_without_its_line_in_the_text(name, answer):
    check_row(VERDICTS, name, answer)
    for _, table in broken(name, answer):
        with pytest.raises(AssertionError):
            check_row(table, name, answer)


@pytest.mark.parametrize(("name", "answer"), LIVE_ROWS)
def test_no_row_can_be_changed_without_the_server_showing_it(monkeypatch, name, answer):
    true = observed(name, answer)
    for change, table in broken(name, answer):
        for module in ("authentication", "conversation", "server"):
            monkeypatch.setattr(f"qpsmtpd.protocol.{module}.VERDICTS", table)
        holds(change, lambda: check_live(name, answer), unseen=reasons(change, name, answer))
        assert (observed(name, answer) == true) == bool(reasons(change, name, answer)), change


@pytest.mark.parametrize(("name", "answer"), SESSION_ROWS)
def test_no_row_of_the_session_can_be_changed_without_the_session_showing_it(monkeypatch, name, answer):
    def told():
        return [session(name, answer, texts) for texts in ((), ("plugin", "text"))]

    true = told()
    for change, table in broken(name, answer):
        for module in ("chain", "session"):
            monkeypatch.setattr(f"qpsmtpd.session.{module}.VERDICTS", table)
        unseen = reasons(change, name, answer, UNSEEN_IN_SESSIONS)
        holds(change, lambda: check_session(name, answer), unseen=unseen)
        assert (told() == true) == bool(unseen), change


def holds(change, check, *, unseen):
    """The check fails, unless there is a reason why the change cannot be seen."""
    try:
        check()
    except (AssertionError, RecursionError):
        caught = True
    else:
        caught = False
    assert caught != bool(unseen), f"{change}: {[*map(str, unseen)] or 'goes unnoticed'}"


@pytest.mark.parametrize(("unseen", "rows"), [(UNSEEN, LIVE_ROWS), (UNSEEN_IN_SESSIONS, SESSION_ROWS)])
def test_each_reason_is_needed(unseen, rows):
    needed = {id(reason) for row in rows for change, _ in broken(*row) for reason in reasons(change, *row, unseen)}
    assert [str(reason) for reason in unseen if id(reason) not in needed] == []


def test_every_row_is_asked_by_server_or_session_or_known_not_to_be():
    asked = {name for name, _ in (*LIVE_ROWS, *SESSION_ROWS)}
    assert set(HOOKS) - asked == NOT_ASKED | IN_TWO_STEPS
