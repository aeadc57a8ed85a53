r"""The PROXY header, version 1 and 2: a proxy tells who is really connected.

The format is HAProxy's (its document proxy-protocol.txt). Reading is total: any bytes give
a header with its length, a wish for more, or a problem, and no more than `MAXIMUM` octets
are ever asked for. Bytes that no header begins with are a problem before its end is there.
"""

import enum
import ipaddress
import re
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
_V1_WORDS = (b"PROXY TCP4 ", b"PROXY TCP6 ", b"PROXY UNKNOWN")
_V1_BEGUN = re.compile(rb"PROXY (?:TCP[46] [0-9A-Fa-f.: ]*|UNKNOWN(?: [^\r\n]*)?)")
_LOCAL, _PROXY = b"\x20", b"\x21"
_ADDRESSES = {  # octets of both addresses, by family and transport
    b"\x00": 0,
    **dict.fromkeys((b"\x11", b"\x12"), 2 * (4 + 2)),
    **dict.fromkeys((b"\x21", b"\x22"), 2 * (16 + 2)),
    **dict.fromkeys((b"\x31", b"\x32"), 2 * 108),
}
_UNKNOWN, _TCP4, _TCP6, _UNIX = b"\x00", b"\x11", b"\x21", 2 * 108
_MAPPED = bytes(10) + b"\xff\xff"
_AUTHORITY, _CRC32C, _UNIQUE_ID, _SSL = 0x02, 0x03, 0x05, 0x20
_SSL_VERSION, _SSL_CN, _SSL_CIPHER = 0x21, 0x22, 0x23
_WORKED_OUT = frozenset({_AUTHORITY, _CRC32C, _UNIQUE_ID, _SSL})
_CLIENT_SSL, _CLIENT_CERT = 0x01, 0x06  # of this connection, or of the session it resumes
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_Tlvs = tuple[tuple[int, bytes], ...]


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
    """Who is connected to the proxy, IPv4 also where it is mapped into IPv6; None if that is no internet address."""

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
        """The header as text. Raises ValueError for what is no IP address."""
        ends = self._ends()
        if ends is None:
            return b"PROXY UNKNOWN\r\n"
        source, destination = ipaddress.ip_address(ends[0]), ipaddress.ip_address(ends[1])
        return f"PROXY TCP{source.version} {source} {destination} {ends[2]} {ends[3]}\r\n".encode("ascii")

    def encode_v2(self) -> bytes:
        """The header as octets, with TLVs for `authority`, `unique_id` and `tls`, then the others of `tlvs`.

        Raises ValueError for what is no IP address.
        """
        if self.local:
            return _SIGNATURE + _LOCAL + _UNKNOWN + bytes(2)
        family, body, ends = _UNKNOWN, b"", self._ends()
        if ends is not None:
            source, destination, port, to_port = ends
            family = _TCP4 if len(source) == 4 else _TCP6
            body = source + destination + port.to_bytes(2) + to_port.to_bytes(2)
        if self.authority is not None:
            body += _tlv(_AUTHORITY, self.authority.encode())
        if self.unique_id:
            body += _tlv(_UNIQUE_ID, self.unique_id)
        if self.tls is not None:
            body += _tlv(_SSL, _ssl_value(self.tls))
        body += b"".join(_tlv(kind, value) for kind, value in self.tlvs if kind not in _WORKED_OUT)
        return _SIGNATURE + _PROXY + family + len(body).to_bytes(2) + body

    def _ends(self) -> tuple[bytes, bytes, int, int] | None:
        """Both addresses, both as IPv6 if they are of two kinds, and both ports; None if they are not told."""
        if self.local or self.source is None or self.destination is None:
            return None
        (host, port), (to, to_port) = self.source, self.destination
        source, destination = ipaddress.ip_address(host).packed, ipaddress.ip_address(to).packed
        if len(source) != len(destination):
            source, destination = (_MAPPED + source)[-16:], (_MAPPED + destination)[-16:]
        return source, destination, port, to_port


def read_proxy_header(buffer: bytes | bytearray) -> tuple[ProxyHeader, int] | ProxyProblem | None:
    """Read a header at the start of `buffer`: the header and its length, or None if more is needed."""
    start = bytes(buffer[: len(_SIGNATURE)])
    if _SIGNATURE.startswith(start):
        return _read_v2(bytes(buffer[:MAXIMUM]))
    if b"PROXY ".startswith(start[:6]):
        return _read_v1(bytes(buffer[:_V1_MAXIMUM]))
    return ProxyProblem.NONE


def _read_v1(data: bytes) -> tuple[ProxyHeader, int] | ProxyProblem | None:
    line, end, _ = data.partition(b"\r\n")
    begun = _V1_BEGUN.fullmatch(line if end else line.removesuffix(b"\r"))
    if not end:
        if begun is None and not any(word.startswith(line) for word in _V1_WORDS):
            return ProxyProblem.MALFORMED
        return None if len(data) < _V1_MAXIMUM else ProxyProblem.TOO_LARGE
    length = len(line) + len(end)
    if begun is not None and line.startswith(b"PROXY UNKNOWN"):
        return ProxyHeader(local=True), length
    match = _V1.fullmatch(line.decode("latin-1"))
    if match is None:
        return ProxyProblem.MALFORMED
    try:
        source, destination = ipaddress.ip_address(match[2]), ipaddress.ip_address(match[3])
    except ValueError:
        return ProxyProblem.MALFORMED
    port, to_port = int(match[4]), int(match[5])
    if {source.version, destination.version} != {int(match[1])} or max(port, to_port) > 65535:
        return ProxyProblem.MALFORMED
    return ProxyHeader(local=False, source=(_plain(source), port), destination=(_plain(destination), to_port)), length


