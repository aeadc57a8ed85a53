"""The queue plugins hand messages to the real Postfix and the real Exim, which deliver them."""

import pytest
from servers import DOMAIN, program

from qpsmtpd import OK, Plugin
from qpsmtpd.testing import Kit

BODY = b"..two dots\r\n.\r\n\xff8bit\r\n" + b"x" * 5000 + b"\r\n" + b"a line\r\n" * 20_000 + b"\r\nlast\r\n"
CONTENT = b"From: <a@x.example>\r\nSubject: a real mail\r\nMessage-Id: <id@x.example>\r\n\r\n" + BODY


class Accepts(Plugin):
    def hook_rcpt(self, transaction, recipient, parameters):
        return OK


def deliver(line, content=CONTENT, mail="", users=("alice", "bob"), sender='"od d"@example.org'):
    """Send a message through a plugin; give the kit and the last reply."""
    stage = Kit(line, Accepts, config={"size_threshold": ["50000"], "extensions": ["DSN", "SMTPUTF8"]})
    client = stage.connect()
    client.say("EHLO c.example")
    assert client.say(f"MAIL FROM:<{sender}>{mail}").code == 250
    for user in users:
        client.say(f"RCPT TO:<{user}@{DOMAIN}>")
    client.say("DATA")
    return stage, client.send((b"\r\n" + content).replace(b"\r\n.", b"\r\n..")[2:] + b".\r\n")


def test_postfix_delivers_what_it_is_handed(postfix):
    line = f"queue/postfix-queue {postfix.path} FLAG_MASK_EXTERNAL"
    stage, reply = deliver(line, mail=" RET=HDRS ENVID=x+2By")
    assert reply.startswith(b"250 2.0.0 Queued! <id@x.example> (Queue-Id: "), stage.log
    for user in ("alice", "bob"):
        (mail,) = postfix.inbox(user)
        assert mail.startswith(b'Return-Path: <"od d"@example.org>\n')
        assert mail.endswith(CONTENT.replace(b"\r\n", b"\n"))
        assert mail.count(b"\nReceived: ") == 1


def test_postfix_says_that_a_message_goes_round_in_circles(postfix):
    stage, reply = deliver(f"queue/postfix-queue {postfix.path}", b"Received: x\r\n" * 60 + CONTENT)
    assert reply.startswith(b"552 5.4.0 "), stage.log
    assert stage.logged("status 16: ")
    assert not list(postfix.mail.glob("*/new/*"))


def test_postfix_forgets_a_message_that_breaks_off(postfix, monkeypatch):
    def broken(self):
        yield b"Received: x\nSubject: x\n"
        raise OSError("broken")

    with monkeypatch.context() as patch:
        patch.setattr("qpsmtpd.session.message.Message.lf_chunks", broken)
        assert deliver(f"queue/postfix-queue {postfix.path}")[1].startswith(b"452")
    deliver(f"queue/postfix-queue {postfix.path}", users=["carol"])
    postfix.inbox("carol")
    assert not list(postfix.mail.glob("[ab]*/new/*"))


@pytest.fixture
def line(exim, tmp_path):
    """The plugin's line, with an Exim that knows the configuration of the one that runs."""
    path = tmp_path / "exim"
    path.write_text(f'#!/bin/sh\nexec {program("exim4")} -C {exim.mail.parent}/exim.conf "$@"\n')
    path.chmod(0o755)
    return f"queue/exim-bsmtp exim_path {path}"


def test_exim_delivers_what_it_is_handed(exim, line):
    stage, reply = deliver(line)
    assert reply == b"250 2.0.0 Queued! <id@x.example>\r\n", stage.log
    for user in ("alice", "bob"):
        (mail,) = exim.inbox(user)
        assert b'(envelope-from <"od\\ d"@example.org>)' in mail
        assert mail.endswith(b"\n\n" + BODY.replace(b"\r\n", b"\n"))


def test_exim_refuses_a_domain_that_is_not_ascii(exim, line):
    stage, reply = deliver(line, sender="a@b\u00fccher.example", mail=" SMTPUTF8")
    assert reply.startswith(b"552 5.3.0 "), stage.log
    assert not list(exim.mail.glob("*/new/*"))
