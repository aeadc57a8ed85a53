"""`qpsmtpd compare`: its arguments, and what is done with them."""

import argparse
import ipaddress
import json
import re
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from fnmatch import fnmatchcase
from functools import partial
from itertools import islice
from pathlib import Path

from qpsmtpd import __version__
from qpsmtpd.compare.cases import CASES, Case, generated
from qpsmtpd.compare.document import document
from qpsmtpd.compare.findings import FRAMING, Comparison, Finding, Minimal, find
from qpsmtpd.compare.minimal import minimise
from qpsmtpd.compare.page import page
from qpsmtpd.compare.sinks import MaildirSink, NetworkSink, Sink
from qpsmtpd.compare.targets import Core, Live, Target, Timing
from qpsmtpd.compare.text import report
from qpsmtpd.config import ConfigError
from qpsmtpd.protocol import LineEndings

__all__ = ["add_arguments"]

_TARGET = re.compile(
    r"(?:(?P<name>[^=,:\s]+)=)?(?P<place>[^,=]+)(?:,(?P<kind>maildir|smtp|lmtp)=(?P<sink>[^,]+))?(?:,to=(?P<to>[^,\s]+))?"
)
_PLACE = re.compile(r"(?:\[(?P<six>[^\]]+)\]|(?P<host>[^:\[\]]+)):(?P<port>\d{1,5})")

_WAYS = 2  # in which a server differs, that are made small

