"""The server's side of SMTP as a pure state machine: bytes in, events and replies out.

The conversation is a generator; each command has a script that reads from top to bottom.
A script yields an event and is resumed when the driver asks for the next one: with the
answer, if it was a hook. Order stands in `state`, the meaning of answers in `verdicts`,
syntax in `commands` and `addresses`, the end of content in `framing`.

Nothing in here knows sockets, time or plugins.
"""

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

from qpsmtpd.protocol import hooks
from qpsmtpd.protocol.addresses import NULL_PATH, Mailbox, parse_path
from qpsmtpd.protocol.commands import (
    Command,
    Extension,
    Parameters,
    check_parameters,
    parse_parameters,
    parse_path_argument,
    parse_words,
)
from qpsmtpd.protocol.errors import LocalProtocolError, SyntaxProblem
from qpsmtpd.protocol.events import CLOSED, DRAIN, NEED_DATA, Content, Event
from qpsmtpd.protocol.framing import ContentReader, HeaderSplitter, LineEndings, Mark
from qpsmtpd.protocol.hooks import Hook
from qpsmtpd.protocol.limits import Limits
from qpsmtpd.protocol.replies import Reply, encode_reply
from qpsmtpd.protocol.returncodes import DECLINED, OK, ReturnCode
from qpsmtpd.protocol.state import HOOKS_COME_FIRST, ORDER, State
from qpsmtpd.protocol.verdicts import FAILED, VERDICTS, Answer, Verdict

__all__ = ["Server"]

_Result = tuple[Answer, tuple[str, ...]]
_NOTHING: _Result = (DECLINED, ())  # sent into the conversation behind an event that asks nothing
_Script = Generator[Event, _Result, None]
_Parsed = tuple[str, Parameters] | SyntaxProblem

_VERBS = {command.value.decode(): command for command in Command}

_LINE_TOO_LONG = Reply(500, "5.5.2", "Line too long")
_BARE_LINE_END = Reply(500, "5.5.2", "A command line ends with CRLF and holds no other CR or LF")
_UNKNOWN_ARGUMENT = Reply(501, "5.5.4", "This command takes no argument")
_NO_HOST = Reply(501, None, "This command needs your host name or address literal")
_NULL_RECIPIENT = Reply(501, "5.1.3", "The null path is no recipient")
_NEEDS_SMTPUTF8 = Reply(553, "5.6.7", "An address with non-ASCII characters needs the SMTPUTF8 parameter")
_TOO_MANY_RECIPIENTS = Reply(452, "4.5.3", "Too many recipients")
_TOO_MANY_ERRORS = Reply(421, "4.7.0", "Too many errors")
_RESET = Reply(250, "2.0.0", "OK")
_TOO_LARGE = Reply(552, "5.3.4", "Message too large")
_HEADER_TOO_LARGE = Reply(552, "5.3.4", "Message header too large")
_BARE_IN_CONTENT = Reply(554, "5.6.0", "Message content holds a CR or LF that is not part of a CRLF")
_OUT_OF_STEP = Reply(421, "4.5.2", "Message content ends with CRLF . CRLF; see https://cr.yp.to/docs/smtplf.html")
_CUT_OFF = Reply(451, "4.4.2", "Incomplete message")

_QUEUE = hooks.Queue
_AFTER_CONTENT: tuple[type[Hook], ...] = (
    hooks.DataPostHeaders,
    hooks.ReceivedLine,
    hooks.DataPost,
    hooks.QueuePre,
    hooks.Queue,
    hooks.QueuePost,
)
_REFUSED_CONTENT = {Mark.BARE: _BARE_IN_CONTENT, Mark.TOO_LARGE: _TOO_LARGE}


