"""What is written in place of what nobody else may read: as many octets, of the same form.

What the server makes of a masked octet is what it made of the original: base64 stays base64 or stays none,
lines and dots stay where they are. So a masked recording plays as the original did.
"""

import re

from qpsmtpd.protocol.sasl import MECHANISMS

__all__ = ["CONTENT", "RESPONSE", "is_auth", "mask_command", "mask_text"]

_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_KEPT = b"\r\n =*"  # what means something in an AUTH exchange: line ends, words, padding, an empty response, a refusal

RESPONSE = bytes(65 if octet in _BASE64 else octet if octet in _KEPT else 33 for octet in range(256))
"""For `bytes.translate`: a response in AUTH. Base64 becomes that of zeros; other octets no base64."""

CONTENT = bytes(octet if octet in b"\r\n." else 120 for octet in range(256))
"""For `bytes.translate`: message content. Line ends and dots stay, all else becomes an x."""

_AUTH = re.compile(rb"\s*auth", re.IGNORECASE)
_MECHANISM = re.compile(rb" +([A-Za-z0-9\-]+)(?=[ \r\n])")


def is_auth(line: bytes | bytearray) -> bool:
    """Whether a line, or the beginning of one, is an AUTH command, or was meant to be one."""
    return _AUTH.match(line) is not None


def mask_command(line: bytes) -> bytes:
    """An AUTH command without what stands behind the mechanism; or behind the word, if that names none we know."""
    word = _AUTH.match(line)
    shown = word.end() if word is not None else 0
    named = _MECHANISM.match(line, shown)
    if named is not None and named[1].decode().upper() in MECHANISMS:
        shown = named.end()
    return line[:shown] + line[shown:].translate(RESPONSE)


def mask_text(text: str) -> str:
    """A response that is text already."""
    return text.encode("utf-8", "surrogateescape").translate(RESPONSE).decode("ascii")
