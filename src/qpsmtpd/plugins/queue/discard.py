"""Accepts messages and throws them away: every message, or those that another plugin has marked.

Without an argument every message goes: for tests and load measurements, and behind plugins that
only count or learn.

    queue/discard marked

throws away the messages that a plugin has marked by the note `discard_mail` of the transaction
(`transaction.notes["discard_mail"] = True`), at any hook before this one, and leaves the others to the
queue plugins behind it. The client is told the same as if its message had been queued.

Result: OK for what is thrown away, else DECLINED.

In config/plugins, before the queue plugin that takes the others:

    queue/discard marked
"""

from qpsmtpd import DECLINED, LOGINFO, OK, Plugin, Result, Site, Transaction
from qpsmtpd.plugins.queue._common import message_id


class Discard(Plugin):
    """Accepts messages and throws them away."""

    def register(self, qp: Site, which: str = "all") -> None:
        """Read the argument. Raises ValueError."""
        if which not in ("all", "marked"):
            raise ValueError(f"{which!r} is neither `marked` nor `all`")
        self._marked = which == "marked"

    def hook_queue(self, transaction: Transaction) -> Result:
        """Take the message, and forget it."""
        if self._marked and not transaction.notes.get("discard_mail"):
            return DECLINED
        self.log(LOGINFO, f"pass, discarded {transaction.data_size} octets")
        return OK, f"Queued! {message_id(transaction)}" if self._marked else "Queued! (discarded)"
