"""Throws the log away.

Logging plugins that stand before this one write as ever; those behind it get nothing, and
without any other nothing is logged at all.

Arguments: none.

Result: OK, so that no further logging plugin writes.

In config/logging:

    logging/devnull
"""

from qpsmtpd import OK, Plugin, Result, Transaction


class LogNothing(Plugin):
    """Throws the log away."""

    def hook_logging(self, transaction: Transaction | None, level: int, hook: str, plugin: str, text: str) -> Result:
        """Forget a message."""
        return OK
