"""Our plugins that pass messages on, and other people's servers behind them."""

import pytest
from servers import DOMAIN

from qpsmtpd import OK, Plugin
from qpsmtpd.testing import Kit

CONTENT = b"Subject: a real mail\r\n\r\n..two dots\r\n.\r\n.\r\nL\xc3\xa4ngere Zeile \xff\r\n\r\n.last\r\n"
LARGE = b"Subject: large\r\n\r\n" + b"".join(b"%s%d \xc3\xa4 line\r\n" % (b"." * (i % 3), i) for i in range(20_000))
ALICE, BOB, NOBODY = (f"{user}@{DOMAIN}" for user in ("alice", "bob", "nobody"))


class Accepts(Plugin):
    def hook_rcpt(self, transaction, recipient, parameters):
        return OK


def deliver(stage, *recipients, content=CONTENT, client=None):
    return (client or stage.connect("192.0.2.7", "good.example")).deliver(content, recipients=recipients)[-1]


def kept(mail, content):
    """Whether a message has come as it was sent, behind what servers write before it, with LF or CRLF."""
    return mail.endswith((b"\n" + content.replace(b"\r\n", b"\n"), b"\r\n" + content))


@pytest.mark.parametrize("tls", [True, False])
@pytest.mark.parametrize("content", [CONTENT, LARGE], ids=["small", "large"])
def test_mail_is_passed_on_byte_for_byte(mta, files, tls, content):
    made = Kit(Accepts, f"queue/smtp-forward localhost {mta.address[1]} {f'tls starttls ca {files.ca}' if tls else ''}")
    client = made.connect()
    for _ in range(2):
        assert deliver(made, ALICE, BOB, content=content, client=client).code == 250
    for user in ("alice", "bob"):
        assert all(kept(mail, content) for mail in mta.inbox(user, 2))


def test_mail_is_passed_on_to_a_server_that_offers_little(postfix):
    made = Kit(Accepts, f"queue/smtp-forward localhost {postfix.also['bare'][1]}")
    assert deliver(made, ALICE, content=LARGE).code == 250
    assert kept(postfix.inbox("alice")[0], LARGE)


def test_a_certificate_of_nobody_we_know_gets_no_mail(mta):
    made = Kit(Accepts, f"queue/smtp-forward localhost {mta.address[1]} tls starttls")
    assert deliver(made, ALICE).code == 452
    assert made.logged("certificate verify failed")


def test_mail_goes_to_all_or_to_none(mta):
    made = Kit(Accepts, f"queue/smtp-forward localhost {mta.address[1]}")
    client = made.connect()
    reply = deliver(made, ALICE, NOBODY, client=client)
    assert reply.code == 552
    assert reply.text.startswith(f"<{NOBODY}>: ")
    assert deliver(made, BOB, client=client).code == 250
    assert kept(mta.inbox("bob")[0], CONTENT)
    assert not list((mta.mail / "alice" / "new").glob("*"))


def test_what_a_client_asks_for_goes_along(mta):
    made = Kit(Accepts, f"queue/smtp-forward localhost {mta.address[1]}")
    client = made.connect()
    client.send(b"EHLO client.example\r\n")
    for line in (
        "MAIL FROM:<j\u00f6rg@example.org> SMTPUTF8 BODY=8BITMIME RET=HDRS ENVID=one",
        f"RCPT TO:<{ALICE}> NOTIFY=NEVER ORCPT=rfc822;a@example.net",
        "DATA",
    ):
        assert client.say(line).code < 400
    assert client.send(b"Subject: \xc3\xa4\r\n\r\n.\r\n").startswith(b"250 ")
    (mail,) = mta.inbox("alice")
    assert "j\u00f6rg@example.org".encode() in mail


def test_postfix_is_told_for_whom_mail_is_passed_on(postfix):
    made = Kit(Accepts, f"queue/smtp-forward localhost {postfix.also['trusting'][1]} xclient")
    assert deliver(made, ALICE, client=made.connect("192.0.2.7", "good.example")).code == 250
    assert deliver(made, BOB, client=made.connect("192.0.2.8", None)).code == 250
    assert b"from client.example (good.example [192.0.2.7])" in postfix.inbox("alice")[0]
    assert b"(unknown [192.0.2.8])" in postfix.inbox("bob")[0]
    assert len(made.site.plugins[-1]._next_hop._pool._waiting) == 1  # one connection for both


@pytest.mark.parametrize("way", ["port", "path", "tls"])
@pytest.mark.parametrize("content", [CONTENT, LARGE], ids=["small", "large"])
def test_mail_is_delivered_to_dovecot_byte_for_byte(dovecot, files, way, content):
    where = dovecot.path if way == "path" else f"localhost {dovecot.address[1]}"
    made = Kit(Accepts, f"queue/lmtp {where} {f'tls starttls ca {files.ca}' if way == 'tls' else ''}")
    client = made.connect()
    for _ in range(2):
        assert deliver(made, ALICE, BOB, content=content, client=client).code == 250
    for user in ("alice", "bob"):
        assert all(mail.endswith(b"\r\n" + content) for mail in dovecot.inbox(user, 2))
    reply = deliver(made, ALICE, NOBODY, client=client)
    assert reply.code == 552
    assert reply.text.startswith(f"<{NOBODY}>: ")
