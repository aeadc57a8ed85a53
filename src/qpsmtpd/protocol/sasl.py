"""SASL mechanisms, both sides of each, as small generators (RFC 4422, RFC 4954).

A server's mechanism yields what it needs, in the order in which it needs it: octets are a
challenge, and the client's response is sent in; `Credentials` are to be judged, and a bool is
sent in; `VerifierFor` asks what is stored of a password. In the end it returns an `Outcome`.
A client's mechanism yields responses, and is sent challenges. Base64 is for the protocol
around.

No clock and no randomness: a nonce is an argument. Whatever the peer sends comes to an
`Outcome` or to a `SaslError`; no error and no `repr` shows a secret.
"""

import binascii
import hashlib
import hmac
import json
import re
import stringprep
import unicodedata
from base64 import b64decode, b64encode
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from qpsmtpd.protocol.security import NO_BINDINGS

__all__ = [
    "CLIENT_MECHANISMS",
    "MECHANISMS",
    "ClientSteps",
    "Credentials",
    "Exchange",
    "Login",
    "Mechanism",
    "Outcome",
    "SaslError",
    "ScramVerifier",
    "Steps",
    "VerifierFor",
    "choose",
    "cram_md5",
    "decode_base64",
    "saslprep",
]

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")  # U+0085 ends a line for some who read the name
_BASE64 = re.compile(rb"[A-Za-z0-9+/]*={0,2}")
_SCRAM_HASH = "sha256"
_KEY_LENGTH = 32
_MADE_UP_ITERATIONS = 4096
_ITERATIONS = range(4096, 1_000_001)
"""RFC 7677 section 4 asks for 4096 and more; a server could keep a client busy with more than a million."""
_BINDING_TYPES = ("tls-exporter", "tls-server-end-point", "tls-unique")  # as a client prefers them


class SaslError(Exception):
    """What the peer has sent is no good. The text is for the log, and holds nothing that was sent."""

    def __init__(self, text: str, *, malformed: bool = True) -> None:
        super().__init__(text)
        self.malformed = malformed
        """Whether its form is wrong (501 in SMTP); else it is well formed and of no use (535)."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who the client says it is, and how it proves it: to be judged by others."""

    user: str
    password: str | None = field(default=None, repr=False)
    """The password, or the bearer token."""
    digest: str | None = field(default=None, repr=False)
    """What CRAM-MD5 has made of the password and the ticket, in hexadecimal."""
    ticket: str | None = field(default=None, repr=False)
    """The challenge of CRAM-MD5."""
    authorize_as: str = ""
    """On whose behalf the client wants to act; empty for its own."""


@dataclass(frozen=True, slots=True)
class VerifierFor:
    """The question what is stored of a user's password."""

    user: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an exchange has ended."""

    user: str
    success: bool


@dataclass(frozen=True, slots=True)
class ScramVerifier:
    """What a server stores of a password for SCRAM-SHA-256 (RFC 5802 section 2.3): not enough to log in."""

    salt: bytes
    iterations: int
    stored_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)

    @classmethod
    def of_password(cls, password: str, salt: bytes, iterations: int = _MADE_UP_ITERATIONS) -> "ScramVerifier":
        """The verifier of a password. Takes its time, by design. Raises ValueError for one that cannot be typed."""
        salted = hashlib.pbkdf2_hmac(_SCRAM_HASH, saslprep(password).encode("utf-8"), salt, iterations)
        return cls(salt, iterations, _hash(_hmac(salted, b"Client Key")), _hmac(salted, b"Server Key"))

    @classmethod
    def parse(cls, text: str) -> "ScramVerifier":
        """Read `SCRAM-SHA-256$ITERATIONS:SALT$STOREDKEY:SERVERKEY` (RFC 5803). Raises ValueError."""
        match = _VERIFIER.fullmatch(text)
        if match is None or int(match[1]) not in _ITERATIONS:
            raise ValueError("not a SCRAM-SHA-256 verifier")
        salt, stored_key, server_key = (b64decode(each, validate=True) for each in match.groups()[1:])
        if not salt or len(stored_key) != _KEY_LENGTH or len(server_key) != _KEY_LENGTH:
            raise ValueError("not a SCRAM-SHA-256 verifier")
        return cls(salt, int(match[1]), stored_key, server_key)

    def __str__(self) -> str:
        salt, stored_key, server_key = (
            b64encode(each).decode("ascii") for each in (self.salt, self.stored_key, self.server_key)
        )
        return f"SCRAM-SHA-256${self.iterations}:{salt}${stored_key}:{server_key}"


_VERIFIER = re.compile(
    r"SCRAM-SHA-256\$([0-9]{1,7}):([A-Za-z0-9+/]+={0,2})\$([A-Za-z0-9+/]+={0,2}):([A-Za-z0-9+/]+={0,2})", re.ASCII
)

Steps = Generator[bytes | Credentials | VerifierFor, bytes | bool | ScramVerifier | None, Outcome]
"""The server's side of an exchange."""

