"""`qpsmtpd replay`: recorded sessions played again, and what differs."""

import argparse
from collections.abc import Iterator
from pathlib import Path

from qpsmtpd.loader import load
from qpsmtpd.options import add_config, config_of
from qpsmtpd.recording.player import Difference, PlayedSite, compare, play
from qpsmtpd.recording.tape import Tape, read_tapes
from qpsmtpd.testing.dialogue import escape

__all__ = ["add_arguments"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    add_config(parser)
    parser.add_argument(
        "file", metavar="FILE", type=Path, nargs="+", help="what `qpsmtpd run --record DIR` has written"
    )
    parser.add_argument(
        "--today",
        action="store_true",
        help="have the plugins and settings of today answer, in place of the recorded answers; passwords are judged "
        "as they were, names are what they were, and nothing is queued",
    )
    parser.set_defaults(command=_replay)


def _replay(options: argparse.Namespace) -> int:
    """Play all sessions. Gives 1 if one of them went otherwise."""
    differs = False
    for path in options.file:
        for tape in read_tapes(path):
            site = PlayedSite(tape, config_of(options) if options.today else None)
            if options.today:
                load(site)
            found = list(compare(tape, play(site)))
            differs = differs or bool(found)
            for line in _report(tape, found):
                print(line)  # noqa: T201 - it talks to people
    return int(differs)


def _report(tape: Tape, found: list[Difference]) -> Iterator[str]:
    head = tape.head
    cut_off = "" if tape.whole else ", recorded in part"
    size = f"{len(tape.turns)} turns, {len(tape.received)} octets heard, {len(tape.said)} said{cut_off}"
    yield f"session {head.id} from {head.peer.remote_ip}: {size}: " + (
        f"{len(found)} differences" if found else "the same, byte for byte"
    )
    for difference in found:
        yield f"  turn {difference.turn}, at {tape.turns[difference.turn].at:.3f} s, {difference.what}"
        yield from (f"    then  {line}" for line in _lines(difference.then))
        yield from (f"    now   {line}" for line in _lines(difference.now))


def _lines(text: str) -> list[str]:
    """A text as lines for people: of octets that are no line, escapes."""
    return [escape(line) for line in text.encode("utf-8", "surrogateescape").splitlines()] or ["nothing"]
