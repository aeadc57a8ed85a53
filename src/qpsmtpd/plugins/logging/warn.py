"""Writes the log to standard error, up to a level.

Several logging plugins may be in use, each with a level of its own; `config/loglevel` is
for servers without any.

Argument: the level, LOGEMERG (0) to LOGDEBUG (7); LOGWARN (4) by default.

Result: DECLINED, so that further logging plugins write too.

In config/logging:

    logging/warn LOGINFO
"""

import sys

from qpsmtpd import DECLINED, Plugin, Result, Site, Transaction
from qpsmtpd.logs import log_level


class LogToStandardError(Plugin):
    """Writes the log to standard error, up to a level."""

    def register(self, qp: Site, level: str = "LOGWARN") -> None:
        """Read the level. Raises ValueError."""
        self._level = log_level(level)

    def hook_logging(self, transaction: Transaction | None, level: int, hook: str, plugin: str, text: str) -> Result:
        """Write a message."""
        if level <= self._level:
            sys.stderr.write(f"{self.qp.log_line(hook, plugin, text)}\n")
            sys.stderr.flush()
        return DECLINED
