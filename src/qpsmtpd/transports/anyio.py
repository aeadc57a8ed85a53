"""The anyio driver, for asyncio and trio: callbacks for connections, a task for each hook that is waited for."""

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from functools import partial

import anyio
import anyio.to_thread

from qpsmtpd.session.effects import Await, CallBlocking
from qpsmtpd.site import Site
from qpsmtpd.transports.links import Finished, Hook, Links
from qpsmtpd.transports.reactor import Callback, Reactor, Timer
from qpsmtpd.transports.sockets import GRACE, Place, bind
from qpsmtpd.transports.tasks import Task

__all__ = ["Listening", "listen", "serve"]


class Listening(Links):
    """A running server."""

    def __init__(self, site: Site) -> None:
        super().__init__(site, Reactor(self._call_soon, self._call_later))
        self._serving = anyio.CancelScope(shield=True)  # `stop` ends it, and lets sessions finish before
        self._idle = anyio.Event()

    async def run(self) -> None:
        """Accept and serve until `stop`."""
        with self._serving:
            async with anyio.create_task_group() as self._tasks:
                with contextlib.closing(self.reactor) as reactor:
                    while True:
                        await anyio.wait_readable(reactor.fileno())
                        reactor.turn()

    def _call_soon(self, callback: Callback) -> None:
        async def call() -> None:
            callback()

        self._tasks.start_soon(call)

    def _call_later(self, delay: float, callback: Callback) -> Timer:
        return self._start(partial(anyio.sleep, max(delay, 0.0)), lambda task: task.cancelled() or callback())

    def _start(self, work: Callable[[], Awaitable[object]], finished: Callable[[Task], object]) -> Task:
        task = Task(work, anyio.CancelScope(), finished)
        self._tasks.start_soon(task.run)
        return task

    async def wait_until_idle(self, seconds: float) -> None:  # noqa: D102 - as in the base class
        self._idle = anyio.Event()
        with anyio.move_on_after(seconds):
            if self.links:
                await self._idle.wait()

    def went_idle(self) -> None:  # noqa: D102
        self._idle.set()

    def start_hook(self, effect: Await | CallBlocking, finished: Finished) -> Hook:  # noqa: D102
        return self._start(partial(_perform, effect), finished)

    def end(self) -> None:  # noqa: D102
        self._serving.cancel()


async def _perform(effect: Await | CallBlocking) -> object:
    if isinstance(effect, Await):
        return await effect.awaitable
    return await anyio.to_thread.run_sync(effect.function, abandon_on_cancel=True)


@contextlib.asynccontextmanager
async def listen(site: Site, addresses: Iterable[Place], *, grace: float = GRACE) -> AsyncGenerator[Listening, None]:
    """Serve while the block runs; at its end stop, as `Listening.stop` does. Raises OSError."""
    listening = Listening(site)
    listening.start(bind(addresses))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(listening.run)
        try:
            yield listening
        finally:
            with anyio.CancelScope(shield=True):
                await listening.stop(grace)


async def serve(
    site: Site,
    addresses: Iterable[Place],
    *,
    grace: float = GRACE,
    started: Callable[[Listening], object] | None = None,
) -> None:
    """Serve until cancelled. `started` is told when, and where, the server listens. Raises OSError."""
    async with listen(site, addresses, grace=grace) as listening:
        if started is not None:
            started(listening)
        await anyio.sleep_forever()
