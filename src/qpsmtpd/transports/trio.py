"""The trio driver: callbacks for connections, a task for each hook that is waited for."""

import contextlib
import math
from collections.abc import AsyncGenerator, Callable, Iterable
from functools import partial

import trio
import trio.lowlevel

from qpsmtpd.site import Site
from qpsmtpd.transports.sockets import GRACE, Place, bind
from qpsmtpd.transports.tasks import TaskLinks

__all__ = ["Listening", "listen", "serve"]


class Listening(TaskLinks):
    """A running server."""

    def __init__(self, site: Site) -> None:
        in_thread = partial(trio.to_thread.run_sync, abandon_on_cancel=True)
        super().__init__(site, trio.CancelScope, trio.sleep, in_thread)
        self._serving = trio.CancelScope(shield=True)  # `stop` ends it, and lets sessions finish before
        self._idle = trio.Event()

    async def run(self) -> None:
        """Accept and serve until `stop`."""
        with self._serving:
            async with trio.open_nursery() as nursery:
                await self.call_back(nursery.start_soon, trio.lowlevel.wait_readable)

    async def wait_until_idle(self, seconds: float) -> None:  # noqa: D102 - as in the base class
        self._idle = trio.Event()
        with trio.move_on_after(seconds):
            if self.links:
                await self._idle.wait()

    def went_idle(self) -> None:  # noqa: D102
        self._idle.set()

    def end(self) -> None:  # noqa: D102
        self._serving.cancel()


@contextlib.asynccontextmanager
async def listen(site: Site, addresses: Iterable[Place], *, grace: float = GRACE) -> AsyncGenerator[Listening, None]:
    """Serve while the block runs; at its end stop, as `Listening.stop` does. Raises OSError."""
    sockets = bind(addresses)
    listening = Listening(site)
    listening.start(sockets)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listening.run)
        try:
            yield listening
        finally:
            with trio.CancelScope(shield=True):
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
        await trio.sleep(math.inf)