ClientSteps = Generator[bytes | None, bytes, None]
"""The client's side: the first response is the initial one, None where the server speaks first.

Raises SaslError if the server cheats.
"""


@dataclass(frozen=True, slots=True)
class Exchange:
    """What a server begins an exchange with."""

    initial: bytes | None = field(repr=False)
    """The initial response; None if none came."""
    nonce: str = ""
    """Fresh text that nobody can guess: printable ASCII without commas and angle brackets."""
    hostname: str = "localhost"
    bindings: Mapping[str, bytes] = field(default_factory=lambda: NO_BINDINGS, repr=False)
    """The channel bindings of the connection, by type."""
    plus_offered: bool = False
    """Whether a mechanism with channel binding is offered on this connection."""
    fake_key: bytes = field(default=b"", repr=False)
    """What made-up salts are made of, so that unknown users look like known ones."""


@dataclass(frozen=True, slots=True)
class Mechanism:
    """One row of the table of mechanisms that a server knows."""

    name: str
    hook: str
    """The hook that answers for it."""
    serve: Callable[[Exchange], Steps]
    general: bool = False
    """Whether the hook of all mechanisms may answer for it too."""
    needs_nonce: bool = False
    needs_binding: bool = False


@dataclass(frozen=True, slots=True)
class Login:
    """What a client authenticates with."""

    user: str
    password: str = field(default="", repr=False)
    """The password, or the bearer token."""
    authorize_as: str = ""


# What the steps share


def saslprep(text: str) -> str:
    """Prepare a user name or a password (RFC 4013). Raises ValueError for one with forbidden characters."""
    if text.isascii():
        if _CONTROL.search(text):
            raise ValueError("a control character")
        return text
    mapped = "".join(
        " " if stringprep.in_table_c12(each) else each for each in text if not stringprep.in_table_b1(each)
    )
    prepared = unicodedata.ucd_3_2_0.normalize("NFKC", mapped)
    characters = set(prepared)  # one octet may become six characters
    if any(forbidden(each) for each in characters for forbidden in _FORBIDDEN):
        raise ValueError("a forbidden character")
    if any(map(stringprep.in_table_d1, characters)) and (
        any(map(stringprep.in_table_d2, characters))
        or not (stringprep.in_table_d1(prepared[0]) and stringprep.in_table_d1(prepared[-1]))
    ):
        raise ValueError("text in two directions")
    return prepared


_FORBIDDEN = (
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
)


def cram_md5(password: str, ticket: str) -> str:
    """The digest that CRAM-MD5 makes of a password and a ticket (RFC 2195), in hexadecimal."""
    return hmac.new(_octets(password), _octets(ticket), hashlib.md5).hexdigest()


def decode_base64(text: bytes) -> bytes:
    """Read base64 strictly (RFC 4648 section 3). Raises ValueError for anything else.

    `strict_mode` alone lets padding pass behind a whole group.
    """
    if len(text) % 4 or not _BASE64.fullmatch(text):
        raise ValueError("not base64")
    return binascii.a2b_base64(text, strict_mode=True)


def _hmac(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, _SCRAM_HASH)


def _hash(data: bytes) -> bytes:
    return hashlib.new(_SCRAM_HASH, data).digest()


def _xor(one: bytes, other: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, other, strict=True))


def _text(octets: bytes) -> str:
    return octets.decode("utf-8", "surrogateescape")


