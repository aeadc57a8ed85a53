"""The hosts that a message leads its readers to, found without taking it apart.

The octets are read as they stand: quoted-printable, percent signs and HTML entities are
undone all over, and what looks like base64 is decoded and read too. So whatever the parts of
a message are, and however they are nested, it is read in time proportional to its length.
"""

import binascii
import ipaddress
import re
from collections.abc import Callable, Iterator

__all__ = ["Address", "find_hosts"]

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_LONGEST_NAME = 253
_SOFT_BREAK = re.compile(rb"=[ \t]*+\r?\n")
_ESCAPE = re.compile(rb"[=%]([0-9A-Fa-f]{2})")
_ENTITY = re.compile(r"&#(?:0*+([0-9]{2,6})|[xX]0*+([0-9A-Fa-f]{2,5}));?", re.ASCII)
_BASE64 = re.compile(rb"(?m)^[A-Za-z0-9+/]{16,}+={0,2}(?:\r?\n[A-Za-z0-9+/]++={0,2}(?=\r?\n|\Z))*+")
_BINARY = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_PROBE = 1000  # octets that tell text from pictures and the like

# Nothing here is tried twice: a label is taken whole, and one that has a letter before it is none.
# Other scripts may stand before a name, as in Chinese; a Latin letter with an accent is a part of it.
_NAME = re.compile(r"(?<![A-Za-z0-9_\u00c0-\u024f-])[A-Za-z0-9_-]++(?:\.[A-Za-z0-9_-]++)++")
_WIDE_NAME = re.compile(r"(?<![\w-])[\w-]++(?:[.\u3002\uff0e\uff61][\w-]++)++")
_NUMBER = r"(?:0x[0-9a-f]{1,16}|[0-9]{1,20})"
_URI_WITH_ADDRESS = re.compile(
    r":/{1,9}+(?:[^\s/?#<>\"'@]{1,255}+@)?+"
    rf"(?:({_NUMBER}(?:\.{_NUMBER}){{0,3}})|\[([0-9a-f:.]{{2,45}})\])(?![\w-]|\.\w)",
    re.ASCII | re.IGNORECASE,
)


def find_hosts(content: bytes) -> Iterator[str | Address]:
    """The IP addresses of URIs, then all names that might be hosts, in lower case and in ASCII; some several times."""
    texts = [_unmunged(data) for data in (content, *_decoded(content))]
    for find in (_addresses, _names):
        for text in texts:
            yield from find(text)


def _decoded(content: bytes) -> Iterator[bytes]:
    """The texts in base64."""
    for match in _BASE64.finditer(content):
        data = b"".join(match[0].split()).rstrip(b"=")
        try:
            text = binascii.a2b_base64(data + b"=" * (-len(data) % 4))
        except binascii.Error:  # cut off, or no base64 at all
            continue
        if not _BINARY.search(text[:_PROBE]):
            yield text


def _unmunged(content: bytes) -> str:
    data = _ESCAPE.sub(lambda match: bytes.fromhex(match[1].decode()), _SOFT_BREAK.sub(b"", content))
    return _ENTITY.sub(_character, data.decode("utf-8", "replace"))


def _character(entity: re.Match[str]) -> str:
    number = int(entity[1]) if entity[1] else int(entity[2], 16)
    return chr(number) if number < 0xD800 or 0xDFFF < number <= 0x10FFFF else ""


def _addresses(text: str) -> Iterator[Address]:
    for match in _URI_WITH_ADDRESS.finditer(text):
        parse: Callable[[str], Address] = _ipv4 if match[1] else ipaddress.IPv6Address
        try:
            yield parse(match[1] or match[2])
        except ValueError:
            continue


def _ipv4(text: str) -> ipaddress.IPv4Address:
    """Read an address as browsers do: up to four numbers, decimal, octal or hexadecimal. Raises ValueError."""
    *first, last = [int(word, _base(word)) for word in text.lower().split(".")]
    if any(number > 0xFF for number in first) or last >= 1 << 8 * (4 - len(first)):
        raise ValueError("a number is too big")
    address = ipaddress.IPv4Address(last + sum(number << 24 - 8 * place for place, number in enumerate(first)))
    if int(address) < 1 << 24:
        raise ValueError("no host has such an address")
    return address


def _base(word: str) -> int:
    if word.startswith("0x"):
        return 16
    return 8 if word.startswith("0") else 10


def _names(text: str) -> Iterator[str]:
    for match in _NAME.finditer(text):
        name = match[0].strip("-_").lower()
        if len(name) <= _LONGEST_NAME:
            yield name
    if text.isascii():
        return
    for match in _WIDE_NAME.finditer(text):
        name = match[0].strip("-_")
        if len(name) <= _LONGEST_NAME and not name.isascii():
            try:
                yield name.encode("idna").decode().lower()
            except UnicodeError:  # it cannot be a host
                continue
