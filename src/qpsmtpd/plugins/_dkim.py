"""DKIM signatures (RFC 6376), checked and made by dkimpy.

The body is hashed here, piece by piece, since dkimpy wants the whole message in memory several
times over, and its way to find blanks takes time with the square of their number. What
dkimpy gets is the header, within bounds.
"""

import base64
import binascii
import hashlib
import importlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, BinaryIO

from qpsmtpd.config import ConfigError
from qpsmtpd.plugins._domains import ascii_domain
from qpsmtpd.resolver import DnsError
from qpsmtpd.session.message import CHUNK, Header

__all__ = ["Signature", "SigningKey", "check_signatures", "dkim_library", "hash_body", "sign"]

Hasher = Callable[[bool], bytes]
"""Gives the hash of the body in the relaxed form, or in the simple one."""

LookUp = Callable[[str], Sequence[str]]
"""Gives the TXT records of a name. Raises DnsError."""

_MOST_SIGNATURES = 8
_MOST_FIELDS = 2000
_MOST_SIGNED = 256  # names of fields in one signature
_LONGEST_SIGNATURE = 16_384
_LONGEST_KEY = 4096
_SMALLEST_RSA, _LARGEST_RSA = 1024, 8192  # bits; RFC 8301 section 3.2, and what takes milliseconds
_LARGEST_EXPONENT = 64  # bits

_FIELD = re.compile(rb"([!-9;-~]+)[ \t]*:(.*)", re.DOTALL)
_BLANKS = re.compile(rb"[ \t]+")
_MANY_BLANKS = re.compile(rb"\s{100}")  # dkimpy takes time with the square of these
_SPACE = re.compile(rb"\s+")

_CRLF = b"\r\n"


@dataclass(frozen=True, slots=True)
class Signature:
    """What is found about a signature."""

    result: str
    """pass, fail, policy, neutral, temperror or permerror (RFC 8601 section 2.7.1)."""
    domain: str = ""
    """The domain that has signed, empty if the signature does not tell; safe for a header field."""
    selector: str = ""
    reason: str = ""
    """Why the result is no pass, for the log."""


class _NotValidError(Exception):
    """A signature that is no pass: its result, and why."""

    def __init__(self, result: str, reason: str) -> None:
        super().__init__(result, reason)
        self.result, self.reason = result, reason


def dkim_library() -> Any:
    """The module of dkimpy. Raises ConfigError."""
    try:
        return importlib.import_module("dkim")
    except ModuleNotFoundError:
        raise ConfigError("DKIM needs dkimpy; run `pip install 'qpsmtpd[dkim]'`") from None


# The body


def hash_body(open_body: Callable[[], BinaryIO]) -> Hasher:
    """What hashes a body as `Transaction.body_file` gives it; each form once."""

    @lru_cache(2)
    def body_hash(relaxed: bool) -> bytes:
        with open_body() as file:
            return _body_hash(file, relaxed=relaxed)

    return body_hash


def _body_hash(file: BinaryIO, *, relaxed: bool) -> bytes:
    """The SHA-256 of a body in canonical form (RFC 6376 section 3.4): no empty lines at its end, but one line end."""
    hasher = hashlib.sha256()
    empty = True
    held = 0  # line ends that count if anything comes behind them
    file.read(len(_CRLF))  # the blank line is no part of it
    for piece in _canonical_pieces(file, relaxed=relaxed):
        text = piece.rstrip(_CRLF)
        if text:
            while held:
                hasher.update(_CRLF * min(held, CHUNK))
                held -= min(held, CHUNK)
            hasher.update(text)
            empty = False
        held += (len(piece) - len(text)) // 2
    if not (relaxed and empty):
        hasher.update(_CRLF)
    return hasher.digest()


def _canonical_pieces(file: BinaryIO, *, relaxed: bool) -> Iterator[bytes]:
    """The body piece by piece, where relaxed with one space for any blanks, and none at the ends of lines."""
    held = b""  # blanks and a CR at the end of a piece: what they are is known with the next one
    while chunk := file.read(CHUNK):
        data = held + chunk
        end = len(data.removesuffix(b"\r"))
        if relaxed:
            end = len(data[:end].rstrip(b" \t"))
        piece, held = data[:end], data[end:]
        if relaxed:
            held = _BLANKS.sub(b" ", held)
            piece = _BLANKS.sub(b" ", piece).replace(b" \r\n", _CRLF)
        yield piece
    yield held.replace(b" ", b"") if relaxed else held


# The header


def _fields(header: Header) -> list[tuple[bytes, bytes]]:
    """Names and bodies of the fields as dkimpy has them. A line that is no field is none."""
    matches = (_FIELD.match(field.raw) for field in header.fields)
    return [(match[1], match[2]) for match in matches if match is not None]


# Checking


