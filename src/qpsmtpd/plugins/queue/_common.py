"""What the queue plugins share: what the client is told of a message, and addresses in the envelopes of others."""

import re

from qpsmtpd import Transaction

__all__ = ["LATER", "TIMEOUT", "message_id", "octets"]

TIMEOUT = 100
"""Seconds that the next system has for a message, by default: less than a hook has."""

LATER = "the message cannot be queued now, please try again later"
"""What the client is told where the trouble is ours."""

_CONTROLS = re.compile(r"[\x00-\x1f\x7f]")


def message_id(transaction: Transaction) -> str:
    """What a message is called to the client: its Message-Id, else the transaction; one word, not too long."""
    words = transaction.header.get("Message-Id").split()
    return words[0][:200] if words else transaction.id


def octets(text: str) -> bytes:
    """An address, or another text of the client's, for the envelope of another program.

    Raises ValueError for control characters: there it would end, and something else begin. The
    protocol lets none in, but a plugin may.
    """
    if _CONTROLS.search(text):
        raise ValueError(f"{text!r} holds control characters, and cannot be handed on")
    return text.encode("utf-8", "surrogateescape")
