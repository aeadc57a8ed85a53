r"""The client's side of SMTP and LMTP as a pure state machine: messages in, bytes and results out.

    client = Client("mx.example.org")
    client.send(Message(sender, [recipient], content))
    client.quit()
    while (event := client.next_event()) is not CLOSED:
        socket.sendall(client.data_to_send())
        if event is NEED_DATA:
            client.receive_data(socket.recv(65536))  # within client.timeout seconds
        elif isinstance(event, StartTls):
            ...  # shake hands, then client.secure(security)
        elif isinstance(event, Report):
            ...  # event.message, event.results

Theory of operation. One script plays the whole session and reads from top to bottom. Commands
go out in groups, a group being one command where the server does not pipeline (RFC 2920); all
replies to a group are read before the next, so a reply is matched to its command by order
alone. A server that says more than it was asked is out of step, and the session ends: a spare
250 would pass for the answer to something else. For the same reason nothing counts as
delivered but by a 2yz reply to the whole content.

Every message given to `send` comes back in exactly one `Report`, whatever happens, with one
`Result` for each recipient. What this side finds wrong is told by the same replies as what
the server says, and marked `local`.

Content is taken from its iterable piece by piece while it is sent, and never kept.

Nothing in here knows sockets, time or randomness.
"""

import base64
import re
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from qpsmtpd.protocol.addresses import Mailbox
from qpsmtpd.protocol.commands import Extension, Parameters
from qpsmtpd.protocol.errors import LocalProtocolError
from qpsmtpd.protocol.events import CLOSED, DRAIN, NEED_DATA, Signal, StartTls
from qpsmtpd.protocol.framing import LineEndings, has_bare
from qpsmtpd.protocol.outgoing import (
    TIMEOUTS,
    Breakdown,
    ClientLimits,
    Message,
    Ready,
    Recipient,
    Report,
    Result,
    Stage,
    TlsUse,
)
from qpsmtpd.protocol.parameters import owner_of
from qpsmtpd.protocol.replies import Reply, ReplyReader
from qpsmtpd.protocol.sasl import CLIENT_MECHANISMS, Login, SaslError, choose, decode_base64
from qpsmtpd.protocol.security import NO_BINDINGS, Security
from qpsmtpd.protocol.stuffing import BareLineEnd, chain, cut, stuffed, whole_lines, with_last
from qpsmtpd.protocol.xclient import XClient, format_xclient

__all__ = ["Client", "ClientEvent"]


ClientEvent = Report | Ready | Breakdown | StartTls | Signal

_Value = TypeVar("_Value")
_Steps = Generator[ClientEvent, None, _Value]
_Script = _Steps[None]

# Replies of this side

_LOST = Reply(421, "4.4.2", "Connection lost")
_TIMEOUT = Reply(421, "4.4.2", "Timeout")
_ABANDONED = Reply(421, "4.4.2", "Connection closed, to give up a message that had been sent in part")
_OUT_OF_STEP = Reply(421, "4.5.0", "The server is out of step with the protocol")
_INJECTION = Reply(454, "4.7.0", "The server sent data in clear behind its reply to STARTTLS")
_NO_TLS = Reply(454, "4.7.4", "TLS is required, and not offered")
_NO_AUTH = Reply(454, "4.7.0", "Authentication is required, and no usable mechanism is offered")
_BAD_LOGIN = Reply(454, "4.7.0", "User name or password cannot be used with the mechanism that is offered")
_NOT_GENUINE = Reply(454, "4.7.0", "The server failed to authenticate itself")
_BAD_SENDER = Reply(553, "5.1.7", "The sender's address cannot be sent")
_BAD_RECIPIENT = Reply(553, "5.1.3", "The address cannot be sent")
_NEEDS_SMTPUTF8 = Reply(553, "5.6.7", "Non-ASCII addresses and headers need SMTPUTF8, which is not offered")
_NEEDS_REQUIRETLS = Reply(550, "5.7.30", "REQUIRETLS support required")
_NEEDS_BINARYMIME = Reply(554, "5.6.3", "Binary content needs BINARYMIME, which is not offered")
_NEEDS_DELIVERBY = Reply(554, "5.3.3", "Delivery by a deadline needs DELIVERBY, which is not offered")
_TOO_LARGE = Reply(552, "5.3.4", "Message larger than the server takes")
_BARE_LINE_END = Reply(554, "5.6.0", "Message content holds a CR or LF that is not part of a CRLF")
_CALLED_OFF = Reply(450, "4.3.0", "Not sent, since another recipient is refused")
_OTHER_CLIENT = Reply(421, "4.3.0", "The server takes this side for another client, and is not to be told otherwise")

