"""`qpsmtpd run --workers N`: the process that is there from the first to the last.

    supervisor        opens the listeners and the memory of the census; hears signals
      └─ crew         loads the configuration and the plugins; keeps its workers at work
           ├─ worker  serves
           └─ worker

It runs no plugin and reads no setting, so there is nothing in it that could become stale, or
could hurt it. To load anew is to fork a second crew, and to end the first when all workers
of the second serve; a crew that cannot be loaded says why, and ends. All use the sockets
that the supervisor opened and holds, so no connection is refused or reset meanwhile.

News of a crew come through a pipe, whose end tells that its last process has ended, even if
the crew's own was killed.
"""

import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from qpsmtpd.census import Regions
from qpsmtpd.crew import Post
from qpsmtpd.daemon import ENDING
from qpsmtpd.logs import message, write_stderr
from qpsmtpd.processes import PASSED_ON, Bell, Patience, Pipe, ended, fork, in_words, send, shown
from qpsmtpd.slots import Slots
from qpsmtpd.transports.sockets import Place

__all__ = ["MOST_WORKERS", "supervise"]

MOST_WORKERS = 256

_CREWS = 4
"""Crews at a time: one that serves, one that begins, and some that end. A further reload waits."""


def supervise(
    places: Sequence[Place], workers: int, crew: Callable[[Post], int], announce: Callable[[str], object]
) -> int:
    """Serve with `workers` processes until SIGTERM or SIGINT; SIGHUP loads anew. Gives the exit status.

    `crew` is run in a process of its own for each load, and gives its exit status. `announce`
    is given the announcement of the first that serves. Raises OSError for an address that
    cannot be listened on.
    """
    with Bell(*ENDING, signal.SIGHUP, signal.SIGCHLD, *PASSED_ON) as bell:
        slots = Slots(places, workers)
        try:
            return _Supervisor(slots, workers, crew, announce).run(bell)
        finally:
            slots.close()
            slots.remove_unix()


@dataclass(slots=True, eq=False)
class _Child:
    """A crew, as seen from here."""

    news: Pipe
    block: int
    """Which part of the regions its workers have."""
    pid: int | None = None
    """None when it has ended; its workers may still be there."""


class _Supervisor:
    def __init__(
        self, slots: Slots, workers: int, crew: Callable[[Post], int], announce: Callable[[str], object]
    ) -> None:
        self._slots = slots
        self._workers = workers
        self._crew = crew
        self._announce = announce
        self._regions = Regions(workers * _CREWS)
        self._lifeline = Pipe()  # ends with this process, and the crews with it
        self._patience = Patience()
        self._children: list[_Child] = []
        self._serving: _Child | None = None
        self._coming: _Child | None = None
        self._due: float | None = 0.0  # when to start a crew
        self._has_served = False
        self._failure: int | None = None  # the exit status, if the first crew does not come to serve

    def run(self, bell: Bell) -> int:
        rung = b""
        while self._failure is None and not any(number in rung for number in ENDING):
            self._start_if_due()
            rung = self._wait(bell)
            for number in set(PASSED_ON) & set(rung):
                self._send(number)
            if signal.SIGHUP in rung:
                self._begin_anew()
        self._end(bell)
        return self._failure or 0

    def _wait(self, bell: Bell) -> bytes:
        """Wait for something to happen, and take note of what it says about crews. Gives the signals."""
        rung, readable = bell.wait([child.news.read_end for child in self._children], self._pause())
        for child in [child for child in self._children if child.news.read_end in readable]:
            self._hear(child)
        for pid, code in ended(child.pid for child in self._children if child.pid is not None):
            (child,) = [child for child in self._children if child.pid == pid]
            self._bury(child, code)
        return rung

    def _pause(self) -> float | None:
        """Seconds until a crew is to be started; None if none is, or there is no room yet."""
        if self._due is None or self._free_block() is None:
            return None
        return max(0.0, self._due - time.monotonic())

    def _free_block(self) -> int | None:
        return next(iter(set(range(_CREWS)) - {child.block for child in self._children}), None)

    def _start_if_due(self) -> None:
        block = self._free_block()
        if self._due is None or block is None or self._due > time.monotonic():
            return
        self._due = None
        self._patience.begin()
        child = _Child(Pipe(), block)
        post = Post(
            slots=self._slots,
            regions=self._regions,
            first_region=block * self._workers,
            workers=self._workers,
            supervisor=self._lifeline,
            news=child.news,
            initial=not self._has_served,
        )
        try:
            child.pid = fork(partial(self._become_crew, post))
        except OSError as error:  # no room for a process
            child.news.close_read_end()
            self._start_later(f"cannot start: {error.strerror}")
        else:
            self._children.append(child)
            self._coming = child
        child.news.close_write_end()

    def _become_crew(self, post: Post) -> int:
        self._lifeline.close_write_end()
        post.news.close_read_end()
        return self._crew(post)

    def _start_later(self, why: str) -> None:
        delay = self._patience.after_death()
        self._due = time.monotonic() + delay
        _log(f"{why}; trying again {shown(delay)}")

    def _begin_anew(self) -> None:
        """Start a crew as soon as there is room. One that has not come to serve yet is out of date."""
        if self._coming is not None:
            self._dismiss(self._coming)
            self._coming = None
        self._due = time.monotonic()
        if self._free_block() is None:
            _log("several earlier crews are still ending; loading anew waits for one of them")

    def _dismiss(self, child: _Child) -> None:
        if child.pid is not None:
            send(child.pid, signal.SIGTERM)

    def _send(self, number: int) -> None:
        for child in self._children:
            if child.pid is not None:
                send(child.pid, number)

    def _hear(self, child: _Child) -> None:
        """Take note of what comes from a crew: all its workers serve, or its last process has ended."""
        announcement = child.news.read()
        if not announcement:
            child.news.close_read_end()
            self._children.remove(child)
            for region in range(child.block * self._workers, (child.block + 1) * self._workers):
                self._regions.clear(region)
            if child.pid is not None:  # it holds the pipe too, so it has ended
                self._bury(child, os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1]))
        elif child is self._coming:
            before, self._serving, self._coming = self._serving, child, None
            if not self._has_served:
                self._announce(announcement.decode())
                self._has_served = True
            if before is not None:
                self._dismiss(before)

    def _bury(self, child: _Child, code: int) -> None:
        """Take note that the process of a crew has ended; what it has to say it has said itself."""
        child.pid = None
        if child is self._coming:
            self._coming = None
        elif child is self._serving:
            self._serving = None
        else:
            return
        if self._serving is not None:
            if code < 0:
                _log(f"not loaded anew: {in_words(code)} ended it")
        elif not self._has_served:
            self._failure = max(code, 1)
        elif self._coming is None and self._due is None:
            self._start_later(f"the process that keeps the workers ended with {in_words(code)}")

    def _end(self, bell: Bell) -> None:
        """End all crews; each sees that its workers end."""
        self._slots.close()
        self._due = None
        self._serving = self._coming = None
        self._send(signal.SIGTERM)
        while self._children:
            self._wait(bell)


def _log(text: str) -> None:
    """Write to standard error: the plugins that log are the crews'."""
    write_stderr(f"[{os.getpid()}] {message('', '', text)}\n")
