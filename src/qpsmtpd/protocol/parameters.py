"""ESMTP parameters of MAIL and RCPT: which extension owns each, and which values are well formed.

The table is all there is to an extension that consists of parameters alone. What they say is
for plugins and for whoever sends the message on: `Dsn` reads those of RFC 3461, and
`format_parameters` writes them again.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from qpsmtpd.protocol.commands import Command, Extension, Parameters
from qpsmtpd.protocol.errors import SyntaxProblem
from qpsmtpd.protocol.replies import Reply

__all__ = ["Dsn", "check_parameters", "decode_xtext", "encode_xtext", "format_parameters"]

_XTEXT = re.compile(r"(?:[!-*,-<>-~]|\+[0-9A-F]{2})*")
_HEX = re.compile(r"\+([0-9A-F]{2})")
_TO_HEX = re.compile(rb"[^!-*,-<>-~]")
_UNITEXT = re.compile(r"(?:[^\x00-\x20+=\x7f\\]|\\x\{[0-9A-F]{2,6}\})*")
_ADDRESS_TYPE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?")
_BY = re.compile(r"([+-]?[0-9]{1,9});([NR])T?", re.IGNORECASE)
_NOTIFY = frozenset({"SUCCESS", "FAILURE", "DELAY"})

_BAD_PARAMETER = SyntaxProblem(Reply(501, "5.5.4", "Syntax error in a parameter"))
_NOT_OFFERED = SyntaxProblem(Reply(555, "5.5.4", "A parameter of an extension that is not offered here"))


def encode_xtext(text: str) -> str:
    """Text as a parameter can hold it (RFC 3461 section 4); other than ASCII as the octets of UTF-8."""
    octets = text.encode("utf-8", "surrogateescape")
    return _TO_HEX.sub(lambda match: b"+%02X" % match[0][0], octets).decode("ascii")


def decode_xtext(xtext: str) -> str | None:
    """The text that xtext stands for; None if it is none."""
    if not _XTEXT.fullmatch(xtext):
        return None
    octets = _HEX.sub(lambda match: chr(int(match[1], 16)), xtext).encode("latin-1")
    return octets.decode("utf-8", "surrogateescape")


# Values


def _is_number(value: str | None) -> bool:
    return value is not None and value.isdecimal() and value.isascii() and len(value) <= 20


def _one_of(*words: str) -> Callable[[str | None], bool]:
    return lambda value: value is not None and value.upper() in words


def _is_flag(value: str | None) -> bool:
    return value is None


def _is_envelope_id(value: str | None) -> bool:
    text = decode_xtext(value) if value is not None else None
    return text is not None and len(text) <= 100  # RFC 3461 section 4.4


def _is_notify(value: str | None) -> bool:
    words = (value or "").upper().split(",")
    return words == ["NEVER"] or (len(set(words)) == len(words) and _NOTIFY.issuperset(words))


def _is_original_recipient(value: str | None) -> bool:
    kind, semicolon, address = (value or "").partition(";")
    if not semicolon or not _ADDRESS_TYPE.fullmatch(kind) or len(value or "") > 500:  # RFC 3461 section 4.2
        return False
    form = _UNITEXT if kind.lower() == "utf-8" else _XTEXT  # RFC 6533 section 3
    return bool(address) and form.fullmatch(address) is not None


def _is_identity(value: str | None) -> bool:
    return value is not None and (value == "<>" or bool(value and decode_xtext(value)))


def _is_priority(value: str | None) -> bool:
    return value is not None and re.fullmatch(r"-?[0-9]", value, re.ASCII) is not None


def _is_deadline(value: str | None) -> bool:
    match = _BY.fullmatch(value or "")
    return match is not None and (match[2].upper() == "N" or int(match[1]) > 0)  # RFC 2852 section 4


@dataclass(frozen=True, slots=True)
class _Rule:
    """Which extension owns a parameter, at which command, and which values are well formed."""

    extension: Extension
    command: Command
    valid: Callable[[str | None], bool]


_PARAMETERS: Mapping[str, _Rule] = {
    "size": _Rule(Extension.SIZE, Command.MAIL, _is_number),
    "body": _Rule(Extension.EIGHTBITMIME, Command.MAIL, _one_of("7BIT", "8BITMIME", "BINARYMIME")),
    "smtputf8": _Rule(Extension.SMTPUTF8, Command.MAIL, _is_flag),
    "ret": _Rule(Extension.DSN, Command.MAIL, _one_of("FULL", "HDRS")),
    "envid": _Rule(Extension.DSN, Command.MAIL, _is_envelope_id),
    "notify": _Rule(Extension.DSN, Command.RCPT, _is_notify),
    "orcpt": _Rule(Extension.DSN, Command.RCPT, _is_original_recipient),
    "auth": _Rule(Extension.AUTH, Command.MAIL, _is_identity),
    "requiretls": _Rule(Extension.REQUIRETLS, Command.MAIL, _is_flag),
    "mt-priority": _Rule(Extension.MT_PRIORITY, Command.MAIL, _is_priority),
    "by": _Rule(Extension.DELIVERBY, Command.MAIL, _is_deadline),
}


def check_parameters(command: Command, parameters: Parameters, offered: frozenset[Extension]) -> SyntaxProblem | None:
    """Hold parameters against the extensions that were offered (RFC 5321 section 4.1.1.11).

    A keyword that no extension of the core owns goes on to the hooks: a plugin may have
    announced it.
    """
    for keyword, value in parameters.items():
        rule = _PARAMETERS.get(keyword)
        if rule is None:
            continue
        if rule.extension not in offered or command is not rule.command:
            return _NOT_OFFERED
        if not rule.valid(value):
            return _BAD_PARAMETER
        if keyword == "body" and (value or "").upper() == "BINARYMIME" and Extension.BINARYMIME not in offered:
            return _NOT_OFFERED
    return None


def format_parameters(parameters: Parameters) -> str:
    """Parameters as they are sent, a blank before each."""
    return "".join(
        f" {key.upper()}" if value is None else f" {key.upper()}={value}" for key, value in parameters.items()
    )


@dataclass(frozen=True, slots=True)
class Dsn:
    """What is asked of delivery status notifications about a recipient (RFC 3461)."""

    ret: str | None = None
    """`FULL` or `HDRS`: how much of the message comes back."""

    envelope_id: str | None = None
    """What the sender calls this transaction."""

    notify: frozenset[str] | None = None
    """When to notify: of `SUCCESS`, `FAILURE`, `DELAY`; empty for never, None if nothing was said."""

    original_recipient: tuple[str, str] | None = None
    """Address type and address that the sender has used, such as `rfc822` and `user@example.org`."""

    @classmethod
    def of(cls, mail: Parameters, rcpt: Parameters) -> "Dsn":
        """Read the parameters of MAIL and of a RCPT; what is malformed counts as not said."""
        ret, envid = mail.get("ret"), mail.get("envid")
        notify, orcpt = rcpt.get("notify"), rcpt.get("orcpt")
        kind, _, address = (orcpt or "").partition(";")
        decoded = address if kind.lower() == "utf-8" else decode_xtext(address)
        return cls(
            ret.upper() if ret is not None and ret.upper() in ("FULL", "HDRS") else None,
            decode_xtext(envid) if envid is not None else None,
            frozenset(notify.upper().split(",")) - {"NEVER"} if notify is not None and _is_notify(notify) else None,
            (kind, decoded) if decoded is not None and _is_original_recipient(orcpt) else None,
        )
