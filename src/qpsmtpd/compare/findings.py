"""What differs: each target's behaviour in words, and differences of the same kind together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qpsmtpd.compare.cases import Case
from qpsmtpd.compare.conversation import Ending
from qpsmtpd.compare.targets import Outcome, Seen
from qpsmtpd.testing.smuggling import EMBEDDED, Place

__all__ = ["FRAMING", "REPLIES", "Comparison", "Finding", "Minimal", "deceived", "find", "framing", "replies", "same"]

FRAMING = "framing"
"""How many messages were seen, with which envelopes and contents."""

REPLIES = "replies"
"""The class of each reply."""


@dataclass(frozen=True, slots=True)
class Minimal:
    """The smallest dialogue found for which a target's number of messages is another than the reference's."""

    case: str
    target: str
    writes: tuple[bytes, ...]
    counts: Mapping[str, int]
    """The messages of it, by targets."""

    @property
    def size(self) -> int:
        """All its octets."""
        return sum(map(len, self.writes))


@dataclass(frozen=True, slots=True)
class Finding:
    """Cases of one clause that divide the targets in the same way."""

    kind: str
    clause: str
    cases: tuple[str, ...]
    behaviour: Mapping[str, str]
    """What each target does, by its name."""

    deceived: tuple[str, ...] = ()
    """The targets that took the octets of a variant for an end."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """All that was played, and what came of it. The first target is the reference."""

    targets: Mapping[str, str]
    """By names, what each is."""

    cases: Mapping[str, Case]
    outcomes: Mapping[str, Mapping[str, Outcome]]
    """By cases, then by targets."""

    findings: Sequence[Finding]
    minimal: Sequence[Minimal] = ()

    @property
    def reference(self) -> str:
        """The target that the others are held against."""
        return next(iter(self.targets))


def framing(outcome: Outcome, reference: Outcome) -> str | None:
    """What a target made of a dialogue; None if no sink tells, or it does not offer what the dialogue is about."""
    if outcome.messages is None or _not_offered(outcome):
        return None
    number = len(outcome.messages)
    text = f"{number or 'no'} message{'' if number == 1 else 's'}"
    expected = reference.messages or ()
    if number != len(expected):
        return text
    if any(map(_other_envelope, outcome.messages, expected)):
        return f"{text}, another envelope"
    if any(seen.content != other.content for seen, other in zip(outcome.messages, expected, strict=True)):
        return f"{text}, other content"
    return text


def _other_envelope(seen: Seen, expected: Seen) -> bool:
    """Whether what a sink tells of an envelope contradicts the other; a Maildir tells one recipient at most."""
    sender = seen.sender is not None and seen.sender != expected.sender
    return sender or not set(seen.recipients) <= set(expected.recipients)


def _not_offered(outcome: Outcome) -> bool:
    return outcome.conversation.ending is Ending.NOT_OFFERED


_ENDED = (Ending.CLOSED, Ending.RESET)
"""A server that closes before it has read all resets, or does not, as the network has it."""


def replies(outcome: Outcome) -> str | None:
    """The classes of the replies, and how the conversation ended if the server has not just closed it; None as above."""
    if _not_offered(outcome):
        return None
    classes = " ".join(f"{code // 100 or '?'}" for code in outcome.conversation.codes)
    ending = outcome.conversation.ending
    return classes if ending in _ENDED else f"{classes} ({ending.value})".lstrip()


def same(kind: str, outcome: Outcome, reference: Outcome) -> bool | None:
    """Whether a target does what the reference does; None if that is not known."""
    words = _words(kind, outcome, reference)
    return None if words is None else words == _words(kind, reference, reference)


def _words(kind: str, outcome: Outcome, reference: Outcome) -> str | None:
    return replies(outcome) if kind == REPLIES else framing(outcome, reference)


_SMUGGLING = {Place.CONTENT, Place.START, Place.CHUNK, Place.CHUNK_EARLY}
"""Where octets are content for certain; behind a line that is refused a server may look for the next one anywhere."""


def deceived(case: Case, outcome: Outcome) -> bool:
    """Whether a target took the octets of a variant for an end.

    It then saw the smuggled message, or, if it wants commands one at a time, at least nothing of
    it in the message before.
    """
    if case.variant is None or case.is_control or case.variant.place not in _SMUGGLING:
        return False
    messages = outcome.messages or ()
    within = case.variant.place is not Place.CHUNK_EARLY  # there the outer message comes afterwards, and whole
    return len(messages) > 1 or any(map(_is_smuggled, messages)) or (within and any(map(_ended_early, messages)))


def _is_smuggled(seen: Seen) -> bool:
    return seen.sender == EMBEDDED.sender


def _ended_early(seen: Seen) -> bool:
    return seen.content.startswith(b"Subject: outer") and b"Subject: embedded" not in seen.content


def find(cases: Mapping[str, Case], outcomes: Mapping[str, Mapping[str, Outcome]]) -> list[Finding]:
    """All differences, those of framing first, each group as large as it can be."""
    groups: dict[tuple[str, str, tuple[tuple[str, str], ...], tuple[str, ...]], list[str]] = {}
    for kind in (FRAMING, REPLIES):
        for name, of_targets in outcomes.items():
            behaviour = _behaviour(kind, of_targets)
            if len(set(behaviour.values())) > 1:
                victims = tuple(each for each, outcome in of_targets.items() if deceived(cases[name], outcome))
                key = (kind, cases[name].clause, tuple(behaviour.items()), victims if kind == FRAMING else ())
                groups.setdefault(key, []).append(name)
    found = [
        Finding(kind, clause, tuple(names), dict(pairs), victims)
        for (kind, clause, pairs, victims), names in groups.items()
    ]
    return sorted(found, key=lambda finding: (finding.kind, not finding.deceived, -len(finding.cases)))


def _behaviour(kind: str, of_targets: Mapping[str, Outcome]) -> dict[str, str]:
    reference = next(iter(of_targets.values()))
    words = {name: _words(kind, each, reference) for name, each in of_targets.items()}
    return {name: word for name, word in words.items() if word is not None}
