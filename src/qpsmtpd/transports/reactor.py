"""Callbacks for sockets that are ready: a loop within the loop.

One selector watches all sockets of a server, and the loop around waits for that one. So it is
asked once for all sockets that are ready, and not once for each, and what it does with each of
its own (a handle, a task, a context) is done once, too.
"""

import selectors
from collections.abc import Callable
from time import monotonic
from typing import Protocol

__all__ = ["Callback", "Reactor", "Timer"]

_PATIENCE = 0.005  # seconds that what is to be called soon waits for other calls, and for the end of one

_READ, _WRITE = _EVENTS = selectors.EVENT_READ, selectors.EVENT_WRITE

Callback = Callable[[], object]


class Timer(Protocol):
    """A call that is due later."""

    def cancel(self) -> object:
        """Do not call."""
        ...


class Reactor:
    """Watches sockets. The loop around waits for its descriptor to be readable, and calls `turn`."""

    def __init__(self, call_soon: Callable[[Callback], object], call_later: Callable[[float, Callback], Timer]) -> None:
        """How the loop around is asked to call something."""
        self._call_soon = call_soon
        self.call_later = call_later
        """Have something called in so many seconds."""
        self._selector = selectors.DefaultSelector()  # epoll or kqueue, which can be waited for like a socket
        self._watched: dict[int, list[Callback | None]] = {}  # who is called to read, and who to write
        self._soon: list[Callback] = []
        self._turning = False

    def fileno(self) -> int:
        """What to wait for."""
        return self._selector.fileno()

    def turn(self) -> None:
        """Call back what is ready; what wants to be called soon comes behind, or in between if it takes long."""
        self._turning = True
        try:
            patient_until = monotonic() + _PATIENCE
            for key, events in self._selector.select(0):
                callbacks = key.data  # which may change until it is their turn
                if events & _READ and (callback := callbacks[0]) is not None:
                    callback()
                if events & _WRITE and (callback := callbacks[1]) is not None:
                    callback()
                if self._soon and monotonic() > patient_until:
                    self._call_these()
                    patient_until = monotonic() + _PATIENCE
        finally:
            try:
                self._call_these()
            finally:
                self._turning = False

    def close(self) -> None:
        """Watch nothing any more."""
        self._watched.clear()
        self._selector.close()

    def _call_these(self) -> None:
        try:
            while self._soon:
                self._soon.pop(0)()
        finally:
            if self._soon:  # what one of them has done wrong is no fault of the others
                self._call_soon(self._call_these)

    def call_soon(self, callback: Callback) -> None:
        """Have something called at the end of this turn or before, never within another call."""
        self._soon.append(callback)
        if not self._turning:
            self._call_soon(self._call_these)

    def add_reader(self, fd: int, callback: Callback) -> None:
        """Have something called whenever there is something to read."""
        self._watch(fd, 0, callback)

    def remove_reader(self, fd: int) -> None:
        """Have it called no more."""
        self._watch(fd, 0, None)

    def add_writer(self, fd: int, callback: Callback) -> None:
        """Have something called whenever there is room to write."""
        self._watch(fd, 1, callback)

    def remove_writer(self, fd: int) -> None:
        """Have it called no more."""
        self._watch(fd, 1, None)

    def _watch(self, fd: int, place: int, callback: Callback | None) -> None:
        callbacks = self._watched.get(fd)
        if callbacks is None:
            if callback is None:
                return
            fresh: list[Callback | None] = [None, None]
            fresh[place] = callback
            self._selector.register(fd, _EVENTS[place], fresh)
            self._watched[fd] = fresh
            return
        callbacks[place] = callback
        events = sum(event for event, wanted in zip(_EVENTS, callbacks, strict=True) if wanted is not None)
        if events:
            self._selector.modify(fd, events, callbacks)
        else:
            del self._watched[fd]
            self._selector.unregister(fd)
