"""The format of a recording: a line of JSON for the session, then one for each turn of it.

A turn is what the client sent at once, what was asked and found out because of it, and what the server said.
`docs/recording.md` describes every key. Readers take what they know and leave the rest: keys may be added
without a new version; a version says that old ones mean something else.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from dataclasses import fields as fields_of
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from qpsmtpd.config import ConfigError
from qpsmtpd.protocol import (
    DECLINED,
    FAILED,
    VERDICTS,
    Answer,
    ClientCertificate,
    Extension,
    Limits,
    LineEndings,
    Reply,
    ReturnCode,
    Security,
)
from qpsmtpd.protocol.host import Result
from qpsmtpd.session.connection import Peer
from qpsmtpd.session.role import ROLES

__all__ = ["ANSWERS", "NAMES", "VERSION", "Asked", "Call", "Head", "Tape", "Turn", "encode", "read_tapes", "tapes_in"]

VERSION = 1

encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode
"""A value as one line of JSON, in ASCII."""

ANSWERS: Mapping[str, Answer] = {code.name: code for code in ReturnCode} | {"FAILED": FAILED}
NAMES: Mapping[Answer, str] = {answer: name for name, answer in ANSWERS.items()}

Fields = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Call:
    """What one plugin answered."""

    plugin: str
    answer: Answer
    texts: tuple[str, ...]
    seconds: float
    """How long it took."""
    logged: tuple[str, ...] = ()
    """What it wrote to the log meanwhile."""

    @property
    def reason(self) -> str:
        """Why it answered so: what it wrote to the log, of an exception without the traceback; else its texts."""
        return "; ".join(self.logged[:1] if self.answer is FAILED else self.logged) or ", ".join(self.texts)


@dataclass(frozen=True, slots=True)
class Asked:
    """A hook, what each plugin answered, and what came of it."""

    hook: str
    calls: tuple[Call, ...]
    result: Result

    @property
    def decided_by(self) -> str:
        """The plugin whose answer it is; empty if it is nobody's."""
        answer = self.result[0]
        return (
            self.calls[-1].plugin if answer is not DECLINED and self.calls and self.calls[-1].answer is answer else ""
        )

    @property
    def reply(self) -> Reply | None:
        """What a client is told because of it, if anything; `%s` stands for what the command is about."""
        answer, texts, own = self.result
        verdict = VERDICTS[self.hook][answer]
        if own is not None and verdict.own_reply:
            return own
        if verdict.reply is None or not texts or not verdict.plugin_text:
            return verdict.reply
        return replace(verdict.reply, text="\n".join(texts))

    @property
    def refuses(self) -> bool:
        """Whether a client is told that it does not get what it wants."""
        return self.reply is not None and self.reply.code >= 400

    def __str__(self) -> str:
        """The result, as a table has it."""
        answer, texts, own = self.result
        shown = [NAMES[answer], *(repr(text) for text in texts)]
        return " ".join([*shown, f"({own.code} {own.text})"] if own is not None else shown)


@dataclass(slots=True)
class Turn:
    """What a client sent at once, and all that followed from it."""

    at: float
    """Seconds since the connection was accepted."""
    received: bytes = b""
    eof: bool = False
    """Whether the client had closed its side."""
    asked: list[Asked] = field(default_factory=list[Asked])
    said: bytes = b""
    names: list[tuple[str, str, tuple[str, ...] | None]] = field(
        default_factory=list[tuple[str, str, tuple[str, ...] | None]]
    )
    """What the DNS was asked: the type, the name, and the values; None where nobody could say."""
    draws: list[tuple[str, object]] = field(default_factory=list[tuple[str, object]])
    """What was drawn at random: `nonce`, `random` or `getrandbits`, and the value."""
    steps: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    """What AUTH went through: `begin`, then `challenge`, `credentials` or `verifier`, each with a text, and how it
    ended: `success`, `failure`, `refused` or `malformed`; nothing where the client gave up.
    """
    announced: list[tuple[str, ...]] = field(default_factory=list[tuple[str, ...]])
    """The keywords that plugins added to each reply to EHLO."""
    handshakes: list[Security | None] = field(default_factory=list[Security | None])
    """The encryption that each TLS handshake led to; None for one that failed."""
    hung_up: Reply | None = None
    """What the client was told instead of being read any longer: a timeout, a shutdown."""
    drained: int | None = None
    """How often it had been waited for to read before that, if it was told so because it did not read."""


