"""The asyncio driver: the loop's own callbacks, without a task for each connection.

A connection is a socket that the loop watches (`add_reader`, which every loop has but Windows'
proactor); reading and writing are plain calls. Compared with asyncio's transports this saves a
task and three objects a connection, and three calls a read. A future is waited for only where a
hook is.

What the sessions say in one turn of the loop is written together at its end: the first reply
wakes the clients' process, and the others find it awake, which saves a fifth of the time for
each message where many talk at once.
"""

import asyncio
import concurrent.futures
import contextlib
import socket
from collections.abc import AsyncGenerator, Callable, Iterable
from time import monotonic

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
    GRACE,
    LINGER,
    RECEIVE_SIZE,
    RETRY,
    THREADS,
    Address,
    Bound,
    Place,
    bind,
    bound_address,
    peer_of,
)

__all__ = ["Listening", "listen", "serve"]

_Future = asyncio.Future[object] | concurrent.futures.Future[object]  # in the loop, or in a thread

_PENDING = object()
_AT_ONCE = 16  # connections accepted before the others have their turn


class Listening:
    """A running server."""

    def __init__(self, site: Site) -> None:
        self.addresses: list[Address] = []
        """Where it listens."""
        self.site = site
        self.loop = asyncio.get_running_loop()
        self.forgets_errors = not isinstance(self.loop, asyncio.SelectorEventLoop)
        """Whether the loop tells of a reset once, and no more: there may be data to read before it shows (uvloop)."""
        self.threads = concurrent.futures.ThreadPoolExecutor(THREADS, "qpsmtpd")
        self._listeners: list[socket.socket] = []
        self._to_write: list[_Link] = []  # at the end of this turn of the loop
        self._links: set[_Link] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    def start(self, sockets: Iterable[Bound]) -> None:
        """Begin to accept on these sockets."""
        for listener, role in sockets:
            self.addresses.append(bound_address(listener))
            self._listeners.append(listener)
            self._watch(listener, role)

    async def stop(self, grace: float = GRACE) -> None:
        """Accept no more; let sessions finish for `grace` seconds, then tell them 421."""
        while self._listeners:
            listener = self._listeners.pop()
            self.loop.remove_reader(listener)
            listener.close()
        for seconds in (grace, LINGER):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), seconds)
            for link in list(self._links):
                link.shut_down()
        for link in list(self._links):
            link.abort()
        self.threads.shutdown(wait=False, cancel_futures=True)

    def forget(self, link: "_Link") -> None:
        """Take leave of a connection that has ended."""
        self._links.discard(link)
        if not self._links:
            self._idle.set()

    def write_soon(self, link: "_Link") -> None:
        """Have a connection `flush` at the end of this turn of the loop."""
        if not self._to_write:
            self.loop.call_soon(self._write_all)
        self._to_write.append(link)

    def _write_all(self) -> None:
        links, self._to_write = self._to_write, []
        for link in links:
            link.flush()

    def _watch(self, listener: socket.socket, role: Role) -> None:
        if listener in self._listeners:
            self.loop.add_reader(listener, self._accept, listener, role)

    def _accept(self, listener: socket.socket, role: Role) -> None:
        for _ in range(_AT_ONCE):
            try:
                connection, _ = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:  # out of descriptors: give it a moment
                self.site.log_failure("", "", f"accepting a connection ({error.strerror})")
                self.loop.remove_reader(listener)
                self.loop.call_later(RETRY, self._watch, listener, role)
                return
            link = _Link(self, connection, role)
            self._links.add(link)
            self._idle.clear()
            link.begin()


