r"""Where message content ends (RFC 5321 section 4.1.1.4), and how it is unstuffed.

Theory of operation. CRLF, bare CR and bare LF are three different tokens. Content ends at
CRLF `.` CRLF and at nothing else, where the CRLF of the DATA line counts as the first one;
a server that takes less (LF `.` CRLF, CR `.` CR, ...) can be made to see two messages where
its neighbour sees one. A dot at the start of a line, after CRLF only, is removed.

Everything works on chunks as they come, in C: one search for the end, one cut at each CRLF
`.`. Both go from the right, where CPython's search is twice as fast. What could be the
beginning of an end mark or of a CRLF stays in the buffer until more has come, so that the cuts
of the stream never show.

Content with a bare CR or LF is refused (its LFs are then not where its CRs are, one octet on),
and so is content over its limit. The rest is then searched for its end, but not kept, so that
the dialogue stays in step. One thing is answered at once, as the original does: a dot alone on
a line that ends in a bare LF. That client believes it has finished and would wait for ever.

Chunks (RFC 3030) are counted instead of searched; what their octets may be is the same.
"""

import enum
import re

__all__ = ["ChunkReader", "ContentReader", "HeaderSplitter", "LineEndings", "Mark", "has_bare", "normalized"]

_BARE = re.compile(rb"\r(?!\n)|(?<!\r)\n")
_END = re.compile(rb"\r\n\.\r\n")
_END_OR_BARE_DOT = re.compile(rb"\r\n\.\r\n|\n\.\n")
_ONLY_CR, _ONLY_LF = (bytes(octet == kept for octet in range(256)) for kept in b"\r\n")  # for `translate`
_CONTEXT = 4  # octets before a cut that may belong to a mark: CR LF . CR


class LineEndings(enum.Enum):
    """What to do with a bare CR or LF in message content."""

    STRICT = "refuse"
    NORMALIZE = "make it CRLF, once the end of the content has been found by the strict rule"


class Mark(enum.Enum):
    """What the reader met at the point it has reached."""

    MORE = "nothing: more bytes are needed"
    END = "the end of the content"
    BARE = "a bare CR or LF: the content is refused, and read to its end"
    TOO_LARGE = "the limit: the content is refused, and read to its end"
    BARE_DOT = "a dot on a line ended by a bare LF, where those are refused: the dialogue is out of step"

    __hash__ = object.__hash__


# Reading a member off its class costs as much as a call in Python 3.11.
_MORE, _END_OF_CONTENT = Mark.MORE, Mark.END


class ContentReader:
    """Takes message content out of a buffer, chunk by chunk."""

    __slots__ = ("_context", "_discarding", "_normalize", "_room")

    def __init__(self, limit: int | None, line_endings: LineEndings = LineEndings.STRICT) -> None:
        """`limit` is the largest content, in octets with a line end counted as one."""
        self._room = limit
        self._normalize = line_endings is LineEndings.NORMALIZE
        self._context = b"\r\n"
        self._discarding = False

    def discard(self) -> None:
        """Read on to the end, but give no more content."""
        self._discarding = True

    def read(self, buffer: bytearray) -> tuple[bytes, Mark]:
        """Remove what can be removed from `buffer`; give the content in it and what came up."""
        if not buffer:
            return b"", _MORE
        if self._discarding:
            return b"", self._discard(buffer)
        start = 0
        if buffer.startswith(b".") and self._context.endswith(b"\r\n"):
            if buffer.startswith(b".\r\n"):
                del buffer[:3]
                return b"", _END_OF_CONTENT
            if len(buffer) < 3 and b".\r\n".startswith(buffer):
                return b"", _MORE
            start = 1
        end = buffer.rfind(b"\r\n.\r\n", start)
        if end >= 0:  # seldom the case, and then the first one counts
            end = buffer.find(b"\r\n.\r\n", start)
            stop, consumed = end + 2, end + 5
        else:
            stop = consumed = self._certain(buffer, start)
        piece = buffer[start:stop]
        bare = has_bare(piece)
        if bare and not self._normalize:
            return self._refuse_bare(buffer, start, bytes(piece))
        data = b"\r\n".join(piece.rsplit(b"\r\n."))
        if bare:
            data = normalized(data)
        if self._room is not None:
            size = len(data) - data.count(b"\r")
            if size > self._room:
                return self._refuse_large(buffer, data, stop, self._room)
            self._room -= size
        if end < 0:
            self._context = (self._context + buffer[max(0, stop - _CONTEXT) : stop])[-_CONTEXT:]
        del buffer[:consumed]
        return data, _MORE if end < 0 else _END_OF_CONTENT

    def _certain(self, buffer: bytearray, start: int) -> int:
        """How far the buffer holds content for certain: neither half a CRLF nor half an end."""
        stop = len(buffer)
        if buffer.endswith(b"\r", start):
            stop -= 1
        if buffer.endswith(b"\r\n.", start, stop):
            stop -= 1
        return stop

    def _refuse_bare(self, buffer: bytearray, start: int, data: bytes) -> tuple[bytes, Mark]:
        bare = _BARE.search(data)
        assert bare is not None, "`has_bare` has seen it"
        data = data[: bare.start()]
        stop = start + bare.start()
        clean = data.replace(b"\r\n.", b"\r\n")
        if self._room is not None:
            size = len(clean) - clean.count(b"\r\n")
            if size > self._room:
                return self._refuse_large(buffer, clean, stop, self._room)
        self._skip(buffer, stop)
        return clean, Mark.BARE

    def _refuse_large(self, buffer: bytearray, data: bytes, stop: int, room: int) -> tuple[bytes, Mark]:
        self._skip(buffer, stop)
        return _first(data, room), Mark.TOO_LARGE

    def _skip(self, buffer: bytearray, stop: int) -> None:
        self._context = (self._context + buffer[max(0, stop - _CONTEXT) : stop])[-_CONTEXT:]
        self._discarding = True
        del buffer[:stop]

    def _discard(self, buffer: bytearray) -> Mark:
        window = self._context + buffer
        mark = (_END if self._normalize else _END_OR_BARE_DOT).search(window)
        if mark is None:
            self._context = window[-_CONTEXT:]
            buffer.clear()
            return _MORE
        del buffer[: mark.end() - len(self._context)]
        return _END_OF_CONTENT if mark[0] == b"\r\n.\r\n" else Mark.BARE_DOT


