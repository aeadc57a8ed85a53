"""Replies: whatever the text, the bytes are well formed; what is printed is read again."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qpsmtpd.protocol import Reply, parse_reply
from qpsmtpd.protocol.replies import LINE_LIMIT
from qpsmtpd.testing.strategies import replies

CODES = st.integers(200, 599)
TEXTS = st.text(max_size=80) | st.text(st.sampled_from("\r\n\t\x00\x1b\x85\u2028\ud800a. 2457ü漢😀"), max_size=2000)


@given(replies())
def test_what_is_printed_is_read_again(reply):
    assert parse_reply(reply.encode(utf8=True)) == reply


@given(CODES, st.sampled_from([None, "2.0.0", "5.7.999"]), TEXTS, st.booleans(), st.booleans())
def test_any_text_becomes_a_well_formed_reply(code, enhanced, text, shown, utf8):
    data = Reply(code, enhanced, text).encode(enhanced=shown, utf8=utf8)
    assert parse_reply(data).code == code
    assert all(len(line) <= LINE_LIMIT for line in data.splitlines(keepends=True))
    for line in data.decode("utf-8" if utf8 else "ascii").split("\r\n"):  # no character is split
        assert all(unicodedata.category(character) not in ("Cc", "Zl", "Zp", "Cs") for character in line)


@given(st.text("aü漢😀", min_size=300, max_size=900))
def test_a_long_line_is_cut_between_characters_and_nothing_is_lost(text):
    data = Reply(250, "2.0.0", text).encode(utf8=True)
    assert parse_reply(data).text.replace("\n", "") == text


@pytest.mark.parametrize(
    ("reply", "data"),
    [
        (Reply(250, "2.0.0", "OK"), b"250 2.0.0 OK\r\n"),
        (Reply(250, None, "OK"), b"250 OK\r\n"),
        (Reply(250, None, ""), b"250 \r\n"),
        (Reply(250, "2.0.0", "one\ntwo"), b"250-2.0.0 one\r\n250 2.0.0 two\r\n"),
        (Reply(250, None, "one\r\ntwo"), b"250-one\r\n250 two\r\n"),
        (Reply(250, None, "a\tb\x00c\x1bd\re"), b"250 a b?c?d?e\r\n"),
        (Reply(250, None, "ü"), b"250 \\xfc\r\n"),
        (Reply(550, "5.0.0", "5.7.1 no"), b"550 5.7.1 no\r\n"),
        (Reply(550, "5.0.0", "5.7.1"), b"550 5.7.1 \r\n"),
        (Reply(550, "5.0.0", "5.7.1 one\ntwo"), b"550-5.7.1 one\r\n550 5.7.1 two\r\n"),
        (Reply(550, "5.0.0", "4.7.1 no"), b"550 5.7.1 no\r\n"),
        (Reply(550, None, "4.7.1 no"), b"550 5.7.1 no\r\n"),
        (Reply(550, None, "5 apples"), b"550 5 apples\r\n"),
    ],
)
def test_a_reply_as_sent(reply, data):
    assert reply.encode() == data


def test_status_codes_are_hidden_where_they_are_not_offered():
    assert Reply(250, "2.0.0", "OK").encode(enhanced=False) == b"250 OK\r\n"


def test_text_is_utf8_only_where_the_client_asked_for_it():
    assert Reply(250, None, "ü").encode(utf8=True) == "250 ü\r\n".encode()


def test_a_reply_line_holds_512_octets():
    one, two = Reply(250, None, "x" * 506), Reply(250, None, "x" * 507)
    assert [len(line) for line in one.encode().splitlines(keepends=True)] == [512]
    assert [len(line) for line in two.encode().splitlines(keepends=True)] == [512, 7]


@pytest.mark.parametrize(
    ("data", "reply"),
    [
        (b"250\r\n", Reply(250, None, "")),
        (b"250 2.1.0 yes\r\n", Reply(250, "2.1.0", "yes")),
        (b"250-one\r\n250 two\r\n", Reply(250, None, "one\ntwo")),
        (b"250 4.1.0 odd\r\n", Reply(250, None, "4.1.0 odd")),
        (b"250 \xff\r\n", Reply(250, None, "\udcff")),
    ],
)
def test_a_reply_as_read(data, reply):
    assert parse_reply(data) == reply


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"250 OK",
        b"250 OK\n",
        b"25 OK\r\n",
        b"650 OK\r\n",
        b"250_OK\r\n",
        b"250-OK\r\n",
        b"250-one\r\n251 two\r\n",
        b"250 one\r\n250 two\r\n",
        b"250 " + b"x" * 507 + b"\r\n",
    ],
)
def test_what_is_not_one_well_formed_reply_is_refused(data):
    with pytest.raises(ValueError, match="not"):
        parse_reply(data)
