"""The anyio driver: a task for each connection, on asyncio or trio under anyio.

It waits for plain sockets to be ready. On asyncio, anyio's own streams read on without a bound
while nobody receives, if the client has sent before the first `receive`.
"""

import contextlib
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable

import anyio
import anyio.abc
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
from qpsmtpd.transports.sockets import (
    GRACE,
    LINGER,
    RECEIVE_SIZE,
    RETRY,
    Bound,
    Place,
    bind,
    bound_address,
    peer_of,
)

__all__ = ["Listening", "listen", "serve"]


class Listening:
    """A running server."""

    def __init__(self, site: Site, sockets: Iterable[Bound]) -> None:
        self._site = site
        self.sockets = list(sockets)
        self.addresses = [bound_address(listener) for listener, _ in self.sockets]
        """Where it listens."""
        self._accepting = anyio.CancelScope()
        self._serving = anyio.CancelScope()
        self._links: set[_Link] = set()
        self._idle = anyio.Event()
        self._to_write: list[_Link] = []  # once all tasks have run that are ready now
        self._writing = anyio.Event()

    async def run(self) -> None:
        """Accept and serve until `stop`."""
        with self._serving:
            async with anyio.create_task_group() as sessions:
                sessions.start_soon(self._write_all)
                with self._accepting:
                    async with anyio.create_task_group() as listeners:
                        for listener, role in self.sockets:
                            listeners.start_soon(self._accept, listener, role, sessions)

    async def stop(self, grace: float = GRACE) -> None:
        """Accept no more; let sessions finish for `grace` seconds, then tell them 421."""
        self._accepting.cancel()
        for seconds in (grace, LINGER):
            with anyio.move_on_after(seconds):
                while self._links:
                    self._idle = anyio.Event()
                    await self._idle.wait()
            for link in self._links:
                link.shut_down()
        self._serving.cancel()

    def write_soon(self, link: "_Link") -> None:
        """Have a connection `flush` once all tasks have run that are ready now.

        What they say is then written together: the first reply wakes the clients' process, and
        the others find it awake.
        """
        if not self._to_write:
            self._writing.set()
        self._to_write.append(link)

    async def _write_all(self) -> None:
        while True:
            await self._writing.wait()
            self._writing = anyio.Event()
            links, self._to_write = self._to_write, []
            for link in links:
                link.flush()

    async def _accept(self, listener: socket.socket, role: Role, sessions: anyio.abc.TaskGroup) -> None:
        with listener:
            while True:
                await anyio.wait_readable(listener)
                if self._accepting.cancel_called:  # one that is awake already is not cancelled
                    return
                try:
                    connection, _ = listener.accept()
                except (BlockingIOError, ConnectionAbortedError):
                    continue
                except OSError as error:  # out of descriptors: give it a moment
                    self._site.log_failure("", "", f"accepting a connection ({error.strerror})")
                    await anyio.sleep(RETRY)
                    continue
                self._begin(connection, role, sessions)

    def _begin(self, connection: socket.socket, role: Role, sessions: anyio.abc.TaskGroup) -> None:
        """Start a session, which is known from now on: `stop` must not overlook it."""
        try:
            connection.setblocking(False)
            link = _Link(self, self._site, connection, role)
        except Exception:  # noqa: BLE001 - settings that have gone bad
            self._site.log_failure("", "", "beginning a session")
            connection.close()
        else:
            self._links.add(link)
            sessions.start_soon(self._serve, link)

    async def _serve(self, link: "_Link") -> None:
        try:
            with link.socket:
                await link.drive()
        except Exception:  # noqa: BLE001 - a fault of ours must not take other sessions along
            self._site.log_failure("", "", "the session")
        finally:
            self._links.discard(link)
            if not self._links:
                self._idle.set()


class _Link:
    """One connection: the session's effects performed by anyio.

    A cancel scope costs as much as the rest of a read, so one serves for many: if it ends a wait
    too early, as the deadline has been put off meanwhile, the wait goes on in a new one. Nothing
    is awaited between waiting and reading, so that nothing is lost then.
    """

    def __init__(self, owner: Listening, site: Site, connection: socket.socket, role: Role) -> None:
        self.socket = connection
        self._owner = owner
        self._session = Session(site, peer_of(connection), role)
        self._unsent = b""
        self._stuck = False  # the client does not take what is unsent
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
                if isinstance(effect, Receive):
                    effect = await self._converse(run.send, effect)
                try:
                    outcome, step = await self._perform(effect), run.send
                except Exception as error:  # noqa: BLE001 - it is the session's to handle
                    outcome, step = error, run.throw

    def shut_down(self) -> None:
        """Tell the client 421 as soon as the session listens to it."""
        self._stopping = True
        if self._scope is not None:
            self._scope.cancel()

    def flush(self) -> None:
        """Write what the session has said; what the client does not take is waited for before anything is read."""
        self._stuck = self._send()
        if self._stuck and self._scope is not None:
            self._scope.cancel()

    async def _converse(self, step: Callable[[object], Effect], effect: Effect) -> Effect:
        """Write and read until the session wants something else; it does so before it ends."""
        while isinstance(effect, Receive):
            deadline = anyio.current_time() + effect.timeout
            while not self._stopping and anyio.current_time() < deadline:
                with anyio.CancelScope(deadline=deadline) as self._scope:
                    begun_for = deadline
                    while True:
                        effect = step(await self._receive())
                        if not isinstance(effect, Receive):
                            return effect
                        deadline = anyio.current_time() + effect.timeout
                        if deadline < begun_for:
                            self._scope.deadline = begun_for = deadline
            effect = step(self._interruption())
        return effect

    async def _perform(self, effect: Effect) -> object:
        match effect:
            case Receive():
                raise AssertionError("this is for _converse")
            case Flush(timeout=seconds):
                return await self._in_time(seconds, self._write)
            case Pause(seconds=seconds, until_input=until_input):
                outcome = await self._in_time(seconds, self._receive if until_input else self._write)
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

    async def _in_time(self, seconds: float, transfer: Callable[[], Awaitable[bytes | None]]) -> object:
        if self._stopping:
            return SHUTTING_DOWN
        with anyio.move_on_after(seconds) as self._scope:
            return await transfer()
        return self._interruption()

    def _interruption(self) -> Interruption:
        return SHUTTING_DOWN if self._stopping else TIMED_OUT

    async def _receive(self) -> bytes:
        """Have written what there is, and read. A client that vanishes is a client that has finished."""
        self._take_output()
        if self._stuck:
            await self._write()
        while True:
            await anyio.wait_readable(self.socket)
            try:
                return self.socket.recv(RECEIVE_SIZE)
            except BlockingIOError:
                continue
            except OSError:
                return b""

    async def _write(self) -> None:
        self._take_output()
        while self._send():
            await anyio.wait_writable(self.socket)
        self._stuck = False

    def _take_output(self) -> None:
        data = self._session.data_to_send()
        if data:
            if not self._unsent:
                self._owner.write_soon(self)
            self._unsent += data

    def _send(self) -> bool:
        """Write what the socket takes; whether anything is left."""
        data = self._unsent
        if data:
            try:
                data = data[self.socket.send(data) :]
            except BlockingIOError:
                pass
            except OSError:  # as in `_receive`, which will notice
                data = b""
        self._unsent = data
        return bool(data)

    async def _close(self, *, linger: bool) -> None:
        with anyio.move_on_after(LINGER), contextlib.suppress(OSError):
            await self._write()
            if linger:
                self.socket.shutdown(socket.SHUT_WR)
                while await self._receive():
                    pass
        self.socket.close()


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
