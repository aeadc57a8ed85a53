import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qpsmtpd.session.message import PIECE, Header, Message

LINES = st.lists(st.binary(max_size=30).map(lambda b: b.replace(b"\r", b"").replace(b"\n", b"")), max_size=12)


def build(header, body, threshold, directory, cut=7):
    message = Message(threshold, lambda: Path(directory))
    for i in range(0, len(header), cut):
        message.write_header(header[i : i + cut])
    if message.end_header():
        message.spool()
    for i in range(0, len(body), cut):
        if message.write(body[i : i + cut]):
            message.spool()
    return message


@given(header=LINES, body=LINES, threshold=st.sampled_from([0, 10, 10_000]))
def test_content_out_is_content_in(tmp_path_factory, header, body, threshold):
    raw_header = b"".join(line + b"\r\n" for line in header if line)
    raw_body = b"\r\n" + b"".join(line + b"\r\n" for line in body)
    message = build(raw_header, raw_body, threshold, tmp_path_factory.getbasetemp())
    assert b"".join(message.chunks()) == raw_header + raw_body
    assert message.size == len(raw_header + raw_body)
    _ = message.header.fields  # parsing them changes nothing
    assert b"".join(message.chunks()) == raw_header + raw_body
    assert message.body_file().read() == raw_body
    assert message.body_length == len(raw_body)
    assert b"".join(message.lf_chunks()) == (raw_header + raw_body).replace(b"\r\n", b"\n")
    message.discard()


def test_a_small_message_stays_in_memory_and_a_large_one_goes_to_a_file(tmp_path):
    small = build(b"A: 1\r\n", b"\r\n" + b"x" * 50, 100, tmp_path)
    large = build(b"A: 1\r\n", b"\r\n" + b"x" * 500, 100, tmp_path)
    assert not small.spooled
    assert large.spooled
    assert list(tmp_path.iterdir()) == [], "a spool file has no name that could be left behind"
    large.discard()
    assert not large.spooled


def test_the_file_is_written_in_large_pieces_and_a_reader_sees_all(tmp_path):
    message = build(b"A: 1\r\n", b"\r\n" + b"x" * 500, 100, tmp_path)
    pieces = [bytes([letter]) * (PIECE // 4) for letter in b"abcde"]
    assert [message.write(piece) for piece in pieces] == [False, False, False, True, True]
    assert message.body_file().read() == b"\r\n" + b"x" * 500 + b"".join(pieces)
    assert not message.write(b"y")
    assert b"".join(message.chunks()).endswith(b"ey")
    message.discard()


def test_readers_of_a_spooled_body_do_not_disturb_each_other_or_the_writer(tmp_path):
    message = build(b"", b"\r\none\r\ntwo\r\n", 0, tmp_path)
    first, second = message.body_file(), message.body_file()
    assert first.readline() == b"\r\n"
    assert second.read() == b"\r\none\r\ntwo\r\n"
    message.write(b"three\r\n")
    message.spool()
    assert list(first) == [b"one\r\n", b"two\r\n", b"three\r\n"]
    first.seek(-7, io.SEEK_END)
    assert first.read() == b"three\r\n"
    message.discard()


def test_a_message_without_a_blank_line_is_all_header(tmp_path):
    message = build(b"A: 1\r\nB: 2\r\n", b"", 100, tmp_path)
    assert message.header.get("b") == "2"
    assert message.body_length == 0
    assert b"".join(message.chunks()) == b"A: 1\r\nB: 2\r\n"


HEADER = b"Received: one\r\nSubject: long\r\n\tfolded\r\nnot a field\r\nReceived: two\r\nX : y\r\n"


def test_fields_are_found_by_name_without_regard_to_case():
    header = Header(HEADER)
    assert header.get("SUBJECT") == "long\r\n\tfolded"
    assert header.get_all("received") == ["one", "two"]
    assert header.get("none") == ""
    assert header.get("x") == "y"
    assert len(header) == 5
    assert bytes(header) == HEADER


def test_fields_are_added_where_they_are_wanted():
    header = Header(HEADER)
    header.add("A", "top", 0)
    header.add("Z", "end")
    assert bytes(header) == b"A: top\r\n" + HEADER + b"Z: end\r\n"


def test_fields_are_deleted_and_replaced_and_the_others_keep_their_octets():
    header = Header(HEADER)
    header.replace("received", "new")
    assert bytes(header) == b"received: new\r\nSubject: long\r\n\tfolded\r\nnot a field\r\nX : y\r\n"
    assert header.delete("SUBJECT") == 1
    assert header.delete("SUBJECT") == 0
    header.replace("Fresh", "1")
    assert header.fields[-1].raw == b"Fresh: 1\r\n"


def test_one_of_several_fields_is_changed_or_removed_by_its_number():
    header = Header(b"A: 1\r\nB: x\r\na: 2\r\nA: 3\r\n")
    header.change("a", 2, "two")
    header.change("A", -1, None)
    header.change("B", 5, None)
    assert bytes(header) == b"A: 1\r\nB: x\r\na: two\r\n"
    header.change("B", 2, "new")
    header.change("A", 1, None)
    assert bytes(header) == b"B: x\r\na: two\r\nB: new\r\n"


def test_folded_lines_keep_the_blanks_they_begin_with():
    header = Header()
    header.add("A", " 1\r\n\t b\n  c\nd\n \n")
    assert bytes(header) == b"A: 1\r\n\t b\r\n  c\r\n\td\r\n"


@pytest.mark.parametrize(("before", "after"), [(10, 10), (10, 5000), (5000, 10), (5000, 5000)])
def test_what_follows_the_header_may_be_replaced(tmp_path, before, after):
    message = Message(1000, lambda: tmp_path)
    message.write_header(HEADER)
    message.end_header()
    if message.write(b"\r\n" + b"x" * before):
        message.spool()
    message.replace_rest(b"y" * after)
    assert b"".join(message.chunks()) == HEADER + b"\r\n" + b"y" * after
    assert message.body_length == after + 2
    assert message.size == len(HEADER) + after + 2
    assert message.spooled is (message.size > 1000)
    message.discard()


def test_prepended_fields_stand_on_top_whether_or_not_the_header_was_parsed():
    for touch in (False, True):
        header = Header(HEADER)
        if touch:
            header.get("x")
        header.prepend(b"P: 1\r\n\tfolded\r\n")
        assert bytes(header) == b"P: 1\r\n\tfolded\r\n" + HEADER
        assert header.get("p") == "1\r\n\tfolded"


@given(st.text(max_size=60))
def test_an_added_value_cannot_begin_another_field_or_end_the_header(value):
    header = Header(b"A: 1\r\n")
    header.add("Subject", value, 0)
    raw = bytes(header)
    assert raw.endswith(b"\r\nA: 1\r\n")
    assert b"\r\n\r\n" not in raw
    again = Header(raw)
    assert [field.name for field in again.fields] == ["Subject", "A"]
    assert b"\n" not in raw.replace(b"\r\n", b"")
    assert b"\r" not in raw.replace(b"\r\n", b"")


@pytest.mark.parametrize("name", ["", "a b", "a:", "a\r\nb", "ä"])
def test_a_bad_field_name_is_refused(name):
    with pytest.raises(ValueError, match="is no header field name"):
        Header().add(name, "x")


def test_the_parsed_view_is_the_standard_librarys(tmp_path):
    for threshold in (0, 1000):
        message = build(b"Subject: hi\r\n", b"\r\nbody\r\n", threshold, tmp_path)
        parsed = message.parsed()
        assert parsed["subject"] == "hi"
        assert parsed.get_content() == "body\r\n"
        message.discard()
