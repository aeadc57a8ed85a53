"""Memory: whatever a client does, a server holds no more than `Limits` says."""

import itertools
import tracemalloc

import pytest
from tests.protocol.conftest import DATA, EHLO, MAIL, RCPT, TRANSACTION, Driver

from qpsmtpd.protocol import DRAIN, NEED_DATA, Content, Limits, Server, hooks, parse_reply

NOOP = b"NOOP\r\n"
NOOP_REPLY = b"250 2.0.0 OK\r\n"
CHUNK = 1000


def test_an_endless_line_is_remembered_by_its_length_alone():
    server = Server(limits=Limits(command_line=100))
    assert server.next_event() is NEED_DATA
    for _ in range(200):
        server.receive_data(b"x" * CHUNK)
        assert len(server._input) <= 100 + CHUNK
        assert server.next_event() is NEED_DATA
        assert len(server._input) <= 100
    server.data_to_send()
    server.receive_data(b"\r\n" + NOOP)
    assert server.next_event() is NEED_DATA
    assert server.data_to_send() == b"500 5.5.2 Line too long\r\n" + NOOP_REPLY


@pytest.mark.parametrize(("length", "code"), [(99, 250), (100, 250), (101, 500)])
def test_a_command_line_may_be_as_long_as_its_limit_crlf_included(length, code):
    line = b"NOOP " + b"x" * (length - 7) + b"\r\n"
    assert len(line) == length
    for cut_at in range(1, length):
        assert Driver(limits=Limits(command_line=100)).code(line[:cut_at], line[cut_at:]) == code


def test_replies_that_nobody_reads_are_bounded():
    server = Server(limits=Limits(output=500))
    assert server.next_event() is NEED_DATA
    greeting = server.data_to_send()
    server.receive_data(NOOP * 10_000)
    drained = 0
    while server.next_event() is DRAIN:
        assert 500 < len(server._output) <= 500 + len(NOOP_REPLY)
        data = server.data_to_send()
        assert data.replace(NOOP_REPLY, b"") == b""
        drained += len(data)
    drained += len(server.data_to_send())
    assert drained == 10_000 * len(NOOP_REPLY)
    assert parse_reply(greeting).code == 220


def test_replies_under_the_limit_need_no_draining():
    server = Server(limits=Limits(output=500))
    server.next_event()
    server.data_to_send()
    server.receive_data(NOOP * (500 // len(NOOP_REPLY)))
    assert server.next_event() is NEED_DATA


def test_content_is_not_kept():
    server = Server(hooks={"rcpt"})
    server.receive_data(EHLO + TRANSACTION)
    while (event := server.next_event()) is not NEED_DATA:
        if isinstance(event, hooks.Rcpt):
            server.answer(hooks.ReturnCode.OK)
    given = 0
    for chunk in itertools.repeat(b"x" * CHUNK + b"\r\n.", 100):
        server.receive_data(chunk)
        while isinstance(event := server.next_event(), Content):
            given += len(event.data)
        assert event is NEED_DATA
        assert len(server._input) <= 2
    assert given == 100 * (CHUNK + 2)


def test_memory_stays_bounded_whatever_comes_without_end():
    limits = Limits(command_line=512, recipients=10, errors=10**9, output=2000, message_size=1000, header_size=100)
    endless = [
        (b"x" * CHUNK,),
        (b"\r\n" * CHUNK,),
        (b"\n", b"\r" * CHUNK),
        (EHLO, MAIL * 30),
        (EHLO, MAIL, RCPT * 30),
        (b"MAIL FROM:<" + b"a" * CHUNK,),
        (EHLO, MAIL, RCPT, DATA, b"A: " + b"b" * CHUNK),
        (EHLO, MAIL, RCPT, DATA, b"\r\n" * CHUNK),
        (EHLO, MAIL, RCPT, DATA, b"\r\n." * CHUNK),
    ]
    for *way, chunk in endless:
        server = Server(hooks={"rcpt"}, limits=limits)

        def take(data, server=server):
            server.receive_data(data)
            while (event := server.next_event()) is not NEED_DATA:
                if isinstance(event, hooks.Rcpt):
                    server.answer(hooks.ReturnCode.OK)
                server.data_to_send()
            server.data_to_send()

        assert server.next_event() is NEED_DATA
        for data in (*way, chunk):
            take(data)
        tracemalloc.start()
        for _ in range(30):
            take(chunk)
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert held < 10_000, chunk[:20]


def test_limits_have_safe_defaults():
    limits = Limits()
    assert limits.command_line >= 512  # RFC 5321 section 4.5.3.1.4
    assert limits.recipients >= 100  # RFC 5321 section 4.5.3.1.8
    assert limits.header_size + limits.output + limits.errors < 10**6
