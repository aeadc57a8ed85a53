"""What is kept of a password, and the file of users that `auth/auth_flat_file` reads.

A stored form is one of

    $argon2id$v=19$m=65536,t=3,p=4$SALT$HASH      Argon2id (RFC 9106); needs argon2-cffi
    $scrypt$ln=15,r=8,p=3$SALT$HASH               scrypt (RFC 7914), as passlib writes it
    SCRAM-SHA-256$4096:SALT$STORED:SERVER         a verifier for SCRAM (RFC 5803), as PostgreSQL has it
    {PLAIN}password                               the password itself
    password                                      likewise, as long as it looks like none of the above

What looks like a hash of another kind is refused: taken for a password, whoever has read the
file could log in with it. So are parameters beyond what a login may cost, which a slip of the
pen can make. No message here holds any part of a stored form or a password.
"""

import base64
import contextlib
import fcntl
import hashlib
import hmac
import os
import re
import stat
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from qpsmtpd.config import ConfigError
from qpsmtpd.protocol.sasl import ScramVerifier, saslprep

if TYPE_CHECKING:
    from argon2 import PasswordHasher

__all__ = [
    "SCHEMES",
    "check",
    "cost",
    "fold",
    "hash_password",
    "parse_entry",
    "plain_text",
    "scram_verifier",
    "verify",
    "verify_nothing",
    "write_entry",
]

_PLAIN = "{PLAIN}"
_ARGON2ID, _SCRYPT, _SCRAM = "$argon2id$", "$scrypt$", "SCRAM-SHA-256$"
_ANY_HASH = re.compile(r"\$[A-Za-z0-9-]+\$|\{[A-Za-z0-9.-]+\}|SCRAM-[A-Z0-9-]+\$")

_BASE64 = r"[A-Za-z0-9+/]"
_ARGON2ID_FORM = re.compile(
    rf"\$argon2id\$v=19\$m=([0-9]{{1,7}}),t=([0-9]{{1,2}}),p=([0-9]{{1,2}})\${_BASE64}{{11,86}}\${_BASE64}{{22,86}}"
)
_SCRYPT_FORM = re.compile(
    rf"\$scrypt\$ln=([0-9]{{1,2}}),r=([0-9]{{1,2}}),p=([0-9]{{1,2}})\$({_BASE64}{{11,86}})\$({_BASE64}{{22,86}})"
)

# Bounds on what one login may cost: 256 MiB, and a few seconds on a machine of today. RFC 9106's
# choice for small machines takes 64 MiB, OWASP's list at most 128 MiB.
_MEMORY_LIMIT = 1 << 28
_COST_LIMIT = 1 << 23

_SCRYPT_PARAMETERS = (15, 8, 3)  # ln, r, p: 32 MiB; one of the choices that OWASP's list calls equal


@dataclass(frozen=True, slots=True)
class _Argon2id:
    text: str = field(repr=False)
    memory: int  # KiB
    passes: int


@dataclass(frozen=True, slots=True)
class _Scrypt:
    ln: int
    r: int
    p: int
    salt: bytes
    digest: bytes = field(repr=False)


_Stored = str | _Argon2id | _Scrypt | ScramVerifier
"""A stored form taken apart; the password itself is a str."""


def check(stored: str) -> None:
    """Raise ValueError for a stored form that lets nobody in, ConfigError if its library is not installed."""
    if isinstance(_read(stored), _Argon2id):
        _argon2_hasher()


def verify(stored: str, password: str) -> bool:
    """Whether this is the password. Takes the time that the stored form is worth; see `check` for what is raised."""
    octets = _octets(password)
    match _read(stored):
        case str(clear):
            return hmac.compare_digest(_octets(clear), octets)
        case _Scrypt(ln, r, p, salt, digest):
            return hmac.compare_digest(_scrypt(octets, (ln, r, p), salt, len(digest)), digest)
        case _Argon2id(text):
            return _verify_argon2id(text, octets)
        case ScramVerifier() as kept:
            try:
                made = ScramVerifier.of_password(password, kept.salt, kept.iterations)
            except ValueError:  # what SASLprep forbids is nobody's password
                return False
            return hmac.compare_digest(made.stored_key, kept.stored_key)


