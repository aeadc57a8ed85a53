"""Passes messages on to a server by QMQP (https://cr.yp.to/proto/qmqp.html), such as qmail-qmqpd.

    queue/qmqp-forward HOST [PORT]

PORT is 628 by default.

Argument behind them: `timeout`, the seconds that a message may take, connecting included, 110
by default. Keep it below `timeouthook`: a hook that takes longer is given up and the client told
451, but it goes on, and may pass on what the client then sends again.

The message goes with LF line ends, as the protocol has them, and otherwise byte for byte, while
it is read. QMQP is neither encrypted nor authenticated: keep it to networks of your own. It has
one answer for all recipients, and no parameters: what a client asks for by DSN is lost, and
what is a promise (REQUIRETLS, BINARYMIME, a deadline) makes the message fail.

Result: OK behind the server's `K`; DENY (552) behind `D`, and for a message that QMQP cannot
carry; DENYSOFT (452) behind `Z`, and for whatever else goes wrong: a server that cannot be
reached, is late or makes no sense. If the connection breaks behind the message, nobody knows
whether the server has taken it; the client is told to send it again.

In config/plugins:

    queue/qmqp-forward queue.internal.example
"""

import re
from collections.abc import Iterator

from qpsmtpd import DENY, DENYSOFT, LOGERROR, LOGINFO, OK, Plugin, Result, Site, Transaction, blocking
from qpsmtpd.plugins._forward import TROUBLE, destination, one_line, talk_seconds
from qpsmtpd.plugins._streams import Stream

_PORT = 628
_ANSWER = 65_536  # octets of an answer
_LENGTH = re.compile(rb"0|[1-9][0-9]{0,5}")
_UNFIT = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")  # a NUL would end an address in the queue of qmail


class QmqpForward(Plugin):
    """Passes messages on to a server by QMQP."""

    shared_arguments = ("loglevel",)

    def register(self, qp: Site, *args: str) -> None:
        """Read the arguments. Raises ValueError."""
        self._place, rest = destination(args, _PORT)
        if not self._place.port:
            raise ValueError(f"{self._place} is no host")
        self._timeout = talk_seconds(self, self.options(tuple(rest), "timeout"))

    @blocking
    def hook_queue(self, transaction: Transaction) -> Result:
        """Pass the message on."""
        problem = _unfit(transaction)
        if problem:
            self.log(LOGINFO, f"fail, {problem}")
            return DENY, problem
        try:
            answer = self._ask(transaction)
        except (OSError, ValueError) as error:
            self.log(LOGERROR, f"error, {self._place}: {getattr(error, 'strerror', None) or error}")
            return DENYSOFT, TROUBLE
        return self._verdict(answer[:1], one_line(answer[1:].decode("utf-8", "surrogateescape")))

    def _ask(self, transaction: Transaction) -> bytes:
        """Send a message, and give the server's answer. Raises OSError, or ValueError for what is none."""
        with Stream(self._place, self._timeout, self.qp.clock) as stream:
            for piece in _package(transaction):
                stream.send(piece)
            return _read_netstring(stream)

    def _verdict(self, kind: bytes, text: str) -> Result:
        if kind == b"K":
            self.log(LOGINFO, f"pass, {self._place}: {text}")
            return OK, f"Queued! {text}"
        if kind == b"D":
            self.log(LOGINFO, f"fail, {self._place}: {text}")
            return DENY, f"Refused by the next server: {text}"
        if kind == b"Z":
            self.log(LOGINFO, f"fail, {self._place}, for now: {text}")
            return DENYSOFT, f"Refused for now by the next server: {text}"
        self.log(LOGERROR, f"error, {self._place}: the answer is neither K nor Z nor D")
        return DENYSOFT, TROUBLE


def _unfit(transaction: Transaction) -> str:
    """Why QMQP cannot carry a message; empty if it can."""
    parameters = transaction.sender_parameters
    if "requiretls" in parameters:
        return "5.7.30 REQUIRETLS support required"
    if (parameters.get("body") or "").upper() == "BINARYMIME":
        return "5.6.3 Binary content cannot be passed on"
    if (parameters.get("by") or "").partition(";")[2].upper().startswith("R"):
        return "5.3.3 Delivery by a deadline cannot be passed on"
    addresses = [transaction.reverse_path, *transaction.recipients]
    if any(_UNFIT.search(mailbox.address) for mailbox in addresses):
        return "5.1.3 An address cannot be passed on"
    return ""


def _package(transaction: Transaction) -> Iterator[bytes]:
    """The netstring that QMQP sends: in it one of the message, of the sender, and of each recipient."""
    addresses = (transaction.reverse_path, *dict.fromkeys(transaction.recipients))
    envelope = b"".join(_netstring(mailbox.address.encode()) for mailbox in addresses)
    size = sum(map(len, transaction.content.lf_chunks()))
    head = b"%d:" % size
    yield b"%d:%b" % (len(head) + size + len(b",") + len(envelope), head)
    yield from filter(None, transaction.content.lf_chunks())
    yield b",%b," % envelope


def _netstring(data: bytes) -> bytes:
    return b"%d:%b," % (len(data), data)


def _read_netstring(stream: Stream) -> bytes:
    """Raises OSError, or ValueError for what is no netstring, an empty one or one that is too long."""
    length = stream.receive_until(b":", 6)
    if not _LENGTH.fullmatch(length) or not 0 < int(length) <= _ANSWER:
        raise ValueError("the answer is no netstring, or too long")
    answer = stream.receive_exactly(int(length))
    if stream.receive_exactly(1) != b",":
        raise ValueError("the answer is no netstring")
    return answer
