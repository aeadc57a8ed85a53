"""What `queue/postfix-queue` says to the cleanup service, and what it makes of the answer.

The real service is asked in `tests/peers/test_queues.py`.
"""

import contextlib
import io
import socket
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qpsmtpd import DENY, DENYSOFT, OK, Mailbox, Plugin
from qpsmtpd.config import ConfigError
from qpsmtpd.plugins.queue._cleanup import Answer, content_records, verdict
from qpsmtpd.session.message import Message

GREETING = b"protocol\0cleanup_protocol\0queue_id\0ABC123\0\0"
CONTENT = b"Subject: x\r\nMessage-Id: <id@x>\r\n\r\n.dot\r\n\xff\x00\r\n\r\nlast\r\n"


def answer(status, reason=""):
    return f"status\0{status}\0reason\0{reason}\0\0".encode()


def read_record(file):
    """One record, as Postfix reads it."""
    kind = file.read(1)
    length = shift = 0
    while kind:
        octet = file.read(1)[0]
        length |= (octet & 0x7F) << shift
        shift += 7
        if octet < 0x80:
            break
    return kind.decode(), file.read(length)


class Cleanup:
    """A cleanup service of our own: keeps what it is told, and answers as told."""

    def __init__(self, listener, answer=b"", greeting=GREETING, until=b"E"):
        self.listener, self.answer, self.greeting, self.until = listener, answer, greeting, until
        self.flags = None
        self.records = []

    def serve(self):
        with contextlib.suppress(OSError):  # the listener's end
            while True:
                connection, _ = self.listener.accept()
                # A client may go in the middle of a record.
                with contextlib.suppress(OSError, IndexError), connection, connection.makefile("rb") as file:
                    connection.sendall(self.greeting)
                    self._take(file)
                    connection.sendall(self.answer)

    def _take(self, file):
        if not self.until:
            return
        words = b""
        while not words.endswith(b"\0\0") and (octet := file.read(1)):
            words += octet
        self.flags = words
        self.records = [read_record(file)]
        while self.records[-1][0] not in ("", self.until.decode()):
            self.records.append(read_record(file))

    def of(self, kind):
        return [content for each, content in self.records if each == kind]

    @property
    def content(self):
        """The message that the records hold."""
        return b"".join(content + b"\n" * (kind == "N") for kind, content in self.records if kind in "NL")


@pytest.fixture
def service(tmp_path):
    """Start a cleanup service: `service(answer)` gives it, and its `path`."""
    with contextlib.ExitStack() as stack:
        count = 0

        def start(*args, **options):
            nonlocal count
            path = str(tmp_path / f"s{count}")
            count += 1
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(path)
            listener.listen()
            made = Cleanup(listener, *args, **options)
            made.path = path
            thread = threading.Thread(target=made.serve)
            thread.start()
            stack.callback(thread.join)
            stack.callback(listener.close)
            stack.callback(listener.shutdown, socket.SHUT_RDWR)
            return made

        yield start


def deliver(kit, line, content=CONTENT, *plugins, config=None, mail="", rcpt=""):
    """Send a message to two recipients; give the kit and the last reply."""
    stage = kit(*plugins, line, config=config)
    client = stage.connect()
    client.say("EHLO c.example")
    client.say(f'MAIL FROM:<"a b"@client.example>{mail}')
    client.say(f"RCPT TO:<one@x.example>{rcpt}")
    client.say("RCPT TO:<two@x.example>")
    client.say("DATA")
    stuffed = (b"\r\n" + content).replace(b"\r\n.", b"\r\n..")[2:]
    return stage, client.send(stuffed + b".\r\n")


