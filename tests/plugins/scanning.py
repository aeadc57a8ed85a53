"""What tests of plugins that ask a daemon share: a daemon that says what a test wants, and a queue to look into."""

import contextlib
import socket
import threading

from qpsmtpd import OK, Plugin


class Keep(Plugin):
    """Accepts every recipient and keeps the last message."""

    content = b""
    sender = recipients = None

    def hook_rcpt(self, transaction, recipient, parameters):
        return OK

    def hook_queue(self, transaction):
        Keep.content = b"".join(transaction.chunks())
        Keep.sender, Keep.recipients = transaction.sender, transaction.recipients
        return OK


def queued():
    """The last message, and forget it."""
    content, Keep.content = Keep.content, b""
    return content


class Daemon:
    """Listens on loopback, or on a Unix socket, and has `talk(connection)` serve each connection, one after the other."""

    def __init__(self, talk, path=None):
        self.talk = talk
        self._socket = socket.create_server(("127.0.0.1", 0)) if path is None else socket.socket(socket.AF_UNIX)
        if path is not None:
            self._socket.bind(str(path))
            self._socket.listen()
        self.port = None if path is not None else self._socket.getsockname()[1]
        self.failure = None
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()
        if self.failure is not None:
            raise self.failure

    def _serve(self):
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(20)
                try:
                    self.talk(connection)
                except (OSError, EOFError):
                    pass
                except BaseException as error:  # noqa: BLE001 - shown to the test
                    self.failure = error


def receive_exactly(connection, size):
    data = b""
    while len(data) < size:
        piece = connection.recv(size - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data


def receive_until(connection, end):
    data = b""
    while not data.endswith(end):
        data += receive_exactly(connection, 1)
    return data[: -len(end)]


def receive_all(connection):
    data = b""
    while piece := connection.recv(65536):
        data += piece
    return data


def saying(answer):
    """Say something at once, whatever is asked, and wait until the plugin has closed."""

    def talk(connection):
        connection.sendall(answer)
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_WR)
        receive_all(connection)

    return talk
