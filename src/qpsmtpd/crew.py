"""The workers of one load of the configuration, and the process that keeps them at work.

Theory of operation. The supervisor forks a process for each load of the configuration. It
loads the site, so that all modules of plugins are as new as it is, and forks the workers,
which share what it has loaded. A worker that dies is forked again, with the same code,
whatever is in the files meanwhile. At SIGTERM, or when the supervisor is gone, it ends its
workers and then itself.
"""

import contextlib
import signal
import time
from dataclasses import dataclass, field
from functools import partial

from qpsmtpd import daemon
from qpsmtpd.census import Regions, WorkerCensus
from qpsmtpd.config import ConfigError
from qpsmtpd.logs import LOGERROR, LOGNOTICE
from qpsmtpd.processes import PASSED_ON, Bell, Patience, Pipe, end_with, ended, fork, in_words, send, shown
from qpsmtpd.site import Site
from qpsmtpd.slots import Slots
from qpsmtpd.transports.sockets import LINGER

__all__ = ["Crew", "Post"]

_MARGIN = 5.0  # seconds that a worker may take, beyond what its sessions are given, before it is killed


@dataclass(frozen=True, slots=True)
class Post:
    """What the supervisor gives to a crew."""

    slots: Slots
    regions: Regions
    """The censuses of all workers; those of this crew begin at `first_region`."""
    first_region: int
    workers: int
    """How many workers."""
    supervisor: Pipe
    """Ends with the supervisor."""
    news: Pipe
    """To the supervisor: the announcement, when all workers serve. It ends with the last process of the crew."""
    initial: bool
    """Whether no crew has served before."""


@dataclass(slots=True)
class _Worker:
    """A slot, and the process in it."""

    number: int
    pid: int | None = None
    due: float = 0.0
    patience: Patience = field(default_factory=Patience)


class Crew:
    """A loaded site and the workers that serve it."""

    def __init__(self, site: Site, post: Post, backend: str, announcement: str) -> None:
        """`announcement` is what the supervisor prints when the first crew serves. Raises ConfigError, OSError."""
        daemon.check_backend(site, backend)
        site.spool_dir()  # one for all workers, and removed when the last has ended
        self._site = site
        self._post = post
        self._backend = backend
        self._announcement = announcement
        self._grace = site.number("timeoutshutdown")
        self._workers = [_Worker(number) for number in range(post.workers)]
        self._lifeline = Pipe()  # ends with this process, and its workers with it
        self._ready = Pipe()
        self._not_ready = set(range(post.workers))

    def keep(self) -> None:
        """Keep the workers at work until SIGTERM, or the end of the supervisor; then end them."""
        with Bell(signal.SIGTERM, signal.SIGCHLD, *PASSED_ON) as bell:
            self._keep(bell)
            self._end(bell)
        self._site.remove_spool_dir()

    def _keep(self, bell: Bell) -> None:
        supervisor = self._post.supervisor.read_end
        rung, readable = b"", set[int]()
        while signal.SIGTERM not in rung and supervisor not in readable:
            self._start_those_due()
            rung, readable = bell.wait((supervisor, self._ready.read_end), self._pause())
            self._bury()
            for number in set(PASSED_ON) & set(rung):
                self._send(number)
            if self._ready.read_end in readable:
                self._hear_ready()

    def _start_those_due(self) -> None:
        now = time.monotonic()
        for worker in self._workers:
            if worker.pid is None and worker.due <= now:
                worker.patience.begin()
                try:
                    worker.pid = fork(partial(self._work, worker.number))
                except OSError as error:  # no room for a process
                    self._plan(worker, f"did not start: {error.strerror}")

    def _pause(self) -> float | None:
        """Seconds until a worker is to be started; None if none is."""
        due = [worker.due for worker in self._workers if worker.pid is None]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _plan(self, worker: _Worker, how: str) -> None:
        delay = worker.patience.after_death()
        worker.due = time.monotonic() + delay
        self._site.log(LOGERROR, f"worker {worker.number} {how}; the next begins {shown(delay)}")

    def _bury(self, *, ending: bool = False) -> None:
        """Take note of the workers that have ended."""
        for pid, code in ended(worker.pid for worker in self._workers if worker.pid is not None):
            (worker,) = [worker for worker in self._workers if worker.pid == pid]
            worker.pid = None
            self._post.regions.clear(self._post.first_region + worker.number)
            how = f"({pid}) ended with {in_words(code)}"
            if not ending:
                self._plan(worker, how)
            elif code not in (0, -signal.SIGTERM):  # SIGTERM where it had not begun to serve
                self._site.log(LOGERROR, f"worker {worker.number} {how}")

    def _send(self, number: int) -> None:
        for worker in self._workers:
            if worker.pid is not None:
                send(worker.pid, number)

    def _hear_ready(self) -> None:
        """Tell the supervisor when each slot has had a worker that serves."""
        if not self._not_ready:
            self._ready.read()
            return
        self._not_ready.difference_update(self._ready.read())
        if self._not_ready:
            return
        if not self._post.initial:
            self._site.log(LOGNOTICE, f"loaded anew; {len(self._workers)} workers take over")
        self._post.news.write(self._announcement.encode())

    def _end(self, bell: Bell) -> None:
        """End the workers: in good order, or by force when their time is over."""
        self._post.slots.close()
        self._send(signal.SIGTERM)
        with contextlib.suppress(ConfigError):  # it may have been changed to something bad
            self._grace = self._site.number("timeoutshutdown")
        deadline = time.monotonic() + self._grace + LINGER + _MARGIN
        while any(worker.pid is not None for worker in self._workers):
            left = deadline - time.monotonic()
            if left <= 0:
                self._send(signal.SIGKILL)
            bell.wait((), left if left > 0 else None)
            self._bury(ending=True)

    # In a worker

    def _work(self, number: int) -> int:
        """Serve as the worker of a slot. Gives the exit status."""
        self._lifeline.close_write_end()
        end_with(self._lifeline)
        site, post = self._site, self._post
        site.census = WorkerCensus(post.regions, post.first_region + number)
        try:
            daemon.serve(
                site,
                self._backend,
                post.slots.take(number),
                lambda _: self._ready.write(bytes((number,))),
                (signal.SIGTERM,),  # the others are the supervisor's
            )
        except Exception:  # noqa: BLE001 - the log is where it belongs
            site.log_failure("", "", "serving")
            return 1
        return 0
