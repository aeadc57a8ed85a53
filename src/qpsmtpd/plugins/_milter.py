"""The milter protocol, version 6: what an MTA and a filter say to each other, as octets.

A packet is a length, a letter and what belongs to it. There is no standard: this is what libmilter does.
"""

import enum
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

__all__ = [
    "FINAL", "MOST", "Change", "Options", "Step", "connect_packet", "field_packet", "macros_packet", "offer", "packet",
    "parse_change", "parse_offer", "parse_reply", "texts",
]  # fmt: skip

MOST = 1 << 20
"""Octets of a packet that a filter may send."""

FINAL = b"cartdsy4"
"""The letters of answers; those of changes are others."""

_VERSION = 6
_DATA_SINCE = 4  # filters of older versions close the connection when they are told of DATA
_ACTIONS = 0xFF  # fields, body, recipients, quarantine, the sender, recipients with parameters
_LEADING_BLANK = 0x100000
_REPLY = re.compile(r"([45])([0-9][0-9])(?:[ -]|$)")
_LINE_BREAK = re.compile(r"[\r\n]+(?:[45][0-9][0-9][ -])?")


class Step(enum.Enum):
    """A step of a session: its letter, the bit of filters that do not want it, the bit of those that do not answer."""

    CONNECT = b"C", 0x1, 0x1000
    HELO = b"H", 0x2, 0x2000
    MAIL = b"M", 0x4, 0x4000
    RCPT = b"R", 0x8, 0x8000
    DATA = b"T", 0x200, 0x10000
    FIELD = b"L", 0x20, 0x80
    END_OF_HEADER = b"N", 0x40, 0x40000
    BODY = b"B", 0x10, 0x80000
    END = b"E", 0, 0


# Besides the bits of the steps: SKIP in the body; unknown commands, of which nobody is told.
_PROTOCOL = sum(step.value[1] | step.value[2] for step in Step) | _LEADING_BLANK | 0x400 | 0x20100


def packet(letter: bytes, data: bytes = b"") -> bytes:
    """A packet, as sent."""
    return struct.pack("!I", len(data) + 1) + letter + data


def texts(*words: str) -> bytes:
    """Words, each ended by a NUL, of which there is none inside."""
    return b"".join(
        word.replace("\0", "?").encode("utf-8", "surrogateescape") + b"\0" for word in map(_encodable, words)
    )


def _encodable(word: str) -> str:
    """A word without surrogates that stand for no octet."""
    return re.sub(r"[\ud800-\udc7f\udd00-\udfff]", "?", word)


@dataclass(frozen=True, slots=True)
class Options:
    """What a filter has agreed to."""

    protocol: int = 0

    def wants(self, step: Step) -> bool:
        """Whether it is told of a step."""
        return not self.protocol & step.value[1]

    def answers(self, step: Step) -> bool:
        """Whether it answers to it."""
        return not self.protocol & step.value[2]

    @property
    def leading_blank(self) -> bool:
        """Whether values of fields are shown with the blank behind the colon."""
        return bool(self.protocol & _LEADING_BLANK)


def offer() -> bytes:
    """The first packet: all that we can do."""
    return packet(b"O", struct.pack("!III", _VERSION, _ACTIONS, _PROTOCOL))


def parse_offer(letter: bytes, data: bytes) -> Options:
    """What the filter chooses of it. Raises ValueError."""
    if letter != b"O" or len(data) < 12:
        raise ValueError("it does not negotiate")
    version, actions, protocol = struct.unpack_from("!III", data)
    if not 2 <= version <= _VERSION:
        raise ValueError(f"it speaks version {version}")
    if actions & ~_ACTIONS or protocol & ~_PROTOCOL:
        raise ValueError(f"it asks for what was not offered ({actions:#x}, {protocol:#x})")
    if version < _DATA_SINCE:
        protocol |= Step.DATA.value[1]
    return Options(protocol)


def macros_packet(step: Step, macros: Mapping[str, str]) -> bytes:
    """The values of macros that belong to the step behind; those without one are left out."""
    words = [
        word for name, value in macros.items() if value for word in (f"{{{name}}}" if len(name) > 1 else name, value)
    ]
    return packet(b"D", step.value[0] + texts(*words))


def connect_packet(host: str, family: str, port: int, address: str) -> bytes:
    """Who has connected; the family is 4, 6, or U for unknown."""
    if family == "U":
        return packet(b"C", texts(host) + b"U")
    return packet(b"C", texts(host) + family.encode("ascii") + struct.pack("!H", port & 0xFFFF) + texts(address))


def field_packet(name: str, body: bytes, *, leading_blank: bool) -> bytes:
    """A header field; `body` is what stands behind the colon."""
    value = body.rstrip(b"\r\n").replace(b"\r\n", b"\n").replace(b"\0", b"?")
    if not leading_blank:
        value = value.removeprefix(b" ")
    return packet(b"L", texts(name) + value + b"\0")


@dataclass(frozen=True, slots=True)
class Change:
    """Something that a filter wants changed: its letter, a number where there is one, and texts or octets."""

    letter: bytes
    number: int = 0
    words: tuple[str, ...] = ()
    data: bytes = b""


_WORDS = {
    b"+": (1, 1),
    b"2": (1, 2),
    b"-": (1, 1),
    b"e": (1, 2),
    b"h": (2, 2),
    b"i": (2, 2),
    b"m": (2, 2),
    b"q": (1, 1),
}
"""How many texts, at least and at most, a change has."""


def parse_change(letter: bytes, data: bytes) -> Change:
    """Read what a filter wants changed. Raises ValueError."""
    if letter == b"b":
        return Change(letter, data=data)
    if letter not in _WORDS:
        raise ValueError(f"it says {letter!r}")
    number = 0
    if letter in b"im":
        if len(data) < 4:
            raise ValueError("a field without a number")
        (number,), data = struct.unpack_from("!I", data), data[4:]
    words = tuple(word.decode("utf-8", "surrogateescape") for word in data.removesuffix(b"\0").split(b"\0"))
    least, most = _WORDS[letter]
    if not (data.endswith(b"\0") and least <= len(words) <= most):
        raise ValueError(f"{letter!r} with {len(words)} words")
    return Change(letter, number, words)


def parse_reply(data: bytes) -> tuple[int, str]:
    """The code of a reply that a filter has made up, and its text, on one line. Raises ValueError."""
    text = data.partition(b"\0")[0].decode("utf-8", "replace").replace("%%", "%")
    match = _REPLY.match(text)
    if match is None:
        raise ValueError(f"it says {text[:100]!r}")
    return int(match[1] + match[2]), _LINE_BREAK.sub(" ", text[match.end() :]).strip()


def joined(changes: Iterable[Change]) -> bytes | None:
    """The new body in its pieces, None if there is none."""
    pieces = [change.data for change in changes if change.letter == b"b"]
    return b"".join(pieces) if pieces else None
