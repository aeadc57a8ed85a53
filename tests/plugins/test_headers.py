"""Which messages `headers` refuses for their header."""

from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qpsmtpd import DENY, OK, Plugin
from qpsmtpd.config import ConfigError
from qpsmtpd.plugins.headers import _seconds
from qpsmtpd.testing import Kit

NOW = 1_767_225_600  # where the clock of the kit stands: the start of 2026
DAY = 86_400


class RelayClient(Plugin):
    def hook_connect(self, transaction):
        self.connection.relay_client = True


def answer(stage, *fields, client=None):
    """The reply to a message with these header fields."""
    content = "".join(f"{field}\r\n" for field in fields).encode("utf-8", "surrogateescape") + b"\r\nHello\r\n"
    *_, reply = (client or stage.connect()).deliver(content)
    return reply


def dated(days):
    return "From: a@b.example", f"Date: {formatdate(NOW + days * DAY)}"


@pytest.mark.parametrize(
    "fields",
    [("From: a@b.example",), ("FROM : a@b.example", "Received: x", "Received: y"), dated(0), dated(-10_000), dated(10_000),
     ("From: a@b.example", "Date: not a date"), ("From: a@b.example", "X-To: a", "X-To: b", "To: c")],
)  # fmt: skip
def test_by_default_a_message_needs_a_from_and_nothing_else(kit, fields):
    stage = kit("headers")
    assert answer(stage, *fields).code == 250
    assert stage.logged("headers: pass")


@pytest.mark.parametrize("fields", [("To: x",), ("From:", "To: x"), ("From: ", "To: x"), ("X-From: a@b.example",), ()])
def test_a_required_field_that_is_missing_or_empty_is_a_fault(kit, fields):
    stage = kit("headers")
    reply = answer(stage, *fields)
    assert (reply.code, reply.text) == (554, "a message needs the field From")
    assert stage.logged("headers: fail, a message needs the field From")


def test_the_required_fields_may_be_chosen(kit):
    stage = kit("headers require Date,x-token")
    assert answer(stage, "Date: x", "X-Token: y").code == 250
    assert (
        answer(stage, "From: a@b.example").text == "a message needs the field Date\na message needs the field x-token"
    )


@pytest.mark.parametrize(
    "name",
    ["Date", "From", "Sender", "Reply-To", "To", "Cc", "Bcc", "Message-ID", "In-Reply-To", "References", "Subject"],
)
def test_each_field_that_may_come_once_is_a_fault_if_it_comes_twice(kit, name):
    stage = kit("headers require Received")
    assert answer(stage, f"{name}: x").code == 250
    reply = answer(stage, f"{name}: x", "X-Other: y", f"{name.swapcase()}: x")
    assert (reply.code, reply.text) == (554, f"a message may have the field {name} once (RFC 5322 section 3.6)")


def test_each_fault_lowers_the_karma(kit):
    stage = kit("headers require From,Date")
    client = stage.connect()
    assert answer(stage, "To: x", "To: y", client=client).code == 554
    assert client.connection.notes["karma"] == -3


@pytest.mark.parametrize(
    ("args", "days", "text"),
    [("past 5", -4.9, None), ("past 5", -5.1, "the date of the message lies too far in the past"), ("past 5", 9999, None),
     ("future 2", 1.9, None), ("future 2", 2.1, "the date of the message lies too far in the future"),
     ("future 2", -9999, None), ("past 0.5 future 0.5", -0.6, "the date of the message lies too far in the past"),
     ("past 0 future 0", -9999, None)],
)  # fmt: skip
def test_a_date_may_be_a_number_of_days_off(kit, args, days, text):
    reply = answer(kit(f"headers {args}"), *dated(days))
    assert (reply.code, reply.text) == ((250, reply.text) if text is None else (554, text))


@pytest.mark.parametrize("date", ["not a date", "Mon, 99 Jan 2026", "1 Jan 99999 00:00:00 +0000", "9" * 5000, "\x7f"])
def test_a_date_that_cannot_be_read_is_logged_and_passes(kit, date):
    stage = kit("headers past 1 future 1")
    assert answer(stage, "From: a@b.example", f"Date: {date}").code == 250
    (line,) = stage.logged("headers: skip, the date cannot be read")
    assert len(line) < 400


def test_without_limits_nobody_reads_the_date(kit):
    stage = kit("headers")
    assert answer(stage, "From: a@b.example", "Date: nonsense").code == 250
    assert not stage.logged("date")


def test_a_message_without_content_is_refused_whoever_sends_it(kit):
    for stage in (kit("headers"), kit(RelayClient, "headers")):
        *_, reply = stage.connect().deliver(b"")
        assert (reply.code, reply.text) == (554, "a message without any content is not accepted here")


def test_relay_clients_may_send_any_header(kit):
    assert answer(kit(RelayClient, "headers"), "To: x", "To: y").code == 250


@pytest.mark.parametrize(
    ("args", "code"), [("reject 0", 250), ("reject_type temp", 451), ("reject_type perm", 554), ("reject naughty", 250)]
)
def test_the_arguments_say_how_to_refuse(kit, args, code):
    stage = kit(f"headers {args}")
    assert answer(stage, "To: x").code == code
    assert stage.logged("a message needs the field From")


def test_the_plugin_naughty_may_refuse_in_its_place(kit):
    reply = answer(kit("headers reject naughty", "naughty"), "To: x")
    assert (reply.code, reply.text) == (554, "a message needs the field From")


def test_the_old_name_is_still_good(kit):
    stage = kit("check_basicheaders")
    assert answer(stage, "To: x").code == 554
    assert stage.calls("data_post")[0].code is DENY


@pytest.mark.parametrize(
    ("args", "message"),
    [("past yesterday", "past 'yesterday' is no number of days"), ("future -1", "future '-1' is no number of days"),
     ("past nan", "past 'nan' is no number of days"), ("require From,", "require: '' is no header field name"),
     ("require From: future 1", "require: 'From:' is no header field name"), ("days 5", "unknown argument 'days'")],
)  # fmt: skip
def test_bad_arguments_are_seen_at_load(kit, args, message):
    with pytest.raises(ConfigError, match="plugins:1: headers: ") as caught:
        kit(f"headers {args}")
    assert message in str(caught.value)


@given(st.integers(-(2**33), 2**36))
def test_every_date_as_it_should_be_is_read(seconds):
    assert _seconds(formatdate(seconds)) == seconds


def test_a_date_is_read_with_its_zone():
    assert [_seconds(f"Thu, 1 Jan 2026 {time}") for time in ("01:30:00 +0130", "00:00:00 GMT", "00:00:00 (noon)")] == [
        NOW
    ] * 3


@given(st.text() | st.from_regex(r"([A-Z][a-z]{2}, )?[0-9]+ Jan [0-9]+ [0-9:.]+ [+-]?[0-9A-Z]+", fullmatch=True))
def test_any_text_is_a_date_or_none(text):
    assert isinstance(_seconds(text), int | None)


def test_any_header_gets_a_reply():
    class Accepts(Plugin):
        def hook_rcpt(self, transaction, recipient, parameters):
            return OK

    stage = Kit("headers require From,X-Never past 1 future 1", Accepts)

    @given(st.binary(max_size=60), st.binary(max_size=60))
    def refused(date, lines):
        date = date.replace(b"\r", b"").replace(b"\n", b"")
        lines = lines.replace(b"\r", b"\n").replace(b"\n", b"\r\n")
        *_, reply = stage.connect().deliver(b"Date: " + date + b"\r\n" + lines + b"\r\n")
        assert reply.code == 554

    refused()
    assert not stage.logged("Traceback")
