"""Shows all messages of one plugin, and of the rest only what is urgent.

For work on a plugin: LOGDEBUG alone shows far too much. This plugin writes nothing; it keeps
messages from the logging plugins behind it, which write as usual what is left.

Arguments: PLUGIN [LOGLEVEL]. PLUGIN is the name that stands in the log, where `/` is written
`::`, as in `queue::maildir`; `queue/maildir` means the same. A plugin that is loaded several
times has its number there too: `queue::maildir:0`. LOGLEVEL is the level up to which other
messages are shown, LOGEMERG (0) to LOGDEBUG (7); LOGWARN (4) by default.

Result: OK for what is to be left out, so that no further logging plugin writes it, else
DECLINED.

In config/logging, before the plugin that writes:

    logging/debug_plugin queue::maildir LOGWARN
    logging/warn LOGDEBUG
"""

from qpsmtpd import DECLINED, OK, Plugin, Result, Site, Transaction
from qpsmtpd.logs import log_level


class DebugPlugin(Plugin):
    """Shows all messages of one plugin, and of the rest only what is urgent."""

    def register(self, qp: Site, plugin: str, loglevel: str = "LOGWARN") -> None:
        """Read the name and the level. Raises ValueError."""
        self._shown = plugin.replace("/", "::")
        self._level = log_level(loglevel)

    def hook_logging(self, transaction: Transaction | None, level: int, hook: str, plugin: str, text: str) -> Result:
        """Leave a message out, or leave it to the next plugin."""
        return OK if level > self._level and plugin != self._shown else DECLINED
