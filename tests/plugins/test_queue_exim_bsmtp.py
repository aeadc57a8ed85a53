"""What `queue/exim-bsmtp` says to Exim, and what it makes of the answer.

The real Exim is asked in `tests/peers/test_queues.py`.
"""

import signal
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qpsmtpd import Mailbox, Plugin
from qpsmtpd.config import ConfigError
from qpsmtpd.testing import make_site

CONTENT = b"Message-Id: <a@b>\r\nSubject: x\r\n\r\n.dot\r\n\r\n..\r\n.\r\n\xff\x00\r\n"
LATER = b"452 4.3.0 the message cannot be queued now, please try again later\r\n"

# Keeps what it is told beside itself, and does what the files there say.
PROGRAM = f"""#!{sys.executable} -IS
import os, signal, sys
here = os.path.dirname(__file__)
with open(here + "/batch", "wb") as file:
    file.write(" ".join(sys.argv[1:]).encode() + b"\\n" + sys.stdin.buffer.read())
for number, name in ((1, "out"), (2, "err")):
    if os.path.exists(here + "/" + name):
        os.write(number, open(here + "/" + name, "rb").read())
status = int(open(here + "/status").read()) if os.path.exists(here + "/status") else 0
if status == -1:
    signal.pause()
if status == -2:
    os.kill(os.getpid(), signal.SIGTERM)
sys.exit(status)
"""


@pytest.fixture
def program(tmp_path):
    path = tmp_path / "exim"
    path.write_text(PROGRAM)
    path.chmod(0o700)
    return path


def deliver(stage, content=CONTENT):
    client = stage.connect()
    client.say("EHLO c.example")
    client.say('MAIL FROM:<"a b"@client.example>')
    client.say("RCPT TO:<one@x.example>")
    client.say('RCPT TO:<"$(touch y)>;"@x.example>')
    client.say("DATA")
    return client.send((b"\r\n" + content).replace(b"\r\n.", b"\r\n..")[2:] + b".\r\n")


def test_exim_is_given_a_batch(kit, program):
    stage = kit(f"queue/exim-bsmtp exim_path {program}")
    assert deliver(stage) == b"250 2.0.0 Queued! <a@b>\r\n"
    assert stage.logged("queue::exim-bsmtp: pass, queued by Exim\n")
    arguments, _, batch = (program.parent / "batch").read_bytes().partition(b"\n")
    assert arguments == b"-bS"
    head, _, content = batch.partition(b"DATA\r\n")
    assert head.split(b"\r\n") == [
        b"HELO mx.example.test",
        b'MAIL FROM:<"a\\ b"@client.example>',
        b"RCPT TO:<one@x.example>",
        b'RCPT TO:<"$\\(touch\\ y\\)\\>\\;"@x.example>',
        b"",
    ]
    assert content.startswith(b"Authentication-Results: ")
    assert content.endswith(b"\r\n\r\n..dot\r\n\r\n...\r\n..\r\n\xff\x00\r\n.\r\nQUIT\r\n")


def test_a_bounce_has_an_empty_path(kit, program):
    kit(f"queue/exim-bsmtp exim_path {program}").connect().deliver(sender="")
    assert b"\r\nMAIL FROM:<>\r\n" in (program.parent / "batch").read_bytes()


def test_bare_line_ends_cannot_end_the_message(kit, program):
    client = kit(f"queue/exim-bsmtp exim_path {program}", config={"extensions": ["BINARYMIME"]}).connect()
    client.say("EHLO c.example")
    client.say("MAIL FROM:<a@x.example> BODY=BINARYMIME")
    client.say("RCPT TO:<b@x.example>")
    content = b"Subject: x\r\n\r\nx\n.\nMAIL FROM:<evil@x.example>\r.\rx\n.\r\nno end"
    assert client.send(b"BDAT %d LAST\r\n" % len(content) + content).startswith(b"250")
    assert (
        (program.parent / "batch")
        .read_bytes()
        .endswith(b"\r\n\r\nx\r\n..\r\nMAIL FROM:<evil@x.example>\r\n..\r\nx\r\n..\r\nno end\r\n.\r\nQUIT\r\n")
    )


