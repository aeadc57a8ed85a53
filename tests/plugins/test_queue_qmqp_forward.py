"""What `queue/qmqp-forward` sends, and what it makes of the answer."""

import contextlib
import socket
import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.plugins.conftest import Base

from qpsmtpd import Mailbox, Plugin
from qpsmtpd.config import ConfigError
from qpsmtpd.testing import Kit

CONTENT = b"Subject: to be passed on\r\n\r\n..two dots\r\n.\r\n\xff\r\n"


def netstring(data):
    return b"%d:%b," % (len(data), data)


def take_netstring(data):
    """A netstring off the front of some bytes, and what follows it."""
    length, colon, rest = data.partition(b":")
    assert colon
    assert length.isdigit()
    assert str(int(length)).encode() == length
    size = int(length)
    assert rest[size : size + 1] == b","
    return rest[:size], rest[size + 1 :]


class Qmqp:
    """A server that reads one package of each client, and answers with what it is told."""

    def __init__(self, answer):
        self.answer, self.packages = answer, []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _serve(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                connection.settimeout(20)
                with connection, contextlib.suppress(OSError, ValueError):
                    self._talk(connection)

    def _talk(self, connection):
        with connection.makefile("rb") as file:
            length = b""
            while not length.endswith(b":"):
                length += file.read(1) or b":"
            package = file.read(int(length[:-1]) + 1)
            self.packages.append(length + package)
            if self.answer is None:
                connection.recv(1)  # waits for the client's end
            else:
                connection.sendall(self.answer)

    def messages(self):
        """Of each package the message and the addresses."""
        for package in self.packages:
            inner, rest = take_netstring(package)
            assert rest == b""
            parts = []
            while inner:
                part, inner = take_netstring(inner)
                parts.append(part)
            yield parts


@pytest.fixture
def server():
    with contextlib.ExitStack() as stack:
        yield lambda answer: stack.enter_context(Qmqp(answer))


def deliver(stage, *recipients, content=CONTENT, sender="a@x.example"):
    return stage.connect().deliver(content, sender=sender, recipients=recipients or ("b@example.org",))[-1]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ("", "no server"),
        ("x 0", "no port"),
        ("/run/x", "no host"),
        ("x tls yes", "unknown"),
        ("x timeout x", "above 0"),
    ],
)
def test_arguments_that_make_no_sense_are_errors(kit, arguments, why):
    with pytest.raises(ConfigError, match=why):
        kit(f"queue/qmqp-forward {arguments}")


@pytest.mark.parametrize("more", [{}, {"config": {"size_threshold": ["1000"]}}])
@pytest.mark.parametrize("lines", [1, 100_000])
def test_a_message_is_sent_with_its_addresses_and_with_line_feeds(kit, server, lines, more):
    to, content = server(netstring(b"Kok 1234")), CONTENT * lines
    stage = kit(f"queue/qmqp-forward localhost {to.port}", **more)
    reply = deliver(stage, "b@example.org", "c@example.org", "b@example.org", content=content, sender="")
    assert (reply.code, reply.text) == (250, "Queued! ok 1234")
    assert stage.logged(f"pass, localhost:{to.port}: ok 1234")
    ((message, *addresses),) = to.messages()
    assert message.endswith(b"\n" + content.replace(b"\r\n", b"\n"))
    assert message.startswith(b"Authentication-Results: ")
    assert b"\r" not in message
    assert addresses == [b"", b"b@example.org", b"c@example.org"]


@pytest.mark.parametrize(
    ("answer", "code", "text"),
    [
        (netstring(b"Dno such user"), 552, "Refused by the next server: no such user"),
        (netstring(b"Zdisk full"), 452, "Refused for now by the next server: disk full"),
        (netstring(b"K"), 250, "Queued! "),
        (netstring(b"D" + b"x" * 60_000), 552, "Refused by the next server: " + "x" * 300),
        (netstring(b"Da\r\n\0\xffb"), 552, None),
    ],
)
def test_an_answer_is_told_with_its_text(kit, server, answer, code, text):
    reply = deliver(kit(f"queue/qmqp-forward localhost {server(answer).port}"))
    assert reply.code == code
    assert text is None or reply.text == text


HOSTILE = [
    *(b"", b"K", b"1:K", b"1:Kx", b"0:,", b"01:K,", b"-1:K,", b"+1:K,", b"1 :K,", b"2:K,", b":K,", b"250 OK\r\n"),
    *(b"99999999999999999999:K", b"70000:K" + b"x" * 69_999 + b",", b"x" * 100_000, netstring(b"X?"), netstring(b"ko")),
]


@pytest.mark.parametrize("answer", HOSTILE)
def test_what_is_no_answer_is_a_temporary_problem(kit, server, answer):
    to = server(answer)
    stage = kit(f"queue/qmqp-forward localhost {to.port}")
    assert deliver(stage).code == 452
    assert stage.logged(f"error, localhost:{to.port}: ")
    assert len(to.packages) == 1


def test_a_late_server_and_a_missing_one_are_temporary_problems(kit, server):
    stage = kit(f"queue/qmqp-forward localhost {server(None).port} timeout 0.1")
    assert deliver(stage).code == 452
    with Qmqp(b"") as gone:
        pass
    stage = kit(f"queue/qmqp-forward localhost {gone.port}")
    assert deliver(stage).code == 452
    assert stage.logged("Connection refused")


@pytest.mark.parametrize("mail", ["BODY=BINARYMIME", "BY=100;R"])
def test_what_qmqp_cannot_carry_is_refused(kit, server, mail):
    to = server(netstring(b"Kok"))
    stage = kit(f"queue/qmqp-forward localhost {to.port}", config={"extensions": ["BINARYMIME", "DELIVERBY"]})
    client = stage.connect()
    client.send(b"EHLO client.example\r\n")
    client.say(f"MAIL FROM:<a@x.example> {mail}")
    client.say("RCPT TO:<b@x.example>")
    assert client.send(b"BDAT 2 LAST\r\n\r\n").startswith(b"552 5.")
    assert not to.packages


class Odd(Plugin):
    envelope = (Mailbox("a", "x.example"), [])

    def hook_queue_pre(self, transaction):
        transaction.sender, recipients = Odd.envelope
        transaction.remove_recipient(Mailbox("b", "example.org"))
        for recipient in recipients:
            transaction.add_recipient(recipient)


TEXT = st.text(st.characters(codec=None) | st.sampled_from("\r\n\0,:1\udc80\ud800"), max_size=6)
MAILBOXES = st.builds(Mailbox, TEXT, st.none() | TEXT)
LINES = st.lists(st.sampled_from([b"", b".", b"1:x,", b"\xff"])).map(
    lambda lines: b"".join(b"%b\r\n" % x for x in lines)
)


@given(MAILBOXES, st.lists(MAILBOXES, min_size=1, max_size=3, unique=True), LINES)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_package_is_read_as_it_was_meant_whatever_is_in_it(sender, recipients, body):
    Odd.envelope = sender, recipients
    with Qmqp(netstring(b"Kok")) as to:
        stage = Kit(Odd, f"queue/qmqp-forward localhost {to.port}", Base)
        reply = deliver(stage, content=b"Subject: x\r\n\r\n" + body)
        if reply.code == 552:
            assert any(not address.isprintable() for address in (each.address for each in (sender, *recipients)))
            assert not to.packages
        else:
            assert reply.code == 250
            ((message, *addresses),) = to.messages()
            assert message.endswith(b"\n\n" + body.replace(b"\r\n", b"\n"))
            assert addresses == [mailbox.address.encode() for mailbox in (sender, *recipients)]
