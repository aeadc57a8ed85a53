r"""Dialogues as text: what a client sends and what a server says, a line each.

Lines `C: ` go to the server, with CRLF; several in a row are one write. `C| ` is sent without
CRLF. Lines `S: ` are what the server says. In both, `\r`, `\n`, `\t`, `\\` and `\xNN` stand for
octets. Other lines are comments.
"""

import re
from dataclasses import dataclass

__all__ = ["Turn", "escape", "parse", "split_replies", "unescape"]

_ESCAPE = re.compile(rb"\\(?:x([0-9a-f]{2})|([rnt\\]))")
_ESCAPED = re.compile(rb"[^ -\[\]-~]")
_REPLY = re.compile(rb"(?:[0-9]{3}-[^\r\n]*\r\n)*[0-9]{3}(?: [^\r\n]*)?\r\n")
_NAMED = {b"\r": "\\r", b"\n": "\\n", b"\t": "\\t", b"\\": "\\\\"}
_MEANT = {b"r": b"\r", b"n": b"\n", b"t": b"\t", b"\\": b"\\"}


@dataclass(slots=True)
class Turn:
    """What the client writes, and what the server says to it; the greeting answers nothing."""

    sent: bytes = b""
    said: bytes = b""


def parse(text: str) -> list[Turn]:
    """The turns of a dialogue; the first is the greeting's."""
    turns, last = [Turn()], "S"
    for line in text.splitlines():
        kind, octets = line[:3].ljust(3), unescape(line[3:])
        if kind in ("C: ", "C| "):
            if last == "S":
                turns.append(Turn())
            turns[-1].sent += octets + (b"\r\n" if kind == "C: " else b"")
            last = "C"
        elif kind == "S: ":
            turns[-1].said += octets + b"\r\n"
            last = "S"
    return turns


def unescape(text: str) -> bytes:
    """The octets that a line stands for."""
    return _ESCAPE.sub(lambda m: bytes([int(m[1], 16)]) if m[1] else _MEANT[m[2]], text.encode())


def escape(octets: bytes) -> str:
    """The line that stands for octets; `unescape` gives them back."""

    def escaped(match: re.Match[bytes]) -> bytes:
        return _NAMED.get(match[0], f"\\x{match[0][0]:02x}").encode()

    return _ESCAPED.sub(escaped, octets).decode("ascii")


def split_replies(data: bytes) -> list[bytes]:
    """The replies in what a server has said, each with all its lines. Raises ValueError for anything else."""
    replies = _REPLY.findall(data)
    if b"".join(replies) != data:
        raise ValueError(f"not a sequence of replies: {data!r}")
    return replies
