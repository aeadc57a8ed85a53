"""Writes every message to a file, for finding out what other plugins make of it.

A message is appended as it is at the end of `data_post`: header with the trace fields of this server, blank
line and body, byte for byte. Messages stand one behind the other with nothing between them. Files are made with
mode 0600, and directories that are missing with 0700.

Config files, both read when the server starts:
- `content_log_enabled`: 1, yes or true. Without it nothing is written.
- `content_log_file`: the file, relative to the directory above `config`; it may hold the
  conversions of strftime. `mail/%Y%m%d` by default, a file each day.

Mail is other people's: see that you may keep it, and remove the files in time; this plugin never does.

Arguments: none.

Result: DECLINED. A file that cannot be written to is logged, and the mail goes on; of a
message that does not fit nothing is left in the file.

In config/plugins, behind the plugins that change or refuse messages:

    content_log
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterable
from pathlib import Path

from qpsmtpd import DECLINED, LOGERROR, LOGINFO, Plugin, Result, Site, Transaction, blocking
from qpsmtpd.plugins._options import flag

_ENABLED = "content_log_enabled"
_LOCK_SECONDS = 10.0
_LOOK = 0.01  # seconds between two attempts to lock a file


class ContentLog(Plugin):
    """Writes every message to a file, for finding out what other plugins make of it."""

    def register(self, qp: Site) -> None:
        """Read the settings; serve a hook only if they say so."""
        directory = qp.settings.directory
        base = directory.parent if directory is not None else Path()
        self._pattern = str(base / Path(qp.value("content_log_file", "mail/%Y%m%d")).expanduser())
        if flag({_ENABLED: qp.value(_ENABLED, "0")}, _ENABLED) and not qp.rehearsal:
            self.register_hook("data_post", self.append)

    @blocking
    def append(self, transaction: Transaction) -> Result:
        """Serve the hook data_post."""
        path = time.strftime(self._pattern, time.localtime(self.qp.wall()))
        try:
            for directory in reversed(Path(path).parents):  # `parents=True` has no mode for those above the last
                directory.mkdir(mode=0o700, exist_ok=True)
            _append(path, transaction.chunks())
        except OSError as error:
            self.log(LOGERROR, f"error, {path}: {error.strerror or error}")
        else:
            self.log(LOGINFO, f"pass, in {path}")
        return DECLINED


def _append(path: str, pieces: Iterable[bytes]) -> None:
    """Append pieces to a file, all or none of them, and nobody else's between them. Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        _lock(descriptor)
        size = os.fstat(descriptor).st_size
        try:
            for piece in pieces:
                _write(descriptor, piece)
        except BaseException:
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, size)
            raise
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> None:
    """Keep other threads and processes away until the file is closed. Raises OSError."""
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise TimeoutError("somebody else has locked the file") from None
            time.sleep(_LOOK)
        else:
            return


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
