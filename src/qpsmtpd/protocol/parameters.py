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

__all__ = ["Dsn", "check_parameters", "decode_xtext", "encode_xtext", "format_parameters", "owner_of"]

_XTEXT = re.compile(r"(?:[!-*,-<>-~]|\+[0-9A-F]{2})*")
_HEX = re.compile(r"\+([0-9A-F]{2})")
_TO_HEX = re.compile(rb"[^!-*,-<>-~]")
_CODE_POINT = (  # RFC 6533 section 3; without the control characters, which it tolerates
    r"\\x\{(20|2B|3D|5C|[A-F][0-9A-F]|[1-9A-F][0-9A-F]{2}|[1-9A-CEF][0-9A-F]{3}|D[0-7][0-9A-F]{2}"
    r"|(?:10|[1-9A-F])[0-9A-F]{4})\}"
)
_EMBEDDED = re.compile(_CODE_POINT)
_UNITEXT = re.compile(rf"(?:[^\x00-\x20+=\x7f-\x9f\\\ud800-\udfff]|{_CODE_POINT})*")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_ADDRESS_TYPE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?")
_BY = re.compile(r"([+-]?[0-9]{1,9});([NR])T?", re.IGNORECASE)
_PRIORITY = re.compile(r"0|-?[1-9]")
_NOTIFY = frozenset({"SUCCESS", "FAILURE", "DELAY"})

_BAD_PARAMETER = SyntaxProblem(Reply(501, "5.5.4", "Syntax error in a parameter"))
_NOT_OFFERED = SyntaxProblem(Reply(555, "5.5.4", "A parameter of an extension that is not offered here"))


def encode_xtext(text: str) -> str:
    """Text as a parameter can hold it (RFC 3461 section 4); other than ASCII as the octets of UTF-8.

    Raises UnicodeEncodeError for lone surrogates, except those that stand for an octet.
    """
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


def _upper(value: str | None) -> str:
    """A keyword as the tables have it; nothing outside ASCII becomes one."""
    return value.upper() if value is not None and value.isascii() else ""


def _one_of(*words: str) -> Callable[[str | None], bool]:
    return lambda value: _upper(value) in words


def _is_flag(value: str | None) -> bool:
    return value is None


def _decode_text(xtext: str) -> str | None:
    """What xtext stands for, if that can be written into a notification (RFC 3461 sections 4.2 and 4.4)."""
    text = decode_xtext(xtext)
    return text if text and not _CONTROL.search(text) else None


def _decode_unitext(unitext: str) -> str | None:
    """What unitext stands for (RFC 6533 section 3)."""
    if not unitext or not _UNITEXT.fullmatch(unitext):
        return None
    return _EMBEDDED.sub(lambda match: chr(int(match[1], 16)), unitext)


def _decode_envelope_id(value: str | None) -> str | None:
    text = _decode_text(value or "")
    return text if text is not None and len(text) <= 100 else None  # RFC 3461 section 4.4


def _decode_original_recipient(value: str | None) -> tuple[str, str] | None:
    kind, _, encoded = (value or "").partition(";")
    if not _ADDRESS_TYPE.fullmatch(kind) or len(value or "") > 500:  # RFC 3461 section 4.2
        return None
    address = _decode_unitext(encoded) if kind.lower() == "utf-8" else _decode_text(encoded)
    return None if address is None else (kind, address)


def _is_envelope_id(value: str | None) -> bool:
    return _decode_envelope_id(value) is not None


def _is_notify(value: str | None) -> bool:
    words = _upper(value).split(",")
    return words == ["NEVER"] or (len(set(words)) == len(words) and _NOTIFY.issuperset(words))


def _is_original_recipient(value: str | None) -> bool:
    return _decode_original_recipient(value) is not None


def _is_identity(value: str | None) -> bool:
    return value is not None and (value == "<>" or _decode_text(value) is not None)


def _is_priority(value: str | None) -> bool:
    return value is not None and _PRIORITY.fullmatch(value) is not None


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
        if keyword == "body" and _upper(value) == "BINARYMIME" and Extension.BINARYMIME not in offered:
            return _NOT_OFFERED
    return None


def owner_of(keyword: str) -> Extension | None:
    """The extension that a parameter belongs to; None where it is none of the core's."""
    rule = _PARAMETERS.get(keyword)
    return None if rule is None else rule.extension


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
        ret, notify = _upper(mail.get("ret")), _upper(rcpt.get("notify"))
        return cls(
            ret if ret in ("FULL", "HDRS") else None,
            _decode_envelope_id(mail.get("envid")),
            frozenset(notify.split(",")) - {"NEVER"} if _is_notify(notify) else None,
            _decode_original_recipient(rcpt.get("orcpt")),
        )
