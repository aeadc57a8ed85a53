"""The anyio driver, for asyncio and trio: callbacks for connections, a task for each hook that is waited for."""

import contextlib
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable
from functools import partial
from typing import Any

import anyio
import anyio.to_thread

from qpsmtpd.session.effects import Await, CallBlocking
from qpsmtpd.site import Site
from qpsmtpd.transports.links import Finished, Hook, Links
from qpsmtpd.transports.reactor import Reactor, Task
from qpsmtpd.transports.sockets import GRACE, Place, bind

__all__ = ["Listening", "listen", "serve"]


class Listening(Links):
    """A running server."""

    def __init__(self, site: Site) -> None:
        self._reactor = Reactor(self._start, anyio.sleep, anyio.wait_readable, anyio.CancelScope)
        super().__init__(site, self._reactor)
        self._serving = anyio.CancelScope(shield=True)  # `stop` ends it, and lets sessions finish before
        self._idle = anyio.Event()

    async def run(self) -> None:
        """Accept and serve until `stop`."""
        with self._serving:
            async with anyio.create_task_group() as self._tasks:
                await self._reactor.run()

    def _start(self, task: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._tasks.start_soon(task)

    async def wait_until_idle(self, seconds: float) -> None:  # noqa: D102 - as in the base class
        self._idle = anyio.Event()
        with anyio.move_on_after(seconds):
            if self.links:
                await self._idle.wait()

    def went_idle(self) -> None:  # noqa: D102
        self._idle.set()

    def start_hook(self, effect: Await | CallBlocking, finished: Finished) -> Hook:  # noqa: D102
        task = Task(partial(_perform, effect), anyio.CancelScope(), finished)
        self._start(task.run)
        return task

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