class ChunkReader:
    """Takes the chunks of BDAT (RFC 3030) out of a buffer; they make up one message content."""

    __slots__ = ("_binary", "_discarding", "_held", "_last", "_left", "_normalize", "_room")

    def __init__(
        self, limit: int | None, line_endings: LineEndings = LineEndings.STRICT, *, binary: bool = False
    ) -> None:
        """`limit` is as in `ContentReader`; `binary` content may hold any octets (BODY=BINARYMIME)."""
        self._room = limit
        self._normalize = line_endings is LineEndings.NORMALIZE
        self._binary = binary
        self._held = b""  # a CR at the end of what came last, which may be half a line end
        self._left = 0
        self._last = False
        self._discarding = False

    def begin(self, size: int, *, last: bool) -> None:
        """Go on with a chunk of `size` octets, the last one or not."""
        self._left = size
        self._last = last

    def discard(self) -> None:
        """Read on to the end of each chunk, but give no more content."""
        self._discarding = True

    def read(self, buffer: bytearray) -> tuple[bytes, Mark]:
        """Remove what belongs to the chunk from `buffer`; `Mark.END` says that the chunk has ended."""
        piece = bytes(buffer[: self._left])
        del buffer[: len(piece)]
        self._left -= len(piece)
        mark = _MORE if self._left else _END_OF_CONTENT
        if self._discarding:
            return b"", mark
        data, self._held = self._held + piece, b""
        bare: re.Match[bytes] | None = None
        if not self._binary:
            if data.endswith(b"\r") and not (self._last and mark is _END_OF_CONTENT):
                data, self._held = data[:-1], b"\r"
            if has_bare(data):
                if self._normalize:
                    data = normalized(data)
                else:
                    bare = _BARE.search(data)
                    assert bare is not None, "`has_bare` has seen it"
                    data = data[: bare.start()]
        if self._room is not None:
            size = len(data) - data.count(b"\r\n")
            if size > self._room:
                self._discarding = True
                return _first(data, self._room), Mark.TOO_LARGE
            self._room -= size
        if bare is not None:
            self._discarding = True
            return data, Mark.BARE
        return data, mark


class HeaderSplitter:
    """Finds where the header section of a message ends: before its first blank line."""

    __slots__ = ("_before", "_held", "_room", "ended", "too_large")

    def __init__(self, limit: int) -> None:
        """`limit` is the largest header section, in octets, the blank line left out."""
        self._room = limit
        self._before = b"\r\n"  # the last two octets that were split
        self._held = b""  # a CR that may begin the blank line
        self.ended = False
        self.too_large = False

    def split(self, data: bytes) -> tuple[bytes, bytes]:
        """Cut content into what belongs to the header and what does not: the blank line and the body."""
        data, self._held = self._held + data, b""
        found = (self._before + data).find(b"\r\n\r\n")
        if found < 0 and (self._before + data).endswith(b"\r\n\r"):
            data, self._held = data[:-1], data[-1:]
        end = len(data) if found < 0 else found + 2 - len(self._before)
        if end > self._room:
            self.ended = self.too_large = True
            return data[: self._room], b""
        if found >= 0:
            self.ended = True
            return data[:end], data[end:]
        self._room -= len(data)
        self._before = (self._before + data)[-2:]
        return data, b""

    def rest(self) -> bytes:
        """What is still held when the content has ended without a blank line."""
        held, self._held = self._held, b""
        return held


def _first(data: bytes, size: int) -> bytes:
    """The start of `data` that has this size, a line end counted as one; no line end is cut in two."""
    cut = size
    while (more := size + data.count(b"\r", 0, cut)) > cut:
        cut = more
    return data[:cut]


def has_bare(data: bytes | bytearray) -> bool:
    """Whether data holds a CR or LF that is not part of a CRLF: its LFs are not where its CRs are, one octet on."""
    return b"\0" + data.translate(_ONLY_CR) != data.translate(_ONLY_LF) + b"\0"


def normalized(data: bytes) -> bytes:
    """The same with CRLF for each bare CR and LF."""
    return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")
