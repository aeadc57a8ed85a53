"""The client's side: dialogues with a scripted server, then our own server, then any bytes at all."""

import base64
import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.protocol.conftest import AUTH_HOOKS, singly
from tests.protocol.conftest import Driver as ServerDriver

from qpsmtpd.protocol import (
    CLOSED,
    DECLINED,
    DEFAULT_EXTENSIONS,
    DENY,
    DENYSOFT,
    DRAIN,
    NEED_DATA,
    NULL_PATH,
    OK,
    Content,
    Extension,
    Limits,
    LineEndings,
    LocalProtocolError,
    Mailbox,
    Reply,
    ScramVerifier,
    Security,
    StartTls,
    XClient,
    hooks,
    parse_path,
)
from qpsmtpd.protocol.client import Client
from qpsmtpd.protocol.outgoing import (
    TIMEOUTS,
    Breakdown,
    ClientLimits,
    Message,
    Ready,
    Recipient,
    Report,
    Stage,
    TlsUse,
)
from qpsmtpd.protocol.sasl import Login
from qpsmtpd.testing.strategies import cut, cuts

SECURITY = Security("TLSv1.3", "TLS_AES_256_GCM_SHA384")
SENDER = Mailbox("sender", "example.org")
ONE, TWO, THREE = (Mailbox(name, "example.net") for name in ("one", "two", "three"))
BODY = b"Subject: test\r\n\r\nHello\r\n"


def message(*recipients, content=BODY, sender=SENDER, octets=None, **parameters):
    named = {name.replace("_", "-"): value for name, value in parameters.items()}
    return Message(sender, recipients or (ONE,), content, named, octets)


def client(*messages, quits=True, security=None, **settings):
    """A client with something to do; `host.example` by name."""
    made = Client("host.example", **settings)
    if security is not None:
        made.secure(security)
    for each in messages:
        made.send(each)
    if quits:
        made.quit()
    return made


class Scripted:
    """Plays a dialogue: `S:` what the server sends, `C:` what the client has to send then, exactly.

    `TLS` ends the handshake that the client has asked for; `EOF` and `TIMEOUT` are what they say.
    """

    def __init__(self, client, dialogue, cutting=lambda data: [data]):
        self.client, self.events, self.sent, self.closed, self.shaking = client, [], b"", False, False
        self._run()
        lines = [line.strip() for line in dialogue.strip().splitlines()]
        for kind, group in itertools.groupby(lines, key=lambda line: line[:2]):
            data = b"".join(line[3:].encode("utf-8", "surrogateescape") + b"\r\n" for line in group)
            match kind:
                case "S:":
                    for piece in cutting(data):
                        self.client.receive_data(piece)
                        self._run()
                case "C:":
                    assert self.sent == data
                    self.sent = b""
                case "TL":
                    assert self.shaking
                    self.client.secure(SECURITY)
                    self.shaking = False
                    self._run()
                case "EO":
                    self.shaking = False
                    self.client.receive_data(b"")
                    self._run()
                case "TI":
                    self.shaking = False
                    self.client.timed_out()
                    self._run()
        assert self.sent == b""

    def _run(self):
        while not self.closed and not self.shaking:
            event = self.client.next_event()
            self.sent += self.client.data_to_send()
            if event is NEED_DATA:
                return
            if event is CLOSED:
                self.closed = True
            elif isinstance(event, StartTls):
                self.shaking = True
            elif isinstance(event, Ready):
                if self.events[-1:] != [event]:
                    self.events.append(event)
                return
            elif event is not DRAIN:
                self.events.append(event)


def play(dialogue, make, *, closed=True):
    """Play a dialogue in one piece and byte by byte; the events, which are the same."""
    whole, bytewise = Scripted(make(), dialogue), Scripted(make(), dialogue, singly)
    assert whole.closed is bytewise.closed is closed
    assert [type(event) for event in whole.events] == [type(event) for event in bytewise.events]
    assert summary(whole.events) == summary(bytewise.events)
    return whole.events


def summary(events):
    """Reports as lists of (code, stage), breakdowns as tuples."""
    return [
        [(result.reply.code, result.at) for result in event.results]
        if isinstance(event, Report)
        else (event.reply.code, event.at)
        for event in events
        if not isinstance(event, Ready)
    ]


def results(events):
    return [result for event in events if isinstance(event, Report) for result in event.results]


HELLO = """
    S: 220 mx.example ESMTP
    C: EHLO host.example
"""
PIPELINING = f"""{HELLO}
    S: 250-mx.example
    S: 250-PIPELINING
    S: 250 8BITMIME
"""
SENT = """
    C: Subject: test
    C:
    C: Hello
    C: .
"""
BYE = """
    C: QUIT
    S: 221 Bye
"""


# A mail transaction


def test_without_pipelining_each_command_waits_for_its_reply():
    events = play(
        f"""{HELLO}
        S: 250 mx.example
        C: MAIL FROM:<sender@example.org>
        S: 250 OK
        C: RCPT TO:<one@example.net>
        S: 250 OK
        C: RCPT TO:<two@example.net>
        S: 251 Will forward
        C: DATA
        S: 354 Go on
        {SENT}
        S: 250 2.6.0 Queued as 1
        {BYE}""",
        lambda: client(message(ONE, TWO)),
    )
    assert [(r.recipient, r.reply, r.at, r.delivered) for r in results(events)] == [
        (each, Reply(250, "2.6.0", "Queued as 1"), Stage.END, True) for each in (ONE, TWO)
    ]


def test_with_pipelining_the_envelope_goes_out_at_once():
    events = play(
        f"""{PIPELINING}
        C: MAIL FROM:<sender@example.org>
        C: RCPT TO:<one@example.net>
        C: RCPT TO:<two@example.net>
        C: DATA
        S: 250 OK
        S: 250 OK
        S: 250 OK
        S: 354 Go on
        {SENT}
        S: 250 Queued
        {BYE}""",
        lambda: client(message(ONE, TWO)),
    )
    assert summary(events) == [[(250, Stage.END)] * 2]


def test_a_refused_recipient_does_not_hinder_the_others():
    events = play(
        f"""{PIPELINING}
        C: MAIL FROM:<sender@example.org>
        C: RCPT TO:<one@example.net>
        C: RCPT TO:<two@example.net>
        C: RCPT TO:<three@example.net>
        C: DATA
        S: 250 OK
        S: 550 5.1.1 No such user
        S: 250 OK
        S: 450-4.2.1 Not
        S: 450 4.2.1 now
        S: 354 Go on
        {SENT}
        S: 250 Queued
        {BYE}""",
        lambda: client(message(ONE, TWO, THREE)),
    )
    assert summary(events) == [[(550, Stage.RCPT), (250, Stage.END), (450, Stage.RCPT)]]
    assert [(r.permanent, r.temporary, r.delivered) for r in results(events)] == [
        (True, False, False),
        (False, False, True),
        (False, True, False),
    ]
    assert results(events)[2].reply == Reply(450, "4.2.1", "Not\nnow")


ALL_REFUSED = f"""{PIPELINING}
    C: MAIL FROM:<sender@example.org>
    C: RCPT TO:<one@example.net>
    C: DATA
    S: 250 OK
    S: 550 No
"""


def test_a_server_that_wants_content_for_nobody_gets_an_empty_one():
    events = play(
        f"""{ALL_REFUSED}
        S: 354 Go on
        C: .
        S: 250 Whatever
        {BYE}""",
        lambda: client(message()),
    )
    assert summary(events) == [[(550, Stage.RCPT)]]


def test_the_next_transaction_begins_with_rset_if_the_last_one_was_given_up():
    events = play(
        f"""{ALL_REFUSED}
        S: 503 No recipients
        C: RSET
        C: MAIL FROM:<sender@example.org>
        C: RCPT TO:<two@example.net>
        C: DATA
        S: 250 Reset
        S: 250 OK
        S: 250 OK
        S: 451 Not now
        {BYE}""",
        lambda: client(message(), message(TWO)),
    )
    assert summary(events) == [[(550, Stage.RCPT)], [(451, Stage.DATA)]]


def test_a_refused_rset_ends_the_session():
    events = play(
        f"""{ALL_REFUSED}
        S: 503 No recipients
        C: RSET
        C: MAIL FROM:<sender@example.org>
        C: RCPT TO:<two@example.net>
        C: DATA
        S: 500 What?""",
        lambda: client(message(), message(TWO), message(THREE)),
    )
    assert summary(events) == [[(550, Stage.RCPT)], (500, Stage.RSET), [(500, Stage.RSET)], [(500, Stage.IDLE)]]
    assert [result.temporary for result in results(events)] == [False, True, True]


