"""What `queue/smtp-forward` says to the next server, and what it makes of the answers."""

import contextlib
import gc
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
        *(("", "no server"), ("localhost 70000", "no port"), ("localhost x", "pairs"), ("localhost 1x", "no port"), ("/run/x", "no host")),
        *(("localhost:25 26", "no room"), ("::1", "neither HOST:PORT"), ("localhost 25 tls maybe", "is none of")),
        *(("localhost ca /x", "ca is of use"), ("localhost tls yes ca /nonexistent", "No such file")),
        *(("localhost timeout 0", "above 0"), ("localhost helo a\u00e4", "not a host name"), ("localhost tls", "pairs")),
        *(("localhost reject 0", "unknown argument"), ("localhost 25 xclient 25", "pairs")),
    ],
)
def test_arguments_that_make_no_sense_are_errors(kit, arguments, why):
    with pytest.raises(ConfigError, match=why):
        kit(f"queue/smtp-forward {arguments}")


@pytest.mark.parametrize("arguments", ["mx.example", "mx.example 25 timeout 5", "mx.example helo a.example", "[::1] 26"])
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
        assert taken.sender == "MAIL FROM:<j\u00f6rg@example.net>" + (mail % len(taken.content) if "%" in mail else mail)
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
    assert made.logged(f"{'fail' if told == 552 else 'error'}, localhost:{to.port}: <b@example.org> {said}")
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
    reply = deliver(stage(to, "timeout 0.2"), content=CONTENT * 100_000)
    assert (reply.code, reply.enhanced) == (452, "4.4.2")


def test_a_server_that_refuses_in_the_middle_of_the_content_is_heard(server, stage):
    to = server({"BDAT": ["552 5.3.4 enough"]}, offers=FAST)
    reply = deliver(stage(to), content=CONTENT * 40_000)
    assert (reply.code, reply.enhanced, reply.text) == (552, "5.3.4", "enough")
    assert not to.taken


def test_nobody_there_is_a_temporary_problem(stage):
    with MailServer() as to:
        pass
    made = stage(to)
    reply = deliver(made)
    assert (reply.code, reply.enhanced) == (452, "4.4.0")
    assert made.logged(f"error, localhost:{to.port}: Connection refused")
