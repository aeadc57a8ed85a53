"""How a server converses: lines in, questions asked, replies out. It knows no command.

The conversation is a generator, which turns to its `Host` for all that it needs. Here are the
steps that all commands share; `server` has a script for each command. And here are the plain
methods for a driver that pulls: `next_event` resumes the conversation up to the next event,
with the answer to the last one if that was a hook.
"""

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from qpsmtpd.protocol import hooks
from qpsmtpd.protocol.errors import LocalProtocolError
from qpsmtpd.protocol.events import CLOSED, Event
from qpsmtpd.protocol.hooks import Hook
from qpsmtpd.protocol.host import NOTHING, Events, HangUp, Host, Result, Steps
from qpsmtpd.protocol.limits import Limits
from qpsmtpd.protocol.replies import Reply, encode_reply
from qpsmtpd.protocol.returncodes import ReturnCode
from qpsmtpd.protocol.security import Security
from qpsmtpd.protocol.state import State
from qpsmtpd.protocol.verdicts import FAILED, VERDICTS, Verdict

__all__ = ["BARE_LINE_END", "Conversation", "Script", "own_reply"]

Script = Steps[None]
"""What a server does at a command."""

_EVENTS = Events()

BARE_LINE_END = Reply(500, "5.5.2", "A command line ends with CRLF and holds no other CR or LF")
_TOO_MANY_ERRORS = Reply(421, "4.7.0", "Too many errors")
_START, _IDLE = State.START, State.IDLE  # reading a member off its class costs as much as a call in Python 3.11
_RESET_TRANSACTION = hooks.ResetTransaction()