SMUGGLED = 2
"""The exit status when a server took for an end what is none."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    parser.epilog = (
        "SINK says where the server's mail comes to light: maildir=DIR that it delivers to, "
        "or smtp=HOST:PORT or lmtp=HOST:PORT that it relays to and where this command listens. Without one, replies alone are compared. "
        f"The exit status is {SMUGGLED} if a server took for an end what is none."
    )
    parser.add_argument(
        "targets", nargs="+", metavar="[NAME=]HOST:PORT[,SINK][,to=ADDRESS]", help="a server, its sink, and a recipient that it takes",
    )  # fmt: skip
    parser.add_argument(
        "--to",
        default="b@two.example",
        metavar="ADDRESS",
        help="the recipient where a target names none; default: %(default)s",
    )
    parser.add_argument(
        "--only", default="*", metavar="GLOB", help="play the cases whose names match, such as 'smuggling/*'"
    )
    parser.add_argument(
        "--generate", type=int, default=0, metavar="N", help="play N more, with end marks drawn at random"
    )
    parser.add_argument("--seed", type=int, default=1, help="what the draws depend on")
    parser.add_argument(
        "--probes", type=int, default=100, metavar="N", help="dialogues to spend on making one small; 0: none"
    )
    parser.add_argument("--patience", type=float, default=5.0, metavar="SECONDS", help="how long to wait for a reply")
    parser.add_argument(
        "--settle", type=float, default=0.5, metavar="SECONDS", help="how long a sink is without news until it is read"
    )
    parser.add_argument(
        "--delivery", type=float, default=30.0, metavar="SECONDS", help="how long a delivery may take, or a greeting"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report for programs")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the report as one page")
    parser.add_argument("--discreet", action="store_true", help="report that servers differ, and not by which octets")
    parser.add_argument("--i-own-this-host", action="store_true", help="allow targets that are not on loopback")
    parser.set_defaults(command=_compare)


def _compare(options: argparse.Namespace) -> int:
    cases = _cases(options)
    with ExitStack() as stack:
        targets = _targets(options, stack)
        played = {target.name: target.play(list(cases.values())) for target in targets}
        outcomes = {name: {target: of_cases[name] for target, of_cases in played.items()} for name in cases}
        about = {target.name: _about(target) for target in targets}
        comparison = Comparison(about, cases, outcomes, find(cases, outcomes))
        if options.probes and not options.discreet:
            minimal = _minimal(comparison, targets, options.probes)
            comparison = Comparison(about, cases, outcomes, comparison.findings, minimal)
    _write(comparison, options)
    return SMUGGLED if any(finding.deceived for finding in comparison.findings) else 0


def _write(comparison: Comparison, options: argparse.Namespace) -> None:
    for line in report(comparison, discreet=options.discreet):
        print(line)
    if options.json:
        text = json.dumps(document(comparison, discreet=options.discreet), indent=1)
        options.json.write_text(text + "\n", "utf-8")
    if options.html:
        options.html.write_text(page(comparison, discreet=options.discreet), "utf-8")


def _cases(options: argparse.Namespace) -> Mapping[str, Case]:
    """The cases to play. Raises ConfigError if there are none."""
    every = {**CASES, **{case.name: case for case in generated(options.generate, options.seed)}}
    cases = {name: case for name, case in every.items() if fnmatchcase(name, options.only)}
    if not cases:
        raise ConfigError(f"no case matches --only {options.only}; there are {', '.join(every)}")
    return cases


# Targets


def _targets(options: argparse.Namespace, stack: ExitStack) -> list[Target]:
    """Our core twice, and the servers. Raises ConfigError."""
    timing = Timing(options.patience, options.settle, options.delivery)
    to = options.to.encode()
    targets: list[Target] = [
        Core("qpsmtpd", LineEndings.STRICT, to),
        Core("qpsmtpd-normalize", LineEndings.NORMALIZE, to),
    ]
    for text in options.targets:
        target = _target(text, to, timing, options, stack)
        if target.name in {each.name for each in targets}:
            raise ConfigError(f"two targets are called {target.name}; give each a name of its own: NAME=HOST:PORT")
        targets.append(target)
    return targets


def _target(text: str, to: bytes, timing: Timing, options: argparse.Namespace, stack: ExitStack) -> Live:
    match = _TARGET.fullmatch(text)
    if match is None:
        raise ConfigError(
            f"{text!r} is not [NAME=]HOST:PORT[,maildir=DIR|,smtp=HOST:PORT|,lmtp=HOST:PORT][,to=ADDRESS]"
        )
    address = _address(match["place"], owned=options.i_own_this_host)
    sink = _sink(match["kind"], match["sink"], options) if match["kind"] else None
    if sink is not None:
        stack.callback(sink.close)
    _reach(address, timing)
    return Live(match["name"] or match["place"], address, sink, match["to"].encode() if match["to"] else to, timing)


def _sink(kind: str, where: str, options: argparse.Namespace) -> Sink:
    if kind == "maildir":
        return MaildirSink(Path(where))
    host, port = _address(where, owned=options.i_own_this_host)
    try:
        return NetworkSink(host, port, lmtp=kind == "lmtp")
    except OSError as error:
        raise ConfigError(f"cannot listen on {where}: {error.strerror}") from error


def _address(text: str, *, owned: bool) -> tuple[str, int]:
    """An address to connect to, resolved once so that what is checked is what is used. Raises ConfigError."""
    match = _PLACE.fullmatch(text)
    if match is None or int(match["port"]) > 65_535:
        raise ConfigError(f"{text!r} is not HOST:PORT; an IPv6 address goes in brackets")
    try:
        found = socket.getaddrinfo(match["six"] or match["host"], int(match["port"]), type=socket.SOCK_STREAM)
    except OSError as error:
        raise ConfigError(f"{text}: {error.strerror}") from error
    addresses = [(str(each[4][0]), int(each[4][1])) for each in found]
    elsewhere = [host for host, _ in addresses if not ipaddress.ip_address(host.partition("%")[0]).is_loopback]
    if elsewhere and not owned:
        raise ConfigError(
            f"{text} is at {', '.join(elsewhere)}, which is not this machine; "
            "these dialogues are attacks on a server: play them to your own, and say --i-own-this-host"
        )
    return addresses[0]


def _reach(address: tuple[str, int], timing: Timing) -> None:
    """See that somebody listens. Raises ConfigError."""
    try:
        socket.create_connection(address, timing.patience).close()
    except OSError as error:
        raise ConfigError(f"no server at {address[0]}:{address[1]}: {error.strerror or error}") from error


def _about(target: Target) -> str:
    match target:
        case Live(address=(host, port), sink=sink):
            return f"{host}:{port}, {'no sink: replies alone' if sink is None else _about_sink(sink)}"
        case Core(line_endings=line_endings):
            return f"protocol.Server of qpsmtpd {__version__} in memory, bare CR and LF: {line_endings.name.lower()}"
        case _:
            return ""


def _about_sink(sink: Sink) -> str:
    return f"seen by {'its Maildir' if isinstance(sink, MaildirSink) else 'what it relays'}"


# Small dialogues


def _minimal(comparison: Comparison, targets: Sequence[Target], probes: int) -> list[Minimal]:
    """A small dialogue for each way in which a server sees another number of messages than the core; two of one server.

    The worst come first, as they do among findings.
    """
    core, *servers = targets
    assert isinstance(core, Core)
    return [
        _smallest(comparison.cases[name], core, target, probes)
        for target in servers
        if isinstance(target, Live)
        for name in islice(_ways(comparison.findings, core, target), _WAYS)
    ]


def _ways(findings: Sequence[Finding], core: Core, target: Live) -> Iterator[str]:
    """A case for each pair of numbers of messages, at the core and at a server."""
    done: set[tuple[str, str, bool]] = set()
    for finding in findings:
        expected, seen = _number(finding, core), _number(finding, target)
        way = (expected, seen, target.name in finding.deceived)
        if finding.kind == FRAMING and seen not in ("", expected) and way not in done:
            done.add(way)
            yield finding.cases[0]


def _number(finding: Finding, target: Target) -> str:
    """The number of messages, in words; empty if it is not known."""
    return finding.behaviour.get(target.name, "").partition(",")[0]


def _smallest(case: Case, core: Core, target: Live, probes: int) -> Minimal:
    writes = case.dialogue(b"", target.recipient)
    expected, count = core.fingerprint(writes), target.count(writes)
    small = minimise(writes, partial(_is, core.fingerprint, expected), partial(_is, target.count, count), probes)
    return Minimal(case.name, target.name, tuple(small), {core.name: expected[0], target.name: count})


def _is(function: Callable[[Sequence[bytes]], object], expected: object, writes: Sequence[bytes]) -> bool:
    return function(writes) == expected
