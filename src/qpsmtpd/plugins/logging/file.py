"""Appends the log to a file, up to a level.

    logging/file [loglevel LEVEL] [tsformat FORMAT] PATH

LEVEL is LOGEMERG (0) to LOGDEBUG (7), LOGWARN (4) by default. PATH may hold the
conversions of strftime: /var/log/qpsmtpd.%Y-%m-%d.log begins a new file each day. FORMAT
is that of the time stamp, also as for strftime, without blanks; 2026-01-31T12:00:00+0100
by default. The words `nosplit` and `reopen`, which old configurations have, change
nothing: a file that was renamed or removed, as logrotate does, is made anew within a second.

A line is a time stamp, the id of the connection, the hook, the plugin and the message.
Each is written by one call, so that several processes may share a file. New files have
the mode 0640.

Result: DECLINED, so that further logging plugins write too. Several files are written
with logging/file:0, logging/file:1 and so on.

In config/logging:

    logging/file loglevel LOGINFO /var/log/qpsmtpd.log
"""

import os
import time
import weakref
from pathlib import Path

from qpsmtpd import LOGERROR, LOGWARN, Site
from qpsmtpd.logs import log_level
from qpsmtpd.plugins.logging._common import LevelledLog

_RECHECK = 1.0  # seconds between two looks at the name of the file


class LogToFile(LevelledLog):
    """Appends the log to a file, up to a level."""

    shared_arguments = ()  # `loglevel` is what is written

    def register(self, qp: Site, *args: str) -> None:
        """Read the arguments and open the file. Raises ValueError."""
        self.level, self._format, path = _read_arguments(args)
        self._pattern = os.path.abspath(os.path.expanduser(path))  # noqa: PTH100, PTH111 - no path yet, but a pattern
        self._stamp = (-1, "")
        self._looked = qp.clock()
        try:
            self._descriptor = _open(self._path())
        except OSError as error:
            raise ValueError(f"{self._path()}: {error.strerror}") from error
        weakref.finalize(self, os.close, self._descriptor).atexit = False  # the last lines come at exit

    def write(self, level: int, line: str) -> None:
        """Append a line."""
        now = self.qp.clock()
        if now - self._looked >= _RECHECK:
            self._looked = now
            self._follow_name()
        os.write(self._descriptor, f"{self._time()} {line}\n".encode("utf-8", "backslashreplace"))

    def _path(self) -> str:
        return time.strftime(self._pattern, time.localtime(self.qp.wall()))

    def _time(self) -> str:
        now = int(self.qp.wall())
        stamp = self._stamp
        if stamp[0] != now:
            self._stamp = stamp = now, time.strftime(self._format, time.localtime(now))
        return stamp[1]

    def _follow_name(self) -> None:
        """Open the file again if the name no longer means the open one; keep that if it fails."""
        path = self._path()
        try:
            if not _is_open_as(self._descriptor, path):
                new = _open(path)
                # The number stays the same for ever: another thread may be about to write to it.
                os.dup2(new, self._descriptor, inheritable=False)
                os.close(new)
        except OSError as error:
            self.log(LOGERROR, f"error, cannot open {path}: {error.strerror}; going on with the old file")


def _read_arguments(args: tuple[str, ...]) -> tuple[int, str, str]:
    level, stamp, words = LOGWARN, "%Y-%m-%dT%H:%M:%S%z", list(args)
    while words and (word := words[0].lower()) in ("loglevel", "tsformat", "nosplit", "reopen"):
        del words[0]
        if word in ("nosplit", "reopen"):
            continue
        if not words:
            raise ValueError(f"{word} needs a value")
        value = words.pop(0)
        if word == "loglevel":
            level = log_level(value)
        else:
            stamp = value
    if len(words) != 1:
        raise ValueError("the arguments are: [loglevel LEVEL] [tsformat FORMAT] PATH")
    if words[0].startswith("|") or "%i" in words[0]:
        raise ValueError(f"{words[0]}: neither programs (|) nor a file for each connection (%i) can be written to")
    return level, stamp, words[0]


def _open(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)


def _is_open_as(descriptor: int, path: str) -> bool:
    try:
        return os.path.samestat(Path(path).stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
