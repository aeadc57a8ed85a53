"""The process that writes recordings: the same octets, no waiting, no end before its time."""

import os
import re
import signal
import smtplib
import subprocess
import sys
from pathlib import Path

import pytest

from qpsmtpd import OK, Plugin
from qpsmtpd.loader import add
from qpsmtpd.recording import RecordingSite, read_tapes, writer
from qpsmtpd.recording.scribe import Note, Scribe
from qpsmtpd.recording.writer import DirectorySite, Writer
from qpsmtpd.testing import Client, make_site


class Text(str):  # noqa: SLOT000
    """A text that is more than one, which `marshal` does not write."""


class Taking(Plugin):
    def hook_rcpt(self, transaction, recipient, parameters):
        return OK, Text("welcome")

    def hook_queue(self, transaction):
        return OK, "kept"


@pytest.fixture
def complaints():
    return []


@pytest.fixture
def writing(tmp_path, complaints):
    """Begin to write into a directory."""
    begun = []

    def writing(**options):
        begun.append(Writer(tmp_path / "sessions", complaints.append, **{"mask_content": False, **options}))
        return begun[-1]

    yield writing
    for each in begun:
        each.close()


def notes(identity, size=10):
    """What is noted of a session."""
    base, kept = make_site(), []

    class Site(RecordingSite):
        def scribe(self, connection):
            return kept.append

    site = Site(base.settings, None, clock=base.clock, wall=base.wall)
    add(site, Taking)
    client = Client(site)
    client.deliver(b"Subject: x\r\n\r\n" + b"x" * size + b"\r\n")
    client.say(f"NOOP {identity}")
    client.send(b"QUIT\r\n")
    return kept


def files(directory):
    return sorted((directory / "sessions").iterdir())


@pytest.mark.parametrize("masked", [False, True])
def test_it_writes_what_the_server_itself_would_have(tmp_path, writing, masked):
    told = writing(mask_content=masked)
    lines = []
    scribe = Scribe(lines.append, mask_content=masked)
    for some in notes("a", 200_000):
        told.take("a", 1_767_225_600.0, some)
        scribe.write(some)
    told.close()
    (path,) = files(tmp_path)
    assert path.name == "20260101T000000-a.jsonl"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_text() == "".join(lines)
    (tape,) = read_tapes(path)
    assert tape.whole
    assert b"xxxx" in tape.received
    assert (b"Subject" in tape.received) is not masked


def test_many_sessions_at_once(tmp_path, writing):
    told = writing()
    sessions = {f"s{number}": notes(f"s{number}", 100_000) for number in range(5)}
    for part in range(max(map(len, sessions.values()))):
        for identity, parts in sessions.items():
            if part < len(parts):
                told.take(identity, 0.0, parts[part])
    told.close()
    for path, identity in zip(files(tmp_path), sessions, strict=True):
        (tape,) = read_tapes(path)
        assert f"NOOP {identity}\r\n".encode() in tape.received


def test_the_server_does_not_wait_for_it_and_what_is_too_much_is_left_out(tmp_path, writing, complaints, monkeypatch):
    monkeypatch.setattr(writer, "_MOST", 2_000_000)
    told = writing()
    os.kill(told._process.pid, signal.SIGSTOP)
    for number in range(100):
        for some in notes("a", 60_000):
            told.take(f"s{number}", 0.0, some)
    assert told._size < 2_200_000
    assert complaints == ["error, sessions are not recorded: they cannot be written so fast"]
    os.kill(told._process.pid, signal.SIGCONT)
    told.close()
    written = len(files(tmp_path))
    assert 10 < written < 90
    assert complaints[1:] == [f"{100 - written} sessions are not recorded: there was no time to write them"]
    assert all(tape.whole for path in files(tmp_path) for tape in read_tapes(path))


def test_the_server_ends_although_it_does_not(writing, complaints, monkeypatch):
    told = writing()
    os.kill(told._process.pid, signal.SIGSTOP)
    for number in range(30):
        for some in notes("a", 60_000):
            told.take(f"s{number}", 0.0, some)
    monkeypatch.setattr(writer, "_PATIENCE", 0.1)
    told.close()
    assert complaints == ["what writes recordings has not ended within 0.1 s"]
    assert told._process.returncode == -signal.SIGKILL
    told.take("late", 0.0, notes("a")[0])  # by a thread that goes on


def test_mail_goes_on_when_it_has_died(writing, complaints):
    told = writing()
    os.kill(told._process.pid, signal.SIGKILL)
    told._process.wait(20)
    for _ in range(3):
        for some in notes("a"):
            told.take("a", 0.0, some)
    (complaint,) = complaints
    assert complaint.startswith("error, sessions are not recorded: what writes them has ended")


def test_signals_that_end_a_server_do_not_end_it(tmp_path, writing):
    told = writing()
    os.kill(told._process.pid, signal.SIGTERM)
    os.kill(told._process.pid, signal.SIGINT)
    for some in notes("a"):
        told.take("a", 0.0, some)
    told.close()
    assert told._process.returncode == 0
    assert len(files(tmp_path)) == 1


def test_a_disk_that_fails_is_told_once(tmp_path, capfd):
    told = Writer(tmp_path / "sessions", print, mask_content=False)
    for number in range(3):
        for some in notes("a"):
            told.take(f"no/where{number}", 0.0, some)
    told.close()
    assert capfd.readouterr().err.count("error, sessions are not recorded") == 1


def test_before_it_is_begun_a_site_writes_itself(tmp_path):
    base = make_site()
    site = DirectorySite(base.settings, tmp_path / "sessions", mask_content=False, clock=base.clock, wall=base.wall)
    add(site, Taking)
    client = Client(site)
    client.send(b"QUIT\r\n")
    (path,) = files(tmp_path)
    (tape,) = read_tapes(path)
    assert tape.received == b"QUIT\r\n"
    assert {note.value for note in Note} == set(range(len(Note)))


@pytest.mark.parametrize("options", [(), ("--workers", "2")])
def test_all_is_written_when_the_server_has_ended(tmp_path, monkeypatch, options):
    monkeypatch.chdir(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-m", "qpsmtpd", "run", "--listen", "127.0.0.1:0", "--record", "sessions", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            port = int(re.search(r":(\d+) \(", server.stdout.readline())[1])
            for number in range(6):
                with smtplib.SMTP("127.0.0.1", port, timeout=20) as client:
                    client.sendmail("a@example.org", f"b{number}@example.org", "Subject: x\r\n\r\nx")
        finally:
            server.terminate()
            _, log = server.communicate(timeout=40)
    assert "error" not in log
    tapes = [tape for path in files(Path()) for tape in read_tapes(path)]
    assert len(tapes) == 6
    assert all(tape.whole for tape in tapes)