def test_a_refused_sender_is_the_result_for_all_recipients():
    events = play(
        f"""{PIPELINING}
        C: MAIL FROM:<sender@example.org>
        C: RCPT TO:<one@example.net>
        C: RCPT TO:<two@example.net>
        C: DATA
        S: 550 5.7.1 Not you
        S: 503 MAIL first
        S: 250 Strange
        S: 503 MAIL first
        {BYE}""",
        lambda: client(message(ONE, TWO)),
    )
    assert summary(events) == [[(550, Stage.MAIL)] * 2]


def test_without_pipelining_nothing_follows_a_refused_sender():
    events = play(
        f"""{HELLO}
        S: 250 mx.example
        C: MAIL FROM:<sender@example.org>
        S: 451 Not now
        {BYE}""",
        lambda: client(message(ONE, TWO)),
    )
    assert summary(events) == [[(451, Stage.MAIL)] * 2]


def test_groups_of_pipelined_commands_are_bounded():
    many = [Mailbox(f"u{number}", "example.net") for number in range(5)]
    events = play(
        f"""{PIPELINING}
        C: MAIL FROM:<sender@example.org>
        C: RCPT TO:<u0@example.net>
        C: RCPT TO:<u1@example.net>
        S: 250 OK
        S: 250 OK
        S: 550 No
        C: RCPT TO:<u2@example.net>
        C: RCPT TO:<u3@example.net>
        C: RCPT TO:<u4@example.net>
        S: 250 OK
        S: 550 No
        S: 250 OK
        C: DATA
        S: 354 Go on
        {SENT}
        S: 250 Queued
        {BYE}""",
        lambda: client(message(*many), limits=ClientLimits(group=3)),
    )
    assert [code for code, _ in summary(events)[0]] == [250, 550, 250, 550, 250]


def test_nothing_is_asked_when_all_recipients_have_been_refused():
    events = play(
        f"""{PIPELINING}
        C: MAIL FROM:<sender@example.org>
        C: RCPT TO:<one@example.net>
        S: 250 OK
        S: 550 No
        {BYE}""",
        lambda: client(message(), limits=ClientLimits(group=2)),
    )
    assert summary(events) == [[(550, Stage.RCPT)]]


def test_octets_bound_a_group_as_well():
    sent = Scripted(
        client(message(*[ONE] * 40), limits=ClientLimits(group_size=200), quits=False),
        f"""{PIPELINING}
        C: MAIL FROM:<sender@example.org>
        """
        + "C: RCPT TO:<one@example.net>\n" * 6,
    )
    assert not sent.closed


def test_dots_are_doubled_and_the_last_line_is_ended():
    events = play(
        f"""{PIPELINING}
        C: MAIL FROM:<sender@example.org> BODY=8BITMIME
        C: RCPT TO:<one@example.net>
        C: DATA
        S: 250 OK
        S: 250 OK
        S: 354 Go on
        C: ..
        C: ..b
        C: ...
        C: x.
        C: .
        S: 250 Queued
        {BYE}""",
        lambda: client(message(content=[b".", b"\r", b"\n.b\r\n", b"..\r\nx", b"."])),
    )
    assert results(events)[0].delivered


def test_552_to_a_recipient_means_too_many_unless_its_status_tells():
    def judged(reply):
        dialogue = f"""{HELLO}
            S: 250 mx
            C: MAIL FROM:<sender@example.org>
            S: 250 OK
            C: RCPT TO:<one@example.net>
            S: {reply}
            {BYE}"""
        return results(play(dialogue, lambda: client(message())))[0].permanent

    assert not judged("552 Too many")
    assert not judged("552 5.5.3 Too many")
    assert judged("552 5.2.2 Mailbox full")
    assert judged("550 No")


# The end of a session, before its time


AFTER_CONTENT = f"""{PIPELINING}
    C: MAIL FROM:<sender@example.org>
    C: RCPT TO:<one@example.net>
    C: DATA
    S: 250 OK
    S: 250 OK
    S: 354 Go on
    {SENT}
"""


@pytest.mark.parametrize("end", ["EOF", "TIMEOUT", "S: 2500 What?"])
def test_whether_a_message_was_taken_is_uncertain_without_a_verdict(end):
    events = play(f"{AFTER_CONTENT}\n{end}", lambda: client(message()))
    (result,) = results(events)
    assert result.uncertain
    assert result.temporary
    assert summary(events) == [(421, Stage.END), [(421, Stage.END)]]


def test_421_is_a_verdict_and_the_end():
    events = play(f"{AFTER_CONTENT}\nS: 421 4.3.2 Shutting down", lambda: client(message(), message(TWO)))
    assert summary(events) == [(421, Stage.END), [(421, Stage.END)], [(421, Stage.IDLE)]]
    assert not any(result.uncertain for result in results(events))


def test_a_message_whose_turn_never_came_is_not_uncertain():
    events = play(f"{AFTER_CONTENT}\nEOF", lambda: client(message(), message(TWO)))
    assert summary(events) == [(421, Stage.END), [(421, Stage.END)], [(421, Stage.IDLE)]]
    assert [result.uncertain for result in results(events)] == [True, False]


@pytest.mark.parametrize("commands", range(4))
@pytest.mark.parametrize("end", ["S: 421 Bye", "EOF", "TIMEOUT"])
def test_the_end_may_come_between_any_replies(commands, end):
    replies = "\n".join(["S: 250 OK"] * commands)
    dialogue = f"""{PIPELINING}
        C: MAIL FROM:<sender@example.org>
        C: RCPT TO:<one@example.net>
        C: RCPT TO:<two@example.net>
        C: DATA
        {replies}
        {end}"""
    events = play(dialogue, lambda: client(message(ONE, TWO)))
    stage = [Stage.MAIL, Stage.RCPT, Stage.RCPT, Stage.DATA][commands]
    assert summary(events) == [(421, stage), [(421, stage)] * 2]
    assert events[0].local is (end != "S: 421 Bye")


def test_what_was_settled_before_the_end_stays():
    events = play(
        f"""{PIPELINING}
        C: MAIL FROM:<sender@example.org>
        C: RCPT TO:<one@example.net>
        C: RCPT TO:<two@example.net>
        C: DATA
        S: 250 OK
        S: 550 No
        EOF""",
        lambda: client(message(ONE, TWO)),
    )
    assert summary(events) == [(421, Stage.RCPT), [(550, Stage.RCPT), (421, Stage.RCPT)]]


@pytest.mark.parametrize(
    ("greeting", "permanent"), [("554 No mail here", True), ("450 Not now", False), ("521 Never", True)]
)
def test_a_refused_greeting_is_the_result_of_every_message(greeting, permanent):
    events = play(f"S: {greeting}{BYE}", lambda: client(message(), message(TWO)))
    code = int(greeting[:3])
    assert summary(events) == [(code, Stage.GREETING), [(code, Stage.GREETING)], [(code, Stage.GREETING)]]
    assert [result.permanent for result in results(events)] == [permanent] * 2


@pytest.mark.parametrize(
    "line",
    [
        *("", "22", "2200 x", "120 x", "620 x", "ab0 x", "220x", "220-a\n S: 250 b", "\x00\xff", "354 Go on"),
        *(
            "2\u0662\u0660 x",
            "+20 x",
            "220-" + "x" * 16_400,
            "\n".join(["220-" + "x" * 8000] + ["S: 220-" + "x" * 8000] * 9),
        ),
    ],
)
def test_what_is_no_reply_ends_the_session(line):
    events = play(f"S: {line}", lambda: client(message()))
    assert summary(events) == [(421, Stage.GREETING), [(421, Stage.GREETING)]]
    assert results(events)[0].local


def test_a_reply_that_never_ends_is_not_kept():
    made = client()
    made.next_event()
    made.receive_data(b"220" + b"x" * 16_384)
    assert isinstance(made.next_event(), Breakdown)
    assert made.next_event() is CLOSED
    made.receive_data(b"x" * 100)
    assert made.next_event() is CLOSED


def test_reply_lines_may_end_in_a_bare_lf():
    made = client(quits=False)
    made.next_event()
    made.receive_data(b"220-a\n220\n")
    assert made.next_event() is NEED_DATA
    assert made.data_to_send() == b"EHLO host.example\r\n"


