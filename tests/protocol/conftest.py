"""A driver for `Server` that keeps everything, and the inputs that several tests share."""

import re
from collections.abc import Callable, Iterable, Mapping

from hypothesis import strategies as st

from qpsmtpd.protocol import (
    CLOSED,
    DONE,
    DRAIN,
    FAILED,
    NEED_DATA,
    OK,
    Answer,
    Authentication,
    Content,
    Event,
    Hook,
    Reply,
    Security,
    Server,
    StartTls,
    XClient,
    hooks,
    parse_reply,
)

AUTH_HOOKS = {name for name in hooks.HOOKS if name.startswith("auth")}
SESSION_HOOKS = {"post-fork", "pre-connection", "post-connection", "deny", "ok", "config", "user_config", "logging"}
"""The hooks that the protocol never asks."""

ASKED = frozenset(hooks.HOOKS) - SESSION_HOOKS - AUTH_HOOKS
"""The hooks that `Server` asks of a client that does not authenticate."""

ANSWERS = (*hooks.ReturnCode, FAILED)

EHLO = b"EHLO client.example\r\n"
MAIL = b"MAIL FROM:<sender@example.org>\r\n"
RCPT = b"RCPT TO:<rcpt@example.net>\r\n"
DATA = b"DATA\r\n"
BODY = b"Subject: test\r\n\r\nHello\r\n"
MESSAGE = BODY + b".\r\n"
QUIT = b"QUIT\r\n"
TRANSACTION = MAIL + RCPT + DATA

_REPLY = re.compile(rb"(?:[0-9]{3}-[^\r\n]*\r\n)*[0-9]{3}(?: [^\r\n]*)?\r\n")


def split_replies(data: bytes) -> list[Reply]:
    """The replies in what a server sent; anything else in there is an error."""
    found = _REPLY.findall(data)
    assert b"".join(found) == data
    return [parse_reply(reply) for reply in found]


class Driver:
    """Drives a `Server` as a transport would, and keeps what comes out of it.

    `answers` gives an answer, or an answer and texts, for a hook by its name; or it is called
    with the server and the hook. Without it, every recipient and every message is accepted.
    """

    def __init__(
        self,
        *chunks: bytes,
        asked: Iterable[str] = ASKED,
        answers: Mapping[str, Answer | tuple] | Callable[[Server, Hook], None] | None = None,
        security: Security | None = None,
        **settings,
    ):
        self.server = Server(hooks=asked, **settings)
        if security is not None:
            self.server.secure(security)
        self.answers = answers if callable(answers) else {"rcpt": OK, "queue": (OK, "queued")} | (answers or {})
        self.events: list[Event] = []
        self.output = b""
        self.closed = False
        self.handshake: Security | None = None
        """What comes of a TLS handshake; None: it fails."""
        self._run()
        self.send(*chunks)

    def send(self, *chunks: bytes) -> list[Reply]:
        """Send chunks as the client; the replies to them."""
        before = len(self.output)
        for chunk in filter(None, chunks):
            self.server.receive_data(chunk)
            self._run()
        return split_replies(self.output[before:])

    def code(self, *chunks: bytes) -> int:
        """Send chunks that are one command; the code of the one reply to it."""
        (reply,) = self.send(*chunks)
        return reply.code

    def eof(self) -> list[Reply]:
        """Close the client's side; the replies to that."""
        before = len(self.output)
        self.server.receive_data(b"")
        self._run()
        return split_replies(self.output[before:])

    def hang_up(self, reply: Reply) -> list[Reply]:
        """Hang up as a driver does after a timeout; the replies to that."""
        before = len(self.output)
        self.server.hang_up(reply)
        self._run()
        return split_replies(self.output[before:])

    @property
    def replies(self) -> list[Reply]:
        """All replies so far, the greeting among them."""
        return split_replies(self.output)

    @property
    def names(self) -> list[str]:
        """The names of the hooks that were asked, in order."""
        return [event.name for event in self.events if isinstance(event, Hook)]

    @property
    def contents(self) -> list[bytes]:
        """The message contents; pieces without a hook between them are one."""
        return [event.data for event in self.events if isinstance(event, Content)]

    def asked(self, name: str) -> list[Hook]:
        """What was asked under this name."""
        return [event for event in self.events if isinstance(event, Hook) and event.name == name]

    def _run(self) -> None:
        while (event := self.server.next_event()) is not NEED_DATA:
            self.output += self.server.data_to_send()
            if isinstance(event, Hook):
                self.events.append(event)
                self._answer(event)
            elif isinstance(event, Content):
                self._keep(event)
            elif isinstance(event, Authentication | XClient):
                self.events.append(event)
            elif isinstance(event, StartTls):
                self.events.append(event)
                if self.handshake is None:
                    self.server.receive_data(b"")
                else:
                    self.server.secure(self.handshake)
            elif event is CLOSED:
                self.closed = True
                return
            else:
                assert event is DRAIN
        self.output += self.server.data_to_send()

    def _keep(self, content: Content) -> None:
        assert content.data, "an empty piece of content says nothing"
        if self.events and isinstance(last := self.events[-1], Content) and last.in_header is content.in_header:
            content = Content(self.events.pop().data + content.data, content.in_header)
        self.events.append(content)

    def _answer(self, hook: Hook) -> None:
        if callable(self.answers):
            self.answers(self.server, hook)
            return
        answer = self.answers.get(hook.name, hooks.ReturnCode.DECLINED)
        code, *texts = answer if isinstance(answer, tuple) else (answer,)
        if code is FAILED:
            self.server.fail()
        else:
            self.server.answer(code, *texts)