@dataclass(frozen=True, slots=True)
class Head:
    """What a session began with."""

    id: str
    started: float
    """Seconds since the epoch."""
    peer: Peer
    role: str
    wanted: frozenset[str]
    """The hooks that any plugin served."""
    hostname: str
    greeting: str
    limits: Limits
    extensions: frozenset[Extension]
    """What was offered, if the connection allowed it."""
    line_endings: LineEndings
    auth_in_clear: bool
    security: Security | None = None
    """The encryption that a proxy had dealt with."""
    refusal: Reply | None = None
    """Why the client was not let in."""
    masked: tuple[str, ...] = ("auth",)
    """What is masked: `auth`, and perhaps `content`."""


@dataclass(frozen=True, slots=True)
class Tape:
    """A recorded session."""

    head: Head
    turns: tuple[Turn, ...]
    whole: bool
    """Whether it was recorded to its end."""

    @property
    def received(self) -> bytes:
        """All that the client sent."""
        return b"".join(turn.received for turn in self.turns)

    @property
    def said(self) -> bytes:
        """All that the server said."""
        return b"".join(turn.said for turn in self.turns)


# Values as JSON and back


def reply_fields(reply: Reply | None) -> list[object] | None:
    """A reply, as code, enhanced status code and text."""
    return None if reply is None else [reply.code, reply.enhanced, reply.text]


def _reply(fields: Sequence[Any] | None) -> Reply | None:
    return None if fields is None else Reply(int(fields[0]), fields[1], str(fields[2]))


def security_fields(security: Security | None) -> Fields | None:
    """The encryption of a connection, with its bindings in hexadecimal."""
    if security is None:
        return None
    certificate = security.client_certificate
    return {
        "version": security.version,
        "cipher": security.cipher,
        "server_name": security.server_name,
        "client_certificate": certificate and [certificate.subject, certificate.verified, certificate.der.hex()],
        "bindings": {kind: value.hex() for kind, value in security.bindings.items()},
    }


def _security(fields: Fields | None) -> Security | None:
    if fields is None:
        return None
    shown = fields["client_certificate"]
    return Security(
        fields["version"],
        fields["cipher"],
        fields["server_name"],
        shown and ClientCertificate(str(shown[0]), bool(shown[1]), bytes.fromhex(shown[2])),
        {kind: bytes.fromhex(value) for kind, value in fields["bindings"].items()},
    )


def head_fields(head: Head) -> Fields:
    """The first line of a session."""
    return {
        "qpsmtpd": "session",
        "version": VERSION,
        "id": head.id,
        "started": head.started,
        "peer": {name: getattr(head.peer, name) for name in _PEER},
        "role": head.role,
        **_offered(
            wanted=head.wanted,
            hostname=head.hostname,
            greeting=head.greeting,
            limits=head.limits,
            extensions=head.extensions,
            line_endings=head.line_endings,
        ),
        "auth_in_clear": head.auth_in_clear,
        "security": security_fields(head.security),
        "refusal": reply_fields(head.refusal),
        "masked": head.masked,
    }


_PEER = tuple(each.name for each in fields_of(Peer))


