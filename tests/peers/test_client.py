"""Our client against other people's servers."""

import ssl

import pytest
from pump import talk
from servers import DOMAIN, MECHANISMS, PASSWORD

from qpsmtpd.protocol import Mailbox
from qpsmtpd.protocol.client import Client, Message, Stage, TlsUse
from qpsmtpd.protocol.sasl import Login

SENDER = Mailbox("me", "example.org")
ALICE, BOB, NOBODY = (Mailbox(user, DOMAIN) for user in ("alice", "bob", "nobody"))
HEADER = b"Subject: a real mail\r\n\r\n"
CONTENT = (
    HEADER + b"..two dots\r\n.\r\n.\r\nL\xc3\xa4ngere Zeile \xff\r\n\r\n" + b"a long line " * 80 + b"\r\n.last\r\n"
)
LARGE = HEADER + b"".join(b"%s%d \xc3\xa4 line\r\n" % (b"." * (i % 3), i) for i in range(20_000))


@pytest.fixture
def trust(files):
    return ssl.create_default_context(cafile=files.ca)


def kept(mail, content):
    """Whether a message has come as it was sent, behind what servers write before it, with their line ends."""
    return mail.endswith(b"\n" + content.replace(b"\r\n", b"\n"))


def became(results):
    """For each recipient, what was said last and when."""
    return [(result.recipient, result.at, result.reply.code) for result in results]


def client(*messages, **options):
    """A client that sends messages and quits."""
    made = Client("client.example", **options)
    for message in messages:
        made.send(message)
    made.quit()
    return made


@pytest.mark.parametrize("content", [CONTENT, LARGE], ids=["small", "large"])
def test_mail_arrives_by_starttls_and_chunks(mta, trust, content):
    sender = client(Message(SENDER, [ALICE, NOBODY, BOB], content), tls=TlsUse.REQUIRED)
    story = talk(sender, mta.address, trust)
    assert story.breakdown is None
    assert became(story.results()) == [(ALICE, Stage.END, 250), (NOBODY, Stage.RCPT, 550), (BOB, Stage.END, 250)]
    assert sender.security.version == "TLSv1.3"
    for user in ("alice", "bob"):
        (mail,) = mta.inbox(user)
        assert kept(mail, content)
    (envelope,) = [data for data in story.written if data.startswith(b"MAIL FROM:")]
    assert envelope.count(b"\r\nRCPT TO:") == 3  # all in one write: pipelined
    assert any(data.startswith(b"BDAT ") for data in story.written)


@pytest.mark.parametrize("content", [CONTENT, LARGE], ids=["small", "large"])
def test_mail_arrives_without_pipelining_and_chunks(postfix, trust, content):
    story = talk(client(Message(SENDER, [ALICE, NOBODY, BOB], content)), postfix.also["bare"], trust)
    assert became(story.results()) == [(ALICE, Stage.END, 250), (NOBODY, Stage.RCPT, 550), (BOB, Stage.END, 250)]
    for user in ("alice", "bob"):
        (mail,) = postfix.inbox(user)
        assert kept(mail, content)
    assert b"DATA\r\n" in story.written


def test_content_may_come_in_any_pieces(mta, trust):
    pieces = [LARGE[i : i + 999] for i in range(0, len(LARGE), 999)]
    story = talk(client(Message(SENDER, [ALICE], iter(pieces))), mta.address, trust)
    assert became(story.results()) == [(ALICE, Stage.END, 250)]
    (mail,) = mta.inbox("alice")
    assert kept(mail, LARGE)


def test_one_connection_carries_several_messages(mta, trust):
    messages = [Message(SENDER, [to], HEADER + b"%d\r\n" % i) for i, to in enumerate([ALICE, NOBODY, ALICE, BOB])]
    story = talk(client(*messages), mta.address, trust)
    assert [report.message for report in story.reports] == messages
    assert [result.delivered for report in story.reports for result in report.results] == [True, False, True, True]
    assert sorted(mail[-3:] for mail in mta.inbox("alice", 2)) == [b"\n0\n", b"\n2\n"]
    assert kept(mta.inbox("bob")[0], HEADER + b"3\r\n")


def test_a_null_sender_and_text_beyond_ascii_are_taken(mta, trust):
    content = "Subject: Größe\r\n\r\nja\r\n".encode()
    story = talk(client(Message(Mailbox("", None), [ALICE], content)), mta.address, trust)
    assert became(story.results()) == [(ALICE, Stage.END, 250)]
    assert b"MAIL FROM:<> " in b"".join(story.written)
    (mail,) = mta.inbox("alice")
    assert kept(mail, content)


