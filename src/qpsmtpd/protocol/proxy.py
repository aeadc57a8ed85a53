r"""The PROXY header, version 1 and 2: a proxy tells who is really connected.

The format is HAProxy's (its document proxy-protocol.txt). Reading is total: any bytes give
a header with its length, a wish for more, or a problem, and no more than `MAXIMUM` octets
are ever asked for. Bytes that can no longer become a header are a problem at once.
"""

import enum
import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from qpsmtpd.protocol.security import ClientCertificate, Security

__all__ = ["MAXIMUM", "Endpoint", "ProxyHeader", "ProxyProblem", "read_proxy_header"]

MAXIMUM = 4096
"""Octets in a header. The format allows more, and no proxy needs it."""

Endpoint = tuple[str, int]
"""IP address and port."""

_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_FIXED = len(_SIGNATURE) + 4
_V1_MAXIMUM = 107
_PORT = r"(0|[1-9][0-9]{0,4})"
_V1 = re.compile(rf"PROXY TCP([46]) ([0-9A-Fa-f.:]{{2,39}}) ([0-9A-Fa-f.:]{{2,39}}) {_PORT} {_PORT}")
_LOCAL, _PROXY = 0x20, 0x21
_FAMILIES = {0x11: 4, 0x12: 4, 0x21: 16, 0x22: 16}  # TCP and UDP over IPv4 and IPv6: octets of an address
_UNIX = 216  # octets of two paths
_AUTHORITY, _CRC32C, _UNIQUE_ID, _SSL = 0x02, 0x03, 0x05, 0x20
_SSL_VERSION, _SSL_CN, _SSL_CIPHER = 0x21, 0x22, 0x23
_CLIENT_SSL, _CLIENT_CERT = 0x01, 0x06  # of this connection, or of the session it resumes


class ProxyProblem(enum.Enum):
    """Why there is no header."""

    NONE = "these bytes are no PROXY header"
    MALFORMED = "this PROXY header is malformed"
    TOO_LARGE = "this PROXY header is too large"
    CHECKSUM = "the checksum of this PROXY header is wrong"

    __hash__ = object.__hash__


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """What a PROXY header says."""

    local: bool
    """Whether the proxy speaks for itself, or knows nothing: the connection's own addresses stay."""

    source: Endpoint | None = None
    """Who is connected to the proxy; None if that is no internet address."""

    destination: Endpoint | None = None
    """Where that one has connected to."""

    authority: str | None = None
    """The host name that the client has asked for (SNI)."""

    tls: Security | None = None
    """The encryption that the proxy has ended."""

    unique_id: bytes = b""

    tlvs: tuple[tuple[int, bytes], ...] = ()
    """All that a header of version 2 holds behind the addresses: type and value."""

    def encode_v1(self) -> bytes:
        """The header as text. Raises ValueError for addresses of two kinds."""
        if self.local or self.source is None or self.destination is None:
            return b"PROXY UNKNOWN\r\n"
        versions = {ipaddress.ip_address(host).version for host, _ in (self.source, self.destination)}
        if len(versions) != 1:
            raise ValueError("both addresses of a PROXY header are of one kind")
        (host, port), (to, to_port) = self.source, self.destination
        return f"PROXY TCP{versions.pop()} {host} {to} {port} {to_port}\r\n".encode("ascii")

    def encode_v2(self) -> bytes:
        """The header as octets, with TLVs for `authority`, `unique_id` and `tls`, and without `tlvs`.

        Raises ValueError for addresses of two kinds.
        """
        family, addresses = 0, b""
        if not self.local and self.source is not None and self.destination is not None:
            ends = (self.source, self.destination)
            hosts = [ipaddress.ip_address(host).packed for host, _ in ends]
            if len(hosts[0]) != len(hosts[1]):
                raise ValueError("both addresses of a PROXY header are of one kind")
            family = 0x11 if len(hosts[0]) == 4 else 0x21
            addresses = b"".join([*hosts, *(port.to_bytes(2) for _, port in ends)])
        tlvs = b""
        if self.authority is not None:
            tlvs += _tlv(_AUTHORITY, self.authority.encode())
        if self.unique_id:
            tlvs += _tlv(_UNIQUE_ID, self.unique_id)
        if self.tls is not None:
            tlvs += _tlv(_SSL, _ssl_value(self.tls))
        command = _LOCAL if self.local else _PROXY
        return _SIGNATURE + bytes([command, family]) + (len(addresses) + len(tlvs)).to_bytes(2) + addresses + tlvs


def read_proxy_header(buffer: bytes | bytearray) -> tuple[ProxyHeader, int] | ProxyProblem | None:
    """Read a header at the start of `buffer`: the header and its length, or None if more is needed."""
    start = bytes(buffer[:_FIXED])
    if _SIGNATURE.startswith(start[: len(_SIGNATURE)]):
        return _read_v2(bytes(buffer[:MAXIMUM])) if len(start) == _FIXED else None
    if b"PROXY ".startswith(start[:6]):
        return _read_v1(bytes(buffer[:_V1_MAXIMUM]))
    return ProxyProblem.NONE


