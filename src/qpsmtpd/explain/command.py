"""`qpsmtpd explain`: why a session went as it did, how one would go, and how with other plugins."""

import argparse
import ipaddress
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from email.utils import formatdate
from pathlib import Path

from qpsmtpd.config import Config, ConfigError
from qpsmtpd.explain.account import Serving, Step, outcome, steps, who_serves
from qpsmtpd.explain.hypothetical import Visit, visit
from qpsmtpd.explain.variants import Variant
from qpsmtpd.loader import load
from qpsmtpd.options import add_config, config_of
from qpsmtpd.protocol.framing import normalized
from qpsmtpd.recording import PlayedSite, RehearsalSite, Tape, play, read_tapes
from qpsmtpd.session.connection import plain_address
from qpsmtpd.shadow import SHADOW
from qpsmtpd.testing.dialogue import escape

__all__ = ["add_arguments"]

_MESSAGE = """\
From: <{sender}>
To: {recipients}
Date: {date}
Message-ID: <explained@{host}>
Subject: a message that does not exist

It says nothing.
"""
_LONGEST = 70  # characters of a line that a client has sent
_NO_WORD = re.compile(r"[\x00-\x1f\x7f]")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    add_config(parser)
    parser.add_argument(
        "file", metavar="FILE", type=Path, nargs="*", help="sessions that `qpsmtpd run --record DIR` has recorded"
    )
    parser.add_argument(
        "--today",
        action="store_true",
        help="have the plugins of today answer, not as recorded; as `qpsmtpd replay` does",
    )
    client = parser.add_argument_group("a client that does not exist, in place of a recorded one")
    client.add_argument("--ip", metavar="ADDRESS", type=_ip, help="its IP address")
    client.add_argument(
        "--helo", metavar="NAME", type=_word, default="", help="its name (default: its address in brackets)"
    )
    client.add_argument("--user", metavar="USER", type=_word, default="", help="who it has authenticated as")
    client.add_argument("--from", metavar="PATH", dest="sender", type=_word, help="the sender; '' is that of bounces")
    client.add_argument(
        "--to",
        metavar="PATH",
        dest="recipients",
        type=_word,
        action="append",
        default=[],
        help="a recipient; may be given several times",
    )
    client.add_argument("--message", metavar="FILE", type=Path, help="what it sends (default: a short one)")
    change = parser.add_argument_group("other plugins than those of config/plugins, and what that would change")
    change.add_argument(
        "--without",
        metavar="PLUGIN",
        action="append",
        default=[],
        help="leave this one out; may be given several times",
    )
    change.add_argument(
        "--with",
        metavar="'PLUGIN ARGS'",
        dest="extra",
        type=_line,
        action="append",
        default=[],
        help="have this one too, or with these arguments; may be given several times",
    )
    change.add_argument("--before", metavar="PLUGIN", default="", help="where those that are new come (default: last)")
    change.add_argument("--shadow", action="store_true", help=f"begin with the plugins of config/{SHADOW}")
    parser.add_argument("--json", action="store_true", help="write JSON, an object a session")
    parser.set_defaults(command=_explain)


def _ip(text: str) -> str:
    try:
        return str(ipaddress.ip_address(plain_address(text)))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no IP address") from None


def _word(text: str) -> str:
    if _NO_WORD.search(text):
        raise argparse.ArgumentTypeError(f"{text!r} holds a control character, which ends a command")
    return text


def _line(text: str) -> str:
    if not text.split():
        raise argparse.ArgumentTypeError("it names no plugin")
    return text


@dataclass(frozen=True, slots=True)
class _Version:
    """One way that a session went, or would go."""

    name: str
    tape: Tape
    serving: Serving


def _explain(options: argparse.Namespace) -> int:
    """Explain each session. Raises ConfigError."""
    if bool(options.file) == bool(options.ip):
        raise ConfigError(
            "name either files with recorded sessions, or a client that does not exist: at least its --ip"
        )
    variant = Variant(options.without, options.extra, options.before, options.shadow)
    if variant.before and not variant.extra:
        raise ConfigError("--before says where plugins come that --with names; there is none")
    if options.file and (wanted := _of_client(options)):
        raise ConfigError(f"{wanted} is for a client that does not exist; give its --ip, and no file")
    if options.recipients and options.sender is None:
        raise ConfigError("--to needs a --from; the sender of bounces is --from ''")
    config = config_of(options)
    sessions = _hypothetical(options, config, variant) if options.ip else _recorded(options, config, variant)
    for versions in sessions:
        if options.json:
            print(json.dumps(_document(versions)))
        else:
            for line in _report(versions):
                print(line)
    return 0


