"""What all drivers share: listening sockets, and who is at both ends of one."""

import contextlib
import os
import socket
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from qpsmtpd.session.connection import Peer, plain_address

__all__ = ["BACKLOG", "GRACE", "LINGER", "RECEIVE_SIZE", "Address", "bind", "bound_address", "no_delay", "peer_of"]


class Connected(Protocol):
    """What is asked of a socket here: the standard library's and trio's have it."""

    def getpeername(self) -> Any:
        """The other end."""
        ...

    def getsockname(self) -> Any:
        """Our end."""
        ...

    def setsockopt(self, level: int, optname: int, value: int, /) -> None:
        """Set an option."""
        ...


Address = tuple[str, int]
"""Host and port; an empty host is every address of this machine, port 0 is chosen by the system."""

RECEIVE_SIZE = 65_536
"""Octets read at once. More costs a memory mapping a read in some allocators."""

BACKLOG = 1024
GRACE = 10.0
"""Seconds that sessions have to finish when a server stops."""
LINGER = 2.0
"""Seconds that a client has to read the last reply of a server that hangs up on it."""


def bind(addresses: Iterable[Address | socket.socket]) -> list[socket.socket]:
    """Open listening sockets; sockets that listen already are passed through.

    Raises OSError, with the address in its text, after closing those that were opened.
    """
    opened: list[socket.socket] = []
    with contextlib.ExitStack() as on_error:
        for address in addresses:
            if isinstance(address, socket.socket):
                opened.append(address)
                continue
            host, port = address
            try:
                found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
                for family, _, _, _, where in found:
                    listener = socket.create_server(where, family=family, backlog=BACKLOG)
                    on_error.callback(listener.close)
                    opened.append(listener)
            except OSError as error:
                why = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
                raise OSError(error.errno, f"cannot listen on {host}:{port}: {why}") from error
        on_error.pop_all()
    for listener in opened:
        listener.setblocking(False)
    return opened


def bound_address(listener: Connected) -> Address:
    """Where a socket listens."""
    return _end(listener.getsockname)


def no_delay(connection: Connected) -> None:
    """Send each write at once: replies are joined already, and Nagle's algorithm would hold them."""
    with contextlib.suppress(OSError):  # no TCP
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def peer_of(connection: Connected) -> Peer:
    """Both ends of a connection. A client that has gone already has no address."""
    return Peer(*_end(connection.getpeername), *_end(connection.getsockname))


def _end(name_of: Callable[[], Any]) -> Address:
    try:
        name = name_of()
    except OSError:
        return "", 0
    if isinstance(name, str | bytes):  # a Unix socket
        return str(name), 0
    return plain_address(str(name[0])), int(name[1])
