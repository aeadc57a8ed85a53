"""The blocking driver: a thread for each connection, bounded in number, on a POSIX system.

A hook that is `async def` runs in one anyio event loop, which has a thread of its own from
the first such hook on; a hook marked `@blocking` is just called.
"""

import contextlib
import math
import select
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable, Generator, Iterable
from typing import TYPE_CHECKING, Any

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
from qpsmtpd.session.session import Session, open_session
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

if TYPE_CHECKING:
    from anyio.from_thread import BlockingPortal

__all__ = ["Channel", "Link", "Listening", "Portal", "listen", "serve"]

_SPARE = 16  # threads beyond `max_connections`, for those that are told so
_IDLE = 16  # threads that are kept for clients to come, for each listening socket
_LOOK = 1.0  # seconds between two looks whether the server stops, while there is no room


class Portal:
    """Runs awaitables from threads, in one event loop that starts when it is first needed."""

    def __init__(self) -> None:
        self._portal: BlockingPortal | None = None
        self._exit = contextlib.ExitStack()
        self._lock = threading.Lock()

    def run(self, effect: Await) -> object:
        """Run the awaitable of `effect`. Raises what it raises, TimeoutError after its time."""
        import anyio.from_thread

        async def wait() -> object:
            with anyio.fail_after(effect.timeout):
                return await effect.awaitable

        with self._lock:
            if self._portal is None:
                self._portal = self._exit.enter_context(anyio.from_thread.start_blocking_portal())
        return self._portal.call(wait)

    def close(self) -> None:
        """Stop the event loop."""
        self._exit.close()


