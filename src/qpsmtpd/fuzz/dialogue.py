"""A dialogue with `protocol.Server`, and a witness who heard both sides.

An input is a letter, which chooses the settings, then the octets that the client sends. The witness reads them as a
client counts them: a line, a reply; behind 354 the content up to CRLF `.` CRLF; behind BDAT so many octets. It knows
RFC 5321 and nothing of the server's code. Addresses choose what plugins answer: see `ANSWERS`.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from zlib import crc32

from qpsmtpd.fuzz.wrong import Edges, Wrong
from qpsmtpd.protocol import (
    DEFAULT_EXTENSIONS,
    DENY,
    DENY_DISCONNECT,
    DENYSOFT,
    OK,
    Extension,
    Hook,
    Limits,
    LineEndings,
    Mailbox,
    Parameters,
    Server,
    hooks,
)
from qpsmtpd.protocol.host import Host, Result, Steps

__all__ = ["LIMITS", "SETTINGS", "check_server", "check_transaction", "settings_of"]

_MESSAGE_SIZE = 300
LIMITS = Limits(
    command_line=512, auth_line=1024, recipients=3, errors=4, message_size=_MESSAGE_SIZE, header_size=200, output=2000
)
"""Small ones, so that short inputs reach them."""

ANSWERS: Mapping[str, Result] = {
    "no": (DENY, ("no such user",), None),
    "later": (DENYSOFT, ("later\r\n250 OK",), None),
    "close": (DENY_DISCONNECT, (), None),
}
"""What plugins answer to MAIL and RCPT for these local parts; to others OK."""

_OK: Result = (OK, (), None)
_DENIED: Result = (DENY, (), None)
_REFUSED = b"refuse"
"""Content that holds this is refused by a plugin."""

_HOOKS = frozenset({"mail", "rcpt", "data_post", "queue", "disconnect"})
_EVERYTHING = frozenset(Extension) - {Extension.STARTTLS, Extension.XCLIENT, Extension.AUTH}
_SHORT = 200
_MARKS = re.compile(rb"[\r\n.]")  # what a cut may be behind
_PERMANENT = ord("5")
_OPENING = b"EHLO a\r\nMAIL FROM:<a@a>\r\nRCPT TO:<a@a>\r\n"

_SAID = re.compile(rb"(?:(?:([2-5][0-9]{2})-[ -~]{0,506}\r\n(?=\1))*[2-5][0-9]{2} [ -~]{0,506}\r\n)*")
_SAID_WIDE = re.compile(_SAID.pattern.replace(b"[ -~]", b"[ -~\x80-\xff]"))
_LAST_LINES = re.compile(rb"(?:^|\n)([2-5][0-9]{2}) ")
_C1 = re.compile("[\x80-\x9f\u2028\u2029]")
_BARE = re.compile(rb"\r(?!\n)|(?<!\r)\n")
_BARE_DOT = re.compile(rb"\n\.\n")
_CHUNK = re.compile(rb"BDAT +([0-9]{1,18})(?: +(LAST))? *\r\n", re.IGNORECASE)
_BINARY = re.compile(rb"[ \t]BODY=BINARYMIME(?=[ \t\r])", re.IGNORECASE)
_WORDS = frozenset({b"EHLO", b"HELO", b"LHLO", b"MAIL", b"RCPT", b"DATA", b"BDAT", b"RSET", b"NOOP", b"QUIT", b"VRFY"})
_TAKEN = frozenset({b"RSET", b"NOOP", b"QUIT", b"VRFY", b"HELP"})


@dataclass(frozen=True, slots=True)
class Settings:
    """How a server is set up."""

    line_endings: LineEndings = LineEndings.STRICT
    lmtp: bool = False
    extensions: frozenset[Extension] = DEFAULT_EXTENSIONS


SETTINGS: Mapping[str, Settings] = {
    "lmtp": Settings(lmtp=True),
    "every extension": Settings(extensions=_EVERYTHING),
    "normalize": Settings(LineEndings.NORMALIZE),
    "strict": Settings(),
}
"""What the letter chooses; their initials choose them too."""

_SETTINGS = tuple(SETTINGS.items())


def settings_of(data: bytes) -> str:
    """Which settings an input chooses."""
    return _SETTINGS[(data[0] if data else 0) % len(_SETTINGS)][0]


class _Listener(Host):
    """The server's host: hands it the pieces, answers its hooks, and keeps what it has come to."""

    __slots__ = ("closed", "messages", "pieces", "received", "recipients", "said", "sender", "server")

    server: Server

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self.pieces = [*reversed(pieces)]
        self.said: list[bytes] = []
        self.messages: list[tuple[int, bytes]] = []
        self.received: list[bytes] = []
        self.sender: Mailbox | None = None
        self.recipients = 0
        self.closed = False

    def ask(self, hook: Hook) -> Steps[Result]:
        if self.closed:
            raise Wrong(f"the hook {hook.name} behind the end of the session")
        result = _OK
        if isinstance(hook, hooks.Mail):
            result = ANSWERS.get(hook.sender.local_part, _OK)
        elif isinstance(hook, hooks.Rcpt):
            if self.sender is None:
                raise Wrong("the hook rcpt without a sender")
            result = ANSWERS.get(hook.recipient.local_part, _OK)
        elif isinstance(hook, hooks.DataPost):
            if _REFUSED in b"".join(self.received):
                result = _DENIED
        elif isinstance(hook, hooks.Queue):
            if not self.recipients:
                raise Wrong("the hook queue without a recipient")
            if not hook.recipient:  # the first of LMTP, or all
                self.messages.append((self.recipients, b"".join(self.received)))
        else:
            self.closed = True
        return result
        yield  # makes it a generator

    def receive(self) -> Iterable[Any]:  # type: ignore[override]
        server = self.server
        waiting = len(server.unread)
        if waiting > (8 if server.in_content else LIMITS.auth_line):
            raise Wrong(f"{waiting} octets wait in the input buffer")
        self.drain()
        server.receive_data(self.pieces.pop() if self.pieces else b"")
        return ()

    def drain(self) -> Iterable[Any]:  # type: ignore[override]
        said = self.server.data_to_send()
        if len(said) > LIMITS.output + 4096:
            raise Wrong(f"{len(said)} octets wait to be sent")
        self.said.append(said)
        return ()

    def content(self, data: bytes, *, in_header: bool) -> Iterable[Any]:
        del in_header
        self.received.append(data)
        return ()

    def tell(self, news: object) -> Iterable[Any]:  # type: ignore[override]
        del news
        return ()

    def sender_accepted(self, sender: Mailbox, parameters: Parameters) -> None:
        del parameters
        if self.sender is not None:
            raise Wrong("a second sender")
        self.sender = sender

    def recipient_accepted(self, recipient: Mailbox, parameters: Parameters) -> None:
        del recipient, parameters
        self.recipients += 1

    def transaction_ended(self) -> None:
        self.sender = None
        self.recipients = 0
        self.received.clear()


