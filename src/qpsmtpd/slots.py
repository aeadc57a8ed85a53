"""The listening sockets of worker slots.

Each slot has a TCP socket of its own on each address, by SO_REUSEPORT: the system spreads
connections over them, and no two workers wake for one. The supervisor keeps them all open:
a connection that comes while a slot has no worker, or while one takes over from another,
waits in the socket, and is neither refused nor reset. Unix sockets, and TCP where the
system has no SO_REUSEPORT, are one socket that the slots share.
"""

import contextlib
import socket
from collections.abc import Sequence
from pathlib import Path

from qpsmtpd.transports.sockets import BACKLOG, Address, Bound, Listener, Place, bind, bound_address, remove_unix

__all__ = ["Slots"]


class Slots:
    """Open sockets for a number of worker slots; `close` it at the end."""

    def __init__(self, places: Sequence[Place], number: int) -> None:
        """Raises OSError, with the address in its text, for one that cannot be listened on."""
        self._unix = [place for place in places if isinstance(_where(place), Path)]
        self._slots: list[list[Bound]] = [[] for _ in range(number)]
        self.addresses: list[Address] = []
        """Where they listen."""
        with contextlib.ExitStack() as on_error:
            on_error.callback(self.remove_unix)
            on_error.callback(self.close)
            for place in places:
                self._open(place)
            on_error.pop_all()
        self.addresses = [bound_address(bound.socket) for bound in self._slots[0]]

    def _open(self, place: Place) -> None:
        where = _where(place)
        for bound in bind([place]):
            if isinstance(where, tuple) and hasattr(socket, "SO_REUSEPORT"):
                self._multiply(bound, where[1])
            else:
                for slot in self._slots:
                    slot.append(bound)

    def _multiply(self, bound: Bound, port: int) -> None:
        """Open a socket for each slot where `bound` listens; port 0 is chosen by the first of them.

        `bound` itself, without SO_REUSEPORT, has been refused if a second server was there
        already; with it the two would have shared the port without a word.
        """
        listener, role = bound
        host, _, *more = listener.getsockname()
        listener.close()
        for slot in self._slots:
            again = socket.create_server((host, port, *more), family=listener.family, backlog=BACKLOG, reuse_port=True)
            again.setblocking(False)
            slot.append(Bound(again, role))
            port = again.getsockname()[1]

    def take(self, number: int) -> list[Place]:
        """Where the worker in a slot is to listen. The sockets of the other slots are closed in this process."""
        own = self._slots[number]
        mine = {id(bound.socket) for bound in own}
        for slot in self._slots:
            for bound in slot:
                if id(bound.socket) not in mine:
                    bound.socket.close()
        return [Listener(bound.socket, bound.role) for bound in own]

    def close(self) -> None:
        """Listen no more in this process."""
        for slot in self._slots:
            for bound in slot:
                bound.socket.close()

    def remove_unix(self) -> None:
        """Remove the files of Unix sockets, when the last process has ended."""
        for place in self._unix:
            remove_unix(place)


def _where(place: Place) -> Address | Path | socket.socket:
    return place.place if isinstance(place, Listener) else place
