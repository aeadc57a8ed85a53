"""The report as JSON, for programs; `docs/compare.md` says what stands where."""

from collections.abc import Mapping

from qpsmtpd.compare.findings import Comparison, Finding, Minimal, deceived, framing, replies
from qpsmtpd.compare.targets import Outcome, Seen
from qpsmtpd.testing.dialogue import escape

__all__ = ["FORMAT", "VERSION", "document"]

FORMAT = "qpsmtpd compare"
VERSION = 1
"""Counts up when a reader of the old form would fail."""


def document(comparison: Comparison, *, discreet: bool = False) -> dict[str, object]:
    """Values for `json.dump`; octets are text as `qpsmtpd.testing.dialogue.escape` writes them.

    A discreet one holds neither octets nor the names of dialogues.
    """
    head: dict[str, object] = {
        "format": FORMAT,
        "version": VERSION,
        "discreet": discreet,
        "reference": comparison.reference,
        "targets": dict(comparison.targets),
        "findings": [_finding(each, discreet=discreet) for each in comparison.findings],
    }
    if discreet:
        return head
    return head | {
        "minimal": [_minimal(each) for each in comparison.minimal],
        "cases": [_case(comparison, name) for name in comparison.cases],
    }


def _finding(finding: Finding, *, discreet: bool) -> dict[str, object]:
    about: dict[str, object] = {"kind": finding.kind, "clause": finding.clause, "number": len(finding.cases)}
    if not discreet:
        about["cases"] = list(finding.cases)
        about["behaviour"] = dict(finding.behaviour)
        about["smuggled"] = list(finding.deceived)
    return about


def _minimal(minimal: Minimal) -> dict[str, object]:
    return {
        "case": minimal.case,
        "target": minimal.target,
        "octets": minimal.size,
        "messages": dict(minimal.counts),
        "writes": [escape(write) for write in minimal.writes],
    }


def _case(comparison: Comparison, name: str) -> dict[str, object]:
    case, outcomes = comparison.cases[name], comparison.outcomes[name]
    reference = outcomes[comparison.reference]
    return {
        "name": name,
        "clause": case.clause,
        "about": case.about,
        "outcomes": {
            target: _outcome(outcome, reference) | {"smuggled": deceived(case, outcome)}
            for target, outcome in outcomes.items()
        },
    }


def _outcome(outcome: Outcome, reference: Outcome) -> dict[str, object]:
    conversation = outcome.conversation
    return {
        "framing": framing(outcome, reference),
        "replies": replies(outcome),
        "codes": list(conversation.codes),
        "ending": conversation.ending.value,
        "written": [escape(each) for each in conversation.written],
        "said": [escape(each) for each in conversation.said],
        "messages": None if outcome.messages is None else [_seen(each) for each in outcome.messages],
    }


def _seen(seen: Seen) -> Mapping[str, object]:
    return {
        "sender": None if seen.sender is None else escape(seen.sender),
        "recipients": [escape(each) for each in seen.recipients],
        "content": escape(seen.content),
    }
