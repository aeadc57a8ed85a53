"""Sends clients away that talk nonsense.

Argument: how many unknown commands are too many; 4 if it is not given. The one that reaches
this number is answered 521 and the connection is closed.
"""

from qpsmtpd import DECLINED, DENY_DISCONNECT, LOGINFO, HookResult, Plugin, Site, Transaction

__all__ = ["CountUnrecognizedCommands"]

_NOTE = "unrecognized_commands"


class CountUnrecognizedCommands(Plugin):
    """Disconnects clients after too many unknown commands."""

    def register(self, qp: Site, limit: str = "4") -> None:
        if not limit.isdecimal() or int(limit) < 1:
            raise ValueError(f"{limit!r} is no number of 1 or more")
        self._limit = int(limit)

    def hook_unrecognized_command(self, transaction: Transaction, command: str, rest: str) -> HookResult:
        before = self.connection.notes.get(_NOTE, 0)
        assert isinstance(before, int)
        count = self.connection.notes[_NOTE] = before + 1
        if count < self._limit:
            self.log(LOGINFO, f"pass, {command!r} is unknown, number {count}")
            return DECLINED
        self.log(LOGINFO, f"fail, {command!r} is unknown, number {count}")
        return DENY_DISCONNECT, f"Closing the connection after {count} unrecognized commands"