def check_signatures(dkim: Any, header: Header, body_hash: Hasher, look_up: LookUp) -> list[Signature]:
    """Check the signatures of a message, the topmost first, and no more than a few."""
    fields = _fields(header)
    count = sum(name.lower() == b"dkim-signature" for name, _ in fields)
    if len(fields) > _MOST_FIELDS:
        return [Signature("neutral", reason=f"{len(fields)} header fields are too many")] if count else []
    verifier = dkim.DKIM()
    verifier.headers = fields
    check = _Check(dkim, verifier, body_hash, look_up)
    return [check(index) for index in range(min(count, _MOST_SIGNATURES))]


@dataclass(slots=True)
class _Check:
    """Checks the signatures of one message by their index."""

    dkim: Any
    verifier: Any
    body_hash: Hasher
    look_up: LookUp

    def __call__(self, index: int) -> Signature:
        domain = selector = ""
        try:
            tags, names, fields = self._read(index)
            domain, selector = _place(tags)
            key = self._key(tags, f"{selector}._domainkey.{domain}")
            self._check_body(tags)
            self._check_header(tags, names, fields[index], key)
        except _NotValidError as error:
            return Signature(error.result, domain, selector, error.reason)
        except DnsError as error:
            return Signature("temperror", domain, selector, str(error))
        except Exception as error:  # noqa: BLE001 - dkimpy raises anything for what makes no sense
            return Signature("permerror", domain, selector, f"dkimpy cannot handle it: {type(error).__name__}: {error}")
        return Signature("pass", domain, selector)

    def _read(self, index: int) -> tuple[dict[bytes, bytes], list[bytes], list[tuple[bytes, bytes]]]:
        """The tags of a signature, the fields it signs, and all fields with signatures."""
        written = [body for name, body in self.verifier.headers if name.lower() == b"dkim-signature"][index]
        if len(written) > _LONGEST_SIGNATURE or _MANY_BLANKS.search(written):
            raise _NotValidError("neutral", "the signature is too long")
        try:
            tags, names, fields = self.verifier.verify_headerprep(index)
            self.dkim.canonicalization.CanonicalizationPolicy.from_c_value(tags.get(b"c"))
        except Exception as error:
            raise _NotValidError("neutral", f"the signature makes no sense: {error}") from error
        if len(names) > _MOST_SIGNED:
            raise _NotValidError("neutral", f"{len(names)} signed fields are too many")
        if b"from" not in names:
            raise _NotValidError("permerror", "the From field is not signed")  # RFC 6376 section 6.1.1
        if tags[b"a"] == b"rsa-sha1":
            raise _NotValidError("policy", "rsa-sha1 is broken")  # RFC 8301 section 3.1
        return tags, names, fields

    def _key(self, tags: Mapping[bytes, bytes], name: str) -> "_RsaKey | _Ed25519Key":
        """The public key of a signature (RFC 6376 section 3.6.1)."""
        records = self.look_up(name)
        if not records:
            raise _NotValidError("permerror", f"there is no key at {name}")
        record = records[0].encode("utf-8", "surrogateescape")
        if len(record) > _LONGEST_KEY:
            raise _NotValidError("permerror", f"the key at {name} is too long")
        try:
            key = self.dkim.util.parse_tag_value(record)
        except self.dkim.util.InvalidTagValueList as error:
            raise _NotValidError("permerror", f"the key at {name} makes no sense: {error}") from error
        _check_use(key, tags)
        try:
            octets = base64.b64decode(key[b"p"])
        except binascii.Error as error:
            raise _NotValidError("permerror", f"the key at {name} is no base64") from error
        if tags[b"a"].startswith(b"ed25519"):
            return _ed25519_key(octets)
        return self._rsa_key(octets)

    def _rsa_key(self, octets: bytes) -> "_RsaKey":
        try:
            key = self.dkim.crypto.parse_public_key(octets)
        except self.dkim.crypto.UnparsableKeyError as error:
            raise _NotValidError("permerror", f"the key makes no sense: {error}") from error
        bits = key["modulus"].bit_length()
        if bits < _SMALLEST_RSA:
            raise _NotValidError("policy", f"a key of {bits} bits is too short")
        if bits > _LARGEST_RSA or key["publicExponent"].bit_length() > _LARGEST_EXPONENT:
            raise _NotValidError("policy", "the key is too large")
        return _RsaKey(key, bits)

    def _check_body(self, tags: dict[bytes, bytes]) -> None:
        """Compare the body, all of it: what stands behind the length in `l=` may be anybody's (RFC 6376 section 8.2)."""
        _, _, form = tags.get(b"c", b"").partition(b"/")
        stated = base64.b64decode(_SPACE.sub(b"", tags.pop(b"bh")))  # without it dkimpy leaves the body to us
        if stated != self.body_hash(form == b"relaxed"):
            added = ", or something was added behind what is signed" if b"l" in tags else ""
            raise _NotValidError("fail", f"the body was changed{added}")

    def _check_header(
        self, tags: Mapping[bytes, bytes], names: list[bytes], field: tuple[bytes, bytes], key: "_RsaKey | _Ed25519Key"
    ) -> None:
        verifier = self.verifier
        verifier.pk, verifier.keysize, verifier.ktag, verifier.seqtlsrpt = key.for_dkimpy, key.bits, key.kind, False
        if not verifier.verify_sig_process(tags, names, field, None) or not key.good:
            raise _NotValidError("fail", "the header was changed, or the signature is not by this key")


