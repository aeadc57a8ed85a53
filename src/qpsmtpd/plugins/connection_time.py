"""Logs how long each connection has lasted, once it is over.

Argument: the level of the line in the log, a name or a number; LOGNOTICE by default.

Result: DECLINED.

In config/plugins:

    connection_time LOGINFO
"""

from qpsmtpd import DECLINED, Plugin, Result, Site, Transaction
from qpsmtpd.logs import log_level


class ConnectionTime(Plugin):
    """Logs how long each connection has lasted, once it is over."""

    def register(self, qp: Site, level: str = "LOGNOTICE") -> None:
        """Read the level. Raises ValueError."""
        self._level = log_level(level)

    def hook_post_connection(self, transaction: Transaction) -> Result:
        seconds = max(self.qp.wall() - self.connection.started, 0.0)
        self.log(self._level, f"connection time from {self.connection.remote_ip}: {seconds:.3f} s")
        return DECLINED
