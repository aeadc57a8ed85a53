"""The report for a terminal: an overview by clause, then every group of differences."""

from collections.abc import Iterator, Sequence

from qpsmtpd.compare.findings import FRAMING, REPLIES, Comparison, Finding, Minimal, same
from qpsmtpd.testing.dialogue import escape

__all__ = ["overview", "report"]


def report(comparison: Comparison, *, discreet: bool = False) -> Iterator[str]:
    """The lines. A discreet report says that servers differ, and not by which octets."""
    reference = comparison.reference
    yield f"{len(comparison.cases)} dialogues, {len(comparison.targets)} targets; each is held against {reference}"
    yield from (f"  {name:20} {about}" for name, about in comparison.targets.items())
    yield "-: none differs; ?: not known, since there is no sink, or what it takes is not offered"
    for kind, title in ((FRAMING, "Framing: messages, envelopes, contents"), (REPLIES, "Classes of replies")):
        yield f"\n{title}: dialogues in which a target differs"
        yield from _aligned(overview(comparison, kind))
    if discreet:
        return
    for finding in comparison.findings:
        yield ""
        yield from _finding(finding)
    for minimal in comparison.minimal:
        yield ""
        yield from _minimal(minimal)


def overview(comparison: Comparison, kind: str) -> list[list[str]]:
    """A table: a row for each clause, a column for each target, and how many of its dialogues differ."""
    clauses: dict[str, list[str]] = {}
    for case in comparison.cases.values():
        clauses.setdefault(case.clause, []).append(case.name)
    rows = [["clause", "dialogues", *comparison.targets]]
    for clause in sorted(clauses, key=_natural):
        names = clauses[clause]
        rows.append(
            [clause, str(len(names)), *(_differing(comparison, kind, names, each) for each in comparison.targets)]
        )
    return rows


def _natural(clause: str) -> list[int]:
    return [int(word) for word in clause.replace(".", " ").split() if word.isdecimal()]


def _differing(comparison: Comparison, kind: str, names: Sequence[str], target: str) -> str:
    verdicts = [
        same(kind, comparison.outcomes[name][target], comparison.outcomes[name][comparison.reference]) for name in names
    ]
    known = [verdict for verdict in verdicts if verdict is not None]
    return str(known.count(False) or "-") if known else "?"


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *others in rows:
        cells = (cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))
        yield "  ".join([f"  {first.ljust(widths[0])}", *cells])


def _finding(finding: Finding) -> Iterator[str]:
    yield f"{finding.kind}, {finding.clause}: {', '.join(finding.cases)}"
    for name, behaviour in finding.behaviour.items():
        yield f"  {name:20} {behaviour}{'  <- SMUGGLED' if name in finding.deceived else ''}"


def _minimal(minimal: Minimal) -> Iterator[str]:
    counts = ", ".join(f"{name} {count}" for name, count in minimal.counts.items())
    yield f"smallest dialogue of {minimal.case} found at {minimal.target}, {minimal.size} octets; messages: {counts}"
    yield from (f"  {escape(write)}" for write in minimal.writes)
