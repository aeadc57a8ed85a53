"""What each answer means at each hook: the reply, and what becomes of transaction and connection.

One row for every pair of hook and return code, and one for a hook that failed. Nothing else
in the system looks at a return code to decide what happens. Where a row differs from the
original (`docs/differences.md`), it follows RFC 5321: 554 in the greeting position, 421
whenever a temporary refusal closes the connection, 5yz or 4yz as the plugin meant it.
"""

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from qpsmtpd.protocol.hooks import HOOKS
from qpsmtpd.protocol.replies import Reply
from qpsmtpd.protocol.returncodes import (
    DECLINED,
    DENY,
    DENY_DISCONNECT,
    DENYSOFT,
    DENYSOFT_DISCONNECT,
    DONE,
    OK,
    REFUSALS,
    ReturnCode,
)

__all__ = ["FAILED", "VERDICTS", "Answer", "Failure", "Verdict"]


class Failure(enum.Enum):
    """Not an answer: the hook raised, timed out or returned what is no answer."""

    FAILED = "FAILED"

    __hash__ = object.__hash__


FAILED = Failure.FAILED

Answer = ReturnCode | Failure


@dataclass(frozen=True, slots=True)
class Verdict:
    """The meaning of one answer at one hook."""

    reply: Reply | None
    """The reply with its default text; None: no reply is due, or it is the plugin's to give (DONE).

    In the text, `%s` stands for what the command is about: an address, the server's name, the commands.
    """

    proceed: bool
    """Whether the command takes its effect and the session goes on to the next step."""

    plugin_text: bool = False
    """Whether text from the plugin replaces the default text."""

    reset: bool = False
    """Whether the mail transaction is forgotten."""

    close: bool = False
    """Whether the connection is closed."""

    own_reply: bool = False
    """Whether a reply that the plugin has prepared itself is sent, in place of `reply`."""


_Rows = Mapping[Answer, Verdict]


def _go(code: int, enhanced: str | None, text: str, **flags: bool) -> Verdict:
    return Verdict(Reply(code, enhanced, text), proceed=True, **flags)


def _stop(code: int, enhanced: str | None, text: str, **flags: bool) -> Verdict:
    return Verdict(Reply(code, enhanced, text), proceed=False, plugin_text=True, **flags)


_SILENT_GO = Verdict(None, proceed=True)
_REPLIED = Verdict(None, proceed=False, own_reply=True)
_REPLIED_RESET = Verdict(None, proceed=False, own_reply=True, reset=True)
_TROUBLE = Verdict(Reply(451, "4.3.0", "Temporary local problem, please try again later"), proceed=False)
_TROUBLE_RESET = Verdict(_TROUBLE.reply, proceed=False, reset=True)


def _all(verdict: Verdict) -> dict[Answer, Verdict]:
    answers: Iterable[Answer] = (*ReturnCode, FAILED)
    return dict.fromkeys(answers, verdict)


_HELLO: _Rows = {
    DECLINED: _go(250, None, "%s"),
    OK: _go(250, None, "%s"),
    DENY: _stop(550, None, "Sorry, you are not welcome here"),
    DENYSOFT: _stop(450, None, "Sorry, not now, please try again later"),
    DENY_DISCONNECT: _stop(550, None, "Sorry, you are not welcome here", close=True),
    DENYSOFT_DISCONNECT: _stop(421, None, "Sorry, not now, please try again later", close=True),
    DONE: _REPLIED,
    FAILED: Verdict(Reply(451, None, "Temporary local problem, please try again later"), proceed=False),
}

_PRE: _Rows = {**_all(_SILENT_GO), FAILED: _TROUBLE}

_PARSE: _Rows = {  # the answer is that of the parser
    **_all(_stop(501, "5.5.4", "Syntax error in the arguments of the command")),
    DONE: _stop(501, "5.5.4", "Syntax error in the arguments of the command", own_reply=True),
    DECLINED: _SILENT_GO,
    OK: _SILENT_GO,
    FAILED: _TROUBLE,
}

_HELLO_PARSE: _Rows = {
    **_PARSE,
    **dict.fromkeys(REFUSALS, _stop(501, None, "Syntax error in the arguments of the command")),
    DONE: _stop(501, None, "Syntax error in the arguments of the command", own_reply=True),
    FAILED: _HELLO[FAILED],
}

_AUTH: _Rows = {
    **_all(_stop(535, "5.7.8", "Authentication failed")),
    OK: _go(235, "2.7.0", "Authentication successful", plugin_text=True),
    FAILED: Verdict(Reply(454, "4.7.0", "Temporary authentication failure"), proceed=False),  # RFC 4954 section 6
}

