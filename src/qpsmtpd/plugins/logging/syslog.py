"""Sends the log to syslog, up to a level.

    logging/syslog [loglevel LEVEL] [priority PRIORITY] [ident NAME] [facility FACILITY]

- `loglevel`: LOGEMERG (0) to LOGDEBUG (7); LOGWARN (4) by default.
- `priority`: the priority of all messages: emerg, alert, crit, err, warning, notice, info,
  debug, or 0 to 7. Without it each message has that of its level.
- `ident`: the name that syslog puts in front, `qpsmtpd` by default. A process has only one:
  of several logging/syslog the last says which.
- `facility`: mail by default; also auth, authpriv, cron, daemon, lpr, news, syslog, user,
  uucp, local0 to local7, as far as the system has them.
- `logsock`, which old configurations have, changes nothing.

A message is the id of the connection, the hook, the plugin and the text.

Result: DECLINED, so that further logging plugins write too. Several are loaded as
logging/syslog:0, logging/syslog:1 and so on.

In config/logging:

    logging/syslog loglevel LOGINFO facility local3
"""

import syslog
from collections.abc import Mapping

from qpsmtpd import Site
from qpsmtpd.config import did_you_mean
from qpsmtpd.logs import log_level
from qpsmtpd.plugins.logging._common import LevelledLog

_PRIORITIES: Mapping[str, int] = {
    "emerg": syslog.LOG_EMERG,
    "panic": syslog.LOG_EMERG,
    "alert": syslog.LOG_ALERT,
    "crit": syslog.LOG_CRIT,
    "err": syslog.LOG_ERR,
    "error": syslog.LOG_ERR,
    "warning": syslog.LOG_WARNING,
    "warn": syslog.LOG_WARNING,
    "notice": syslog.LOG_NOTICE,
    "info": syslog.LOG_INFO,
    "debug": syslog.LOG_DEBUG,
}
_NUMBERED: Mapping[str, int] = {str(number): number for number in range(8)}
_FACILITIES: Mapping[str, int] = {  # less kern, which is the kernel's
    name: getattr(syslog, f"LOG_{name.upper()}")
    for name in ("auth", "authpriv", "cron", "daemon", "ftp", "lpr", "mail", "news", "syslog", "user", "uucp",
                 *(f"local{number}" for number in range(8)))
    if hasattr(syslog, f"LOG_{name.upper()}")
}  # fmt: skip


class LogToSyslog(LevelledLog):
    """Sends the log to syslog, up to a level."""

    shared_arguments = ()  # `loglevel` is what is written

    def register(self, qp: Site, *args: str) -> None:
        """Read the arguments. Raises ValueError."""
        options = self.options(args, "loglevel", "priority", "ident", "facility", "logsock")
        self.level = log_level(options.get("loglevel", "LOGWARN"))
        self._facility = _named("facility", options.get("facility", "mail"), _FACILITIES)
        priority = options.get("priority")
        self._priority = None if priority is None else _named("priority", priority, {**_PRIORITIES, **_NUMBERED})
        syslog.openlog(options.get("ident", "qpsmtpd"), syslog.LOG_PID, self._facility)

    def write(self, level: int, line: str) -> None:
        """Send a message; levels and priorities have the same numbers."""
        priority = level if self._priority is None else self._priority
        syslog.syslog(self._facility | priority, line)


def _named(kind: str, word: str, values: Mapping[str, int]) -> int:
    """What a word stands for, in any case, and also as the C library calls it: `LOG_MAIL`."""
    name = word.lower().removeprefix("log").removeprefix("_")
    if name in values:
        return values[name]
    hint = did_you_mean(name, values) or f"; known are {', '.join(values)}"
    raise ValueError(f"{word!r} is no syslog {kind}{hint}")