def test_the_service_may_end_right_behind_a_reply():
    made = client(message(), quits=False)
    made.next_event()
    made.receive_data(b"220 a\r\n421 b\r\n")
    event = made.next_event()
    assert isinstance(event, Breakdown)
    assert event.reply == Reply(421, None, "b")
    assert not event.local


def test_a_status_code_of_another_class_is_text():
    made = client(quits=False)
    made.next_event()
    made.receive_data(b"554 2.0.0 No\r\n")
    assert made.next_event() == Breakdown(Reply(554, None, "2.0.0 No"), Stage.GREETING)
    with pytest.raises(LocalProtocolError, match="ending"):
        made.send(message())


def test_a_reply_that_nobody_has_asked_for_ends_the_session():
    """A spare 250 would be taken for the answer to something else."""
    for spare in (b"250 b\r\n", b"2"):
        made = client(message(), quits=False)
        made.next_event()
        made.receive_data(b"220 a\r\n" + spare)
        event = made.next_event()
        assert isinstance(event, Breakdown)
        assert event.local
        assert made.data_to_send() == b""


@pytest.mark.parametrize(("line", "local"), [("421 Idle for too long", False), ("250 OK", True), ("550 No", True)])
def test_an_idle_session_hears_that_the_server_leaves(line, local):
    events = play(f"{PIPELINING}\nS: {line}", lambda: client(quits=False))
    assert events[0] == Ready()
    assert summary(events) == [(421, Stage.IDLE)]
    assert events[1].local is local


def test_an_idle_session_notices_the_end_of_the_connection():
    assert summary(play(f"{PIPELINING}\nEOF", lambda: client(quits=False))) == [(421, Stage.IDLE)]


def test_an_idle_session_quits_when_its_time_is_over():
    assert summary(play(f"{PIPELINING}\nTIMEOUT{BYE}", lambda: client(quits=False))) == []


@pytest.mark.parametrize("end", ["EOF", "TIMEOUT", "S: nonsense", "S: 500 No"])
def test_nothing_depends_on_the_reply_to_quit(end):
    assert summary(play(f"{PIPELINING}\nC: QUIT\n{end}", client)) == []


def test_a_reply_in_the_middle_of_the_content_ends_the_session():
    def sends(reply):
        made = client(
            message(content=[b"x" * 100 + b"\r\n"] * 100), message(TWO), limits=ClientLimits(piece=1024), quits=False
        )
        for data in [b"220 a\r\n", b"250 a\r\n", b"250 a\r\n", b"250 a\r\n", b"354 a\r\n"]:
            assert made.next_event() is NEED_DATA
            made.data_to_send()
            made.receive_data(data)
        assert made.next_event() is DRAIN
        made.data_to_send()
        made.receive_data(reply)
        events = list(iter(made.next_event, CLOSED))
        assert b"\r\n.\r\n" not in made.data_to_send()
        assert events[0].local is (reply[:3] != b"421")
        return summary(events)

    lost = [(421, Stage.CONTENT), [(421, Stage.CONTENT)], [(421, Stage.IDLE)]]
    assert sends(b"552 Too large\r\n") == [(421, Stage.CONTENT), [(552, Stage.CONTENT)], [(421, Stage.IDLE)]]
    assert sends(b"250 Thanks\r\n") == lost
    assert sends(b"421 Bye\r\n") == lost
    assert sends(b"") == lost


# EHLO, HELO and LHLO


def test_helo_is_for_servers_that_do_not_know_ehlo():
    events = play(
        f"""{HELLO}
        S: 502 What?
        C: HELO host.example
        S: 250 mx.example
        C: MAIL FROM:<sender@example.org>
        S: 250 OK
        C: RCPT TO:<one@example.net>
        S: 250 OK
        C: DATA
        S: 354 Go on
        {SENT}
        S: 250 Queued
        {BYE}""",
        lambda: client(message()),
    )
    assert results(events)[0].delivered


@pytest.mark.parametrize("refusals", ["S: 450 Not now", "S: 500 What?\n C: HELO host.example\n S: 550 Not you"])
def test_a_refused_hello_is_the_result_of_every_message(refusals):
    events = play(f"{HELLO}\n{refusals}{BYE}", lambda: client(message()))
    assert {stage for _, stage in [events[0] and summary(events)[0]]} == {Stage.HELLO}


def test_lmtp_has_one_hello():
    events = play(f"S: 220 mx\nC: LHLO host.example\nS: 500 What?{BYE}", lambda: client(message(), lmtp=True))
    assert summary(events) == [(500, Stage.HELLO), [(500, Stage.HELLO)]]


def test_extensions_are_what_ehlo_says():
    made = client(quits=False)
    Scripted(
        made,
        f"""{HELLO}
        S: 250-mx.example says hello
        S: 250-size 1000
        S: 250-AUTH PLAIN LOGIN
        S: 250-AUTH=PLAIN
        S: 250-
        S: 250 2.0.0 really""",
    )
    assert made.extensions == {"SIZE": "1000", "AUTH": "PLAIN LOGIN", "REALLY": ""}


LMTP = """
    S: 220 mx.example LMTP
    C: LHLO host.example
    S: 250-mx.example
    S: 250 PIPELINING
    C: MAIL FROM:<sender@example.org>
    C: RCPT TO:<one@example.net>
    C: RCPT TO:<two@example.net>
    C: RCPT TO:<three@example.net>
    C: DATA
    S: 250 OK
"""


def test_lmtp_has_a_verdict_for_each_accepted_recipient():
    events = play(
        f"""{LMTP}
        S: 250 OK
        S: 550 No
        S: 250 OK
        S: 354 Go on
        {SENT}
        S: 452 Full
        S: 250 Delivered
        {BYE}""",
        lambda: client(message(ONE, TWO, THREE), lmtp=True),
    )
    assert summary(events) == [[(452, Stage.END), (550, Stage.RCPT), (250, Stage.END)]]


def test_lmtp_keeps_the_verdicts_that_came_before_the_end():
    events = play(
        f"""{LMTP}
        S: 250 OK
        S: 250 OK
        S: 250 OK
        S: 354 Go on
        {SENT}
        S: 250 Delivered
        EOF""",
        lambda: client(message(ONE, TWO, THREE), lmtp=True),
    )
    assert [(r.delivered, r.uncertain) for r in results(events)] == [(True, False), (False, True), (False, True)]


def test_lmtp_content_for_nobody_has_no_known_number_of_verdicts():
    events = play(f"{LMTP}" + "S: 550 No\n" * 3 + "S: 354 Go on", lambda: client(message(ONE, TWO, THREE), lmtp=True))
    assert summary(events) == [(421, Stage.DATA), [(550, Stage.RCPT)] * 3]


# To all or to none


def divided(*recipients):
    return Message(SENDER, recipients, BODY, all_or_none=True)


def test_content_for_all_or_none_is_not_sent_if_one_is_refused():
    events = play(
        f"""{PIPELINING}
        C: MAIL FROM:<sender@example.org>
        C: RCPT TO:<one@example.net>
        C: RCPT TO:<two@example.net>
        C: RCPT TO:<three@example.net>
        S: 250 OK
        S: 250 OK
        S: 550 No
        S: 250 OK
        C: RSET
        C: MAIL FROM:<sender@example.org>
        C: RCPT TO:<one@example.net>
        C: DATA
        S: 250 Reset
        S: 250 OK
        S: 250 OK
        S: 354 Go on
        {SENT}
        S: 250 Taken
        {BYE}""",
        lambda: client(divided(ONE, TWO, THREE), divided(ONE)),
    )
    assert summary(events) == [
        [(450, Stage.RCPT), (550, Stage.RCPT), (450, Stage.RCPT)],
        [(250, Stage.END)],
    ]
    assert [result.local for result in results(events)] == [True, False, True, False]
    assert not any(result.permanent for result in results(events) if result.local)


def test_content_for_all_or_none_is_sent_if_all_are_taken():
    events = play(
        f"""{PIPELINING}
        C: MAIL FROM:<sender@example.org>
        C: RCPT TO:<one@example.net>
        C: RCPT TO:<two@example.net>
        S: 250 OK
        S: 250 OK
        S: 250 OK
        C: DATA
        S: 354 Go on
        {SENT}
        S: 250 Taken
        {BYE}""",
        lambda: client(divided(ONE, TWO)),
    )
    assert summary(events) == [[(250, Stage.END), (250, Stage.END)]]


