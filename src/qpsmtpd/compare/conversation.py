"""Play one dialogue over any wire, and remember what was said. Whatever the peer does is a result.

A write behind a DATA line is left out if the server has not asked for it by 354; a peer that
keeps silent is left at once.
"""

import enum
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

__all__ = ["MOST", "Conversation", "Ending", "Wire", "complete", "converse", "reply_codes"]

MOST = 65_536
"""Octets that a peer may say in one conversation."""

_FINAL = re.compile(rb"([0-9]{3})(?: [^\n]*)?\r?\n")
_CONTINUED = re.compile(rb"[0-9]{3}-")
_LINE = re.compile(rb"[^\n]*\n")
_QUIT = b"QUIT\r\n"
_CHUNK = re.compile(rb"BDAT\b", re.IGNORECASE)
_DATA = re.compile(rb"DATA\r\n\Z", re.IGNORECASE)


class Ending(enum.Enum):
    """How a conversation came to its end."""

    CLOSED = "closed"
    LEFT = "left open"
    SILENT = "silent"
    RESET = "reset"
    FLOOD = "said too much"
    REFUSED = "no connection"
    NOT_OFFERED = "left before BDAT, which is not offered"

    __hash__ = object.__hash__


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a client wrote, and what it was told."""

    written: tuple[bytes, ...]
    """The writes that were made."""

    said: tuple[bytes, ...]
    """What came first, the greeting, and then to each write."""

    ending: Ending

    @property
    def codes(self) -> tuple[int, ...]:
        """The reply codes, without the greeting's; 0 for a line that is no reply."""
        return reply_codes(b"".join(self.said[1:]))


class Wire(Protocol):
    """A connection to a server."""

    def exchange(self, data: bytes, *, last: bool) -> tuple[bytes, Ending | None]:
        """Write, and read the replies: until the peer closes if it is asked to. Says how it ended, if it did."""
        ...


def reply_codes(said: bytes) -> tuple[int, ...]:
    """The codes of the replies in what a server has said; 0 for a line that belongs to none."""
    codes: list[int] = []
    for line in _LINE.findall(said):
        if (match := _FINAL.match(line)) is not None:
            codes.append(int(match[1]))
        elif not _CONTINUED.match(line):
            codes.append(0)
    return tuple(codes)


def complete(said: bytes) -> bool:
    """Whether what a server has said ends with the last line of a reply."""
    return said.endswith(b"\n") and _FINAL.match(said, said.rfind(b"\n", 0, -1) + 1) is not None


def converse(wire: Wire, writes: Sequence[bytes]) -> Conversation:
    """Play a dialogue."""
    greeting, ending = wire.exchange(b"", last=False)
    written: list[bytes] = []
    said = [greeting]
    skip = False
    for write in writes:
        if ending is not None:
            break
        if skip:
            skip = False
            continue
        if _CHUNK.match(write) and b"CHUNKING" not in b"".join(said).upper():
            ending = Ending.NOT_OFFERED  # for such a server it is an unknown command, and the chunk is commands
            break
        reply, ending = wire.exchange(write, last=write == _QUIT)
        written.append(write)
        said.append(reply)
        skip = _DATA.search(write) is not None and not 300 <= (reply_codes(reply) or (0,))[-1] < 400
    return Conversation(tuple(written), tuple(said), ending or Ending.LEFT)
