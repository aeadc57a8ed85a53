"""What the drivers of trio and anyio share: a task for the reactor, and for each hook that is waited for."""

from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Protocol

from qpsmtpd.session.effects import Await, CallBlocking
from qpsmtpd.site import Site
from qpsmtpd.transports.links import Finished, Links, Work
from qpsmtpd.transports.reactor import Callback, Reactor, Timer

__all__ = ["Scope", "Task", "TaskLinks"]


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
    """Something that is waited for, in a task of its own: a `links.Work`."""

    def __init__(self, work: Callable[[], Awaitable[object]], scope: Scope, finished: Finished) -> None:
        self._work = work
        self._scope = scope
        self._finished = finished
        self._result: object = None
        self._error: Exception | None = None
        self._lost = False

    async def run(self) -> None:
        """Do the work; then tell `finished`."""
        try:
            with self._scope:
                try:
                    self._result = await self._work()
                except Exception as error:  # noqa: BLE001 - it is for those who wait
                    self._error = error
        except (KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except BaseException:  # noqa: BLE001 - it was cancelled by others: the end of this work, and of no other
            self._lost = True
        self._finished(self)

    def cancel(self) -> None:
        """End it."""
        self._scope.cancel()

    def cancelled(self) -> bool:
        """Whether it was ended before it was done."""
        return self._lost or self._scope.cancelled_caught

    def exception(self) -> Exception | None:
        """What it has raised."""
        return self._error

    def result(self) -> object:
        """What it has given."""
        return self._result


class TaskLinks(Links):
    """A running server in a loop that has tasks only."""

    _spawn: Callable[[Callable[[], Coroutine[Any, Any, None]]], object]
    """Starts a task."""

    def __init__(
        self,
        site: Site,
        scope: Callable[[], Scope],
        sleep: Callable[[float], Awaitable[object]],
        call_in_thread: Callable[[Callable[[], object]], Awaitable[object]],
    ) -> None:
        super().__init__(site, Reactor(self._call_soon, self._call_later))
        self._scope = scope
        self._sleep = sleep
        self._call_in_thread = call_in_thread

    async def call_back(
        self,
        spawn: Callable[[Callable[[], Coroutine[Any, Any, None]]], object],
        wait_readable: Callable[[int], Awaitable[object]],
    ) -> None:
        """Call back what is ready, until cancelled; tasks are started by `spawn`."""
        self._spawn = spawn
        try:
            while True:
                await wait_readable(self.reactor.fileno())
                try:
                    self.reactor.turn()
                except Exception:  # noqa: BLE001 - a fault of ours must not take the server along
                    self.site.log_failure("", "", "the driver")
        finally:
            self.abort_all()  # nobody would call them back
            self.reactor.close()

    def start_work(self, effect: Await | CallBlocking, finished: Finished) -> Work:  # noqa: D102 - as in the base class
        return self._start(partial(self._perform, effect), finished)

    async def _perform(self, effect: Await | CallBlocking) -> object:
        if isinstance(effect, Await):
            return await effect.awaitable
        return await self._call_in_thread(effect.function)

    def _start(self, work: Callable[[], Awaitable[object]], finished: Callable[[Task], object]) -> Task:
        task = Task(work, self._scope(), finished)
        self._spawn(task.run)
        return task

    def _call_soon(self, callback: Callback) -> None:
        async def call() -> None:
            callback()

        self._spawn(call)

    def _call_later(self, delay: float, callback: Callback) -> Timer:
        return self._start(partial(self._sleep, max(delay, 0.0)), lambda task: task.cancelled() or callback())
