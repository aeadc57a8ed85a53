"""What `queue/smtp-forward` says to the next server, and what it makes of the answers."""

import contextlib
import gc
import socket
import ssl

import pytest
import trustme
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from mail_server import CLOSE, DEAFNESS, SILENCE, MailServer
from tests.plugins.conftest import Base

from qpsmtpd import OK, Mailbox, Plugin
from qpsmtpd.config import ConfigError
from qpsmtpd.plugins._next_hop import IDLE_SECONDS, KEPT
from qpsmtpd.session.role import ROLES
from qpsmtpd.testing import Kit

CONTENT = b"Subject: to be passed on\r\n\r\n..two dots\r\n.\r\nL\xc3\xa4ngere Zeile \xff\r\n.last\r\n"
FAST, ALL = ("PIPELINING", "CHUNKING"), ("PIPELINING", "CHUNKING", "SIZE 1000000", "8BITMIME", "DSN", "SMTPUTF8")


@pytest.fixture
def server():
    """Start servers; `server(...)` takes the arguments of `MailServer`."""
    with contextlib.ExitStack() as stack:
        yield lambda *args, **options: stack.enter_context(MailServer(*args, **options))


@pytest.fixture
def stage(kit, server):
    """A kit that forwards to a server: `stage(server, "more arguments", **of kit)`."""

    def stage(to, more="", **options):
        return kit(f"queue/smtp-forward localhost {to.port} {more}", **options)

    yield stage
    gc.collect()  # connections that were not closed would warn


def deliver(stage, *recipients, content=CONTENT, client=None):
    """Deliver a message; give the reply to its content."""
    client = client or stage.connect()
    return client.deliver(content, recipients=recipients or ("b@example.org",))[-1]


def say(client, *lines):
    """Say lines, that each are accepted."""
    for line in lines:
        assert client.say(line).code < 400


# Arguments


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        *(
            ("", "no server"),
            ("localhost 70000", "no port"),
            ("localhost x", "pairs"),
            ("localhost 1x", "no port"),
            ("/run/x", "no host"),
        ),
        *(("localhost:25 26", "no room"), ("::1", "neither HOST:PORT"), ("localhost 25 tls maybe", "is none of")),
        *(("localhost ca /x", "ca is of use"), ("localhost tls yes ca /nonexistent", "No such file")),
        *(
            ("localhost timeout 0", "above 0"),
            ("localhost helo a\u00e4", "not a host name"),
            ("localhost tls", "pairs"),
        ),
        *(("localhost reject 0", "unknown argument"), ("localhost 25 xclient 25", "pairs")),
    ],
)
def test_arguments_that_make_no_sense_are_errors(kit, arguments, why):
    with pytest.raises(ConfigError, match=why):
        kit(f"queue/smtp-forward {arguments}")


@pytest.mark.parametrize(
    "arguments", ["mx.example", "mx.example 25 timeout 5", "mx.example helo a.example", "[::1] 26"]
)
def test_a_port_may_be_left_out(kit, arguments):
    assert not kit(f"queue/smtp-forward {arguments}").logged("timeouthook")


def test_a_timeout_that_a_hook_does_not_have_is_complained_about(kit):
    assert kit("queue/smtp-forward localhost timeout 120").logged("timeout 120 is not below config/timeouthook (120)")


# What is sent


@pytest.mark.parametrize("offers", [(), ("PIPELINING",), ("CHUNKING",), FAST, ALL])
def test_a_message_arrives_byte_for_byte(server, stage, offers):
    to = server(offers=offers)
    made = stage(to, "helo relay.example")
    reply = deliver(made, "b@example.org", "c@example.org", "b@example.org")
    assert (reply.code, reply.enhanced, reply.text) == (250, "2.0.0", "Queued! taken")
    (taken,) = to.taken
    assert taken.content.endswith(b"\r\n" + CONTENT)
    assert taken.content.startswith(b"Authentication-Results: ")
    assert [line.split()[1] for line in taken.recipients] == ["TO:<b@example.org>", "TO:<c@example.org>"]
    assert to.said[0][0] == "EHLO relay.example"
    assert made.logged(f"pass, localhost:{to.port}: <c@example.org> 250 2.0.0 taken")
    assert made.calls("queue")[-1].code is OK


def test_a_large_message_is_passed_on_from_its_file(server, stage):
    to, content = server(offers=ALL), CONTENT + b"x" * 998 + b"\r\n" * 300_000
    assert deliver(stage(to, config={"size_threshold": ["1000"]}), content=content).code == 250
    assert to.taken[0].content.endswith(content)


