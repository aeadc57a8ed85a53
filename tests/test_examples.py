"""The examples of embedding: complete, short, and right about the protocol."""

import smtplib
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "examples"
PROGRAMS = sorted(path.name for path in FOLDER.glob("over_*.py"))
CONTENT = b"Subject: hi\r\n\r\n.dot\r\n"


@pytest.fixture
def start(tmp_path):
    """Start an example that keeps mail in `tmp_path`; give where it listens."""
    running = []

    def start(name, seconds="60"):
        command = [sys.executable, "-W", "error", str(FOLDER / name), str(tmp_path), seconds]
        running.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        host, port = running[-1].stdout.readline().split()
        return host, int(port)

    yield start
    for process in running:
        process.terminate()
        _, errors = process.communicate(timeout=20)
        assert "Traceback" not in errors, errors


def kept(folder):
    return sorted(path.read_bytes() for path in folder.glob("*.eml"))


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.name)
def test_an_example_is_short(path):
    assert len([line for line in path.read_text("utf-8").splitlines() if line.strip()]) < 60


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_message_is_kept_before_it_is_acknowledged(name, start, tmp_path):
    with smtplib.SMTP(*start(name), timeout=20) as client:
        refused = client.sendmail("a@a.example", ["b@example.org", "c@elsewhere.example"], CONTENT)
        assert kept(tmp_path) == [CONTENT]
        assert refused == {"c@elsewhere.example": (550, b"5.7.1 no such user here")}
        assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize("name", PROGRAMS)
def test_several_clients_are_served_at_once_and_a_refused_message_leaves_nothing(name, start, tmp_path):
    address = start(name)
    with smtplib.SMTP(*address, timeout=20) as one, smtplib.SMTP(*address, timeout=20) as two:
        for client in (one, two):
            client.helo("a")
            client.mail("a@a.example")
            client.rcpt("b@example.org")
            assert client.docmd("DATA")[0] == 354
        two.send(b"bad\nline\r\n.\r\n")
        assert two.getreply()[0] == 554
        one.send(b"x" * 100_000 + b"\r\n.\r\n")
        assert one.getreply()[0] == 250
        two.sendmail("a@a.example", ["b@example.org"], CONTENT)
        assert kept(tmp_path) == sorted([CONTENT, b"x" * 100_000 + b"\r\n"])


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_client_that_asks_more_than_it_reads_gets_every_reply(name, start):
    count = 50_000
    with socket.create_connection(start(name), timeout=20) as client:
        flood = threading.Thread(target=client.sendall, args=(b"NOOP\r\n" * count + b"QUIT\r\n",))
        flood.start()
        said = b"".join(iter(lambda: client.recv(65536), b""))
        flood.join()
    assert said.count(b"\r\n250 ") == count
    assert said.splitlines()[-1].startswith(b"221 ")


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_silent_client_is_sent_away(name, start):
    with socket.create_connection(start(name, "0.3"), timeout=20) as client:
        said = b"".join(iter(lambda: client.recv(65536), b""))
    assert [line[:3] for line in said.splitlines()] == [b"220", b"421"]


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_client_that_vanishes_leaves_no_message_and_disturbs_nobody(name, start, tmp_path):
    address = start(name)
    with socket.create_connection(address, timeout=20) as client:
        client.sendall(b"HELO a\r\nMAIL FROM:<a@a>\r\nRCPT TO:<b@example.org>\r\nDATA\r\nhalf")
    with smtplib.SMTP(*address, timeout=20) as client:
        client.sendmail("a@a.example", ["b@example.org"], CONTENT)
    assert kept(tmp_path) == [CONTENT]


def test_the_notebook_runs_without_anything_that_a_browser_lacks():
    code = (
        f"import runpy, sys; runpy.run_path({str(FOLDER / 'in_memory.py')!r}); "
        "print(sorted({'socket', 'ssl', 'asyncio', 'threading', 'selectors', 'subprocess'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *replies, messages, loaded = done.stdout.splitlines()
    assert [reply[:3] for reply in replies] == ["220", "250", "250", "250", "354", "250"]
    assert messages == "[b'Subject: hi\\r\\n\\r\\n']"
    assert loaded == "[]"
