"""The asyncio driver, for every loop that can watch a descriptor; where there is epoll or kqueue."""

import asyncio
import concurrent.futures
import contextlib
from collections.abc import AsyncGenerator, Callable, Iterable
from functools import partial

from qpsmtpd.session.effects import Await, CallBlocking
from qpsmtpd.site import Site
from qpsmtpd.transports.links import Finished, Links, Work
from qpsmtpd.transports.reactor import Reactor
from qpsmtpd.transports.sockets import GRACE, THREADS, Place, bind

__all__ = ["Listening", "listen", "serve"]


class Listening(Links):
    """A running server."""

    def __init__(self, site: Site) -> None:
        self._loop = asyncio.get_running_loop()
        reactor = Reactor(self._loop.call_soon, self._loop.call_later)
        self._loop.add_reader(reactor.fileno(), reactor.turn)
        super().__init__(site, reactor)
        self._threads = concurrent.futures.ThreadPoolExecutor(THREADS, "qpsmtpd")
        self._idle = asyncio.Event()

    async def wait_until_idle(self, seconds: float) -> None:  # noqa: D102 - as in the base class
        self._idle.clear()
        with contextlib.suppress(TimeoutError):
            if self.links:
                await asyncio.wait_for(self._idle.wait(), seconds)

    def went_idle(self) -> None:  # noqa: D102
        self._idle.set()

    def start_work(self, effect: Await | CallBlocking, finished: Finished) -> Work:  # noqa: D102
        if isinstance(effect, Await):
            task = asyncio.ensure_future(effect.awaitable)
            task.add_done_callback(finished)
            return task
        future = self._threads.submit(effect.function)
        future.add_done_callback(partial(self._finished_in_thread, finished))
        return future

    def _finished_in_thread(self, finished: Finished, future: concurrent.futures.Future[object]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody waits any more
            self._loop.call_soon_threadsafe(finished, future)

    def end(self) -> None:  # noqa: D102
        self._loop.remove_reader(self.reactor.fileno())
        self.reactor.close()
        self._threads.shutdown(wait=False, cancel_futures=True)


@contextlib.asynccontextmanager
async def listen(site: Site, addresses: Iterable[Place], *, grace: float = GRACE) -> AsyncGenerator[Listening, None]:
    """Serve while the block runs; at its end stop, as `Listening.stop` does. Raises OSError."""
    sockets = bind(addresses)
    listening = Listening(site)
    listening.start(sockets)
    try:
        yield listening
    finally:
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
        await asyncio.Event().wait()
