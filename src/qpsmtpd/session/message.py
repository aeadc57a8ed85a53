"""The content of a message: the client's bytes, kept exactly, in memory or in a spool file.

A message is its header fields, then the rest: the blank line and the body. The header is
kept in memory (the protocol bounds it) and may be edited; the rest is never changed.
"""

import contextlib
import io
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any, BinaryIO, cast

__all__ = ["CHUNK", "PIECE", "Field", "Header", "Message", "make_field"]

CHUNK = 65_536
"""Octets of a message handled at once."""

PIECE = 1_048_576
"""Octets that wait in memory to be written to the spool file at once."""
_MOST = 1000  # pieces of content in memory: each has its cost, however small it is; and `writev` takes 1024

_FIELD = re.compile(rb"[^\r\n]*(?:\r\n[ \t][^\r\n]*)*(?:\r\n|$)")
_NAME = re.compile(rb"[!-9;-~]+(?=[ \t]*:)")
_FIELD_NAME = re.compile(r"[!-9;-~]+")
_NO_FIELD_TEXT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udc7f\udd00-\udfff]")
_MBOX_LINE, _MBOX_NAME, _MBOX_PLACE = b"From ", "Mail-From", b"mail-from"


@dataclass(frozen=True, slots=True)
class Field:
    """A header field as it stands in the message, CRLF included; folded lines belong to it.

    A line that is no field has the empty name, and is kept like the others. The line that
    mbox files put between messages, `From ` without a colon, goes by the name Mail-From.
    """

    raw: bytes

    @property
    def name(self) -> str:
        """The field name, as written."""
        match = _NAME.match(self.raw)
        if match is None:
            return _MBOX_NAME if self.raw.startswith(_MBOX_LINE) else ""
        return match[0].decode("ascii")

    @property
    def value(self) -> str:
        """The field body without its final CRLF, folding kept; octets that are no UTF-8 are kept too."""
        name = self.name
        mark = b" " if self.raw.startswith(_MBOX_LINE) and name == _MBOX_NAME else b":"
        body = self.raw.partition(mark)[2] if name else self.raw
        return body.strip(b"\r\n\t ").decode("utf-8", "surrogateescape")


class Header:
    """The header fields in order. Names compare without regard to case."""

    def __init__(self, raw: bytes = b"") -> None:
        self._raw = raw
        self._split: list[bytes] | None = None  # the fields, once one of them has been asked for

    @property
    def fields(self) -> list[Field]:
        """The fields, top to bottom; a copy."""
        return [Field(raw) for raw in self._fields()]

    def get(self, name: str, default: str = "") -> str:
        """The body of the first field of this name, or `default`."""
        return next(iter(self.get_all(name)), default)

    def get_all(self, name: str) -> list[str]:
        """The bodies of all fields of this name, top to bottom."""
        return [Field(self._fields()[index]).value for index in self._places(name)]

    def add(self, name: str, value: str, index: int | None = None) -> None:
        r"""Add a field before the one at `index` (0: on top), or at the end.

        A line feed in `value` folds the field. Raises ValueError for a bad name.
        """
        field = make_field(name, value)
        fields = self._fields()
        fields.insert(len(fields) if index is None else index, field)

    def prepend(self, raw: bytes) -> None:
        """Put fields on top that are encoded already, each with its CRLF, without parsing."""
        if self._split is None:
            self._raw = raw + self._raw
        else:
            self._split[:0] = _FIELD.findall(raw)[:-1]

    def delete(self, name: str) -> int:
        """Remove all fields of this name; give their number."""
        places = self._places(name)
        for index in reversed(places):
            del self._fields()[index]
        return len(places)

    def take(self, name: str) -> list[str]:
        """Remove all fields of this name; give their bodies, top to bottom."""
        if not self._places(name):
            return []
        bodies = self.get_all(name)
        self.delete(name)
        return bodies

    def replace(self, name: str, value: str) -> None:
        """Put a new body into the first field of this name and remove the others, or add one."""
        first = next(iter(self._places(name)), None)
        self.delete(name)
        self.add(name, value, first)

    def change(self, name: str, number: int, value: str | None) -> None:
        """Put a new body into one of the fields of this name, or remove it if that is None.

        They count from 1 at the top, from -1 at the bottom. Where there are fewer, one is added.
        """
        places = self._places(name)
        if not number or abs(number) > len(places):
            if value is not None:
                self.add(name, value)
            return
        place = places[number - 1 if number > 0 else number]
        self._fields()[place : place + 1] = [] if value is None else [make_field(name, value)]

    def __bytes__(self) -> bytes:
        return self._raw if self._split is None else b"".join(self._split)

    def __len__(self) -> int:
        return len(self._fields())

    def _fields(self) -> list[bytes]:
        if self._split is None:
            self._split = _FIELD.findall(self._raw)[:-1]  # the last match is the empty one at the end
        return self._split

    def _places(self, name: str) -> list[int]:
        wanted = name.lower().encode()
        if wanted == _MBOX_PLACE:
            return [index for index, raw in enumerate(self._fields()) if Field(raw).name.lower() == name.lower()]
        if self._split is None and wanted not in self._raw.lower():
            return []  # most fields that are looked for are not there, and need no splitting
        length = len(wanted)
        return [
            index
            for index, raw in enumerate(self._fields())
            if raw[:length].lower() == wanted and raw[length:].lstrip(b" \t").startswith(b":")
        ]