def test_the_name_of_this_server_is_its_greeting(server, stage):
    to = server()
    assert deliver(stage(to)).code == 250
    assert to.said[0][0] == "EHLO mx.example.test"


PARAMETERS = "RET=HDRS ENVID=one BODY=8BITMIME"


def test_parameters_go_along_where_they_are_understood(server, stage):
    for offers, mail, rcpt in (
        (ALL, " SIZE=%d BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=one", " NOTIFY=FAILURE ORCPT=rfc822;b@example.net"),
        (("SMTPUTF8",), " SMTPUTF8", ""),
    ):
        to = server(offers=offers)
        client = stage(to).connect()
        client.send(b"EHLO client.example\r\n")
        say(client, f"MAIL FROM:<j\u00f6rg@example.net> SMTPUTF8 {PARAMETERS}")
        say(client, "RCPT TO:<b@example.org> NOTIFY=FAILURE ORCPT=rfc822;b@example.net", "DATA")
        assert client.send(CONTENT.replace(b"\r\n.", b"\r\n..") + b".\r\n").startswith(b"250 ")
        (taken,) = to.taken
        assert taken.sender == "MAIL FROM:<j\u00f6rg@example.net>" + (
            mail % len(taken.content) if "%" in mail else mail
        )
        assert taken.recipients == [f"RCPT TO:<b@example.org>{rcpt}"]


@pytest.mark.parametrize(
    ("mail", "text"),
    [
        ("MAIL FROM:<a@example.net> BODY=BINARYMIME", "BINARYMIME"),
        ("MAIL FROM:<\u00e4@example.net> SMTPUTF8", "SMTPUTF8"),
        ("MAIL FROM:<a@example.net> BY=100;R", "DELIVERBY"),
    ],
)
def test_promises_that_the_next_server_does_not_keep_are_refused(server, stage, mail, text):
    to = server(offers=FAST)
    made = stage(to, config={"extensions": ["BINARYMIME", "DELIVERBY"]})
    client = made.connect()
    client.send(b"EHLO client.example\r\n")
    say(client, mail, "RCPT TO:<b@example.org>")
    assert client.send(b"BDAT 2 LAST\r\n\r\n").startswith(b"552 5.")
    assert text in client.transcript[-1]
    assert not to.taken
    assert "MAIL" not in to.commands


def test_an_old_header_that_is_not_ascii_is_passed_on_as_it_is(server, stage):
    to, content = server(), b"Subject: gr\xfc\xdfe\r\n\r\n"
    assert deliver(stage(to), content=content).code == 250
    assert to.taken[0].content.endswith(content)


def test_a_message_that_is_too_large_is_refused_before_it_is_sent(server, stage):
    to = server(offers=("SIZE 100",))
    reply = deliver(stage(to))
    assert (reply.code, reply.enhanced) == (552, "5.3.4")
    assert "MAIL" not in to.commands


# Answers


@pytest.mark.parametrize("offers", [(), FAST])
@pytest.mark.parametrize("point", ["MAIL", "RCPT", "DATA", "END"])
@pytest.mark.parametrize(("said", "told"), [("554 5.6.9 we do not like it", 552), ("451 4.6.9 we do not like it", 452)])
def test_a_refusal_is_passed_on_with_its_text(server, stage, offers, point, said, told):
    if point == "DATA" and offers:
        offers = ("PIPELINING",)
    to = server({point: [said]}, offers=offers)
    made = stage(to)
    reply = deliver(made)
    assert (reply.code, reply.enhanced) == (told, f"{str(told)[0]}.6.9")
    assert reply.text == "we do not like it"
    assert made.logged(f"fail, localhost:{to.port}: <b@example.org> {said}")
    assert not any(taken.confirmed for taken in to.taken)


def test_what_the_next_server_says_cannot_break_a_reply_or_the_log(server, stage):
    said = "\r\n".join(f"550-5.1.1 a\x00\x1b\xff{'x' * 500}" for _ in range(9)) + "\r\n550 5.1.1 end"
    made = stage(server({"MAIL": [said]}))
    reply = deliver(made)
    assert (reply.code, reply.enhanced) == (552, "5.1.1")
    assert len(reply.text) <= 4 * 300
    assert "\x1b" not in reply.text
    assert not made.logged("\x1b")


@pytest.mark.parametrize("point", ["GREETING", "EHLO"])
def test_a_server_that_serves_nobody_says_nothing_of_the_message(server, stage, point):
    made = stage(server({point: ["554 5.3.2 no service here"] * 2, "HELO": ["554 no"]}))
    reply = deliver(made)
    assert (reply.code, reply.text) == (452, "no service here")
    assert made.logged("error, localhost:")


