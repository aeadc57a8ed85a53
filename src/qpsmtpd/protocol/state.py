"""Which command may come when (RFC 5321 section 4.1.4), as one table.

This file knows no syntax, no hook and no bytes: states, commands, and what a command out
of order is told. The documentation's diagram is drawn from `ORDER`.
"""

import enum
from collections.abc import Mapping

from qpsmtpd.protocol.commands import Command
from qpsmtpd.protocol.replies import Reply

__all__ = ["AUTHENTICATED_ONLY", "HOOKS_COME_FIRST", "NOT_IMPLEMENTED", "ORDER", "State"]


class State(enum.Enum):
    """Where a session stands between two commands."""

    START = "no greeting from the client yet"
    IDLE = "greeted, no mail transaction"
    MAIL = "a mail transaction without a recipient"
    RCPT = "a mail transaction with at least one recipient"
    BDAT = "a mail transaction with content that comes in chunks, the last one still missing"

    __hash__ = object.__hash__


_HELO_FIRST = Reply(503, "5.5.1", "Please say hello first")
_MAIL_FIRST = Reply(503, "5.5.1", "Use MAIL before RCPT")
_MAIL_BEFORE_DATA = Reply(503, "5.5.1", "Use MAIL before DATA")
_RCPT_FIRST = Reply(503, "5.5.1", "Use RCPT before DATA")
_NESTED = Reply(503, "5.5.1", "A mail transaction is already under way")
_NOT_NOW = Reply(503, "5.5.1", "Not during a mail transaction")
_IN_CHUNKS = Reply(503, "5.5.1", "The message comes in chunks; end it by BDAT LAST, or use RSET")

ORDER: Mapping[Command, Mapping[State, Reply | None]] = {
    # The reply to a command that comes at the wrong time; None where it may come.
    command: dict(zip(State, row, strict=True))
    for command, row in {
        #             START        IDLE               MAIL         RCPT  BDAT
        Command.HELO: (None, None, None, None, None),
        Command.EHLO: (None, None, None, None, None),
        Command.LHLO: (None, None, None, None, None),
        Command.STARTTLS: (None, None, _NOT_NOW, _NOT_NOW, _NOT_NOW),
        Command.AUTH: (_HELO_FIRST, None, _NOT_NOW, _NOT_NOW, _NOT_NOW),
        Command.XCLIENT: (None, None, _NOT_NOW, _NOT_NOW, _NOT_NOW),
        Command.MAIL: (_HELO_FIRST, None, _NESTED, _NESTED, _NESTED),
        Command.RCPT: (_MAIL_FIRST, _MAIL_FIRST, None, None, _IN_CHUNKS),
        Command.DATA: (_MAIL_BEFORE_DATA, _MAIL_BEFORE_DATA, _RCPT_FIRST, None, _IN_CHUNKS),
        Command.BDAT: (_MAIL_BEFORE_DATA, _MAIL_BEFORE_DATA, _RCPT_FIRST, None, None),
        Command.RSET: (None, None, None, None, None),
        Command.NOOP: (None, None, None, None, None),
        Command.QUIT: (None, None, None, None, None),
        Command.VRFY: (None, None, None, None, None),
        Command.HELP: (None, None, None, None, None),
    }.items()
}

HOOKS_COME_FIRST = frozenset(
    {(Command.MAIL, State.START), *((Command.DATA, state) for state in (State.START, State.IDLE, State.MAIL))}
)
"""Where a command's first hook is asked although the command is out of order, and the table's reply
comes behind it: before MAIL a transaction is reset in any case, and a client that sends DATA
without waiting for a recipient to be accepted is of interest to plugins. As in the original.
"""

AUTHENTICATED_ONLY = frozenset({Command.MAIL, Command.VRFY})
"""What a client may not do before AUTH where that is demanded (RFC 6409 section 4.3)."""

NOT_IMPLEMENTED = frozenset({"expn", "etrn"})
"""Commands of RFCs that are known but not served: 502 instead of 500 (RFC 5321 section 4.2.4)."""
