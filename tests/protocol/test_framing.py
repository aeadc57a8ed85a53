"""Content in is content out, and it ends where RFC 5321 section 4.1.1.4 says, at any cuts."""

import itertools

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.protocol.conftest import singly

from qpsmtpd.protocol.framing import ContentReader, HeaderSplitter, LineEndings, Mark
from qpsmtpd.testing.strategies import cut, cuts

STRICT, NORMALIZE = LineEndings.STRICT, LineEndings.NORMALIZE
CRLF = b"\r\n"


def read(chunks, limit=None, line_endings=STRICT):
    """What a reader makes of chunks: the content, the marks, and what is left behind the end."""
    reader, buffer = ContentReader(limit, line_endings), bytearray()
    content, marks, ended = b"", [], False
    for chunk in chunks:
        buffer += chunk
        mark = None
        while not ended and mark is not Mark.MORE:
            data, mark = reader.read(buffer)
            content += data
            if mark is not Mark.MORE:
                marks.append(mark)
            ended = mark in (Mark.END, Mark.BARE_DOT)
    return content, marks, bytes(buffer) if ended else None


def reference(data, limit=None, line_endings=STRICT):
    """The same as `read`, one token after another, as RFC 5321 tells it."""
    content, marks, size, at = b"", [], 0, 0
    before = CRLF  # the line end right before `at`, or nothing
    while at < len(data):
        rest = data[at:]
        if before == CRLF and rest.startswith(b".\r\n"):
            return content, [*marks, Mark.END], rest[3:]
        if before.endswith(b"\n") and rest.startswith(b".\n") and line_endings is STRICT:
            return content, [*(marks or [Mark.BARE]), Mark.BARE_DOT], rest[2:]
        if rest == b"\r" or (before == CRLF and rest in (b".", b".\r")):
            break  # undecided
        token = CRLF if rest.startswith(CRLF) else rest[:1]
        stuffed = before == CRLF and token == b"."
        before = token if token in (CRLF, b"\r", b"\n") else b""
        at += len(token)
        if marks or stuffed:
            continue
        if line_endings is STRICT and token in (b"\r", b"\n"):
            marks.append(Mark.BARE)
        elif size == limit:
            marks.append(Mark.TOO_LARGE)
        else:
            content += CRLF if before else token
            size += 1
    return content, marks, None


def stuff(content):
    """Dot-stuff content of whole lines, and end it."""
    return (CRLF + content).replace(b"\r\n.", b"\r\n..")[2:] + b".\r\n"


def all_cuts(data):
    for count in range(len(data)):
        for places in itertools.combinations(range(1, len(data)), count):
            yield cut(data, places)


LINES_OF_CONTENT = st.lists(st.binary(max_size=12).map(lambda line: line.replace(b"\r", b".").replace(b"\n", b"")))
ADVERSARIAL = st.lists(
    st.sampled_from([b"\r", b"\n", b".", b"x", b"\r\n", b"\r\n.", b"\r\n..", b"\r\n.\r\n", b"\n.\n", b"\x00"]),
    max_size=16,
).map(b"".join)


@given(LINES_OF_CONTENT, cuts())
def test_content_in_is_content_out(lines, cuts):
    content = b"".join(line + CRLF for line in lines)
    data = stuff(content) + b"NOOP\r\n"
    assert read(cut(data, cuts)) == (content, [Mark.END], b"NOOP\r\n")
    assert read(singly(data)) == (content, [Mark.END], b"NOOP\r\n")


@pytest.mark.parametrize("line_endings", LineEndings)
@pytest.mark.parametrize("limit", [None, 2])
@pytest.mark.parametrize("length", range(6))
def test_every_short_content_at_all_cuts_is_read_as_the_reference_reads_it(length, limit, line_endings):
    for octets in itertools.product(b"\r\n.x", repeat=length):
        data = bytes(octets)
        expected = reference(data, limit, line_endings)
        for chunks in all_cuts(data):
            assert read(chunks, limit, line_endings) == expected, chunks


@pytest.mark.parametrize("line_endings", LineEndings)
def test_longer_content_is_read_as_the_reference_reads_it_whole_and_byte_by_byte(line_endings):
    for octets in itertools.product(b"\r\n.x", repeat=7):
        data = bytes(octets)
        expected = reference(data, None, line_endings)
        assert read([data], None, line_endings) == expected, data
        assert read(singly(data), None, line_endings) == expected, data