_SERVICE_ENDS = 421
_REFUSALS = 400  # and above
_BEFORE_MAIL = frozenset({Stage.GREETING, Stage.HELLO, Stage.STARTTLS, Stage.AUTH, Stage.XCLIENT})
_SCRAM_CHALLENGES = 2  # the second proves that the server knows the password
_COMMAND_LINE = 512  # RFC 4954 section 4: a longer initial response waits for a challenge

_KEYWORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9\-]*")
_WORD = re.compile(r"[^\x00-\x20\x7f]+")
_NUMBER = re.compile(r"[0-9]{1,20}")  # RFC 1870 section 4
_LOCAL_PART = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]*")
_DOMAIN = re.compile(r"[^\x00-\x20\x7f-\x9f\ud800-\udfff<>@,\"\\]+")

_ONE_BY_ONE = ClientLimits(group=1)

_OURS = frozenset({"size", "body", "smtputf8", "auth"})
"""Parameters that are not passed on, but worked out."""


class _Broken(Exception):  # noqa: N818 - not always an error
    """The session cannot go on; `polite`: the dialogue is in step, so that QUIT can be said."""

    def __init__(self, reply: Reply, *, local: bool = False, polite: bool = False) -> None:
        super().__init__(reply)
        self.reply, self.local, self.polite = reply, local, polite


@dataclass(frozen=True, slots=True)
class _Command:
    """A command of a mail transaction, with its CRLF, and whom it names if it is a RCPT."""

    stage: Stage
    line: bytes
    recipient: int | None = None
    alone: bool = False
    """Whether it has to wait for the replies to those before it."""


@dataclass(slots=True)
class _Transaction:
    """A message while it is sent, and what is settled about its recipients."""

    message: Message
    results: list[Result | None]
    utf8: bool = False
    """Whether an address or the header is not ASCII."""
    content: Iterator[bytes] = field(default_factory=lambda: iter(()))

    @classmethod
    def of(cls, message: Message) -> "_Transaction":
        return cls(message, [None] * len(message.recipients))

    @property
    def open(self) -> list[int]:
        """The recipients about whom nothing is settled: to be asked about, or accepted so far."""
        return [number for number, result in enumerate(self.results) if result is None]

    def settle(self, reply: Reply, at: Stage, *, local: bool = False, only: int | None = None) -> None:
        """Say what has become of the message for all who are open, or only for one."""
        for number in self.open if only is None else [only]:
            if self.results[number] is None:
                mailbox = Recipient.of(self.message.recipients[number]).mailbox
                self.results[number] = Result(mailbox, reply, at, local)

    def call_off(self) -> None:
        """If it goes to all or to none, and somebody is refused, send it to nobody."""
        if self.message.all_or_none and any(self.results):
            self.settle(_CALLED_OFF, Stage.RCPT, local=True)

    def report(self) -> Report:
        return Report(self.message, tuple(result for result in self.results if result is not None))


