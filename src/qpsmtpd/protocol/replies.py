"""SMTP replies (RFC 5321 section 4.2) with enhanced status codes (RFC 2034, RFC 3463).

A reply is a value; `encode_reply` is the only place where text becomes reply bytes, so that
nothing a client or a plugin says can add a line, a control character or an overlong line.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

__all__ = ["LINE_LIMIT", "Reply", "ReplyReader", "encode_reply", "parse_reply"]

LINE_LIMIT = 512
"""Octets in a reply line, CRLF included (RFC 5321 section 4.5.3.1.5)."""

_ENHANCED = re.compile(r"([245])\.(\d{1,3})\.(\d{1,3})(?: |$)", re.ASCII)
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_SHORT = 400  # characters that fit a reply line whatever stands before them
_LENIENT_LINE = re.compile(rb"([2-5][0-9]{2})(?:([ -])(.*))?", re.DOTALL)
_LINE = re.compile(rb"([2-5][0-9]{2})([ -])([^\r\n]*)\r\n|([2-5][0-9]{2})\r\n")


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply code, an optional enhanced status code, and the text, one line after another.

    The text may hold line feeds; each starts a new reply line.
    """

    code: int
    enhanced: str | None
    text: str

    @property
    def is_positive(self) -> bool:
        """Whether it says that what was asked for is done: 2yz."""
        return self.code // 100 == 2

    @property
    def is_permanent(self) -> bool:
        """Whether it refuses for good: 5yz."""
        return self.code // 100 == 5

    def encode(self, *, enhanced: bool = True, utf8: bool = False) -> bytes:
        """The reply as sent; see `encode_reply`."""
        return encode_reply(self.code, self.enhanced, self.text, enhanced, utf8)


def encode_reply(code: int, status: str | None, text: str, enhanced: bool, utf8: bool) -> bytes:
    """A reply as sent: well-formed lines of at most 512 octets each.

    A text that begins with a status code brings its own; a refusal for now and one for good
    differ in its class, which follows `code`. `enhanced` says whether status codes are shown
    at all. Characters that a reply cannot hold are shown as `?`; without `utf8` (RFC 6531
    section 3.7.4.2) others than ASCII as escapes.
    """
    encode = _encode_short if len(text) < _SHORT else _encode
    return encode(code, status, text, enhanced, utf8)


def _encode(code: int, status: str | None, text: str, enhanced: bool, utf8: bool) -> bytes:
    if text[:1] in "245" and (own := _ENHANCED.match(text)) and (own[1] == "2") == (code < 400):
        status, text = f"{code // 100}.{own[2]}.{own[3]}", text[own.end() :]
    if not enhanced:
        status = None
    prefix = f"{status} " if status else ""
    if len(text) < _SHORT and text.isascii() and text.isprintable():
        return f"{code} {prefix}{text}\r\n".encode("ascii")
    room = LINE_LIMIT - len("250-\r\n") - len(prefix)
    pieces: list[bytes] = []
    for line in text.split("\n"):
        clean = _UNPRINTABLE.sub("?", line.rstrip("\r").replace("\t", " "))
        pieces += _wrap(clean.encode("utf-8" if utf8 else "ascii", "backslashreplace"), room)
    lines = [f"{code}-{prefix}".encode("ascii") + piece + b"\r\n" for piece in pieces[:-1]]
    return b"".join([*lines, f"{code} {prefix}".encode("ascii"), pieces[-1], b"\r\n"])


_encode_short = lru_cache(1024)(_encode)  # most replies are given again and again; a long one may be of any length


def _wrap(line: bytes, room: int) -> list[bytes]:
    """Cut a line into pieces of at most `room` octets, never inside a UTF-8 character."""
    pieces: list[bytes] = []
    while len(line) > room:
        cut = room
        while line[cut] & 0xC0 == 0x80:
            cut -= 1
        pieces.append(line[:cut])
        line = line[cut:]
    return [*pieces, line]


def parse_reply(data: bytes) -> Reply:
    """Read one whole reply, strictly. Raises ValueError if it is not well formed."""
    position, codes, texts = 0, set[bytes](), list[bytes]()
    more = True
    while more:
        line = _LINE.match(data, position)
        if line is None or len(line[0]) > LINE_LIMIT:
            raise ValueError(f"not a reply line: {data[position : position + 80]!r}")
        position = line.end()
        codes.add(line[1] or line[4])
        texts.append(line[3] or b"")
        more = line[2] == b"-"
    if position != len(data) or len(codes) != 1:
        raise ValueError(f"not one reply: {data[:80]!r}")
    return _reply_of(codes.pop(), texts)


def _reply_of(code: bytes, lines: Iterable[bytes]) -> Reply:
    """The reply with these texts; a status code belongs to it if its class does (RFC 2034 section 4)."""
    enhanced: str | None = None
    texts: list[str] = []
    for line in lines:
        text = line.decode("utf-8", "surrogateescape")
        status = _ENHANCED.match(text)
        if status is not None and status[1].encode() == code[:1]:
            enhanced, text = status[0].rstrip(), text[status.end() :]
        texts.append(text)
    return Reply(int(code), enhanced, "\n".join(texts))


class ReplyReader:
    """Takes replies out of what a server sends (RFC 5321 section 4.2).

    A line may end in a bare LF: old servers do so, and where a reply ends stays certain.
    """

    def __init__(self, line_limit: int, limit: int) -> None:
        """`line_limit` is the longest line, in octets, and `limit` the longest reply."""
        self._line_limit = line_limit
        self._limit = limit
        self._buffer = bytearray()
        self._searched = 0  # octets at the start of the buffer known to hold no LF
        self._code: bytes = b""
        self._texts: list[bytes] = []
        self._size = 0

    @property
    def pending(self) -> bool:
        """Whether anything has come that is not part of a reply that was taken."""
        return bool(self._buffer or self._texts)

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Take what the server has sent."""
        self._buffer += data

    def next(self) -> Reply | None:
        """The next reply; None if it has not come whole. Raises ValueError for what is no reply."""
        buffer = self._buffer
        while (end := buffer.find(b"\n", self._searched)) >= 0:
            self._size += end
            line = _LENIENT_LINE.fullmatch(buffer[:end].removesuffix(b"\r"))
            if line is None or end > self._line_limit or self._size > self._limit:
                raise ValueError("not a reply")
            code = bytes(line[1])
            if self._texts and code != self._code:
                raise ValueError("not a reply")
            self._code = code
            self._texts.append(bytes(line[3] or b""))
            self._searched = 0
            del buffer[: end + 1]
            if line[2] != b"-":
                return self._whole()
        if len(buffer) > self._line_limit:
            raise ValueError("not a reply")
        self._searched = len(buffer)
        return None

    def _whole(self) -> Reply:
        """The reply whose lines have come."""
        reply = _reply_of(self._code, self._texts)
        self._texts.clear()
        self._size = 0
        return reply