class Server:
    """One SMTP session, seen from the server, without I/O.

    Feed it with `receive_data`, take what it asks from `next_event`, answer hooks, and send
    what `data_to_send` gives. What a peer does wrong becomes a reply; only misuse by the
    driver raises `LocalProtocolError`.
    """

    def __init__(
        self,
        *,
        hooks: Iterable[str] = (),
        hostname: str = "localhost",
        greeting: str | None = None,
        limits: Limits | None = None,
        extensions: Iterable[Extension] = Extension,
        line_endings: LineEndings = LineEndings.STRICT,
    ) -> None:
        """Start a session; the first `next_event` leads to the greeting.

        `hooks` names the hooks to be asked about; the others count as DECLINED, which
        accepts senders, refuses recipients for now and queues nothing. `greeting` replaces
        the text behind 220. Raises ValueError for a hook that does not exist.
        """
        self._wanted = frozenset(hooks)
        if unknown := self._wanted - VERDICTS.keys():
            raise ValueError(f"no such hook: {', '.join(sorted(unknown))}")
        self._hostname = hostname
        self._greeting = greeting or f"{hostname} ESMTP qpsmtpd"
        self._limits = limits or Limits()
        self._extensions = frozenset(extensions)
        self._line_endings = line_endings
        self._enhanced = Extension.ENHANCEDSTATUSCODES in self._extensions

        self._input = bytearray()
        self._output = bytearray()
        self._eof = False
        self._closing = False
        self._quitting = False
        self._pending: Hook | None = None
        self._answer = _NOTHING
        self._own_reply: Reply | None = None
        self._goodbye: Reply | None = None
        self._searched = 0  # octets at the start of the input known to hold no LF
        self.in_content = False
        """Whether message content is being received, which may take longer than a command."""

        # The session; `_forget_transaction` and the scripts of HELO and EHLO reset it.
        self._state = State.START
        self._esmtp = False
        self._errors = 0
        self._keywords: list[str] = []
        # The transaction.
        self._recipients = 0
        self._utf8 = False

        self._after_content = [h for h in _AFTER_CONTENT if h.name in self._wanted or h is _QUEUE]
        self._conversation = self._converse()
        next(self._conversation)

    # The driver's side

    def receive_data(self, data: bytes | bytearray | memoryview) -> None:
        """Take bytes from the peer; empty bytes say that it has closed its side.

        Call this when `next_event` has given `NEED_DATA`; what is given at once is the bound
        of the input buffer. Raises LocalProtocolError for data after the end.
        """
        if not data:
            self._eof = True
        elif self._eof:
            raise LocalProtocolError("data after the end of file")
        elif not self._closing:
            self._input += data

    def next_event(self) -> Event:
        """Go on with the conversation up to the next event.

        Raises LocalProtocolError while a hook waits for its answer.
        """
        if self._pending is not None:
            raise LocalProtocolError(f"the {self._pending.name} hook waits for its answer")
        answer, self._answer = self._answer, _NOTHING
        try:
            event = self._conversation.send(answer) if self._goodbye is None else self._conversation.throw(_HangUp())
        except StopIteration:
            return CLOSED
        if isinstance(event, Hook):
            self._pending, self._own_reply = event, None
        return event

    def answer(self, code: ReturnCode, *texts: str) -> None:
        """Answer the hook that was asked, with text for the client where the verdict shows it.

        Raises LocalProtocolError if no hook was asked, and TypeError for what is no answer.
        """
        if not isinstance(code, ReturnCode):  # pyright: ignore[reportUnnecessaryIsInstance] - plugins are not typed
            raise TypeError(f"not a return code: {code!r}")
        if self._pending is None:
            raise LocalProtocolError("no hook was asked")
        self._pending = None
        self._answer = code, texts

    def fail(self) -> None:
        """Say that the hook that was asked could not be answered; the client is told 451.

        Raises LocalProtocolError if no hook was asked.
        """
        if self._pending is None:
            raise LocalProtocolError("no hook was asked")
        self._pending = None
        self._answer = FAILED, ()

    def respond(self, code: int, *lines: str) -> None:
        """Prepare the plugin's own reply to the pending hook; it is sent if the answer is DONE.

        A command has one reply: of several, the last is sent. Raises LocalProtocolError if no
        hook was asked, and ValueError for an impossible code.
        """
        if self._pending is None:
            raise LocalProtocolError("no hook was asked")
        if not 200 <= code <= 599:
            raise ValueError(f"not a reply code: {code}")
        self._own_reply = Reply(code, None, "\n".join(lines))

    def announce(self, *keywords: str) -> None:
        """Add keywords, with their parameters, to the reply to the next EHLO; HELO forgets them."""
        self._keywords += keywords

    def hang_up(self, reply: Reply) -> None:
        """End the session with this reply: a timeout, a shutdown. `next_event` leads to CLOSED.

        Raises LocalProtocolError while a hook waits for its answer.
        """
        if self._pending is not None:
            raise LocalProtocolError(f"the {self._pending.name} hook waits for its answer")
        if not self._closing:
            self._goodbye, self._own_reply = reply, None

    def data_to_send(self) -> bytes:
        """The replies that wait to be sent; they are then forgotten here."""
        data = bytes(self._output)
        self._output.clear()
        return data

    @property
    def peer_has_finished(self) -> bool:
        """Whether the peer has said QUIT or closed its side: it sends nothing more."""
        return self._eof or self._quitting

    # The conversation

    def _converse(self) -> _Script:
        limits, output = self._limits, self._output
        try:
            yield NEED_DATA  # taken by __init__, so that `hang_up` can reach the conversation
            yield from self._ask(hooks.Connect, subject=self._greeting)
            while not self._closing:
                line = self._line()
                if line is None:
                    if self._eof:
                        self._closing = True
                        yield from self._forget_transaction()
                        yield from self._ask(hooks.Disconnect)
                        return
                    yield NEED_DATA
                    continue
                script = self._script(line)
                if script is not None:
                    yield from script
                if len(output) > limits.output:
                    yield DRAIN
                if self._errors > limits.errors and not self._closing:
                    self._say(_TOO_MANY_ERRORS)
                    yield from self._disconnect()
        except _HangUp:
            reply, self._goodbye = self._goodbye, None
            assert reply is not None
            self._say(reply)
            yield from self._disconnect()

    def _line(self) -> bytearray | None:
        """The next command line, without its LF; None if it has not come whole."""
        buffer, limit = self._input, self._limits.command_line
        end = buffer.find(b"\n", self._searched)
        if end < 0:
            if len(buffer) > limit:  # an overlong line is remembered by its length alone
                del buffer[limit:]
            self._searched = len(buffer)
            return None
        line = buffer[:end]
        del buffer[: end + 1]
        self._searched = 0
        return line

    def _script(self, line: bytearray) -> _Script | None:
        """The script for a line, or None if the line has been refused."""
        if len(line) >= self._limits.command_line:
            self._refuse(_LINE_TOO_LONG)
            return None
        if line.find(b"\r") != len(line) - 1 or not line:
            self._refuse(_BARE_LINE_END)
            return None
        verb, blank, argument = line.decode("utf-8", "surrogateescape")[:-1].partition(" ")
        argument = argument.lstrip(" ")
        command = _VERBS.get(verb.upper()) if verb.isascii() else None  # some letters have an ASCII upper case
        if command is None:
            return self._unrecognized(verb.lower(), argument if blank else None)
        out_of_order = ORDER[command][self._state]
        if out_of_order is not None and (command, self._state) not in HOOKS_COME_FIRST:
            self._refuse(out_of_order)
            return None
        return self._SCRIPTS[command](self, argument)

    # One script a command

    def _helo(self, argument: str) -> _Script:
        yield from self._hello(hooks.Helo, hooks.HeloParse, argument)

    def _ehlo(self, argument: str) -> _Script:
        yield from self._hello(hooks.Ehlo, hooks.EhloParse, argument)

    def _hello(self, hook: type[hooks.Helo | hooks.Ehlo], parse_hook: type[hooks.ParseHook], argument: str) -> _Script:
        words: Sequence[str] = parse_words(argument)
        if parse_hook.name in self._wanted:
            parsed = yield from self._pieces(parse_hook, argument)
            if parsed is None:
                return
            answer, pieces = parsed
            words = pieces if answer is OK else words
        if not words or not words[0] or words[0].isdigit():  # a number is no host name (RFC 1123 section 2.1)
            self._refuse(_NO_HOST)
            return
        if self._state in (State.MAIL, State.RCPT):  # RFC 5321 section 4.1.4
            yield from self._forget_transaction()
        result = (yield hook(words[0], tuple(words[1:]))) if hook.name in self._wanted else _NOTHING
        # Composed now, since a plugin may have announced keywords while it was asked.
        keywords = self._offer() if hook is hooks.Ehlo else []
        self._keywords.clear()
        verdict = self._judge(hook.name, result, "\n".join([self._hostname, *keywords]))
        if verdict.close or verdict.reset:
            yield from self._end(verdict)
        if verdict.proceed:
            self._state = State.IDLE
            self._esmtp = hook is hooks.Ehlo

    def _offer(self) -> list[str]:
        keywords = [extension.value for extension in Extension if extension in self._extensions]
        if Extension.SIZE in self._extensions and self._limits.message_size is not None:
            keywords[keywords.index("SIZE")] = f"SIZE {self._limits.message_size}"
        return keywords + self._keywords

    def _mail(self, argument: str) -> _Script:
        yield from self._forget_transaction()
        if (out_of_order := ORDER[Command.MAIL][self._state]) is not None:
            self._refuse(out_of_order)
            return
        if "mail_parse" in self._wanted:
            parsed = yield from self._parsed(hooks.MailParse, "FROM:", argument)
        else:
            parsed = parse_path_argument("FROM:", argument)
        accepted = self._accepted(Command.MAIL, parsed)
        if accepted is None:
            return
        path, parameters = accepted
        self._utf8 = "smtputf8" in parameters
        if "mail_pre" in self._wanted:
            mended = yield from self._mended(hooks.MailPre, path, parameters)
            if mended is None:
                return
            path = mended
        sender = self._mailbox(path)
        if sender is None:
            return
        result = (yield hooks.Mail(sender, parameters)) if "mail" in self._wanted else _NOTHING
        verdict = self._judge("mail", result, sender.path)
        if verdict.proceed:
            self._state = State.MAIL
        elif verdict.close or verdict.reset:
            yield from self._end(verdict)

    def _rcpt(self, argument: str) -> _Script:
        if "rcpt_parse" in self._wanted:
            parsed = yield from self._parsed(hooks.RcptParse, "TO:", argument)
        else:
            parsed = parse_path_argument("TO:", argument)
        accepted = self._accepted(Command.RCPT, parsed)
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
        if recipient == NULL_PATH:
            self._refuse(_NULL_RECIPIENT)
            return
        result = (yield hooks.Rcpt(recipient, parameters)) if "rcpt" in self._wanted else _NOTHING
        verdict = self._judge("rcpt", result, recipient.path)
        if verdict.proceed:
            self._state = State.RCPT
            self._recipients += 1
        elif verdict.close or verdict.reset:
            yield from self._end(verdict)

    def _parsed(
        self, hook: type[hooks.ParseHook], keyword: str, argument: str
    ) -> Generator[Event, _Result, _Parsed | None]:
        """What follows MAIL or RCPT, by a plugin's parser if it has one; None if it has been answered."""
        result = yield from self._pieces(hook, argument)
        if result is None:
            return None
        answer, pieces = result
        if answer is not OK:
            return parse_path_argument(keyword, argument)
        parameters = parse_parameters(pieces[1:])
        return parameters if isinstance(parameters, SyntaxProblem) else (pieces[0] if pieces else "", parameters)

    def _accepted(self, command: Command, parsed: _Parsed | None) -> tuple[str, Parameters] | None:
        """The path and its parameters, if they are good; None if the command has been answered."""
        if parsed is None:
            return None
        problem = parsed if isinstance(parsed, SyntaxProblem) else self._unfit(command, parsed[1])
        if problem is not None:
            self._refuse(problem.reply)
            return None
        assert not isinstance(parsed, SyntaxProblem)
        return parsed

    def _unfit(self, command: Command, parameters: Parameters) -> SyntaxProblem | None:
        """What is wrong with the parameters of a command, or None."""
        if not parameters:
            return None
        size, limit = parameters.get("size"), self._limits.message_size
        problem = check_parameters(command, parameters, self._extensions)
        if problem is None and size and limit is not None and int(size) > limit:
            return SyntaxProblem(_TOO_LARGE)
        return problem

    def _pieces(self, hook: type[hooks.ParseHook], argument: str) -> Generator[Event, _Result, _Result | None]:
        """What a plugin's parser makes of the arguments; None if they have been refused."""
        result = yield hook(argument)
        return result if self._judge(hook.name, result).proceed else None

    def _mended(
        self, hook: type[hooks.MailPre | hooks.RcptPre], path: str, parameters: Parameters
    ) -> Generator[Event, _Result, str | None]:
        """The path as a plugin would have it; None if the command has been answered."""
        answer, texts = result = yield hook(path, parameters)
        if not self._judge(hook.name, result).proceed:
            return None
        return path if answer is not OK else texts[0] if texts else ""

    def _mailbox(self, path: str) -> Mailbox | None:
        """The mailbox in a path; None if it has been refused."""
        mailbox = parse_path(path)
        if isinstance(mailbox, SyntaxProblem):
            self._refuse(mailbox.reply)
        elif not path.isascii() and not self._utf8:
            self._refuse(_NEEDS_SMTPUTF8)
        else:
            return mailbox
        return None

    def _data(self, argument: str) -> _Script:
        if argument.strip():
            self._refuse(_UNKNOWN_ARGUMENT)
            return
        result = (yield hooks.Data()) if "data" in self._wanted else _NOTHING
        out_of_order = ORDER[Command.DATA][self._state]
        if out_of_order is not None and VERDICTS["data"][result[0]].proceed:
            self._refuse(out_of_order)
            return
        verdict = self._judge("data", result)
        if verdict.close or verdict.reset:
            yield from self._end(verdict)
        if not verdict.proceed:
            return
        self.in_content = True
        problem = yield from self._content()
        self.in_content = False
        if self._closing:
            return
        if problem is not None:
            self._say(problem)
            yield from self._forget_transaction()
            return
        protocol = ("UTF8SMTP" if self._utf8 else "ESMTP") if self._esmtp else "SMTP"  # RFC 3848, RFC 6531
        for hook in self._after_content:
            verdict = yield from self._ask(hook, *((protocol,) if hook is hooks.ReceivedLine else ()))
            if not verdict.proceed:
                return

    def _content(self) -> Generator[Event, _Result, Reply | None]:
        """Receive the content; give the reply that refuses it, or None if it is good."""
        reader = ContentReader(self._limits.message_size, self._line_endings)
        header = HeaderSplitter(self._limits.header_size)
        problem: Reply | None = None
        while True:
            data, mark = reader.read(self._input)
            problem = problem or _REFUSED_CONTENT.get(mark)
            if data and not header.ended:
                part, data = header.split(data)
                if part:
                    yield Content(part, in_header=True)
                if header.too_large:
                    problem = _HEADER_TOO_LARGE
                    reader.discard()
                elif header.ended:
                    problem = (yield from self._headers_end()) or problem
                    if self._closing:
                        return None
            if data:
                yield Content(data)
            if mark is Mark.END:
                break
            if mark is Mark.BARE_DOT:
                self._say(_OUT_OF_STEP)
                yield from self._disconnect()
                return None
            if mark is Mark.MORE:
                if self._eof:
                    return _CUT_OFF
                yield NEED_DATA
        if problem is None and not header.ended:
            problem = yield from self._headers_end()
        return problem

    def _headers_end(self) -> Generator[Event, _Result, Reply | None]:
        """Ask at the end of the header; give what is to be said when the content has ended."""
        if "data_headers_end" not in self._wanted:
            return None
        answer, texts = result = yield hooks.DataHeadersEnd()
        verdict = VERDICTS["data_headers_end"][answer]
        if verdict.reply is not None and not verdict.close:
            return replace(verdict.reply, text="\n".join(texts)) if texts and verdict.plugin_text else verdict.reply
        self._judge("data_headers_end", result)
        if verdict.close:
            yield from self._disconnect()
        return None

    def _unrecognized(self, word: str, rest: str | None) -> _Script:
        if self._count_error():
            yield from self._ask(hooks.UnrecognizedCommand, word, rest)

    def _rset(self, argument: str) -> _Script:
        del argument  # tolerated, as in the original
        self._say(_RESET)
        yield from self._forget_transaction()

    def _noop(self, argument: str) -> _Script:
        del argument
        yield from self._ask(hooks.Noop)

    def _vrfy(self, argument: str) -> _Script:
        del argument
        yield from self._ask(hooks.Vrfy)

    def _help(self, argument: str) -> _Script:
        yield from self._ask(hooks.Help, argument or None)

    def _quit(self, argument: str) -> _Script:
        del argument
        self._quitting = not self._input  # who sends more behind QUIT is still sending
        yield from self._ask(hooks.Quit)

    _SCRIPTS: ClassVar[Mapping[Command, Callable[..., _Script]]] = {
        Command.HELO: _helo,
        Command.EHLO: _ehlo,
        Command.MAIL: _mail,
        Command.RCPT: _rcpt,
        Command.DATA: _data,
        Command.RSET: _rset,
        Command.NOOP: _noop,
        Command.QUIT: _quit,
        Command.VRFY: _vrfy,
        Command.HELP: _help,
    }

    # Steps the scripts share

    def _ask(self, hook: type[Hook], *arguments: object, subject: str = "") -> Generator[Event, _Result, Verdict]:
        """Ask a hook if the driver wants it, and carry out what its answer means."""
        result = (yield hook(*arguments)) if hook.name in self._wanted else _NOTHING
        verdict = self._judge(hook.name, result, subject)
        if verdict.close or verdict.reset:
            yield from self._end(verdict)
        return verdict

    def _judge(self, hook: str, result: _Result, subject: str = "") -> Verdict:
        """What an answer means; the reply is said, the rest is for the caller to carry out."""
        answer, texts = result
        verdict = VERDICTS[hook][answer]
        reply, own = verdict.reply, self._own_reply
        if own is not None and verdict.own_reply:
            self._say(own)
        elif reply is not None:
            if texts and verdict.plugin_text:
                text = "\n".join(texts)
            else:
                text = reply.text.replace("%s", subject) if subject else reply.text
            self._output += encode_reply(reply.code, reply.enhanced, text, self._enhanced, self._utf8)
        return verdict

    def _end(self, verdict: Verdict) -> _Script:
        if verdict.close:
            yield from self._disconnect()
        else:
            yield from self._forget_transaction()

    def _forget_transaction(self) -> _Script:
        yield from self._ask(hooks.ResetTransaction)
        if self._state is not State.START:
            self._state = State.IDLE
        self._recipients = 0
        self._utf8 = False

    def _disconnect(self) -> _Script:
        self._closing = True
        self._input.clear()
        yield from self._ask(hooks.Disconnect)
        yield from self._forget_transaction()

    def _refuse(self, reply: Reply) -> None:
        if self._count_error():
            self._say(reply)

    def _count_error(self) -> bool:
        """Count a refused command; false if it is one too many, which is answered 421 instead."""
        self._errors += 1
        return self._errors <= self._limits.errors

    def _say(self, reply: Reply) -> None:
        self._output += encode_reply(reply.code, reply.enhanced, reply.text, self._enhanced, self._utf8)


class _HangUp(Exception):  # noqa: N818 - no error
    """Thrown into the conversation by `Server.hang_up`."""
