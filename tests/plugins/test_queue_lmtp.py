"""What `queue/lmtp` makes of an answer for each recipient; the rest it shares with `queue/smtp-forward`."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mail_server import CLOSE, MailServer
from tests.plugins.test_queue_smtp_forward import (
    CONTENT,
    FAST,
    OFFERS,
    SCRIPTS,
    check_that_nothing_is_lost_or_claimed,
    deliver,
)

from qpsmtpd.config import ConfigError

TAKEN, NEVER, LATER = "250 2.0.0 taken", "552 5.2.2 mailbox full", "452 4.2.2 mailbox full"


@pytest.mark.parametrize(
    ("arguments", "why"),
    [("", "no server"), ("/run/x 24", "no room"), ("/run/x tls yes", "leave tls out"), ("x xclient", "pairs")],
)
def test_arguments_that_make_no_sense_are_errors(kit, arguments, why):
    with pytest.raises(ConfigError, match=why):
        kit(f"queue/lmtp {arguments}")


@pytest.mark.parametrize("offers", [(), FAST])
@pytest.mark.parametrize(
    ("answers", "code", "text"),
    [
        ([TAKEN, TAKEN], 250, "Queued! taken"),
        ([TAKEN, NEVER], 552, "<b1@x.example>: mailbox full; other recipients have the message"),
        ([LATER, NEVER], 552, "<b1@x.example>: mailbox full; nobody has got the message"),
        ([LATER, TAKEN], 452, "<b0@x.example>: mailbox full; other recipients have the message"),
        ([NEVER, NEVER], 552, "mailbox full"),
        ([LATER, CLOSE], 452, "<b0@x.example>: mailbox full; <b1@x.example>: Connection lost"),
        ([TAKEN, CLOSE], 452, "<b1@x.example>: Connection lost; other recipients have the message"),
    ],
)
def test_the_worst_answer_is_that_of_the_message(kit, offers, answers, code, text):
    with MailServer({"END": answers}, lmtp=True, offers=offers) as to:
        reply = deliver(kit(f"queue/lmtp localhost {to.port}"), "b0@x.example", "b1@x.example")
        assert (reply.code, reply.text) == (code, text)
        assert to.said[0][0].startswith("LHLO ")
        (taken,) = to.taken
        assert taken.content.endswith(b"\r\n" + CONTENT)


def test_a_recipient_that_is_refused_before_the_content_keeps_it_from_all(kit):
    with MailServer({"RCPT": [None, "550 5.1.1 unknown"]}, lmtp=True, offers=FAST) as to:
        reply = deliver(kit(f"queue/lmtp localhost {to.port}"), "b0@x.example", "b1@x.example")
        assert (reply.code, reply.text) == (552, "<b1@x.example>: unknown; nobody has got the message")
        assert not to.taken


@given(SCRIPTS, OFFERS, st.lists(st.integers(1, 3), min_size=1, max_size=3))
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
def test_whatever_goes_wrong_nothing_is_lost_claimed_or_sent_twice(script, offers, counts):
    check_that_nothing_is_lost_or_claimed("queue/lmtp", script, offers, counts, lmtp=True)
