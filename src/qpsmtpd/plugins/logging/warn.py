"""Writes the log to standard error, up to a level.

Several logging plugins may be in use, each with a level of its own; `config/loglevel` is
for servers without any.

Argument: the level, LOGEMERG (0) to LOGDEBUG (7); LOGWARN (4) by default.

Result: DECLINED, so that further logging plugins write too.

In config/logging:

    logging/warn LOGINFO
"""

from qpsmtpd.plugins.logging._common import StandardErrorLog


class LogToStandardError(StandardErrorLog):
    """Writes the log to standard error, up to a level."""
