"""Connections driven by callbacks, without a task for each: what the drivers of all event loops share.

A connection is a socket that the loop watches; reading and writing are plain calls. Compared
with a task for each connection, or with the streams of these libraries, this saves most of
what a loop costs for each message. A task or a thread runs only where a hook waits.

What the sessions say in one turn of the loop is written together at its end: the first reply
wakes the clients' process, and the others find it awake. One alarm serves all connections: it
is set for the first deadline, and set again if that has been put off meanwhile.
"""

import contextlib
import math
import socket
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Any, Protocol

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
from qpsmtpd.session.session import open_session
from qpsmtpd.site import Site
from qpsmtpd.transports.reactor import Reactor, Timer
from qpsmtpd.transports.sockets import (
    GRACE,
    LINGER,
    RECEIVE_SIZE,
    RETRY,
    Address,
    Bound,
    bound_address,
    peer_of,
)

__all__ = ["Finished", "Links", "Work"]

_PENDING = object()
_AT_ONCE = 16  # connections accepted before the others have their turn
_GRAIN = 0.05  # seconds between two looks at the clocks of all connections, at least


class Work(Protocol):
    """What runs, as a task or in a thread, while a session waits for it: mostly a hook."""

    def cancel(self) -> object:
        """End it."""
        ...

    def cancelled(self) -> bool:
        """Whether it was ended before it was done."""
        ...

    def exception(self) -> BaseException | None:
        """What it has raised."""
        ...

    def result(self) -> object:
        """What it has given."""
        ...


Finished = Callable[[Any], object]
"""Is told of the work that has ended, in the loop."""


class Links:
    """A running server: its listening sockets, and its connections."""

    def __init__(self, site: Site, reactor: Reactor) -> None:
        self.addresses: list[Address] = []
        """Where it listens."""
        self.site = site
        self.reactor = reactor
        self.alarm = math.inf
        """When to look for connections whose time is over, on the monotonic clock."""
        self.links: set[_Link] = set()
        self._timer: Timer | None = None  # of the alarm
        self._listeners: list[socket.socket] = []
        self._to_write: list[_Link] = []  # whose `flush` is due
        self._ended = False

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
            self.reactor.remove_reader(listener.fileno())
            listener.close()
        try:
            for seconds in (grace, LINGER):
                await self.wait_until_idle(seconds)
                for link in list(self.links):
                    link.shut_down()
        finally:
            self.abort_all()
            if not self._ended:
                self._ended = True
                self._silence()
                self.end()

    def abort_all(self) -> None:
        """End all connections at once."""
        for link in list(self.links):
            link.abort()

    # What each library does in its own way

    async def wait_until_idle(self, seconds: float) -> None:
        """Wait until the last connection has ended, for so many seconds at most."""
        raise NotImplementedError

    def went_idle(self) -> None:
        """The last connection has ended."""
        raise NotImplementedError

    def start_work(self, effect: Await | CallBlocking, finished: Finished) -> Work:
        """Begin some work; `finished` is told later."""
        raise NotImplementedError

    def end(self) -> None:
        """Serve no more: all connections have ended."""
        raise NotImplementedError

    # What connections ask for

    def write_soon(self, link: "_Link") -> None:
        """Have a connection `flush` soon: mostly at the end of this turn of the loop."""
        if not self._to_write:
            self.reactor.call_soon(self._write_all)
        self._to_write.append(link)

    def set_alarm(self, deadline: float) -> None:
        """Look for connections whose time is over at `deadline`, not later."""
        self._silence()
        self.alarm = deadline
        self._timer = self.reactor.call_later(deadline - monotonic(), self._ring)

    def _silence(self) -> None:
        """Set no alarm."""
        self.alarm = math.inf
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def forget(self, link: "_Link") -> None:
        """Take leave of a connection that has ended."""
        self.links.discard(link)
        if not self.links:
            self.went_idle()

    # What the loop calls

    def _write_all(self) -> None:
        links, self._to_write = self._to_write[::-1], []
        try:
            while links:
                links.pop().flush()
        finally:  # what one of them has done wrong is no fault of the others
            for link in links:
                self.write_soon(link)

    def _ring(self) -> None:
        now = monotonic()
        self._timer, self.alarm = None, math.inf
        for link in list(self.links):
            link.look_at_clock(now)
        first = min((link.deadline for link in self.links), default=math.inf)
        first = max(first, now + _GRAIN)
        if first < self.alarm and self.links:
            self.set_alarm(first)

    def _watch(self, listener: socket.socket, role: Role) -> None:
        if listener in self._listeners:
            self.reactor.add_reader(listener.fileno(), lambda: self._accept(listener, role))

    def _accept(self, listener: socket.socket, role: Role) -> None:
        for _ in range(_AT_ONCE):
            try:
                connection, client = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:  # out of descriptors: give it a moment
                self.site.log_failure("", "", f"accepting a connection ({error.strerror})")
                self.reactor.remove_reader(listener.fileno())
                self.reactor.call_later(RETRY, lambda: self._watch(listener, role))
                return
            link = _Link(self, connection)
            self.links.add(link)
            link.begin(client, role)