class Conversation:
    """One session, seen from the server, without I/O, and without the commands.

    Feed it with `receive_data`, take what it asks from `next_event`, answer hooks, and send
    what `data_to_send` gives. What a peer does wrong becomes a reply; only misuse by the
    driver raises `LocalProtocolError`.
    """

    # An instance with more than 30 attributes is slower in all of them, as CPython shares no more names.
    __slots__ = (
        "_answer",
        "_closing",
        "_enhanced",
        "_eof",
        "_errors",
        "_goodbye",
        "_greeting",
        "_host",
        "_hostname",
        "_input",
        "_limits",
        "_output",
        "_own_reply",
        "_pending",
        "_quitting",
        "_searched",
        "_shaking_hands",
        "_state",
        "_utf8",
        "_wanted",
        "conversation",
        "in_content",
        "security",
    )

    def __init__(
        self,
        hooks: Iterable[str],
        hostname: str,
        greeting: str,
        limits: Limits | None,
        *,
        enhanced: bool,
        host: Host | None,
    ) -> None:
        self._host = host or _EVENTS
        self._wanted = _checked(frozenset(hooks))
        self._hostname = hostname
        self._greeting = greeting
        self._limits = limits or Limits()
        self._enhanced = enhanced

        self._input: bytearray = bytearray()
        self._output: bytearray = bytearray()
        self._eof = False
        self._closing = False
        self._quitting = False
        self._pending: Hook | None = None
        self._answer = NOTHING
        self._own_reply: Reply | None = None
        self._goodbye: Reply | None = None
        self._searched = 0  # octets at the start of the input known to hold no LF
        self._shaking_hands = False  # the driver is busy with a TLS handshake
        self.in_content = False
        """Whether message content is being received, which may take longer than a command."""
        self.security: Security | None = None
        """What the driver has said about the encryption of the connection."""

        self._state = State.START
        self._errors = 0
        self._utf8 = False  # whether replies may hold more than ASCII

        self.conversation = self._converse()
        """The whole of it as a generator, which yields what the host does. Who has given a host runs this, and has
        no use for `next_event`, `answer`, `fail`, `respond` and `hang_up`.
        """
        next(self.conversation)

    # The driver's side

    def receive_data(self, data: bytes | bytearray | memoryview) -> None:
        """Take bytes from the peer; empty bytes say that it has closed its side.

        Call this when `next_event` has given `NEED_DATA`; what is given at once is the bound
        of the input buffer. Raises LocalProtocolError for data after the end, and between
        `StartTls` and `secure`.
        """
        if not data:
            self._eof, self._shaking_hands = True, False
        elif self._eof:
            raise LocalProtocolError("data after the end of file")
        elif self._shaking_hands:
            raise LocalProtocolError("data in clear during the TLS handshake")
        elif not self._closing:
            self._input += data

    def next_event(self) -> Event:
        """Go on with the conversation up to the next event.

        Raises LocalProtocolError while a hook waits for its answer, or TLS for its handshake.
        """
        if self._pending is not None or self._shaking_hands:
            self._check_idle()
        answer, self._answer = self._answer, NOTHING
        event: Event
        try:
            if self._goodbye is not None:
                goodbye, self._goodbye = self._goodbye, None
                event = self.conversation.throw(HangUp(goodbye))
            else:
                event = self.conversation.send(answer)
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
        self._answer = code, texts, self._own_reply

    def fail(self) -> None:
        """Say that the hook that was asked could not be answered; the client is told 451.

        Raises LocalProtocolError if no hook was asked.
        """
        if self._pending is None:
            raise LocalProtocolError("no hook was asked")
        self._pending = None
        self._answer = FAILED, (), self._own_reply

    def respond(self, code: int, *lines: str) -> None:
        """Prepare the plugin's own reply to the pending hook; it is sent if the answer is DONE.

        A command has one reply: of several, the last is sent. Raises LocalProtocolError if no
        hook was asked, and ValueError for an impossible code.
        """
        if self._pending is None:
            raise LocalProtocolError("no hook was asked")
        self._own_reply = own_reply(code, lines)

    def secure(self, security: Security) -> None:
        """Say that the connection is encrypted: in answer to `StartTls`, or before the first event.

        Raises LocalProtocolError at any other time.
        """
        if not self._shaking_hands and (self._output or self._input or self._state is not State.START):
            raise LocalProtocolError("TLS begins before the session, or in answer to StartTls")
        self.security, self._shaking_hands = security, False

    def hang_up(self, reply: Reply) -> None:
        """End the session with this reply: a timeout, a shutdown. `next_event` leads to CLOSED.

        Raises LocalProtocolError while a hook waits for its answer, or TLS for its handshake.
        """
        self._check_idle()
        if not self._closing:
            self._goodbye = reply

    def data_to_send(self) -> bytes:
        """The replies that wait to be sent; they are then forgotten here."""
        output = self._output
        if not output:
            return b""
        data = bytes(output)
        output.clear()
        return data

    @property
    def unread(self) -> bytes:
        """What the peer has sent, and the conversation has not come to yet."""
        return bytes(self._input)

    @property
    def peer_has_finished(self) -> bool:
        """Whether the peer has said QUIT or closed its side: it sends nothing more."""
        return self._eof or self._quitting

    def _check_idle(self) -> None:
        if self._pending is not None:
            raise LocalProtocolError(f"the {self._pending.name} hook waits for its answer")
        if self._shaking_hands:
            raise LocalProtocolError("the TLS handshake is not over; call secure() or receive_data(b'')")

    # The conversation

    def _converse(self) -> Script:
        limits, input_, output = self._limits, self._input, self._output
        try:
            yield  # taken by __init__, so that `hang_up` can reach the conversation
            yield from self._connect()
            while not self._closing:
                line = self._line(limits.command_line) if input_ else None
                if line is None:
                    if self._eof:
                        self._closing = True
                        yield from self._forget_transaction()
                        yield from self._ask(hooks.Disconnect)
                        return
                    yield from self._host.receive()
                    continue
                yield from self._script(line)
                if len(output) > limits.output:
                    yield from self._host.drain()
                if self._errors > limits.errors and not self._closing:
                    self._say(_TOO_MANY_ERRORS)
                    yield from self._disconnect()
        except HangUp as goodbye:
            if not self._closing:
                self._say(goodbye.reply)
                yield from self._disconnect()
        finally:
            del self._host  # it may know this conversation, too

    def _script(self, line: bytearray) -> Iterable[Any]:
        """The script for a line, nothing if the line has been refused."""
        raise NotImplementedError

    def _line(self, limit: int) -> bytearray | None:
        """The next line, without its LF; None if it has not come whole."""
        buffer = self._input
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

    # Steps the scripts share

    def _connect(self) -> Script:
        """Meet a client."""
        result = (yield from self._host.ask(hooks.Connect())) if "connect" in self._wanted else NOTHING
        verdict = self._judge("connect", result, self._greeting)
        if verdict.proceed:
            self._host.connected()
        if verdict.close or verdict.reset:
            yield from self._end(verdict)

    def _ask(self, hook: type[Hook], *arguments: object, subject: str = "") -> Script:
        """Ask a hook if the host wants it, and carry out what its answer means."""
        result = (yield from self._host.ask(hook(*arguments))) if hook.name in self._wanted else NOTHING
        verdict = self._judge(hook.name, result, subject)
        if verdict.close or verdict.reset:
            yield from self._end(verdict)

    def _pieces(self, hook: type[hooks.ParseHook], argument: str) -> Steps[Result | None]:
        """What a plugin's parser makes of the arguments; None if they have been refused."""
        result = yield from self._host.ask(hook(argument))
        return result if self._judge(hook.name, result).proceed else None

    def _judge(self, hook: str, result: Result, subject: str = "") -> Verdict:
        """What an answer means; the reply is said, the rest is for the caller to carry out."""
        answer, texts, own = result
        verdict = VERDICTS[hook][answer]
        reply = verdict.reply
        if own is not None and verdict.own_reply:
            self._say(own)
        elif reply is not None:
            text = reply.text
            if texts and verdict.plugin_text:
                text = "\n".join(texts)
            elif subject:
                text = text.replace("%s", subject)
            self._output += encode_reply(reply.code, reply.enhanced, text, self._enhanced, self._utf8)
        return verdict

    def _end(self, verdict: Verdict) -> Iterable[Any]:
        return self._disconnect() if verdict.close else self._forget_transaction()

    def _forget_transaction(self) -> Iterable[Any]:
        if "reset_transaction" in self._wanted:
            return self._ask_and_forget()
        self._start_anew()
        return ()

    def _ask_and_forget(self) -> Script:
        result = yield from self._host.ask(_RESET_TRANSACTION)
        verdict = self._judge("reset_transaction", result)
        if verdict.close or verdict.reset:
            yield from self._end(verdict)
        self._start_anew()

    def _start_anew(self) -> None:
        self._host.transaction_ended()
        if self._state is not _START:
            self._state = _IDLE
        self._clear_transaction()

    def _clear_transaction(self) -> None:
        """Set back what belongs to the mail transaction."""
        raise NotImplementedError

    def _disconnect(self) -> Script:
        self._closing = True
        self._drop_input()
        yield from self._ask(hooks.Disconnect)
        yield from self._forget_transaction()

    def _drop_input(self) -> None:
        self._input.clear()
        self._searched = 0

    def _refuse(self, reply: Reply) -> None:
        if self._count_error():
            self._say(reply)

    def _count_error(self) -> bool:
        """Count a refused command; false if it is one too many, which is answered 421 instead."""
        self._errors += 1
        return self._errors <= self._limits.errors

    def _say(self, reply: Reply) -> None:
        self._output += encode_reply(reply.code, reply.enhanced, reply.text, self._enhanced, self._utf8)


@lru_cache(64)  # the sessions of a server all want the same
def _checked(wanted: frozenset[str]) -> frozenset[str]:
    if unknown := wanted - VERDICTS.keys():
        raise ValueError(f"no such hook: {', '.join(sorted(unknown))}")
    return wanted


def own_reply(code: int, lines: Iterable[str]) -> Reply:
    """The reply that a plugin gives itself. Raises ValueError for an impossible code."""
    if not 200 <= code <= 599:
        raise ValueError(f"not a reply code: {code}")
    return Reply(code, None, "\n".join(lines))
