"""Writes the log to standard error.

Argument: the level up to which messages are written, LOGEMERG (0) to LOGDEBUG (7) by name
or number; LOGWARN if it is not given.
"""

import sys

from qpsmtpd import DECLINED, HookResult, Plugin, Site, Transaction
from qpsmtpd.logs import log_level, message

__all__ = ["Warn"]


class Warn(Plugin):
    """Writes the log to standard error."""

    def register(self, qp: Site, level: str = "LOGWARN") -> None:
        self._level = log_level(level)

    def hook_logging(
        self, transaction: Transaction | None, level: int, hook: str, plugin: str, text: str
    ) -> HookResult:
        if level <= self._level:
            sys.stderr.write(f"{self.qp.log_identity} {message(hook, plugin, text)}\n")
            sys.stderr.flush()
        return DECLINED
