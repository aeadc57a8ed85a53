"""Command lines (RFC 5321 section 4.1.1) with their line ends: valid, nearly valid and hostile."""

from collections.abc import Callable, Iterable, Mapping
from functools import cache

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from qpsmtpd.protocol import DEFAULT_EXTENSIONS, Command, Extension, Parameters, parse_path
from qpsmtpd.protocol.addresses import Mailbox
from qpsmtpd.protocol.parameters import encode_xtext, format_parameters, owner_of
from qpsmtpd.testing.strategies.addresses import (
    address_literals,
    domains,
    hostile_paths,
    mailboxes,
    nearly_valid_paths,
    paths,
)

__all__ = [
    "OFFERED",
    "command_lines",
    "greetings",
    "hostile_command_lines",
    "nearly_valid_command_lines",
    "parameters",
]

OFFERED = DEFAULT_EXTENSIONS - {Extension.AUTH}
"""The extensions that a `Server` offers where nothing is said, and nobody is asked about users."""

_WORDS = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=20)

_VALUES: Mapping[Command, Mapping[str, SearchStrategy[str | None]]] = {
    Command.MAIL: {
        "size": st.integers(0, 10**20 - 1).map(str),
        "body": st.sampled_from(["7BIT", "8BITMIME"]),
        "smtputf8": st.none(),
        "ret": st.sampled_from(["FULL", "HDRS"]),
        "envid": _WORDS.map(encode_xtext),
        "auth": st.just("<>") | mailboxes().map(lambda mailbox: encode_xtext(mailbox.address)),
        "requiretls": st.none(),
        "mt-priority": st.integers(-9, 9).map(str),
        "by": st.builds("{};{}".format, st.integers(1, 999_999_999), st.sampled_from(["R", "N", "RT", "NT"])),
    },
    Command.RCPT: {
        "notify": st.just("NEVER")
        | st.lists(st.sampled_from(["SUCCESS", "FAILURE", "DELAY"]), min_size=1, unique=True).map(",".join),
        "orcpt": mailboxes().map(lambda mailbox: f"rfc822;{encode_xtext(mailbox.address)}"),
    },
}


def parameters(
    command: Command = Command.MAIL, *, offered: Iterable[Extension] = OFFERED
) -> SearchStrategy[Parameters]:
    """Valid parameters of MAIL or RCPT, of the extensions that are offered; most often few of them."""
    return _parameters(command, frozenset(offered))


@cache  # to make a strategy takes longer than to draw from it
def _parameters(command: Command, offered: frozenset[Extension]) -> SearchStrategy[Parameters]:
    values = {keyword: value for keyword, value in _VALUES[command].items() if owner_of(keyword) in offered}
    return st.fixed_dictionaries({}, optional=values)


def greetings(*, commands: Iterable[Command] = (Command.EHLO, Command.HELO)) -> SearchStrategy[bytes]:
    """EHLO and HELO lines, with a name or an address literal."""
    return _greetings(tuple(commands))


@cache
def _greetings(commands: tuple[Command, ...]) -> SearchStrategy[bytes]:
    numberless = domains().filter(lambda name: not name.isdigit())  # a number is no host name (RFC 1123 section 2.1)
    names = numberless | address_literals()
    return st.builds(_line, st.sampled_from(commands), names)


def command_lines(*, commands: Iterable[Command] = (), offered: Iterable[Extension] = OFFERED) -> SearchStrategy[bytes]:
    """Well-formed lines of these commands, with CRLF; all that stand alone in one line if none are named.

    The word is written in any case. An address outside ASCII comes with SMTPUTF8.
    """
    return _command_lines(tuple(commands) or _ALL, frozenset(offered))


@cache
def _command_lines(commands: tuple[Command, ...], offered: frozenset[Extension]) -> SearchStrategy[bytes]:
    lines = st.one_of([_lines_of(command, offered) for command in commands])
    return st.builds(_in_case, lines, st.sampled_from([bytes.upper, bytes.lower, bytes.title]))


def _lines_of(command: Command, offered: frozenset[Extension]) -> SearchStrategy[bytes]:
    if command in _GREETINGS:
        return greetings(commands=[command])
    if command in _PATHS:
        return _path_lines(command, offered)
    return st.builds(_line, st.just(command), _ALONE[command])


def _in_case(line: bytes, change: Callable[[bytes], bytes]) -> bytes:
    return change(line[:4]) + line[4:]


_GREETINGS = (Command.EHLO, Command.HELO)
_PATHS = {Command.MAIL: "FROM:", Command.RCPT: "TO:"}
_ALONE: Mapping[Command, SearchStrategy[str]] = {
    Command.NOOP: st.just("") | _WORDS.map(str.strip),
    Command.RSET: st.just(""),
    Command.QUIT: st.just(""),
    Command.DATA: st.just(""),
    Command.VRFY: mailboxes().map(lambda mailbox: mailbox.address),
    Command.HELP: st.just("") | st.sampled_from([command.name for command in Command]),
}


