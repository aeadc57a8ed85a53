"""What a session asks of its transport, and what comes back.

A session is a generator of effects. The transport performs each and sends the result in, or
throws the exception in. It does not end behind a `Receive`: `Close` comes first. Before anything that waits, it writes `Session.data_to_send()`.
"""

import enum
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass

__all__ = [
    "SHUTTING_DOWN",
    "TIMED_OUT",
    "Await",
    "CallBlocking",
    "Close",
    "Effect",
    "Effects",
    "Flush",
    "Interruption",
    "Pause",
    "Receive",
]


class Interruption(enum.Enum):
    """Why `Receive` ended without bytes."""

    TIMED_OUT = "the peer took too long, to read or to write"
    SHUTTING_DOWN = "the server stops, and the time to finish is over"

    __hash__ = object.__hash__


TIMED_OUT = Interruption.TIMED_OUT
SHUTTING_DOWN = Interruption.SHUTTING_DOWN


@dataclass(frozen=True, slots=True)
class Receive:
    """Write, then read. Send in the bytes, `b""` at the end of file, or an `Interruption`."""

    timeout: float
    """Seconds, for the writing and the reading each."""


@dataclass(frozen=True, slots=True)
class Flush:
    """Write until little is left to write. Send in `None`, or an `Interruption`."""

    timeout: float
    """Seconds."""


@dataclass(frozen=True, slots=True)
class Await:
    """Await this; send in its result. After `timeout` seconds cancel it and throw TimeoutError."""

    awaitable: Awaitable[object]
    timeout: float


@dataclass(frozen=True, slots=True)
class CallBlocking:
    """Call this in a worker thread; send in its result. After `timeout` seconds throw TimeoutError.

    A transport that has a thread for the session anyway just calls it.
    """

    function: Callable[[], object]
    timeout: float


@dataclass(frozen=True, slots=True)
class Pause:
    """Write, then wait `seconds`. Send in bytes that ended the wait, else `b""`."""

    seconds: float
    until_input: bool = False
    """Whether bytes from the peer end the wait; those that have come already end it at once."""


@dataclass(frozen=True, slots=True)
class Close:
    """Write, then close the connection. The session may go on with hooks that need no client."""

    linger: bool = False
    """Whether the client may still be sending: then close our side first and read its rest for
    a moment, or the system would reset the connection and the last reply be lost."""


Effect = Receive | Flush | Await | CallBlocking | Pause | Close

Effects = Generator[Effect, object, object]
"""A session, or a hook that asks for effects itself."""
