"""Mail from real programs, through `qpsmtpd run` as it comes, into its Maildir."""

import re
import shutil
import signal
import smtplib
import subprocess
import sys

import pytest

from qpsmtpd.daemon import BACKENDS

SENDER, RECIPIENT = "me@example.org", "you@example.org"
BODY = b"..two dots\n.\nL\xc3\xa4ngere Zeile\n\nlast\n"


@pytest.fixture(params=BACKENDS)
def port(request, tmp_path):
    command = [sys.executable, "-m", "qpsmtpd", "run", "--listen", "127.0.0.1:0", "--backend", request.param]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL
    ) as server:
        try:
            line = server.stdout.readline().decode()
            match = re.match(r"qpsmtpd listens on 127\.0\.0\.1:(\d+) ", line)
            assert match, line + server.stderr.read().decode()
            assert str(tmp_path / "mail") in line
            yield int(match[1])
        finally:
            server.send_signal(signal.SIGTERM)
            _, errors = server.communicate(timeout=20)
    assert server.returncode == 0
    assert b"Traceback" not in errors, errors.decode()


@pytest.fixture
def program():
    def program(name):
        path = shutil.which(name)
        if path is None:
            pytest.skip(f"{name} is not installed")
        return path

    return program


def stored(tmp_path):
    (path,) = (tmp_path / "mail" / "new").iterdir()
    return path.read_bytes()


def run(*command, stdin=b""):
    done = subprocess.run(command, input=stdin, capture_output=True, timeout=30, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def check(content):
    assert content.startswith(b"Return-Path: <me@example.org>\nDelivered-To: you@example.org\nAuthentication-Results: ")
    assert b"\nReceived: from " in content
    assert b"\nSubject: a real mail\n" in content
    assert content.endswith(b"\n\n" + BODY)


def test_smtplib(port, tmp_path):
    with smtplib.SMTP("127.0.0.1", port, timeout=20) as client:
        content = (b"Subject: a real mail\n\n" + BODY).replace(b"\n", b"\r\n")
        assert client.sendmail(SENDER, [RECIPIENT], content) == {}
    check(stored(tmp_path))


def test_swaks(port, tmp_path, program):
    message = tmp_path / "message"
    message.write_bytes(b"Subject: a real mail\n\n" + BODY)
    said = run(
        program("swaks"), "--server", "127.0.0.1", "--port", str(port), "--from", SENDER, "--to", RECIPIENT,
        "--data", f"@{message}", "--pipeline",
    )  # fmt: skip
    assert b"250 2.0.0 Queued!" in said
    assert b"\nSubject: a real mail\n\n" + BODY.rstrip(b"\n") in stored(tmp_path)


def test_msmtp(port, tmp_path, program):
    run(
        program("msmtp"), "--host=127.0.0.1", f"--port={port}", "--tls=off", "--auth=off", f"--from={SENDER}", RECIPIENT,
        stdin=b"Subject: a real mail\n\n" + BODY,
    )  # fmt: skip
    content = stored(tmp_path)
    assert content.endswith(b"\n\n" + BODY)
    assert b"\nSubject: a real mail\n" in content


def test_the_printed_first_mail_works(tmp_path):
    command = [sys.executable, "-m", "qpsmtpd", "run", "--listen", "127.0.0.1:0"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as server:
        try:
            server.stdout.readline()
            line = server.stdout.readline().decode()
            script = re.search(r'python3 -c "(.*)"$', line.strip())[1]
            run(sys.executable, "-c", script)
            assert stored(tmp_path).endswith(b"Subject: hello\n\nIt works.\n")
        finally:
            server.send_signal(signal.SIGTERM)
            server.communicate(timeout=20)
