"""The asyncio driver: a `BufferedProtocol`, without a task for each connection.

The session is driven from the loop's own callbacks; a task is made only where a hook is to
be awaited. All connections of a server read into one buffer: between `get_buffer` and
`buffer_updated` nothing else runs.
"""

import asyncio
import contextlib
import socket
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from functools import partial
from typing import cast

from qpsmtpd.session.effects import (
    SHUTTING_DOWN,
    TIMED_OUT,
    Await,
    CallBlocking,
    Close,
    Effect,
    Flush,
    Pause,
    Receive,
)
from qpsmtpd.session.role import Role
from qpsmtpd.session.session import Session
from qpsmtpd.site import Site
from qpsmtpd.transports.sockets import (
    BACKLOG,
    GRACE,
    LINGER,
    RECEIVE_SIZE,
    Address,
    Bound,
    Place,
    bind,
    bound_address,
    peer_of,
)

__all__ = ["Listening", "listen", "serve"]

_PENDING = object()


class Listening:
    """A running server."""

    def __init__(self, site: Site) -> None:
        self.addresses: list[Address] = []
        """Where it listens."""
        self._site = site
        self._servers: list[asyncio.Server] = []
        self._links: set[_Link] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._buffer = memoryview(bytearray(RECEIVE_SIZE))

    async def start(self, sockets: Iterable[Bound]) -> None:
        """Begin to accept on these sockets."""
        loop = asyncio.get_running_loop()
        for listener, role in sockets:
            self.addresses.append(bound_address(listener))
            create: Callable[..., Awaitable[asyncio.Server]] = loop.create_server
            if listener.family == socket.AF_UNIX:
                create = loop.create_unix_server
                if sys.version_info >= (3, 13):  # its file is not ours to remove: others may listen still
                    create = partial(create, cleanup_socket=False)
            self._servers.append(await create(partial(self._make_link, role), sock=listener, backlog=BACKLOG))

    async def stop(self, grace: float = GRACE) -> None:
        """Accept no more; let sessions finish for `grace` seconds, then tell them 421."""
        # A server that is closed loses whom it has accepted just now and not made a protocol for.
        loop = asyncio.get_running_loop()
        for listener in [listener for server in self._servers for listener in server.sockets]:
            with contextlib.suppress(NotImplementedError):  # on Windows
                loop.remove_reader(listener)
        await asyncio.sleep(0)
        for server in self._servers:
            server.close()
        for seconds in (grace, LINGER):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), seconds)
            for link in list(self._links):
                link.shut_down()
        for link in list(self._links):
            link.abort()

    def _make_link(self, role: Role) -> "_Link":
        link = _Link(self._site, role, self._buffer, self._forget)
        self._links.add(link)
        self._idle.clear()
        return link

    def _forget(self, link: "_Link") -> None:
        self._links.discard(link)
        if not self._links:
            self._idle.set()