def _play(settings: Settings, pieces: Sequence[bytes]) -> _Listener:
    listener = _Listener(pieces)
    server = listener.server = Server(
        hooks=_HOOKS,
        hostname="a",
        limits=LIMITS,
        extensions=settings.extensions,
        line_endings=settings.line_endings,
        lmtp=settings.lmtp,
        host=listener,
    )
    for step in server.conversation:
        raise Wrong(f"it waits for {step!r}")
    listener.said.append(server.data_to_send())
    return listener


def check_server(data: bytes, *, thoroughly: bool = False) -> Edges:
    """A whole dialogue."""
    return _check(data, data[1:], thoroughly=thoroughly)


def check_transaction(data: bytes, *, thoroughly: bool = False) -> Edges:
    """What is sent behind the first recipient."""
    return _check(data, _OPENING + data[1:], thoroughly=thoroughly)


def _check(data: bytes, stream: bytes, *, thoroughly: bool) -> Edges:
    settings = _SETTINGS[(data[0] if data else 0) % len(_SETTINGS)][1]
    listener = _play(settings, (stream,))
    said = b"".join(listener.said)
    edges = _Witness(settings, stream, said, listener).edges
    for pieces in _cuts(stream, crc32(data), thoroughly=thoroughly):
        again = _play(settings, pieces)
        if b"".join(again.said) != said or again.messages != listener.messages:
            raise Wrong("cut into other pieces, it is answered otherwise")
    return edges


