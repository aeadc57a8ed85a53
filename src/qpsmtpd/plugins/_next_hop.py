"""A server that messages are passed on to, by SMTP or LMTP, for hooks that are marked `@blocking`.

`protocol.Client` speaks, here are the sockets. Connections are kept for the next message, a few
of them and for a few seconds. One that a server has given up meanwhile shows when it is used,
so a message that fails on it is tried once again over a new one; but only while none of its
content has been sent: whoever has the content may have taken the message.
"""

import contextlib
import ssl
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass

from qpsmtpd.plugins._streams import Place, Stream
from qpsmtpd.protocol import CLOSED, NEED_DATA, Breakdown, Client, Message, Report, Stage, StartTls

__all__ = ["IDLE_SECONDS", "KEPT", "NextHop", "Outcome"]

KEPT = 8
"""Connections that may wait for the next message."""

IDLE_SECONDS = 10.0
"""For how long; servers that are short of processes give idle clients no more than that.

One that has waited longer is not used again, and closed when the next message comes.
"""

_BEHIND_THE_ENVELOPE = frozenset({Stage.CONTENT, Stage.END})
_FAREWELL = 1.0  # seconds to say QUIT in; nothing depends on it
_LAST_WORDS = 1 << 16  # octets that are read of a server that takes no more


@dataclass(frozen=True, slots=True)
class Outcome:
    """What has become of a message."""

    report: Report
    breakdown: Breakdown | None
    """Why the connection is of no more use, if so."""
    trouble: OSError | None
    """What went wrong with the connection itself."""

    @property
    def harmless(self) -> bool:
        """Whether it failed with the connection, and none of its content has been sent."""
        return self.breakdown is not None and self.breakdown.at not in _BEHIND_THE_ENVELOPE


class _Dialogue:
    """A connection, and what is said over it."""

    def __init__(self, stream: Stream, client: Client, context: ssl.SSLContext | None) -> None:
        self.stream = stream
        self._client = client
        self._context = context
        self._ended = False
        self._trouble: OSError | None = None

    def deliver(self, message: Message) -> Outcome:
        """Send a message. Raises what its content raises."""
        client = self._client
        client.send(message)
        breakdown: Breakdown | None = None
        while not isinstance(event := client.next_event(), Report):
            if data := client.data_to_send():
                self._write(data)
            if event is NEED_DATA:
                self._read()
            elif isinstance(event, StartTls):
                self._encrypt()
            elif isinstance(event, Breakdown):
                breakdown = event
            assert event is not CLOSED, "every message has a report"
        return Outcome(event, breakdown, self._trouble)

    def quit(self) -> None:
        """Take leave, without waiting for an answer, and close."""
        with contextlib.suppress(OSError):
            self._client.quit()
            self._client.next_event()
            self.stream.restart(_FAREWELL)
            self.stream.send(self._client.data_to_send())
        self.stream.close()

    def _write(self, data: bytes) -> None:
        if self._ended:
            return
        try:
            self.stream.send(data)
        except TimeoutError as error:
            self._trouble = error
            self._client.timed_out()
        except OSError as error:
            self._hear_last_words()
            self._end(error)

    def _hear_last_words(self) -> None:
        """Read why a server takes no more: it may have said so before it closed."""
        left = _LAST_WORDS
        with contextlib.suppress(OSError):
            while left > 0 and (data := self.stream.receive()):
                self._client.receive_data(data)
                left -= len(data)

    def _read(self) -> None:
        if self._ended:
            return
        try:
            data = self.stream.receive()
        except TimeoutError as error:
            self._trouble = error
            self._client.timed_out()
        except OSError as error:
            self._end(error)
        else:
            if data:
                self._client.receive_data(data)
            else:
                self._end()

    def _encrypt(self) -> None:
        assert self._context is not None, "STARTTLS is asked for where there is a context"
        try:
            self._client.secure(self.stream.start_tls(self._context, self.stream.place.host))
        except OSError as error:
            self._end(error)

    def _end(self, error: OSError | None = None) -> None:
        self._ended, self._trouble = True, error
        self._client.receive_data(b"")


class _Pool:
    """Connections that wait for the next message, for hooks in several threads."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting: list[tuple[float, _Dialogue]] = []
        weakref.finalize(self, _close_all, self._waiting)

    def put(self, dialogue: _Dialogue) -> None:
        """Keep a connection, if there is room."""
        with self._lock:
            if len(self._waiting) < KEPT:
                self._waiting.append((self._clock(), dialogue))
                return
        dialogue.quit()

    def take(self) -> _Dialogue | None:
        """The connection that was used last, if it is still good; those that are not are closed."""
        for stale in self._take_stale():
            stale.quit()
        while True:
            with self._lock:
                if not self._waiting:
                    return None
                _, dialogue = self._waiting.pop()
            if dialogue.stream.is_idle:
                return dialogue
            dialogue.stream.close()

    def _take_stale(self) -> list[_Dialogue]:
        oldest = self._clock() - IDLE_SECONDS
        with self._lock:
            stale = [dialogue for since, dialogue in self._waiting if since < oldest]
            del self._waiting[: len(stale)]  # they stand in the order of time
        return stale


def _close_all(waiting: list[tuple[float, _Dialogue]]) -> None:
    for _, dialogue in waiting:
        dialogue.stream.close()


class NextHop:
    """A server that messages are passed on to."""

    def __init__(
        self,
        place: Place,
        seconds: float,
        make_client: Callable[[], Client],
        clock: Callable[[], float],
        *,
        context: ssl.SSLContext | None = None,
        encrypted: bool = False,
    ) -> None:
        """A message may take `seconds`, connecting included. `encrypted`: TLS begins with the connection."""
        self.place = place
        self._seconds = seconds
        self._make_client = make_client
        self._clock = clock
        self._context = context
        self._encrypted = encrypted
        self._pool = _Pool(clock)

    def deliver(self, make_message: Callable[[], Message]) -> Outcome:
        """Send a message, which is made anew if it has to be tried again.

        Raises OSError if the server cannot be reached, and what the content raises.
        """
        deadline = self._clock() + self._seconds
        if (dialogue := self._pool.take()) is not None:
            dialogue.stream.restart(self._seconds)
            outcome = self._send(dialogue, make_message())
            if not outcome.harmless:
                return outcome
        return self._send(self._connect(deadline - self._clock()), make_message())

    def _connect(self, seconds: float) -> _Dialogue:
        stream, client = Stream(self.place, seconds, self._clock), self._make_client()
        try:
            if self._encrypted and self._context is not None:
                client.secure(stream.start_tls(self._context, self.place.host))
        except BaseException:
            stream.close()
            raise
        return _Dialogue(stream, client, self._context)

    def _send(self, dialogue: _Dialogue, message: Message) -> Outcome:
        try:
            outcome = dialogue.deliver(message)
        except BaseException:
            dialogue.stream.close()
            raise
        if outcome.breakdown is None:
            self._pool.put(dialogue)
        else:
            dialogue.quit()
        return outcome