@pytest.mark.parametrize("wrong", [CLOSE, "what?", "250 OK\r\n250 OK"])
@pytest.mark.parametrize("point", ["GREETING", "EHLO", "MAIL", "RCPT", "DATA", "END"])
def test_a_server_that_goes_or_makes_no_sense_is_a_temporary_problem(server, stage, point, wrong):
    to = server({point: [wrong]})
    reply = deliver(stage(to))
    if point == "END" and wrong.startswith("250"):
        assert reply.code == 250
    else:
        assert reply.code == 452
    assert len(to.said) == 1


@pytest.mark.parametrize("point", ["GREETING", "EHLO", "MAIL", "RCPT", "DATA", "END"])
def test_a_server_that_is_late_is_a_temporary_problem(server, stage, point):
    to = server({point: [SILENCE]})
    made = stage(to, "timeout 0.1")
    reply = deliver(made)
    assert (reply.code, reply.enhanced) == (452, "4.4.2")
    assert made.logged("error, localhost:")
    assert len(to.said) == 1


def test_a_server_that_takes_no_content_is_late(server, stage):
    to = server({"DATA": [("354 go on", DEAFNESS)]})
    reply = deliver(stage(to, "timeout 0.2"), content=CONTENT * 60_000)
    assert (reply.code, reply.enhanced) == (452, "4.4.2")


def test_a_server_that_refuses_in_the_middle_of_the_content_is_heard(server, stage):
    to = server({"BDAT": ["552 5.3.4 enough"]}, offers=FAST)
    reply = deliver(stage(to), content=CONTENT * 40_000)
    assert (reply.code, reply.enhanced, reply.text) == (552, "5.3.4", "enough")
    assert not to.taken


def test_a_server_that_refuses_and_goes_in_the_middle_of_the_content_is_heard(server, stage):
    to = server({"BDAT": [("552 5.3.4 enough", CLOSE)]}, offers=FAST)
    reply = deliver(stage(to), content=CONTENT * 40_000)
    assert (reply.code, reply.enhanced, reply.text) == (552, "5.3.4", "enough")
    assert not to.taken


class Broken(Plugin):
    """Has content that cannot be read to its end."""

    def hook_queue_pre(self, transaction):
        transaction.chunks = self._chunks

    def _chunks(self):
        yield CONTENT * 10_000
        raise OSError(5, "Input/output error")


@pytest.mark.parametrize("offers", [(), FAST])
def test_content_that_cannot_be_read_is_a_temporary_problem_and_not_passed_on(kit, server, offers):
    to = server(offers=offers)
    made = kit(Broken, f"queue/smtp-forward localhost {to.port}")
    assert deliver(made).code == 452
    assert made.logged("Input/output error")
    to.hang_up()
    assert not to.taken


def test_nobody_there_is_a_temporary_problem(stage):
    with MailServer() as to:
        pass
    made = stage(to)
    reply = deliver(made)
    assert (reply.code, reply.enhanced) == (452, "4.4.0")
    assert made.logged(f"error, localhost:{to.port}: Connection refused")


# Several recipients


@pytest.mark.parametrize("offers", [(), FAST])
@pytest.mark.parametrize(
    ("answers", "code", "text"),
    [
        ([None, "550 5.1.1 unknown", None], 552, "<b2@x.example>: unknown; nobody has got the message"),
        ([None, "450 4.2.1 busy", None], 452, "<b2@x.example>: busy; nobody has got the message"),
        ([None, "550 5.1.1 unknown", "450 busy"], 552, "<b2@x.example>: unknown; nobody has got the message"),
        (["550 5.1.1 unknown"] * 3, 552, "unknown"),
    ],
)
def test_a_message_goes_to_all_or_to_none(server, stage, offers, answers, code, text):
    to = server({"RCPT": answers}, offers=offers)
    reply = deliver(stage(to), "b1@x.example", "b2@x.example", "b3@x.example")
    assert reply.code == code
    if answers[0] is None or offers:
        assert reply.text == text
    assert not to.taken


def test_many_refused_recipients_make_no_long_reply(server, stage):
    to = server({"RCPT": [None, *["550 5.1.1 " + "no" * 500] * 30]}, offers=FAST)
    reply = deliver(stage(to), *(f"b{n}@x.example" for n in range(31)))
    assert "and 25 more" in reply.text
    assert len(reply.text) < 3000


