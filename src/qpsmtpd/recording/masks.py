"""What is written in place of what nobody else may read: as many octets, of the same form.

What the server makes of a masked octet is what it made of the original: base64 stays base64 or stays none,
lines and dots stay where they are. So a masked recording plays as the original did.
"""

import re

__all__ = ["CONTENT", "RESPONSE", "is_auth", "mask_command", "mask_text"]

_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_KEPT = b"\r\n =*"  # what means something in an AUTH exchange: line ends, words, padding, an empty response, a refusal

RESPONSE = bytes(65 if octet in _BASE64 else octet if octet in _KEPT else 33 for octet in range(256))
"""For `bytes.translate`: a response in AUTH. Base64 becomes that of zeros; other octets no base64."""

CONTENT = bytes(octet if octet in b"\r\n." else 120 for octet in range(256))
"""For `bytes.translate`: message content. Line ends and dots stay, all else becomes an x."""

_AUTH = re.compile(rb"(?i)auth(?:[^a-z].*)?\Z", re.DOTALL)
_OPEN = re.compile(rb"(?i)auth +[^ \r\n]*")  # the command and its mechanism


def is_auth(line: bytes) -> bool:
    """Whether a line, or the beginning of one, is an AUTH command, or looks like it to somebody."""
    return _AUTH.match(line) is not None


def mask_command(line: bytes) -> bytes:
    """An AUTH command without its initial response."""
    shown = match.end() if (match := _OPEN.match(line)) else 4
    return line[:shown] + line[shown:].translate(RESPONSE)


def mask_text(text: str) -> str:
    """A response that is text already."""
    return text.encode("utf-8", "surrogateescape").translate(RESPONSE).decode("ascii")