class _Link:
    """One connection: the session's effects performed with the loop's callbacks.

    Either the session waits (`_waiting` is its effect), and the next callback that fits goes on
    with it; or it waits for work (`_work`), mostly a hook, and nothing is read meanwhile.
    """

    __slots__ = (
        "_closed",
        "_closes_at",
        "_deadline",
        "_descriptor",
        "_done",
        "_due",
        "_eof",
        "_linger",
        "_owner",
        "_reactor",
        "_reading",
        "_released",
        "_run",
        "_session",
        "_socket",
        "_stopping",
        "_unsent",
        "_waiting",
        "_work",
    )

    def __init__(self, owner: Links, connection: socket.socket) -> None:
        self._owner = owner
        self._reactor = owner.reactor
        self._socket = connection
        self._descriptor = connection.fileno()
        self._waiting: Effect | None = None
        self._work: Work | None = None
        self._due = b""  # what `flush` is to write
        self._unsent = b""  # what the client has not taken then
        self._eof = False
        self._reading = False
        self._stopping = False
        self._deadline = math.inf  # of what the session waits for
        self._closes_at = math.inf
        self._closed = self._linger = self._released = self._done = False

    def begin(self, client: Any, role: Role) -> None:
        """Start the session with a client, by the name that `accept` has given."""
        try:
            self._socket.setblocking(False)
            self._session = open_session(self._owner.site, peer_of(self._socket, client), role)
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
        work, self._work, self._waiting = self._work, None, None
        if work is not None:
            work.cancel()
        if not self._done:
            self._run.close()
            self._done = True
        self._release()

    def flush(self) -> None:
        """Write what the session has said; what the client does not take waits until it does."""
        data, self._due = self._due, b""
        if not data:
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
            self._reactor.add_writer(self._descriptor, self._writable)
            if self._closed and math.isinf(self._closes_at):
                self._release_in(LINGER if self._linger else GRACE)
        elif self._closed:
            self._say_goodbye()
        elif self._eof and _listens(self._waiting):
            self._go(self._run.send, b"")

    @property
    def deadline(self) -> float:
        """When to `look_at_clock`, on the monotonic clock. A hook has its time behind the end of the connection, too."""
        return min(self._deadline, self._closes_at)

    def look_at_clock(self, now: float) -> None:
        """End what has taken too long."""
        if self._closes_at <= now:
            self._closes_at = math.inf
            self._release()
        if self._deadline > now:
            return
        self._deadline = math.inf
        if self._work is not None:
            work, self._work = self._work, None
            work.cancel()
            self._go(self._run.throw, TimeoutError())
        elif isinstance(self._waiting, Receive | Flush | Pause):
            self._go(self._run.send, b"" if isinstance(self._waiting, Pause) else TIMED_OUT)

    # What the loop calls

    def _readable(self) -> None:
        if self._unsent or not (self._closed or _listens(self._waiting)):
            self._set_reading(False)
        elif self._closed:
            if not self._due:
                self._drain()
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

    def _writable(self) -> None:
        self._due, self._unsent = self._unsent, b""
        self._reactor.remove_writer(self._descriptor)
        self.flush()
        if not self._unsent and isinstance(self._waiting, Receive | Flush | Pause):
            outcome = self._ready(self._waiting, max(0.0, self._deadline - monotonic()))
            if outcome is not _PENDING:
                self._go(self._run.send, outcome)

    def _finished(self, work: Work) -> None:
        """Go on with what has come of the work."""
        cancelled = work.cancelled()
        error = None if cancelled else work.exception()
        if work is not self._work:
            return  # nobody waits for it any more
        self._work = None
        if cancelled:
            self.abort()
        elif error is not None:
            self._go(self._run.throw, error)
        else:
            self._go(self._run.send, work.result())

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
            case Await() | CallBlocking():
                self._work = self._owner.start_work(effect, self._finished)
                self._wait_until(monotonic() + effect.timeout)
                return _PENDING
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

    def _wait_until(self, deadline: float) -> None:
        self._deadline = deadline
        if deadline < self._owner.alarm:
            self._owner.set_alarm(deadline)

    # The socket

    def _set_reading(self, reading: bool) -> None:
        self._reading = reading
        if reading:
            self._reactor.add_reader(self._descriptor, self._readable)
        else:
            self._reactor.remove_reader(self._descriptor)

    def _end_input(self) -> None:
        self._eof = True
        self._set_reading(False)

    def _write(self, data: bytes) -> None:
        if self._unsent:
            self._unsent += data
            return
        if self._due:
            self._due += data
            return
        self._due = data
        self._owner.write_soon(self)

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
        self._closes_at = monotonic() + seconds
        if self._closes_at < self._owner.alarm:
            self._owner.set_alarm(self._closes_at)

    def _release(self) -> None:
        if self._released:
            return
        if self._due:  # by what has gone wrong meanwhile
            with contextlib.suppress(OSError):
                self._socket.send(self._due)
            self._due = b""
        self._released = self._closed = self._eof = True
        if self._reading:
            self._set_reading(False)
        if self._unsent:
            self._reactor.remove_writer(self._descriptor)
        self._socket.close()
        self._end_if_done()

    def _end_if_done(self) -> None:
        if not (self._done and self._released):
            return
        self._owner.forget(self)


def _listens(effect: Effect | None) -> bool:
    """Whether the session wants to hear from the client."""
    return isinstance(effect, Receive) or (isinstance(effect, Pause) and effect.until_input)