def test_a_message_is_handed_over_record_by_record(kit, service):
    cleanup = service(answer(0))
    stage, reply = deliver(kit, f"queue/postfix-queue {cleanup.path}")
    assert reply == b"250 2.0.0 Queued! <id@x> (Queue-Id: ABC123)\r\n"
    assert stage.logged("(queue) queue::postfix-queue: pass, queued as ABC123\n")
    assert cleanup.flags == b"flags\x000\0\0"
    kinds = "".join(kind for kind, _ in cleanup.records)
    assert kinds == "TAASRRM" + "N" * kinds.count("N") + "XE"
    assert cleanup.of("T") == [b"1767225600"]
    assert cleanup.of("A") == [b"rewrite_context=remote", b"encoding=8bit"]
    assert cleanup.of("S") == [b"a b@client.example"]
    assert cleanup.of("R") == [b"one@x.example", b"two@x.example"]
    assert cleanup.content.startswith(b"Authentication-Results: ")
    assert b"\nReceived: from c.example " in cleanup.content
    assert cleanup.content.endswith(b"\nSubject: x\nMessage-Id: <id@x>\n\n.dot\n\xff\x00\n\nlast\n")


def test_a_bounce_has_an_empty_sender(kit, service):
    cleanup = service(answer(0))
    kit(f"queue/postfix-queue {cleanup.path}").connect().deliver(sender="")
    assert cleanup.of("S") == [b""]


def test_a_large_message_comes_from_its_spool_file(kit, service):
    cleanup = service(answer(0))
    content = b"Subject: x\r\n\r\n" + b"0123456789\r\n" * 40_000 + b"x" * 100_000 + b"\r\n"
    _, reply = deliver(kit, f"queue/postfix-queue {cleanup.path}", content, config={"size_threshold": ["10000"]})
    assert reply.startswith(b"250")
    assert cleanup.content.endswith(content.replace(b"\r\n", b"\n"))
    assert max(len(content) for _, content in cleanup.records) <= 1024


@given(st.lists(st.binary(max_size=6) | st.sampled_from([b"x" * 1023, b"x" * 1024, b"x" * 1025, b"\n", b"x" * 3000])))
def test_the_records_hold_the_lines_whatever_the_pieces(pieces):
    file = io.BytesIO(b"".join(content_records(pieces)))
    found, record = [], read_record(file)
    while record[0]:
        found.append(record)
        record = read_record(file)
    assert {kind for kind, _ in found} <= {"N", "L"}
    assert all(len(content) <= 1024 and b"\n" not in content for _, content in found)
    data = b"".join(content + b"\n" * (kind == "N") for kind, content in found)
    whole = b"".join(pieces)
    assert data == (whole if whole.endswith(b"\n") or not whole else whole + b"\n")


@pytest.mark.parametrize(
    ("words", "flags"),
    [
        ("", 0),
        ("FLAG_NONE", 0),
        ("FLAG_FILTER FLAG_BCC_OK", 18),
        ("FLAG_MASK_EXTERNAL", 114),
        ("FLAG_MASK_INTERNAL FLAG_HOLD", 36),
        ("FLAG_FILTER_ALL timeout 5", 66),
    ],
)
def test_flags_are_passed_on_by_their_numbers(kit, service, words, flags):
    cleanup = service(answer(0))
    stage, _ = deliver(kit, f"queue/postfix-queue {cleanup.path} {words}")
    assert cleanup.flags == b"flags\0%d\0\0" % flags
    (call,) = stage.calls("queue")
    assert call.code is OK


def test_what_the_client_wants_of_notifications_is_passed_on(kit, service):
    cleanup = service(answer(0))
    deliver(
        kit, f"queue/postfix-queue {cleanup.path}", mail=" RET=HDRS ENVID=a+2Bb BODY=7BIT",
        rcpt=" NOTIFY=SUCCESS,DELAY ORCPT=rfc822;o+2Bo@x.example", config={"extensions": ["DSN"]},
    )  # fmt: skip
    assert cleanup.of("A") == [
        b"rewrite_context=remote", b"encoding=7bit", b"envelope_id=a+b", b"ret_flags=2",
        b"dsn_orig_rcpt=rfc822;o+o@x.example", b"notify_flags=10",
    ]  # fmt: skip
    kinds = "".join(kind for kind, _ in cleanup.records)
    assert kinds.startswith("TAAAASAARRM")


