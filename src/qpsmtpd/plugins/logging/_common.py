"""What the logging plugins share: the level, the form of a line, and standard error."""

from qpsmtpd import DECLINED, LOGWARN, Plugin, Result, Site, Transaction
from qpsmtpd.logs import log_level, write_stderr

__all__ = ["LevelledLog", "StandardErrorLog"]


class LevelledLog(Plugin):
    """Writes messages up to `level`, and lets further logging plugins write too."""

    level = LOGWARN

    def hook_logging(self, transaction: Transaction | None, level: int, hook: str, plugin: str, text: str) -> Result:
        """Write a message, if it is urgent enough."""
        if level <= self.level:
            self.write(level, self.line(transaction, hook, plugin, text))
        return DECLINED

    def line(self, transaction: Transaction | None, hook: str, plugin: str, text: str) -> str:
        """A message as one line without a line end; nothing in it may be unescaped."""
        return self.qp.log_line(hook, plugin, text)

    def write(self, level: int, line: str) -> None:
        """Write a line; the subclass's."""
        raise NotImplementedError


class StandardErrorLog(LevelledLog):
    """Writes to standard error; its argument is the level."""

    shared_arguments = ()

    def register(self, qp: Site, level: str = "LOGWARN") -> None:
        """Read the level. Raises ValueError."""
        self.level = log_level(level)

    def write(self, level: int, line: str) -> None:
        """Write a line."""
        write_stderr(f"{line}\n")
