"""What `qmail_deliverable` asks the daemon, and what it makes of the answer."""

import contextlib
import socket
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qpsmtpd import Mailbox, Plugin
from qpsmtpd.config import ConfigError
from qpsmtpd.plugins.qmail_deliverable import _ADDRESS
from qpsmtpd.testing import make_site


class Daemon:
    """A qmail-deliverabled of our own, with the same answer for all; it keeps the requests."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.requests = []
        self.answer = b""

    def says(self, status, code=b"200 OK"):
        self.answer = b"HTTP/1.1 %b\r\nServer: x\r\nContent-Type: text/plain\r\n\r\n%b" % (code, status)

    def serve(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                with contextlib.suppress(OSError), connection, connection.makefile("rb") as file:
                    self.requests.append(file.readline())
                    while file.readline().strip():
                        pass
                    connection.sendall(self.answer)


@pytest.fixture
def daemon():
    made = Daemon()
    made.says(b"0")
    thread = threading.Thread(target=made.serve)
    thread.start()
    yield made
    made.listener.shutdown(socket.SHUT_RDWR)
    thread.join()
    made.listener.close()


def ask(stage, recipient="one@x.example"):
    client = stage.connect()
    client.say("EHLO c.example")
    client.say("MAIL FROM:<a@client.example>")
    return client, client.say(f"RCPT TO:<{recipient}>")


def test_an_answer_of_blank_lines_takes_no_time(kit, daemon):
    daemon.says(b"\n" * 60_000 + b"x")  # an expression that tries each of them would take half a minute
    stage = kit(f"qmail_deliverable server 127.0.0.1:{daemon.port}")
    begun = time.process_time()
    ask(stage)
    assert time.process_time() - begun < 5
    assert stage.logged("its answer makes no sense")


@pytest.fixture
def line(daemon):
    return f"qmail_deliverable server 127.0.0.1:{daemon.port}"


def test_a_recipient_without_a_mailbox_is_refused(kit, daemon, line):
    stage = kit(line)
    client, reply = ask(stage, "One+Ext@X.example")
    assert (reply.code, reply.enhanced, reply.text) == (550, "5.1.1", "no mailbox here by that name")
    assert daemon.requests == [b"GET /qd1/deliverable?one%2Bext%40x.example HTTP/1.0\r\n"]
    assert client.connection.notes["karma"] == -1
    assert stage.logged("qmail_deliverable: fail, one+ext@x.example\n")


@pytest.mark.parametrize(
    ("status", "logged"),
    [
        (0x11, "error, permission failure"),
        (0x12, "pass, qmail-command in dot-qmail"),
        (0x13, "pass, bouncesaying with program"),
        (0x14, "pass, ezmlm list"),
        (0x21, "error, temporarily undeliverable: group or world writable"),
        (0x22, "error, temporarily undeliverable: sticky home directory"),
        (0x2F, "error, the daemon has asked"),
        (0xF1, "pass, normal delivery"),
        (0xF2, "pass, vpopmail dir"),
        (0xF3, "pass, vpopmail alias"),
        (0xF4, "pass, vpopmail catchall"),
        (0xF5, "pass, vpopmail vuser"),
        (0xF6, "pass, vpopmail qmail-ext"),
        (0xFE, "error, vpopmail without a domain"),
        (0xFF, "skip, address not local"),
        (0x77, "error, unknown status 0x77"),
    ],
)
def test_all_other_statuses_pass(kit, daemon, line, status, logged):
    daemon.says(b"%d\n" % status)
    stage = kit(line)
    client, reply = ask(stage)
    assert reply.code == 250
    assert stage.logged(f"qmail_deliverable: {logged}")
    assert "karma" not in client.connection.notes


@pytest.mark.parametrize(
    "answer", [b"", b"0", b"junk\r\n\r\n0", b"HTTP/1.1 200 OK\r\n\r\nnone", b"HTTP/1.1 200 OK\r\n"]
)
def test_a_daemon_that_makes_no_sense_lets_mail_through(kit, daemon, line, answer):
    daemon.answer = answer
    stage = kit(line)
    assert ask(stage)[1].code == 250
    assert stage.logged("its answer makes no sense")


@pytest.mark.parametrize("code", [b"204 No Content", b"500 Broken", b"2000 x"])
def test_no_status_but_200_counts(kit, daemon, line, code):
    daemon.says(b"0", code)
    assert ask(kit(line))[1].code == 250


def test_a_long_answer_and_a_silent_daemon_let_mail_through(kit, daemon, line):
    daemon.says(b"0" + b" " * 100_000)
    assert ask(kit(line))[1].code == 250
    with socket.create_server(("127.0.0.1", 0)) as silent:
        place = f"127.0.0.1:{silent.getsockname()[1]}"
        stage = kit(f"qmail_deliverable server {place} timeout 0.05")
        assert ask(stage)[1].code == 250
    assert stage.logged(f"error, {place}: ")
    stage = kit(f"qmail_deliverable server {place}")
    assert ask(stage)[1].code == 250
    assert stage.logged(f"error, {place}: ")


def test_reject_and_reject_type_are_heeded(kit, line):
    assert ask(kit(f"{line} reject 0"))[1].code == 250
    assert ask(kit(f"{line} reject_type soft"))[1].code == 450


class RelayClient(Plugin):
    def hook_connect(self, transaction):
        self.connection.relay_client = True


def test_relay_clients_and_addresses_that_qmail_cannot_have_pass_unasked(kit, daemon, line):
    assert ask(kit(RelayClient, line))[1].code == 250
    for recipient in ("postmaster", '"a b"@x.example', "a@[192.0.2.1]"):
        assert ask(kit(line), recipient)[1].code == 250
    assert not daemon.requests


ROUTES = "x.example:127.0.0.1\n.y.example:[127.0.0.1]:25\nz.example:\nno route\n"


@pytest.mark.parametrize(
    ("recipient", "code"),
    [("a@x.example", 550), ("a@X.example", 550), ("a@b.y.example", 550), ("a@y.example", 550), ("a@z.example", 250),
     ("a@b.x.example", 250), ("a@other.example", 250)],
)  # fmt: skip
def test_smtproutes_says_whom_to_ask(kit, daemon, tmp_path, recipient, code):
    (tmp_path / "smtproutes").write_text(ROUTES)
    stage = kit(f"qmail_deliverable server smtproutes:{daemon.port} control {tmp_path}")
    assert ask(stage, recipient)[1].code == code
    assert code == 550 or stage.logged("skip, no server for this domain")


def test_where_smtproutes_names_no_host_the_one_given_is_asked(kit, daemon, tmp_path):
    (tmp_path / "smtproutes").write_text("x.example:127.0.0.2\n")
    stage = kit(f"qmail_deliverable server smtproutes:127.0.0.1:{daemon.port} control {tmp_path}")
    assert ask(stage, "a@other.example")[1].code == 550


def test_a_route_for_all_domains_is_an_empty_one(kit, daemon, tmp_path):
    (tmp_path / "smtproutes").write_text(":127.0.0.1\n")
    stage = kit(f"qmail_deliverable server smtproutes:{daemon.port} control {tmp_path} vpopmail_ext 1")
    assert ask(stage, "a@other.example")[1].code == 550


@given(st.text(), st.text() | st.none())
def test_any_address_is_asked_for_in_one_line_or_not_at_all(local, domain):
    (plugin,) = make_site("qmail_deliverable").plugins
    address = Mailbox(local, domain).address.lower()
    plugin._place((domain or "").lower())
    assert not _ADDRESS.fullmatch(address) or (address.isascii() and address.isprintable() and " " not in address)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("server 127.0.0.1", "is neither HOST:PORT"),
        ("server smtproutes:x", "is neither HOST:PORT"),
        ("server smtproutes:8998 control /nowhere", "/nowhere/smtproutes: No such file"),
        ("vpopmail_ext yes", "vpopmail_ext 'yes' is neither"),
        ("timeout 0", "timeout '0' is no number"),
        ("port 3", "unknown argument 'port'"),
    ],
)
def test_bad_arguments_are_seen_at_load(kit, words, message):
    with pytest.raises(ConfigError, match=message):
        kit(f"qmail_deliverable {words}")
