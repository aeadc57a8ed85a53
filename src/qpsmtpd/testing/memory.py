"""A session in memory: the fifth transport, whose peer is the test."""

from collections.abc import Awaitable, Mapping, Sequence
from pathlib import Path

from qpsmtpd.config import Config
from qpsmtpd.loader import load
from qpsmtpd.session.connection import Peer
from qpsmtpd.session.effects import TIMED_OUT, Await, CallBlocking, Close, Effect, Flush, Interruption, Pause, Receive
from qpsmtpd.session.session import Session
from qpsmtpd.site import Site

__all__ = ["Client", "make_site"]

CLIENT = Peer("192.0.2.10", 40000, "192.0.2.1", 25, "client.example")


def make_site(
    *plugins: str,
    directory: Path | None = None,
    log: list[str] | None = None,
    clock: "Clock | None" = None,
    config: Mapping[str, Sequence[str]] | None = None,
) -> Site:
    """A server with these lines of `config/plugins`, and settings as in files.

    The log goes to `log`, every level of it. Raises ConfigError as the loader does.
    """
    settings = {"me": ("mx.example.test",), "loglevel": ("LOGDEBUG",), "plugins": plugins}
    settings |= {name: tuple(values) for name, values in (config or {}).items()}
    lines: list[str] = [] if log is None else log
    clock = clock or Clock()
    site = Site(Config(directory, settings, clock=clock), clock=clock, wall=clock.wall, write=lines.append)
    load(site)
    return site


class Clock:
    """Time that passes only when told: for deadlines, and since the epoch."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def wall(self) -> float:
        """Seconds since the epoch: from the start of 2026."""
        return 1_767_225_600.0 + self.now


class Client:
    """A client of a session in memory. What it is told is in `replies`, and in each return value."""

    def __init__(self, site: Site, peer: Peer = CLIENT) -> None:
        """Connect. `replies` holds the greeting, unless the session waits for something."""
        self.session = Session(site, peer)
        self.replies = b""
        self.closed = False
        """The server has closed the connection."""
        self.pauses: list[Pause] = []
        """Every pause the session has asked for; all are over at once."""
        self._run = self.session.run()
        self._go(None)

    def send(self, data: bytes) -> bytes:
        """Send bytes; give the replies they cause. Empty bytes close the client's side."""
        assert not self.closed, "the server has closed the connection"
        return self._go(data)

    def interrupt(self, interruption: Interruption = TIMED_OUT) -> bytes:
        """Let the client be silent for too long, or the server shut down; give the replies."""
        return self._go(interruption)

    def vanish(self) -> None:
        """End the session as a transport does that is stopped itself."""
        self._run.close()
        self.closed = True

    def _go(self, result: object) -> bytes:
        said = b""
        try:
            while True:
                effect = self._run.send(result)
                said += self.session.data_to_send()
                if isinstance(effect, Receive):
                    break
                result = self._perform(effect)
        except StopIteration:
            said += self.session.data_to_send()
            self.closed = True
        self.replies += said
        return said

    def _perform(self, effect: Effect) -> object:
        match effect:
            case Pause():
                self.pauses.append(effect)
                return b""
            case CallBlocking(function):
                return function()
            case Await(awaitable):
                return _finish(awaitable)
            case Close():
                self.closed = True
                return None
            case Flush():
                return None
            case Receive():  # pragma: no cover - `_go` deals with it
                raise AssertionError


def _finish(awaitable: Awaitable[object]) -> object:
    """Run something that never really waits, since nothing here could wake it."""
    steps = awaitable.__await__()
    try:
        next(steps)
    except StopIteration as stop:
        return stop.value
    raise RuntimeError("a hook waits for I/O, which a session in memory has not")
