"""The server's side of SMTP and LMTP as a pure state machine: bytes in, events and replies out.

Each command has a script that reads from top to bottom. Order stands in `state`, the meaning
of answers in `verdicts`, syntax in `commands`, `parameters` and `addresses`, the end of
content in `framing`, AUTH in `authentication`; what all scripts share, and what a driver
calls, in `conversation`.

Nothing in here knows sockets, time or plugins.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar

from qpsmtpd.protocol import hooks
from qpsmtpd.protocol.addresses import Mailbox, parse_path
from qpsmtpd.protocol.authentication import Authenticating
from qpsmtpd.protocol.commands import (
    Command,
    Extension,
    Parameters,
    parse_chunk,
    parse_parameters,
    parse_path_argument,
    parse_words,
)
from qpsmtpd.protocol.conversation import BARE_LINE_END, Script
from qpsmtpd.protocol.errors import SyntaxProblem
from qpsmtpd.protocol.events import StartTls
from qpsmtpd.protocol.framing import ChunkReader, ContentReader, HeaderSplitter, LineEndings, Mark
from qpsmtpd.protocol.hooks import Hook
from qpsmtpd.protocol.host import NOTHING, Host, Steps
from qpsmtpd.protocol.limits import Limits
from qpsmtpd.protocol.parameters import check_parameters
from qpsmtpd.protocol.replies import Reply
from qpsmtpd.protocol.returncodes import OK
from qpsmtpd.protocol.sasl import (
    MECHANISMS,
    Mechanism,
)
from qpsmtpd.protocol.security import Security
from qpsmtpd.protocol.state import AUTHENTICATED_ONLY, HOOKS_COME_FIRST, NOT_IMPLEMENTED, ORDER, State
from qpsmtpd.protocol.verdicts import VERDICTS
from qpsmtpd.protocol.xclient import ATTRIBUTES, parse_xclient

__all__ = ["DEFAULT_EXTENSIONS", "Server"]

DEFAULT_EXTENSIONS = frozenset(Extension) - {
    Extension.BINARYMIME,  # the next hop has to take any octets
    Extension.REQUIRETLS,  # a promise that whoever sends on has to keep
    Extension.MT_PRIORITY,
    Extension.DELIVERBY,
    Extension.STARTTLS,  # the driver needs a certificate
    Extension.XCLIENT,  # for trusted clients
}
"""What a server offers where nothing else is said; AUTH where a hook can answer it."""

_Parsed = tuple[str, Parameters] | SyntaxProblem

_LINE_TOO_LONG = Reply(500, "5.5.2", "Line too long")
_UNKNOWN_ARGUMENT = Reply(501, "5.5.4", "This command takes no argument")
_NO_HOST = Reply(501, None, "This command needs your host name or address literal")
_NULL_RECIPIENT = Reply(501, "5.1.3", "The null path is no recipient")
_NEEDS_SMTPUTF8 = Reply(553, "5.6.7", "An address with non-ASCII characters needs the SMTPUTF8 parameter")
_TOO_MANY_RECIPIENTS = Reply(452, "4.5.3", "Too many recipients")
_RESET = Reply(250, "2.0.0", "OK")
_NOT_IMPLEMENTED = Reply(502, "5.5.1", "Command not implemented")

_BEGIN_TLS = Reply(220, "2.0.0", "Begin TLS now")
_TLS_ALREADY = Reply(503, "5.5.1", "TLS is already in use")

_AUTHENTICATE_FIRST = Reply(530, "5.7.0", "Authentication required")
_TLS_FIRST = Reply(530, "5.7.0", "Authentication required, and STARTTLS before it")
_NOT_IN_COMMENT = re.compile(r"[^A-Za-z0-9.!#$%&'*+/=?^_`{|}~@\-]")

_TOO_LARGE = Reply(552, "5.3.4", "Message too large")
_HEADER_TOO_LARGE = Reply(552, "5.3.4", "Message header too large")
_BARE_IN_CONTENT = Reply(554, "5.6.0", "Message content holds a CR or LF that is not part of a CRLF")
_OUT_OF_STEP = Reply(421, "4.5.2", "Message content ends with CRLF . CRLF; see https://cr.yp.to/docs/smtplf.html")
_CUT_OFF = Reply(451, "4.4.2", "Incomplete message")
_BINARY_BY_CHUNKS = Reply(503, "5.5.1", "Binary content comes by BDAT (RFC 3030 section 3)")
_CHUNK_OUT_OF_STEP = Reply(501, "5.5.4", "BDAT needs the number of octets, and perhaps LAST; closing the connection")

# Reading a member off its class costs as much as a call in Python 3.11.
_MORE, _END = Mark.MORE, Mark.END
_IN_MAIL, _IN_RCPT = State.MAIL, State.RCPT
_MAIL, _RCPT, _DATA = Command.MAIL, Command.RCPT, Command.DATA

_QUEUE, _RECEIVED_LINE = hooks.Queue(), hooks.ReceivedLine("SMTP")
_AFTER_CONTENT: tuple[Hook, ...] = (
    hooks.DataPostHeaders(),
    _RECEIVED_LINE,  # each message has one of its own
    hooks.DataPost(),
    hooks.QueuePre(),
    _QUEUE,
    hooks.QueuePost(),
)
_REFUSED_CONTENT = {Mark.BARE: _BARE_IN_CONTENT, Mark.TOO_LARGE: _TOO_LARGE}


@dataclass(slots=True)
class _Incoming:
    """A message while its content arrives."""

    reader: ContentReader | ChunkReader
    header: HeaderSplitter
    problem: Reply | None = None
    """What refuses it, once all of it has come."""


@dataclass(frozen=True, slots=True)
class _Offer:
    """What a connection may use."""

    extensions: frozenset[Extension]
    mechanisms: Mapping[str, Mechanism]
    commands: Mapping[str, Command]
    keywords: tuple[str, ...]
    """The lines of the reply to EHLO, behind the first."""


_NEEDS = {
    Command.BDAT: Extension.CHUNKING,
    Command.STARTTLS: Extension.STARTTLS,
    Command.AUTH: Extension.AUTH,
    Command.XCLIENT: Extension.XCLIENT,
}


@lru_cache(64)  # the sessions of a server differ in little
def _offer(
    extensions: frozenset[Extension],
    wanted: frozenset[str],
    *,
    lmtp: bool,
    encrypted: bool,
    bound: bool,
    auth: bool,
    nonce: bool,
    size: int | None,
    recipients: int,
) -> _Offer:
    mechanisms = {
        name: mechanism
        for name, mechanism in MECHANISMS.items()
        if auth
        and Extension.AUTH in extensions
        and (mechanism.hook in wanted or (mechanism.general and "auth" in wanted))
        and (nonce or not mechanism.needs_nonce)
        and (bound or not mechanism.needs_binding)
    }
    offered = extensions - {Extension.STARTTLS if encrypted else Extension.REQUIRETLS}  # RFC 8689 section 2
    if not mechanisms:
        offered -= {Extension.AUTH}
    absent = {command for command, extension in _NEEDS.items() if extension not in offered}
    if Extension.STARTTLS in extensions:
        absent.discard(Command.STARTTLS)  # a second one is told so
    absent |= {Command.HELO, Command.EHLO} if lmtp else {Command.LHLO}
    commands = {command.value.decode(): command for command in Command if command not in absent}
    details = {
        Extension.SIZE: "" if size is None else f" {size}",
        Extension.AUTH: f" {' '.join(sorted(mechanisms))}",
        Extension.LIMITS: f" RCPTMAX={recipients}",
        Extension.XCLIENT: f" {' '.join(ATTRIBUTES)}",
    }
    keywords = tuple(each.value + details.get(each, "") for each in Extension if each in offered)
    return _Offer(offered, mechanisms, commands, keywords)


@lru_cache(64)
def _after_content(wanted: frozenset[str]) -> tuple[Hook, ...]:
    """The hooks that come into play when the content has ended."""
    return tuple(hook for hook in _AFTER_CONTENT if hook.name in wanted or hook in (_RECEIVED_LINE, _QUEUE))


@lru_cache(64)  # most messages come in the same way
def _received_line(
    tls: str, identity: tuple[str, str] | None, *, utf8: bool, lmtp: bool, esmtp: bool
) -> hooks.ReceivedLine:
    """How a message came, as trace fields tell it: RFC 3848, RFC 6531 section 3.7.4, and two comments."""
    protocol = "UTF8" if utf8 else ""
    protocol += "LMTP" if lmtp else "SMTP"
    if not utf8 and not lmtp and (esmtp or tls or identity):
        protocol = "ESMTP"
    protocol += ("S" if tls else "") + ("A" if identity else "")
    comment = ""
    if identity is not None:
        mechanism, user = identity
        comment = f"(smtp-auth username {_NOT_IN_COMMENT.sub('?', user[:255])}, mechanism {mechanism})\n"
    return hooks.ReceivedLine(protocol, comment, f"({tls} encrypted) " if tls else "")


class Server(Authenticating):
    """One SMTP or LMTP session, seen from the server, without I/O."""

    __slots__ = (
        "_after_content",
        "_auth_in_clear",
        "_auth_required",
        "_binary",
        "_esmtp",
        "_extensions",
        "_incoming",
        "_keywords",
        "_line_endings",
        "_lmtp",
        "_offer",
        "_recipients",
        "path_argument",
    )

    path_argument: str
    """What stood behind the word of the last MAIL or RCPT, as sent; empty before the first."""

    def __init__(
        self,
        *,
        hooks: Iterable[str] = (),
        hostname: str = "localhost",
        greeting: str | None = None,
        limits: Limits | None = None,
        extensions: Iterable[Extension] = DEFAULT_EXTENSIONS,
        line_endings: LineEndings = LineEndings.STRICT,
        lmtp: bool = False,
        auth_in_clear: bool = False,
        auth_required: bool = False,
        nonce: Callable[[], str] | None = None,
        secret: bytes = b"",
        host: Host | None = None,
    ) -> None:
        """Start a session; the first `next_event` leads to the greeting.

        `hooks` names the hooks to be asked about; the others count as DECLINED, which
        accepts senders, refuses recipients for now and queues nothing. `greeting` replaces
        the text behind 220. `lmtp` makes it speak RFC 2033.

        AUTH is offered for the mechanisms whose hooks are asked about; on a connection that
        is not encrypted only with `auth_in_clear`. With `auth_required` there is no mail
        without it (RFC 6409). `nonce` gives fresh text that nobody can guess, in printable
        ASCII without commas and angle brackets; without it, mechanisms with a challenge are
        not offered. `secret` is the same for all sessions: it hides which users exist.

        `host` is asked in place of the driver, which then runs `conversation`.

        Raises ValueError for a hook that does not exist.
        """
        self._extensions = frozenset(extensions)
        self._line_endings = line_endings
        self._lmtp = lmtp
        self._auth_in_clear = auth_in_clear
        self._auth_required = auth_required
        self._nonce = nonce
        self._secret = secret
        # The session; `_forget_client` and the scripts of HELO and EHLO reset it.
        self._esmtp = False
        self._keywords: list[str] = []
        self._identity = None
        self._auth_failures = 0
        # The transaction.
        self._recipients = 0
        self._binary = False
        self._incoming: _Incoming | None = None
        self.path_argument = ""
        greeting = greeting or f"{hostname} {'LMTP' if lmtp else 'ESMTP'} qpsmtpd"
        super().__init__(
            hooks, hostname, greeting, limits, enhanced=Extension.ENHANCEDSTATUSCODES in self._extensions, host=host
        )
        self._after_content = _after_content(self._wanted)
        self._update_offer()

    def announce(self, *keywords: str) -> None:
        """Add keywords, with their parameters, to the reply to the next EHLO; HELO forgets them."""
        self._keywords += keywords

    def secure(self, security: Security) -> None:  # noqa: D102 - as in the base class
        super().secure(security)
        self._update_offer()

    # What is offered now

    def _update_offer(self) -> None:
        """Find out what this connection may use; again when it has become encrypted."""
        security = self.security
        self._offer = _offer(
            self._extensions,
            self._wanted,
            lmtp=self._lmtp,
            encrypted=security is not None,
            bound=security is not None and bool(security.bindings),
            auth=security is not None or self._auth_in_clear,
            nonce=self._nonce is not None,
            size=self._limits.message_size,
            recipients=self._limits.recipients,
        )
        self._mechanisms = self._offer.mechanisms

    # From a line to a script

    def _script(self, line: bytearray) -> Iterable[Any]:
        if len(line) >= self._limits.command_line:
            return self._bad_line(line, _LINE_TOO_LONG)
        text = line.decode("utf-8", "surrogateescape")
        if not text or text.find("\r") != len(text) - 1:
            return self._bad_line(line, BARE_LINE_END)
        verb, blank, argument = text[:-1].partition(" ")
        if argument[:1] == " ":
            argument = argument.lstrip(" ")
        command = self._offer.commands.get(verb)
        if command is None and verb.isascii():  # some letters outside have an upper case within
            command = self._offer.commands.get(verb.upper())
        if command is None:
            if verb[4:5].isspace() and verb[:4].upper() == "BDAT" and "BDAT" in self._offer.commands:
                return self._out_of_step()
            return self._unrecognized(verb.lower(), argument if blank else None)
        if self._auth_required and self._identity is None and command in AUTHENTICATED_ONLY:
            self._refuse(_AUTHENTICATE_FIRST if self._mechanisms or self.security is not None else _TLS_FIRST)
            return ()
        out_of_order = ORDER[command][self._state]
        if out_of_order is not None and command is not Command.BDAT and (command, self._state) not in HOOKS_COME_FIRST:
            self._refuse(out_of_order)
            return ()
        return self._SCRIPTS[command](self, argument)

    def _bad_line(self, line: bytearray, reply: Reply) -> Iterable[Any]:
        """Refuse a line for its form; behind a chunk of unknown size its content would pass for commands."""
        if bytes(line[:4]).upper() == b"BDAT" and "BDAT" in self._offer.commands:
            return self._out_of_step()
        self._refuse(reply)
        return ()

    def _out_of_step(self) -> Script:
        self._say(_CHUNK_OUT_OF_STEP)
        yield from self._disconnect()

    # One script a command

    def _helo(self, argument: str) -> Script:
        yield from self._hello(hooks.Helo, hooks.HeloParse, argument)

    def _ehlo(self, argument: str) -> Script:
        yield from self._hello(hooks.Ehlo, hooks.EhloParse, argument)  # and LHLO (RFC 2033 section 4.1)

    def _hello(self, hook: type[hooks.Helo | hooks.Ehlo], parse_hook: type[hooks.ParseHook], argument: str) -> Script:
        words: Sequence[str] = parse_words(argument)
        if parse_hook.name in self._wanted:
            parsed = yield from self._pieces(parse_hook, argument)
            if parsed is None:
                return
            answer, pieces, _ = parsed
            words = pieces if answer is OK else words
        if not words or not words[0] or words[0].isdigit():  # a number is no host name (RFC 1123 section 2.1)
            self._refuse(_NO_HOST)
            return
        if self._state not in (State.START, State.IDLE):  # RFC 5321 section 4.1.4
            yield from self._forget_transaction()
        hello = hook(words[0], tuple(words[1:]))
        result = (yield from self._host.ask(hello)) if hook.name in self._wanted else NOTHING
        if VERDICTS[hook.name][result[0]].proceed:
            self._host.greeted(hello)
        # Composed now, since a plugin may have had keywords announced.
        keywords = [*self._offer.keywords, *self._keywords] if hook is hooks.Ehlo else []
        self._keywords.clear()
        verdict = self._judge(hook.name, result, "\n".join([self._hostname, *keywords]))
        if verdict.close or verdict.reset:
            yield from self._end(verdict)
        if verdict.proceed:
            self._state = State.IDLE
            self._esmtp = hook is hooks.Ehlo

    def _starttls(self, argument: str) -> Script:
        if argument:
            self._refuse(_UNKNOWN_ARGUMENT)
            return
        if self.security is not None:
            self._refuse(_TLS_ALREADY)
            return
        self._say(_BEGIN_TLS)
        self._drop_input()  # whatever was sent behind STARTTLS was sent in clear, by anybody
        self._shaking_hands = True
        yield from self._host.tell(StartTls())
        if not self._eof:
            yield from self._forget_client()

    def _auth(self, argument: str) -> Script:
        yield from self._authenticate(argument)

    def _xclient(self, argument: str) -> Script:
        claim = parse_xclient(argument)
        if isinstance(claim, SyntaxProblem):
            self._refuse(claim.reply)
            return
        yield from self._forget_client()
        if claim.login:
            self._identity = "xclient", claim.login
        yield from self._host.tell(claim)
        yield from self._connect()

    def _forget_client(self) -> Script:
        """Forget what the client has said of itself (RFC 3207 section 4.2)."""
        self._state = State.START
        self._esmtp = False
        self._keywords.clear()
        self._identity = None
        yield from self._forget_transaction()

    # Mail transactions

    def _mail(self, argument: str) -> Script:
        self.path_argument = argument
        yield from self._forget_transaction()
        if (out_of_order := ORDER[_MAIL][self._state]) is not None:
            self._refuse(out_of_order)
            return
        if "mail_parse" in self._wanted:
            parsed = yield from self._parsed(hooks.MailParse, "FROM:", argument)
        else:
            parsed = parse_path_argument("FROM:", argument)
        accepted = self._accepted(_MAIL, parsed)
        if accepted is None:
            return
        path, parameters = accepted
        if parameters:
            self._utf8 = "smtputf8" in parameters
            self._binary = (parameters.get("body") or "").upper() == "BINARYMIME"
        if "mail_pre" in self._wanted:
            mended = yield from self._mended(hooks.MailPre, path, parameters)
            if mended is None:
                return
            path = mended
        sender = self._mailbox(path)
        if sender is None:
            return
        result = (yield from self._host.ask(hooks.Mail(sender, parameters))) if "mail" in self._wanted else NOTHING
        verdict = self._judge("mail", result, sender.path)
        if verdict.proceed:
            self._state = _IN_MAIL
            self._host.sender_accepted(sender, parameters)
        elif verdict.close or verdict.reset:
            yield from self._end(verdict)

    def _rcpt(self, argument: str) -> Script:
        self.path_argument = argument
        if "rcpt_parse" in self._wanted:
            parsed = yield from self._parsed(hooks.RcptParse, "TO:", argument)
        else:
            parsed = parse_path_argument("TO:", argument)
        accepted = self._accepted(_RCPT, parsed)
        if accepted is None:
            return
        path, parameters = accepted
        if self._recipients >= self._limits.recipients:
            self._say(_TOO_MANY_RECIPIENTS)
            return
        if "rcpt_pre" in self._wanted:
            mended = yield from self._mended(hooks.RcptPre, path, parameters)
            if mended is None:
                return
            path = mended
        recipient = self._mailbox(path)
        if recipient is None:
            return
        if not recipient.local_part and recipient.domain is None:
            self._refuse(_NULL_RECIPIENT)
            return
        result = (yield from self._host.ask(hooks.Rcpt(recipient, parameters))) if "rcpt" in self._wanted else NOTHING
        verdict = self._judge("rcpt", result, recipient.path)
        if verdict.proceed:
            self._state = _IN_RCPT
            self._recipients += 1
            self._host.recipient_accepted(recipient, parameters)
        elif verdict.close or verdict.reset:
            yield from self._end(verdict)

    def _parsed(self, hook: type[hooks.ParseHook], keyword: str, argument: str) -> Steps[_Parsed | None]:
        """What follows MAIL or RCPT, by a plugin's parser if it has one; None if it has been answered."""
        result = yield from self._pieces(hook, argument)
        if result is None:
            return None
        answer, pieces, _ = result
        if answer is not OK:
            return parse_path_argument(keyword, argument)
        parameters = parse_parameters(pieces[1:])
        return parameters if isinstance(parameters, SyntaxProblem) else (pieces[0] if pieces else "", parameters)

    def _accepted(self, command: Command, parsed: _Parsed | None) -> tuple[str, Parameters] | None:
        """The path and its parameters, if they are good; None if the command has been answered."""
        if parsed is None:
            return None
        if isinstance(parsed, SyntaxProblem):
            self._refuse(parsed.reply)
            return None
        problem = self._unfit(command, parsed[1]) if parsed[1] else None
        if problem is None:
            return parsed
        self._refuse(problem.reply)
        return None

    def _unfit(self, command: Command, parameters: Parameters) -> SyntaxProblem | None:
        """What is wrong with the parameters of a command, or None."""
        size, limit = parameters.get("size"), self._limits.message_size
        problem = check_parameters(command, parameters, self._offer.extensions)
        if problem is None and size and limit is not None and int(size) > limit:
            return SyntaxProblem(_TOO_LARGE)
        return problem

    def _mended(
        self, hook: type[hooks.MailPre | hooks.RcptPre], path: str, parameters: Parameters
    ) -> Steps[str | None]:
        """The path as a plugin would have it; None if the command has been answered."""
        answer, texts, _ = result = yield from self._host.ask(hook(path, parameters))
        if not self._judge(hook.name, result).proceed:
            return None
        return path if answer is not OK else texts[0] if texts else ""

    def _mailbox(self, path: str) -> Mailbox | None:
        """The mailbox in a path; None if it has been refused."""
        mailbox = parse_path(path)
        if isinstance(mailbox, Mailbox):
            if self._utf8 or path.isascii():
                return mailbox
            self._refuse(_NEEDS_SMTPUTF8)
        else:
            self._refuse(mailbox.reply)
        return None

    def _data(self, argument: str) -> Script:
        if argument.strip(" \t"):
            self._refuse(_UNKNOWN_ARGUMENT)
            return
        if self._binary:
            self._refuse(_BINARY_BY_CHUNKS)
            return
        result = (yield from self._host.ask(hooks.Data())) if "data" in self._wanted else NOTHING
        out_of_order = ORDER[_DATA][self._state]
        if out_of_order is not None and VERDICTS["data"][result[0]].proceed:
            self._refuse(out_of_order)
            return
        verdict = self._judge("data", result)
        if verdict.close or verdict.reset:
            yield from self._end(verdict)
        if not verdict.proceed:
            return
        message = self._begin(ContentReader(self._limits.message_size, self._line_endings))
        yield from self._receive(message)
        if not self._closing:
            yield from self._finish(message)

    def _bdat(self, argument: str) -> Script:
        chunk = parse_chunk(argument)
        if isinstance(chunk, SyntaxProblem):
            yield from self._out_of_step()
            return
        size, last = chunk
        out_of_order = ORDER[Command.BDAT][self._state]
        if out_of_order is not None:
            yield from self._skip(size)
            self._refuse(out_of_order)
            return
        message = self._incoming
        if message is None:
            self._host.chunks_follow()
            result = (yield from self._host.ask(hooks.Data())) if "data" in self._wanted else NOTHING
            if not VERDICTS["data"][result[0]].proceed:
                yield from self._skip(size)
                said = len(self._output)
                verdict = self._judge("data", result)
                if last:
                    self._repeat(said, self._recipients)
                if verdict.close or verdict.reset:
                    yield from self._end(verdict)
                return
            reader = ChunkReader(self._limits.message_size, self._line_endings, binary=self._binary)
            message = self._incoming = self._begin(reader)
            self._state = State.BDAT
        assert isinstance(message.reader, ChunkReader)
        message.reader.begin(size, last=last)
        yield from self._receive(message)
        if self._closing:
            return
        if last:
            yield from self._finish(message)
        elif message.problem is not None:
            self._say(message.problem)
        else:
            self._say(Reply(250, "2.0.0", f"{size} octets received"))

    def _skip(self, size: int) -> Script:
        """Read a chunk that nobody wants, so that the dialogue stays in step."""
        reader = ChunkReader(None)
        reader.discard()
        reader.begin(size, last=True)
        yield from self._receive(_Incoming(reader, HeaderSplitter(0)))

    def _begin(self, reader: ContentReader | ChunkReader) -> _Incoming:
        return _Incoming(reader, HeaderSplitter(self._limits.header_size))

    def _receive(self, message: _Incoming) -> Script:
        """Receive content: all of it, or a chunk. What refuses the message is noted in it."""
        reader, header = message.reader, message.header
        self.in_content = True
        while True:
            data, mark = reader.read(self._input)
            message.problem = message.problem or _REFUSED_CONTENT.get(mark)
            if data and not header.ended:
                part, data = header.split(data)
                if part:
                    yield from self._host.content(part, in_header=True)
                if header.too_large:
                    message.problem = _HEADER_TOO_LARGE
                    reader.discard()
                elif header.ended:
                    message.problem = (yield from self._headers_end()) or message.problem
                    if self._closing:
                        break
            if data:
                yield from self._host.content(data, in_header=False)
            if mark is _END:
                break
            if mark is _MORE:
                if self._eof:
                    message.problem = _CUT_OFF
                    break
                yield from self._host.receive()
            elif mark is Mark.BARE_DOT:
                self._say(_OUT_OF_STEP)
                yield from self._disconnect()
                break
        self.in_content = False

    def _finish(self, message: _Incoming) -> Script:
        """The content has ended: check it, queue it, and tell the client."""
        if message.problem is None and not message.header.ended:
            if rest := message.header.rest():
                yield from self._host.content(rest, in_header=True)
            message.problem = yield from self._headers_end()
            if self._closing:
                return
        recipients = self._recipients
        if message.problem is not None:
            said = len(self._output)
            self._say(message.problem)
            self._repeat(said, recipients)
            yield from self._forget_transaction()
            return
        line = self._received_line()
        for hook in self._after_content:
            if hook is _QUEUE and self._lmtp:
                yield from self._queue_for_each(recipients)
                if self._closing:
                    return
                continue
            if hook is _RECEIVED_LINE:
                hook = line  # noqa: PLW2901 - in its place
            result = (yield from self._host.ask(hook)) if hook.name in self._wanted else NOTHING
            said = len(self._output)
            verdict = self._judge(hook.name, result)
            if hook is line and verdict.proceed:
                self._host.content_ended(line, result)
            if not verdict.proceed:
                self._repeat(said, recipients)
            if verdict.close or verdict.reset:
                yield from self._end(verdict)
            if not verdict.proceed:
                return

    def _queue_for_each(self, recipients: int) -> Script:
        """LMTP: queue the message for each recipient, with a reply for each (RFC 2033 section 4.2)."""
        closing = False
        for number in range(recipients):
            result = (yield from self._host.ask(hooks.Queue(number))) if "queue" in self._wanted else NOTHING
            closing |= self._judge("queue", result).close
        if closing:
            yield from self._disconnect()
        else:
            yield from self._forget_transaction()

    def _repeat(self, start: int, times: int) -> None:
        """LMTP: say what has been said since `start` once for each recipient."""
        if self._lmtp:
            self._output += bytes(self._output[start:]) * (times - 1)

    def _received_line(self) -> hooks.ReceivedLine:
        tls = str(self.security) if self.security is not None else ""
        return _received_line(tls, self._identity, utf8=self._utf8, lmtp=self._lmtp, esmtp=self._esmtp)

    def _headers_end(self) -> Steps[Reply | None]:
        """Ask at the end of the header; give what is to be said when the content has ended."""
        self._host.header_ended()
        if "data_headers_end" not in self._wanted:
            return None
        answer, texts, _ = result = yield from self._host.ask(hooks.DataHeadersEnd())
        verdict = VERDICTS["data_headers_end"][answer]
        if verdict.reply is not None and not verdict.close:
            return replace(verdict.reply, text="\n".join(texts)) if texts and verdict.plugin_text else verdict.reply
        self._judge("data_headers_end", result)
        if verdict.close:
            yield from self._disconnect()
        return None

    def _unrecognized(self, word: str, rest: str | None) -> Script:
        if not self._count_error():
            return
        hook = hooks.UnrecognizedCommand
        result = (yield from self._host.ask(hook(word, rest))) if hook.name in self._wanted else NOTHING
        if word in NOT_IMPLEMENTED and VERDICTS[hook.name][result[0]].proceed:
            self._say(_NOT_IMPLEMENTED)
            return
        verdict = self._judge(hook.name, result)
        if verdict.close or verdict.reset:
            yield from self._end(verdict)

    def _rset(self, argument: str) -> Script:
        del argument  # tolerated, as in the original
        self._say(_RESET)
        yield from self._forget_transaction()

    def _noop(self, argument: str) -> Script:
        del argument
        yield from self._ask(hooks.Noop)

    def _vrfy(self, argument: str) -> Script:
        del argument
        yield from self._ask(hooks.Vrfy)

    def _help(self, argument: str) -> Script:
        yield from self._ask(hooks.Help, argument or None, subject=" ".join(self._offer.commands))

    def _quit(self, argument: str) -> Script:
        del argument
        self._quitting = not self._input  # who sends more behind QUIT is still sending
        yield from self._ask(hooks.Quit)

    _SCRIPTS: ClassVar[Mapping[Command, Callable[..., Script]]] = {
        Command.HELO: _helo,
        Command.EHLO: _ehlo,
        Command.LHLO: _ehlo,
        Command.STARTTLS: _starttls,
        Command.AUTH: _auth,
        Command.XCLIENT: _xclient,
        Command.MAIL: _mail,
        Command.RCPT: _rcpt,
        Command.DATA: _data,
        Command.BDAT: _bdat,
        Command.RSET: _rset,
        Command.NOOP: _noop,
        Command.QUIT: _quit,
        Command.VRFY: _vrfy,
        Command.HELP: _help,
    }

    # The transaction

    def _clear_transaction(self) -> None:
        self._utf8 = False
        self._recipients = 0
        self._binary = False
        self._incoming = None