class _Link(asyncio.BufferedProtocol):
    """One connection: the session's effects performed with asyncio's callbacks.

    Either the session waits (`_waiting` is its effect), and the next callback that fits
    goes on with it; or it does not, and what comes meanwhile is held in `_held`.
    """

    def __init__(self, site: Site, role: Role, buffer: memoryview, forget: Callable[["_Link"], None]) -> None:
        self._site = site
        self._role = role
        self._buffer = buffer
        self._forget = forget
        self._loop = asyncio.get_running_loop()
        self._waiting: Effect | None = None
        self._held = b""
        self._eof = False
        self._stopping = False
        self._blocked = False  # the peer does not read
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._closing: asyncio.TimerHandle | None = None
        self._reading = True
        self._closed = self._lost = self._done = False

    # What the loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        try:
            self._session = Session(self._site, peer_of(self._transport.get_extra_info("socket")), self._role)
        except Exception:  # noqa: BLE001 - settings that have gone bad
            self._site.log_failure("", "", "beginning a session")
            self._done = True
            self._transport.abort()
        else:
            self._run = self._session.run()
            self._go(self._run.send, None)

    def get_buffer(self, sizehint: int) -> memoryview:
        del sizehint
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self._closed:
            return
        data = bytes(self._buffer[:nbytes])
        waiting = self._waiting
        if self._reads(waiting) and not self._blocked:
            self._go(self._run.send, data)
        else:
            self._held += data
            self._set_reading(False)

    def eof_received(self) -> bool:
        self._eof = True
        if self._closed:
            return False
        if isinstance(self._waiting, Receive) and not self._blocked:
            self._go(self._run.send, b"")
        return not self._closed

    def pause_writing(self) -> None:
        self._blocked = True

    def resume_writing(self) -> None:
        self._blocked = False
        if isinstance(self._waiting, Receive | Flush):
            self._go_on_with(self._waiting)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc  # a client that vanishes is a client that has finished
        self._eof = self._closed = self._lost = True
        self._blocked = False
        if isinstance(self._waiting, Receive | Flush | Pause):
            self._go(self._run.send, b"")
        self._end_if_done()

    # What the server calls

    def shut_down(self) -> None:
        """Tell the client 421 as soon as the session listens to it."""
        self._stopping = True
        if isinstance(self._waiting, Receive | Flush):
            self._go(self._run.send, SHUTTING_DOWN)

    def abort(self) -> None:
        """End the session at once."""
        if self._task is not None:
            self._task.cancel()
        if not self._done:
            self._run.close()
        self._waiting, self._done = None, True
        self._transport.abort()

    # The session's effects

    def _go(self, step: Callable[..., Effect], outcome: object) -> None:
        """Drive the session until it waits for something."""
        self._waiting = None
        try:
            while True:
                effect = step(outcome)
                step = self._run.send
                data = self._session.data_to_send()
                if data and not self._lost:
                    self._transport.write(data)
                outcome = self._begin(effect)
                if outcome is _PENDING:
                    self._waiting = effect
                    return
        except StopIteration:
            self._done = True
        except Exception:  # noqa: BLE001 - a fault of ours must not take other sessions along
            self._site.log_failure("", "", "the session")
            self._done = True
            self._transport.abort()
        self._end_if_done()

    def _begin(self, effect: Effect) -> object:
        """Perform an effect, or begin to: `_PENDING` says that a callback goes on with it."""
        match effect:
            case Receive(timeout=seconds) | Flush(timeout=seconds) | Pause(seconds=seconds):
                return self._ready(effect, seconds)
            case Await() | CallBlocking():
                self._task = self._loop.create_task(self._perform(effect))
                return _PENDING
            case Close(linger=linger):
                self._close(linger=linger)
                return None

    def _ready(self, effect: Receive | Flush | Pause, seconds: float) -> object:
        """What an effect that waits for the peer has come to, or `_PENDING`."""
        if self._stopping and not isinstance(effect, Pause):
            return SHUTTING_DOWN
        if not self._blocked:
            if isinstance(effect, Flush):
                return None
            if self._reads(effect):
                if self._held:
                    data, self._held = self._held, b""
                    return data
                if self._eof and isinstance(effect, Receive):
                    return b""
                self._set_reading(True)
        self._deadline = self._loop.time() + seconds
        if self._timer is None or self._timer.when() > self._deadline:
            self._set_timer()
        return _PENDING

    def _reads(self, effect: Effect | None) -> bool:
        return isinstance(effect, Receive) or (isinstance(effect, Pause) and effect.until_input)

    def _go_on_with(self, effect: Receive | Flush) -> None:
        outcome = self._ready(effect, max(0.0, self._deadline - self._loop.time()))
        if outcome is not _PENDING:
            self._go(self._run.send, outcome)

    async def _perform(self, effect: Await | CallBlocking) -> None:
        try:
            async with asyncio.timeout(effect.timeout):
                if isinstance(effect, Await):
                    outcome = await effect.awaitable
                else:
                    outcome = await self._loop.run_in_executor(None, effect.function)
        except Exception as error:  # noqa: BLE001 - it is the session's to handle
            self._go(self._run.throw, error)
        else:
            self._go(self._run.send, outcome)

    # One timer a connection: a later deadline leaves it where it is, and it looks again.

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(self._deadline, self._expired)

    def _expired(self) -> None:
        self._timer = None
        if isinstance(self._waiting, Receive | Flush | Pause):
            if self._loop.time() < self._deadline:
                self._set_timer()
            else:
                self._go(self._run.send, b"" if isinstance(self._waiting, Pause) else TIMED_OUT)

    def _set_reading(self, reading: bool) -> None:
        if reading is not self._reading and not self._eof:
            self._reading = reading
            (self._transport.resume_reading if reading else self._transport.pause_reading)()

    def _close(self, *, linger: bool) -> None:
        if self._closed:
            return
        self._closed = True
        if linger and not self._eof and self._transport.can_write_eof():
            self._set_reading(True)
            try:
                self._transport.write_eof()
            except OSError:  # the client has gone, and the loop has not said so yet
                self._transport.abort()
        else:
            self._transport.close()
        if linger or self._transport.get_write_buffer_size():
            self._closing = self._loop.call_later(LINGER if linger else GRACE, self._transport.abort)

    def _end_if_done(self) -> None:
        if not (self._done and self._lost):
            return
        for timer in (self._timer, self._closing):
            if timer is not None:
                timer.cancel()
        self._forget(self)


@contextlib.asynccontextmanager
async def listen(site: Site, addresses: Iterable[Place], *, grace: float = GRACE) -> AsyncGenerator[Listening, None]:
    """Serve while the block runs; at its end stop, as `Listening.stop` does. Raises OSError."""
    listening = Listening(site)
    await listening.start(bind(addresses))
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
