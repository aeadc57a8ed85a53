"""Message contents (RFC 5322, RFC 5321 section 4.5.3.1.6): valid ones, and such as servers disagree on."""

from functools import cache

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

__all__ = ["contents", "hostile_contents"]

_TEXT = [b"a", b"B", b"9", b" ", b".", b",", b"=", b"-", b"<", b">", b"@"]
_HIGH = [b"\xc3\xbc", b"\xe6\xbc\xa2", b"\xff"]
_WHOLE_LINES = [b"", b".", b"..", b"...", b".x", b"x" * 998, b"." + b"x" * 997, b"From a", b"--x", b"Received: x"]
_NAMES = st.sampled_from([b"Subject", b"From", b"To", b"Received", b"X-Test", b"Content-Type", b"a"])


def contents(*, eight_bit: bool = True) -> SearchStrategy[bytes]:
    """Valid message contents, as they are before dots are stuffed: header section, blank line, body.

    Lines have at most 998 octets and end in CRLF; many begin with a dot. Without `eight_bit`,
    all is ASCII.
    """
    return _contents(eight_bit)


@cache  # to make a strategy takes longer than to draw from it
def _contents(eight_bit: bool) -> SearchStrategy[bytes]:
    octets = st.sampled_from([*_TEXT, *_HIGH] if eight_bit else _TEXT)
    words = st.lists(octets, min_size=1, max_size=20).map(b"".join)
    values = st.lists(words, max_size=3).map(b"\r\n ".join)
    fields = st.tuples(_NAMES, st.just(b": "), values, st.just(b"\r\n")).map(b"".join)
    lines = (st.sampled_from(_WHOLE_LINES) | words).map(lambda line: line + b"\r\n")
    header, body = st.lists(fields, max_size=6), st.lists(lines, max_size=6)
    return st.tuples(header.map(b"".join), st.just(b"\r\n"), body.map(b"".join)).map(b"".join)


_PIECES = [
    b"\r", b"\n", b"\r\n", b".", b"..", b"x", b" ", b"\x00", b"\xff", b"\r\n.", b"\r\n..", b"\r\n.\r\n", b"\n.\n", b"\n.\r\n",
    b"\r.\r", b"\r\r\n", b"\x1a", b"\r\n\r\n", b"Subject: x\r\n", b"Bad Field\r\n", b": x\r\n", b" folded\r\n",
    b"MAIL FROM:<>\r\n", b"QUIT\r\n", b"x" * 998, b"x" * 1001, b"x" * 5000,
]  # fmt: skip


def hostile_contents() -> SearchStrategy[bytes]:
    """Octets as they might follow DATA: bare line ends, end marks true and false, NUL, long lines, no end.

    Not stuffed: the content may be over before its last octet.
    """
    return st.lists(st.sampled_from(_PIECES), max_size=16).map(b"".join) | st.binary(max_size=40)
