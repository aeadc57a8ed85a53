"""BDAT (RFC 3030): chunks are counted, lead where DATA leads, and never put the dialogue out of step."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.protocol.conftest import EHLO, MAIL, RCPT, Driver

from qpsmtpd.protocol import DEFAULT_EXTENSIONS, DENY, DENY_DISCONNECT, Extension, Limits, LineEndings

BINARY = DEFAULT_EXTENSIONS | {Extension.BINARYMIME}


def begun(**settings):
    driver = Driver(EHLO, MAIL, RCPT, **settings)
    assert driver.replies[-1].code == 250
    return driver


def chunk(data, *, last=False):
    return b"BDAT %d%s\r\n" % (len(data), b" LAST" if last else b"") + data


def content(driver):
    return b"".join(driver.contents)


def test_one_chunk_is_a_message():
    driver = begun()
    assert driver.code(chunk(b"Subject: a\r\n\r\nb\r\n", last=True)) == 250
    assert content(driver) == b"Subject: a\r\n\r\nb\r\n"
    assert driver.names.count("queue") == 1


def test_each_chunk_is_acknowledged_with_its_size():
    driver = begun()
    (reply,) = driver.send(chunk(b"Subject: a\r\n"))
    assert (reply.code, reply.enhanced) == (250, "2.0.0")
    assert reply.text.startswith("12 octets")
    assert "queue" not in driver.names
    assert driver.code(b"BDAT 0 LAST\r\n") == 250
    assert content(driver) == b"Subject: a\r\n"


def test_dots_mean_nothing_in_chunks():
    driver = begun()
    assert driver.code(chunk(b"\r\n.\r\n..\r\n", last=True)) == 250
    assert content(driver) == b"\r\n.\r\n..\r\n"


def test_hooks_come_as_with_data():
    chunks, data = begun(), begun()
    chunks.send(chunk(b"a: b\r\n\r\nc\r\n", last=True))
    data.send(b"DATA\r\n", b"a: b\r\n\r\nc\r\n.\r\n")
    assert chunks.names == data.names
    assert content(chunks) == content(data)


@given(
    st.lists(st.sampled_from([b"\r\n", b"a", b".", b"\r\n.\r\n", b"MAIL FROM:<>\r\n", b"\xff"]), max_size=12),
    st.lists(st.integers(0, 60), max_size=4),
    st.lists(st.integers(1, 30), max_size=20),
)
def test_any_chunks_with_any_cuts_are_the_same_content(pieces, sizes, cuts):
    whole = b"".join(pieces)
    edges = sorted({min(size, len(whole)) for size in sizes} | {0, len(whole)})
    chunks = [whole[a:b] for a, b in itertools.pairwise(edges)] or [b""]
    stream = b"".join(chunk(data, last=n == len(chunks) - 1) for n, data in enumerate(chunks)) + b"NOOP\r\n"
    driver, at = begun(), 0
    replies = []
    for cut in cuts:
        replies += driver.send(stream[at : at + cut])
        at += cut
    replies += driver.send(stream[at:])
    assert [reply.code for reply in replies] == [250] * (len(chunks) + 1)
    assert content(driver) == whole


@given(st.binary(max_size=40), st.integers(0, 40), st.lists(st.integers(1, 5), max_size=20))
def test_any_octets_are_refused_or_kept_wherever_they_are_cut(data, edge, cuts):
    edge = min(edge, len(data))
    stream = chunk(data[:edge]) + chunk(data[edge:], last=True) + b"NOOP\r\n"
    whole, cut = begun(), begun()
    expected = [reply.code for reply in whole.send(stream)]
    at, replies = 0, []
    for size in cuts:
        replies += cut.send(stream[at : at + size])
        at += size
    replies += cut.send(stream[at:])
    assert [reply.code for reply in replies] == expected
    assert content(cut) == content(whole)
    bare = len(data) and not data.count(b"\r\n") == data.count(b"\n") == data.count(b"\r")
    assert expected[-2:] == [554 if bare else 250, 250]


def test_binary_content_may_hold_any_octets():
    driver = Driver(EHLO, b"MAIL FROM:<a@b.example> BODY=BINARYMIME\r\n", RCPT, extensions=BINARY)
    data = bytes(range(256)) + b"\r"
    assert driver.code(chunk(data[:14])) == 250
    assert driver.code(chunk(data[14:], last=True)) == 250
    assert content(driver) == data


def test_binary_content_without_the_extension_is_refused_at_mail():
    assert Driver(EHLO).code(b"MAIL FROM:<a@b.example> BODY=BINARYMIME\r\n") == 555


def test_bare_line_ends_are_mended_where_that_is_asked_for():
    driver = begun(line_endings=LineEndings.NORMALIZE)
    assert driver.code(chunk(b"a\rb\r")) == 250
    assert driver.code(chunk(b"\nc\nd\r", last=True)) == 250
    assert content(driver) == b"a\r\nb\r\nc\r\nd\r\n"


def test_a_large_message_is_refused_and_the_dialogue_stays_in_step():
    driver = begun(limits=Limits(message_size=10))
    assert driver.code(chunk(b"12345678")) == 250
    assert driver.code(chunk(b"QUIT\r\nQUIT\r\n")) == 552
    assert driver.code(chunk(b"QUIT\r\n")) == 552
    assert driver.code(chunk(b"QUIT\r\n", last=True)) == 552
    assert content(driver) == b"12345678QU"
    assert "queue" not in driver.names
    assert driver.code(MAIL) == 250


@pytest.mark.parametrize("before", [b"", EHLO, EHLO + MAIL])
def test_a_chunk_out_of_order_is_read_and_refused(before):
    driver = Driver(before)
    assert driver.code(chunk(b"QUIT\r\nQUIT\r\n", last=True)) == 503
    assert driver.code(b"NOOP\r\n") == 250
    assert content(driver) == b""


@pytest.mark.parametrize("argument", [b"", b"x", b"-1", b"12 FIRST", b"1 LAST LAST", b"1" * 19, b"\xb2"])
def test_a_chunk_of_unknown_size_ends_the_session(argument):
    driver = begun()
    (reply,) = driver.send(b"BDAT " + argument + b"\r\nRSET\r\n")
    assert reply.code == 501
    assert driver.closed


@pytest.mark.parametrize("command", [b"DATA\r\n", MAIL, RCPT, b"STARTTLS\r\n"])
def test_nothing_is_mixed_with_chunks(command):
    driver = begun(extensions=DEFAULT_EXTENSIONS | {Extension.STARTTLS})
    driver.send(chunk(b"a\r\n"))
    assert driver.code(command) == 503
    assert driver.code(b"NOOP\r\n") == 250
    assert driver.code(chunk(b"b\r\n", last=True)) == 250
    assert content(driver) == b"a\r\nb\r\n"


def test_rset_forgets_chunks():
    driver = begun()
    driver.send(chunk(b"a: b\r\n\r\n"))
    assert driver.code(b"RSET\r\n") == 250
    driver.send(MAIL, RCPT)
    driver.events.clear()
    assert driver.code(chunk(b"c\r\n", last=True)) == 250
    assert content(driver) == b"c\r\n"


def test_ehlo_forgets_chunks():
    driver = begun()
    driver.send(chunk(b"a: b\r\n\r\n"))
    driver.send(EHLO)
    assert driver.code(b"DATA\r\n") == 503


def test_a_refusal_by_the_data_hook_comes_behind_the_chunk():
    driver = begun(answers={"data": (DENY, "no")})
    assert driver.send(b"BDAT 6 LAST\r\nQUI") == []
    (reply,) = driver.send(b"T\r\n")
    assert (reply.code, reply.text) == (554, "no")
    assert content(driver) == b""
    assert not driver.closed


def test_the_data_hook_is_asked_once_a_message():
    driver = begun()
    driver.send(chunk(b"a\r\n"), chunk(b"b\r\n"), chunk(b"c\r\n", last=True))
    assert driver.names.count("data") == 1


def test_a_closing_refusal_closes():
    driver = begun(answers={"data": DENY_DISCONNECT})
    assert driver.code(chunk(b"a\r\n")) == 554
    assert driver.closed


def test_a_client_that_goes_in_a_chunk_leaves_no_message():
    driver = begun()
    driver.send(b"BDAT 10 LAST\r\nabc")
    assert driver.eof() == [] or driver.replies[-1].code == 451
    assert driver.closed
    assert "queue" not in driver.names


def test_without_the_extension_there_is_no_bdat():
    driver = Driver(EHLO, MAIL, RCPT, extensions={Extension.PIPELINING})
    assert driver.code(b"BDAT 0 LAST\r\n") == 500


def test_ehlo_announces_chunking():
    assert "CHUNKING" in Driver(EHLO).replies[-1].text.split("\n")


def test_in_content_tells_that_a_chunk_is_awaited():
    driver = begun()
    driver.send(b"BDAT 3\r\na")
    assert driver.server.in_content
    driver.send(b"b\r\n"[:2])
    assert not driver.server.in_content


@pytest.mark.parametrize(
    "line", [b"BDAT 22 LAST\n", b"BDAT\t22 LAST\r\n", b"bdat 22" + b" " * 5000 + b"\r\n", b"BDAT 22 LAST\r \r\n"]
)
def test_a_chunk_whose_line_is_refused_never_passes_for_commands(line):
    driver = begun()
    replies = driver.send(line + b"EHLO smuggled.example\r\n")
    assert [reply.code for reply in replies] == [501]
    assert driver.closed
    assert len(driver.asked("ehlo")) == 1


def test_data_is_no_way_for_binary_content():
    driver = Driver(EHLO, b"MAIL FROM:<a@b.example> BODY=BINARYMIME\r\n", RCPT, extensions=BINARY)
    assert driver.code(b"DATA\r\n") == 503
    assert driver.code(chunk(b"\n", last=True)) == 250
