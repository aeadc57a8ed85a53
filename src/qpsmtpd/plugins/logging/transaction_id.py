"""Writes the log to standard error, each line with the id of its transaction, up to a level.

The id of a transaction is that of its connection and a number. It also stands in the trace
field of the message, so that the lines about a message can be found. What is logged outside
of connections has `-` there.

Argument: the level, LOGEMERG (0) to LOGDEBUG (7); LOGWARN (4) by default.

Result: DECLINED, so that further logging plugins write too.

In config/logging:

    logging/transaction_id LOGINFO
"""

from qpsmtpd import Transaction
from qpsmtpd.logs import message
from qpsmtpd.plugins.logging._common import StandardErrorLog


class LogByTransaction(StandardErrorLog):
    """Writes the log to standard error, each line with the id of its transaction."""

    def line(self, transaction: Transaction | None, hook: str, plugin: str, text: str) -> str:
        """A message behind the id of the transaction."""
        identity = "-" if transaction is None else transaction.id
        return f"{identity} {message(hook, plugin, text)}"
