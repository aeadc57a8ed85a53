"""What `Server.next_event` gives: hook requests (`hooks`), content, and three signals."""

import enum
from dataclasses import dataclass

from qpsmtpd.protocol.hooks import Hook

__all__ = ["CLOSED", "DRAIN", "NEED_DATA", "Content", "Event", "Signal"]


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


Event = Hook | Content | Signal
