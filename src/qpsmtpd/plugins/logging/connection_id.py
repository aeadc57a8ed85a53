"""Writes the log to standard error, each line with the id of its connection, up to a level.

All lines of a connection begin with the same word, however many clients are served at
once. What is logged outside of connections has `-` there; the process is never named. Below
LOGINFO, where the server itself does not say who has connected, the first line of a
connection is preceded by one that tells the client's address.

Argument: the level, LOGEMERG (0) to LOGDEBUG (7); LOGWARN (4) by default.

Result: DECLINED, so that further logging plugins write too.

In config/logging:

    logging/connection_id LOGINFO
"""

from qpsmtpd import LOGINFO, Result, Transaction
from qpsmtpd.logs import escape, message, write_stderr
from qpsmtpd.plugins.logging._common import StandardErrorLog


class LogByConnection(StandardErrorLog):
    """Writes the log to standard error, each line with the id of its connection."""

    def hook_logging(self, transaction: Transaction | None, level: int, hook: str, plugin: str, text: str) -> Result:
        """Write a message, behind the address of the client if it is the first one."""
        if transaction is not None and level <= self.level < LOGINFO:
            self._introduce()
        return super().hook_logging(transaction, level, hook, plugin, text)

    def line(self, transaction: Transaction | None, hook: str, plugin: str, text: str) -> str:
        """A message behind the id of the connection; there is one where there is a transaction."""
        identity = "-" if transaction is None else self.connection.id
        return f"{identity} {message(hook, plugin, text)}"

    def _introduce(self) -> None:
        connection, note = self.connection, f"{self.plugin_name} introduced"
        if note not in connection.notes:
            connection.notes[note] = True
            address = escape(f"{connection.remote_ip}:{connection.remote_port}")
            write_stderr(f"{connection.id} connected, {address}\n")