def test_content_for_all_or_none_is_not_sent_in_chunks_either():
    events = play(
        f"""{HELLO}
        S: 250-mx.example
        S: 250 CHUNKING
        C: MAIL FROM:<sender@example.org>
        S: 250 OK
        C: RCPT TO:<one@example.net>
        S: 250 OK
        C: RCPT TO:<two@example.net>
        S: 450 Not now
        {BYE}""",
        lambda: client(divided(ONE, TWO, THREE)),
    )
    assert summary(events) == [[(450, Stage.RCPT)] * 3]
    assert [result.local for result in results(events)] == [True, False, True]


def test_a_recipient_that_cannot_be_sent_stops_what_is_for_all_or_none():
    events = play(f"{PIPELINING}{BYE}", lambda: client(divided(ONE, Mailbox("\u00e4", "example.net"))))
    assert summary(events) == [[(450, Stage.RCPT), (553, Stage.RCPT)]]


# For another client

OFFERS_XCLIENT = """
    S: 250-mx.example
    S: 250 XCLIENT NAME ADDR LOGIN
"""
SENT_BY_ONE_COMMAND_AT_A_TIME = f"""
    C: MAIL FROM:<sender@example.org>
    S: 250 OK
    C: RCPT TO:<one@example.net>
    S: 250 OK
    C: DATA
    S: 354 Go on
    {SENT}
    S: 250 Taken
"""
A = XClient("a.example", "192.0.2.1", 25, "ESMTP", "a", "")
B = XClient("", "192.0.2.2", 25, "ESMTP", "b", "user")


def sent_for(*clients):
    return client(*(Message(SENDER, [ONE], BODY, client=each) for each in clients))


def test_a_server_is_told_whom_mail_is_sent_for_and_when_that_changes():
    events = play(
        f"""{HELLO}{OFFERS_XCLIENT}
        C: XCLIENT NAME=a.example ADDR=192.0.2.1 LOGIN=[UNAVAILABLE]
        S: 220 mx.example
        C: EHLO host.example
        {OFFERS_XCLIENT}
        {SENT_BY_ONE_COMMAND_AT_A_TIME * 2}
        C: XCLIENT NAME=[UNAVAILABLE] ADDR=192.0.2.2 LOGIN=user
        S: 220 mx.example
        C: EHLO host.example
        {OFFERS_XCLIENT}
        {SENT_BY_ONE_COMMAND_AT_A_TIME}
        {BYE}""",
        lambda: sent_for(A, A, B),
    )
    assert summary(events) == [[(250, Stage.END)]] * 3


@pytest.mark.parametrize("offer", ["S: 250 mx.example", "S: 250-mx.example\nS: 250 XCLIENT"])
def test_who_does_not_want_to_know_is_not_told_whom_mail_is_sent_for(offer):
    events = play(f"{HELLO}{offer}{SENT_BY_ONE_COMMAND_AT_A_TIME * 2}{BYE}", lambda: sent_for(A, B))
    assert summary(events) == [[(250, Stage.END)]] * 2


@pytest.mark.parametrize(
    ("other", "offer"), [(B, "S: 250 mx.example"), (None, "S: 250 mx.example"), (None, OFFERS_XCLIENT)]
)
def test_mail_never_goes_as_that_of_another_client(other, offer):
    events = play(
        f"""{HELLO}{OFFERS_XCLIENT}
        C: XCLIENT NAME=a.example ADDR=192.0.2.1 LOGIN=[UNAVAILABLE]
        S: 220 mx.example
        C: EHLO host.example
        {offer}
        {SENT_BY_ONE_COMMAND_AT_A_TIME}
        {BYE}""",
        lambda: sent_for(A, other),
    )
    assert summary(events) == [[(250, Stage.END)], (421, Stage.XCLIENT), [(421, Stage.XCLIENT)]]


def test_a_refused_xclient_is_a_temporary_problem_of_the_session():
    events = play(
        f"""{HELLO}{OFFERS_XCLIENT}
        C: XCLIENT NAME=a.example ADDR=192.0.2.1 LOGIN=[UNAVAILABLE]
        S: 550 You are not trusted
        {BYE}""",
        lambda: sent_for(A),
    )
    assert summary(events) == [(550, Stage.XCLIENT), [(550, Stage.XCLIENT)]]
    assert results(events)[0].temporary


def test_a_transaction_that_was_given_up_is_reset_before_xclient():
    events = play(
        f"""{HELLO}{OFFERS_XCLIENT}
        C: MAIL FROM:<sender@example.org>
        S: 250 OK
        C: RCPT TO:<one@example.net>
        S: 550 No
        C: RSET
        S: 250 OK
        C: XCLIENT NAME=a.example ADDR=192.0.2.1 LOGIN=[UNAVAILABLE]
        S: 220 mx.example
        C: EHLO host.example
        {OFFERS_XCLIENT}
        {SENT_BY_ONE_COMMAND_AT_A_TIME}
        {BYE}""",
        lambda: sent_for(None, A),
    )
    assert summary(events) == [[(550, Stage.RCPT)], [(250, Stage.END)]]


# STARTTLS

OFFERED = f"""{HELLO}
    S: 250-mx.example
    S: 250-STARTTLS
    S: 250 SIZE 10
"""


def test_after_starttls_everything_is_learnt_again():
    made = client(message(), quits=False)
    Scripted(
        made,
        f"""{OFFERED}
        C: STARTTLS
        S: 220 Go
        TLS
        C: EHLO host.example
        S: 250-mx.example
        S: 250 PIPELINING
        C: MAIL FROM:<sender@example.org>
        C: RCPT TO:<one@example.net>
        C: DATA
        """,
    )
    assert made.extensions == {"PIPELINING": ""}
    assert made.security == SECURITY


def test_after_starttls_a_server_without_ehlo_offers_nothing():
    made = client(quits=False)
    Scripted(
        made,
        f"""{OFFERED}
        C: STARTTLS
        S: 220 Go
        TLS
        C: EHLO host.example
        S: 500 What?
        C: HELO host.example
        S: 250 OK""",
    )
    assert made.extensions == {}


def test_data_in_clear_behind_the_reply_to_starttls_is_never_read_as_if_it_were_encrypted():
    made = client(message())
    for data in [b"220 mx\r\n", b"250-mx\r\n250 STARTTLS\r\n", b"220 Go\r\n250-mx\r\n"]:
        assert made.next_event() is NEED_DATA
        made.data_to_send()
        made.receive_data(data)
    events = list(iter(made.next_event, CLOSED))
    assert summary(events) == [(454, Stage.STARTTLS), [(454, Stage.STARTTLS)]]
    assert made.data_to_send() == b""


@pytest.mark.parametrize("end", ["EOF", "TIMEOUT"])
def test_a_failed_handshake_ends_the_session(end):
    events = play(f"{OFFERED}\nC: STARTTLS\nS: 220 Go\n{end}", lambda: client(message()))
    assert summary(events) == [(421, Stage.STARTTLS), [(421, Stage.STARTTLS)]]


def test_opportunistic_tls_goes_on_in_clear():
    play(f"{OFFERED}\nC: STARTTLS\nS: 454 Not now{BYE}", client)
    play(f"{PIPELINING}{BYE}", client)


@pytest.mark.parametrize("code", ["454 Not now", "500 What?"])
def test_required_tls_is_required(code):
    events = play(f"{OFFERED}\nC: STARTTLS\nS: {code}{BYE}", lambda: client(message(), tls=TlsUse.REQUIRED))
    assert summary(events) == [(int(code[:3]), Stage.STARTTLS), [(int(code[:3]), Stage.STARTTLS)]]
    assert results(events)[0].temporary
    events = play(f"{PIPELINING}{BYE}", lambda: client(message(), tls=TlsUse.REQUIRED))
    assert summary(events) == [(454, Stage.STARTTLS), [(454, Stage.STARTTLS)]]


def test_tls_is_not_begun_twice_or_against_the_policy():
    play(f"{OFFERED}{BYE}", lambda: client(tls=TlsUse.NEVER))
    play(f"{OFFERED}{BYE}", lambda: client(tls=TlsUse.REQUIRED, security=SECURITY))


# AUTH


def b64(text):
    return base64.b64encode(text.encode()).decode()


LOGIN = Login("tim", "secret")


def offers(*mechanisms):
    return f"{HELLO}\nS: 250-mx\nS: 250 AUTH {' '.join(mechanisms)}"


def test_plain_comes_with_an_initial_response():
    made = client(login=LOGIN, security=SECURITY, quits=False)
    Scripted(made, f"{offers('login', 'plain')}\nC: AUTH PLAIN {b64(chr(0) + 'tim' + chr(0) + 'secret')}\nS: 235 OK")
    assert made.authenticated


