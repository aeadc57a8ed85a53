"""As much of a certificate as is needed: its names, subject and end, and what binds SASL to it (RFC 5929).

`ssl` tells this of the peer's certificate alone, and not of our own. Total functions: any bytes in.
"""

import datetime as dt
import hashlib
import re
from collections.abc import Iterator

__all__ = ["certificate_expiry", "certificate_names", "certificate_subject", "server_end_point"]

_SEQUENCE, _SET, _OID, _OCTETS, _EXTENSIONS, _DNS_NAME = 0x30, 0x31, 0x06, 0x04, 0xA3, 0x82
_UTC_TIME = 0x17
_VALIDITY, _SUBJECT = 3, 4  # places in a certificate
_SUBJECT_ALT_NAME = bytes.fromhex("551d11")
_ATTRIBUTES = {
    bytes.fromhex(oid): name
    for oid, name in {
        "550403": "CN",
        "550406": "C",
        "550407": "L",
        "550408": "ST",
        "55040a": "O",
        "55040b": "OU",
        "2a864886f70d010901": "emailAddress",
    }.items()
}
_SIGNATURE_HASHES = {
    bytes.fromhex(oid): name
    for oid, name in {
        "2a864886f70d010104": "sha256",  # MD5 and SHA-1 are replaced, RFC 5929 section 4.1
        "2a864886f70d010105": "sha256",
        "2a864886f70d01010b": "sha256",
        "2a864886f70d01010c": "sha384",
        "2a864886f70d01010d": "sha512",
        "2a864886f70d01010e": "sha224",
        "2a8648ce3d0401": "sha256",
        "2a8648ce3d040301": "sha224",
        "2a8648ce3d040302": "sha256",
        "2a8648ce3d040303": "sha384",
        "2a8648ce3d040304": "sha512",
    }.items()
}


def _elements(der: bytes) -> Iterator[tuple[int, bytes]]:
    """The elements in some DER, tag and content; what is cut off or of another form is left out."""
    at = 0
    while at + 2 <= len(der):
        tag, size, at = der[at], der[at + 1], at + 2
        if size == 0x80:  # an indefinite length is BER
            return
        if size > 0x80:
            width = size & 0x7F
            size, at = int.from_bytes(der[at : at + width]), at + width
        if at + size > len(der):
            return
        yield tag, der[at : at + size]
        at += size


def _inside(der: bytes, tag: int) -> list[tuple[int, bytes]]:
    """The elements inside the first one with this tag."""
    for found, content in _elements(der):
        if found == tag:
            return list(_elements(content))
    return []


def _tbs(der: bytes) -> list[tuple[int, bytes]]:
    """The elements of the signed part of a certificate, its version left out."""
    certificate = _inside(der, _SEQUENCE)
    parts = list(_elements(certificate[0][1])) if certificate else []
    return parts[1:] if parts and parts[0][0] == 0xA0 else parts


def _part(der: bytes, index: int) -> bytes:
    parts = _tbs(der)
    return parts[index][1] if index < len(parts) else b""


def certificate_names(der: bytes) -> tuple[str, ...]:
    """The host names in a certificate (subjectAltName), in lower case."""
    names: list[str] = []
    for tag, content in _tbs(der):
        if tag != _EXTENSIONS:
            continue
        for _, extension in _inside(content, _SEQUENCE):
            parts = list(_elements(extension))
            if parts and parts[0] == (_OID, _SUBJECT_ALT_NAME) and parts[-1][0] == _OCTETS:
                found = _inside(parts[-1][1], _SEQUENCE)
                names += [name.decode("latin-1").lower() for kind, name in found if kind == _DNS_NAME]
    return tuple(names)


def certificate_expiry(der: bytes) -> dt.datetime | None:
    """The last moment at which a certificate is good; None if it does not say so."""
    validity = list(_elements(_part(der, _VALIDITY)))
    if len(validity) != 2:
        return None
    tag, content = validity[1]
    text = content.decode("latin-1")
    if tag == _UTC_TIME:  # of two digits for the year (RFC 5280 section 4.1.2.5.1)
        text = ("20" if text < "50" else "19") + text
    try:
        return dt.datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=dt.UTC)
    except ValueError:
        return None


def certificate_subject(der: bytes) -> str:
    """The subject of a certificate as one line, `CN=client.example,O=Example` (RFC 4514, other types by number)."""
    relatives: list[str] = []
    for tag, relative in _elements(_part(der, _SUBJECT)):
        words: list[str] = []
        for _, attribute in _elements(relative) if tag == _SET else ():
            pair = list(_elements(attribute))
            if len(pair) == 2 and pair[0][0] == _OID:
                kind, value = pair[0][1], pair[1][1].decode("utf-8", "replace")
                words.append(f"{_ATTRIBUTES.get(kind) or _dotted(kind)}={_SPECIAL.sub(_escape, value)}")
        relatives.append("+".join(words))
    return ",".join(filter(None, reversed(relatives)))


_SPECIAL = re.compile(r'^[ #]|[,+"\\<>;]|[\x00-\x1f\x7f-\x9f\u2028\u2029]| \Z')


def _escape(found: re.Match[str]) -> str:
    char = found[0]
    return f"\\{char}" if char.isprintable() else "".join(f"\\{octet:02x}" for octet in char.encode())


def _dotted(oid: bytes) -> str:
    """An object identifier in its usual form, `1.2.840.113549`."""
    arcs, arc = [0], 0
    for octet in oid:
        arc = arc << 7 | octet & 0x7F
        if octet < 0x80:
            if len(arcs) == 1:  # the first two are one number (X.690 section 8.19.4)
                arcs[0] = min(arc // 40, 2)
                arc -= 40 * arcs[0]
            arcs.append(arc)
            arc = 0
    return ".".join(map(str, arcs))


def server_end_point(der: bytes) -> bytes | None:
    """The channel binding tls-server-end-point; None where the RFC defines none, as for Ed25519.

    Nor is there one for RSASSA-PSS, which names its hash elsewhere, and which no authority signs servers with.
    """
    certificate = _inside(der, _SEQUENCE)
    algorithm = list(_elements(certificate[1][1])) if len(certificate) > 1 else []
    name = _SIGNATURE_HASHES.get(algorithm[0][1]) if algorithm else None
    return hashlib.new(name, der).digest() if name is not None else None
