"""Talking to a local daemon or another server, in hooks that are marked `@blocking`.

A talk has one deadline in all: a peer that sends an octet now and then holds nobody longer. The
name of a host is looked up by the system, which takes its own time for it.
"""

import os
import re
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from qpsmtpd.protocol import Security

__all__ = ["Place", "Stream"]

_PLACE = re.compile(r"(?:\[(?P<six>[^\]]+)\]|(?P<host>[^:\[\]/]+))(?::(?P<port>[0-9]{1,5}))?")
_PIECE = 1 << 16


@dataclass(frozen=True, slots=True)
class Place:
    """Where a daemon listens: a host and a port, or the path of a Unix socket."""

    host: str
    port: int = 0

    @classmethod
    def parse(cls, text: str, port: int) -> "Place":
        """Read `HOST`, `HOST:PORT`, `[ADDRESS]:PORT`, `/path` or `unix:/path`. Raises ValueError."""
        path = text.removeprefix("unix:")
        if path.startswith("/"):
            if "\0" in path or len(os.fsencode(path)) > 100:  # what fits into a socket's address
                raise ValueError(f"{text!r} is no path that a socket may have")
            return cls(path)
        match = _PLACE.fullmatch(text)
        if match is None or not 0 < int(match["port"] or port) < 1 << 16:
            raise ValueError(f"{text!r} is neither HOST:PORT nor the path of a socket")
        return cls(match["six"] or match["host"], int(match["port"] or port))

    def __str__(self) -> str:
        if not self.port:
            return self.host
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Stream:
    """A connection to a daemon. Whatever goes wrong with it is an OSError, a late peer a TimeoutError."""

    def __init__(self, place: Place, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Connect; this and all that follows may take `seconds`. Raises OSError."""
        self.place = place
        self._clock = clock
        self._deadline = clock() + seconds
        self._early = b""  # received behind what was asked for
        self._socket = self._connect()

    def _connect(self) -> socket.socket:
        if not self.place.port:
            return self._connect_to(socket.AF_UNIX, self.place.host)
        refusal: OSError | None = None
        try:
            found = socket.getaddrinfo(self.place.host, self.place.port, type=socket.SOCK_STREAM)
        except UnicodeError as error:
            raise OSError(f"{self.place.host} is no name of a host") from error
        for family, *_, address in found:
            try:
                return self._connect_to(family, address)
            except OSError as error:
                refusal = error
        raise refusal or OSError(f"{self.place.host} has no address")

    def _connect_to(self, family: int, address: object) -> socket.socket:
        connection = socket.socket(family, socket.SOCK_STREAM)
        try:
            connection.settimeout(self._left())
            connection.connect(address)  # type: ignore[arg-type] # as getaddrinfo gives it, or a path
            if family != socket.AF_UNIX:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except BaseException:
            connection.close()
            raise
        return connection

    def _left(self) -> float:
        left = self._deadline - self._clock()
        if left <= 0:
            raise TimeoutError(f"{self.place} is too slow")
        return left

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def restart(self, seconds: float) -> None:
        """Begin a new talk over this connection, which may take `seconds` again."""
        self._deadline = self._clock() + seconds

    @property
    def is_idle(self) -> bool:
        """Whether the peer still holds the connection, and has said nothing unasked."""
        self._socket.settimeout(0)
        try:
            socket.socket.recv(self._socket, 1, socket.MSG_PEEK)  # below TLS, where there is any
        except BlockingIOError:
            return not self._early
        except OSError:
            pass
        return False

    def start_tls(self, context: ssl.SSLContext, name: str) -> Security:
        """Encrypt what follows; say how. Raises OSError, which a bad certificate is too."""
        self._socket.settimeout(self._left())
        self._socket = channel = context.wrap_socket(self._socket, server_hostname=name)
        cipher = channel.cipher()
        return Security(channel.version() or "TLS", cipher[0] if cipher else "unknown", name)

    def send(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of it. Raises OSError."""
        self._socket.settimeout(self._left())
        self._socket.sendall(data)

    def send_descriptor(self, descriptor: int) -> None:
        """Hand an open file over, with one octet of no meaning; by Unix sockets only. Raises OSError."""
        self._socket.settimeout(self._left())
        socket.send_fds(self._socket, [b"\0"], [descriptor])

    def send_end(self) -> None:
        """Say that nothing more will be sent. Raises OSError."""
        self._socket.shutdown(socket.SHUT_WR)

    def receive(self, most: int = _PIECE) -> bytes:
        """Some bytes; none at the end. Raises OSError."""
        if self._early:
            piece, self._early = self._early[:most], self._early[most:]
            return piece
        self._socket.settimeout(self._left())
        return self._socket.recv(most)

    def receive_exactly(self, size: int) -> bytes:
        """So many bytes. Raises OSError, also if the peer closes before."""
        data = bytearray()
        while len(data) < size:
            data += self._piece(min(size - len(data), _PIECE))
        return bytes(data)

    def receive_until(self, end: bytes, most: int = _PIECE) -> bytes:
        """What comes up to `end`, without it. Raises OSError, also if that is more than `most` bytes."""
        data = bytearray()
        seen = 0
        while (found := data.find(end, seen)) < 0:
            if len(data) > most:
                raise OSError(f"{self.place} says more than {most} octets")
            seen = max(0, len(data) - len(end) + 1)
            data += self._piece(_PIECE)
        self._early = bytes(data[found + len(end) :]) + self._early
        return bytes(data[:found])

    def receive_all(self, most: int = 1 << 20) -> bytes:
        """What comes until the peer closes. Raises OSError, also if that is more than `most` bytes."""
        data = bytearray()
        while piece := self.receive():
            data += piece
            if len(data) > most:
                raise OSError(f"{self.place} says more than {most} octets")
        return bytes(data)

    def _piece(self, most: int) -> bytes:
        piece = self.receive(most)
        if not piece:
            raise ConnectionResetError(f"{self.place} closed the connection")
        return piece