def test_an_initial_response_that_makes_the_line_too_long_waits_for_its_challenge():
    password = "x" * 500
    response = b64(f"\0tim\0{password}")
    play(
        f"{offers('PLAIN')}\nC: AUTH PLAIN\nS: 334 \nC: {response}\nS: 235 OK{BYE}",
        lambda: client(login=Login("tim", password), security=SECURITY),
    )


def test_login_answers_its_challenges():
    play(
        f"""{offers("LOGIN")}
        C: AUTH LOGIN
        S: 334 {b64("Username:")}
        C: {b64("tim")}
        S: 334 {b64("Password:")}
        C: {b64("secret")}
        S: 235 OK
        {BYE}""",
        lambda: client(login=LOGIN, security=SECURITY),
    )


def test_refused_credentials_are_a_temporary_problem_of_the_session():
    events = play(
        f"{offers('PLAIN')}\nC: AUTH PLAIN AHRpbQBzZWNyZXQ=\nS: 535 5.7.8 No{BYE}",
        lambda: client(message(), login=LOGIN, security=SECURITY),
    )
    assert summary(events) == [(535, Stage.AUTH), [(535, Stage.AUTH)]]
    assert results(events)[0].temporary


@pytest.mark.parametrize("mechanisms", [("PLAIN", "LOGIN"), (), ("X-OWN", "SCRAM-SHA-256")])
def test_without_a_usable_mechanism_there_is_no_mail(mechanisms):
    """No password in clear, and no SCRAM without a nonce."""
    events = play(f"{offers(*mechanisms)}{BYE}", lambda: client(message(), login=LOGIN))
    assert summary(events) == [(454, Stage.AUTH), [(454, Stage.AUTH)]]


@pytest.mark.parametrize("challenge", ["!", "YQ", "\u00e4", b64("r=other,s=QQ==,i=4096")])
def test_a_bad_challenge_is_answered_by_a_star(challenge):
    first = b64("n,,n=tim,r=nonce")
    dialogue = f"""{offers("SCRAM-SHA-256")}
        C: AUTH SCRAM-SHA-256 {first}
        S: 334 {challenge}
        C: *
        S: 501 Cancelled
        {BYE}"""
    events = play(dialogue, lambda: client(message(), login=LOGIN, nonce="nonce"))
    assert summary(events) == [(454, Stage.AUTH), [(454, Stage.AUTH)]]


def test_a_server_that_skips_its_own_proof_is_not_trusted():
    first = b64("n,,n=tim,r=nonce")
    events = play(
        f"{offers('SCRAM-SHA-256')}\nC: AUTH SCRAM-SHA-256 {first}\nS: 235 Welcome{BYE}",
        lambda: client(message(), login=LOGIN, nonce="nonce"),
    )
    assert summary(events) == [(454, Stage.AUTH), [(454, Stage.AUTH)]]


def test_a_login_that_no_mechanism_can_carry_is_not_tried():
    made = lambda: client(message(), login=Login("tim", "\x07"), nonce="nonce")  # noqa: E731
    events = play(f"{offers('SCRAM-SHA-256')}{BYE}", made)
    assert summary(events) == [(454, Stage.AUTH), [(454, Stage.AUTH)]]


# Extensions


def mail_line(made_of, *keywords, **settings):
    """What is said at MAIL and RCPT, in a session with these extensions; None if nothing is."""
    made = client(made_of, quits=False, **settings)
    made.next_event()
    made.receive_data(b"220 mx\r\n")
    made.next_event()
    made.data_to_send()
    made.receive_data("".join(f"250-{each}\r\n" for each in ("mx", *keywords, "PIPELINING")).encode() + b"250 HELP\r\n")
    event = made.next_event()
    if isinstance(event, Report):
        assert made.data_to_send() == b""
        assert all(result.local for result in event.results)
        return None, event.results[0].reply
    lines = made.data_to_send().decode().splitlines()
    return lines[0].removeprefix("MAIL FROM:"), lines[1].removeprefix("RCPT TO:")


def test_parameters_go_with_the_extensions_that_are_offered():
    given = message(
        Recipient(ONE, {"notify": "NEVER", "orcpt": "rfc822;a@b"}),
        content=b"\xe4\r\n",
        ret="HDRS",
        envid="x+3Dy",
        mt_priority="3",
        by="100;N",
        body="8bitmime",
        size="7",
        x_own=None,
    )
    given_utf8 = message(Recipient(ONE), content=BODY, smtputf8=None)
    everything = ["SIZE", "8BITMIME", "SMTPUTF8", "DSN", "MT-PRIORITY", "DELIVERBY", "X-OWN"]
    assert mail_line(given, *everything) == (
        "<sender@example.org> SIZE=3 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=x+3Dy MT-PRIORITY=3 BY=100;N X-OWN",
        "<one@example.net> NOTIFY=NEVER ORCPT=rfc822;a@b",
    )
    assert mail_line(given, "8BITMIME") == (None, Reply(553, "5.6.7", mail_line(given)[1].text))
    assert mail_line(given_utf8, *everything)[0] == f"<sender@example.org> SIZE={len(BODY)} SMTPUTF8"
    assert mail_line(given_utf8) == ("<sender@example.org>", "<one@example.net>")


def test_eight_bit_content_is_sent_whether_the_server_likes_it_or_not():
    given = message(content=b"Subject: x\r\n\r\n\xe4\r\n")
    assert mail_line(given, "8BITMIME")[0] == "<sender@example.org> BODY=8BITMIME"
    assert mail_line(given)[0] == "<sender@example.org>"
    assert mail_line(message(content=iter([BODY])), "8BITMIME")[0] == "<sender@example.org> BODY=8BITMIME"
    assert mail_line(message(content=iter([BODY]), body="7BIT"), "8BITMIME")[0] == "<sender@example.org>"


def test_promises_that_cannot_be_kept_fail_here():
    def status(made_of, *keywords, **settings):
        reply = mail_line(made_of, *keywords, **settings)[1]
        return reply.enhanced if isinstance(reply, Reply) else reply

    large = message(content=b"x" * 11)
    assert status(large, "SIZE 10") == "5.3.4"
    assert status(message(content=iter([b""]), octets=11), "SIZE 10") == "5.3.4"
    for limit in ("SIZE 11", "SIZE 0", "SIZE", "SIZE many", "SIZE " + "9" * 5000):
        assert status(large, limit) == "<one@example.net>"
    assert status(message(requiretls=None), "REQUIRETLS") == "5.7.30"
    assert status(message(requiretls=None), security=SECURITY) == "5.7.30"
    assert mail_line(message(requiretls=None), "REQUIRETLS", security=SECURITY)[0].endswith(" REQUIRETLS")
    assert status(message(body="BinaryMime"), "CHUNKING") == "5.6.3"
    assert status(message(body="BINARYMIME"), "BINARYMIME") == "5.6.3"
    assert mail_line(message(body="BINARYMIME"), "BINARYMIME", "CHUNKING")[0].endswith(" BODY=BINARYMIME")
    assert status(message(by="100;RT")) == "5.3.3"
    assert status(message(by="100;N")) == "<one@example.net>"


def test_non_ascii_addresses_and_headers_need_smtputf8():
    foreign = parse_path("<j\u00f6rg@b\u00fccher.example>")
    assert mail_line(message(foreign), "SMTPUTF8") == (
        "<sender@example.org> SMTPUTF8",
        "<j\u00f6rg@b\u00fccher.example>",
    )
    for each in (
        message(foreign),
        message(sender=foreign),
        message(content="Subject: \u00fc\r\n\r\n".encode()),
        message(content="\u00fc: \r\n".encode()),
    ):
        assert mail_line(each)[1].enhanced == "5.6.7"
    assert mail_line(message(content="\r\n\u00fc".encode()))[1] == "<one@example.net>"


def test_only_the_recipient_that_cannot_be_sent_fails():
    events = play(
        f"""{PIPELINING}
        C: MAIL FROM:<sender@example.org>
        C: RCPT TO:<two@example.net>
        C: DATA
        S: 250 OK
        S: 250 OK
        S: 354 Go on
        {SENT}
        S: 250 Queued
        {BYE}""",
        lambda: client(message(Mailbox("\u00fc", "a.example"), TWO, NULL_PATH)),
    )
    assert summary(events) == [[(553, Stage.RCPT), (250, Stage.END), (553, Stage.RCPT)]]


