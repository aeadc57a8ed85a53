"""Command lines and ESMTP parameters (RFC 5321 section 4.1.1).

Total functions: any line in, a value or a `SyntaxProblem` out.
"""

import enum
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from qpsmtpd.protocol.errors import SyntaxProblem
from qpsmtpd.protocol.replies import Reply

__all__ = [
    "NO_PARAMETERS",
    "Command",
    "Extension",
    "Parameters",
    "check_parameters",
    "parse_parameters",
    "parse_path_argument",
    "parse_words",
]

Parameters = Mapping[str, str | None]
"""ESMTP parameters: lower-case keyword to value, None where there is none."""

NO_PARAMETERS: Parameters = MappingProxyType({})


class Command(enum.Enum):
    """The commands the core knows. STARTTLS, AUTH and BDAT have their rows in `state` to come."""

    HELO = b"HELO"
    EHLO = b"EHLO"
    MAIL = b"MAIL"
    RCPT = b"RCPT"
    DATA = b"DATA"
    RSET = b"RSET"
    NOOP = b"NOOP"
    QUIT = b"QUIT"
    VRFY = b"VRFY"
    HELP = b"HELP"

    __hash__ = object.__hash__


class Extension(enum.Enum):
    """The service extensions the core speaks; the value is the EHLO keyword."""

    PIPELINING = "PIPELINING"  # RFC 2920
    EIGHTBITMIME = "8BITMIME"  # RFC 6152
    SIZE = "SIZE"  # RFC 1870
    SMTPUTF8 = "SMTPUTF8"  # RFC 6531
    ENHANCEDSTATUSCODES = "ENHANCEDSTATUSCODES"  # RFC 2034

    __hash__ = object.__hash__


@dataclass(frozen=True, slots=True)
class _Rule:
    """Which extension owns a parameter, at which commands, and which values are well formed."""

    extension: Extension
    commands: frozenset[Command]
    valid: Callable[[str | None], bool]


_MAIL = frozenset({Command.MAIL})
_PARAMETERS: Mapping[str, _Rule] = {
    "size": _Rule(Extension.SIZE, _MAIL, lambda v: v is not None and v.isdecimal() and v.isascii() and len(v) <= 20),
    "body": _Rule(Extension.EIGHTBITMIME, _MAIL, lambda v: v is not None and v.upper() in {"7BIT", "8BITMIME"}),
    "smtputf8": _Rule(Extension.SMTPUTF8, _MAIL, lambda v: v is None),
}

_PARAMETER = re.compile(r"([A-Za-z0-9][A-Za-z0-9\-]*)(?:=([^= \x00-\x1f\x7f]+))?")
_PATH_END = re.compile(r'<(?:[^"\\<>]++|"(?:[^"\\]|\\.)*+"|\\.)*+>(?=\s|$)')

_BLANKS = re.compile(" +")

_BAD_COMMAND = SyntaxProblem(Reply(501, "5.5.4", "Syntax error in the arguments of the command"))
_BAD_PARAMETER = SyntaxProblem(Reply(501, "5.5.4", "Syntax error in a parameter"))
_NOT_OFFERED = SyntaxProblem(Reply(555, "5.5.4", "A parameter of an extension that is not offered here"))


def parse_words(argument: str) -> list[str]:
    """The words of a line, between blanks; a tab is no blank, and a blank at the start makes an empty word."""
    return _BLANKS.split(argument.rstrip(" ")) if argument else []


def parse_path_argument(keyword: str, argument: str) -> tuple[str, Parameters] | SyntaxProblem:
    """Split what follows MAIL or RCPT into the path, as sent, and its parameters.

    `keyword` is `FROM:` or `TO:`. The path is not judged here: `mail_pre` and `rcpt_pre`
    may still mend it. A path without brackets ends where the parameters begin.
    """
    if argument[: len(keyword)].upper() != keyword:
        return _BAD_COMMAND
    argument = argument[len(keyword) :].strip()
    if not argument:
        return _BAD_COMMAND
    bracketed = _PATH_END.match(argument)
    if bracketed is not None:
        if bracketed.end() == len(argument):
            return argument, NO_PARAMETERS
        words = argument[bracketed.end() :].split()
        path = bracketed[0]
    else:
        words = argument.split()
        count = next(
            (n for n, word in enumerate(reversed(words[1:])) if not _PARAMETER.fullmatch(word)), len(words[1:])
        )
        path = argument.rsplit(None, count)[0]
        words = words[len(words) - count :]
    parameters = parse_parameters(words)
    return parameters if isinstance(parameters, SyntaxProblem) else (path, parameters)


def parse_parameters(words: Sequence[str]) -> Parameters | SyntaxProblem:
    """Read words of the form `KEYWORD` or `KEYWORD=value`; each keyword may come once."""
    parameters: dict[str, str | None] = {}
    for word in words:
        match = _PARAMETER.fullmatch(word)
        if match is None or match[1].lower() in parameters:
            return _BAD_PARAMETER
        parameters[match[1].lower()] = match[2]
    return MappingProxyType(parameters)


def check_parameters(command: Command, parameters: Parameters, offered: frozenset[Extension]) -> SyntaxProblem | None:
    """Hold parameters against the extensions that were offered (RFC 5321 section 4.1.1.11).

    A keyword that no extension of the core owns goes on to the hooks: a plugin may have
    announced it.
    """
    for keyword, value in parameters.items():
        rule = _PARAMETERS.get(keyword)
        if rule is None:
            continue
        if rule.extension not in offered or command not in rule.commands:
            return _NOT_OFFERED
        if not rule.valid(value):
            return _BAD_PARAMETER
    return None