def _octets(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # its repr would show the text
        raise SaslError("half a surrogate pair") from None


def _response(answer: object) -> bytes:
    assert isinstance(answer, bytes), "the driver answers a challenge with a response"
    return answer


def _known_user(user: str) -> str:
    if not user or _CONTROL.search(user):
        raise SaslError("there is no such user name", malformed=False)
    return user


# The server's side


def _serve_plain(exchange: Exchange) -> Steps:
    """PLAIN (RFC 4616)."""
    response = exchange.initial if exchange.initial is not None else _response((yield b""))
    parts = _text(response).split("\0")
    if len(parts) < 3 or not parts[2]:
        raise SaslError("no user name with a password", malformed=False)
    authorize_as, user, password = parts[:3]  # more is left out, as in the original
    accepted = yield Credentials(_known_user(user), password, authorize_as=authorize_as)
    return Outcome(user, accepted is True)


def _serve_login(exchange: Exchange) -> Steps:
    """LOGIN, which has no RFC. Clients look for the very words of the challenges."""
    user = exchange.initial if exchange.initial is not None else _response((yield b"Username:"))
    if user in (b"", b"*"):
        raise SaslError("no user name")
    password = _response((yield b"Password:"))
    if password in (b"", b"*"):
        raise SaslError("no password")
    name = _known_user(_text(user))
    accepted = yield Credentials(name, _text(password))
    return Outcome(name, accepted is True)


def _serve_cram_md5(exchange: Exchange) -> Steps:
    """CRAM-MD5 (RFC 2195)."""
    if exchange.initial is not None:
        raise SaslError("an initial response before the challenge")
    ticket = f"<{exchange.nonce}@{exchange.hostname}>"
    words = _text(_response((yield _octets(ticket)))).split(" ")
    if len(words) < 2 or not words[1]:
        raise SaslError("no user name with a digest", malformed=False)
    user = _known_user(words[0])
    accepted = yield Credentials(user, digest=words[1], ticket=ticket)
    return Outcome(user, accepted is True)


_BEARER = re.compile(r"\x01auth=bearer +([!-~]+)\x01", re.IGNORECASE | re.ASCII)  # else U+017F is an S
_GS2_AUTHZID = re.compile(r"[ny],(?:a=([^,\x00]*))?,(?=\x01)")


def _serve_xoauth2(exchange: Exchange) -> Steps:
    """XOAUTH2, the forerunner of OAUTHBEARER."""
    response = _text(exchange.initial if exchange.initial is not None else _response((yield b"")))
    user, token = re.match(r"user=([^\x00\x01]+)(?=\x01)", response), _BEARER.search(response)
    if user is None or token is None or not response.endswith("\x01\x01"):
        raise SaslError("no user with a bearer token")
    accepted = yield Credentials(_known_user(user[1]), token[1])
    if accepted is not True:
        yield json.dumps({"status": "401", "schemes": "bearer"}).encode()
    return Outcome(user[1], accepted is True)


def _serve_oauthbearer(exchange: Exchange) -> Steps:
    """OAUTHBEARER (RFC 7628), with the user as its authorization identity."""
    response = _text(exchange.initial if exchange.initial is not None else _response((yield b"")))
    header, token = _GS2_AUTHZID.match(response), _BEARER.search(response)
    if header is None or token is None or not response.endswith("\x01\x01"):
        raise SaslError("no bearer token")
    user = _known_user(_unescaped(header[1] or ""))
    accepted = yield Credentials(user, token[1], authorize_as=user)
    if accepted is not True:
        yield json.dumps({"status": "invalid_token", "schemes": "bearer"}).encode()
    return Outcome(user, accepted is True)


# SCRAM (RFC 5802, RFC 7677)

_CLIENT_FIRST = re.compile(
    r"(?P<header>(?P<flag>[ny]|p=(?P<type>[A-Za-z0-9.\-]+)),(?:a=(?P<authzid>[^,\x00]+))?,)"
    r"(?P<bare>n=(?P<user>[^,\x00]+),r=(?P<nonce>[!-+\--~]+)(?:,.*)?)",
    re.DOTALL,
)
_CLIENT_FINAL = re.compile(
    r"(?P<bare>c=(?P<binding>[A-Za-z0-9+/]+={0,2}),r=(?P<nonce>[!-+\--~]+)(?:,[^\x00]*)?),p=(?P<proof>[A-Za-z0-9+/]+={0,2})"
)
_SERVER_FIRST = re.compile(
    r"r=(?P<nonce>[!-+\--~]+),s=(?P<salt>[A-Za-z0-9+/]+={0,2}),i=(?P<count>[1-9][0-9]{0,9})(?:,[^\x00]*)?"
)


def _unescaped(name: str) -> str:
    if re.search(r"=(?!2C|3D)", name):
        raise SaslError("a user name with a bare =")
    return name.replace("=2C", ",").replace("=3D", "=")


def _escaped(name: str) -> str:
    return name.replace("=", "=3D").replace(",", "=2C")


def _decoded(text: str) -> bytes:
    try:
        return decode_base64(text.encode("utf-8", "surrogatepass"))
    except ValueError:
        raise SaslError("base64 in a message that is none") from None


def _serve_scram(exchange: Exchange, *, plus: bool) -> Steps:
    first = _CLIENT_FIRST.fullmatch(_text(exchange.initial if exchange.initial is not None else _response((yield b""))))
    if first is None or (first["type"] is not None) is not plus:
        raise SaslError("no first message of SCRAM")
    if plus and first["type"] not in exchange.bindings:
        raise SaslError("this channel has no such binding", malformed=False)
    try:
        user, authorize_as = (saslprep(_unescaped(first[each] or "")) for each in ("user", "authzid"))
    except ValueError:
        raise SaslError("there is no such user name", malformed=False) from None
    if authorize_as not in ("", user):
        raise SaslError("nobody may act for another", malformed=False)
    stored = yield VerifierFor(_known_user(user))
    known = isinstance(stored, ScramVerifier)
    verifier = stored if isinstance(stored, ScramVerifier) else _made_up(exchange.fake_key, user)

    nonce = first["nonce"] + exchange.nonce
    server_first = f"r={nonce},s={b64encode(verifier.salt).decode('ascii')},i={verifier.iterations}"
    final = _CLIENT_FINAL.fullmatch(_text(_response((yield _octets(server_first)))))
    if final is None:
        raise SaslError("no final message of SCRAM")
    proof = _decoded(final["proof"])
    bound = _octets(first["header"]) + (exchange.bindings[first["type"]] if plus else b"")
    sound = (
        hmac.compare_digest(_decoded(final["binding"]), bound)
        and hmac.compare_digest(_octets(final["nonce"]), _octets(nonce))
        and len(proof) == _KEY_LENGTH
        and not (first["flag"] == "y" and exchange.plus_offered)  # somebody has hidden our offer from the client
    )
    signed = _octets(",".join((first["bare"], server_first, final["bare"])))
    if sound:
        key = _xor(proof, _hmac(verifier.stored_key, signed))
        sound = hmac.compare_digest(_hash(key), verifier.stored_key)
    if not (sound and known):
        return Outcome(user, success=False)
    yield b"v=" + b64encode(_hmac(verifier.server_key, signed))  # SMTP has no data with success (RFC 4954 section 4)
    return Outcome(user, success=True)


def _made_up(key: bytes, user: str) -> ScramVerifier:
    """What an unknown user seems to have stored; the same each time, and no password fits it."""
    salt = _hmac(key, b"salt" + _octets(user))[:16]
    return ScramVerifier(salt, _MADE_UP_ITERATIONS, _hmac(key, b"stored" + _octets(user)), b"")


def _serve_scram_sha_256(exchange: Exchange) -> Steps:
    return _serve_scram(exchange, plus=False)


def _serve_scram_sha_256_plus(exchange: Exchange) -> Steps:
    return _serve_scram(exchange, plus=True)


MECHANISMS: Mapping[str, Mechanism] = MappingProxyType(
    {
        mechanism.name: mechanism
        for mechanism in (
            Mechanism("PLAIN", "auth-plain", _serve_plain, general=True),
            Mechanism("LOGIN", "auth-login", _serve_login, general=True),
            Mechanism("CRAM-MD5", "auth-cram-md5", _serve_cram_md5, general=True, needs_nonce=True),
            Mechanism("SCRAM-SHA-256", "auth-scram-sha-256", _serve_scram_sha_256, needs_nonce=True),
            Mechanism(
                "SCRAM-SHA-256-PLUS",
                "auth-scram-sha-256",
                _serve_scram_sha_256_plus,
                needs_nonce=True,
                needs_binding=True,
            ),
            Mechanism("OAUTHBEARER", "auth-oauthbearer", _serve_oauthbearer),
            Mechanism("XOAUTH2", "auth-xoauth2", _serve_xoauth2),
        )
    }
)
"""The mechanisms that a server knows, by their names."""


# The client's side


def _without(separator: str, *texts: str) -> tuple[str, ...]:
    if any(separator in text for text in texts):
        raise SaslError("what separates the parts of the response within one of them")
    return texts


def _plain(login: Login, nonce: str, bindings: Mapping[str, bytes]) -> ClientSteps:
    del nonce, bindings
    yield _octets("\0".join(_without("\0", login.authorize_as, login.user, login.password)))


def _login(login: Login, nonce: str, bindings: Mapping[str, bytes]) -> ClientSteps:
    del nonce, bindings
    yield None
    yield _octets(login.user)
    yield _octets(login.password)


def _cram_md5(login: Login, nonce: str, bindings: Mapping[str, bytes]) -> ClientSteps:
    del nonce, bindings
    challenge = yield None
    yield _octets(f"{login.user} {cram_md5(login.password, _text(challenge))}")


def _xoauth2(login: Login, nonce: str, bindings: Mapping[str, bytes]) -> ClientSteps:
    del nonce, bindings
    user, token = _without("\x01", login.user, login.password)
    yield _octets(f"user={user}\x01auth=Bearer {token}\x01\x01")
    yield b""  # behind the error that the server tells of first


def _oauthbearer(login: Login, nonce: str, bindings: Mapping[str, bytes]) -> ClientSteps:
    del nonce, bindings
    user, token = _without("\x01", _escaped(login.authorize_as or login.user), login.password)
    yield _octets(f"n,{f'a={user}' if user else ''},\x01auth=Bearer {token}\x01\x01")
    yield b"\x01"


def _scram(login: Login, nonce: str, bindings: Mapping[str, bytes], *, plus: bool) -> ClientSteps:
    kind = next((each for each in _BINDING_TYPES if each in bindings), None)
    if plus and kind is None:
        raise SaslError("this channel has no binding")
    flag = f"p={kind}" if plus else "y" if kind is not None else "n"
    try:
        user, password, authorize_as = map(saslprep, (login.user, login.password, login.authorize_as))
    except ValueError as error:
        raise SaslError(f"user name or password hold {error}") from None
    header = f"{flag},{f'a={_escaped(authorize_as)}' if authorize_as else ''},"
    first = f"n={_escaped(user)},r={nonce}"
    server_first = _text((yield _octets(header + first)))
    match = _SERVER_FIRST.fullmatch(server_first)
    if match is None or not match["nonce"].startswith(nonce) or match["nonce"] == nonce:
        raise SaslError("the server's first message of SCRAM is none")
    if int(match["count"]) not in _ITERATIONS:
        raise SaslError("the server wants too few iterations, or too many")
    bound = _octets(header) + (bindings[kind] if plus and kind is not None else b"")
    final = f"c={b64encode(bound).decode('ascii')},r={match['nonce']}"
    signed = _octets(f"{first},{server_first},{final}")
    salted = hashlib.pbkdf2_hmac(_SCRAM_HASH, _octets(password), _decoded(match["salt"]), int(match["count"]))
    key = _hmac(salted, b"Client Key")
    proof = _xor(key, _hmac(_hash(key), signed))
    server_final = yield _octets(f"{final},p={b64encode(proof).decode('ascii')}")
    expected = b"v=" + b64encode(_hmac(_hmac(salted, b"Server Key"), signed))
    if not hmac.compare_digest(server_final, expected):
        raise SaslError("the server does not know the password either")
    yield b""


def _scram_sha_256(login: Login, nonce: str, bindings: Mapping[str, bytes]) -> ClientSteps:
    return _scram(login, nonce, bindings, plus=False)


def _scram_sha_256_plus(login: Login, nonce: str, bindings: Mapping[str, bytes]) -> ClientSteps:
    return _scram(login, nonce, bindings, plus=True)


CLIENT_MECHANISMS: Mapping[str, Callable[[Login, str, Mapping[str, bytes]], ClientSteps]] = MappingProxyType(
    {
        "SCRAM-SHA-256-PLUS": _scram_sha_256_plus,
        "SCRAM-SHA-256": _scram_sha_256,
        "PLAIN": _plain,
        "LOGIN": _login,
        "CRAM-MD5": _cram_md5,
        "OAUTHBEARER": _oauthbearer,
        "XOAUTH2": _xoauth2,
    }
)
"""The mechanisms that a client knows, by their names."""


def choose(
    offered: Iterable[str], *, bindings: Mapping[str, bytes] = NO_BINDINGS, encrypted: bool, token: bool = False
) -> str | None:
    """The best of the mechanisms that a server offers; None if none will do.

    What shows the password or the bearer token (`token`) to whoever listens is for encrypted
    connections only.
    """
    names = {name.upper() for name in offered}
    if token:
        wanted = ["OAUTHBEARER", "XOAUTH2"] if encrypted else []
    else:
        wanted = [
            *(["SCRAM-SHA-256-PLUS"] if any(each in bindings for each in _BINDING_TYPES) else []),
            "SCRAM-SHA-256",
            *(["PLAIN", "LOGIN"] if encrypted else []),
            "CRAM-MD5",
        ]
    return next((name for name in wanted if name in names), None)
