"""Plugins that have messages judged, and the daemons that judge: ClamAV, SpamAssassin, Rspamd, and OpenDKIM as a milter."""

import pytest
from servers import DOMAIN, MARKER

from qpsmtpd import OK, Plugin
from qpsmtpd.testing import Kit

CONTENT = b"From: <a@x.example>\r\nTo: <b@x.example>\r\nSubject: hello\r\nMessage-Id: <id@x.example>\r\n\r\na line\r\n"
MARKED = CONTENT + MARKER + b"\r\n"


class Keep(Plugin):
    content = b""

    def hook_rcpt(self, transaction, recipient, parameters):
        return OK

    def hook_queue(self, transaction):
        Keep.content = b"".join(transaction.chunks())
        return OK


def deliver(line, content, recipients=("b@x.example",), **config):
    """Send a message through a plugin: gives the last reply, the message that was queued, and the stage."""
    Keep.content = b""
    stage = Kit(line, Keep, config={"me": ["mx.example"], **config})
    reply = stage.connect().deliver(content, sender="a@x.example", recipients=recipients)[-1]
    return reply, Keep.content, stage


@pytest.fixture(params=["stream", "descriptor", "path"])
def clamdscan(request, clamd):
    """The plugin, in each way that a message comes to clamd."""
    return f"virus/clamdscan clamd_socket {clamd.path} defer_on_error yes transfer {request.param}"


def test_clamd_refuses_a_virus_and_lets_others_pass(clamdscan):
    reply, message, stage = deliver(clamdscan, CONTENT)
    assert reply.code == 250, stage.log
    assert message.startswith(b"X-Virus-Found: No\r\nX-Virus-Checked: by ClamAV ")
    reply, message, stage = deliver(clamdscan, MARKED)
    assert (reply.code, message) == (554, b""), stage.log
    assert "Marker" in reply.text


def test_clamd_says_what_is_too_large_for_it(clamd):
    large = CONTENT + (b"x" * 98 + b"\r\n") * 20_000
    line = f"virus/clamdscan clamd_port {clamd.port} max_size 10000 defer_on_error yes"
    reply, _, stage = deliver(line, large)
    assert reply.code == 451, stage.log
    assert stage.logged("clamdscan: error, 127.0.0.1:")
    assert stage.logged("INSTREAM size limit exceeded")


def test_spamd_marks_and_refuses_spam(spamd):
    line = f"spamassassin spamd_socket 127.0.0.1:{spamd.port}"
    reply, message, stage = deliver(line, CONTENT)
    assert reply.code == 250, stage.log
    assert b"X-Spam-Status: No, score=0.0 required=5.0 tests=" in message, stage.log
    reply, message, stage = deliver(f"{line} munge_subject_threshold 9", MARKED)
    assert b"X-Spam-Status: Yes, score=9.0 required=5.0 tests=MARKER" in message, stage.log
    assert b"\r\nSubject: *** SPAM *** hello\r\n" in message
    assert message.endswith(MARKED.partition(b"\r\n\r\n")[2])
    assert deliver(f"{line} reject 9", MARKED)[0].code == 554


def test_rspamd_marks_and_refuses_spam(rspamd):
    line = f"rspamd server 127.0.0.1:{rspamd.port} defer_on_error yes"
    reply, message, stage = deliver(line, CONTENT)
    assert reply.code == 250, stage.log
    assert stage.logged("rspamd: pass, no action"), stage.log
    assert b"X-From: a@x.example\r\n" in message
    reply, message, stage = deliver(line, MARKED)
    assert message.startswith((b"X-From", b"X-Helo")), stage.log
    assert b"X-Spam: Yes\r\n" in message, stage.log
    assert message.endswith(MARKED)
    reply, _, stage = deliver(line, MARKED, recipients=["b@x.example", "c@x.example"])
    assert reply.code == 554, stage.log


def test_opendkim_signs_a_message(opendkim):
    line = f"milter opendkim {opendkim.port} default tempfail"
    Keep.content = b""
    stage = Kit(line, Keep, config={"me": ["mx.example"]})
    content = CONTENT.replace(b"a@x.example", f"a@{DOMAIN}".encode())
    client = stage.connect()
    reply = client.deliver(content, sender=f"a@{DOMAIN}", recipients=["b@x.example"])[-1]
    client.say("QUIT")
    assert reply.code == 250, stage.log
    assert b"DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/simple; d=peer.example; s=sel;" in Keep.content, stage.log
    assert Keep.content.endswith(content)