@given(ADVERSARIAL, cuts(), st.none() | st.integers(0, 12), st.sampled_from(LineEndings))
@example(b"x\r\ny\r\n.\r\n", [], 2, STRICT)  # the limit falls between a line end's octets
@example(b"xx\n.\nx\r\n.\r\n", [1, 2, 3], 1, NORMALIZE)
@settings(max_examples=400)
def test_adversarial_content_is_read_as_the_reference_reads_it(data, cuts, limit, line_endings):
    expected = reference(data, limit, line_endings)
    assert read(cut(data, cuts), limit, line_endings) == expected
    assert read([data], limit, line_endings) == expected
    assert read(singly(data), limit, line_endings) == expected


@pytest.mark.parametrize(
    ("sent", "content"),
    [
        (b"a\nb\rc\r\n.\r\n", b"a\r\nb\r\nc\r\n"),
        (b"a\r\r\n.\r\n", b"a\r\n\r\n"),
        (b"a\n.\nb\r\n.\r\n", b"a\r\n.\r\nb\r\n"),
        (b"a\r\n..b\n.c\r\n.\r\n", b"a\r\n.b\r\n.c\r\n"),
    ],
)
def test_normalizing_makes_line_ends_crlf_once_the_strict_end_is_found(sent, content):
    assert read([sent], None, NORMALIZE) == (content, [Mark.END], b"")


@pytest.mark.parametrize(("limit", "mark"), [(6, Mark.END), (5, Mark.TOO_LARGE)])
def test_a_line_end_counts_as_one_octet_and_a_stuffed_dot_as_none(limit, mark):
    _, marks, rest = read([b"ab\r\n..c\r\n.\r\n"], limit)
    assert marks[0] is mark
    assert rest == b""


def test_a_discarding_reader_gives_nothing_and_finds_the_end():
    reader, buffer = ContentReader(None), bytearray(b"x")
    assert reader.read(buffer) == (b"x", Mark.MORE)
    reader.discard()
    for octet in singly(b"yy\r\n..\r\n.\r"):
        buffer += octet
        assert reader.read(buffer) == (b"", Mark.MORE)
        assert not buffer
    buffer += b"\nQUIT"
    assert reader.read(buffer) == (b"", Mark.END)
    assert buffer == b"QUIT"


@given(st.binary(max_size=40), cuts())
def test_a_reader_keeps_at_most_two_octets_back(data, cuts):
    reader, buffer = ContentReader(None), bytearray()
    for chunk in cut(data.replace(b"\r\n.\r\n", b""), cuts):
        buffer += chunk
        mark = None
        while mark not in (Mark.MORE, Mark.BARE_DOT, Mark.END):
            _, mark = reader.read(buffer)
        assert mark is not Mark.MORE or len(buffer) <= 2


def split(chunks, limit=100):
    splitter, header, body = HeaderSplitter(limit), b"", b""
    for chunk in chunks:
        if splitter.ended:
            body += chunk
        else:
            part, rest = splitter.split(chunk)
            header += part
            body += rest
    return header, body, splitter.ended, splitter.too_large


@pytest.mark.parametrize(
    ("content", "header", "body"),
    [
        (b"A: b\r\n\r\nbody\r\n\r\n", b"A: b\r\n", b"\r\nbody\r\n\r\n"),
        (b"\r\nbody\r\n", b"", b"\r\nbody\r\n"),
        (b"A: b\r\n\r\n", b"A: b\r\n", b"\r\n"),
        (b"A: b\r\nC: d\r\n", b"A: b\r\nC: d\r\n", b""),
    ],
)
def test_the_header_ends_before_the_first_blank_line(content, header, body):
    ended = body.startswith(b"\r\n")
    assert split([content]) == (header, body, ended, False)
    assert split(singly(content)) == (header, body, ended, False)


def test_a_header_over_its_limit_ends_there():
    assert split([b"A: b\r\n\r\nbody"], 6) == (b"A: b\r\n", b"\r\nbody", True, False)
    assert split([b"A: b\r\n\r\nbody"], 5) == (b"A: b\r", b"", True, True)
    assert split(singly(b"A: b\r\n\r"), 6) == (b"A: b\r\n", b"", False, False)
    assert split(singly(b"A: b\r\nC"), 6) == (b"A: b\r\n", b"", True, True)
