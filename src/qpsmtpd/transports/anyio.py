"""The anyio driver: a task for each connection, on asyncio or trio under anyio.

It waits for plain sockets to be ready. On asyncio, anyio's own streams read on without a bound
while nobody receives, if the client has sent before the first `receive`.
"""

import contextlib
import socket
from collections.abc import AsyncGenerator, Callable, Iterable

import anyio
import anyio.abc
import anyio.lowlevel
import anyio.to_thread

from qpsmtpd.session.effects import (
    SHUTTING_DOWN,
    TIMED_OUT,
    Await,
    CallBlocking,
    Close,
    Effect,
    Flush,
    Interruption,
    Pause,
    Receive,
)
from qpsmtpd.session.role import Role
from qpsmtpd.session.session import Session
from qpsmtpd.site import Site
from qpsmtpd.transports.sockets import GRACE, LINGER, RECEIVE_SIZE, Bound, Place, bind, bound_address, no_delay, peer_of

__all__ = ["Listening", "listen", "serve"]


class Listening:
    """A running server."""

    def __init__(self, site: Site, sockets: Iterable[Bound]) -> None:
        self._site = site
        self._sockets = list(sockets)
        self.addresses = [bound_address(listener) for listener, _ in self._sockets]
        """Where it listens."""
        self._accepting = anyio.CancelScope()
        self._accepted = anyio.Event()
        self._serving = anyio.CancelScope()
        self._links: set[_Link] = set()
        self._idle = anyio.Event()

    async def run(self) -> None:
        """Accept and serve until `stop`."""
        with self._serving:
            async with anyio.create_task_group() as sessions:
                try:
                    with self._accepting:
                        async with anyio.create_task_group() as listeners:
                            for listener, role in self._sockets:
                                listeners.start_soon(self._accept, listener, role, sessions)
                finally:
                    self._accepted.set()

    async def stop(self, grace: float = GRACE) -> None:
        """Accept no more; let sessions finish for `grace` seconds, then tell them 421."""
        self._accepting.cancel()
        await self._accepted.wait()
        await anyio.lowlevel.checkpoint()  # who was accepted just now is in `_links` then
        for seconds in (grace, LINGER):
            with anyio.move_on_after(seconds):
                while self._links:
                    self._idle = anyio.Event()
                    await self._idle.wait()
            for link in self._links:
                link.shut_down()
        self._serving.cancel()

    async def _accept(self, listener: socket.socket, role: Role, sessions: anyio.abc.TaskGroup) -> None:
        with listener:
            while True:
                await anyio.wait_readable(listener)
                try:
                    connection, _ = listener.accept()
                except BlockingIOError:
                    continue
                except OSError as error:  # out of descriptors, or a client that has gone
                    self._site.log_failure("", "", f"accepting a connection ({error.strerror})")
                    await anyio.sleep(0.1)
                    continue
                connection.setblocking(False)
                sessions.start_soon(self._serve, connection, role)

    async def _serve(self, connection: socket.socket, role: Role) -> None:
        with connection:
            link = _Link(self._site, connection, role)
            self._links.add(link)
            try:
                await link.drive()
            except Exception:  # noqa: BLE001 - a fault of ours must not take other sessions along
                self._site.log_failure("", "", "the session")
            finally:
                self._links.discard(link)
                if not self._links:
                    self._idle.set()


class _Link:
    """One connection: the session's effects performed by anyio."""

    def __init__(self, site: Site, connection: socket.socket, role: Role) -> None:
        no_delay(connection)
        self._socket = connection
        self._session = Session(site, peer_of(connection), role)
        self._scope: anyio.CancelScope | None = None
        self._stopping = False

    async def drive(self) -> None:
        """Drive the session to its end."""
        run = self._session.run()
        step: Callable[..., Effect] = run.send
        outcome: object = None
        with contextlib.closing(run), contextlib.suppress(StopIteration):
            while True:
                effect = step(outcome)
                try:
                    outcome, step = await self._perform(effect), run.send
                except Exception as error:  # noqa: BLE001 - it is the session's to handle
                    outcome, step = error, run.throw

    def shut_down(self) -> None:
        """Tell the client 421 as soon as the session listens to it."""
        self._stopping = True
        if self._scope is not None:
            self._scope.cancel()

    async def _perform(self, effect: Effect) -> object:
        match effect:
            case Receive(timeout=seconds):
                return await self._transfer(seconds, read=True)
            case Flush(timeout=seconds):
                return await self._transfer(seconds, read=False)
            case Pause(seconds=seconds, until_input=until_input):
                outcome = await self._transfer(seconds, read=until_input)
                if not until_input:
                    await anyio.sleep(seconds)
                return outcome if isinstance(outcome, bytes) else b""
            case Await(awaitable=awaitable, timeout=seconds):
                with anyio.fail_after(seconds):
                    return await awaitable
            case CallBlocking(function=function, timeout=seconds):
                with anyio.fail_after(seconds):
                    return await anyio.to_thread.run_sync(function, abandon_on_cancel=True)
            case Close(linger=linger):
                await self._close(linger=linger)
                return None

    async def _transfer(self, seconds: float, *, read: bool) -> object:
        """Write what there is, then read if asked to."""
        if self._stopping:
            return SHUTTING_DOWN
        with anyio.move_on_after(seconds) as scope:
            self._scope = scope
            try:
                await self._write()
                return await self._read() if read else None
            except OSError:  # a client that vanishes is a client that has finished
                return b"" if read else None
            finally:
                self._scope = None
        return self._interruption()

    def _interruption(self) -> Interruption:
        return SHUTTING_DOWN if self._stopping else TIMED_OUT

    async def _read(self) -> bytes:
        while True:
            await anyio.wait_readable(self._socket)
            with contextlib.suppress(BlockingIOError):
                return self._socket.recv(RECEIVE_SIZE)

    async def _write(self) -> None:
        data = memoryview(self._session.data_to_send())
        while data:
            try:
                data = data[self._socket.send(data) :]
            except BlockingIOError:
                await anyio.wait_writable(self._socket)

    async def _close(self, *, linger: bool) -> None:
        with anyio.move_on_after(LINGER), contextlib.suppress(OSError):
            await self._write()
            if linger:
                self._socket.shutdown(socket.SHUT_WR)
                while await self._read():
                    pass
        self._socket.close()


@contextlib.asynccontextmanager
async def listen(site: Site, addresses: Iterable[Place], *, grace: float = GRACE) -> AsyncGenerator[Listening, None]:
    """Serve while the block runs; at its end stop, as `Listening.stop` does. Raises OSError."""
    listening = Listening(site, bind(addresses))
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
