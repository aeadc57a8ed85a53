"""XCLIENT: a trusted client says whom it speaks for (Postfix's XCLIENT_README).

Total functions: any arguments in, a value or a `SyntaxProblem` out.
"""

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass

from qpsmtpd.protocol.commands import parse_words
from qpsmtpd.protocol.errors import SyntaxProblem
from qpsmtpd.protocol.parameters import decode_xtext, encode_xtext
from qpsmtpd.protocol.replies import Reply

__all__ = ["ATTRIBUTES", "XClient", "format_xclient", "parse_xclient"]

ATTRIBUTES = ("NAME", "ADDR", "PORT", "PROTO", "HELO", "LOGIN", "DESTADDR", "DESTPORT")
"""What is taken, as EHLO announces it."""

_WRONG = "\0"
_UNKNOWN = frozenset({"[UNAVAILABLE]", "[TEMPUNAVAIL]"})
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")

_BAD = SyntaxProblem(Reply(501, "5.5.4", "Syntax error in the attributes of XCLIENT"))


@dataclass(frozen=True, slots=True)
class XClient:
    """Whom a client speaks for. What was not said is None; what is not known there is empty, or 0."""

    name: str | None = None
    """The verified host name."""

    address: str | None = None
    """The IP address."""

    port: int | None = None

    protocol: str | None = None
    """`SMTP` or `ESMTP`."""

    helo: str | None = None
    """What that client has called itself. Its word, unchecked."""

    login: str | None = None
    """Who that client is by AUTH."""

    destination_address: str | None = None
    """The IP address that client has connected to."""

    destination_port: int | None = None


_FIELDS = dict(zip(ATTRIBUTES, XClient.__dataclass_fields__, strict=True))


def parse_xclient(argument: str) -> XClient | SyntaxProblem:
    """Read the attributes of XCLIENT, `NAME=value` with values in xtext; each may come once."""
    values: dict[str, str | None] = {}
    for word in parse_words(argument):
        name, _, xtext = word.partition("=")
        attribute, value = name.upper(), decode_xtext(xtext)
        if attribute not in _FIELDS or attribute in values or not value or _CONTROL.search(value):
            return _BAD
        values[attribute] = "" if value.upper() in _UNKNOWN else value
    address, destination = _address(values.get("ADDR")), _address(values.get("DESTADDR"))
    port, destination_port = _port(values.get("PORT")), _port(values.get("DESTPORT"))
    protocol = (values.get("PROTO") or "").upper() or None
    if not values or _WRONG in (address, destination) or -1 in (port, destination_port):
        return _BAD
    if protocol not in (None, "SMTP", "ESMTP"):
        return _BAD
    return XClient(
        values.get("NAME"),
        address,
        port,
        protocol,
        values.get("HELO"),
        values.get("LOGIN"),
        destination,
        destination_port,
    )


def format_xclient(client: XClient, offered: Iterable[str] = ATTRIBUTES) -> str:
    """The arguments of XCLIENT that say this, for a client that speaks for another.

    `offered` are the attributes that the server takes, as it announces them.
    """
    words: list[str] = []
    taken = {attribute.upper() for attribute in offered}
    for attribute, field in _FIELDS.items():
        value: object = getattr(client, field) if attribute in taken else None
        if value in ("", 0):
            words.append(f"{attribute}=[UNAVAILABLE]")
        elif value is not None:
            prefix = "IPV6:" if attribute.endswith("ADDR") and ":" in str(value) else ""
            words.append(f"{attribute}={encode_xtext(f'{prefix}{value}')}")
    return " ".join(words)


def _address(text: str | None) -> str | None:
    """An IP address in canonical form, IPv4 where it is mapped into IPv6; `_WRONG` if it is none."""
    if not text:
        return text
    tagged = text[:5].upper() == "IPV6:"
    try:
        address = ipaddress.IPv6Address(text[5:]) if tagged else ipaddress.ip_address(text)
    except ValueError:
        return _WRONG
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    return _WRONG if address.scope_id else str(address.ipv4_mapped or address)


def _port(text: str | None) -> int | None:
    """A port; 0 if it is not known, -1 if it is none."""
    if text is None:
        return None
    if not text:
        return 0
    number = int(text) if text.isascii() and text.isdecimal() and len(text) <= 5 else -1
    return number if 0 < number <= 65535 else -1
