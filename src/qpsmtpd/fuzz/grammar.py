"""Paths, PROXY headers and the attributes of XCLIENT, each read a second time by other means.

Where the core is more liberal than the RFC, on purpose and as its documentation says, so are the witnesses.
"""

import ipaddress
import re
import struct
from zlib import crc32

from qpsmtpd.fuzz.wrong import Edges, Wrong
from qpsmtpd.protocol import ProxyHeader, SyntaxProblem, XClient, parse_path, read_proxy_header
from qpsmtpd.protocol.proxy import ProxyProblem
from qpsmtpd.protocol.xclient import format_xclient, parse_xclient

__all__ = ["check_address", "check_proxy", "check_xclient"]

# Paths: RFC 5321 section 4.1.2, RFC 6531 section 3.3, written anew character by character

_ATEXT = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!#$%&'*+-/=?^_`{|}~")
_ALNUM = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789")


def _is_wide(character: str) -> bool:
    """Whether it is a character outside ASCII that RFC 6531 lets into an address; no control, no lone surrogate."""
    return character > "\xa0" and not "\ud800" <= character <= "\udfff"


def _is_label(text: str) -> bool:
    inner = all(each in _ALNUM or each == "-" or _is_wide(each) for each in text)
    return bool(text) and inner and text[0] != "-" and text[-1] != "-"


def _is_domain(text: str) -> bool:
    return all(map(_is_label, text.split(".")))


def _is_literal(text: str) -> bool:
    if text[:5].lower() == "ipv6:":
        return _is_ip(text[5:], 6)
    return _is_ip(text, 4)


def _is_ip(text: str, version: int) -> bool:
    try:
        return ipaddress.ip_address(text).version == version and "%" not in text
    except ValueError:
        return False


def _split_route(text: str) -> str | None:
    """A path without its brackets and its source route (RFC 5321 appendix C); None if there is something wrong."""
    if len(text) < 2 or text[0] != "<" or text[-1] != ">":
        return None
    inner = text[1:-1]
    if not inner.startswith("@"):
        return inner
    route, colon, rest = inner.partition(":")
    hops = route[1:].split(",")
    sound = all(_is_domain(hop.removeprefix("@") if number else hop) for number, hop in enumerate(hops))
    return rest if colon and sound else None


def _read_quoted(text: str) -> tuple[str, str] | None:
    """A quoted string at the start, and what follows it."""
    read: list[str] = []
    at = 1
    while at < len(text):
        each = text[at]
        if each == '"':
            return "".join(read), text[at + 1 :]
        if each == "\\":
            at += 1
            if at >= len(text) or not " " <= text[at] <= "~":
                return None
            read.append(text[at])
        elif " " <= each <= "~" or _is_wide(each) or each == "\xa0":
            read.append(each)
        else:
            return None
        at += 1
    return None


def _read_path(text: str) -> tuple[str, str | None] | None:
    """Local part and domain; None for what is no path."""
    if text.lower() == "<postmaster>":
        return "postmaster", None
    inner = _split_route(text)
    if not inner:
        return None if inner is None else ("", None)
    if inner[0] == '"':
        found = _read_quoted(inner)
        if found is None or not found[1].startswith("@"):
            return None
        local, domain = found[0], found[1][1:]
    else:
        local, at, domain = inner.partition("@")
        atoms = re.split("[. ]+", local)  # blanks are let pass
        sound = all(atom and all(each in _ATEXT or _is_wide(each) for each in atom) for atom in atoms)
        if not at or not sound or re.search(r"\. *\.", local):
            return None
    literal = domain.startswith("[") and domain.endswith("]") and _is_literal(domain[1:-1])
    return (local, domain) if literal or _is_domain(domain) else None


def check_address(data: bytes, *, thoroughly: bool = False) -> Edges:
    """A path, as UTF-8."""
    del thoroughly
    text = data.decode("utf-8", "surrogateescape")
    parsed = parse_path(text)
    expected = _read_path(text)
    if isinstance(parsed, SyntaxProblem):
        if expected is not None:
            raise Wrong(f"{text!r} is refused, and is {expected!r}")
        return [("refused", _shape(text)[:2])]
    if expected is None:
        raise Wrong(f"{text!r} is accepted as {parsed!r}")
    if (parsed.local_part, parsed.domain) != expected:
        raise Wrong(f"{text!r} is read as {parsed!r}, and is {expected!r}")
    again = parse_path(parsed.path)
    if again != parsed:
        raise Wrong(f"{parsed!r} is printed as {parsed.path!r}, which is read as {again!r}")
    return [(bool(parsed), parsed.is_ascii, parsed.domain is None, _shape(parsed.path)[:3])]