def respond(name: str, answer: Answer, *reply: object) -> Callable[[Server, Hook], None]:
    """Answers in which one hook prepares a reply of its own; the others accept."""

    def answers(server: Server, hook: Hook) -> None:
        if hook.name == name:
            server.respond(*reply)
            server.fail() if answer is FAILED else server.answer(answer)
        else:
            server.answer(OK if hook.name in {"rcpt", "queue"} else hooks.ReturnCode.DECLINED)

    return answers


def singly(data: bytes) -> list[bytes]:
    """The data byte by byte."""
    return [data[n : n + 1] for n in range(len(data))]


LINES = st.sampled_from(
    [
        EHLO,
        b"HELO client.example\r\n",
        b"EHLO\r\n",
        MAIL,
        b"MAIL FROM:<>\r\n",
        b"MAIL FROM:<\xc3\xbc@\xc3\xa4.example> SMTPUTF8\r\n",
        b'MAIL FROM:<"\xff\x07"@example.org> SMTPUTF8\r\n',
        b"MAIL FROM:<a@b> SIZE=99999999 BODY=8BITMIME X=\x9b\r\n",
        RCPT,
        b"RCPT TO:<>\r\n",
        b"RCPT TO:<nowhere\r\n",
        DATA,
        MESSAGE,
        BODY,
        b".\r\n",
        b"..stuffed\r\n",
        b"\r\n",
        b"bare\nlf\r\n",
        b"\n.\n",
        b"bare\rcr\r\n",
        b"RSET\r\n",
        b"NOOP\r\n",
        b"VRFY someone\r\n",
        b"HELP me\r\n",
        b"B\xc3\xa4H \x00\x1b[2J\xc2\x85\xe2\x80\xa8\r\n",
        b"X" * 90 + b"\r\n",
        QUIT,
    ]
)

STREAMS = st.lists(st.one_of(LINES, LINES, LINES, st.binary(max_size=12)), max_size=24).map(b"".join) | st.tuples(
    st.sampled_from([EHLO + TRANSACTION, EHLO + MAIL + RCPT, EHLO]), st.lists(LINES, max_size=16).map(b"".join)
).map(b"".join)
"""What a client might send, sensible or not."""

TEXTS = st.text(max_size=30) | st.sampled_from(
    ["", "2.0.0 fine", "5.7.1 no", "x" * 600, "two\nlines", "\r\n250 OK", "<x@y>"]
)


@st.composite
def plugins(draw, *, answers: Iterable[Answer] = ANSWERS):
    """The hooks that are asked, and answers to them: the same at every run of the session."""
    asked = draw(st.sets(st.sampled_from(sorted(ASKED))))
    unkind = st.tuples(st.sampled_from(list(answers)), TEXTS)
    drawn = draw(
        st.lists(st.just((OK, "fine")) | st.just((hooks.ReturnCode.DECLINED, "")) | unkind, min_size=1, max_size=12)
    )
    announced = draw(st.booleans())

    def settle():
        count = 0

        def answer(server: Server, hook: Hook) -> None:
            nonlocal count
            code, text = drawn[count % len(drawn)]
            count += 1
            if code is DONE:
                server.respond(299, text)
            if announced and hook.name == "ehlo":
                server.announce("X-ANNOUNCED")
            if code is FAILED:
                server.fail()
            elif hook.name in {"mail_pre", "rcpt_pre"} and code is OK and text == "fine":
                server.answer(OK, hook.path)
            elif hook.name in {"mail_parse", "rcpt_parse"} and code is OK and text == "fine":
                server.answer(OK, hook.argument.partition(":")[2])
            else:
                server.answer(code, *([text] if text else []))

        return answer

    return asked, settle