@pytest.mark.parametrize(
    ("said", "status", "reply"),
    [
        ("501 malformed address\nTransaction started in line 1\n", 2, b"552 5.3.0 malformed address\r\n"),
        ("550-no\n550 such user\n", 2, b"552 5.3.0 no\r\n"),
        ("552 5.3.4 too big", 0, b"552 5.3.4 too big\r\n"),
        ("421 Lost incoming connection\n", 2, b"452 4.3.0 Lost incoming connection\r\n"),
        ("451 " + "x" * 500, 2, b"452 4.3.0 " + b"x" * 200 + b"\r\n"),
        ("", 1, LATER),
        ("2026-11-26 550 in a log line\n", 1, LATER),
        ("something in the log\n", 0, b"250 2.0.0 Queued! <a@b>\r\n"),
    ],
)
@pytest.mark.parametrize("stream", ["out", "err"])
def test_what_exim_says_decides(kit, program, said, status, reply, stream):
    (program.parent / stream).write_text(said)
    (program.parent / "status").write_text(str(status))
    stage = kit(f"queue/exim-bsmtp exim_path {program}")
    assert deliver(stage) == reply
    assert not said or stage.logged(f"{program} says: ")


def test_an_exim_that_is_killed_or_hangs_or_is_gone_is_452(kit, program):
    stage = kit(f"queue/exim-bsmtp exim_path {program} timeout 0.3")
    for status, what in (("-2", f"ended with -{signal.SIGTERM:d}"), ("-1", "no answer within 0.3 s")):
        (program.parent / "status").write_text(status)
        assert deliver(stage) == LATER
        assert stage.logged(what)
    program.unlink()
    assert deliver(stage) == LATER
    assert stage.logged(f"error, {program}: ")


def test_a_large_message_comes_from_its_spool_file(kit, program):
    body = b"0123456789\r\n" * 100_000
    stage = kit(f"queue/exim-bsmtp exim_path {program}", config={"size_threshold": ["10000"]})
    assert deliver(stage, b"Subject: x\r\n\r\n" + body)[:3] == b"250"
    assert (program.parent / "batch").read_bytes().endswith(b"\r\n\r\n" + body + b".\r\nQUIT\r\n")


class Adds(Plugin):
    def hook_data_post(self, transaction):
        transaction.add_recipient(Mailbox("a\r\nRCPT TO:<evil", "x.example"))


def test_an_address_that_would_be_a_command_is_refused(kit, program):
    assert deliver(kit(Adds, f"queue/exim-bsmtp exim_path {program}")).startswith(b"552")
    assert not (program.parent / "batch").exists()


@given(st.text(), st.lists(st.text()))
def test_every_address_is_one_line_or_none(sender, recipients):
    (plugin,) = make_site(f"queue/exim-bsmtp exim_path {sys.executable}").plugins
    envelope = sys.modules[type(plugin).__module__]._envelope

    class Transaction:
        reverse_path = Mailbox(sender, "x.example")

    Transaction.recipients = [Mailbox(recipient, "x.example") for recipient in recipients]
    try:
        lines = envelope(Transaction, "mx.example").split(b"\r\n")
    except ValueError:
        return
    assert len(lines) == len(recipients) + 4
    assert not any(b"\n" in line or b"\r" in line for line in lines)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("exim_path exim4", "exim4 is no absolute path"),
        ("exim_path /nowhere/exim4", "/nowhere/exim4 is no absolute path"),
        ("{program}", "the arguments come in pairs"),
        ("exim_path {program} timeout -1", "timeout '-1' is no number"),
        ("exim {program}", "unknown argument 'exim'"),
    ],
)
def test_bad_arguments_are_seen_at_load(kit, program, words, message):
    with pytest.raises(ConfigError, match=message):
        kit(f"queue/exim-bsmtp {words.format(program=program)}")