_KINDS = str.maketrans(
    {each: "a" for each in map(chr, range(0x80)) if each.isalnum()}
    | dict.fromkeys("!#$%&'*+-/=?^_`{|}~", "+")
    | dict.fromkeys(map(chr, [*range(32), 127]), "0")
)


def _shape(text: str) -> str:
    """What kinds of characters follow each other: few shapes, so that a corpus stays small."""
    kinds = "".join("w" if each > "\x7f" else each for each in text[:40].translate(_KINDS))
    return re.sub(r"(.)\1+", r"\1", kinds)[:8]


# PROXY headers: HAProxy's proxy-protocol.txt

_MAGIC = bytes.fromhex("0d0a0d0a000d0a515549540a")


def check_proxy(data: bytes, *, thoroughly: bool = False) -> Edges:
    """A header, and what follows it."""
    found = read_proxy_header(data)
    for where in range(len(data)) if thoroughly else (crc32(data) % (len(data) + 1),):
        early = read_proxy_header(data[:where])
        if isinstance(early, tuple) and early != found:
            raise Wrong(f"{where} octets are a header, and all of them another: {early!r}, {found!r}")
        if isinstance(early, ProxyProblem) and not isinstance(found, ProxyProblem):
            raise Wrong(f"{where} octets are no beginning, and all of them are: {early!r}, {found!r}")
    if found is None:
        if len(data) >= 4096 or (data[:1] == b"P" and len(data) >= 107):
            raise Wrong("more is wanted than a header may have")
        return [("more", data[:1], len(data) // 8)]
    expected = _read_proxy(data)
    if isinstance(found, ProxyProblem):
        if expected is not None:
            raise Wrong(f"{data!r} is refused, and is {expected!r}")
        return [(found, data[:1])]
    header, length = found
    shown = length, header.local, header.source, header.destination
    if expected is None or shown != expected:
        raise Wrong(f"{data!r} is read as {shown!r}, and is {expected!r}")
    _check_printed(header)
    return [
        (header.local, header.tls is None, header.authority is None, bool(header.unique_id), min(len(header.tlvs), 4))
    ]


def _check_printed(header: ProxyHeader) -> None:
    if header.source is None or header.destination is None:
        return
    for octets in (header.encode_v1(), header.encode_v2()):
        again = read_proxy_header(octets + b"EHLO")
        if not isinstance(again, tuple) or again[1] != len(octets):
            raise Wrong(f"{header!r} is printed as {octets!r}")
        if (again[0].source, again[0].destination) != (header.source, header.destination):
            raise Wrong(f"{header!r} is printed as {octets!r}, which is {again!r}")


_ProxyFacts = tuple[int, bool, tuple[str, int] | None, tuple[str, int] | None]


def _read_proxy(data: bytes) -> _ProxyFacts | None:
    """Length, whether it is LOCAL, source and destination; None for what is no header."""
    if data.startswith(_MAGIC):
        return _read_binary(data)
    if not data.startswith(b"PROXY "):
        return None
    line, end, _ = data[:107].partition(b"\r\n")
    if not end or b"\r" in line or b"\n" in line:
        return None
    words = line.decode("latin-1").split(" ")
    if words[1] == "UNKNOWN":
        return len(line) + 2, True, None, None
    if len(words) != 6 or words[1] not in ("TCP4", "TCP6"):
        return None
    version = int(words[1][3])
    ports = [int(word) if re.fullmatch("0|[1-9][0-9]*", word) else 65536 for word in words[4:]]
    if not all(_is_ip(word, version) for word in words[2:4]) or max(ports) > 65535:
        return None
    return len(line) + 2, False, (_plain(words[2]), ports[0]), (_plain(words[3]), ports[1])


def _plain(text: str) -> str:
    address = ipaddress.ip_address(text)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


_FAMILIES = {0x00: "", 0x11: "4s4sHH", 0x12: "4s4sHH", 0x21: "16s16sHH", 0x22: "16s16sHH", 0x31: "216s", 0x32: "216s"}


def _read_binary(data: bytes) -> _ProxyFacts | None:
    if len(data) < 16:
        return None
    command, family, size = struct.unpack("!BBH", data[12:16])
    body = data[16 : 16 + size]
    if command not in (0x20, 0x21) or len(body) < size or size > 4080:
        return None
    if command == 0x20:
        return 16 + size, True, None, None
    if family not in _FAMILIES:
        return None
    form = struct.Struct("!" + _FAMILIES[family])
    if len(body) < form.size or not _are_tlvs(body[form.size :], family, data[: 16 + size], 16 + form.size):
        return None
    if form.size in (0, 216):
        return 16 + size, family == 0, None, None
    source, destination, port, to_port = form.unpack(body[: form.size])
    ends = [_plain(str(ipaddress.ip_address(each))) for each in (source, destination)]
    return 16 + size, False, (ends[0], port), (ends[1], to_port)


def _are_tlvs(rest: bytes, family: int, whole: bytes, start: int) -> bool:
    """Whether what stands behind the addresses is well formed, as far as the core looks at it."""
    known: dict[int, bytes] = {}
    while rest:
        if len(rest) < 3 or len(rest) < 3 + (size := int.from_bytes(rest[1:3])):
            return family == 0
        known[rest[0]] = rest[3 : 3 + size]
        if rest[0] == 0x03:
            at = start + 3
            sent, whole = whole[at : at + size], whole[:at] + bytes(size) + whole[at + size :]
            known[0x03] = sent
        start += 3 + size
        rest = rest[3 + size :]
    name = known.get(0x02, b"").decode("utf-8", "replace")
    if any(each < " " or "\x7f" <= each <= "\x9f" for each in name):
        return False
    if 0x03 in known and known[0x03] != _crc32c(whole).to_bytes(4):
        return False
    return 0x20 not in known or _is_tls(known[0x20])


def _is_tls(value: bytes) -> bool:
    rest = value[5:]
    while rest:
        if len(rest) < 3 or len(rest) < 3 + int.from_bytes(rest[1:3]):
            return False
        rest = rest[3 + int.from_bytes(rest[1:3]) :]
    return len(value) >= 5


def _crc32c(data: bytes) -> int:
    """Bit by bit (RFC 9260 appendix A)."""
    crc = 0xFFFFFFFF
    for octet in data:
        crc ^= octet
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


# XCLIENT: Postfix's XCLIENT_README

_NAMES = ("NAME", "ADDR", "PORT", "PROTO", "HELO", "LOGIN", "DESTADDR", "DESTPORT")


def check_xclient(data: bytes, *, thoroughly: bool = False) -> Edges:
    """The attributes of XCLIENT, as UTF-8."""
    del thoroughly
    text = data.decode("utf-8", "surrogateescape")
    parsed = parse_xclient(text)
    expected = _read_xclient(text)
    if isinstance(parsed, SyntaxProblem):
        if expected is not None:
            raise Wrong(f"{text!r} is refused, and is {expected!r}")
        return [("refused", min(text.count(" "), 3), min(text.count("="), 3))]
    if parsed != expected:
        raise Wrong(f"{text!r} is read as {parsed!r}, and is {expected!r}")
    printed = format_xclient(parsed)
    again = parse_xclient(printed)
    if again != parsed and printed:  # PROTO=[UNAVAILABLE] says nothing at all
        raise Wrong(f"{parsed!r} is printed as {printed!r}, which is read as {again!r}")
    return [tuple(getattr(parsed, field) is not None for field in XClient.__dataclass_fields__)]


def _read_xclient(text: str) -> XClient | None:
    values: dict[str, str] = {}
    for word in text.rstrip(" ").split(" "):
        if not word and values:
            continue  # two blanks are one
        name, _, value = word.partition("=")
        decoded = _read_xtext(value)
        if name.upper() not in _NAMES or name.upper() in values or not decoded:
            return None
        values[name.upper()] = "" if decoded.upper() in ("[UNAVAILABLE]", "[TEMPUNAVAIL]") else decoded
    protocol = values.get("PROTO", "").upper() or None
    if protocol not in (None, "SMTP", "ESMTP"):
        return None
    try:
        return XClient(
            values.get("NAME"),
            _tagged(values.get("ADDR")),
            _number(values.get("PORT")),
            protocol,
            values.get("HELO"),
            values.get("LOGIN"),
            _tagged(values.get("DESTADDR")),
            _number(values.get("DESTPORT")),
        )
    except ValueError:
        return None


def _read_xtext(text: str) -> str | None:
    """RFC 3461 section 4; no control characters, and UTF-8."""
    octets = bytearray()
    at = 0
    while at < len(text):
        each = text[at]
        if each == "+":
            digits = text[at + 1 : at + 3]
            if len(digits) < 2 or digits.strip("0123456789ABCDEF"):
                return None
            octets.append(int(digits, 16))
            at += 3
            continue
        if not "!" <= each <= "~" or each == "=":
            return None
        octets += each.encode()
        at += 1
    try:
        decoded = octets.decode()
    except UnicodeDecodeError:
        return None
    return None if any(each < " " or "\x7f" <= each <= "\x9f" for each in decoded) else decoded


def _tagged(text: str | None) -> str | None:
    if not text:
        return text
    if text[:5].upper() == "IPV6:":
        text = text[5:]
        if not _is_ip(text, 6):
            raise ValueError(text)
    if "%" in text:
        raise ValueError(text)
    return _plain(text)


def _number(text: str | None) -> int | None:
    if not text:
        return None if text is None else 0
    if text.strip("0123456789") or len(text) > 5 or not 0 < int(text) < 65536:
        raise ValueError(text)
    return int(text)