def _of_client(options: argparse.Namespace) -> str:
    """An option that is given, and says something of a client that does not exist."""
    given = {
        "--helo": options.helo,
        "--user": options.user,
        "--from": options.sender is not None,
        "--to": options.recipients,
        "--message": options.message,
    }
    return next((name for name, value in given.items() if value), "")


def _hypothetical(options: argparse.Namespace, config: Config, variant: Variant) -> Iterator[list[_Version]]:
    content = _message(options) if options.message is None else options.message.read_bytes()
    client = Visit(
        options.ip, options.helo, options.sender, tuple(options.recipients), normalized(content), options.user
    )
    versions: list[_Version] = []
    for name, each in _variants("as it is", variant).items():
        site = RehearsalSite(config)
        load(site, each.lines(config))
        versions.append(_Version(name, visit(site, client), who_serves(site)))
    yield versions


def _variants(name: str, variant: Variant) -> Mapping[str, Variant]:
    """The list as it is, under a name, and the one that the command line asks for, if it is another."""
    variants = {name: Variant()}
    if str(variant):
        variants[str(variant)] = variant
    return variants


def _message(options: argparse.Namespace) -> bytes:
    """A message without a fault, from the sender to the recipients."""
    host = options.helo or "localhost"
    return _MESSAGE.format(
        sender=options.sender or f"postmaster@{host}",
        recipients=", ".join(f"<{recipient}>" for recipient in options.recipients),
        date=formatdate(localtime=True),
        host=host,
    ).encode("utf-8", "surrogateescape")


def _recorded(options: argparse.Namespace, config: Config, variant: Variant) -> Iterator[list[_Version]]:
    variants = _variants("today", variant) if options.today or str(variant) else dict[str, Variant]()
    for path in options.file:
        for tape in read_tapes(path):
            versions = [_Version("as recorded", tape, {})]
            for name, each in variants.items():
                site = PlayedSite(tape, config)
                load(site, each.lines(config))
                versions.append(_Version(name, play(site), who_serves(site)))
            yield versions


# The report


def _report(versions: Sequence[_Version]) -> Iterator[str]:
    """The table of the last version, and what came of each."""
    shown = versions[-1]
    peer = shown.tape.head.peer
    yield f"session {shown.tape.head.id} from {peer.remote_ip}, {shown.name}"
    found = steps(shown.tape, shown.serving)
    rows = [row for step in found for row in step.rows]
    widths = [max((len(getattr(row, column)) for row in rows), default=0) for column in ("hook", "plugin", "result")]
    for step in found:
        yield from _table(step, *widths)
    yield ""
    for version in versions:
        yield f"{version.name}:"
        yield from (
            f"  {escape(line.encode('utf-8', 'surrogateescape'))}" for line in outcome(version.tape, version.serving)
        )


def _table(step: Step, hooks: int, plugins: int, results: int) -> Iterator[str]:
    yield from _dialogue("C", step.heard)
    for row in step.rows:
        time = f"{row.seconds * 1000:9.2f} ms" if row.result else " " * 12
        reason = escape(row.reason.encode("utf-8", "surrogateescape"))
        mark = "*" if row.decided else " "
        yield f"  {row.hook:{hooks}}  {row.plugin:{plugins}}  {row.result:{results}} {mark} {time}  {reason}".rstrip()
    yield from _dialogue("S", step.said)


def _dialogue(who: str, octets: bytes) -> Iterator[str]:
    """What was said, as far as it is worth a line: of many lines the first and the last."""
    lines = octets.removesuffix(b"\r\n").split(b"\r\n") if octets else []
    if len(lines) > 4:
        yield from (_cut(f"{who}: {escape(line)}") for line in lines[:2])
        yield f"{who}: ... {len(lines) - 3} lines ..."
        lines = lines[-1:]
    yield from (_cut(f"{who}: {escape(line)}") for line in lines)


def _cut(line: str) -> str:
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."


def _document(versions: Sequence[_Version]) -> dict[str, object]:
    head = versions[-1].tape.head
    return {
        "session": head.id,
        "ip": head.peer.remote_ip,
        "versions": [
            {
                "name": version.name,
                "steps": [
                    {
                        "heard": escape(step.heard),
                        "asked": [asdict(row) for row in step.rows],
                        "said": escape(step.said),
                    }
                    for step in steps(version.tape, version.serving)
                ],
                "outcome": outcome(version.tape, version.serving),
            }
            for version in versions
        ],
    }
