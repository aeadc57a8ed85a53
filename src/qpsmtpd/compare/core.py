"""Our own core as a server in memory that takes every message: the target all others are held against, and the sink."""

from collections.abc import Callable
from dataclasses import dataclass

from qpsmtpd.compare.conversation import Ending
from qpsmtpd.protocol import CLOSED, NEED_DATA, OK, Content, LineEndings, Mailbox, Server, hooks

__all__ = ["Mail", "MemoryWire", "Receiver"]


@dataclass(frozen=True, slots=True)
class Mail:
    """A message that has come to light, its line ends LF."""

    sender: bytes | None
    """None where the sink does not tell."""

    recipients: tuple[bytes, ...]
    content: bytes


class Receiver:
    """One session of a server that accepts every sender, recipient and message."""

    def __init__(
        self,
        deliver: Callable[[Mail], object],
        line_endings: LineEndings = LineEndings.STRICT,
        *,
        lmtp: bool = False,
    ) -> None:
        """Start; each message is given to `deliver` before it is acknowledged."""
        self.closed = False
        self._deliver = deliver
        self._server = Server(hooks={"mail", "rcpt", "queue"}, line_endings=line_endings, lmtp=lmtp)
        self._sender = b""
        self._recipients: list[bytes] = []
        self._content: list[bytes] = []

    def receive(self, data: bytes) -> bytes:
        """Take bytes, `b""` at the end of the stream; give what is to be said to them."""
        self._server.receive_data(data)
        return self.data_to_send()

    def data_to_send(self) -> bytes:
        """What is to be said before anything has come: the greeting."""
        said: list[bytes] = []
        while (event := self._server.next_event()) is not NEED_DATA:
            said.append(self._server.data_to_send())
            match event:
                case hooks.Mail(sender=mailbox):
                    self._sender, self._recipients, self._content = _octets(mailbox), [], []
                    self._server.answer(OK)
                case hooks.Rcpt(recipient=mailbox):
                    self._recipients.append(_octets(mailbox))
                    self._server.answer(OK)
                case Content(data=data):
                    self._content.append(bytes(data))
                case hooks.Queue(recipient=number):
                    if not number:  # LMTP asks once for each recipient
                        self._take()
                    self._server.answer(OK, "taken")
                case _ if event is CLOSED:
                    self.closed = True
                    break
                case _:
                    pass
        said.append(self._server.data_to_send())
        return b"".join(said)

    def _take(self) -> None:
        content = b"".join(self._content).replace(b"\r\n", b"\n")
        self._deliver(Mail(self._sender, tuple(self._recipients), content))


def _octets(mailbox: Mailbox) -> bytes:
    return mailbox.address.encode("utf-8", "surrogateescape")


class MemoryWire:
    """A connection to a `Receiver`."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver

    def exchange(self, data: bytes, *, last: bool) -> tuple[bytes, Ending | None]:  # noqa: ARG002 - part of `Wire`
        """Write, and take the reply; there is no more to wait for."""
        said = self._receiver.receive(data) if data else self._receiver.data_to_send()
        if self._receiver.closed:
            return said, Ending.CLOSED
        return said, None if said else Ending.SILENT
