"""Sends clients away that have sent too many unknown commands.

A client that talks nonsense is no mail server: a web browser, a scanner, or a program
that speaks another protocol.

Argument: how many unknown commands are too many (4). The count is kept in the
connection's note `unrecognized_commands`.

Result: DECLINED, and at the last one DENY_DISCONNECT (521).

In config/plugins:

    count_unrecognized_commands 4
"""

from qpsmtpd import DECLINED, DENY_DISCONNECT, LOGINFO, Plugin, Result, Site, Transaction

_NOTE = "unrecognized_commands"


class CountUnrecognizedCommands(Plugin):
    """Sends clients away that have sent too many unknown commands."""

    def register(self, qp: Site, limit: str = "4") -> None:
        """Read the limit. Raises ValueError."""
        if not (limit.isascii() and limit.isdecimal() and int(limit)):
            raise ValueError(f"{limit!r} is no number of 1 or more")
        self._limit = int(limit)

    def hook_unrecognized_command(self, transaction: Transaction, command: str, rest: str = "") -> Result:
        """Count."""
        before = self.connection.notes.get(_NOTE, 0)
        count = before + 1 if isinstance(before, int) else 1
        self.connection.notes[_NOTE] = count
        if count < self._limit:
            self.log(LOGINFO, f"pass, {command!r} is number {count}")
            return DECLINED
        self.log(LOGINFO, f"fail, {command!r} is number {count}")
        return DENY_DISCONNECT, f"{count} unknown commands; is this the protocol you meant to speak?"
