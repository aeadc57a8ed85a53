"""Messages that real scanners judge: clamd and spamd."""

import pytest
import servers

from qpsmtpd import OK, Plugin
from qpsmtpd.testing import Kit

CLEAN = b"From: a@client.example\r\nSubject: hello\r\n\r\nNothing here.\r\n"
INFECTED = CLEAN + servers.VIRUS + b"\r\n"
SPAM = CLEAN + servers.SPAM + b"\r\n"


class Takes(Plugin):
    """Accepts every recipient, and keeps the header of every message."""

    headers = ()

    def hook_rcpt(self, transaction, recipient, parameters):
        return OK

    def hook_queue(self, transaction):
        Takes.headers = [(field.name, field.value) for field in transaction.header.fields]
        return OK


def judged(line, content, **config):
    """The reply to a message, and its header as it was queued."""
    kit = Kit(line, Takes, config=config)
    Takes.headers = ()
    reply = kit.connect().deliver(content)[-1]
    assert not kit.logged("Traceback")
    assert not kit.logged("error, "), kit.logged("error, ")
    return reply, dict(Takes.headers)


@pytest.fixture(params=["port", "stream", "descriptor", "path"])
def clamdscan(request, clamd, tmp_path):
    """A line with the plugin, for each way to hand a message over."""
    if request.param == "port":
        return f"virus/clamdscan clamd_port {clamd.address[1]}"
    return f"virus/clamdscan clamd_socket {clamd.path} transfer {request.param}"


def test_clamd_finds_a_virus(clamdscan):
    reply, _ = judged(clamdscan, INFECTED)
    assert (reply.code, reply.text) == (554, "Virus found: Test.Marker.UNOFFICIAL")
    reply, header = judged(f"{clamdscan} deny_viruses no", INFECTED)
    assert reply.code == 250
    assert (header["X-Virus-Found"], header["X-Virus-Details"]) == ("Yes", "Test.Marker.UNOFFICIAL")


def test_clamd_finds_none_in_a_clean_message(clamdscan):
    reply, header = judged(clamdscan, CLEAN)
    assert reply.code == 250
    assert header["X-Virus-Found"] == "No"
    assert header["X-Virus-Checked"].startswith("by ClamAV 1.")


def test_clamd_finds_a_virus_in_a_spooled_message(clamdscan):
    large = CLEAN + b"filler\r\n" * 10_000 + servers.VIRUS + b"\r\n"
    assert judged(clamdscan, large, size_threshold=["1000"])[0].code == 554


def test_what_is_too_large_for_clamd_is_not_scanned_and_passes(clamd):
    line = f"virus/clamdscan clamd_port {clamd.address[1]} max_size 10000"
    kit = Kit(line, Takes)
    assert kit.connect().deliver(CLEAN + b"filler\r\n" * 300_000)[-1].code == 250
    assert kit.logged("clamdscan: error, ")
    kit = Kit(f"{line} defer_on_error yes", Takes)
    assert kit.connect().deliver(CLEAN + b"filler\r\n" * 300_000)[-1].code == 451


def test_spamd_gives_a_score(spamd):
    where = f"spamassassin spamd_socket 127.0.0.1:{spamd.address[1]}"
    assert judged(f"{where} reject 12", SPAM)[0].code == 554
    reply, header = judged(f"{where} reject 12", CLEAN.replace(b"hello", b"mild"))
    assert reply.code == 250
    assert header["X-Spam-Status"].startswith("No, score=3.5 required=5.0 tests=MILD")
    reply, header = judged(f"{where} munge_subject_threshold 3", SPAM.replace(b"hello", b"mild"))
    assert (reply.code, header["Subject"]) == (250, "*** SPAM *** mild")
    assert header["X-Spam-Status"].startswith("Yes, score=23.5 required=5.0 tests=MILD,SPAM")


def test_spamd_is_not_fooled_by_what_a_message_says_of_itself(spamd):
    forged = b"X-Spam-Status: No, score=-99 required=5.0 tests=X\r\nX-Spam-Flag: NO\r\n" + SPAM
    line = f"spamassassin spamd_socket 127.0.0.1:{spamd.address[1]}"
    assert judged(f"{line} reject 12", forged)[0].code == 554
    _, header = judged(line, forged)
    assert header["X-Spam-Status"].startswith("Yes, score=20.0")
    assert header["X-Old-Spam-Status"].startswith("No, score=-99")


@pytest.mark.parametrize(
    ("subject", "code", "field"),
    [(b"hello", 250, None), (b"grey", 250, None), (b"mild", 250, "Yes"), (b"later", 451, None)],
)
def test_rspamd_says_what_becomes_of_a_message(rspamd, subject, code, field):
    line = f"rspamd server 127.0.0.1:{rspamd.address[1]}"
    reply, header = judged(line, CLEAN.replace(b"hello", subject))
    assert (reply.code, header.get("X-Spam")) == (code, field)
    if code == 451:
        assert reply.text == "come again later"


def test_rspamd_refuses_spam_and_rewrites_subjects(rspamd):
    line = f"rspamd server 127.0.0.1:{rspamd.address[1]}"
    assert judged(line, SPAM)[0].code == 554
    assert judged(f"{line} reject 0", SPAM)[0].code == 250
    reply, header = judged(line, CLEAN.replace(b"hello", b"rewrite"))
    assert (reply.code, header["Subject"], header["X-Spam"]) == (250, "[SPAM] rewrite", "Yes")
    assert judged(f"{line} greylist yes", CLEAN.replace(b"hello", b"grey"))[0].code == 451


def test_rspamd_is_told_of_the_client_and_may_change_the_header(rspamd):
    line = f"rspamd server 127.0.0.1:{rspamd.address[1]}"
    _, header = judged(line, b"X-Remove: this\r\nX-Spam: No\r\n" + CLEAN)
    assert header["X-Facts"] == "192.0.2.10 client.example client.example  a@client.example 1"
    assert "X-Remove" not in header
    assert "X-Spam" not in header
