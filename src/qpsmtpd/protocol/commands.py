"""Command lines and ESMTP parameters (RFC 5321 section 4.1.1).

Total functions: any line in, a value or a `SyntaxProblem` out.
"""

import enum
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType

from qpsmtpd.protocol.errors import SyntaxProblem
from qpsmtpd.protocol.replies import Reply

__all__ = [
    "NO_PARAMETERS",
    "Command",
    "Extension",
    "Parameters",
    "parse_chunk",
    "parse_parameters",
    "parse_path_argument",
    "parse_words",
]

Parameters = Mapping[str, str | None]
"""ESMTP parameters: lower-case keyword to value, None where there is none."""

NO_PARAMETERS: Parameters = MappingProxyType({})


class Command(enum.Enum):
    """The commands the core knows."""

    HELO = b"HELO"
    EHLO = b"EHLO"
    LHLO = b"LHLO"
    STARTTLS = b"STARTTLS"
    AUTH = b"AUTH"
    XCLIENT = b"XCLIENT"
    MAIL = b"MAIL"
    RCPT = b"RCPT"
    DATA = b"DATA"
    BDAT = b"BDAT"
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
    CHUNKING = "CHUNKING"  # RFC 3030
    BINARYMIME = "BINARYMIME"  # RFC 3030
    DSN = "DSN"  # RFC 3461
    LIMITS = "LIMITS"  # RFC 9422
    REQUIRETLS = "REQUIRETLS"  # RFC 8689
    MT_PRIORITY = "MT-PRIORITY"  # RFC 6710
    DELIVERBY = "DELIVERBY"  # RFC 2852
    STARTTLS = "STARTTLS"  # RFC 3207
    AUTH = "AUTH"  # RFC 4954
    XCLIENT = "XCLIENT"  # Postfix's XCLIENT_README

    __hash__ = object.__hash__


_PARAMETER = re.compile(r"([A-Za-z0-9][A-Za-z0-9\-]*)(?:=([^= \x00-\x1f\x7f]+))?")
_PATH_END = re.compile(r'<(?:[^"\\<>]++|"(?:[^"\\]|\\.)*+"|\\.)*+>(?=[ \t]|\Z)')

_BLANKS = re.compile(" +")
_SPACE = re.compile(r"[ \t]+")  # to `str.split`, control characters are space too
_CHUNK = re.compile(r"([0-9]{1,18})(?: +(LAST))? *", re.IGNORECASE | re.ASCII)

_BAD_COMMAND = SyntaxProblem(Reply(501, "5.5.4", "Syntax error in the arguments of the command"))
_BAD_PARAMETER = SyntaxProblem(Reply(501, "5.5.4", "Syntax error in a parameter"))


def parse_words(argument: str) -> list[str]:
    """The words of a line, between blanks; a tab is no blank, and a blank at the start makes an empty word."""
    return _BLANKS.split(argument.rstrip(" ")) if argument else []


def parse_chunk(argument: str) -> tuple[int, bool] | SyntaxProblem:
    """Read the arguments of BDAT (RFC 3030): how many octets follow, and whether they are the last ones."""
    match = _CHUNK.fullmatch(argument)
    return _BAD_COMMAND if match is None else (int(match[1]), match[2] is not None)


@lru_cache(1024)  # as for the addresses in them
def parse_path_argument(keyword: str, argument: str) -> tuple[str, Parameters] | SyntaxProblem:
    """Split what follows MAIL or RCPT into the path, as sent, and its parameters.

    `keyword` is `FROM:` or `TO:`. The path is not judged here: `mail_pre` and `rcpt_pre`
    may still mend it. A path without brackets ends where the parameters begin.
    """
    if argument[: len(keyword)].upper() != keyword:
        return _BAD_COMMAND
    argument = argument[len(keyword) :].strip(" \t")
    if not argument:
        return _BAD_COMMAND
    bracketed = _PATH_END.match(argument)
    if bracketed is not None:
        if bracketed.end() == len(argument):
            return argument, NO_PARAMETERS
        words = _SPACE.split(argument[bracketed.end() :])[1:]
        path = bracketed[0]
    else:
        words = _SPACE.split(argument)
        count = next(
            (n for n, word in enumerate(reversed(words[1:])) if not _PARAMETER.fullmatch(word)), len(words[1:])
        )
        gaps = [gap.start() for gap in _SPACE.finditer(argument)]
        path = argument[: gaps[-count]] if count else argument
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
