"""What may come before SMTP, or between two parts of it: a PROXY header, a TLS handshake.

Both are generators of effects, and both have one time limit for the whole, so that a client
who sends an octet now and then gains nothing.
"""

from collections.abc import Callable, Generator

from qpsmtpd.protocol import ProxyHeader
from qpsmtpd.protocol import read_proxy_header as parse
from qpsmtpd.session.effects import Effect, Receive
from qpsmtpd.session.tls import TlsChannel, TlsError

__all__ = ["read_proxy_header", "shake_hands"]


def read_proxy_header(
    clock: Callable[[], float], seconds: float
) -> Generator[Effect, object, tuple[ProxyHeader | None, bytes]]:
    """Receive a PROXY header; give it, and what came behind it. None if none came, or a bad one."""
    deadline, buffer = clock() + seconds, b""
    while True:
        found = parse(buffer)
        if isinstance(found, tuple):
            header, length = found
            return header, buffer[length:]
        if found is not None:
            return None, b""
        outcome = yield Receive(max(deadline - clock(), 0.0))
        if not isinstance(outcome, bytes) or not outcome:
            return None, b""
        buffer += outcome


def shake_hands(
    channel: TlsChannel,
    early: bytes,
    send: Callable[[bytes], object],
    clock: Callable[[], float],
    seconds: float,
) -> Generator[Effect, object, str | None]:
    """Perform the handshake of a channel; give why it failed, or None once it is done.

    `early` has come already. What is to be sent goes to `send`, an alert of failure included.
    """
    deadline = clock() + seconds
    if early:
        channel.receive_data(early)
    while True:
        try:
            done = channel.handshake()
        except TlsError as error:
            send(channel.data_to_send())
            return str(error)
        send(channel.data_to_send())
        if done:
            return None
        outcome = yield Receive(max(deadline - clock(), 0.0))
        if not isinstance(outcome, bytes):
            return "it took too long"
        if not outcome:
            return "the client has gone"
        channel.receive_data(outcome)