class _Link:
    """One connection: the session's effects performed with the loop's callbacks.

    Either the session waits (`_waiting` is its effect), and the next callback that fits goes on
    with it; or a hook runs that is waited for (`_future`), and nothing is read meanwhile.
    """

    __slots__ = (
        "_alarm",
        "_closed",
        "_closing",
        "_deadline",
        "_descriptor",
        "_done",
        "_due",
        "_eof",
        "_future",
        "_linger",
        "_loop",
        "_owner",
        "_reading",
        "_released",
        "_role",
        "_run",
        "_session",
        "_socket",
        "_stopping",
        "_timer",
        "_unsent",
        "_waiting",
    )

    def __init__(self, owner: Listening, connection: socket.socket, role: Role) -> None:
        self._owner = owner
        self._loop = owner.loop
        self._socket = connection
        self._descriptor = connection.fileno()  # the loop would ask a socket for it, and for its names besides
        self._role = role
        self._waiting: Effect | None = None
        self._future: _Future | None = None
        self._due = b""  # what is written at the end of this turn of the loop
        self._unsent = b""  # what the client has not taken then
        self._eof = False
        self._reading = False
        self._stopping = False
        self._deadline = 0.0
        self._alarm = 0.0  # when the timer goes off
        self._timer: asyncio.TimerHandle | None = None
        self._closing: asyncio.TimerHandle | None = None
        self._closed = self._linger = self._released = self._done = False

    def begin(self) -> None:
        """Start the session."""
        try:
            self._socket.setblocking(False)
            self._session = Session(self._owner.site, peer_of(self._socket), self._role)
        except Exception:  # noqa: BLE001 - settings that have gone bad, or a client that has gone
            self._owner.site.log_failure("", "", "beginning a session")
            self._done = True
            self._release()
        else:
            self._run = self._session.run()
            self._go(self._run.send, None)

    # What the server calls

    def shut_down(self) -> None:
        """Tell the client 421 as soon as the session listens to it."""
        self._stopping = True
        if isinstance(self._waiting, Receive | Flush):
            self._go(self._run.send, SHUTTING_DOWN)

    def abort(self) -> None:
        """End the session at once."""
        future, self._future, self._waiting = self._future, None, None
        if future is not None:
            future.cancel()
        if not self._done:
            self._run.close()
            self._done = True
        self._release()

    def flush(self) -> None:
        """Write what the session has said; what the client does not take waits until it does."""
        data, self._due = self._due, b""
        if self._released:
            return
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:  # as in `_readable`
            self._end_input()
            sent = len(data)
        if sent < len(data):
            self._unsent = data[sent:]
            self._loop.add_writer(self._descriptor, self._writable)
            if self._closed:
                self._release_in(LINGER if self._linger else GRACE)
        elif self._closed:
            self._say_goodbye()
        elif self._eof:
            self._tell_end()

    def _look_for_reset(self) -> None:
        if not self._eof and self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._end_input()
            self._tell_end()

    def _tell_end(self) -> None:
        if _listens(self._waiting):
            self._go(self._run.send, b"")

    # What the loop calls

    def _readable(self) -> None:
        if self._closed:
            self._drain()
        elif self._unsent or not (isinstance(self._waiting, Receive) or _listens(self._waiting)):
            self._set_reading(False)
        else:
            try:
                data = self._socket.recv(RECEIVE_SIZE)
            except BlockingIOError:
                return
            except OSError:  # a client that vanishes is a client that has finished
                data = b""
            if not data:
                self._end_input()
            self._go(self._run.send, data)
            if self._owner.forgets_errors and not self._due:  # else it shows when that is sent
                self._look_for_reset()

    def _writable(self) -> None:
        self._due, self._unsent = self._unsent, b""
        self._loop.remove_writer(self._descriptor)
        self.flush()
        if not self._unsent and isinstance(self._waiting, Receive | Flush):
            outcome = self._ready(self._waiting, max(0.0, self._deadline - monotonic()))
            if outcome is not _PENDING:
                self._go(self._run.send, outcome)

    def _expired(self) -> None:
        self._timer = None
        if monotonic() < self._deadline:  # it has been put off meanwhile
            self._set_timer()
        elif self._future is not None:
            future, self._future = self._future, None
            future.cancel()
            self._go(self._run.throw, TimeoutError())
        elif isinstance(self._waiting, Receive | Flush | Pause):
            self._go(self._run.send, b"" if isinstance(self._waiting, Pause) else TIMED_OUT)

    def _finished_in_thread(self, future: _Future) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody waits any more
            self._loop.call_soon_threadsafe(self._finished, future)

    def _finished(self, future: _Future) -> None:
        """Go on with a hook's result."""
        cancelled = future.cancelled()
        error = None if cancelled else future.exception()
        if future is not self._future:
            return  # nobody waits for it any more
        self._future = None
        if cancelled:
            self.abort()
        elif error is not None:
            self._go(self._run.throw, error)
        else:
            self._go(self._run.send, future.result())

    # The session's effects

    def _go(self, step: Callable[..., Effect], outcome: object) -> None:
        """Drive the session until it waits for something."""
        self._waiting = None
        send = self._run.send
        try:
            while True:
                effect = step(outcome)
                step = send
                data = self._session.data_to_send()
                if data:
                    self._write(data)
                if isinstance(effect, Receive) and self._reading and not self._unsent and not self._stopping:
                    self._wait_until(monotonic() + effect.timeout)  # as nearly always
                    outcome = _PENDING
                else:
                    outcome = self._perform(effect)
                if outcome is _PENDING:
                    self._waiting = effect
                    return
        except StopIteration:
            self._done = True
        except Exception:  # noqa: BLE001 - a fault of ours must not take other sessions along
            self._owner.site.log_failure("", "", "the session")
            self._done = True
            self._release()
        self._end_if_done()

    def _perform(self, effect: Effect) -> object:
        """Perform an effect, or begin to: `_PENDING` says that a callback goes on with it."""
        match effect:
            case Receive(seconds) | Flush(seconds) | Pause(seconds):
                return self._ready(effect, seconds)
            case Await(awaitable, seconds):
                return self._wait_for(asyncio.ensure_future(awaitable), seconds, self._finished)
            case CallBlocking(function, seconds):
                return self._wait_for(self._owner.threads.submit(function), seconds, self._finished_in_thread)
            case Close(linger):
                self._close(linger=linger)
                return None

    def _ready(self, effect: Receive | Flush | Pause, seconds: float) -> object:
        """What an effect that waits for the peer has come to, or `_PENDING`."""
        if self._stopping and not isinstance(effect, Pause):
            return SHUTTING_DOWN
        if isinstance(effect, Flush) and self._due:
            self.flush()
        if not self._unsent:
            if isinstance(effect, Flush):
                return None
            if _listens(effect):
                if self._eof:
                    return b""
                if not self._reading:
                    self._set_reading(True)
        self._wait_until(monotonic() + seconds)
        return _PENDING

    def _wait_for(self, future: _Future, seconds: float, finished: Callable[..., None]) -> object:
        self._future = future
        self._wait_until(monotonic() + seconds)
        future.add_done_callback(finished)
        return _PENDING

    # One timer a connection: a later deadline leaves it where it is, and it looks again.

    def _wait_until(self, deadline: float) -> None:
        self._deadline = deadline
        if self._timer is None or self._alarm > deadline:
            self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._alarm = self._deadline
        self._timer = self._loop.call_later(self._alarm - monotonic(), self._expired)

    # The socket

    def _set_reading(self, reading: bool) -> None:
        self._reading = reading
        if reading:
            self._loop.add_reader(self._descriptor, self._readable)
        else:
            self._loop.remove_reader(self._descriptor)

    def _end_input(self) -> None:
        self._eof = True
        self._set_reading(False)

    def _write(self, data: bytes) -> None:
        if self._unsent:
            self._unsent += data
            return
        if not self._due:
            self._owner.write_soon(self)
        self._due += data

    def _close(self, *, linger: bool) -> None:
        self._closed, self._linger = True, linger
        if self._unsent:
            self._release_in(LINGER if linger else GRACE)
        elif not self._due:
            self._say_goodbye()

    def _say_goodbye(self) -> None:
        """All has been sent: close, or let a client that may still be sending read our last reply first."""
        if self._linger and not self._eof:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_WR)
                self._release_in(LINGER)
                if not self._reading:
                    self._set_reading(True)
                return
        self._release()

    def _drain(self) -> None:
        try:
            if self._socket.recv(RECEIVE_SIZE):
                return
        except BlockingIOError:
            return
        except OSError:  # as in `_readable`
            pass
        self._release()

    def _release_in(self, seconds: float) -> None:
        if self._closing is not None:
            self._closing.cancel()
        self._closing = self._loop.call_later(seconds, self._release)

    def _release(self) -> None:
        if self._released:
            return
        self._released = self._closed = self._eof = True
        if self._closing is not None:
            self._closing.cancel()
        if self._reading:
            self._set_reading(False)
        if self._unsent:
            self._loop.remove_writer(self._descriptor)
        self._socket.close()
        self._end_if_done()

    def _end_if_done(self) -> None:
        if not (self._done and self._released):
            return
        if self._timer is not None:  # a hook may run, and has its time, when the connection is closed
            self._timer.cancel()
        self._owner.forget(self)


def _listens(effect: Effect | None) -> bool:
    """Whether the session wants to hear from the client."""
    return isinstance(effect, Receive) or (isinstance(effect, Pause) and effect.until_input)


@contextlib.asynccontextmanager
async def listen(site: Site, addresses: Iterable[Place], *, grace: float = GRACE) -> AsyncGenerator[Listening, None]:
    """Serve while the block runs; at its end stop, as `Listening.stop` does. Raises OSError."""
    listening = Listening(site)
    listening.start(bind(addresses))
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
