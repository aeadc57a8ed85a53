"""Accepts every message and throws it away.

For tests and load measurements, and behind plugins that only count or learn.

Arguments: none.

Result: OK.

In config/plugins, in place of another queue plugin:

    queue/discard
"""

from qpsmtpd import LOGINFO, OK, Plugin, Result, Site, Transaction


class Discard(Plugin):
    """Accepts every message and throws it away."""

    def register(self, qp: Site) -> None:
        """Take no arguments."""

    def hook_queue(self, transaction: Transaction) -> Result:
        """Take the message, and forget it."""
        self.log(LOGINFO, f"pass, discarded {transaction.data_size} octets")
        return OK, "Queued! (discarded)"