def test_never_to_notify_is_passed_on_too(kit, service):
    cleanup = service(answer(0))
    deliver(kit, f"queue/postfix-queue {cleanup.path}", rcpt=" NOTIFY=NEVER", config={"extensions": ["DSN"]})
    assert cleanup.of("A")[-1] == b"notify_flags=1"


def test_smtputf8_is_passed_on_as_a_flag(kit, service):
    cleanup = service(answer(0))
    stage = kit(f"queue/postfix-queue {cleanup.path}")
    client = stage.connect()
    client.say("EHLO c.example")
    client.say("MAIL FROM:<jos\u00e9@x.example> SMTPUTF8")
    client.say("RCPT TO:<m\u00fcller@x.example>")
    client.say("DATA")
    assert client.say(".").code == 250
    assert cleanup.flags == b"flags\x00256\0\0"
    assert cleanup.of("S") == ["jos\u00e9@x.example".encode()]
    assert cleanup.of("R") == ["m\u00fcller@x.example".encode()]


@pytest.mark.parametrize(
    ("status", "reason", "reply"),
    [
        (1, "", b"452 4.3.0 the queue does not understand this server"),
        (2, "", b"452 4.3.0 the message cannot be written to the queue"),
        (4, "", b"552 5.3.4 the message is too big"),
        (6, "", b"452 4.3.0 the message cannot be written to the queue"),
        (8, "", b"552 5.7.1 the content is not accepted"),
        (8, "5.7.1 no viruses", b"552 5.7.1 no viruses"),
        (8, "550 5.7.1 said by a milter", b"552 5.7.1 said by a milter"),
        (16, "", b"552 5.4.0 too many hops"),
        (64, "", b"552 5.1.0 the message has no recipient"),
        (128, "", b"452 4.3.0 the message cannot be written to the queue"),
        (256, "4.7.1 wait\0", b"452 4.7.1 wait"),
        (256 + 8, "", b"452 4.7.1 not now, please try again later"),
        (512, "", b"552 5.7.1 not allowed"),
        (1024, "", b"452 4.3.0 the queue says no, with status 1024"),
    ],
)
def test_the_status_decides_and_the_reason_is_told(kit, service, status, reason, reply):
    stage, said = deliver(kit, f"queue/postfix-queue {service(answer(status, reason)).path}")
    assert said == reply + b"\r\n"
    assert stage.logged(f"fail, ABC123, status {status}: ")


@given(st.integers(1), st.text())
def test_no_status_but_0_is_a_success(status, reason):
    code, text = verdict(Answer("x", status, reason))
    assert code in (DENY, DENYSOFT)
    assert text


@pytest.mark.parametrize(
    "options",
    [
        {"greeting": b""},
        {"greeting": b"\0"},
        {"greeting": b"x" * 70_000},
        {"greeting": b"a\0b\0" * 50 + b"\0"},
        {"greeting": b"220 mx ESMTP\r\n"},
        {"answer": b""},
        {"answer": b"status\x000"},
        {"answer": b"reason\0none\0\0"},
        {"answer": b"status\0-1\0\0"},
        {"answer": b"status\x00" + b"0" * 5000 + b"\0\0"},
        {"answer": "status\0\u0661\0\0".encode()},
        {"until": b""},
        {"until": b"S"},
    ],
)
def test_a_service_that_makes_no_sense_or_goes_is_452(kit, service, options):
    cleanup = service(**({"until": b""} if "greeting" in options else {}) | options)
    content = b"Subject: x\r\n\r\n" + b"x" * 3_000_000 + b"\r\n"
    stage, reply = deliver(kit, f"queue/postfix-queue {cleanup.path}", content)
    assert reply == b"452 4.3.0 the message cannot be queued now, please try again later\r\n"
    assert stage.logged("queue::postfix-queue: error, ")