# DECLINED leaves it to the hook of all mechanisms; where nobody serves that one, there is no more to say.
_AUTH_FIRST: _Rows = {**_AUTH, DECLINED: Verdict(Reply(535, "5.7.8", "Authentication failed"), proceed=False)}

VERDICTS: Mapping[str, _Rows] = {
    **{name: _all(_SILENT_GO) for name in HOOKS},  # hooks whose answer is ignored
    "connect": {
        DECLINED: _go(220, None, "%s"),
        OK: _go(220, None, "%s"),
        DENY: _stop(554, None, "Connection from you denied, bye bye", close=True),
        DENYSOFT: _stop(421, None, "Connection from you temporarily denied, bye bye", close=True),
        DENY_DISCONNECT: _stop(554, None, "Connection from you denied, bye bye", close=True),
        DENYSOFT_DISCONNECT: _stop(421, None, "Connection from you temporarily denied, bye bye", close=True),
        DONE: Verdict(None, proceed=True, own_reply=True),
        FAILED: Verdict(Reply(421, None, "Temporary local problem, please try again later"), proceed=False, close=True),
    },
    "helo_parse": _HELLO_PARSE,
    "helo": _HELLO,
    "ehlo_parse": _HELLO_PARSE,
    "ehlo": _HELLO,
    "auth_parse": _PARSE,
    "auth-plain": _AUTH_FIRST,
    "auth-login": _AUTH_FIRST,
    "auth-cram-md5": _AUTH_FIRST,
    "auth-xoauth2": _AUTH,
    "auth-oauthbearer": _AUTH,
    "auth-scram-sha-256": {**_all(_SILENT_GO), FAILED: _AUTH[FAILED]},
    "auth": _AUTH,
    "mail_parse": _PARSE,
    "mail_pre": _PRE,
    "mail": {
        DECLINED: _go(250, "2.1.0", "%s, sender OK"),
        OK: _go(250, "2.1.0", "%s, sender OK"),
        DENY: _stop(550, "5.7.1", "%s denied"),
        DENYSOFT: _stop(450, "4.7.1", "%s temporarily denied"),
        DENY_DISCONNECT: _stop(550, "5.7.1", "%s denied", close=True),
        DENYSOFT_DISCONNECT: _stop(421, "4.7.1", "%s temporarily denied", close=True),
        DONE: _REPLIED,
        FAILED: _TROUBLE,
    },
    "rcpt_parse": _PARSE,
    "rcpt_pre": _PRE,
    "rcpt": {
        DECLINED: Verdict(Reply(450, "4.7.1", "No plugin decided if relaying is allowed"), proceed=False),
        OK: _go(250, "2.1.5", "%s, recipient OK"),
        DENY: _stop(550, "5.7.1", "Relaying denied"),
        DENYSOFT: _stop(450, "4.7.1", "Relaying denied for now"),
        DENY_DISCONNECT: _stop(550, "5.7.1", "Delivery denied", close=True),
        DENYSOFT_DISCONNECT: _stop(421, "4.7.1", "Delivery denied for now", close=True),
        DONE: _REPLIED,
        FAILED: _TROUBLE,
    },
    "data": {
        DECLINED: _go(354, None, "Go ahead, end with <CRLF>.<CRLF>"),
        OK: _go(354, None, "Go ahead, end with <CRLF>.<CRLF>"),
        DENY: _stop(554, "5.7.1", "Message denied", reset=True),
        DENYSOFT: _stop(451, "4.7.1", "Message denied temporarily", reset=True),
        DENY_DISCONNECT: _stop(554, "5.7.1", "Message denied", close=True),
        DENYSOFT_DISCONNECT: _stop(421, "4.7.1", "Message denied temporarily", close=True),
        DONE: _REPLIED,
        FAILED: _TROUBLE_RESET,
    },
    # The client is still sending: only what closes is answered here, anything else when the
    # content has ended.
    "data_headers_end": {
        **_all(_SILENT_GO),
        DENY: _stop(554, "5.7.1", "Message denied", reset=True),
        DENYSOFT: _stop(451, "4.7.1", "Message denied temporarily", reset=True),
        DENY_DISCONNECT: _stop(554, "5.7.1", "Message denied", close=True),
        DENYSOFT_DISCONNECT: _stop(421, "4.7.1", "Message denied temporarily", close=True),
        FAILED: _TROUBLE_RESET,
    },
    "data_post_headers": {**_all(_SILENT_GO), FAILED: _TROUBLE_RESET},
    "received_line": {**_all(_SILENT_GO), FAILED: _TROUBLE_RESET},
    "data_post": {
        DECLINED: _SILENT_GO,
        OK: _SILENT_GO,
        DENY: _stop(554, "5.7.1", "Message denied", reset=True),
        DENYSOFT: _stop(451, "4.7.1", "Message denied temporarily", reset=True),
        DENY_DISCONNECT: _stop(554, "5.7.1", "Message denied", close=True),
        DENYSOFT_DISCONNECT: _stop(421, "4.7.1", "Message denied temporarily", close=True),
        DONE: _REPLIED_RESET,
        FAILED: _TROUBLE_RESET,
    },
    "queue_pre": {
        DECLINED: _SILENT_GO,
        OK: _SILENT_GO,
        DENY: _stop(554, "5.7.1", "Message denied", reset=True),
        DENYSOFT: _stop(451, "4.7.1", "Message denied temporarily", reset=True),
        DENY_DISCONNECT: _stop(554, "5.7.1", "Message denied", close=True),
        DENYSOFT_DISCONNECT: _stop(421, "4.7.1", "Message denied temporarily", close=True),
        DONE: _REPLIED_RESET,
        FAILED: _TROUBLE_RESET,
    },
    "queue": {
        DECLINED: _go(
            451, "4.3.0", "Queuing declined or disabled, please try again later", reset=True, plugin_text=True
        ),
        OK: _go(250, "2.0.0", "Queued", reset=True, plugin_text=True),
        DENY: _go(552, "5.3.0", "Message denied", reset=True, plugin_text=True),
        DENYSOFT: _go(452, "4.3.0", "Message denied temporarily", reset=True, plugin_text=True),
        DENY_DISCONNECT: _stop(552, "5.3.0", "Message denied", close=True),
        DENYSOFT_DISCONNECT: _stop(421, "4.3.0", "Message denied temporarily", close=True),
        DONE: _REPLIED_RESET,
        FAILED: Verdict(_TROUBLE.reply, proceed=True, reset=True),
    },
    "vrfy": {
        DECLINED: _go(252, "2.5.0", "Just try sending a mail and we'll see how it turns out"),
        OK: _go(250, "2.1.5", "Recipient is known", plugin_text=True),
        DENY: _stop(554, "5.7.1", "Access denied", reset=True),
        DENYSOFT: _stop(450, "4.7.1", "Access denied for now"),
        DENY_DISCONNECT: _stop(554, "5.7.1", "Access denied", close=True),
        DENYSOFT_DISCONNECT: _stop(421, "4.7.1", "Access denied for now", close=True),
        DONE: _REPLIED,
        FAILED: _TROUBLE,
    },
    "noop": {
        DECLINED: _go(250, "2.0.0", "OK"),
        OK: _go(250, "2.0.0", "OK"),
        DENY: _stop(500, "5.7.1", "Not any more"),
        DENYSOFT: _stop(450, "4.7.1", "Not now"),
        DENY_DISCONNECT: _stop(500, "5.7.1", "Not any more", close=True),
        DENYSOFT_DISCONNECT: _stop(421, "4.7.1", "Not now", close=True),
        DONE: _REPLIED,
        FAILED: _TROUBLE,
    },
    "help": {
        **_all(_go(214, "2.0.0", "Commands: %s", plugin_text=True)),
        DENY: _stop(500, "5.5.4", "Syntax error"),
        DONE: _REPLIED,
        FAILED: _TROUBLE,
    },
    "unrecognized_command": {
        # To proceed is to answer for the core, which knows some commands better (`state.NOT_IMPLEMENTED`).
        DECLINED: _go(500, "5.5.1", "Unrecognized command"),
        OK: _go(500, "5.5.1", "Unrecognized command"),
        DENY: _stop(500, "5.5.1", "Unrecognized command"),
        DENYSOFT: _stop(450, "4.7.0", "Unrecognized command"),
        DENY_DISCONNECT: _stop(521, "5.5.1", "Unrecognized command", close=True),
        DENYSOFT_DISCONNECT: _stop(421, "4.7.0", "Unrecognized command", close=True),
        DONE: _REPLIED,
        FAILED: _TROUBLE,
    },
    "quit": {
        **_all(_go(221, "2.0.0", "Closing the connection, have a wonderful day", plugin_text=True, close=True)),
        DONE: Verdict(None, proceed=True, close=True, own_reply=True),
        FAILED: _go(221, "2.0.0", "Closing the connection", close=True),
    },
    "pre-connection": {
        **_all(_SILENT_GO),
        DENY: _stop(554, None, "Sorry, connection from you denied", close=True),
        DENYSOFT: _stop(421, None, "Sorry, connection from you temporarily denied", close=True),
        DENY_DISCONNECT: _stop(554, None, "Sorry, connection from you denied", close=True),
        DENYSOFT_DISCONNECT: _stop(421, None, "Sorry, connection from you temporarily denied", close=True),
        FAILED: Verdict(Reply(421, None, "Temporary local problem, please try again later"), proceed=False, close=True),
    },
}