def _read_v1(data: bytes) -> tuple[ProxyHeader, int] | ProxyProblem | None:
    line, end, _ = data.partition(b"\r\n")
    if not end:
        if len(data) >= _V1_MAXIMUM:
            return ProxyProblem.TOO_LARGE
        return ProxyProblem.MALFORMED if b"\n" in data or b"\r" in data[:-1] else None
    length = len(line) + len(end)
    text = line.decode("latin-1")
    if text == "PROXY UNKNOWN" or text.startswith("PROXY UNKNOWN "):
        return ProxyHeader(local=True), length
    match = _V1.fullmatch(text)
    if match is None:
        return ProxyProblem.MALFORMED
    parse: Callable[[str], object] = ipaddress.IPv4Address if match[1] == "4" else ipaddress.IPv6Address
    try:
        hosts = str(parse(match[2])), str(parse(match[3]))
    except ValueError:
        return ProxyProblem.MALFORMED
    ports = int(match[4]), int(match[5])
    if max(ports) > 65535:
        return ProxyProblem.MALFORMED
    return ProxyHeader(local=False, source=(hosts[0], ports[0]), destination=(hosts[1], ports[1])), length


def _read_v2(data: bytes) -> tuple[ProxyHeader, int] | ProxyProblem | None:
    command, family = data[len(_SIGNATURE)], data[len(_SIGNATURE) + 1]
    length = _FIXED + int.from_bytes(data[_FIXED - 2 : _FIXED])
    if command not in (_LOCAL, _PROXY):
        return ProxyProblem.MALFORMED
    if length > MAXIMUM:
        return ProxyProblem.TOO_LARGE
    if len(data) < length:
        return None
    body = data[_FIXED:length]
    if command == _LOCAL:
        return ProxyHeader(local=True), length
    width = _FAMILIES.get(family, 0)
    size = 2 * width + 4 if width else _UNIX if family in (0x31, 0x32) else 0
    if len(body) < size or family not in (0, *_FAMILIES, 0x31, 0x32):
        return ProxyProblem.MALFORMED
    found = list(_tlvs(body[size:]))
    tlvs = tuple(tlv for tlv in found if tlv is not None)
    if len(tlvs) != len(found):
        return ProxyProblem.MALFORMED
    known = dict(tlvs)
    checksum = known.get(_CRC32C)
    if checksum is not None and checksum != _checksum(data[:length], size):
        return ProxyProblem.CHECKSUM
    source = destination = None
    if width:
        ends = body[2 * width : size]
        source = str(ipaddress.ip_address(body[:width])), int.from_bytes(ends[:2])
        destination = str(ipaddress.ip_address(body[width : 2 * width])), int.from_bytes(ends[2:])
    authority = known.get(_AUTHORITY)
    header = ProxyHeader(
        local=family == 0,
        source=source,
        destination=destination,
        authority=None if authority is None else authority.decode("utf-8", "replace"),
        tls=_security(known.get(_SSL, b""), authority),
        unique_id=known.get(_UNIQUE_ID, b""),
        tlvs=tlvs,
    )
    return header, length


def _tlvs(data: bytes) -> Iterator[tuple[int, bytes] | None]:
    """The type-length-value triples; None where one is cut off."""
    while data:
        size = int.from_bytes(data[1:3])
        if len(data) < 3 + size:
            yield None
            return
        yield data[0], data[3 : 3 + size]
        data = data[3 + size :]


def _security(value: bytes, authority: bytes | None) -> Security | None:
    """The encryption that PP2_TYPE_SSL tells of; None if the client has used none."""
    if len(value) < 5 or not value[0] & _CLIENT_SSL:
        return None
    about: Mapping[int, bytes] = dict(tlv for tlv in _tlvs(value[5:]) if tlv is not None)

    def text(kind: int) -> str:
        return about.get(kind, b"").decode("utf-8", "replace")

    certificate = None
    if value[0] & _CLIENT_CERT:
        verified = int.from_bytes(value[1:5]) == 0
        certificate = ClientCertificate(f"CN={text(_SSL_CN)}", verified)
    name = None if authority is None else authority.decode("utf-8", "replace")
    return Security(text(_SSL_VERSION) or "TLS", text(_SSL_CIPHER) or "unknown", name, certificate)


def _ssl_value(tls: Security) -> bytes:
    certificate = tls.client_certificate
    flags = _CLIENT_SSL | (_CLIENT_CERT if certificate is not None else 0)
    unverified = certificate is not None and not certificate.verified
    value = bytes([flags]) + int(unverified).to_bytes(4)
    value += _tlv(_SSL_VERSION, tls.version.encode()) + _tlv(_SSL_CIPHER, tls.cipher.encode())
    if certificate is not None:
        value += _tlv(_SSL_CN, certificate.subject.removeprefix("CN=").encode())
    return value


def _tlv(kind: int, value: bytes) -> bytes:
    return bytes([kind]) + len(value).to_bytes(2) + value


def _checksum(header: bytes, addresses: int) -> bytes:
    """CRC-32C of a header, its own checksum counted as zeros."""
    at, found = _FIXED + addresses, bytearray(header)
    while found[at] != _CRC32C:
        at += 3 + int.from_bytes(found[at + 1 : at + 3])
    found[at + 3 : at + 3 + int.from_bytes(found[at + 1 : at + 3])] = bytes(int.from_bytes(found[at + 1 : at + 3]))
    crc = 0xFFFFFFFF
    for octet in found:
        crc = (crc >> 8) ^ _CRC_TABLE[(crc ^ octet) & 0xFF]
    return (crc ^ 0xFFFFFFFF).to_bytes(4)


def _crc_of(octet: int) -> int:
    for _ in range(8):
        octet = (octet >> 1) ^ (0x82F63B78 if octet & 1 else 0)
    return octet


_CRC_TABLE = tuple(map(_crc_of, range(256)))