def test_a_service_that_is_silent_is_452(kit, tmp_path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        stage, reply = deliver(kit, f"queue/postfix-queue {tmp_path}/s timeout 0.05")
    assert reply.startswith(b"452")
    assert stage.logged(f"error, {tmp_path}/s is too slow") or stage.logged("timed out")


def test_the_first_of_the_sockets_listed_that_can_be_reached_is_used(kit, service, tmp_path):
    first, second = service(answer(0)), service(answer(0))
    settings = {"cleanup_sockets": [f"{tmp_path}/none", "nonsense", first.path, second.path]}
    stage, reply = deliver(kit, "queue/postfix-queue /nowhere", config=settings)
    assert reply.startswith(b"250")
    assert first.records
    assert not second.records
    assert stage.logged(f"error, {tmp_path}/none: ")
    assert stage.logged("left out the line 'nonsense'")


def test_a_service_may_listen_on_a_port(kit):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        cleanup = Cleanup(listener, answer(0))
        thread = threading.Thread(target=cleanup.serve)
        thread.start()
        place = "{}:{}".format(*listener.getsockname())
        _, reply = deliver(kit, "queue/postfix-queue", config={"cleanup_sockets": [place]})
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert reply.startswith(b"250")
    assert cleanup.of("R") == [b"one@x.example", b"two@x.example"]


def test_the_environment_comes_first(kit, service, monkeypatch):
    cleanup = service(answer(0))
    monkeypatch.setenv("POSTFIXQUEUE", cleanup.path)
    _, reply = deliver(kit, "queue/postfix-queue /nowhere", config={"cleanup_sockets": ["/nowhere/else"]})
    assert reply.startswith(b"250")
    assert cleanup.records


def test_without_any_service_the_client_may_try_again(kit):
    stage, reply = deliver(kit, "queue/postfix-queue /nowhere/cleanup")
    assert reply.startswith(b"452")
    assert stage.logged("error, no cleanup service can be reached: /nowhere/cleanup: ")


def test_the_notes_say_what_was_used(kit, service):
    cleanup = service(answer(0))
    seen = {}

    class Sees(Plugin):
        def hook_ok(self, transaction, plugin, code, text):
            if plugin == "queue::postfix-queue":
                seen.update(transaction.notes)

    deliver(kit, f"queue/postfix-queue {cleanup.path} FLAG_FILTER", CONTENT, Sees)
    assert seen["postfix-queue-flags"] == 2
    assert list(map(str, seen["postfix-queue-sockets"])) == [cleanup.path]


@pytest.mark.parametrize("address", ["a\0b@x.example", "a\nRevil@x.example", "\ud800@x.example"])
@pytest.mark.parametrize("place", ["sender", "recipient"])
def test_an_address_that_postfix_would_read_otherwise_is_refused(kit, service, address, place):
    local, _, domain = address.partition("@")

    class Rewrites(Plugin):
        def hook_data_post(self, transaction):
            if place == "sender":
                transaction.sender = Mailbox(local, domain)
            else:
                transaction.add_recipient(Mailbox(local, domain))

    cleanup = service(answer(0))
    stage, reply = deliver(kit, f"queue/postfix-queue {cleanup.path}", CONTENT, Rewrites)
    assert reply.startswith(b"552")
    assert not cleanup.records
    assert stage.logged("queue::postfix-queue: fail, ")


def test_content_that_cannot_be_read_is_452_and_the_message_has_no_end(kit, service, monkeypatch):
    def broken(self):
        yield b"Subject: x\n"
        raise OSError("broken")

    cleanup = service(answer(0))
    monkeypatch.setattr(Message, "lf_chunks", broken)
    _, reply = deliver(kit, f"queue/postfix-queue {cleanup.path}")
    assert reply.startswith(b"452")
    assert not cleanup.of("E")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("FLAG_FILTRE", "there is no flag 'FLAG_FILTRE'; did you mean"),
        ("cleanup", "there is no flag 'cleanup'"),
        ("/a /b", "there is no flag '/b'"),
        ("timeout 0", "timeout '0' is no number of seconds"),
        ("/" + "x" * 200, "is no path that a socket may have"),
    ],
)
def test_bad_arguments_are_seen_at_load(kit, words, message):
    with pytest.raises(ConfigError, match=f"plugins:1: queue/postfix-queue: .*{message}"):
        kit(f"queue/postfix-queue {words}")
