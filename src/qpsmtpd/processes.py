"""Child processes: forked without losing a signal, ended with their parent, restarted with patience.

What a parent waits for comes through descriptors: signals through the wakeup descriptor of
`signal` (`Bell`), news of children through pipes. So one `select` waits for all of it, and
nothing can come between a look and the wait. (A lock or a sleep would not do: the system may
give a signal to any thread, and the main one would not wake.)
"""

import contextlib
import os
import selectors
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from typing import Self

__all__ = [
    "PASSED_ON",
    "Bell",
    "Patience",
    "Pipe",
    "end_with",
    "ended",
    "fork",
    "in_words",
    "send",
    "shown",
    "signals_named",
]


def signals_named(*names: str) -> tuple[signal.Signals, ...]:
    """The signals of these names, as far as the system has them."""
    return tuple(each for each in signal.Signals if each.name in names)


PASSED_ON = signals_named("SIGUSR1", "SIGUSR2")
"""Signals that are passed on to the workers: the server has no use for them, so they are the plugins'."""

_FOR_THE_PARENT = (*signals_named("SIGINT", "SIGHUP"), *PASSED_ON)
"""What a terminal, or `pkill`, sends to all processes, and the first one decides about."""


class Bell:
    """Rings for signals while its block runs. There is one at a time in a process."""

    def __init__(self, *signals: int) -> None:
        self._signals = signals
        self._ours, self._theirs = socket.socketpair()
        self._before = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self._before.enter_context(self._ours)
        self._before.enter_context(self._theirs).setblocking(False)
        before = signal.set_wakeup_fd(self._theirs.fileno(), warn_on_full_buffer=False)
        self._before.callback(signal.set_wakeup_fd, before)
        for number in self._signals:
            self._before.callback(signal.signal, number, signal.signal(number, _nothing))
        return self

    def __exit__(self, *_: object) -> None:
        self._before.close()

    def wait(self, others: Iterable[int] = (), seconds: float | None = None) -> tuple[bytes, set[int]]:
        """Wait for signals, or for one of the other descriptors to be readable, `seconds` at most.

        Gives the numbers of the signals, and those of the others that are.
        """
        own = self._ours.fileno()
        with selectors.DefaultSelector() as selector:  # `select` takes no descriptor above 1023
            for descriptor in (own, *others):
                selector.register(descriptor, selectors.EVENT_READ)
            readable = {key.fd for key, _ in selector.select(seconds)}
        rung = self._ours.recv(65_536) if own in readable else b""
        return bytes(number for number in rung if number in self._signals), readable - {own}


class Pipe:
    """A pipe; its end of file tells that no process is left that has the write end."""

    def __init__(self) -> None:
        self.read_end, self.write_end = os.pipe()

    def read(self) -> bytes:
        """What has been written, none at the end of file; waits for either."""
        return os.read(self.read_end, 65_536)

    def write(self, data: bytes) -> None:
        """Write, if there is still a reader."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self.write_end, data)

    def close_read_end(self) -> None:
        """Leave the reading to others."""
        os.close(self.read_end)

    def close_write_end(self) -> None:
        """Leave the writing to others."""
        os.close(self.write_end)


def fork(body: Callable[[], int]) -> int:
    """Run `body` in a new process, which ends with the status it gives. Gives the process id.

    The new process ends by SIGTERM, and hears nothing of the signals that are its parent's,
    until `body` says otherwise.
    """
    _flush()
    # A signal that comes now waits in the parent, or until the child no longer has its parent's handlers.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
        if not pid:
            _become(body, mask)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return pid


def _become(body: Callable[[], int], mask: Iterable[int]) -> None:
    """Run `body` and end the process, whatever happens: the stack above is the parent's."""
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        for number in _FOR_THE_PARENT:
            signal.signal(number, _nothing)  # SIG_IGN would be inherited by the programs that plugins start
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        status = body()
    except BaseException:  # noqa: BLE001 - nothing may pass
        traceback.print_exc()
    finally:
        _flush()
        os._exit(status)


def _nothing(number: int, frame: object) -> None:
    del number, frame


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError):
            stream.flush()


def end_with(pipe: Pipe) -> None:
    """Send SIGTERM to this process when no process is left that writes to `pipe`."""

    def wait() -> None:
        pipe.read()
        signal.pthread_kill(main, signal.SIGTERM)

    main = threading.get_ident()
    threading.Thread(target=wait, daemon=True).start()


def send(pid: int, number: int) -> None:
    """Send a signal to a child; one that has ended has no use for it."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def ended(pids: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Which of these children have ended, and their exit codes; below 0 it is a signal.

    Asks for each of them: plugins may have children too.
    """
    for pid in list(pids):
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            yield pid, os.waitstatus_to_exitcode(status)


def in_words(code: int) -> str:
    """What a process has ended with."""
    if code >= 0:
        return f"status {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:  # a real-time signal
        return f"signal {-code}"


class Patience:
    """How long to wait before a process is started again."""

    LONG_LIFE = 10.0
    """Seconds after which a process counts as one that works: the next is started at once."""

    LONGEST = 60.0
    """Seconds between two starts, at most."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._started = clock()
        self._next = 0.0

    def begin(self) -> None:
        """A process begins."""
        self._started = self._clock()

    def after_death(self) -> float:
        """Seconds until the next one may begin: 0 at first, 1, 2, 4 … as long as they die soon."""
        if self._clock() - self._started >= self.LONG_LIFE:
            self._next = 0.0
        delay, self._next = self._next, min(max(1.0, 2 * self._next), self.LONGEST)
        return delay


def shown(delay: float) -> str:
    """A delay in words."""
    return f"in {delay:g} s" if delay else "at once"
