"""What `Server.next_event` gives: hook requests (`hooks`), content, news of the client, and signals."""

import enum
from dataclasses import dataclass

from qpsmtpd.protocol.hooks import Hook
from qpsmtpd.protocol.xclient import XClient

__all__ = ["CLOSED", "DRAIN", "NEED_DATA", "Authentication", "Content", "Event", "Signal", "StartTls"]


class Signal(enum.Enum):
    """Events without data."""

    NEED_DATA = "write data_to_send(), then read and call receive_data()"
    DRAIN = "write data_to_send() before going on: the peer asks more than it reads"
    CLOSED = "write data_to_send() and close the connection"

    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return self.name


NEED_DATA = Signal.NEED_DATA
DRAIN = Signal.DRAIN
CLOSED = Signal.CLOSED


@dataclass(frozen=True, slots=True)
class Content:
    """A piece of message content, dot-unstuffed, its line ends CRLF.

    If the message is refused in the end (too large, a bare CR or LF), pieces of it may have
    been given before; its `hooks.Queue` then never comes.
    """

    data: bytes
    in_header: bool = False
    """Whether this belongs to the header section; its blank line does not."""


@dataclass(frozen=True, slots=True)
class StartTls:
    """The client has been told to begin a TLS handshake (RFC 3207).

    Or the server has told us, if we are the client. Write `data_to_send()` in clear, perform the
    handshake, and call `secure` before anything else; or close the connection if it fails, by
    `receive_data(b"")`.
    """


@dataclass(frozen=True, slots=True)
class Authentication:
    """The client has tried to authenticate (RFC 4954)."""

    mechanism: str
    """The mechanism's name, in lower case."""

    user: str
    """Who the client is, or says it is."""

    succeeded: bool


Event = Hook | Content | StartTls | Authentication | XClient | Signal
"""`XClient` says whom a trusted client speaks for; the driver takes its connection for that one's."""