def test_a_certificate_of_nobody_we_know_ends_the_session_before_mail(mta):
    story = talk(client(Message(SENDER, [ALICE], CONTENT)), mta.address, ssl.create_default_context())
    assert story.breakdown.at is Stage.STARTTLS
    (result,) = story.results()
    assert result.temporary
    assert not any(b"MAIL" in data for data in story.written)


@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("password", [PASSWORD, "a guess"])
def test_mail_of_a_user_who_authenticates(submission, trust, mechanism, password):
    sender = client(
        Message(SENDER, [ALICE], CONTENT), tls=TlsUse.REQUIRED, login=Login("alice", password), nonce="fyko+d2lbbFgONRv9qk"
    )  # fmt: skip
    story = talk(sender, submission.also[mechanism], trust)
    assert b"".join(story.written).count(b"AUTH " + mechanism.encode()) == 1
    (result,) = story.results()
    if password == PASSWORD:
        assert sender.authenticated
        assert result.delivered
        (mail,) = submission.inbox("alice")
        assert kept(mail, CONTENT)
    else:
        assert not sender.authenticated
        assert (result.at, result.reply.code, result.permanent) == (Stage.AUTH, 535, False)


@pytest.mark.parametrize("way", ["port", "path"])
@pytest.mark.parametrize("content", [CONTENT, LARGE], ids=["small", "large"])
def test_dovecot_answers_for_every_recipient(dovecot, trust, way, content):
    address = dovecot.address if way == "port" else dovecot.path
    messages = [Message(SENDER, [ALICE, NOBODY, BOB], content), Message(SENDER, [BOB], content)]
    story = talk(client(*messages, lmtp=True), address, trust)
    assert story.breakdown is None
    first, second = story.reports
    assert became(first.results) == [(ALICE, Stage.END, 250), (NOBODY, Stage.RCPT, 550), (BOB, Stage.END, 250)]
    assert [result.reply.text.split()[0] for result in first.results if result.delivered] == [ALICE.path, BOB.path]
    assert became(second.results) == [(BOB, Stage.END, 250)]
    for mail in dovecot.inbox("alice") + dovecot.inbox("bob", 2):
        assert mail.endswith(b"\r\n" + content)  # with the line ends that were sent


def test_data_is_pipelined_where_chunks_are_not_offered(smtp_sink):
    with smtp_sink() as sink:
        story = talk(client(Message(SENDER, [ALICE, BOB], LARGE)), sink.address)
        assert became(story.results()) == [(ALICE, Stage.END, 250), (BOB, Stage.END, 250)]
        (mail,) = sink.messages()
        assert kept(mail, LARGE + b"\r\n")  # the sink's own empty line
    assert [data.count(b"\r\n") for data in story.written if data.endswith(b"\r\nDATA\r\n")] == [4]


FAULTS = {"-r": 450, "-f": 500, "-Q": 421, "-q": None}
MOMENTS = {
    "CONNECT": Stage.GREETING, "EHLO,HELO": Stage.HELLO, "MAIL": Stage.MAIL, "RCPT": Stage.RCPT, "DATA": Stage.DATA,
    ".": Stage.END,
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_fault_is_told_for_what_it_is(smtp_sink, fault, moment):
    with smtp_sink(fault, moment) as sink:
        story = talk(client(Message(SENDER, [ALICE, BOB], CONTENT)), sink.address)
    for result in story.results():
        assert result.at is MOMENTS[moment]
        assert result.reply.code == FAULTS[fault] or (fault == "-q" and result.local)
        assert result.permanent == (fault == "-f")
        assert result.uncertain == (fault == "-q" and moment == ".")
    assert (story.breakdown is not None) == (fault in ("-q", "-Q") or moment in ("CONNECT", "EHLO,HELO"))


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_at_quit_takes_nothing_back(smtp_sink, fault):
    with smtp_sink(fault, "QUIT") as sink:
        story = talk(client(Message(SENDER, [ALICE], CONTENT)), sink.address)
    assert became(story.results()) == [(ALICE, Stage.END, 250)]


def test_a_server_that_refuses_in_the_middle_of_the_content_is_heard(smtp_sink):
    with smtp_sink("-A", "0") as sink:
        story = talk(client(Message(SENDER, [ALICE], LARGE * 20)), sink.address)
    (result,) = story.results()
    assert (result.reply.code, result.permanent) == (550, True)
