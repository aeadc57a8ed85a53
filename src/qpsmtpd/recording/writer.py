"""A process of its own that writes recordings, so that the server has no more to do than to tell it.

The server hands over what it has noted of a session, by a pipe: as values that `marshal` writes, which takes a tenth
of the time of JSON. Masks, JSON and files are the business of this process. The server never waits for it: what does not
go through the pipe waits in memory, and beyond `_MOST` octets sessions are left out, and counted.

    python -m qpsmtpd.recording.writer DIRECTORY [--mask-content]

It ends when the pipe does. Signals that end a server are not for it: there may be something left to write.
"""

import contextlib
import fcntl
import marshal
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast

from qpsmtpd.config import Config
from qpsmtpd.logs import LOGERROR
from qpsmtpd.recording.recorder import Files, RecordingSite, in_directory
from qpsmtpd.recording.scribe import Note, Notes, Scribe
from qpsmtpd.session.connection import Connection

__all__ = ["DirectorySite", "Writer", "main"]

_MOST = 32 * 1024 * 1024  # octets that wait
_PIPE = 1024 * 1024  # octets in the pipe, where the system lets it have so many
_PATIENCE = 30.0  # seconds that it has at the end
_SIZE = 4  # octets of the length of what follows
_END = Note.END.value


class Writer:
    """The process, as the server sees it. Its methods may be called by any thread."""

    def __init__(self, directory: Path, complain: Callable[[str], object], *, mask_content: bool) -> None:
        """Start it, and wait until it is there. `complain` is told what goes wrong later. Raises OSError."""
        self._complain = complain
        words = [sys.executable, "-m", "qpsmtpd.recording.writer", os.fspath(directory)]
        self._process = subprocess.Popen(
            [*words, "--mask-content"] if mask_content else words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._process.stdout as begun:
            if not begun.read(1):
                raise OSError("the process that writes recordings does not begin")
        self._pipe = self._process.stdin.fileno()
        os.set_blocking(self._pipe, False)
        with contextlib.suppress(AttributeError, OSError):  # Linux has it, and up to a limit
            fcntl.fcntl(self._pipe, fcntl.F_SETPIPE_SZ, _PIPE)
        self._lock = threading.Lock()
        self._waiting: deque[memoryview] = deque()
        self._size = 0
        self._lost: set[str] = set()  # sessions that are left out, and still go on
        self._left_out = 0
        self._works = True

    def take(self, identity: str, moment: float, notes: Notes) -> None:
        """Have written what is noted of a session, which began at this moment, in seconds since the epoch."""
        data = _encoded((identity, moment, notes))
        with self._lock:
            if not self._works:
                return
            if identity in self._lost or self._size > _MOST:
                self._leave_out(identity, ended=notes[-1][0] == _END)
                return
            self._waiting.append(memoryview(len(data).to_bytes(_SIZE) + data))
            self._size += _SIZE + len(data)
            self._push()

    def close(self) -> None:
        """Have it write what is left, and end."""
        assert self._process.stdin is not None
        if self._process.stdin.closed:
            return
        end = time.monotonic() + _PATIENCE
        with self._lock:
            self._push()
            while self._waiting and (left := end - time.monotonic()) > 0:
                select.select([], [self._pipe], [], left)
                self._push()
            self._works = False
            self._process.stdin.close()
            if self._left_out:
                self._complain(f"{self._left_out} sessions are not recorded: there was no time to write them")
        try:
            self._process.wait(max(end - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            self._complain(f"what writes recordings has not ended within {_PATIENCE:g} s")

    def _leave_out(self, identity: str, *, ended: bool) -> None:
        if identity not in self._lost:
            self._left_out += 1
            if self._left_out == 1:
                self._complain("error, sessions are not recorded: they cannot be written so fast")
        (self._lost.discard if ended else self._lost.add)(identity)

    def _push(self) -> None:
        """Write as much as the pipe takes now."""
        try:
            while self._waiting:
                written = os.write(self._pipe, self._waiting[0])
                self._size -= written
                rest = self._waiting.popleft()[written:]
                if rest:
                    self._waiting.appendleft(rest)
        except BlockingIOError:
            return
        except OSError as error:
            self._works = False
            self._waiting.clear()
            self._complain(f"error, sessions are not recorded: what writes them has ended ({error})")


def _encoded(value: Any) -> bytes:
    try:
        return marshal.dumps(value)
    except ValueError:  # a plugin has given a text that is more than one
        return marshal.dumps(_plain(value))


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(each) for each in cast("Sequence[object]", value)]
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in cast("dict[object, object]", value).items()}
    if value is None or isinstance(value, bool | int | float | bytes):
        return value
    return str.__str__(value) if isinstance(value, str) else str(value)


class DirectorySite(RecordingSite):
    """A site whose sessions are recorded into a directory, by a process of its own from `post_fork` on."""

    def __init__(self, settings: Config, directory: Path, *, mask_content: bool, **options: Any) -> None:
        """The arguments are those of `in_directory` and `RecordingSite`. Raises OSError."""
        super().__init__(settings, in_directory(directory), mask_content=mask_content, **options)
        self._directory = directory
        self._writer: Writer | None = None

    def post_fork(self) -> None:  # noqa: D102 - as in the base class
        super().post_fork()
        self._writer = Writer(self._directory, partial(self.log, LOGERROR, hook=""), mask_content=self.mask_content)

    def scribe(self, connection: Connection) -> Callable[[Notes], object]:  # noqa: D102
        if self._writer is None:
            return super().scribe(connection)
        return partial(self._writer.take, connection.id, connection.started)

    def stopped(self) -> None:  # noqa: D102
        if self._writer is not None:
            self._writer.close()
        super().stopped()


# The process itself


def _frames(pipe: BinaryIO) -> "Callable[[], bytes]":
    def frame() -> bytes:
        """The next of them; empty at the end, also if it is cut off."""
        size = int.from_bytes(pipe.read(_SIZE))
        data = pipe.read(size)
        return data if len(data) == size else b""

    return frame


def main(words: list[str]) -> None:
    """Write until the pipe ends."""
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    os.nice(10)  # mail comes first
    files, mask_content = Files(Path(words[0])), "--mask-content" in words[1:]
    with sys.stdout as begun:
        begun.write("\n")
    scribes: dict[str, Scribe] = {}
    for data in iter(_frames(sys.stdin.buffer), b""):
        identity, moment, notes = marshal.loads(data)  # noqa: S302 - from the server, which has started this process
        if identity not in scribes:
            write = partial(files.append, identity, moment, _complain)
            scribes[identity] = Scribe(write, mask_content=mask_content)
        scribes[identity].write(notes)
        if notes[-1][0] == _END:
            del scribes[identity]


def _complain(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
