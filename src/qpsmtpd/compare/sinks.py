"""Where the mail of a server comes to light: a Maildir, or a server of our own that it relays to."""

import socket
import socketserver
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from email.parser import BytesHeaderParser
from email.utils import parseaddr
from functools import partial
from pathlib import Path
from typing import Protocol

from qpsmtpd.compare.core import Mail, Receiver
from qpsmtpd.config import ConfigError
from qpsmtpd.protocol import LineEndings

__all__ = ["MaildirSink", "NetworkSink", "Sink", "settle"]

_IDLE = 60.0  # seconds that a connection of a relay may be silent
_LARGEST = 1 << 20  # octets read of a file in a Maildir
_SENDER_FIELDS = ("Return-Path", "X-MailFrom")
_RECIPIENT_FIELDS = ("Delivered-To", "X-RcptTo", "Envelope-To", "X-Original-To")


class Sink(Protocol):
    """Where mail arrives, sooner or later."""

    def mails(self) -> Sequence[Mail]:
        """All messages that have arrived since the sink was opened."""
        ...

    def wait(self, seconds: float) -> None:
        """Wait for the next message, or so long."""
        ...

    def close(self) -> None:
        """Stop listening."""
        ...


def settle(sink: Sink, arrived: Callable[[Sequence[Mail]], bool], quiet: float, patience: float) -> None:
    """Wait until the awaited has arrived and nothing has come for `quiet` seconds; `patience` seconds at most."""
    deadline = time.monotonic() + patience
    last, count = time.monotonic(), -1
    while (now := time.monotonic()) < deadline:
        mails = sink.mails()
        if len(mails) != count:
            last, count = now, len(mails)
        if arrived(mails) and now - last >= quiet:
            return
        sink.wait(min(quiet, deadline - now))


class MaildirSink:
    """A Maildir, or a directory of Maildirs, that the server delivers to. What is there already is left out."""

    def __init__(self, path: Path) -> None:
        """Open it. Raises ConfigError if it is no directory."""
        if not path.is_dir():
            raise ConfigError(f"{path} is no directory; create the Maildir that the server delivers to first")
        self._path = path
        self._old = set(self._files())
        self._seen: dict[Path, Mail] = {}

    def _files(self) -> list[Path]:
        return [file for pattern in ("new/*", "*/new/*") for file in self._path.glob(pattern)]

    def mails(self) -> Sequence[Mail]:
        """The messages that are new."""
        for file in sorted(self._files()):
            if file not in self._old and file not in self._seen:
                with suppress(FileNotFoundError), file.open("rb") as opened:
                    self._seen[file] = _read(opened.read(_LARGEST).replace(b"\r\n", b"\n"))
        return list(self._seen.values())

    def wait(self, seconds: float) -> None:
        """Wait a little; a directory does not tell of new files."""
        threading.Event().wait(min(seconds, 0.02))

    def close(self) -> None:
        """Nothing is open."""


def _read(content: bytes) -> Mail:
    """A file, with the envelope as far as fields tell it that delivery has added."""
    head = content.partition(b"\n\n")[0] + b"\n\n"
    fields = BytesHeaderParser().parsebytes(head)
    sender = next((str(fields[name]) for name in _SENDER_FIELDS if name in fields), None)
    recipient = next((str(fields[name]) for name in _RECIPIENT_FIELDS if name in fields), None)
    return Mail(
        None if sender is None else _address(sender), () if recipient is None else (_address(recipient),), content
    )


def _address(field: str) -> bytes:
    text = field.strip()
    inner = text[1:-1] if text.startswith("<") and text.endswith(">") else parseaddr(text)[1] or text
    return inner.encode("utf-8", "surrogateescape")


class NetworkSink:
    """A server by SMTP or LMTP that takes whatever the server under study relays to it."""

    def __init__(self, host: str, port: int, *, lmtp: bool) -> None:
        """Listen. Raises OSError if it cannot."""
        self._mails: list[Mail] = []
        self._news = threading.Condition()
        listener = _Listener6 if ":" in host else _Listener
        self._listener = listener((host, port), partial(_Session, self._deliver, lmtp))
        self._thread = threading.Thread(target=self._listener.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def _deliver(self, mail: Mail) -> None:
        with self._news:
            self._mails.append(mail)
            self._news.notify_all()

    def mails(self) -> Sequence[Mail]:
        """All messages so far."""
        with self._news:
            return list(self._mails)

    def wait(self, seconds: float) -> None:
        """Wait for the next message."""
        with self._news:
            self._news.wait(seconds)

    def close(self) -> None:
        """Stop listening; connections end by themselves."""
        self._listener.shutdown()
        self._listener.server_close()
        self._thread.join()


class _Listener(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False


class _Listener6(_Listener):
    address_family = socket.AF_INET6


class _Session(socketserver.BaseRequestHandler):
    """A connection of the relay. Bare line ends are taken, since here is no place to refuse evidence."""

    def __init__(self, deliver: Callable[[Mail], object], lmtp: bool, *rest: object) -> None:
        self._receiver = Receiver(deliver, LineEndings.NORMALIZE, lmtp=lmtp)
        super().__init__(*rest)  # type: ignore[arg-type]  # what socketserver gives to every handler

    def handle(self) -> None:
        connection: socket.socket = self.request
        connection.settimeout(_IDLE)
        with suppress(OSError):
            connection.sendall(self._receiver.data_to_send())
            while not self._receiver.closed:
                connection.sendall(self._receiver.receive(connection.recv(65_536)))