def test_a_raw_header_goes_without_smtputf8():
    content = "Subject: \u00fc\r\n\r\n".encode()
    for offered in ((), ("SMTPUTF8",)):
        assert mail_line(Message(SENDER, [ONE], content, raw_header=True), *offered)[0] == SENDER.path
    for other in (
        Message(SENDER, [foreign := Mailbox("\u00fc", "a.example")], content, raw_header=True),
        Message(foreign, [ONE], content, raw_header=True),
    ):
        assert mail_line(other)[1].enhanced == "5.6.7"


@pytest.mark.parametrize(
    "mailbox",
    [
        *(Mailbox("a\r\nDATA", "b"), Mailbox("a", "b\r\nDATA"), Mailbox("a", "b> SIZE=1 <c"), Mailbox("a", "b c")),
        *(Mailbox("a", ""), Mailbox("\udcff", "b"), Mailbox("a> X", None), Mailbox("a", "\udcff")),
    ],
)
def test_an_address_adds_no_command(mailbox):
    assert mail_line(message(mailbox), "SMTPUTF8")[1].enhanced == "5.1.3"
    assert mail_line(message(sender=mailbox), "SMTPUTF8")[1].enhanced == "5.1.7"


def test_odd_addresses_are_quoted():
    odd = Mailbox('a b"> <c', "d.example")
    assert mail_line(message(odd, sender=NULL_PATH)) == ("<>", f"{odd.path}")
    assert mail_line(message(Mailbox("Postmaster", None)))[1] == "<Postmaster>"


def test_the_submitter_is_named_to_servers_that_know_who_asks():
    given = message(auth="x@y.example")
    assert mail_line(given, "AUTH PLAIN") == ("<sender@example.org>", "<one@example.net>")
    made = client(given, login=LOGIN, security=SECURITY, quits=False)
    Scripted(
        made,
        f"""{offers("PLAIN")}
        C: AUTH PLAIN AHRpbQBzZWNyZXQ=
        S: 235 OK
        C: MAIL FROM:<sender@example.org> AUTH=x@y.example""",
    )


# Line endings


@pytest.mark.parametrize("content", [b"a\nb", b"a\rb", b"a\r", b"\n", b"a\r\n\n", b"a\r\r\n"])
def test_content_with_a_bare_cr_or_lf_is_not_sent(content):
    assert mail_line(message(content=content))[1].enhanced == "5.6.0"
    assert mail_line(message(content=iter([content])))[1].enhanced == "5.6.0"
    assert mail_line(message(content=singly(content)))[1].enhanced == "5.6.0"
    assert mail_line(message(content=b"x" * 100_000 + b"\r\n" + content))[1].enhanced == "5.6.0"


GOOD, BAD = b"x" * 14 + b"\r\n", b"x\ny"


def test_a_bare_line_end_found_too_late_ends_the_connection_behind_data():
    events = play(
        f"""{PIPELINING}
        C: MAIL FROM:<sender@example.org> BODY=8BITMIME
        C: RCPT TO:<one@example.net>
        C: DATA
        S: 250 OK
        S: 250 OK
        S: 354 Go on
        C: xxxxxxxxxxxxxx
        C: xxxxxxxxxxxxxx""",
        lambda: client(message(content=[GOOD, GOOD, BAD]), message(TWO), limits=ClientLimits(piece=16)),
    )
    assert summary(events) == [(421, Stage.CONTENT), [(554, Stage.CONTENT)], [(421, Stage.IDLE)]]
    assert [result.permanent for result in results(events)] == [True, False]


@given(st.lists(st.sampled_from([b"a", b"\r", b"\n", b"\r\n", b"."]), max_size=12), cuts())
@settings(max_examples=60)
def test_line_endings_are_made_crlf_where_that_is_asked_for(parts, cuts):
    content = b"".join(parts)
    driver = ServerDriver()
    run(client(message(content=cut(content, cuts)), line_endings=LineEndings.NORMALIZE), driver)
    lines = re.split(rb"\r\n|\r|\n", content)
    expected = b"\r\n".join(lines)
    ((_, _, arrived),) = received(driver)
    assert arrived in {expected, expected + b"\r\n"}


# CHUNKING

CHUNKS = f"""{HELLO}
    S: 250-mx.example
    S: 250-PIPELINING
    S: 250 CHUNKING
    C: MAIL FROM:<sender@example.org>
    C: RCPT TO:<one@example.net>
    S: 250 OK
    S: 250 OK
"""


def chunked(*contents, **settings):
    limits = ClientLimits(piece=4, chunks=2)
    return lambda: client(*(message(content=content) for content in contents), limits=limits, **settings)


def test_chunks_are_sent_ahead_of_their_replies_but_not_too_far():
    events = play(
        f"""{CHUNKS}
        C: BDAT 4
        C: ab
        C: BDAT 4
        C: cd
        S: 250 OK
        C: BDAT 2 LAST
        C:
        S: 250 OK
        S: 250 Queued
        {BYE}""",
        chunked(b"ab\r\ncd\r\n\r\n"),
    )
    assert results(events)[0].delivered


def test_without_pipelining_each_chunk_waits():
    play(
        f"""{HELLO}
        S: 250-mx.example
        S: 250 CHUNKING
        C: MAIL FROM:<sender@example.org>
        S: 250 OK
        C: RCPT TO:<one@example.net>
        S: 250 OK
        C: BDAT 4
        C: ab
        S: 250 OK
        C: BDAT 4 LAST
        C: cd
        S: 250 Queued
        {BYE}""",
        chunked(b"ab\r\ncd\r\n"),
    )


def test_an_empty_message_is_an_empty_last_chunk():
    play(f"{CHUNKS}\nC: BDAT 0 LAST\nS: 250 Queued{BYE}", chunked(b""))


def test_a_refused_chunk_is_the_last_one_and_rset_follows():
    events = play(
        f"""{CHUNKS}
        C: BDAT 4
        C: ab
        C: BDAT 4
        C: cd
        S: 452 Full
        S: 503 Nothing to add to
        C: RSET
        C: MAIL FROM:<sender@example.org>
        C: RCPT TO:<one@example.net>
        S: 250 OK
        S: 250 OK
        S: 550 No
        {BYE}""",
        chunked(b"ab\r\ncd\r\nef\r\n", b""),
    )
    assert summary(events) == [[(452, Stage.CONTENT)], [(550, Stage.RCPT)]]


def test_a_refused_chunk_counts_even_if_the_last_one_is_taken():
    events = play(
        f"""{CHUNKS}
        C: BDAT 4
        C: ab
        C: BDAT 4 LAST
        C: cd
        S: 452 Full
        S: 250 Queued
        {BYE}""",
        chunked(b"ab\r\ncd\r\n"),
    )
    assert summary(events) == [[(452, Stage.CONTENT)]]


def test_a_bare_line_end_found_late_costs_the_transaction_but_not_the_connection():
    events = play(
        f"""{CHUNKS}
        C: BDAT 4
        C: ab
        S: 250 OK
        C: RSET
        C: MAIL FROM:<sender@example.org>
        C: RCPT TO:<one@example.net>
        S: 250 OK
        S: 250 OK
        S: 550 No
        {BYE}""",
        chunked([b"ab\r\nab\r\n", b"\n"], b""),
    )
    assert summary(events) == [[(554, Stage.CONTENT)], [(550, Stage.RCPT)]]


def test_a_refused_last_chunk_calls_for_rset():
    events = play(
        f"""{CHUNKS}
        C: BDAT 4 LAST
        C: ab
        S: 552 No
        C: RSET
        C: MAIL FROM:<sender@example.org>
        C: RCPT TO:<one@example.net>
        S: 250 OK
        S: 250 OK
        S: 550 No
        {BYE}""",
        chunked(b"ab\r\n", b""),
    )
    assert summary(events) == [[(552, Stage.END)], [(550, Stage.RCPT)]]


def chunking(data):
    """A client that has been told this on its way to the first chunks, and then was let go on."""
    made = client(message(content=b"abc\r\n" * 100), limits=ClientLimits(piece=50, chunks=8))
    for each in [b"220 mx\r\n", b"250-mx\r\n250-PIPELINING\r\n250 CHUNKING\r\n", b"250 a\r\n250 a\r\n" + data]:
        assert made.next_event() is NEED_DATA
        made.data_to_send()
        made.receive_data(each)
    return made


def test_a_reply_to_a_chunk_that_was_not_sent_ends_the_session():
    made = chunking(b"250 Early\r\n")
    assert summary(iter(made.next_event, CLOSED)) == [(421, Stage.CONTENT), [(421, Stage.CONTENT)]]
    assert made.data_to_send() == b""


