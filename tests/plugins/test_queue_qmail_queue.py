"""What `queue/qmail-queue` gives the program, and what it makes of its exit status."""

import os
import signal
import smtplib
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qpsmtpd import OK, Mailbox, Plugin
from qpsmtpd.config import ConfigError
from qpsmtpd.testing import make_site

CONTENT = b"Message-Id: <a@b>\r\nSubject: x\r\n\r\n.dot\r\n\xff\x00\r\n"
LATER = b"452 4.3.0 the message cannot be queued now, please try again later\r\n"

# Keeps what it reads beside itself, and does what a file `do` there says.
PROGRAM = f"""#!{sys.executable} -IS
import os, signal, sys
here = os.path.dirname(__file__)
do = open(here + "/do").read().split() if os.path.exists(here + "/do") else []
if "early" in do:
    sys.exit(int(do[1]))
with open(here + "/pid", "w") as file:
    file.write(str(os.getpid()))
for number, name in ((0, "message"), (1, "envelope")):
    with os.fdopen(number, "rb") as source, open(here + "/" + name, "wb") as file:
        file.write(source.read())
if "hang" in do:
    signal.pause()
if "killed" in do:
    os.kill(os.getpid(), signal.SIGTERM)
if "say" in do:
    os.write(2, b"disk on \\x1bfire\\n" * 10_000)
sys.exit(int(do[-1]) if do else 0)
"""


@pytest.fixture
def program(tmp_path, monkeypatch):
    for name in ("QMAIL", "QMAILQUEUE"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "qmail-queue"
    path.write_text(PROGRAM)
    path.chmod(0o700)
    return path


def deliver(stage, content=CONTENT):
    client = stage.connect()
    client.say("EHLO c.example")
    client.say('MAIL FROM:<"a b"@client.example>')
    client.say("RCPT TO:<one@x.example>")
    client.say('RCPT TO:<"$(touch y);"@x.example>')
    client.say("DATA")
    return client.send((b"\r\n" + content).replace(b"\r\n.", b"\r\n..")[2:] + b".\r\n")


def test_the_program_is_given_message_and_envelope(kit, program):
    stage = kit(f"queue/qmail-queue {program}")
    assert deliver(stage) == b"250 2.0.0 Queued! <a@b>\r\n"
    assert stage.logged(f"queue::qmail-queue: pass, queued by {program}")
    message = (program.parent / "message").read_bytes()
    assert message.startswith(b"Authentication-Results: ")
    assert message.endswith(b"\nMessage-Id: <a@b>\nSubject: x\n\n.dot\n\xff\x00\n")
    assert b"\r" not in message
    envelope = (program.parent / "envelope").read_bytes()
    assert envelope == b"Fa b@client.example\0Tone@x.example\0T$(touch y);@x.example\0\0"


def test_a_bounce_has_an_empty_sender(kit, program):
    kit(f"queue/qmail-queue {program}").connect().deliver(sender="")
    assert (program.parent / "envelope").read_bytes() == b"F\0Tb@example.org\0\0"


@pytest.mark.parametrize("status", [11, 31, 40, 115])
@pytest.mark.parametrize("early", ["", "early "])
def test_these_statuses_refuse_for_good(kit, program, status, early):
    (program.parent / "do").write_text(f"{early}{status}")
    stage = kit(f"queue/qmail-queue {program}")
    text = b"5.1.3 an address is too long" if status == 11 else b"5.3.0 the message is refused"
    assert deliver(stage) == b"552 " + text + b"\r\n"
    assert stage.logged(f"fail, {program} ended with {status}\n")


@pytest.mark.parametrize("status", [1, 10, 41, 51, 52, 53, 54, 55, 56, 61, 66, 71, 74, 81, 91, 111, 120])
def test_all_other_statuses_refuse_for_now(kit, program, status):
    (program.parent / "do").write_text(f"early {status}")
    stage = kit(f"queue/qmail-queue {program}")
    assert deliver(stage) == LATER
    assert stage.logged(f"error, {program} ended with {status}\n")


def test_a_program_that_is_killed_has_not_queued_the_message(kit, program):
    (program.parent / "do").write_text("killed 0")
    stage = kit(f"queue/qmail-queue {program}")
    assert deliver(stage) == LATER
    assert stage.logged(f"error, {program} was killed by signal {signal.SIGTERM:d}\n")


@pytest.mark.parametrize("do", ["", "early 53"])
def test_a_large_message_holds_nobody_up_whether_it_is_read_or_not(kit, program, do):
    if do:
        (program.parent / "do").write_text(do)
    body = b"0123456789\r\n" * 100_000
    stage = kit(f"queue/qmail-queue {program}", config={"size_threshold": ["10000"]})
    assert deliver(stage, b"Subject: x\r\n\r\n" + body)[:3] == (b"452" if do else b"250")
    if not do:
        assert (program.parent / "message").read_bytes().endswith(b"\n\n" + body.replace(b"\r\n", b"\n"))


def test_a_program_that_hangs_is_killed(kit, program):
    (program.parent / "do").write_text("hang 0")
    stage = kit(f"queue/qmail-queue {program} timeout 0.3")
    assert deliver(stage) == LATER
    assert stage.logged("no answer within 0.3 s")
    pid = program.parent / "pid"
    if pid.exists():  # else it was killed before it could say who it is
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid.read_text()), 0)