def test_under_lmtp_each_recipient_is_passed_on_alone(server, stage):
    to = server({"RCPT": [None, "550 5.1.1 unknown", None]})
    client = stage(to).connect(role=ROLES["lmtp"])
    client.send(b"LHLO client.example\r\n")
    say(client, "MAIL FROM:<a@x.example>", "RCPT TO:<b1@x.example>", "RCPT TO:<b2@x.example>")
    say(client, "RCPT TO:<b3@x.example>", "DATA")
    replies = client.send(CONTENT.replace(b"\r\n.", b"\r\n..") + b".\r\n").splitlines()
    assert [line[:3] for line in replies] == [b"250", b"552", b"250"]
    assert [taken.recipients for taken in to.taken] == [["RCPT TO:<b1@x.example>"], ["RCPT TO:<b3@x.example>"]]


# Connections


def test_a_connection_is_used_again(server, stage):
    to = server(offers=FAST)
    made = stage(to)
    client = made.connect()
    assert [deliver(made, client=client).code for _ in range(3)] == [250] * 3
    assert len(to.said) == 1
    assert len(to.taken) == 3


def test_a_connection_is_not_used_again_after_some_seconds(server, stage):
    to = server()
    made = stage(to)
    client = made.connect()
    assert deliver(made, client=client).code == 250
    made.clock.advance(IDLE_SECONDS + 1)
    assert deliver(made, client=client).code == 250
    assert len(to.said) == 2
    to.hang_up()
    assert to.said[0][-1] == "QUIT"


@pytest.mark.parametrize("later", ["421 4.4.2 idle too long", "250 what?"])
def test_a_connection_on_which_the_server_has_spoken_is_not_used_again(server, stage, later):
    to = server(later=later)
    made = stage(to)
    assert deliver(made).code == 250
    ((_, talk),) = made.site.plugins[0]._next_hop._pool._waiting
    talk.stream._socket.settimeout(20)
    assert talk.stream._socket.recv(1, socket.MSG_PEEK)
    assert deliver(made).code == 250
    assert [line.split()[0] for line in to.said[0]].count("MAIL") == 1
    assert len(to.taken) == 2


@pytest.mark.parametrize("point", ["MAIL", "RCPT", "DATA"])
@pytest.mark.parametrize("wrong", [CLOSE, "421 4.3.2 bye"])
def test_a_message_is_tried_once_again_if_a_used_connection_fails(server, stage, point, wrong):
    to = server({point: [None, wrong]}, {})
    made = stage(to)
    assert [deliver(made).code for _ in range(2)] == [250] * 2
    assert len(to.said) == 2
    assert len(to.taken) == 2


@pytest.mark.parametrize("offers", [(), FAST])
def test_a_message_is_not_tried_again_once_its_content_is_sent(server, stage, offers):
    to = server({"END": [None, CLOSE]}, {}, offers=offers)
    made = stage(to)
    assert [deliver(made).code for _ in range(2)] == [250, 452]
    assert len(to.said) == 1


def test_a_message_is_not_tried_again_if_a_new_connection_fails(server, stage):
    to = server({"MAIL": [CLOSE]}, {})
    assert deliver(stage(to)).code == 452
    assert len(to.said) == 1


def test_no_more_than_some_connections_wait(server, stage):
    to = server()
    hop = next(iter(stage(to).site.plugins))._next_hop
    talks = [hop._connect(20) for _ in range(KEPT + 2)]
    for talk in talks:
        hop._pool.put(talk)
    assert len(hop._pool._waiting) == KEPT


# Encryption


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture(scope="module")
def ca(authority, tmp_path_factory):
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return path


def context(authority, name="localhost"):
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(made)
    return made


@pytest.mark.parametrize("tls", ["starttls", "yes"])
@pytest.mark.parametrize("name", ["localhost", "other.example"])
def test_mail_goes_encrypted_and_to_nobody_else(server, stage, authority, ca, tls, name):
    to = server(tls=context(authority, name), implicit=tls == "yes", offers=FAST)
    made = stage(to, f"tls {tls} ca {ca}")
    codes = [deliver(made).code for _ in range(2)]
    if name == "localhost":
        assert codes == [250, 250]
        assert ("STARTTLS" in to.commands) == (tls == "starttls")
        assert len(to.said) == 1
    else:
        assert codes == [452, 452]
        assert made.logged("certificate")
        assert "MAIL" not in to.commands


def test_where_tls_is_asked_for_nothing_goes_without(server, stage):
    to = server()
    assert deliver(stage(to, "tls starttls")).code == 452
    assert "MAIL" not in to.commands


# XCLIENT