@pytest.mark.parametrize("reply", [b"452 Full\r\n", b"421 Bye\r\n", b""])
def test_no_more_chunks_are_sent_to_a_server_that_has_refused_one_or_is_gone(reply):
    made = chunking(b"")
    assert made.next_event() is DRAIN
    assert made.data_to_send().startswith(b"BDAT 50\r\n")
    made.receive_data(reply)
    events = list(itertools.takewhile(lambda event: event not in (NEED_DATA, CLOSED), iter(made.next_event, None)))
    assert summary(events)[-1] == [(int(reply[:3] or 421), Stage.CONTENT)]
    assert made.data_to_send() in {b"", b"QUIT\r\n"}


def test_in_lmtp_the_last_chunk_waits_for_the_replies_to_the_others():
    events = play(
        f"""{CHUNKS.replace("EHLO", "LHLO")}
        C: BDAT 4
        C: ab
        S: 250 OK
        C: BDAT 4 LAST
        C: cd
        S: 250 Delivered
        {BYE}""",
        chunked(b"ab\r\ncd\r\n", lmtp=True),
    )
    assert results(events)[0].delivered


@pytest.mark.parametrize("end", ["EOF", "S: 421 Bye", "S: 354 Go on"])
def test_the_end_may_come_between_chunks(end):
    events = play(f"{CHUNKS}\nC: BDAT 4\nC: ab\nC: BDAT 4\nC: cd\n{end}", chunked(b"ab\r\ncd\r\nef\r\n"))
    assert summary(events) == [(421, Stage.CONTENT), [(421, Stage.CONTENT)]]


# The driver


def test_messages_may_come_later():
    made = client(quits=False)
    Scripted(made, PIPELINING)
    made.send(message())
    assert made.next_event() is NEED_DATA
    assert made.data_to_send().startswith(b"MAIL")


def test_timeouts_are_told_for_each_wait():
    made = client(message(), timeouts={Stage.MAIL: 1.5}, quits=False)
    waits = []
    for data in [b"220 a\r\n", b"250 a\r\n", b"250 a\r\n", b"250 a\r\n", b"354 a\r\n", b"250 a\r\n"]:
        made.next_event()
        waits.append((made.at, made.timeout))
        made.receive_data(data)
    made.next_event()
    made.next_event()
    waits.append((made.at, made.timeout))
    assert waits == [
        *((Stage.GREETING, 300), (Stage.HELLO, 300), (Stage.MAIL, 1.5), (Stage.RCPT, 300)),
        *((Stage.DATA, 120), (Stage.END, 600), (Stage.IDLE, 240)),
    ]
    assert TIMEOUTS[Stage.CONTENT] == 180
    assert TIMEOUTS.keys() == set(Stage)


def test_misuse_is_told():
    made = client(quits=False)
    made.next_event()
    with pytest.raises(LocalProtocolError, match="before the session"):
        made.secure(SECURITY)
    made.receive_data(b"")
    with pytest.raises(LocalProtocolError, match="end of file"):
        made.receive_data(b"x")
    made.quit()
    with pytest.raises(LocalProtocolError, match="ending"):
        made.send(message())


def test_the_handshake_admits_nothing_else():
    made = client(quits=False)
    for data in [b"220 a\r\n", b"250-a\r\n250 STARTTLS\r\n", b"220 a\r\n"]:
        made.next_event()
        made.data_to_send()
        made.receive_data(data)
    assert isinstance(made.next_event(), StartTls)
    with pytest.raises(LocalProtocolError, match="handshake"):
        made.next_event()
    with pytest.raises(LocalProtocolError, match="handshake"):
        made.receive_data(b"\x16")
    made.secure(SECURITY)
    assert made.next_event() is NEED_DATA


def test_content_waits_until_what_was_taken_has_been_written():
    def content():
        for number in range(50):
            taken.append(number)
            yield b"x" * 998 + b"\r\n"

    taken = []
    made = client(message(content=content()), limits=ClientLimits(piece=2000))
    for data in [b"220 a\r\n", b"250 a\r\n", b"250 a\r\n", b"250 a\r\n", b"354 a\r\n"]:
        assert made.next_event() is NEED_DATA
        made.data_to_send()
        made.receive_data(data)
    sent = 0
    while made.next_event() is DRAIN:
        assert len(taken) * 1000 - sent <= 3 * 2000
        with pytest.raises(LocalProtocolError, match="write"):
            made.next_event()
        piece = made.data_to_send()
        assert len(piece) <= 2 * 2000
        sent += len(piece)
    assert sent + len(made.data_to_send()) == 50_000 + 3


def test_what_content_raises_comes_out():
    def content():
        yield b"x" * 200_000
        raise OSError("disk")

    made = client(message(content=content()))
    for data in [b"220 a\r\n", b"250 a\r\n", b"250 a\r\n", b"250 a\r\n", b"354 a\r\n"]:
        made.next_event()
        made.data_to_send()
        made.receive_data(data)
    with pytest.raises(OSError, match="disk"):  # noqa: PT012 - after some pieces
        while made.next_event() is DRAIN:
            made.data_to_send()
    assert made.next_event() is CLOSED


@pytest.mark.parametrize(
    "parameters", [{"x y": None}, {"x": "a b"}, {"x": "a\r\n"}, {"x": "a=b"}, {"x": ""}, {"X": "a"}, {"x": "\udcff"}]
)
def test_what_is_no_parameter_is_refused_at_once(parameters):
    with pytest.raises(ValueError, match="parameter"):
        Message(SENDER, [ONE], b"", parameters)
    with pytest.raises(ValueError, match="parameter"):
        Message(SENDER, [Recipient(ONE, parameters)], b"")


def test_a_message_has_recipients_and_a_client_a_name():
    with pytest.raises(ValueError, match="recipients"):
        Message(SENDER, [], b"")
    for name in ("", "a b", "a\r\n", "\u00e4"):
        with pytest.raises(ValueError, match="host name"):
            Client(name)


def test_no_secret_is_shown():
    assert "secret" not in repr(LOGIN)
    assert "Hello" not in repr(message())


# Against our own server


def run(made, driver, sizes=(1 << 20,)):
    """Let a client talk to a server until it closes; both streams are cut to these sizes."""
    events, lengths = [], itertools.cycle(sizes)

    def pieces(data):
        while data:
            length = next(lengths)
            yield data[:length]
            data = data[length:]

    unread = driver.output
    while (event := made.next_event()) is not CLOSED:
        before = len(driver.output)
        driver.send(*pieces(made.data_to_send()))
        unread += driver.output[before:]
        if event is NEED_DATA:
            length = next(lengths)
            made.receive_data(unread[:length])
            unread = unread[length:]
        elif isinstance(event, StartTls):
            assert not unread
            made.secure(SECURITY)
        elif event is not DRAIN:
            events.append(event)
    driver.send(made.data_to_send())
    assert driver.closed
    return events


def received(driver):
    """The messages that the server was given whole: sender, recipients, content."""
    messages = []
    sender, recipients, content = None, [], b""
    for event in driver.events:
        match event:
            case hooks.Mail():
                sender, recipients, content = event.sender, [], b""
            case hooks.Rcpt():
                recipients.append(event.recipient)
            case Content():
                content += event.data
            case hooks.Queue(recipient=None | 0):
                messages.append((sender, recipients, content))
            case _:
                pass
    return messages


LINES = st.one_of(
    st.sampled_from([b"", b".", b"..", b".x", b"Subject: test", b"x" * 70, b"y" * 1500]),
    st.binary(max_size=20).map(lambda line: line.replace(b"\r", b"").replace(b"\n", b"")),
)
CONTENTS = st.tuples(st.lists(LINES, max_size=12).map(b"\r\n".join), st.sampled_from([b"", b"\r\n", b"\r\n.\r\n"])).map(
    b"".join
)
MAILBOXES = st.builds(
    Mailbox,
    st.text(
        st.characters(min_codepoint=32, max_codepoint=0x2FF, exclude_characters="\x7f", exclude_categories=["Cc"]),
        min_size=1,
        max_size=8,
    ),
    st.sampled_from(["example.org", "b\u00fccher.example", "[127.0.0.1]", "[IPv6:::1]"]),
)
SIZES = st.lists(st.integers(1, 60) | st.just(100_000), min_size=1, max_size=6)
MESSAGES = st.lists(
    st.tuples(
        MAILBOXES | st.just(NULL_PATH), st.lists(MAILBOXES, min_size=1, max_size=5), CONTENTS, cuts() | st.none()
    ),
    min_size=1,
    max_size=3,
)
OFFERS = st.sets(
    st.sampled_from(
        [
            Extension.PIPELINING,
            Extension.CHUNKING,
            Extension.EIGHTBITMIME,
            Extension.SIZE,
            Extension.STARTTLS,
            Extension.ENHANCEDSTATUSCODES,
        ]
    )
)