def verify_nothing(password: str, like: str = "") -> None:
    """Take as long as `verify` does with the stored form `like`: for a user that there is not."""
    verify(like or _PLAIN + "x", password)


def cost(stored: str) -> int:
    """How long `verify` takes with a stored form: about 0.3 microseconds each on a machine of today."""
    return _cost(_read(stored))


def plain_text(stored: str) -> str | None:
    """The password, where it is stored as such."""
    read = _read(stored)
    return read if isinstance(read, str) else None


def scram_verifier(stored: str, salt: bytes) -> ScramVerifier | None:
    """What SCRAM-SHA-256 needs: as stored, or made of a password that is stored as such; else None.

    Raises ValueError if SASLprep forbids the password.
    """
    read = _read(stored)
    if isinstance(read, ScramVerifier):
        return read
    return _scram(read, salt) if isinstance(read, str) else None


def hash_password(password: str, scheme: str) -> str:
    """What to store of a password, with a fresh salt. Raises ValueError, and ConfigError as `check` does."""
    if scheme not in SCHEMES:
        raise ValueError(f"there is no scheme {scheme!r}, only {', '.join(SCHEMES)}")
    if not password:
        raise ValueError("an empty password lets nobody in")
    return SCHEMES[scheme](password)


def _as_argon2id(password: str) -> str:
    return _argon2_hasher().hash(_octets(password))


def _as_scrypt(password: str) -> str:
    salt = os.urandom(16)
    digest = _scrypt(_octets(password), _SCRYPT_PARAMETERS, salt, 32)
    ln, r, p = _SCRYPT_PARAMETERS
    return f"{_SCRYPT}ln={ln},r={r},p={p}${_without_padding(salt)}${_without_padding(digest)}"


def _as_scram(password: str) -> str:
    return str(_scram(password, os.urandom(16)))


def _as_plain(password: str) -> str:
    return _PLAIN + password if _ANY_HASH.match(password) else password


SCHEMES: Mapping[str, Callable[[str], str]] = MappingProxyType(
    {"argon2id": _as_argon2id, "scrypt": _as_scrypt, "scram-sha-256": _as_scram, "plain": _as_plain}
)
"""How a password may be stored, by name; a later one serves more mechanisms and guards less well."""


# The file of users


def parse_entry(line: str) -> tuple[str, str]:
    """The user and the stored form in `USER:STORED`. Raises ValueError as `check` does, and ConfigError."""
    user, colon, stored = line.partition(":")
    if not colon or not user:
        raise ValueError("a line is USER:PASSWORD")
    check(stored)
    return user, stored


def fold(user: str) -> str:
    """A user's name as names are compared: case does not count."""
    return user.lower()


def write_entry(path: Path, user: str, stored: str) -> None:
    """Put a user's line into a file, in place of an old one or at the end; other lines stay as they are.

    The file changes all at once, and is on disk when this returns. A new one is for its owner
    alone. Raises ValueError for what would not be read again as it is, ConfigError, and OSError.
    """
    line = f"{user}:{stored}"
    if ":" in user or user != user.strip() or user.startswith("#") or line.split()[:1] == ["$include"]:
        raise ValueError(f"{user!r} cannot be a user's name here")
    if line != line.strip() or len(line.splitlines()) != 1 or "\0" in line:
        raise ValueError("a line end, or a blank at the end, cannot be stored")
    parse_entry(line)
    path = path.resolve()  # a link stays one
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)  # else the other of two writers would undo what this one has done
        _replace(path, _with_entry(_text_of(path), user, line))
        os.fsync(directory)
    finally:
        os.close(directory)


def _with_entry(text: str, user: str, line: str) -> str:
    lines: list[str] = []
    for old in text.splitlines(keepends=True):
        name, colon, _ = old.strip().partition(":")
        if not colon or name.startswith("#") or fold(name) != fold(user):
            lines.append(old)
        elif line:
            lines.append(f"{line}\n")
            line = ""  # further lines of this user go
    if line and lines and lines[-1] == lines[-1].rstrip("\r\n"):
        lines.append("\n")
    return "".join(lines) + (f"{line}\n" if line else "")