def test_the_server_is_told_for_whom_mail_is_passed_on(server, stage):
    to = server(offers=("XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT",))
    made = stage(to, "xclient")
    assert deliver(made, client=made.connect("192.0.2.7", "good.example")).code == 250
    assert deliver(made, client=made.connect("2001:db8::7", None)).code == 250
    first, second = (line for line in to.said[0] if line.startswith("XCLIENT"))
    assert first.startswith("XCLIENT NAME=good.example ADDR=192.0.2.7 PORT=")
    assert " PROTO=ESMTP HELO=client.example LOGIN=[UNAVAILABLE] DESTADDR=" in first
    assert second.startswith("XCLIENT NAME=[UNAVAILABLE] ADDR=IPV6:2001:db8::7 ")


def test_a_server_that_does_not_want_to_know_or_was_not_to_be_told_is_not(server, stage):
    for more, offers in (("xclient", ()), ("", ("XCLIENT ADDR",))):
        to = server(offers=offers)
        assert deliver(stage(to, more)).code == 250
        assert "XCLIENT" not in to.commands


# Anything

OFFERS = st.lists(st.sampled_from(["PIPELINING", "CHUNKING", "SIZE", "8BITMIME"]), unique=True)
POINTS = ["GREETING", "EHLO", "MAIL", "RCPT", "DATA", "BDAT", "END", "RSET", "QUIT"]
WRONG = st.sampled_from(
    [None, None, CLOSE, "421 4.3.2 bye", "450 not now", "550 5.1.1 no", "250 OK\r\n250 OK", "354 what", "x"]
)
SCRIPTS = st.lists(st.dictionaries(st.sampled_from(POINTS), st.lists(WRONG, max_size=4), max_size=3), max_size=3)


def check_that_nothing_is_lost_or_claimed(plugin, script, offers, counts, *, lmtp):
    """Deliver messages, and hold what the client is told against what the server has said."""
    with MailServer(*script, lmtp=lmtp, offers=offers) as to:
        made = Kit(f"{plugin} localhost {to.port}", Base)
        client = made.connect()
        for count in counts:
            before, recipients = len(to.taken), [f"b{n}@x.example" for n in range(count)]
            reply = deliver(made, *recipients, client=client)
            taken = to.taken[before:]
            assert len(taken) <= 1
            if reply.code == 250:
                assert taken[0].confirmed == [f"RCPT TO:<{each}>" for each in recipients]
                assert taken[0].content.endswith(CONTENT)
            else:
                assert reply.code in (452, 552)
                assert "5.1.1 no" in str(script) or reply.code == 452
            if not any(script):
                assert reply.code == 250
        del made, client
    gc.collect()


@given(SCRIPTS, OFFERS, st.lists(st.integers(1, 3), min_size=1, max_size=3))
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@example([{"END": [CLOSE]}], ["PIPELINING"], [2, 2])
def test_whatever_goes_wrong_nothing_is_lost_claimed_or_sent_twice(script, offers, counts):
    check_that_nothing_is_lost_or_claimed("queue/smtp-forward", script, offers, counts, lmtp=False)


class Odd(Plugin):
    """Puts odd things into an envelope, as a plugin may."""

    envelope = (Mailbox("a", "x.example"), [], {})

    def hook_queue_pre(self, transaction):
        sender, recipients, parameters = Odd.envelope
        transaction.sender, transaction.sender_parameters = sender, parameters
        for recipient in recipients:
            transaction.add_recipient(recipient, parameters)


TEXT = st.text(st.characters(codec=None) | st.sampled_from('\r\n\0<>@" \udc80\ud800'), max_size=6)
MAILBOXES = st.builds(Mailbox, TEXT, st.none() | TEXT)
ODD_PARAMETERS = st.dictionaries(
    st.sampled_from(["ret", "envid", "orcpt", "size", "X y"]), st.none() | TEXT, max_size=2
)


@given(MAILBOXES, st.lists(MAILBOXES, min_size=1, max_size=2), ODD_PARAMETERS, TEXT)
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_envelope_adds_a_command_or_raises(sender, recipients, parameters, helo):
    Odd.envelope = sender, recipients, parameters
    with MailServer(offers=(*ALL, "XCLIENT HELO ADDR")) as to:
        made = Kit(Odd, f"queue/smtp-forward localhost {to.port} xclient", Base)
        client = made.connect()
        client.send(b"EHLO client.example\r\n")
        client.connection.hello_host = helo
        reply = deliver(made, client=client)
        assert reply.code in (250, 452, 552)
        assert not made.logged("Traceback")
        known = {"EHLO", "XCLIENT", "MAIL", "RCPT", "BDAT", "RSET", "QUIT"}
        assert set(to.commands) <= known
        assert to.commands.count("RCPT") <= len(recipients) + 1
        del made, client
    gc.collect()
