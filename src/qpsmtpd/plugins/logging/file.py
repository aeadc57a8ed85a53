"""Writes the log to a file.

    logging/file [loglevel LEVEL] [tsformat FORMAT] [nosplit] [reopen] PATH

LEVEL is the level up to which messages are written, LOGEMERG (0) to LOGDEBUG (7) by name or
number; LOGWARN if it is not given. FORMAT is that of the time stamp, in the letters of
strftime and without blanks; so is PATH, which may have some too:

    logging/file loglevel LOGINFO /var/log/qpsmtpd-%Y-%m-%d.log

The file is opened anew when it has been moved or removed, and when its name has changed.
`nosplit` and `reopen` are understood, and change nothing: messages are never split.
"""

import os
import time
from pathlib import Path

from qpsmtpd import DECLINED, HookResult, Plugin, Site, Transaction
from qpsmtpd.logs import log_level, message

__all__ = ["File"]

_RECHECK = 1.0  # seconds between two looks at the file


class File(Plugin):
    """Writes the log to a file."""

    def register(self, qp: Site, *args: str) -> None:
        level, stamp, words = "LOGWARN", "%Y-%m-%dT%H:%M:%S%z", list(args)
        while words and words[0].lower() in ("loglevel", "tsformat", "nosplit", "reopen"):
            word = words.pop(0).lower()
            if word in ("loglevel", "tsformat") and not words:
                raise ValueError(f"a value is missing behind {word}")
            if word == "loglevel":
                level = words.pop(0)
            elif word == "tsformat":
                stamp = words.pop(0)
        if not words:
            raise ValueError("the path of the file is missing")
        self._level = log_level(level)
        self._stamp = stamp
        self._pattern = " ".join(words)
        self._path = Path()
        self._descriptor: int | None = None
        self._checked = 0.0
        self._open(qp.clock(), qp.wall())

    def hook_logging(
        self, transaction: Transaction | None, level: int, hook: str, plugin: str, text: str
    ) -> HookResult:
        if level <= self._level:
            now = self.qp.wall()
            self._reopen(self.qp.clock(), now)
            assert self._descriptor is not None
            stamp = time.strftime(self._stamp, time.localtime(now))
            line = f"{stamp} {self.qp.log_identity} {message(hook, plugin, text)}\n"
            os.write(self._descriptor, line.encode())  # one call, so that lines of processes never mix
        return DECLINED

    def _open(self, clock: float, wall: float) -> None:
        """Open the file of the moment. Raises OSError."""
        path = Path(time.strftime(self._pattern, time.localtime(wall)))
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
        old, self._descriptor = self._descriptor, descriptor
        self._path, self._checked = path, clock
        if old is not None:
            os.close(old)

    def _reopen(self, clock: float, wall: float) -> None:
        if clock - self._checked < _RECHECK:
            return
        self._checked = clock
        assert self._descriptor is not None
        current = Path(time.strftime(self._pattern, time.localtime(wall)))
        try:
            same = current == self._path and os.fstat(self._descriptor).st_ino == current.stat().st_ino
        except OSError:
            same = False
        if not same:
            self._open(clock, wall)
