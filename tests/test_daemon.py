"""`qpsmtpd run` and `qpsmtpd inetd` as processes: signals, sudden death, standard streams."""

import contextlib
import re
import signal
import smtplib
import socket
import ssl
import subprocess
import sys
import threading

import pytest

from qpsmtpd.certificates import make_self_signed
from qpsmtpd.daemon import BACKENDS

ENVELOPE = (b"EHLO c\r\n", b"MAIL FROM:<a@b>\r\n", b"RCPT TO:<c@d>\r\n", b"DATA\r\n")
CONTENT = b"Subject: x\r\n\r\nbody\r\n.\r\n"


@pytest.fixture
def config(tmp_path):
    def config(**settings):
        directory = tmp_path / "config"
        directory.mkdir(exist_ok=True)
        defaults = {
            "me": "mx.example.test",
            "loglevel": "LOGDEBUG",
            "relayclients": "127.0.0.1",
            "timeoutshutdown": "0.3",
            "plugins": f"relay\nrcpt_ok\ncount_unrecognized_commands\nqueue/maildir {tmp_path}/mail",
        }
        for name, text in (defaults | settings).items():
            (directory / name).write_text(text + "\n")
        return directory

    return config


@contextlib.contextmanager
def server(config, backend="asyncio", *more):
    """A running server and its address; killed if it is still there at the end."""
    command = [
        sys.executable,
        "-m",
        "qpsmtpd",
        "run",
        "--config",
        config,
        "--listen",
        "127.0.0.1:0",
        "--backend",
        backend,
        *more,
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            line = process.stdout.readline().decode()
            match = re.match(r"qpsmtpd listens on 127\.0\.0\.1:(\d+)[, ]", line)
            assert match, line + process.stderr.read().decode()
            process.where = [int(port) for port in re.findall(r"127\.0\.0\.1:(\d+)", line)]
            yield process, ("127.0.0.1", int(match[1]))
        finally:
            if process.poll() is None:
                process.kill()


@pytest.mark.parametrize("backend", BACKENDS)
def test_lmtp_is_spoken_on_a_unix_socket(config, tmp_path, backend):
    path = tmp_path / "lmtp.sock"
    with server(config(), backend, "--listen", f"lmtp=unix:{path}") as (process, _):
        with socket.socket(socket.AF_UNIX) as client, client.makefile("rb") as replies:
            client.settimeout(20)
            client.connect(str(path))
            lines = (b"LHLO c\r\n", *ENVELOPE[1:3], ENVELOPE[2], ENVELOPE[3], CONTENT, b"QUIT\r\n")
            client.sendall(b"".join(lines))
            codes = [line[:3] for line in replies if line[3:4] == b" "]
        assert codes == [b"220", b"250", b"250", b"250", b"250", b"354", b"250", b"250", b"221"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert len(list((tmp_path / "mail" / "new").iterdir())) == 2
    assert not path.exists()


def test_a_socket_that_was_left_behind_is_replaced_and_one_in_use_is_not(config, tmp_path):
    path = tmp_path / "lmtp.sock"
    with server(config(), "asyncio", "--listen", f"lmtp=unix:{path}") as (process, _):
        command = [sys.executable, "-m", "qpsmtpd", "run", "--config", config(), "--listen", f"lmtp=unix:{path}"]
        second = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        assert second.returncode == 1
        assert second.stderr == f"qpsmtpd: cannot listen on {path}: Address already in use\n"
        process.kill()
        process.wait(20)
    with server(config(), "asyncio", "--listen", f"lmtp=unix:{path}"):
        pass


def test_each_listener_has_its_role(config, tmp_path):
    make_self_signed(tmp_path, "localhost")
    files = config(plugins="auth/auth_flat_file\nrelay\nrcpt_ok\nqueue/discard", flat_auth_pw="user:pass")
    listening = ("--listen", "submissions,normalize=127.0.0.1:0", "--listen", "submission=127.0.0.1:0")
    certificate = ("--tls-cert", tmp_path / "localhost.crt", "--tls-key", tmp_path / "localhost.key")
    context = ssl.create_default_context(cafile=tmp_path / "localhost.crt")
    with server(files, "asyncio", *listening, *certificate) as (process, (host, port)):
        ports = process.where
        with smtplib.SMTP(host, port, timeout=20) as mx:
            assert mx.docmd("EHLO", "c")[0] == 250
            assert mx.docmd("MAIL", "FROM:<a@b.example>")[0] == 250
        with smtplib.SMTP_SSL("localhost", ports[1], timeout=20, context=context) as submissions:
            assert submissions.docmd("EHLO", "c")[0] == 250
            assert submissions.docmd("MAIL", "FROM:<a@b.example>")[0] == 530
            submissions.login("user", "pass")
            assert submissions.docmd("MAIL", "FROM:<a@b.example>")[0] == 250
            assert submissions.docmd("RCPT", "TO:<c@d.example>")[0] == 250
            assert submissions.docmd("DATA")[0] == 354
            submissions.send("bare\nfeed\r\n.\r\n")
            assert submissions.getreply()[0] == 250
        with smtplib.SMTP("localhost", ports[2], timeout=20) as submission:
            assert submission.docmd("EHLO", "c")[0] == 250
            assert b"STARTTLS" in submission.docmd("MAIL", "FROM:<a@b.example>")[1]
            submission.starttls(context=context)
            submission.login("user", "pass")
            assert submission.docmd("MAIL", "FROM:<a@b.example>")[0] == 250


FORKED = """
from qpsmtpd import LOGALERT, OK

def hook_post_fork(self):
    self.log(LOGALERT, "a process begins")
    if self.plugin_name == "forked":
        raise RuntimeError("no database")
    return OK
"""


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_hook_post_fork_runs_before_the_server_serves(config, tmp_path, backend):
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "forked.py").write_text(FORKED)
    with server(config(plugins="forked\nforked:1\nforked:2"), backend) as (process, _):
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=20)
    assert errors.count(b"a process begins") == 2  # OK ends the chain, a failure does not
    assert b"(post-fork) forked: error, the hook failed: RuntimeError: no database" in errors


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_signal_ends_the_server_in_good_order(config, wire, backend, number):
    with server(config(), backend) as (process, address), wire(address) as idle, wire(address) as busy:
        idle.reply()
        busy.reply()
        busy.ask(*ENVELOPE)
        process.send_signal(number)
        assert busy.ask(CONTENT)[0][:3] == b"250"
        busy.ask(b"QUIT\r\n")
        assert idle.rest() == b"421 4.3.2 Service shutting down, closing the connection\r\n"
        idle.socket.close()
        _, errors = process.communicate(timeout=20)
        assert process.returncode == 0
    assert b"stopping; sessions have 0.3 s to finish" in errors
    assert b"Traceback" not in errors, errors.decode()


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_was_answered_250_survives_kill_9(config, wire, backend, tmp_path):
    accepted = []

    def send(address, number):
        with contextlib.suppress(OSError, EOFError), wire(address) as client:
            client.reply()
            for count in range(1000):
                name = f"{number}-{count}"
                replies = client.ask(*ENVELOPE)
                if client.ask(f"Subject: {name}\r\n\r\nbody\r\n.\r\n".encode())[0][:3] == b"250" and replies:
                    accepted.append(name)

    with server(config(loglevel="LOGERROR"), backend) as (process, address):
        threads = [threading.Thread(target=send, args=(address, number)) for number in range(4)]
        for thread in threads:
            thread.start()
        while len(accepted) < 40 and any(thread.is_alive() for thread in threads):
            threading.Event().wait(0.002)
        process.kill()  # in the middle of things
        for thread in threads:
            thread.join(20)
    assert len(accepted) >= 40
    kept = [path.read_bytes() for path in (tmp_path / "mail" / "new").iterdir()]
    subjects = {re.search(rb"^Subject: (\S+)$", content, re.MULTILINE)[1].decode() for content in kept}
    assert set(accepted) <= subjects
    assert all(content.endswith(b"\n\nbody\n") for content in kept), "a message that was cut off"


