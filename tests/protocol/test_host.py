"""A host in place of a driver: it is asked the same, is told what has come of it, and the client sees no difference."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.protocol.conftest import ANSWERS, ASKED, BODY, EHLO, MAIL, MESSAGE, QUIT, RCPT, TRANSACTION, Driver

from qpsmtpd.protocol import (
    DEFAULT_EXTENSIONS,
    FAILED,
    OK,
    Authentication,
    Content,
    Extension,
    HangUp,
    Host,
    Reply,
    Security,
    Server,
    StartTls,
    hooks,
)

TLS = Security("TLSv1.3", "TLS_AES_256_GCM_SHA384")
MORE = "more, please"
DECIDING = {name for name in ASKED if not name.endswith(("_parse", "_pre"))}

COMMANDS = [
    EHLO,
    b"HELO client.example\r\n",
    MAIL,
    RCPT,
    TRANSACTION + MESSAGE,
    b"DATA\r\n",
    MESSAGE,
    b"BDAT 3\r\na\r\n",
    b"BDAT %d LAST\r\n" % len(BODY) + BODY,
    b"RSET\r\n",
    b"NOOP\r\n",
    b"VRFY\r\n",
    b"HELP\r\n",
    b"WHAT ever\r\n",
    b"STARTTLS\r\n",
    b"AUTH PLAIN AGEAYg==\r\n",
    b"AUTH LOGIN\r\nYQ==\r\nYg==\r\n",
    b"bare\n",
    QUIT,
]


class Direct(Host):
    """Answers at once, and keeps what it has heard."""

    def __init__(self, answers):
        self._answers = answers
        self.asked, self.contents, self.news, self.told = [], [], [], []
        self.goodbye = None
        self.server = None

    def ask(self, hook):
        self.asked.append(hook)
        answer = self._answers.get(hook.name, OK)
        return (answer, () if answer is FAILED else (f"about {hook.name}",), None)
        yield

    def receive(self):
        yield MORE
        if self.goodbye is not None:
            raise HangUp(self.goodbye)

    def drain(self):
        return
        yield

    def content(self, data, *, in_header):
        self.contents.append((data, in_header))
        return ()

    def tell(self, news):
        self.news.append(news)
        if isinstance(news, StartTls):
            self.server.secure(TLS)
        return
        yield

    def connected(self):
        self.told.append("connected")

    def greeted(self, hello):
        self.told.append(hello.host)

    def sender_accepted(self, sender, parameters):
        self.told.append(sender.path)

    def recipient_accepted(self, recipient, parameters):
        self.told.append(recipient.path)

    def header_ended(self):
        self.told.append("header")

    def content_ended(self, line, result):
        self.told.append(line.protocol)

    def transaction_ended(self):
        self.told.append("over")


class Talk:
    """A server with such a host, driven by its conversation."""

    def __init__(self, *chunks, asked=ASKED, answers=None, **settings):
        self.host = Direct(answers or {})
        self.server = self.host.server = Server(hooks=asked, host=self.host, **settings)
        self.closed = False
        self._go()
        self.send(*chunks)

    def send(self, *chunks):
        for chunk in chunks:
            if not self.closed:
                self.server.receive_data(chunk)
                self._go()

    def _go(self):
        for wanted in self.server.conversation:
            assert wanted == MORE
            return
        self.closed = True


def by_events(chunks, asked, answers, settings):
    def answer(server, hook):
        code = answers.get(hook.name, OK)
        if code is FAILED:
            server.fail()
        else:
            server.answer(code, f"about {hook.name}")

    driver = Driver(asked=asked, answers=answer, **settings)
    driver.handshake = TLS
    for chunk in chunks:
        if not driver.closed:
            driver.send(chunk)
    return driver


@given(
    st.lists(st.sampled_from(COMMANDS), max_size=12),
    st.dictionaries(st.sampled_from(sorted(hooks.HOOKS)), st.sampled_from(ANSWERS), max_size=5),
    st.sets(st.sampled_from(sorted(ASKED | {"auth", "auth-plain"}))),
    st.booleans(),
)
def test_a_host_and_a_driver_hear_the_same(chunks, answers, asked, lmtp):
    settings = {
        "lmtp": lmtp,
        "auth_in_clear": True,
        "extensions": DEFAULT_EXTENSIONS | {Extension.STARTTLS},
    }
    pulled = by_events(chunks, asked, answers, settings)
    called = Talk(*chunks, asked=asked, answers=answers, **settings)
    assert called.server.data_to_send() == pulled.output
    assert called.closed == pulled.closed
    assert called.host.asked == [event for event in pulled.events if isinstance(event, hooks.Hook)]
    assert called.host.contents == [(e.data, e.in_header) for e in pulled.events if isinstance(e, Content)]
    assert called.host.news == [e for e in pulled.events if isinstance(e, StartTls | Authentication)]


def test_a_host_is_told_what_has_come_of_each_step():
    talk = Talk(EHLO, TRANSACTION + MESSAGE, MAIL, asked=DECIDING)
    sender, recipient = "<sender@example.org>", "<rcpt@example.net>"
    message = ["over", sender, recipient, "header", "ESMTP", "over"]
    assert talk.host.told == ["connected", "client.example", *message, "over", sender]


@pytest.mark.parametrize("hook", ["connect", "ehlo", "mail", "rcpt", "received_line"])
def test_what_is_refused_is_not_told(hook):
    told = {"connect": "connected", "ehlo": "client.example", "mail": "<sender@example.org>"}
    told |= {"rcpt": "<rcpt@example.net>", "received_line": "ESMTP"}
    for answer, expected in ((OK, True), (FAILED, False)):
        talk = Talk(EHLO, TRANSACTION + MESSAGE, asked=DECIDING, answers={hook: answer})
        assert (told[hook] in talk.host.told) is expected


def test_a_host_hangs_up_where_it_is_asked_for_bytes():
    talk = Talk(EHLO)
    talk.server.data_to_send()
    talk.host.goodbye = Reply(421, "4.4.2", "Timeout")
    talk.send(b"NO")
    assert talk.closed
    assert talk.server.data_to_send() == b"421 4.4.2 Timeout\r\n"
    assert talk.host.asked[-2:] == [hooks.Disconnect(), hooks.ResetTransaction()]