def make_field(name: str, value: str) -> bytes:
    r"""A header field as sent, CRLF included; a line feed in `value` folds it.

    A folded line keeps the blanks it begins with (a signature may count them), or gets a tab.
    What no field may hold is shown as `?`. Raises ValueError for a bad name.
    """
    if not _FIELD_NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no header field name")
    lines = [" ".join(line.split("\r")) for line in value.replace("\r\n", "\n").split("\n")]
    folded = "\r\n".join(_blanks(line) + line.strip() for line in lines if line.strip()).lstrip(" \t")
    return f"{name}: {_NO_FIELD_TEXT.sub('?', folded)}\r\n".encode("utf-8", "surrogateescape")


def _blanks(line: str) -> str:
    return line[: len(line) - len(line.lstrip(" \t"))] or "\t"


class Message:
    """The content of one mail transaction."""

    def __init__(self, threshold: int, spool_dir: Callable[[], Path]) -> None:
        """Above `threshold` octets the content goes to a file without a name in `spool_dir()`."""
        self.header = Header()
        self.size = 0
        self._threshold = threshold
        self._spool_dir = spool_dir
        self._header_raw: list[bytes] = []
        self._rest: list[bytes] = []  # what is not in the file
        self._waiting = 0  # octets in `_rest`
        self._file: BinaryIO | None = None
        self._rest_size = 0

    def write_header(self, data: bytes) -> None:
        """Take a piece of the header section."""
        self._header_raw.append(data)
        self.size += len(data)

    def end_header(self) -> bool:
        """Say that the header section is complete; `header` may now be read and changed.

        Gives whether it is time to `spool`, as `write` does.
        """
        self.header = Header(b"".join(self._header_raw))
        self._header_raw.clear()
        return self.size > self._threshold

    def write(self, data: bytes) -> bool:
        """Take a piece of what follows. Gives whether it is time to `spool`, which may take a while."""
        self.size += len(data)
        self._rest_size += len(data)
        self._rest.append(data)
        self._waiting += len(data)
        if len(self._rest) >= _MOST:
            self._rest = [b"".join(self._rest)]
        return self._waiting >= PIECE if self._file is not None else self.size > self._threshold

    def replace_rest(self, data: bytes) -> None:
        """Put something else behind the header fields, with a blank line before it. Raises OSError.

        Who reads what was there has to end before.
        """
        self.size -= self._rest_size
        if self._file is not None:
            self._file.close()
        self._file, self._rest, self._rest_size, self._waiting = None, [], 0, 0
        if self.write(b"\r\n" + data):
            self.spool()

    def spool(self) -> None:
        """Have the content in a file, whatever its size. Raises OSError."""
        if self._file is None:
            self._file = cast("BinaryIO", tempfile.TemporaryFile(dir=self._spool_dir(), buffering=0))  # noqa: SIM115 - `discard` closes it
        pieces, self._rest, self._waiting = self._rest, [], 0
        written = os.writev(self._file.fileno(), pieces) if pieces else 0
        rest = memoryview(b"".join(pieces)[written:]) if written < sum(map(len, pieces)) else b""
        while rest:
            rest = rest[self._file.write(rest) :]

    @property
    def spooled(self) -> bool:
        """Whether the content is in a file."""
        return self._file is not None

    @property
    def body_length(self) -> int:
        """Octets behind the header fields, the blank line included."""
        return self._rest_size

    def body_file(self) -> BinaryIO:
        """What stands behind the header fields, the blank line included, to read from its start.

        Each call gives a reader of its own; closing it is optional. Raises OSError.
        """
        if self._file is not None:
            self.spool()
            return io.BufferedReader(_Window(self._file.fileno()))
        return io.BytesIO(b"".join(self._rest))

    def chunks(self) -> Iterator[bytes]:
        """The whole message, header fields first, in pieces."""
        yield bytes(self.header)
        if self._file is None:
            yield from self._rest
            return
        body = self.body_file()
        while data := body.read(CHUNK):
            yield data

    def lf_chunks(self) -> Iterator[bytes]:
        """The whole message with LF for CRLF, as files on Unix have it, in pieces."""
        held = b""
        for chunk in self.chunks():
            data = held + chunk
            held = b"\r" if data.endswith(b"\r") else b""
            yield data[: len(data) - len(held)].replace(b"\r\n", b"\n")
        yield held

    def parsed(self) -> EmailMessage:
        """The message as the standard library sees it; a copy, changes to it change nothing."""
        return message_from_bytes(b"".join(self.chunks()), policy=policy.SMTP)

    def discard(self) -> None:
        """Forget everything; a spool file is gone at once."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # octets that did not fit the disk
                self._file.close()
            self._file = None
        self._rest, self._waiting = [], 0
        self._header_raw = []


class _Window(io.RawIOBase):
    """A reader of a file that others read and write: it has a position of its own."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        bases = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: os.fstat(self._descriptor).st_size}
        self._position = bases[whence] + offset
        return self._position

    def readinto(self, buffer: Any, /) -> int:
        data = os.pread(self._descriptor, len(buffer), self._position)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