@lru_cache(16)  # the sessions of a server differ in little
def _offered(
    *,
    wanted: frozenset[str],
    hostname: str,
    greeting: str,
    limits: Limits,
    extensions: frozenset[Extension],
    line_endings: LineEndings,
) -> Fields:
    return {
        "wanted": sorted(wanted),
        "hostname": hostname,
        "greeting": greeting,
        "limits": asdict(limits),
        "extensions": sorted(extension.value for extension in extensions),
        "line_endings": line_endings.name.lower(),
    }


def _head(fields: Fields) -> Head:
    if fields["version"] != VERSION:
        raise ValueError(f"it is of version {fields['version']!r}, and this program reads {VERSION}")
    if fields["role"] not in ROLES:
        raise ValueError(f"there is no role {fields['role']!r}")
    return Head(
        id=str(fields["id"]),
        started=float(fields["started"]),
        peer=Peer(**fields["peer"]),
        role=str(fields["role"]),
        wanted=frozenset(fields["wanted"]),
        hostname=str(fields["hostname"]),
        greeting=str(fields["greeting"]),
        limits=Limits(**fields["limits"]),
        extensions=frozenset(map(Extension, fields["extensions"])),
        line_endings=LineEndings[fields["line_endings"].upper()],
        auth_in_clear=bool(fields["auth_in_clear"]),
        security=_security(fields.get("security")),
        refusal=_reply(fields.get("refusal")),
        masked=tuple(fields.get("masked", ())),
    )


def _asked(fields: Sequence[Any]) -> Asked:
    hook, calls, answer, texts, own = fields
    return Asked(
        str(hook),
        tuple(
            Call(str(plugin), ANSWERS[given], tuple(map(str, words)), microseconds / 1e6, tuple(map(str, logged)))
            for plugin, given, words, microseconds, *logged in calls
        ),
        (ANSWERS[answer], tuple(map(str, texts)), _reply(own)),
    )


def _turn(fields: Fields) -> Turn:
    return Turn(
        at=float(fields["at"]),
        received=fields.get("in", "").encode("latin-1"),
        eof=bool(fields.get("eof", False)),
        asked=list(map(_asked, fields.get("asked", ()))),
        said=fields.get("out", "").encode("latin-1"),
        names=[(kind, name, None if found is None else tuple(found)) for kind, name, found in fields.get("dns", ())],
        draws=[(str(kind), value) for kind, value in fields.get("draws", ())],
        steps=[(str(kind), str(text)) for kind, text in fields.get("auth", ())],
        announced=list(map(tuple, fields.get("announced", ()))),
        handshakes=list(map(_security, fields.get("tls", ()))),
        hung_up=_reply(fields.get("hung_up")),
        drained=fields.get("drained"),
    )


def read_tapes(path: Path) -> Iterator[Tape]:
    """The sessions in a file. Raises OSError, and ConfigError that names file and line for what is no recording."""
    with path.open(encoding="ascii", errors="replace") as file:
        yield from tapes_in(str(path), file)


def tapes_in(source: str, lines: Iterable[str]) -> Iterator[Tape]:
    """The sessions in the lines of a recording from `source`. Raises ConfigError."""
    head: Head | None = None
    turns: list[Turn] = []
    whole = False
    for number, line in enumerate(lines, 1):
        try:
            fields = _fields(line)
            if "qpsmtpd" in fields:
                if head is not None:
                    yield Tape(head, tuple(turns) or (Turn(0),), whole)
                head, turns, whole = _head(fields), [], False
            elif fields.get("end"):
                whole = True
            elif head is None:
                raise ValueError("a recording begins with what the session began with")  # noqa: TRY301
            else:
                turns.append(_turn(fields))
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise ConfigError(f"{source}:{number}: this is no line of a recording: {error!r}") from error
    if head is None:
        raise ConfigError(f"{source}: there is no session in it")
    yield Tape(head, tuple(turns) or (Turn(0),), whole)


def _fields(line: str) -> Fields:
    fields: object = json.loads(line)
    if not isinstance(fields, dict):
        raise TypeError(f"it holds {type(fields).__name__}")
    return cast("Fields", fields)