@given(MESSAGES, SIZES, OFFERS, st.booleans(), st.integers(1, 3))
@settings(max_examples=80)
def test_any_message_to_any_recipients_arrives_byte_for_byte(given_messages, sizes, offered, lmtp, group):
    driver = ServerDriver(extensions=offered | {Extension.SMTPUTF8}, lmtp=lmtp)
    driver.handshake = SECURITY
    messages = [
        Message(sender, recipients, content if cuts is None else cut(content, cuts))
        for sender, recipients, content, cuts in given_messages
    ]
    limits = ClientLimits(group=group, piece=50, chunks=2)
    events = run(client(*messages, lmtp=lmtp, limits=limits), driver, sizes)
    assert [event.message for event in events] == messages
    assert all(result.delivered for result in results(events))
    assert [[result.recipient for result in event.results] for event in events] == [each[1] for each in given_messages]

    def whole(content):
        return (
            content if Extension.CHUNKING in offered or content.endswith(b"\r\n") or not content else content + b"\r\n"
        )

    assert received(driver) == [(sender, to, whole(content)) for sender, to, content, _ in given_messages]


ANSWERS = {"ok": OK, "deny": DENY, "soft": DENYSOFT}


@given(
    st.lists(st.tuples(*[st.sampled_from(sorted(ANSWERS))] * 2), min_size=1, max_size=6), SIZES, OFFERS, st.booleans()
)
@settings(max_examples=60)
def test_each_recipient_gets_its_own_result(fates, sizes, offered, lmtp):
    """The first fate is met at RCPT, the second, in LMTP, at the end of the content."""
    recipients = [Mailbox(f"{at_rcpt}-{at_end}", "example.net") for at_rcpt, at_end in fates]
    accepted = [at_end for at_rcpt, at_end in fates if at_rcpt == "ok"]

    def answers(server, hook):
        match hook:
            case hooks.Rcpt():
                server.answer(ANSWERS[hook.recipient.local_part.partition("-")[0]])
            case hooks.Queue():
                server.answer(ANSWERS[accepted[hook.recipient]] if lmtp else OK)
            case _:
                server.answer(DECLINED)

    driver = ServerDriver(answers=answers, extensions=offered, lmtp=lmtp)
    driver.handshake = SECURITY
    (event,) = run(client(message(*recipients), lmtp=lmtp), driver, sizes)
    expected = [at_rcpt if at_rcpt != "ok" else at_end if lmtp else "ok" for at_rcpt, at_end in fates]
    kinds = {(True, False): "ok", (False, True): "deny", (False, False): "soft"}
    assert [kinds[result.delivered, result.permanent] for result in event.results] == expected


def test_a_server_that_takes_less_than_the_message_says_so():
    driver = ServerDriver(limits=Limits(message_size=10), extensions=DEFAULT_EXTENSIONS - {Extension.SIZE})
    events = run(client(message(content=b"x" * 200_000), message(content=b"small")), driver)
    assert [[result.reply.code for result in event.results] for event in events] == [[552], [250]]


AUTH_ANSWERS = {
    "auth-plain": OK,
    "auth-login": OK,
    "auth-cram-md5": OK,
    "auth-oauthbearer": OK,
    "auth-xoauth2": OK,
    "auth-scram-sha-256": (OK, str(ScramVerifier.of_password("secret", b"salt"))),
}
BOUND = Security("TLSv1.3", "TLS_AES_256_GCM_SHA384", bindings={"tls-exporter": b"bound"})


@pytest.mark.parametrize("bound", [False, True])
@pytest.mark.parametrize("hook", sorted(AUTH_ANSWERS))
def test_every_mechanism_logs_in_to_our_server(hook, bound):
    security = BOUND if bound else SECURITY
    driver = ServerDriver(
        asked=AUTH_HOOKS & {hook} | {"rcpt"}, answers=AUTH_ANSWERS, security=security, nonce=lambda: "server"
    )
    made = client(login=LOGIN, nonce="mine", bearer="oauth" in hook or "bearer" in hook, security=security)
    assert run(made, driver) == []
    assert made.authenticated


def test_a_wrong_password_is_refused():
    driver = ServerDriver(asked=AUTH_HOOKS, answers=AUTH_ANSWERS, security=SECURITY, nonce=lambda: "server")
    events = run(client(message(), login=Login("tim", "wrong"), nonce="mine", security=SECURITY), driver)
    assert summary(events) == [(535, Stage.AUTH), [(535, Stage.AUTH)]]


# Against anything at all

REPLIES = st.sampled_from(
    [
        *(
            b"220 mx\r\n",
            b"250 OK\r\n",
            b"250 OK\r\n",
            b"250 OK\r\n",
            b"354 Go on\r\n",
            b"250-mx\r\n250 PIPELINING\r\n",
        ),
        *(
            b"250-mx\r\n250-CHUNKING\r\n250 PIPELINING\r\n",
            b"250-mx\r\n250-AUTH PLAIN LOGIN CRAM-MD5\r\n250 STARTTLS\r\n",
        ),
        *(
            b"334 \r\n",
            b"334 VXNlcm5hbWU6\r\n",
            b"334 !\r\n",
            b"235 OK\r\n",
            b"421 Bye\r\n",
            b"450 No\r\n",
            b"550 No\r\n",
        ),
        *(b"500 What?\r\n", b"250-a\r\n", b"999 x\r\n", b"\r\n", b"\xff\x00"),
    ]
)
STREAMS = st.tuples(
    st.sampled_from(
        [
            b"",
            b"220 mx\r\n250 mx\r\n",
            b"220 mx\r\n250-mx\r\n250 PIPELINING\r\n250 OK\r\n250 OK\r\n250 OK\r\n354 Go on\r\n",
            b"220 mx\r\n250-mx\r\n250-PIPELINING\r\n250 CHUNKING\r\n250 OK\r\n250 OK\r\n250 OK\r\n",
        ]
    ),
    st.lists(REPLIES | st.binary(max_size=6), max_size=16).map(b"".join),
).map(b"".join)


@given(STREAMS, st.booleans(), st.booleans())
@settings(max_examples=150)
def test_any_bytes_from_a_server_give_one_report_a_message_and_no_delivery_that_was_not_confirmed(stream, lmtp, login):
    contents = [BODY, b"Subject: x\r\n.\r\n"]
    messages = [message(ONE, TWO, content=content) for content in contents]
    made = client(*messages, lmtp=lmtp, login=LOGIN if login else None, quits=False)
    sent, reported = b"", []
    answer = b""  # what has come since something was last sent
    for data in [*singly(stream), b""]:
        while (event := made.next_event()) not in (NEED_DATA, Ready(), CLOSED):
            if isinstance(event, StartTls):
                made.secure(SECURITY)
            elif isinstance(event, Report):
                reported.append(event.message)
                delivered = sum(result.delivered for result in event.results)
                if delivered:
                    content = event.message.content
                    assert sent.endswith((content.replace(b"\n.", b"\n..") + b".\r\n", b" LAST\r\n" + content))
                    assert len(re.findall(rb"^2\d\d[ \r\n]", answer, re.MULTILINE)) >= (delivered if lmtp else 1)
        if new := made.data_to_send():
            sent, answer = sent + new, b""
        if event is CLOSED:
            break
        made.receive_data(data)
        answer += data
    while (event := made.next_event()) is not CLOSED:
        if isinstance(event, Report):
            reported.append(event.message)
    assert reported == messages


@given(STREAMS)
@settings(max_examples=80)
def test_cuts_never_show(stream):
    """Reply by reply or byte by byte, it is all the same."""

    def outcome(pieces):
        made, events = client(message(ONE, TWO), quits=False), []
        for data in [*pieces, b""]:
            while (event := made.next_event()) not in (NEED_DATA, CLOSED, Ready()):
                made.data_to_send()
                if isinstance(event, StartTls):
                    made.secure(SECURITY)
                elif event is not DRAIN:
                    events.append(event)
            made.data_to_send()
            if event is CLOSED:
                break
            made.receive_data(data)
        return summary(events)

    replies = re.findall(rb"(?:[0-9]{3}-[^\r\n]*\r\n)*[0-9]{3} [^\r\n]*\r\n", stream)
    assert outcome(replies) == outcome([piece for each in replies for piece in singly(each)])