class Client:
    """One SMTP or LMTP session, seen from the client, without I/O.

    Give it messages, take what it asks from `next_event`, and send what `data_to_send` gives
    before anything else. What a server does wrong becomes a `Breakdown`; only misuse by the
    driver raises `LocalProtocolError`.
    """

    def __init__(
        self,
        hostname: str = "localhost",
        *,
        lmtp: bool = False,
        tls: TlsUse = TlsUse.OPPORTUNISTIC,
        login: Login | None = None,
        bearer: bool = False,
        nonce: str = "",
        line_endings: LineEndings = LineEndings.STRICT,
        limits: ClientLimits | None = None,
        timeouts: Mapping[Stage, float] = TIMEOUTS,
    ) -> None:
        """Start a session; the first `next_event` waits for the greeting.

        `hostname` is how this side calls itself. With `login` there is no mail without
        authentication; `bearer` says that its password is a token (RFC 7628), and `nonce` is
        fresh text that nobody can guess, in printable ASCII without commas: without it SCRAM
        is not used. Passwords in clear are sent on encrypted connections only. `line_endings`
        says what to do with content that holds a bare CR or LF. Timeouts that are not given
        are those of `TIMEOUTS`.

        Raises ValueError for a host name that cannot be sent.
        """
        if not _WORD.fullmatch(hostname) or not hostname.isascii():
            raise ValueError(f"not a host name: {hostname!r}")
        self._hostname = hostname
        self._lmtp = lmtp
        self._tls = tls
        self._login = login
        self._bearer = bearer
        self._nonce = nonce
        self._line_endings = line_endings
        self._limits = limits or ClientLimits()
        self._timeouts = {**TIMEOUTS, **timeouts}

        self._replies = ReplyReader(self._limits.reply_line, self._limits.reply)
        self._output: list[bytes] = []
        self._waiting = 0  # octets in it
        self._eof = False
        self._timed_out = False
        self._started = False
        self._draining = False
        self._shaking_hands = False
        self._queue: list[Message] = []
        self._leaving = False
        self._over = False

        self.at = Stage.GREETING
        """What the session waits for."""
        self.security: Security | None = None
        """What the driver has said about the encryption of the connection."""
        self.authenticated = False
        """Whether the server has taken the login."""
        self.extensions: Mapping[str, str] = {}
        """What the server offers: upper-case EHLO keywords with their arguments."""

        self._speaking_for: XClient | None = None
        self._transaction: _Transaction | None = None
        self._unfinished = False  # a transaction has begun and was not ended by its content
        self._conversation = self._converse()

    # The driver's side

    def send(self, message: Message) -> None:
        """Send a message when those before it are done with.

        Raises LocalProtocolError after `quit`, `Breakdown` and `CLOSED`.
        """
        if self._leaving:
            raise LocalProtocolError("the session is ending")
        self._queue.append(message)

    def quit(self) -> None:
        """End the session when all messages are done with."""
        self._leaving = True

    def receive_data(self, data: bytes | bytearray | memoryview) -> None:
        """Take bytes from the server; empty bytes say that it has closed the connection.

        Call this when `next_event` has given `NEED_DATA`, or at any time, once a `next_event`:
        what is given at once is the bound of the input buffer. If writing fails, read what
        there is, then give empty bytes. Raises LocalProtocolError for data after the end, and
        between `StartTls` and `secure`.
        """
        if not data:
            self._eof, self._shaking_hands = True, False
        elif self._eof:
            raise LocalProtocolError("data after the end of file")
        elif self._shaking_hands:
            raise LocalProtocolError("data in clear during the TLS handshake")
        elif not self._over:
            self._replies.feed(data)

    def next_event(self) -> ClientEvent:
        """Go on with the session up to the next event.

        Raises LocalProtocolError during the TLS handshake, and if `DRAIN` was not obeyed.
        """
        if self._shaking_hands:
            raise LocalProtocolError("the TLS handshake is not over; call secure() or receive_data(b'')")
        if self._draining and self._output:
            raise LocalProtocolError("write data_to_send() first")
        self._started, self._draining = True, False
        event = next(self._conversation, CLOSED)
        self._draining = event is DRAIN
        self._shaking_hands = isinstance(event, StartTls)
        if event is CLOSED:
            self._leaving = self._over = True
        return event

    def data_to_send(self) -> bytes:
        """The bytes that wait to be sent; they are then forgotten here."""
        data = self._output[0] if len(self._output) == 1 else b"".join(self._output)
        self._output.clear()
        self._waiting = 0
        return data

    def secure(self, security: Security) -> None:
        """Say that the connection is encrypted: in answer to `StartTls`, or before the first event.

        Raises LocalProtocolError at any other time.
        """
        if not self._shaking_hands and (self._started or self._replies.pending):
            raise LocalProtocolError("TLS begins before the session, or in answer to StartTls")
        self.security, self._shaking_hands = security, False

    @property
    def timeout(self) -> float:
        """How many seconds to wait for the server now, whether it is to speak or to take what is written."""
        return self._timeouts[self.at]

    def timed_out(self) -> None:
        """Say that the server has let `timeout` seconds pass: an idle session quits, any other breaks down."""
        if self.at is Stage.IDLE:
            self._leaving = True
        else:
            self._timed_out, self._shaking_hands = True, False

    # The session

    def _converse(self) -> _Script:
        end: Breakdown | None = None
        polite = True
        try:
            yield from self._begin()
            yield from self._work()
        except _Broken as broken:
            end = Breakdown(broken.reply, self.at, broken.local)
            polite = broken.polite
        if end is not None:
            self._leaving = True
            yield end
            while self._queue:
                yield self._give_up(self._queue.pop(0), end)
        if polite:
            yield from self._end()

    def _begin(self) -> _Script:
        """Everything that comes before mail."""
        _demand((yield from self._reply(Stage.GREETING)))
        yield from self._hello()
        if (yield from self._starttls()):
            self.extensions = {}  # RFC 3207 section 4.2
            yield from self._hello()
        if self._login is not None:
            yield from self._authenticate(self._login)

    def _work(self) -> _Script:
        """One message after another."""
        while self._queue or not self._leaving:
            if not self._queue:
                self.at = Stage.IDLE
                yield Ready()
                self._listen()
                continue
            yield from self._speak_for(self._queue[0].client)
            transaction = self._transaction = self._prepare(self._queue[0])
            if transaction.open:
                yield from self._transact(transaction)
            self._transaction = None
            del self._queue[0]
            yield transaction.report()

    def _end(self) -> _Script:
        """Part in peace; whatever comes of it, all messages are done with."""
        try:
            self._command(b"QUIT")
            yield from self._reply(Stage.QUIT)
        except _Broken:
            return

    def _give_up(self, message: Message, end: Breakdown) -> Report:
        """What is to be said of a message when the session has broken down, perhaps in the middle of it."""
        transaction, self._transaction = self._transaction, None
        at = end.at
        if transaction is None:
            transaction = _Transaction.of(message)
            at = at if at in _BEFORE_MAIL else Stage.IDLE
        transaction.settle(end.reply, at, local=end.local)
        return transaction.report()

    # EHLO, STARTTLS, AUTH

    def _hello(self) -> _Script:
        hostname = self._hostname.encode("ascii")
        self._command(b"LHLO " + hostname if self._lmtp else b"EHLO " + hostname)
        reply = yield from self._reply(Stage.HELLO)
        if reply.is_permanent and not self._lmtp:
            self._command(b"HELO " + hostname)  # RFC 5321 section 3.2
            _demand((yield from self._reply(Stage.HELLO)))
            return
        _demand(reply)
        words = [line.partition(" ") for line in reply.text.split("\n")[1:]]
        self.extensions = {word.upper(): arguments.strip() for word, _, arguments in words if _KEYWORD.fullmatch(word)}

    def _starttls(self) -> _Steps[bool]:
        """Encrypt the connection, as far as that is wanted; whether it has just been done."""
        required = self._tls is TlsUse.REQUIRED
        if self.security is not None or self._tls is TlsUse.NEVER:
            return False
        if not self._offers(Extension.STARTTLS):
            self.at = Stage.STARTTLS
            if required:
                raise _Broken(_NO_TLS, local=True, polite=True)
            return False
        self._command(b"STARTTLS")
        reply = yield from self._reply(Stage.STARTTLS)
        if not reply.is_positive:
            if required:
                _demand(reply)
            return False
        if self._replies.pending:  # whoever wrote this would have it read as if it had come encrypted
            raise _Broken(_INJECTION, local=True)
        yield from self._pause(StartTls())
        if self._eof:
            raise _Broken(_LOST, local=True)
        return True

    def _authenticate(self, login: Login) -> _Script:
        """Go through a SASL exchange (RFC 4954 section 4)."""
        self.at = Stage.AUTH
        bindings = self.security.bindings if self.security is not None else NO_BINDINGS
        offered = self.extensions.get(Extension.AUTH.value, "").upper().split()
        if not self._nonce:
            offered = [name for name in offered if not name.startswith("SCRAM-")]
        name = choose(offered, bindings=bindings, encrypted=self.security is not None, token=self._bearer)
        if name is None:
            raise _Broken(_NO_AUTH, local=True, polite=True)
        steps = CLIENT_MECHANISMS[name](login, self._nonce, bindings)
        try:
            held = next(steps)
        except (SaslError, ValueError):
            raise _Broken(_BAD_LOGIN, local=True, polite=True) from None
        line = b"AUTH " + name.encode("ascii")
        if held is not None:
            initial = base64.b64encode(held) or b"="
            if len(line) + len(initial) <= _COMMAND_LINE - len(" \r\n"):
                line, held = line + b" " + initial, None
        self._command(line)
        challenges = 0
        try:
            while (reply := (yield from self._reply(Stage.AUTH, 2, 3))).code // 100 == 3:
                challenge = decode_base64(reply.text.encode("ascii"))
                if held is None:
                    held = steps.send(challenge)
                    challenges += 1
                self._command(base64.b64encode(held or b""))
                held = None
        except (SaslError, StopIteration, ValueError):
            self._command(b"*")
            yield from self._reply(Stage.AUTH)
            raise _Broken(_NOT_GENUINE, local=True, polite=True) from None
        _demand(reply)
        if name.startswith("SCRAM-") and challenges < _SCRAM_CHALLENGES:
            raise _Broken(_NOT_GENUINE, local=True, polite=True)
        self.authenticated = True

    def _speak_for(self, client: XClient | None) -> _Script:
        """Say whom the next message is sent for, if the server does not know; nobody's mail goes as another's."""
        if client == self._speaking_for:
            return
        taken = self.extensions.get(Extension.XCLIENT.value, "").split()
        arguments = format_xclient(client, taken) if client is not None else ""
        if not arguments:
            if self._speaking_for is not None:
                self.at = Stage.XCLIENT
                raise _Broken(_OTHER_CLIENT, local=True, polite=True)
            return
        if self._unfinished:
            self._command(b"RSET")
            _demand((yield from self._reply(Stage.RSET)))
            self._unfinished = False
        self._command(f"XCLIENT {arguments}".encode("ascii"))
        _demand((yield from self._reply(Stage.XCLIENT)))
        self._speaking_for = client
        yield from self._hello()

    # Mail transactions

    def _prepare(self, message: Message) -> _Transaction:
        """Look at a message before anything is sent; what cannot be sent to this server is settled."""
        transaction = _Transaction.of(message)
        utf8 = self._offers(Extension.SMTPUTF8)
        for number, each in enumerate(message.recipients):
            mailbox = Recipient.of(each).mailbox
            if not mailbox or not _can_be_sent(mailbox):
                transaction.settle(_BAD_RECIPIENT, Stage.RCPT, local=True, only=number)
            elif not mailbox.is_ascii:
                transaction.utf8 = True
                if not utf8:
                    transaction.settle(_NEEDS_SMTPUTF8, Stage.RCPT, local=True, only=number)
        transaction.call_off()
        if transaction.open:
            problem = self._unfit(message) or self._look_inside(transaction)
            if problem is not None:
                transaction.settle(problem, Stage.MAIL, local=True)
        return transaction

    def _unfit(self, message: Message) -> Reply | None:
        """Why this server cannot be given the message, as far as that is known without its content."""
        parameters, size = message.parameters, _size(message)
        limit = self.extensions.get(Extension.SIZE.value, "")
        deadline = (parameters.get("by") or "").partition(";")[2].upper()
        if not _can_be_sent(message.sender):
            return _BAD_SENDER
        if not message.sender.is_ascii and not self._offers(Extension.SMTPUTF8):
            return _NEEDS_SMTPUTF8
        if "requiretls" in parameters and (self.security is None or not self._offers(Extension.REQUIRETLS)):
            return _NEEDS_REQUIRETLS
        if _is_binary(message) and not (self._offers(Extension.BINARYMIME) and self._offers(Extension.CHUNKING)):
            return _NEEDS_BINARYMIME
        if deadline.startswith("R") and not self._offers(Extension.DELIVERBY):
            return _NEEDS_DELIVERBY
        if size is not None and _NUMBER.fullmatch(limit) and 0 < int(limit) < size:
            return _TOO_LARGE
        return None

    def _look_inside(self, transaction: _Transaction) -> Reply | None:
        """Look at the start of the content, all of it if it is small; why the message cannot be sent, if so."""
        message = transaction.message
        pieces = cut(message.content, self._limits.piece)
        if not _is_binary(message):
            strict = self._line_endings is LineEndings.STRICT
            if strict and isinstance(message.content, bytes) and has_bare(message.content):
                return _BARE_LINE_END
            pieces = whole_lines(pieces, strict=strict)
        try:
            ahead = [piece for _, piece in zip(range(2), pieces, strict=False)]
        except BareLineEnd:
            return _BARE_LINE_END
        transaction.content = chain(ahead, pieces)
        header = b"".join([b"\r\n", *ahead]).partition(b"\r\n\r\n")[0]
        if (message.raw_header or header.isascii()) and message.sender.is_ascii:
            return None
        transaction.utf8 = True
        return None if self._offers(Extension.SMTPUTF8) else _NEEDS_SMTPUTF8

    def _transact(self, transaction: _Transaction) -> _Script:
        reply = yield from self._envelope(transaction)
        if reply is None:
            if transaction.open:
                yield from self._chunks(transaction)
        elif reply.code // 100 != 3:
            transaction.settle(reply, Stage.DATA)
        elif transaction.open:
            yield from self._lines(transaction)
        elif self._lmtp:  # nobody knows how many replies would follow
            raise _Broken(_OUT_OF_STEP, local=True)
        else:  # the server wants content although nobody is to get it (RFC 2920 section 3.1)
            self._write(b".\r\n")
            yield from self._reply(Stage.END)
            self._unfinished = False

    def _envelope(self, transaction: _Transaction) -> _Steps[Reply | None]:
        """Send everything up to the content; the reply to DATA, if that was sent."""
        limits = self._limits if self._offers(Extension.PIPELINING) else _ONE_BY_ONE
        answer: Reply | None = None
        for group in _groups(self._commands(transaction), limits):
            if not transaction.open:
                break
            self._command(b"\r\n".join(command.line for command in group))
            self._unfinished = True
            for command in group:
                reply = yield from self._reply(command.stage, 3 if command.stage is Stage.DATA else 2)
                if command.stage is Stage.DATA:
                    answer = reply
                elif not reply.is_positive:
                    if command.stage is Stage.RSET:  # whose transaction would it be?
                        raise _Broken(reply)
                    transaction.settle(reply, command.stage, only=command.recipient)
            transaction.call_off()
        return answer

    def _commands(self, transaction: _Transaction) -> Iterator[_Command]:
        """The commands of a transaction, up to the content."""
        message = transaction.message
        if self._unfinished:
            yield _Command(Stage.RSET, b"RSET")
        words = [f"MAIL FROM:{message.sender.path}", *self._mail_parameters(transaction)]
        yield _Command(Stage.MAIL, " ".join(words).encode())
        for number in transaction.open:
            recipient = Recipient.of(message.recipients[number])
            words = [f"RCPT TO:{recipient.mailbox.path}", *self._offered(recipient.parameters)]
            yield _Command(Stage.RCPT, " ".join(words).encode(), number)
        if not self._offers(Extension.CHUNKING):
            alone = message.all_or_none and len(message.recipients) > 1  # the server may take a part of them
            yield _Command(Stage.DATA, b"DATA", alone=alone)

    def _mail_parameters(self, transaction: _Transaction) -> Iterator[str]:
        message, parameters = transaction.message, transaction.message.parameters
        size, body = _size(message), (parameters.get("body") or "").upper()
        if size is not None and self._offers(Extension.SIZE):
            yield f"SIZE={size}"
        if _is_binary(message):
            yield "BODY=BINARYMIME"
        elif self._offers(Extension.EIGHTBITMIME) and body != "7BIT" and not _is_ascii(message):
            yield "BODY=8BITMIME"
        if self._offers(Extension.SMTPUTF8) and (transaction.utf8 or "smtputf8" in parameters):
            yield "SMTPUTF8"
        if self.authenticated and parameters.get("auth"):  # who is not trusted has nothing to tell
            yield f"AUTH={parameters['auth']}"
        yield from self._offered(parameters)

    def _offered(self, parameters: Parameters) -> Iterator[str]:
        """The parameters whose extensions the server offers, of those that are passed on."""
        for keyword, value in parameters.items():
            owner = owner_of(keyword)
            if keyword not in _OURS and (owner.value if owner else keyword.upper()) in self.extensions:
                yield keyword.upper() if value is None else f"{keyword.upper()}={value}"

    def _lines(self, transaction: _Transaction) -> _Script:
        """Send the content behind DATA."""
        self.at = Stage.CONTENT
        try:
            for piece in stuffed(transaction.content):
                yield from self._make_room()
                self._hear_refusal(transaction)
                self._write(piece)
        except BareLineEnd:  # found too late: only the end of the connection is no end of the content
            transaction.settle(_BARE_LINE_END, Stage.CONTENT, local=True)
            raise _Broken(_ABANDONED, local=True) from None
        yield from self._verdict(transaction)
        self._unfinished = False

    def _hear_refusal(self, transaction: _Transaction) -> None:
        """Hear a server that does not wait for the end of the content; after that there is no way to go on."""
        reply = self._heard()
        if reply is not None:
            if reply.code == _SERVICE_ENDS:
                raise _Broken(reply)
            if reply.code < _REFUSALS:
                raise _Broken(_OUT_OF_STEP, local=True)
            transaction.settle(reply, Stage.CONTENT)
            raise _Broken(_ABANDONED, local=True)
        if self._eof:
            raise _Broken(_LOST, local=True)

    def _chunks(self, transaction: _Transaction) -> _Script:
        """Send the content by BDAT (RFC 3030). Once a chunk is refused, no more is sent, and RSET is due."""
        self.at = Stage.CONTENT
        window = self._limits.chunks if self._offers(Extension.PIPELINING) else 1
        asked, complete = 0, False
        refusal: Reply | None = None
        local = False
        try:
            for piece, last in with_last(transaction.content):
                yield from self._make_room()
                # Behind a refused chunk nobody knows how many replies a last one gets in LMTP.
                room = 0 if last and self._lmtp else window - 1
                while refusal is None and asked and (asked > room or self._replies.pending or self._eof):
                    asked, refusal = asked - 1, _refusal((yield from self._reply(Stage.CONTENT)))
                if refusal is not None:
                    break
                if not asked:
                    self._listen()
                self._write(b"BDAT %d%b\r\n" % (len(piece), b" LAST" if last else b""))
                self._write(piece)
                asked, complete = asked + (not last), last
        except BareLineEnd:
            refusal, local = _BARE_LINE_END, True
        while asked:
            if refusal is not None:  # and the server may go before it answers the rest
                transaction.settle(refusal, Stage.CONTENT, local=local)
            reply = yield from self._reply(Stage.CONTENT)
            asked, refusal = asked - 1, refusal or _refusal(reply)
        if refusal is None:
            yield from self._verdict(transaction)
            self._unfinished = not any(result is not None and result.delivered for result in transaction.results)
            return
        transaction.settle(refusal, Stage.CONTENT, local=local)
        if complete:
            yield from self._reply(Stage.END)

    def _verdict(self, transaction: _Transaction) -> _Script:
        """Read what the server says of the whole content; in LMTP for each recipient (RFC 2033 section 4.2)."""
        for number in transaction.open if self._lmtp else [None]:
            reply = yield from self._reply(Stage.END)
            transaction.settle(reply, Stage.END, only=number)

    # Steps the scripts share

    def _offers(self, extension: Extension) -> bool:
        return extension.value in self.extensions

    def _write(self, data: bytes) -> None:
        self._output.append(data)
        self._waiting += len(data)

    def _command(self, line: bytes) -> None:
        self._check_silence()
        self._write(line + b"\r\n")

    def _make_room(self) -> _Script:
        """Let the driver write, if there is enough to write."""
        if self._waiting >= self._limits.piece:
            yield from self._pause(DRAIN)

    def _pause(self, event: ClientEvent) -> _Script:
        yield event
        if self._timed_out:
            raise _Broken(_TIMEOUT, local=True)

    def _reply(self, stage: Stage, *good: int) -> _Steps[Reply]:
        """Wait for the reply to what has been said; its first digit is one of `good` (2), or 4 or 5."""
        self.at = stage
        while (reply := self._heard()) is None:
            if self._eof:
                raise _Broken(_LOST, local=True)
            yield from self._pause(NEED_DATA)
        if reply.code == _SERVICE_ENDS:
            raise _Broken(reply)
        if reply.code // 100 not in (*(good or (2,)), 4, 5):
            raise _Broken(_OUT_OF_STEP, local=True)
        return reply

    def _heard(self) -> Reply | None:
        """The next reply; None if it has not come whole."""
        try:
            return self._replies.next()
        except ValueError:
            raise _Broken(_OUT_OF_STEP, local=True) from None

    def _listen(self) -> None:
        """Hear what a server says without being asked: no more than that it ends the service."""
        reply = self._heard()
        if reply is not None:
            raise _Broken(reply) if reply.code == _SERVICE_ENDS else _Broken(_OUT_OF_STEP, local=True)
        if self._eof:
            raise _Broken(_LOST, local=True)

    def _check_silence(self) -> None:
        """Before anything is asked, nothing may have been answered."""
        if self._replies.pending:
            self._listen()
            raise _Broken(_OUT_OF_STEP, local=True)


