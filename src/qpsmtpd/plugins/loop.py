"""Refuses messages that go round in circles.

Each server that a message passes adds a Received field, and each delivery a Delivered-To
field, so a message with too many of them is on a way without end.

Argument: how many of these fields are too many, 100 by default. The one that this server
itself adds is among them.

Result: DECLINED, or DENY (554).

In config/plugins:

    loop 100
"""

from qpsmtpd import DECLINED, DENY, LOGDEBUG, LOGINFO, Plugin, Result, Site, Transaction, dsn
from qpsmtpd.plugins._options import count


class Loop(Plugin):
    """Refuses messages that go round in circles."""

    def register(self, qp: Site, limit: str = "100") -> None:
        """Read the limit. Raises ValueError."""
        self._limit = count(limit)

    def hook_data_post(self, transaction: Transaction) -> Result:
        """Count."""
        hops = sum(len(transaction.header.get_all(name)) for name in ("Received", "Delivered-To"))
        if hops < self._limit:
            self.log(LOGDEBUG, f"pass, {hops} hops")
            return DECLINED
        self.log(LOGINFO, f"fail, {hops} hops")
        return dsn.too_many_hops(DENY, "this message has passed too many servers; it goes round in circles")
