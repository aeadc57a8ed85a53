"""As much of a TLS ClientHello as is needed (RFC 8446 sections 4.1.2 and 5.1): the name a client asks for.

Total functions: any bytes in. What is not understood is OpenSSL's to judge.
"""

import re

__all__ = ["HELLO_LIMIT", "client_hello", "server_name"]

HELLO_LIMIT = 16_384
"""Octets of a ClientHello that are looked at; real ones have 2,000."""

_RECORDS = 64  # that it may be spread over; more of them are there to cost time
_HANDSHAKE, _CLIENT_HELLO, _SERVER_NAME, _HOST_NAME = b"\x16", b"\x01", b"\0\0", b"\0"
_VERSION_AND_RANDOM = 2 + 32
_HOST = re.compile(rb"[A-Za-z0-9._-]{1,255}")


def _vector(data: bytes, at: int, width: int) -> tuple[bytes, int]:
    """What stands behind a length of some octets, as much of it as there is, and where it should end."""
    start = at + width
    end = start + int.from_bytes(data[at:start], "big")
    return data[start:end], end


def client_hello(records: bytes) -> bytes | None:
    """The ClientHello that a connection begins with, its header left out; None while it is not whole.

    Of what is none, nothing.
    """
    message, at = b"", 0
    for _ in range(_RECORDS):
        if at >= len(records):
            return None
        if records[at : at + 1] != _HANDSHAKE:
            return b""
        fragment, at = _vector(records, at + 3, 2)
        message += fragment
        if message and message[:1] != _CLIENT_HELLO:
            return b""
        hello, end = _vector(message, 1, 3)
        if end <= len(message):
            return hello
    return None if at > len(records) else b""


def server_name(hello: bytes) -> str | None:
    """The host that a client asks for (RFC 6066 section 3); None if for none, or one that cannot be."""
    at = _VERSION_AND_RANDOM
    for width in (1, 2, 1):  # the session's identity, cipher suites, compression
        _, at = _vector(hello, at, width)
    extensions, _ = _vector(hello, at, 2)
    at = 0
    while at < len(extensions):
        kind = extensions[at : at + 2]
        data, at = _vector(extensions, at + 2, 2)
        if kind == _SERVER_NAME:
            names, _ = _vector(data, 0, 2)  # a list, but there is one type of names, and one name of each
            name, _ = _vector(names, 1, 2)
            return name.decode() if names[:1] == _HOST_NAME and _HOST.fullmatch(name) else None
    return None