_ALL = (*_ALONE, *_GREETINGS, *_PATHS)


@st.composite
def _path_lines(draw: DrawFn, command: Command, offered: frozenset[Extension]) -> bytes:
    path = draw(paths(utf8=Extension.SMTPUTF8 in offered, null=command is Command.MAIL))
    words = dict(draw(parameters(command, offered=offered)))
    mailbox = parse_path(path)
    if command is Command.MAIL and isinstance(mailbox, Mailbox) and not mailbox.is_ascii:
        words["smtputf8"] = None
    return _path_line(command, f"{path}{format_parameters(words)}")


def _path_line(command: Command, path: object) -> bytes:
    return _line(command, f"{_PATHS[command]}{path}")


def _line(command: Command, argument: str) -> bytes:
    return command.value + b" " * bool(argument) + argument.encode("utf-8", "surrogateescape") + b"\r\n"


_FLAWS: Mapping[str, Callable[[bytes], bytes]] = {  # of a whole line MAIL or RCPT
    "bare LF": lambda line: line[:-2] + b"\n",
    "bare CR inside": lambda line: line[:-2] + b"\rx\r\n",
    "two CRs": lambda line: line[:-2] + b"\r\r\n",
    "NUL": lambda line: line[:-2] + b"\x00\r\n",
    "blank first": lambda line: b" " + line,
    "tab for the blank": lambda line: line.replace(b" ", b"\t", 1),
    "no blank": lambda line: line.replace(b" ", b"", 1),
    "blank behind the colon": lambda line: line.replace(b":", b": ", 1),
    "blank before the colon": lambda line: line.replace(b":", b" :", 1),
    "no colon": lambda line: line.replace(b":", b" ", 1),
    "no argument": lambda line: line[:4] + b"\r\n",
    "no path": lambda line: line[: line.index(b":") + 1] + b"\r\n",
    "word cut short": lambda line: line[:3] + line[4:],
    "word too long": lambda line: line[:4] + b"S" + line[4:],
    "blanks last": lambda line: line[:-2] + b"  \r\n",
    "empty value": lambda line: line[:-2] + b" SIZE=\r\n",
    "unknown parameter": lambda line: line[:-2] + b" X-UNKNOWN\r\n",
    "parameter given twice": lambda line: line[:-2] + b" SIZE=1 SIZE=2\r\n",
    "parameter of no form": lambda line: line[:-2] + b" =\r\n",
    "octet outside UTF-8": lambda line: line[:-2] + b" X=\xff\r\n",
    "too long for one server": lambda line: line[:-2] + b" X=" + b"x" * 510 + b"\r\n",
    "too long for all": lambda line: line[:-2] + b" X=" + b"x" * 70_000 + b"\r\n",
}


def nearly_valid_command_lines() -> SearchStrategy[bytes]:
    """Lines MAIL and RCPT that break RFC 5321 in one place; servers differ in which of them they take."""
    lines = st.builds(_flawed, st.sampled_from([*_FLAWS]), _plain_lines(mailboxes()))
    return lines | _plain_lines(nearly_valid_paths())


def _flawed(flaw: str, line: bytes) -> bytes:
    return _FLAWS[flaw](line)


def _plain_lines(written: SearchStrategy[object]) -> SearchStrategy[bytes]:
    return st.builds(_path_line, st.sampled_from([*_PATHS]), written)


_FOREIGN = [
    b"\r\n", b"\n", b"\r", b"\x00\r\n", b".\r\n", b" \r\n",
    b"GET / HTTP/1.1\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n", b"PROXY TCP4 192.0.2.1 192.0.2.2 1 25\r\n",
    b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\r\n", b"HELO\r\n", b"EHLO \x1b[2J\r\n", b"B\xc3\xa4H \x00\xc2\x85\xe2\x80\xa8\r\n",
    b"MAIL FROM:<a@a>\nRCPT TO:<a@a>\r\n", b"RCPT TO:<a@a>\rDATA\r\n", b"NOOP\r\nQUIT\r\n", b"AUTH PLAIN =\r\n", b"AUTH PLAIN \x00\r\n",
    b"BDAT -1\r\n", b"BDAT 99999999999999999999 LAST\r\n", b"BDAT 2\r\n\r\n", b"DATA x\r\n", b"STARTTLS x\r\n", b"XCLIENT ADDR=[UNAVAILABLE]\r\n",
    b"X" * 600 + b"\r\n", b"NOOP " + b"x" * 5000 + b"\r\n", b"M\xc4\xb1IL FROM:<a@a>\r\n", b"%s%n%x\r\n",
]  # fmt: skip


def hostile_command_lines() -> SearchStrategy[bytes]:
    """Other protocols, injections, controls, lines without end and hostile paths. Not all are one line."""
    hostile = _plain_lines(hostile_paths())
    return st.sampled_from(_FOREIGN) | hostile | st.binary(max_size=30).map(lambda octets: octets + b"\r\n")