def test_nothing_a_client_says_breaks_a_log_line(config, wire):
    nasty = (
        b"EHLO a\x1b[2J\x07.\x00\xff\r\n",
        b"FROB \x1b]0;title\x07\r\n",
        "x\u2028y\u2029z\u202e\x85\r\n".encode(),
        b"MAIL FROM:<\x1b[31m@b>\r\n",
        b"a\nb\r\n",
    )
    with server(config()) as (process, address):
        with wire(address) as client:
            client.reply()
            client.send(b"".join(nasty) + b"QUIT\r\n")
            client.rest()
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=20)
    lines = errors.decode().split("\n")
    assert lines.pop() == ""
    assert len(lines) > 4
    for line in lines:
        assert line.isprintable()
        assert re.match(r"(?:[0-9a-f]{12}|\[\d+\]) ", line)


def inetd(config, stdin, stdout, *more):
    command = [sys.executable, "-m", "qpsmtpd", "inetd", "--config", config, *more]
    return subprocess.Popen(command, stdin=stdin, stdout=stdout, stderr=subprocess.PIPE)


def test_inetd_serves_a_socket_on_its_standard_streams(config):
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname(), timeout=20) as client,
    ):
        theirs, _ = listener.accept()
        with theirs, inetd(config(), theirs, theirs) as process:
            theirs.close()
            client.sendall(b"".join(ENVELOPE[:3]) + b"QUIT\r\n")
            said = b""
            while data := client.recv(4096):
                said += data
            _, errors = process.communicate(timeout=20)
    assert said.endswith(b"250 2.1.5 <c@d>, recipient OK\r\n221 2.0.0 Closing the connection, have a wonderful day\r\n")
    assert process.returncode == 0, errors.decode()


def test_inetd_serves_pipes_and_takes_the_address_from_its_environment(config, monkeypatch):
    monkeypatch.setenv("TCPREMOTEIP", "192.0.2.77")
    with inetd(config(), subprocess.PIPE, subprocess.PIPE) as process:
        said, errors = process.communicate(b"".join(ENVELOPE[:3]), timeout=20)
    assert said.endswith(b"550 5.7.1 relaying denied\r\n")
    assert b"connected, 192.0.2.77:0" in errors
    assert process.returncode == 0


def test_inetd_has_a_role_too(config):
    with inetd(config(), subprocess.PIPE, subprocess.PIPE, "--role", "lmtp") as process:
        said, _ = process.communicate(b"EHLO c\r\nLHLO c\r\nQUIT\r\n", timeout=20)
    codes = [line[:3] for line in said.splitlines() if line[3:4] == b" "]
    assert codes == [b"220", b"500", b"250", b"221"]


def test_a_port_in_use_is_told_in_one_line(config):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "qpsmtpd", "run", "--config", config(), "--listen", f"127.0.0.1:{port}"]
        done = subprocess.run(command, capture_output=True, timeout=20, check=False)
    assert done.returncode == 1
    assert done.stderr.decode() == f"qpsmtpd: cannot listen on 127.0.0.1:{port}: Address already in use\n"
