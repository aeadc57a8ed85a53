"""The report as one HTML page that needs nothing else; whatever a server has said is escaped."""

from collections.abc import Iterator, Mapping
from html import escape as quoted

from qpsmtpd.compare.findings import FRAMING, REPLIES, Comparison, Finding, Minimal
from qpsmtpd.compare.targets import Outcome, Seen
from qpsmtpd.compare.text import overview
from qpsmtpd.testing.dialogue import escape

__all__ = ["page"]

_STYLE = """
:root { color-scheme: light dark; --line: #d0d4da; --soft: #f4f5f7; --ink: #1c2026; --paper: #fff; --mark: #b3261e; --sent: #1457a8 }
@media (prefers-color-scheme: dark) {
  :root { --line: #3a3f47; --soft: #22262c; --ink: #e4e6ea; --paper: #16191d; --mark: #ff8a80; --sent: #8ab8f5 }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto; max-width: 76rem; padding: 0 1rem }
h1, h2, h3 { line-height: 1.2 }
table { border-collapse: collapse; margin: 1rem 0 }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .8rem; text-align: left; vertical-align: top }
th { background: var(--soft) }
td.number { text-align: right; font-variant-numeric: tabular-nums }
strong { color: var(--mark) }
details { border: 1px solid var(--line); border-radius: 6px; margin: .5rem 0; padding: .5rem .8rem }
summary { cursor: pointer }
.streams { display: flex; gap: 1rem; overflow-x: auto }
.streams section { flex: 1 0 22rem; min-width: 0 }
pre { background: var(--soft); padding: .6rem; white-space: pre-wrap; overflow-wrap: anywhere; font-size: 13px }
pre .sent { color: var(--sent) }
"""

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def page(comparison: Comparison, *, discreet: bool = False) -> str:
    """The page. A discreet one has the tables on top alone."""
    return "\n".join(_page(comparison, discreet=discreet)) + "\n"


def _page(comparison: Comparison, *, discreet: bool) -> Iterator[str]:
    yield '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    yield f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
    yield '<meta name="viewport" content="width=device-width">'
    yield f"<title>qpsmtpd compare</title><style>{_STYLE}</style></head><body>"
    yield f"<h1>{len(comparison.cases)} dialogues, {len(comparison.targets)} servers</h1>"
    yield f"<p>Each server is held against <b>{quoted(comparison.reference)}</b>.</p>"
    yield from _table([["target", "what it is"], *map(list, comparison.targets.items())])
    for kind, title in ((FRAMING, "Framing: messages, envelopes, contents"), (REPLIES, "Classes of replies")):
        yield f"<h2>{title}</h2><p>Dialogues in which a server differs, by clause.</p>"
        yield from _table(overview(comparison, kind))
    if not discreet:
        yield "<h2>Differences</h2>"
        for finding in comparison.findings:
            yield from _finding(finding, comparison)
        yield from _smallest(comparison)
    yield "</body></html>"


def _table(rows: list[list[str]]) -> Iterator[str]:
    head, *others = rows
    yield f"<table><tr>{''.join(f'<th>{quoted(cell)}</th>' for cell in head)}</tr>"
    for row in others:
        yield f"<tr>{''.join(map(_cell, row))}</tr>"
    yield "</table>"


def _cell(text: str) -> str:
    return f"<td{' class=number' if text.isdecimal() or text == '-' else ''}>{quoted(text)}</td>"


def _finding(finding: Finding, comparison: Comparison) -> Iterator[str]:
    mark = f" <strong>smuggled: {quoted(', '.join(finding.deceived))}</strong>" if finding.deceived else ""
    yield f"<details><summary>{finding.kind}, {quoted(finding.clause)}: {len(finding.cases)} dialogues{mark}</summary>"
    yield from _table([["target", "what it does"], *map(list, finding.behaviour.items())])
    for name in finding.cases:
        yield f"<h3>{quoted(name)}</h3><p>{quoted(comparison.cases[name].about)}</p>"
        yield from _streams(comparison.outcomes[name])
    yield "</details>"


def _streams(outcomes: Mapping[str, Outcome]) -> Iterator[str]:
    yield '<div class="streams">'
    for target, outcome in outcomes.items():
        yield f"<section><h4>{quoted(target)}</h4><pre>{_stream(outcome)}</pre>"
        yield from map(_message, outcome.messages or ())
        yield "</section>"
    yield "</div>"


def _stream(outcome: Outcome) -> str:
    talk = outcome.conversation
    pieces = [_shown(talk.said[0])]
    for written, said in zip(talk.written, talk.said[1:], strict=True):
        pieces += [f'<span class="sent">{_shown(written)}</span>', _shown(said)]
    return "".join([*pieces, f"({talk.ending.value})"])


def _shown(octets: bytes) -> str:
    """Octets, a line behind each LF so that they can be read."""
    return "".join(f"{quoted(escape(line))}\n" for line in octets.splitlines(keepends=True)) if octets else ""


def _message(seen: Seen) -> str:
    sender = "?" if seen.sender is None else f"<{escape(seen.sender)}>"
    envelope = f"{sender} to {', '.join(map(escape, seen.recipients)) or '?'}"
    return f"<p>message from {quoted(envelope)}</p><pre>{_shown(seen.content)}</pre>"


def _smallest(comparison: Comparison) -> Iterator[str]:
    if comparison.minimal:
        yield "<h2>Smallest dialogues</h2>"
    for minimal in comparison.minimal:
        yield from _minimal(minimal)


def _minimal(minimal: Minimal) -> Iterator[str]:
    counts = ", ".join(f"{name} {count}" for name, count in minimal.counts.items())
    yield f"<h3>{quoted(minimal.case)} at {quoted(minimal.target)}</h3>"
    yield f"<p>{minimal.size} octets; messages: {quoted(counts)}</p>"
    yield f"<pre>{''.join(map(_shown, minimal.writes))}</pre>"