def _text_of(path: Path) -> str:
    with (
        contextlib.suppress(FileNotFoundError),
        path.open(encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        return file.read()
    return ""


def _replace(path: Path, text: str) -> None:
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            if path.exists():
                status = path.stat()
                with contextlib.suppress(PermissionError):  # only root can give the file back to its owner
                    os.fchown(file.fileno(), status.st_uid, status.st_gid)
                os.fchmod(file.fileno(), stat.S_IMODE(status.st_mode))
            file.write(_octets(text))
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


# The forms


def _read(stored: str) -> _Stored:
    """Take a stored form apart. Raises ValueError."""
    read: _Stored
    if stored.startswith(_ARGON2ID):
        read = _read_argon2id(stored)
    elif stored.startswith(_SCRYPT):
        read = _read_scrypt(stored)
    elif stored.startswith(_SCRAM):
        read = _read_scram(stored)
    elif stored.startswith(_PLAIN):
        read = stored.removeprefix(_PLAIN)
    elif _ANY_HASH.match(stored):
        raise ValueError(f"this kind of hash is not known here; a password that looks so has {_PLAIN} before it")
    else:
        read = stored
    if not read:
        raise ValueError("there is no password behind the user")
    if _cost(read) > _COST_LIMIT:
        raise ValueError("the parameters of this hash cost too much time")
    return read


def _cost(read: _Stored) -> int:
    match read:
        case str():
            return 0
        case ScramVerifier():
            return read.iterations
        case _Scrypt(ln, r, p):
            return (r * p) << ln
        case _Argon2id(_, memory, passes):
            return 2 * memory * passes


def _read_argon2id(stored: str) -> _Argon2id:
    form = _ARGON2ID_FORM.fullmatch(stored)
    if form is None:
        raise ValueError("this is no hash of Argon2id")
    memory, passes, lanes = map(int, form.groups())
    if not (0 < lanes <= 16 and passes and 8 * lanes <= memory <= _MEMORY_LIMIT >> 10):
        raise ValueError("the parameters of this hash make no sense, or cost too much memory")
    return _Argon2id(stored, memory, passes)


def _read_scrypt(stored: str) -> _Scrypt:
    form = _SCRYPT_FORM.fullmatch(stored)
    if form is None:
        raise ValueError("this is no hash of scrypt")
    ln, r, p = map(int, form.groups()[:3])
    if not (r and p and 0 < ln < min(16 * r, 32)) or 128 * r * ((1 << ln) + p) > _MEMORY_LIMIT:
        raise ValueError("the parameters of this hash make no sense, or cost too much memory")
    return _Scrypt(ln, r, p, _with_padding(form[4]), _with_padding(form[5]))


def _read_scram(stored: str) -> ScramVerifier:
    try:
        return ScramVerifier.parse(stored)
    except ValueError:
        raise ValueError("this is no verifier of SCRAM-SHA-256") from None


def _scram(password: str, salt: bytes) -> ScramVerifier:
    try:
        prepared = saslprep(password)
    except ValueError:
        prepared = ""
    if not prepared:  # nothing may be left of it, and one could log in with no password
        raise ValueError("SCRAM does not allow all characters of this password (RFC 4013)")
    return ScramVerifier.of_password(prepared, salt)


def _scrypt(password: bytes, parameters: tuple[int, int, int], salt: bytes, length: int) -> bytes:
    ln, r, p = parameters
    return hashlib.scrypt(password, salt=salt, n=1 << ln, r=r, p=p, maxmem=2 * _MEMORY_LIMIT, dklen=length)


def _argon2_hasher() -> "PasswordHasher":
    try:
        from argon2 import PasswordHasher  # noqa: PLC0415 - an extra
    except ModuleNotFoundError:
        raise ConfigError("Argon2id needs argon2-cffi; run `pip install 'qpsmtpd[argon2]'`") from None
    return PasswordHasher()  # its choice of parameters is that of RFC 9106 for small machines


def _verify_argon2id(text: str, password: bytes) -> bool:
    hasher = _argon2_hasher()
    from argon2.exceptions import VerifyMismatchError  # noqa: PLC0415

    try:
        return hasher.verify(text, password)
    except VerifyMismatchError:
        return False


def _octets(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _without_padding(octets: bytes) -> str:
    return base64.b64encode(octets).decode().rstrip("=")


def _with_padding(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