def _read_v2(data: bytes) -> tuple[ProxyHeader, int] | ProxyProblem | None:
    command, family = data[12:13], data[13:14]
    if command not in (b"", _LOCAL, _PROXY):
        return ProxyProblem.MALFORMED
    if command == _PROXY and family and family not in _ADDRESSES:
        return ProxyProblem.MALFORMED
    if len(data) < _FIXED:
        return None
    size = 0 if command == _LOCAL else _ADDRESSES[family]
    length = _FIXED + int.from_bytes(data[14:_FIXED])
    if length > MAXIMUM:
        return ProxyProblem.TOO_LARGE
    if length < _FIXED + size:
        return ProxyProblem.MALFORMED
    if len(data) < length:
        return None
    if command == _LOCAL:  # whatever else it says is to be ignored
        return ProxyHeader(local=True), length
    header = _read_proxied(family, data[_FIXED : _FIXED + size], data[_FIXED + size : length], data[:length])
    return header if isinstance(header, ProxyProblem) else (header, length)


def _read_proxied(family: bytes, addresses: bytes, rest: bytes, whole: bytes) -> ProxyHeader | ProxyProblem:
    tlvs = _read_tlvs(rest)
    if tlvs is None:
        if family != _UNKNOWN:
            return ProxyProblem.MALFORMED
        tlvs = ()  # addresses of a kind that the format has no name for
    known = dict(tlvs)
    if _CRC32C in known and known[_CRC32C] != _checksum(whole, len(whole) - len(rest)):
        return ProxyProblem.CHECKSUM
    authority = _text(known[_AUTHORITY]) if _AUTHORITY in known else None
    tls = _read_ssl(known[_SSL], authority) if _SSL in known else None
    if isinstance(tls, ProxyProblem) or (authority is not None and _CONTROL.search(authority)):
        return ProxyProblem.MALFORMED  # the client has chosen this name
    source = destination = None
    if addresses and len(addresses) != _UNIX:
        width = len(addresses) // 2 - 2
        ends = [_plain(ipaddress.ip_address(addresses[at : at + width])) for at in (0, width)]
        source = ends[0], int.from_bytes(addresses[-4:-2])
        destination = ends[1], int.from_bytes(addresses[-2:])
    return ProxyHeader(family == _UNKNOWN, source, destination, authority, tls, known.get(_UNIQUE_ID, b""), tlvs)


def _read_tlvs(data: bytes) -> _Tlvs | None:
    """The type-length-value triples; None if one is cut off."""
    tlvs: list[tuple[int, bytes]] = []
    at = 0
    while at < len(data):
        start = at + 3
        end = start + int.from_bytes(data[at + 1 : start])
        if end > len(data):
            return None
        tlvs.append((data[at], data[start:end]))
        at = end
    return tuple(tlvs)


def _read_ssl(value: bytes, authority: str | None) -> Security | ProxyProblem | None:
    """The encryption that PP2_TYPE_SSL tells of; None if the client has used none."""
    tlvs = _read_tlvs(value[5:])
    if len(value) < 5 or tlvs is None:
        return ProxyProblem.MALFORMED
    if not value[0] & _CLIENT_SSL:
        return None
    about = {kind: _text(text) for kind, text in tlvs}
    certificate = None
    if value[0] & _CLIENT_CERT:
        name = about.get(_SSL_CN)
        certificate = ClientCertificate("" if name is None else f"CN={name}", verified=value[1:5] == bytes(4))
    return Security(about.get(_SSL_VERSION) or "TLS", about.get(_SSL_CIPHER) or "unknown", authority, certificate)


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")


def _plain(address: _Address) -> str:
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def _ssl_value(tls: Security) -> bytes:
    certificate = tls.client_certificate
    verified = certificate is not None and certificate.verified
    flags = _CLIENT_SSL | (_CLIENT_CERT if certificate is not None else 0)
    value = bytes([flags]) + int(not verified).to_bytes(4)
    value += _tlv(_SSL_VERSION, tls.version.encode()) + _tlv(_SSL_CIPHER, tls.cipher.encode())
    if certificate is not None and certificate.subject.startswith("CN="):
        value += _tlv(_SSL_CN, certificate.subject.removeprefix("CN=").encode())
    return value


def _tlv(kind: int, value: bytes) -> bytes:
    return bytes([kind]) + len(value).to_bytes(2) + value


def _checksum(header: bytes, at: int) -> bytes:
    """CRC-32C of a header whose TLVs begin at `at`, its own checksum counted as zeros."""
    size = int.from_bytes(header[at + 1 : at + 3])
    while header[at] != _CRC32C:
        at += 3 + size
        size = int.from_bytes(header[at + 1 : at + 3])
    crc = 0xFFFFFFFF
    for octet in header[: at + 3] + bytes(size) + header[at + 3 + size :]:
        crc = (crc >> 8) ^ _CRC_TABLE[(crc ^ octet) & 0xFF]
    return (crc ^ 0xFFFFFFFF).to_bytes(4)


def _crc_of(octet: int) -> int:
    for _ in range(8):
        octet = (octet >> 1) ^ (0x82F63B78 if octet & 1 else 0)
    return octet


_CRC_TABLE = tuple(map(_crc_of, range(256)))
