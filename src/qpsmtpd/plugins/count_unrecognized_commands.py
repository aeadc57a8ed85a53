"""Sends clients away that have sent too many unknown commands.

A client that talks nonsense is no mail server: a web browser, a scanner, or a program
that speaks another protocol.

Argument: how many unknown commands are too many (4). The count is kept in the
connection's note `unrec_cmd_count`.

Result: DECLINED, and at the last one DENY_DISCONNECT (521).

In config/plugins:

    count_unrecognized_commands 4
"""

from qpsmtpd import DECLINED, DENY_DISCONNECT, LOGINFO, Plugin, Result, Site, Transaction
from qpsmtpd.plugins._options import count

_NOTE = "unrec_cmd_count"


class CountUnrecognizedCommands(Plugin):
    """Sends clients away that have sent too many unknown commands."""

    def register(self, qp: Site, limit: str = "4") -> None:
        """Read the limit. Raises ValueError."""
        self._limit = count(limit)

    def hook_unrecognized_command(self, transaction: Transaction, command: str, rest: str = "") -> Result:
        """Count."""
        before = self.connection.notes.get(_NOTE, 0)
        number = before + 1 if isinstance(before, int) else 1
        self.connection.notes[_NOTE] = number
        if number < self._limit:
            self.log(LOGINFO, f"pass, {command!r} is number {number}")
            return DECLINED
        self.log(LOGINFO, f"fail, {command!r} is number {number}")
        return DENY_DISCONNECT, f"{number} unknown commands; is this the protocol you meant to speak?"