def _place(tags: Mapping[bytes, bytes]) -> tuple[str, str]:
    """Who has signed, and the selector of the key."""
    domain, selector = (ascii_domain(tags[tag].decode("utf-8", "replace")) for tag in (b"d", b"s"))
    if not domain or not selector:
        raise _NotValidError("neutral", "the signature names a domain that cannot exist")
    return domain, selector


def _check_use(key: Mapping[bytes, bytes], tags: Mapping[bytes, bytes]) -> None:
    """Refuse a key that is not for this signature."""
    algorithm, _, digest = tags[b"a"].partition(b"-")
    flags = _words(key.get(b"t", b""))
    if key.get(b"v", b"DKIM1") != b"DKIM1" or b"p" not in key:
        why = "the record is no key"
    elif not key[b"p"]:
        why = "the key has been revoked"
    elif key.get(b"k", b"rsa") != algorithm or digest not in _words(key.get(b"h", digest)):
        why = "the key is for another algorithm"
    elif not {b"*", b"email"}.intersection(_words(key.get(b"s", b"*"))):
        why = "the key is not for mail"
    elif b"s" in flags and b"i" in tags and tags[b"i"].rpartition(b"@")[2].lower() != tags[b"d"].lower():
        why = "the key is not for subdomains"
    else:
        return
    raise _NotValidError("permerror", why)


def _words(value: bytes) -> list[bytes]:
    return [word.strip() for word in value.split(b":")]


@dataclass(frozen=True, slots=True)
class _RsaKey:
    for_dkimpy: Mapping[str, int]
    bits: int
    kind: bytes = b"rsa"
    good: bool = True  # dkimpy tells


class _Ed25519Key:
    """A key of RFC 8463 in place of one of PyNaCl, which dkimpy knows."""

    bits, kind = 256, b"ed25519"

    def __init__(self, key: Any, mismatch: type[Exception]) -> None:
        self._key = key
        self._mismatch = mismatch
        self.for_dkimpy = self
        self.good = False

    def verify(self, digest: bytes, signature: bytes) -> None:
        """Remember whether the signature is good; dkimpy would look for the exceptions of PyNaCl."""
        try:
            self._key.verify(signature, digest)
        except self._mismatch:
            return
        self.good = True


def _ed25519_key(octets: bytes) -> _Ed25519Key:
    try:
        keys: Any = importlib.import_module("cryptography.hazmat.primitives.asymmetric.ed25519")
        exceptions: Any = importlib.import_module("cryptography.exceptions")
    except ModuleNotFoundError:
        raise _NotValidError("neutral", "Ed25519 needs cryptography; run `pip install 'qpsmtpd[dkim]'`") from None
    try:
        return _Ed25519Key(keys.Ed25519PublicKey.from_public_bytes(octets), exceptions.InvalidSignature)
    except ValueError as error:
        raise _NotValidError("permerror", f"the key makes no sense: {error}") from error


# Signing


@dataclass(frozen=True, slots=True)
class SigningKey:
    """Who signs, and with what."""

    domain: str
    selector: str
    private_key: bytes
    """RSA, in PEM."""


def sign(dkim: Any, header: Header, body_hash: Hasher, key: SigningKey, now: int) -> bytes:
    """The DKIM-Signature field for a message, CRLF included.

    It signs the fields that RFC 6376 section 5.4.1 names, and that there is no second From.
    Raises ValueError if there is nothing to sign, or with a key that is no good.
    """
    signer = dkim.DKIM()
    signer.headers = _fields(header)
    signer.hasher = hashlib.sha256
    names = [name.lower() for name in signer.default_sign_headers()]
    if b"from" not in names:
        raise ValueError("there is no From field")
    if len(signer.headers) > _MOST_FIELDS:
        raise ValueError(f"{len(signer.headers)} header fields are too many")
    tags = [
        (b"v", b"1"),
        (b"a", b"rsa-sha256"),
        (b"c", b"relaxed/relaxed"),
        (b"d", key.domain.encode("ascii")),
        (b"s", key.selector.encode("ascii")),
        (b"t", b"%d" % now),
        (b"h", b" : ".join(names)),
        (b"bh", base64.b64encode(body_hash(True))),
        (b"b", b"0" * 60),  # on a line of its own, so that the real one changes no other line
    ]
    form = dkim.canonicalization.CanonicalizationPolicy.from_c_value(b"relaxed/relaxed")
    private_key = _private_key(dkim, key.private_key)
    return b"DKIM-Signature: " + bytes(signer.gen_header(tags, names, form, b"DKIM-Signature", private_key))


def _private_key(dkim: Any, text: bytes) -> Any:
    try:
        key = dkim.crypto.parse_pem_private_key(text.replace(_CRLF, b"\n"))
    except Exception as error:
        raise ValueError(f"the private key makes no sense ({type(error).__name__})") from error
    bits = key["modulus"].bit_length()
    if bits < _SMALLEST_RSA:
        raise ValueError(f"a private key of {bits} bits is too short")
    return key