def _cuts(stream: bytes, number: int, *, thoroughly: bool) -> Iterable[list[bytes]]:
    """The stream in pieces: octet by octet, or cut at two places; for most numbers, not at all."""
    size = len(stream)
    if thoroughly:
        yield [stream[at : at + 1] for at in range(size)]
        yield from ([stream[: mark.end()], stream[mark.end() :]] for mark in _MARKS.finditer(stream, 0, size - 1))
    if number & 15 or size < 2:
        return
    if not number & 48 and size < _SHORT:
        yield [stream[at : at + 1] for at in range(size)]
    else:
        first, second = sorted(((number >> 6) % size, (number >> 17) % size))
        yield [piece for piece in (stream[:first], stream[first:second], stream[second:]) if piece]


@lru_cache(8192)  # short dialogues are much alike
def codes_of(said: bytes) -> tuple[bytes, ...]:
    """The codes of the replies. Raises Wrong for one that is malformed: by its form, its characters or its codes."""
    if not _SAID.fullmatch(said) and (
        not _SAID_WIDE.fullmatch(said) or _C1.search(said.decode("utf-8", "surrogateescape"))
    ):
        raise Wrong(f"malformed replies: {said!r}")
    return tuple(_LAST_LINES.findall(said))


class _Witness:
    """Goes through what was sent, with what was said to it."""

    def __init__(self, settings: Settings, stream: bytes, said: bytes, listener: _Listener) -> None:
        self.settings = settings
        self.stream = stream
        self.codes = codes_of(said)
        self.closed = listener.closed
        self.at = 0
        self.number = 0  # of the next reply
        self.hello = self.mail = False
        self.recipients = 0
        self.chunks: list[bytes] | None = None
        self.sound = True  # none of the chunks has been refused
        self.binary = False
        self.messages: list[tuple[int, bytes]] = []
        self.edges: set[bytes] = set()
        self._go()
        if self.messages != listener.messages:
            raise Wrong(f"queued were {listener.messages!r}, sent were {self.messages!r}")
        if (self.codes.count(b"500") + self.codes.count(b"503")) > LIMITS.errors:
            raise Wrong("more errors than are let pass")

    def _go(self) -> None:
        stream, codes, edges = self.stream, self.codes, self.edges
        chunking = Extension.CHUNKING in self.settings.extensions
        if self._next() != b"220":
            raise Wrong(f"the greeting is {codes[:1]!r}")
        before = b""
        while self.number < len(codes):
            end = stream.find(b"\n", self.at) + 1
            if not end:
                raise Wrong("a reply to nothing")
            line, self.at = stream[self.at : end], end
            word = line[:4].upper()
            if len(line) > LIMITS.command_line or line.find(b"\r") != len(line) - 2:
                word, code = b"?", self._next()
                if code[0] != _PERMANENT and code != b"421":
                    raise Wrong(f"{line!r} is answered {code!r}")
            elif word == b"BDAT" and chunking:
                code = self._bdat(line)
            else:
                code = self._command(word, line)
            before = (word if word in _WORDS else b"?") + code + before[:7]
            edges.add(before)
        self._see_the_end()

    def _next(self) -> bytes:
        if self.number >= len(self.codes):
            raise Wrong("a reply is missing")
        self.number += 1
        return self.codes[self.number - 1]

    def _see_the_end(self) -> None:
        if not self.closed:
            raise Wrong("the session has not ended")
        code = self.codes[-1]
        unanswered = self.stream.find(b"\n", self.at) >= 0
        if unanswered and code not in (b"221", b"421", b"550", b"554", b"501", b"451"):
            raise Wrong(f"what is sent behind a {code!r} is not answered")

    def _command(self, word: bytes, line: bytes) -> bytes:
        code = self._next()
        if code >= b"400":
            return code
        rest = line[4:5]
        if word == b"MAIL" and rest == b" ":
            if not self.hello or self.mail:
                raise Wrong("MAIL out of order is accepted")
            self.mail = True
            self.binary = _BINARY.search(line, line.rfind(b">")) is not None
        elif word == b"RCPT" and rest == b" ":
            if not self.mail or self.chunks is not None or self.recipients >= LIMITS.recipients:
                raise Wrong("RCPT out of order is accepted")
            self.recipients += 1
        elif word in (b"EHLO", b"HELO", b"LHLO") and rest == b" ":
            if (word == b"LHLO") is not self.settings.lmtp:
                raise Wrong(f"{word!r} is accepted")
            self._reset()
            self.hello = True
        elif word == b"DATA" and not line[4:].strip(b" \t\r\n"):
            if not self.recipients or self.chunks is not None or code != b"354":
                raise Wrong(f"DATA is answered {code!r}")
            return self._data()
        elif word == b"RSET":
            self._reset()
        elif word not in _TAKEN or (word == b"QUIT" and self.number < len(self.codes)):
            raise Wrong(f"{line!r} is answered {code!r}")
        return code

    def _reset(self) -> None:
        self.mail = self.binary = False
        self.recipients = 0
        self.chunks = None
        self.sound = True

    def _data(self) -> bytes:
        """What follows 354; RFC 5321 sections 4.1.1.4 and 4.5.2."""
        stream = b"\r\n" + self.stream[self.at :]
        end = stream.find(b"\r\n.\r\n")
        raw = stream if end < 0 else stream[: end + 2]
        strict = self.settings.line_endings is LineEndings.STRICT
        if strict and _BARE_DOT.search(stream, 0, end + 5 if end >= 0 else len(stream)):
            return self._last(b"421")
        if end < 0:
            return self._last(b"451")
        self.at += end + 3
        return self._content(raw.replace(b"\r\n.", b"\r\n")[2:], raw[2:])

    def _last(self, expected: bytes) -> bytes:
        """A reply that ends the session, for each recipient in LMTP if it is about the message."""
        code = self._next()
        while code == expected and self.number < len(self.codes):
            code = self._next()
        if code not in (expected, b"421"):  # the latter if there have been too many errors
            raise Wrong(f"where {expected!r} is due, {code!r} is said")
        self.at = len(self.stream)
        return code

    def _content(self, content: bytes, raw: bytes) -> bytes:
        """A whole message, and what is said to it."""
        refusal, content = self._judged(content, raw)
        code = self._next()
        for _ in range(self.recipients - 1 if self.settings.lmtp else 0):
            if self._next() != code:
                raise Wrong("recipients of the same message are told different things")
        if refusal is None:
            self.messages.append((self.recipients, content))
        if (code == b"250") is not (refusal is None):
            raise Wrong(f"content is answered {code!r}; why it should be refused: {refusal}")
        self._reset()
        return code

    def _judged(self, content: bytes, raw: bytes) -> tuple[str | None, bytes]:
        """Why content is to be refused, and the content."""
        if not self.sound:
            return "one of its chunks was refused", content
        if not self.binary and _BARE.search(raw):
            if self.settings.line_endings is LineEndings.STRICT:
                return "a bare line end", content
            content = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")
        if _size(content) > _MESSAGE_SIZE:
            return "its size", content
        if _REFUSED in content:
            return "a plugin", content
        blank = (b"\r\n" + content).find(b"\r\n\r\n")
        if (len(content) if blank < 0 else blank) > LIMITS.header_size:
            return "its header", content
        return None, content

    def _bdat(self, line: bytes) -> bytes:
        """RFC 3030 section 2."""
        match = _CHUNK.fullmatch(line)
        if match is None:
            return self._last(b"501") if line[4:5] in b" \t\r" else self._command(b"?", line)
        size, last = int(match[1]), match[2] is not None
        chunk = self.stream[self.at : self.at + size]
        self.at += len(chunk)
        if len(chunk) < size:
            return self._last(b"451" if self.recipients else b"503")
        if not self.recipients:
            code = self._next()
            if code not in (b"503", b"421"):
                raise Wrong(f"BDAT without a recipient is answered {code!r}")
            return code
        self.chunks = self.chunks or []
        self.chunks.append(chunk)
        content = b"".join(self.chunks)
        if last:
            return self._content(content, content)
        code = self._next()
        if code == b"250":
            strict = not self.binary and self.settings.line_endings is LineEndings.STRICT
            if strict and _BARE.search(content.removesuffix(b"\r")):
                raise Wrong("a chunk with a bare line end is accepted")
            if _size(content) > _MESSAGE_SIZE + 1:  # a CR may be half a line end
                raise Wrong("a chunk beyond the limit is accepted")
        self.sound = self.sound and code == b"250"
        return code


def _size(content: bytes) -> int:
    """Octets, a line end counted as one."""
    return len(content) - content.count(b"\r\n")
