"""Message content on its way out, in pieces: cut, held against the rules, dot-stuffed (RFC 5321 section 4.5.2).

Everything works on pieces as they come, in C; no piece is ever larger than what was asked
for, and none is kept. What comes in is `framing`'s.
"""

from collections.abc import Iterable, Iterator

from qpsmtpd.protocol.framing import has_bare, normalized

__all__ = ["BareLineEnd", "chain", "cut", "stuffed", "whole_lines", "with_last"]


class BareLineEnd(Exception):  # noqa: N818 - a finding
    """The content holds a bare CR or LF."""


def cut(content: bytes | Iterable[bytes], size: int) -> Iterator[bytes]:
    """The content in pieces of `size` octets; only the last is smaller, and none is empty."""
    held: list[bytes] = []
    room = size
    for chunk in (content,) if isinstance(content, bytes) else content:
        start = 0
        while len(chunk) - start >= room:
            held.append(chunk[start : start + room])
            yield b"".join(held)
            held.clear()
            start, room = start + room, size
        if start < len(chunk):
            held.append(chunk[start:])
            room -= len(chunk) - start
    if held:
        yield b"".join(held)


def whole_lines(pieces: Iterable[bytes], *, strict: bool) -> Iterator[bytes]:
    """Pieces that do not end inside a CRLF and hold no bare CR or LF.

    What is bare is made CRLF, or `strict` raises BareLineEnd.
    """
    held = b""
    for piece in pieces:
        data = held + piece
        held = b"\r" if data.endswith(b"\r") else b""
        data = data[: len(data) - len(held)]
        if has_bare(data):
            if strict:
                raise BareLineEnd
            data = normalized(data)
        if data:
            yield data
    if held:
        if strict:
            raise BareLineEnd
        yield b"\r\n"


def stuffed(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Whole lines as they follow DATA, with dots doubled and the end mark (RFC 5321 section 4.5.2).

    Content that does not end a line is given a CRLF, since the end mark begins with one.
    """
    line_ended = True
    for piece in pieces:
        stuffed = piece.replace(b"\r\n.", b"\r\n..")
        yield b"." + stuffed if line_ended and piece.startswith(b".") else stuffed
        line_ended = piece.endswith(b"\r\n")
    yield b".\r\n" if line_ended else b"\r\n.\r\n"


def with_last(pieces: Iterator[bytes]) -> Iterator[tuple[bytes, bool]]:
    """Each piece, and whether it is the last one; there is one at least."""
    piece = next(pieces, b"")
    for following in pieces:
        yield piece, False
        piece = following
    yield piece, True


def chain(ahead: Iterable[bytes], pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The pieces, and before them others."""
    yield from ahead
    yield from pieces