# Replies


def _refusal(reply: Reply) -> Reply | None:
    return None if reply.is_positive else reply


def _demand(reply: Reply) -> None:
    if not reply.is_positive:
        raise _Broken(reply, polite=True)


# Messages


def _size(message: Message) -> int | None:
    if message.size is None and isinstance(message.content, bytes):
        return len(message.content)
    return message.size


def _is_binary(message: Message) -> bool:
    return (message.parameters.get("body") or "").upper() == "BINARYMIME"


def _is_ascii(message: Message) -> bool:
    """Whether the content is known to need no 8BITMIME."""
    return isinstance(message.content, bytes) and message.content.isascii()


def _can_be_sent(mailbox: Mailbox) -> bool:
    """Whether a mailbox, which anybody may have made up, stays one argument of one command."""
    if mailbox.domain is None:
        return mailbox.local_part.lower() in {"", "postmaster"}
    return bool(_LOCAL_PART.fullmatch(mailbox.local_part) and _DOMAIN.fullmatch(mailbox.domain))


def _groups(commands: Iterable[_Command], limits: ClientLimits) -> Iterator[list[_Command]]:
    """Commands that are sent together; a command is made when its group is."""
    group: list[_Command] = []
    size = 0
    for command in commands:
        full = len(group) >= limits.group or size + len(command.line) > limits.group_size
        if group and (full or command.alone):
            yield group
            group, size = [], 0
        group.append(command)
        size += len(command.line)
    yield group