class Channel:
    """What bytes come from and go to: a connected socket.

    The kernel keeps the time (`SO_RCVTIMEO`): Python's own timeouts cost two calls of the system
    more for each read and each write. It is set when it becomes shorter; a wait that it ends too
    early goes on.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._deadline = 0.0
        self._set_for = math.inf  # seconds

    def wait_for(self, seconds: float) -> None:
        """Let the next calls take so long. They raise TimeoutError."""
        self._deadline = time.monotonic() + seconds
        if seconds < self._set_for:
            self._set_time(seconds)

    def read(self) -> bytes:
        """Some bytes, none at the end of file. Raises OSError."""
        while True:
            try:
                return self._socket.recv(RECEIVE_SIZE)
            except BlockingIOError:
                self._look_again()

    def write(self, data: bytes) -> None:
        """Write all of it. Raises OSError."""
        while data:
            try:
                data = data[self._socket.send(data) :]
            except BlockingIOError:
                self._look_again()

    def ready(self, seconds: float) -> bool:
        """Whether bytes come within `seconds`."""
        with selectors.DefaultSelector() as selector:  # `select` takes no descriptor above 1023
            selector.register(self._socket, selectors.EVENT_READ)
            return bool(selector.select(seconds))

    def write_eof(self) -> None:
        """Close our side. Raises OSError."""
        self._socket.shutdown(socket.SHUT_WR)

    def interrupt(self) -> None:
        """End a `read` that another thread waits in."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RD)

    def close(self) -> None:
        """Close it, whoever uses it."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _set_time(self, seconds: float) -> None:
        self._set_for = seconds
        microseconds = max(int(seconds * 1_000_000), 1)  # 0 would be for ever
        value = struct.pack("ll", *divmod(microseconds, 1_000_000))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, value)

    def _look_again(self) -> None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._set_time(left)


class _Door:
    """A listening socket, and the threads that wait at it."""

    def __init__(self, listener: socket.socket, role: Role, wake: socket.socket) -> None:
        self.listener = listener
        self.role = role
        self.turn = threading.Lock()
        """Held by the thread that waits for the next client."""
        self.idle = 0
        """Threads that wait for a client, or for their turn to do so."""
        self.counting = threading.Lock()
        self._poll = select.poll()
        for each in (listener, wake):
            self._poll.register(each, select.POLLIN)

    def wait(self) -> None:
        """Wait for a client, or for the end of the server."""
        self._poll.poll()


class Listening:
    """A running server.

    A thread takes a client itself, and serves it. One at a time waits for the next client; a few
    that are idle wait for their turn. To start a thread for each client would cost more than to
    serve it a message.
    """

    def __init__(self, site: Site, sockets: Iterable[Bound]) -> None:
        self._site = site
        # A byte in here wakes the threads that wait for clients.
        self._wake, self._waker = socket.socketpair()
        self._doors = [_Door(listener, role, self._wake) for listener, role in sockets]
        self.addresses = [bound_address(door.listener) for door in self._doors]
        """Where it listens."""
        self._portal = Portal()
        self._links: set[Link] = set()
        self._open = 0  # connections, those whose link is still to be made too
        self._changed = threading.Condition()
        self._room = threading.Semaphore(site.current_settings().max_connections + _SPARE)
        self._stopping = False

    def start(self) -> None:
        """Begin to accept."""
        for door in self._doors:
            self._start_thread(door)

    def stop(self, grace: float = GRACE) -> None:
        """Accept no more; let sessions finish for `grace` seconds, then tell them 421."""
        self._stopping = True
        self._waker.send(b"x")
        for door in self._doors:
            with door.turn:
                door.listener.close()
        with self._changed:
            for seconds in (grace, LINGER):
                self._changed.wait_for(lambda: not self._open, seconds)
                for link in self._links:
                    link.shut_down()
            for link in self._links:
                link.abort()
        self._portal.close()
        self._wake.close()
        self._waker.close()

    def _start_thread(self, door: _Door) -> None:
        with door.counting:
            door.idle += 1
        threading.Thread(target=self._work, args=(door,), daemon=True).start()

    def _work(self, door: _Door) -> None:
        while True:
            with door.turn:
                accepted = self._next_client(door)
            if accepted is None:
                return
            with door.counting:
                door.idle -= 1
                nobody_waits = not door.idle
            if nobody_waits:
                self._start_thread(door)
            self._serve(*accepted, door.role)
            with door.counting:
                if door.idle >= _IDLE:
                    return
                door.idle += 1

    def _next_client(self, door: _Door) -> tuple[socket.socket, Any] | None:
        """The next client, if there is room for one; None when the server stops."""
        while not self._stopping:
            door.wait()
            if not self._room.acquire(timeout=_LOOK):
                continue
            try:
                accepted = door.listener.accept()
            except OSError as error:
                self._room.release()
                if not isinstance(error, BlockingIOError | ConnectionAbortedError):  # out of descriptors
                    self._site.log_failure("", "", f"accepting a connection ({error.strerror})")
                    time.sleep(RETRY)
                continue
            with self._changed:
                self._open += 1
            return accepted
        return None

    def _serve(self, connection: socket.socket, client: Any, role: Role) -> None:
        try:
            with connection:
                connection.setblocking(True)
                session = open_session(self._site, peer_of(connection, client), role, alone=True)
                link = Link(session, Channel(connection), self._portal)
                with self._changed:
                    self._links.add(link)
                try:
                    link.drive()
                finally:
                    with self._changed:
                        self._links.discard(link)
        except Exception:  # noqa: BLE001 - a fault of ours must not take other sessions along
            self._site.log_failure("", "", "the session")
        finally:
            with self._changed:
                self._open -= 1
                self._changed.notify_all()
            self._room.release()


class Link:
    """One connection: the session's effects performed by plain calls."""

    def __init__(self, session: Session, channel: Channel, portal: Portal) -> None:
        self._session = session
        self._channel = channel
        self._portal = portal
        self._stopping = False

    def drive(self) -> None:
        """Drive the session to its end."""
        run = self._session.run()
        step: Callable[..., Effect] = run.send
        outcome: object = None
        with contextlib.closing(run), contextlib.suppress(StopIteration):
            while True:
                effect = step(outcome)
                try:
                    outcome, step = self._perform(effect), run.send
                except Exception as error:  # noqa: BLE001 - it is the session's to handle
                    outcome, step = error, run.throw

    def shut_down(self) -> None:
        """Tell the client 421 as soon as the session listens to it."""
        self._stopping = True
        self._channel.interrupt()

    def abort(self) -> None:
        """End the connection at once."""
        self._channel.close()

    def _perform(self, effect: Effect) -> object:
        match effect:
            case Receive(timeout=seconds):
                return self._transfer(seconds, read=True)
            case Flush(timeout=seconds):
                return self._transfer(seconds, read=False)
            case Pause(seconds=seconds, until_input=until_input):
                self._transfer(max(seconds, LINGER), read=False)
                if not until_input:
                    time.sleep(seconds)
                elif self._channel.ready(seconds):
                    outcome = self._transfer(seconds, read=True)
                    return outcome if isinstance(outcome, bytes) else b""
                return b""
            case Await():
                return self._portal.run(effect)
            case CallBlocking(function=function):
                return function()
            case Close(linger=linger):
                self._close(linger=linger)
                return None

    def _transfer(self, seconds: float, *, read: bool) -> object:
        """Write what there is, then read if asked to."""
        if self._stopping:
            return SHUTTING_DOWN
        outcome = b"" if read else None
        try:
            self._channel.wait_for(seconds)
            self._write()
            if read:
                outcome = self._channel.read()
        except TimeoutError:
            return TIMED_OUT
        except OSError:  # a client that vanishes is a client that has finished
            pass
        if outcome:
            return outcome
        return SHUTTING_DOWN if self._has_stopped() else outcome

    def _has_stopped(self) -> bool:
        return self._stopping  # meanwhile: `shut_down` makes the end of file

    def _write(self) -> None:
        data = self._session.data_to_send()
        if data:
            self._channel.write(data)

    def _close(self, *, linger: bool) -> None:
        with contextlib.suppress(OSError):
            self._channel.wait_for(LINGER)
            self._write()
            if linger:
                self._channel.write_eof()
                until = time.monotonic() + LINGER
                while time.monotonic() < until and self._channel.read():
                    pass
        self._channel.close()


@contextlib.contextmanager
def listen(site: Site, addresses: Iterable[Place], *, grace: float = GRACE) -> Generator[Listening, None, None]:
    """Serve in threads while the block runs; at its end stop, as `Listening.stop` does. Raises OSError."""
    listening = Listening(site, bind(addresses))
    listening.start()
    try:
        yield listening
    finally:
        listening.stop(grace)


def serve(
    site: Site,
    addresses: Iterable[Place],
    *,
    grace: float = GRACE,
    started: Callable[[Listening], object] | None = None,
) -> None:
    """Serve until an exception such as KeyboardInterrupt ends it.

    `started` is told when, and where, the server listens. Raises OSError.
    """
    with listen(site, addresses, grace=grace) as listening:
        if started is not None:
            started(listening)
        threading.Event().wait()
