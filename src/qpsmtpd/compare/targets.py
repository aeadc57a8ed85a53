"""Those who are played to: our core, and servers at an address with a sink to look into."""

import re
import secrets
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Protocol

from qpsmtpd.compare.cases import CASES, Case
from qpsmtpd.compare.conversation import MOST, Conversation, Ending, complete, converse
from qpsmtpd.compare.core import Mail, MemoryWire, Receiver
from qpsmtpd.compare.sinks import Sink, settle
from qpsmtpd.protocol import LineEndings

__all__ = ["Core", "Live", "Outcome", "Seen", "Target", "Timing"]


@dataclass(frozen=True, slots=True)
class Seen:
    """A message that a server saw, without what differs from run to run."""

    sender: bytes | None
    recipients: tuple[bytes, ...]
    content: bytes
    """The field Subject and the body; what else stands in a header may be the server's own."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a case at one target."""

    conversation: Conversation
    messages: tuple[Seen, ...] | None
    """None where there is no sink."""


@dataclass(frozen=True, slots=True)
class Timing:
    """How long to wait, in seconds."""

    patience: float = 5.0
    """For a reply, except the greeting."""

    settle: float = 0.5
    """Without a new message, until a sink counts as quiet."""

    delivery: float = 30.0
    """For the last message to arrive, and for a greeting (RFC 5321 section 4.5.3.2.1 has five minutes)."""

    @property
    def quiet(self) -> float:
        """For another reply, where one write may be answered by several."""
        return self.settle / 10


class Target(Protocol):
    """A server, as `compare` sees it."""

    @property
    def name(self) -> str:
        """What it is called in reports."""
        ...

    def play(self, cases: Sequence[Case]) -> Mapping[str, Outcome]:
        """Play cases; give their outcomes by their names."""
        ...


_FAREWELL = 0.5  # seconds to wait until a server closes, too
_TOKENS = count(1)
_RUN = secrets.token_hex(3).encode()


def _token() -> bytes:
    return b"%b%04d" % (_RUN, next(_TOKENS) % 10_000)


_SUBJECT = re.compile(rb"^Subject:[^\n]*", re.MULTILINE | re.IGNORECASE)


def _seen(mail: Mail, token: bytes, recipient: bytes) -> Seen:
    head, _, body = (b"\n" + mail.content).partition(b"\n\n")  # there may be no header
    subject = _SUBJECT.search(head)
    content = (subject[0] if subject else b"") + b"\n\n" + body.rstrip(b"\n") + b"\n"
    hide = _hider(token, recipient)
    return Seen(None if mail.sender is None else hide(mail.sender), tuple(map(hide, mail.recipients)), hide(content))


def _hider(token: bytes, recipient: bytes) -> Callable[[bytes], bytes]:
    return lambda octets: octets.replace(b"-" + token, b"").replace(token, b"TOKEN").replace(recipient, b"RECIPIENT")


def _of(mails: Sequence[Mail], token: bytes) -> list[Mail]:
    return [mail for mail in mails if token in (mail.sender or b"") or token in mail.content]


def _is_of(token: bytes) -> Callable[[Sequence[Mail]], bool]:
    return lambda mails: bool(_of(mails, token))


def _sorted(seen: Sequence[Seen]) -> tuple[Seen, ...]:
    """In an order that does not depend on which came first."""
    return tuple(sorted(seen, key=lambda each: (each.content, each.sender or b"")))


@dataclass(slots=True)
class Core:
    """`protocol.Server` in memory."""

    name: str
    line_endings: LineEndings
    recipient: bytes

    def play(self, cases: Sequence[Case]) -> Mapping[str, Outcome]:
        """Play cases."""
        return {case.name: self._play(case) for case in cases}

    def _play(self, case: Case) -> Outcome:
        token = _token()
        conversation, mails = self._converse(case.dialogue(token, self.recipient))
        return Outcome(conversation, _sorted([_seen(mail, token, self.recipient) for mail in mails]))

    def fingerprint(self, writes: Sequence[bytes]) -> tuple[int, int]:
        """How many messages come of a dialogue, and how often content is asked for; a smaller one shall not differ."""
        conversation, mails = self._converse(writes)
        return len(mails), conversation.codes.count(354)

    def _converse(self, writes: Sequence[bytes]) -> tuple[Conversation, list[Mail]]:
        mails: list[Mail] = []
        return converse(MemoryWire(Receiver(mails.append, self.line_endings)), writes), mails


