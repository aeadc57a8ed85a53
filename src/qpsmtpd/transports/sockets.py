"""What all drivers share: listening sockets, and who is at both ends of one."""

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from qpsmtpd.session.connection import Peer, plain_address
from qpsmtpd.session.role import MX, Role

__all__ = [
    "BACKLOG",
    "GRACE",
    "LINGER",
    "RECEIVE_SIZE",
    "RETRY",
    "THREADS",
    "Address",
    "Bound",
    "Listener",
    "Place",
    "bind",
    "bound_address",
    "peer_of",
    "remove_unix",
]


Address = tuple[str, int]
"""Host and port; an empty host is every address of this machine, port 0 is chosen by the system.
A Unix socket has its path, and port 0.
"""


@dataclass(frozen=True, slots=True)
class Listener:
    """Where to listen, and what for."""

    place: Address | Path | socket.socket
    """An address, the path of a Unix socket, or a socket that listens already."""

    role: Role = MX


Place = Listener | Address | Path | socket.socket
"""Where to listen; without a role, for mail from other servers (`MX`)."""


class Bound(NamedTuple):
    """A socket that listens, and what for."""

    socket: socket.socket
    role: Role


RECEIVE_SIZE = 65_536
"""Octets read at once. More costs a memory mapping a read in some allocators."""

THREADS = 40
"""Threads for the hooks that are marked `@blocking`, at most."""

BACKLOG = 1024
GRACE = 10.0
"""Seconds that sessions have to finish when a server stops."""
RETRY = 0.1
"""Seconds until connections are accepted again, when there were no descriptors left."""

LINGER = 2.0
"""Seconds that a client has to read the last reply of a server that hangs up on it."""


def bind(places: Iterable[Place]) -> list[Bound]:
    """Open listening sockets; sockets that listen already are passed through.

    Raises OSError, with the address in its text, after closing those that were opened.
    """
    opened: list[Bound] = []
    with contextlib.ExitStack() as on_error:
        for place in places:
            listener = place if isinstance(place, Listener) else Listener(place)
            for found in _open(listener.place):
                if found is not listener.place:
                    on_error.callback(found.close)
                opened.append(Bound(found, listener.role))
        on_error.pop_all()
    for bound in opened:
        bound.socket.setblocking(False)
        _no_delay(bound.socket)
    return opened


def _open(place: Address | Path | socket.socket) -> list[socket.socket]:
    if isinstance(place, socket.socket):
        return [place]
    shown = str(place) if isinstance(place, Path) else f"{place[0]}:{place[1]}"
    with contextlib.ExitStack() as on_error:
        opened: list[socket.socket] = []
        try:
            if isinstance(place, Path):
                return [_open_unix(place)]
            host, port = place
            for family, _, _, _, where in socket.getaddrinfo(
                host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            ):
                opened.append(socket.create_server(where, family=family, backlog=BACKLOG))
                on_error.callback(opened[-1].close)
        except (OSError, UnicodeError) as error:
            raise OSError(getattr(error, "errno", None), f"cannot listen on {shown}: {_why(place, error)}") from error
        on_error.pop_all()
    return opened


def _why(place: Address | Path, error: OSError | UnicodeError) -> str:
    if isinstance(error, UnicodeError):
        return "this is no host name"
    if error.errno == errno.EADDRINUSE and isinstance(place, Path) and not place.is_socket():
        return "there is something else of this name"
    known = not isinstance(error, socket.gaierror) and error.errno
    return os.strerror(error.errno or 0) if known else error.strerror or str(error)


def remove_unix(place: Place) -> None:
    """Remove the file of a Unix socket on which nobody listens any more."""
    path = place.place if isinstance(place, Listener) else place
    if isinstance(path, Path):
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(path.lstat().st_mode) and not _answers(path):
                path.unlink()


def _open_unix(path: Path) -> socket.socket:
    """Listen on a Unix socket; one that an earlier server has left behind is replaced."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        remove_unix(path)
        listener.bind(str(path))
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        return client.connect_ex(str(path)) == 0


def bound_address(listener: socket.socket) -> Address:
    """Where a socket listens."""
    return _address(_name(listener.getsockname))


def _no_delay(listener: socket.socket) -> None:
    """Have each write sent at once: replies are joined already, and Nagle's algorithm would hold them.

    Connections inherit it from the socket that accepts them.
    """
    if listener.family in (socket.AF_INET, socket.AF_INET6):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def peer_of(connection: socket.socket, client: Any) -> Peer:
    """Both ends of a connection; `client` is what `accept` has given for the other one.

    Who connects by a Unix socket is a process of this machine, and counts as such.
    """
    ours = _name(connection.getsockname)
    if isinstance(ours, str | bytes):
        return Peer("127.0.0.1", 0, "127.0.0.1", 0, "localhost")
    return Peer(*_address(client), *_address(ours))


def _name(name_of: Callable[[], Any]) -> Any:
    try:
        return name_of()
    except OSError:
        return "", 0


def _address(name: Any) -> Address:
    if isinstance(name, str | bytes):  # a Unix socket
        return str(name), 0
    if name is None:  # some systems tell nothing of a client that has gone already
        return "", 0
    return plain_address(str(name[0])), int(name[1])
