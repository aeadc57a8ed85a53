"""What `ident/p0f` asks p0f, and what it makes of the answer."""

import contextlib
import socket
import struct
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qpsmtpd.config import ConfigError
from qpsmtpd.testing import Kit

FOUND, NO_MATCH, BAD_QUERY = 0x10, 0x20, 0x00


def answer(status=FOUND, magic=0x50304602, name=b"Linux", flavor=b"3.11 and newer", distance=17):
    """A structure as api.h of p0f 3 has it."""
    numbers = struct.pack("=9IhBB", magic, status, 1, 2, 3, 1390, 5, 6, 7, distance, 8, 9)
    texts = [name, flavor, b"", b"", b"Ethernet or modem", b"English"]
    return numbers + b"".join(text.ljust(32, b"\0") for text in texts)


def old_answer(query, status=0, genre=b"FreeBSD", uptime=1390):
    """A structure as p0f-query.h has it, and as a compiler lays it out."""
    magic, _, identity = struct.unpack_from("=III", query)
    head = struct.pack("=IIB", magic, identity, status)
    texts = genre.ljust(20, b"\0") + b"6.x (1)".ljust(40, b"\0") + b"\x11" + b"ethernet/modem".ljust(30, b"\0")
    return (head + texts).ljust(140, b"\0") + struct.pack("=i", uptime)


@contextlib.contextmanager
def daemon(path, reply, size=21):
    """A p0f whose answer to a query is `reply(query)`; gives the queries."""
    queries = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve():
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection, contextlib.suppress(OSError):
                        queries.append(connection.recv(size, socket.MSG_WAITALL))
                        connection.sendall(reply(queries[-1]))

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield queries
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_the_fingerprint_is_noted_and_the_system_logged(kit, tmp_path):
    with daemon(tmp_path / "p0f", lambda _: answer()) as queries:
        stage = kit(f"ident/p0f {tmp_path}/p0f")
        notes = stage.connect("192.0.2.7").connection.notes["p0f"]
        stage.connect("2001:db8::7")
    assert (notes["os_name"], notes["os_flavor"], notes["distance"]) == ("Linux", "3.11 and newer", 17)
    assert (notes["link_type"], notes["uptime_min"], notes["http_name"]) == ("Ethernet or modem", 1390, "")
    assert (notes["genre"], notes["link"], notes["uptime"]) == ("Linux 3.11 and newer", "Ethernet or modem", 1390)
    assert stage.logged("ident::p0f: Linux 3.11 and newer")
    assert queries == [
        struct.pack("=IB", 0x50304601, 4) + b"\xc0\0\2\7" + bytes(12),
        struct.pack("=IB", 0x50304601, 6) + bytes.fromhex("20010db8000000000000000000000007"),
    ]


def test_version_2_is_asked_for_the_whole_connection(kit, tmp_path):
    with daemon(tmp_path / "p0f", old_answer, 24) as queries:
        stage = kit(f"ident/p0f {tmp_path}/p0f version 2 local_ip 203.0.113.9")
        notes = stage.connect("192.0.2.7").connection.notes["p0f"]
        assert "p0f" not in stage.connect("2001:db8::7").connection.notes
    assert notes == {
        "genre": "FreeBSD", "detail": "6.x (1)", "distance": 17, "link": "ethernet/modem", "uptime": 1390,
    }  # fmt: skip
    (query,) = queries
    assert query[:8] == struct.pack("=II", 0x0DEFACED, 1)
    assert query[12:] == b"\xc0\0\2\7" + b"\xcb\0\x71\x09" + struct.pack("=HH", 40000, 25)


@pytest.mark.parametrize(
    ("reply", "line"),
    [(answer(NO_MATCH), "skip, no match"), (answer(BAD_QUERY), "error, {}/p0f: it does not understand the question"),
     (answer(magic=1), "error, {}/p0f: this is no p0f 3"), (b"short", "error, {}/p0f: {}/p0f closed the connection"),
     (answer(name=b"", flavor=b""), "skip, no system is known")],
)  # fmt: skip
def test_the_client_goes_on_whatever_p0f_says(kit, tmp_path, reply, line):
    with daemon(tmp_path / "p0f", lambda _: reply):
        stage = kit(f"ident/p0f {tmp_path}/p0f")
        assert stage.connect().replies.startswith(b"220 ")
    assert stage.logged("ident::p0f: " + line.replace("{}", str(tmp_path)))


def test_an_answer_to_another_question_is_none(kit, tmp_path):
    with daemon(tmp_path / "p0f", lambda query: old_answer(query[:8] + b"????"), 24):
        stage = kit(f"ident/p0f {tmp_path}/p0f version 2")
        assert "p0f" not in stage.connect().connection.notes
    assert stage.logged("it does not understand the question")


def test_the_client_goes_on_without_p0f(kit, tmp_path):
    stage = kit(f"ident/p0f {tmp_path}/p0f")
    assert stage.connect().replies.startswith(b"220 ")
    assert stage.logged(f"ident::p0f: error, {tmp_path}/p0f: ")
    assert not stage.logged("Traceback")


def test_a_p0f_that_is_silent_has_its_time(kit, tmp_path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "p0f"))
        listener.listen()
        stage = kit(f"ident/p0f {tmp_path}/p0f timeout 0.1")
        assert stage.connect().replies.startswith(b"220 ")
    assert stage.logged("timed out") or stage.logged("too slow")


@given(reply=st.binary(max_size=300) | st.binary(min_size=228, max_size=228).map(lambda rest: answer()[:8] + rest))
def test_any_answer_is_one_or_none(tmp_path_factory, reply):
    path = tmp_path_factory.mktemp("p") / "p0f"
    with daemon(path, lambda _: reply):
        stage = Kit(f"ident/p0f {path}")
        assert stage.connect().replies.startswith(b"220 ")
    assert not stage.logged("Traceback")
    assert all(line.rstrip("\n").isprintable() for line in stage.log)


@pytest.mark.parametrize(
    "args", ["", "p0f", "/run/p0f version 4", "/run/p0f timeout 0", "/run/p0f local_ip x", "/run/p0f 3"]
)
def test_bad_arguments_are_seen_at_load(kit, args):
    with pytest.raises(ConfigError, match="plugins:1: ident/p0f: "):
        kit(f"ident/p0f {args}")