@dataclass(slots=True)
class Live:
    """A server at an address."""

    name: str
    address: tuple[str, int]
    sink: Sink | None
    recipient: bytes
    timing: Timing = field(default_factory=Timing)

    def play(self, cases: Sequence[Case]) -> Mapping[str, Outcome]:
        """Play cases one after another, then wait until their messages have come to light."""
        tokens = {case.name: _token() for case in cases}
        told = {case.name: self._converse(case.dialogue(tokens[case.name], self.recipient)) for case in cases}
        mails = self._collect(self.timing.settle)
        return {name: Outcome(conversation, self._seen(mails, tokens[name])) for name, conversation in told.items()}

    def _seen(self, mails: Sequence[Mail] | None, token: bytes) -> tuple[Seen, ...] | None:
        if mails is None:
            return None
        return _sorted([_seen(mail, token, self.recipient) for mail in _of(mails, token)])

    def count(self, writes: Sequence[bytes]) -> int:
        """How many messages come to light behind a dialogue and before a message that is sent after it."""
        before = len(self.sink.mails()) if self.sink else 0
        self._converse(writes, min(self.timing.patience, self.timing.settle))
        mails = self._collect(self.timing.settle / 5) or ()
        return len(mails) - before - 1

    def _collect(self, quiet: float) -> Sequence[Mail] | None:
        """All messages there are, once one has arrived that is sent now."""
        if self.sink is None:
            return None
        token = _token()
        self._converse(CASES["plain"].dialogue(token, self.recipient))
        settle(self.sink, _is_of(token), quiet, self.timing.delivery)
        return self.sink.mails()

    def _converse(self, writes: Sequence[bytes], patience: float | None = None) -> Conversation:
        timing = replace(self.timing, patience=patience or self.timing.patience)
        try:
            connection = socket.create_connection(self.address, timing.patience)
        except OSError:
            return Conversation((), (b"",), Ending.REFUSED)
        with connection:
            conversation = converse(_SocketWire(connection, timing), writes)
            _hang_up(connection, _FAREWELL)
            return conversation


def _hang_up(connection: socket.socket, patience: float) -> None:
    """Say that no more comes, and let the server finish: what it has not read yet is lost by a mere close."""
    deadline = time.monotonic() + patience
    with suppress(OSError):
        connection.shutdown(socket.SHUT_WR)
        while (left := deadline - time.monotonic()) > 0:
            connection.settimeout(left)
            if not connection.recv(8192):
                return


class _SocketWire:
    """A TCP connection."""

    def __init__(self, connection: socket.socket, timing: Timing) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection = connection
        self._timing = timing
        self._said = 0

    def exchange(self, data: bytes, *, last: bool) -> tuple[bytes, Ending | None]:
        """Write, and read until the reply is whole; a write of several lines may be answered by more than one."""
        self._connection.settimeout(self._timing.patience)
        try:
            self._connection.sendall(data)
        except TimeoutError:
            return b"", Ending.SILENT
        except OSError:
            return self._read(self._timing.patience, wait_for_end=True, several=True)
        # Before it greets a server may look up who has connected, and the more so where there is no DNS.
        patience = self._timing.patience if data else self._timing.delivery
        return self._read(patience, wait_for_end=last, several=data.count(b"\n") + data.count(b"\r") > 2)

    def _read(self, patience: float, *, wait_for_end: bool, several: bool) -> tuple[bytes, Ending | None]:
        said = b""
        deadline = time.monotonic() + patience
        while True:
            whole = complete(said) and not wait_for_end
            if whole and not several:
                return said, None
            left = self._timing.quiet if whole else deadline - time.monotonic()
            self._connection.settimeout(max(left, 0.001))
            try:
                more = self._connection.recv(8192)
            except TimeoutError:
                return said, None if whole else Ending.SILENT
            except OSError:
                return said, Ending.RESET
            if not more:
                return said, Ending.CLOSED
            said += more
            self._said += len(more)
            if self._said > MOST:
                return said, Ending.FLOOD
