"""Callbacks for ready sockets where a loop has tasks only (trio, anyio): a loop within the loop.

One selector watches all sockets, and one task waits for it. So the loop around is asked once
for all sockets that are ready, and not once for each.
"""

import contextlib
import selectors
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractContextManager
from typing import Any, Protocol

from qpsmtpd.transports.links import Finished

__all__ = ["Reactor", "Scope", "Task"]

_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE

Callback = Callable[[], object]


class Scope(AbstractContextManager["Scope", bool | None], Protocol):
    """What can be cancelled, as trio and anyio have it."""

    def cancel(self) -> object:
        """End what runs in it."""
        ...

    @property
    def cancelled_caught(self) -> bool:
        """Whether that has happened."""
        ...


class Task:
    """Something that is waited for, in a task of its own: a `links.Hook`."""

    def __init__(self, work: Callable[[], Awaitable[object]], scope: Scope, finished: Finished) -> None:
        self._work = work
        self._scope = scope
        self._finished = finished
        self._result: object = None
        self._error: Exception | None = None

    async def run(self) -> None:
        """Do the work; then tell `finished`."""
        with self._scope:
            try:
                self._result = await self._work()
            except Exception as error:  # noqa: BLE001 - it is for those who wait
                self._error = error
        self._finished(self)

    def cancel(self) -> None:
        """End it."""
        self._scope.cancel()

    def cancelled(self) -> bool:
        """Whether it was ended before it was done."""
        return self._scope.cancelled_caught

    def exception(self) -> Exception | None:
        """What it has raised."""
        return self._error

    def result(self) -> object:
        """What it has given."""
        return self._result


class Reactor:
    """A `links.Loop`, made of tasks."""

    def __init__(
        self,
        start: Callable[[Callable[[], Coroutine[Any, Any, None]]], object],
        sleep: Callable[[float], Awaitable[object]],
        wait_readable: Callable[[int], Awaitable[object]],
        scope: Callable[[], Scope],
    ) -> None:
        """`start` starts a task that may outlive its caller; the others are as in trio."""
        self._start = start
        self._sleep = sleep
        self._wait_readable = wait_readable
        self._scope = scope
        self._selector = selectors.DefaultSelector()  # epoll or kqueue, which can be waited for like a socket
        self._watched: dict[int, list[Callback | None]] = {}  # who is called to read, and who to write
        self._soon: list[Callback] = []
        self._turning = False

    async def run(self) -> None:
        """Call back what is ready, until cancelled."""
        with contextlib.closing(self._selector) as selector:
            while True:
                await self._wait_readable(selector.fileno())
                self._turn()

    def _turn(self) -> None:
        self._turning = True
        for key, events in self._selector.select(0):
            callbacks: list[Callback | None] = key.data
            for event, callback in zip((_READ, _WRITE), callbacks, strict=True):
                if events & event and callback is not None:
                    callback()
        self._turning = False
        self._call_these()

    def _call_these(self) -> None:
        while self._soon:
            callbacks, self._soon = self._soon, []
            for callback in callbacks:
                callback()

    # As in `links.Loop`

    def call_soon(self, callback: Callback) -> None:  # noqa: D102
        async def call() -> None:
            self._call_these()

        self._soon.append(callback)
        if not self._turning:
            self._start(call)

    def call_later(self, delay: float, callback: Callback) -> Task:  # noqa: D102
        async def wait() -> None:
            await self._sleep(max(delay, 0.0))

        timer = Task(wait, self._scope(), lambda task: task.cancelled() or callback())
        self._start(timer.run)
        return timer

    def add_reader(self, fd: int, callback: Callback) -> None:  # noqa: D102
        self._watch(fd, 0, callback)

    def remove_reader(self, fd: int) -> None:  # noqa: D102
        self._watch(fd, 0, None)

    def add_writer(self, fd: int, callback: Callback) -> None:  # noqa: D102
        self._watch(fd, 1, callback)

    def remove_writer(self, fd: int) -> None:  # noqa: D102
        self._watch(fd, 1, None)

    def _watch(self, fd: int, place: int, callback: Callback | None) -> None:
        known = fd in self._watched
        callbacks = self._watched.setdefault(fd, [None, None])
        callbacks[place] = callback  # an event that has been found already looks here
        reader, writer = callbacks
        events = (_READ if reader is not None else 0) | (_WRITE if writer is not None else 0)
        if not events:
            del self._watched[fd]
            if known:
                self._selector.unregister(fd)
        elif known:
            self._selector.modify(fd, events, callbacks)
        else:
            self._selector.register(fd, events, callbacks)
