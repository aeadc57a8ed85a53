"""Sends clients away that do nothing but NOOP.

The commands HELO, EHLO, MAIL, RCPT, DATA, RSET, VRFY and HELP set the count back; unknown commands do not. Load
it early, so that no plugin before it answers these commands first.

Argument: how many NOOP commands in a row are too many (3). The count is kept in the
connection's note `noop_count`.

Result: DECLINED, and at the last one DENY_DISCONNECT (500).

In config/plugins:

    noop_counter 3
"""

from qpsmtpd import DECLINED, DENY_DISCONNECT, LOGINFO, Plugin, Result, Site, Transaction
from qpsmtpd.plugins._options import count

_NOTE = "noop_count"
_RESETTING = ("helo", "ehlo", "mail", "rcpt", "data", "reset_transaction", "vrfy", "help")


class NoopCounter(Plugin):
    """Sends clients away that do nothing but NOOP."""

    def register(self, qp: Site, limit: str = "3") -> None:
        """Read the limit. Raises ValueError."""
        self._limit = count(limit)
        for hook in _RESETTING:
            self.register_hook(hook, self.begin_anew)

    def hook_noop(self, transaction: Transaction) -> Result:
        """Count."""
        before = self.connection.notes.get(_NOTE, 0)
        number = before + 1 if isinstance(before, int) else 1
        self.connection.notes[_NOTE] = number
        if number < self._limit:
            return DECLINED
        self.log(LOGINFO, f"fail, {number} NOOP commands in a row")
        return DENY_DISCONNECT, "you seem to have nothing to say; come back when you have mail"

    def begin_anew(self, transaction: Transaction, *_: object) -> Result:
        """Serve the other hooks: set the count back."""
        self.connection.notes[_NOTE] = 0
        return DECLINED
