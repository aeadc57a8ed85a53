"""How plugins talk to daemons: one deadline in all, every fault an OSError, and bounds on what is said."""

import contextlib
import socket
import threading

import pytest

from qpsmtpd.plugins._streams import Place, Stream


@contextlib.contextmanager
def daemon(*pieces, path=None):
    """Listens, and says the pieces to whoever comes, then closes; gives the place."""
    listener = socket.create_server(("127.0.0.1", 0)) if path is None else socket.socket(socket.AF_UNIX)
    if path is not None:
        listener.bind(str(path))
        listener.listen()

    def serve():
        with contextlib.suppress(OSError):
            connection, _ = listener.accept()
            with connection:
                for piece in pieces:
                    if piece is None:
                        assert not connection.recv(1)  # waits for the client's end
                    else:
                        connection.sendall(piece)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield Place(str(path)) if path is not None else Place(*listener.getsockname())
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        listener.close()


def test_a_place_is_read_and_shown():
    for text, place, shown in (
        ("localhost", Place("localhost", 783), "localhost:783"),
        ("192.0.2.1:25", Place("192.0.2.1", 25), "192.0.2.1:25"),
        ("[::1]:25", Place("::1", 25), "[::1]:25"),
        ("[::1]", Place("::1", 783), "[::1]:783"),
        ("/run/x.sock", Place("/run/x.sock"), "/run/x.sock"),
        ("unix:/run/x.sock", Place("/run/x.sock"), "/run/x.sock"),
    ):
        assert Place.parse(text, 783) == place
        assert str(place) == shown


@pytest.mark.parametrize("text", ["", "a:b", "a:0", "a:70000", "::1", "a:1:2", "unix:relative", "/" + "x" * 101, "a/b"])
def test_what_is_no_place_is_refused(text):
    with pytest.raises(ValueError, match=r"neither HOST:PORT|no path"):
        Place.parse(text, 25)


def test_what_is_said_is_cut_as_asked(tmp_path):
    with daemon(b"one\r", b"\ntwoTHREErest", path=tmp_path / "socket") as place, Stream(place, 20) as stream:
        assert stream.receive_until(b"\r\n") == b"one"
        assert stream.receive_exactly(3) == b"two"
        assert stream.receive(5) == b"THREE"
        assert stream.receive_all() == b"rest"
        assert stream.receive() == b""


def test_a_peer_that_closes_too_early_is_an_error():
    for ask in (lambda s: s.receive_exactly(5), lambda s: s.receive_until(b"\n")):
        with daemon(b"abc") as place, Stream(place, 20) as stream, pytest.raises(OSError, match="closed"):
            ask(stream)


def test_a_peer_that_never_ends_is_an_error():
    for ask in (lambda s: s.receive_until(b"\n", 100), lambda s: s.receive_all(100)):
        with daemon(b"x" * 5000) as place, Stream(place, 20) as stream, pytest.raises(OSError, match="more than 100"):
            ask(stream)


def test_the_deadline_is_for_all_of_a_talk():
    now = 0.0
    with daemon(b"slowly", None) as place, Stream(place, 10, lambda: now) as stream:
        assert stream.receive_exactly(3) == b"slo"
        now = 9.0
        assert stream.receive_exactly(1) == b"w"
        now = 10.0
        for ask in (lambda: stream.receive_exactly(3), lambda: stream.send(b"x")):
            with pytest.raises(TimeoutError, match=r"127.0.0.1:\d+ is too slow"):
                ask()
        stream.restart(10)
        assert stream.receive_exactly(2) == b"ly"
        with pytest.raises(TimeoutError):
            stream.restart(0.05) or stream.receive()


def test_a_connection_is_idle_while_the_peer_holds_it_and_says_nothing():
    with daemon(b"hello", None) as place, Stream(place, 20) as stream:
        assert stream.receive_exactly(4) == b"hell"
        stream._socket.settimeout(20)
        assert stream._socket.recv(1, socket.MSG_PEEK) == b"o"
        assert not stream.is_idle
        assert stream.receive() == b"o"
        assert stream.is_idle
        stream.send_end()
        stream._socket.settimeout(20)
        assert not stream._socket.recv(1, socket.MSG_PEEK)
        assert not stream.is_idle


def test_nobody_there_is_an_error(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        place = Place(*listener.getsockname())
    for nobody in (place, Place(str(tmp_path / "none")), Place("a..b", 25)):
        with pytest.raises(OSError, match=r"."):
            Stream(nobody, 5)