def test_what_the_program_says_is_logged_and_bounded(kit, program):
    (program.parent / "do").write_text("say 53")
    stage = kit(f"queue/qmail-queue {program}")
    deliver(stage)
    (line,) = stage.logged("says: disk on ")
    assert "\x1b" not in line
    assert len(line) < 2000


def test_a_program_that_is_gone_is_452(kit, program):
    stage = kit(f"queue/qmail-queue {program}")
    program.unlink()
    assert deliver(stage) == LATER
    assert stage.logged(f"error, {program}: ")


def test_no_program_is_run_where_its_exit_status_would_be_lost(kit, program):
    stage = kit(f"queue/qmail-queue {program}")
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        assert deliver(stage) == LATER
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert stage.logged("SIGCHLD ignored")
    assert not (program.parent / "message").exists()


def test_it_runs_on_every_driver(driver, running, program, tmp_path):
    class Accepts(Plugin):
        def hook_rcpt(self, transaction, recipient, parameters):
            return OK

    site = make_site(f"queue/qmail-queue {program}", Accepts)
    with running(driver, site) as address, smtplib.SMTP(*address, timeout=20) as client:
        client.sendmail("a@x.example", ["b@x.example"], CONTENT)
        (program.parent / "do").write_text("31")
        with pytest.raises(smtplib.SMTPDataError, match="refused"):
            client.sendmail("a@x.example", ["b@x.example"], CONTENT)
    assert (program.parent / "envelope").read_bytes() == b"Fa@x.example\0Tb@x.example\0\0"


def descriptors():
    return {path.name for path in Path("/proc/self/fd").iterdir() if path.exists()}


def test_nothing_is_left_open_or_in_the_spool_directory(kit, program, tmp_path):
    spool = tmp_path / "spool"
    stage = kit(f"queue/qmail-queue {program}", config={"spool_dir": [str(spool)]})
    deliver(stage)
    before = descriptors()
    deliver(stage)
    assert descriptors() == before
    assert not list(spool.iterdir())


def test_the_environment_names_the_program_too(kit, program, monkeypatch):
    (program.parent / "bin").mkdir()
    (program.parent / "bin" / "qmail-queue").symlink_to(program)
    monkeypatch.setenv("QMAIL", str(program.parent))
    assert deliver(kit("queue/qmail-queue"))[:3] == b"250"
    monkeypatch.setenv("QMAILQUEUE", str(program))
    assert deliver(kit("queue/qmail-queue /nowhere"))[:3] == b"250"


class Adds(Plugin):
    def hook_data_post(self, transaction):
        transaction.add_recipient(Mailbox("a\0Tevil", "x.example"))


def test_an_address_that_would_become_two_is_refused(kit, program):
    assert deliver(kit(Adds, f"queue/qmail-queue {program}")).startswith(b"552")
    assert not (program.parent / "envelope").exists()


@given(sender=st.text(), recipients=st.lists(st.text(), min_size=1))
def test_an_envelope_is_read_as_it_was_meant_or_is_none(sender, recipients):
    (plugin,) = make_site(f"queue/qmail-queue {sys.executable}").plugins
    envelope = sys.modules[type(plugin).__module__]._envelope

    class Transaction:
        reverse_path = Mailbox(sender, "x.example")

    Transaction.recipients = [Mailbox(recipient, "x.example") for recipient in recipients]
    try:
        data = envelope(Transaction)
    except ValueError:
        return
    first, *others, end, last = data.split(b"\0")
    assert (end, last) == (b"", b"")
    assert first == f"F{sender}@x.example".encode("utf-8", "surrogateescape")
    assert others == [f"T{each}@x.example".encode("utf-8", "surrogateescape") for each in recipients]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "/var/qmail/bin/qmail-queue is no absolute path"),
        ("qmail-queue", "qmail-queue is no absolute path"),
        ("/etc", "/etc is no absolute path"),
        ("{program} timeout x", "timeout 'x' is no number"),
        ("{program} more", "the arguments come in pairs"),
    ],
)
def test_bad_arguments_are_seen_at_load(kit, program, words, message):
    assert not Path("/var/qmail").exists()
    with pytest.raises(ConfigError, match=message):
        kit(f"queue/qmail-queue {words.format(program=program)}")
