"""DMARC policies (RFC 7489): what a record says, and whether a message is what it says to be."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

__all__ = ["Identifier", "Policy", "alignment", "only_record", "parse_policy"]

_VERSION = re.compile(r"v[ \t]*=[ \t]*DMARC1[ \t]*(?:;|\Z)")
_POLICIES = ("none", "quarantine", "reject")  # from the mildest
_URI = re.compile(r"[a-z][a-z0-9+.\-]*:[^\s,]+", re.IGNORECASE)
_PERCENT = re.compile(r"[0-9]{1,3}")


@dataclass(frozen=True, slots=True)
class Identifier:
    """A domain of which SPF or DKIM has found something."""

    method: str
    domain: str
    result: str


@dataclass(frozen=True, slots=True)
class Policy:
    """What the owner of a domain wishes."""

    domain: str
    """For messages from the domain that has the record: one of none, quarantine, reject."""
    subdomains: str
    """For messages from domains below it."""
    strict: frozenset[str]
    """SPF, DKIM or both: only the very domain counts, no other of the organisation."""
    percent: int
    """How many of the messages it is for."""
    is_own: bool = True
    """Whether the record is the author's domain's own, not that of its organisation."""

    @property
    def wish(self) -> str:
        """The policy for the author's domain."""
        return self.domain if self.is_own else self.subdomains

    def sampled(self, chance: float) -> str:
        """The policy for one message, by a number from 0 up to 1: the next milder one for some."""
        if chance * 100 < self.percent:
            return self.wish
        return _POLICIES[max(_POLICIES.index(self.wish) - 1, 0)]


def only_record(texts: Iterable[str]) -> tuple[bool, str]:
    """Whether any of the texts is a DMARC record, and the record, empty unless there is just one."""
    records = [text for text in texts if _VERSION.match(text)]
    return bool(records), records[0] if len(records) == 1 else ""


def parse_policy(record: str, *, is_own: bool = True) -> Policy | None:
    """Read a record; None if it says nothing that could be followed (RFC 7489 section 6.6.3)."""
    tags = _tags(record)
    domain = tags.get("p", "").lower()
    subdomains = tags.get("sp", domain).lower()
    if domain not in _POLICIES or subdomains not in _POLICIES:
        if not any(_URI.fullmatch(uri.strip()) for uri in tags.get("rua", "").split(",")):
            return None
        domain = subdomains = "none"
    methods = {"aspf": "SPF", "adkim": "DKIM"}
    strict = frozenset(method for tag, method in methods.items() if tags.get(tag, "r").lower() == "s")
    percent = tags.get("pct", "")
    return Policy(domain, subdomains, strict, int(percent) if _PERCENT.fullmatch(percent) else 100, is_own)


def _tags(record: str) -> Mapping[str, str]:
    """The tags of a record; the first of each name counts."""
    tags: dict[str, str] = {}
    for part in record.split(";"):
        name, _, value = part.partition("=")
        tags.setdefault(name.strip().lower(), value.strip())
    return tags


def alignment(
    author: str, policy: Policy, identifiers: Iterable[Identifier], organisation: Callable[[str], str]
) -> tuple[str, str]:
    """Whether a domain that was confirmed is the author's: pass, fail or temperror; and why."""
    result, why = "fail", ""
    for identifier in identifiers:
        exact = identifier.domain == author
        if not exact and (
            identifier.method in policy.strict or organisation(identifier.domain) != organisation(author)
        ):
            continue
        if identifier.result == "pass":
            return "pass", f"{identifier.method} aligned{'' if exact else ', relaxed'}"
        if identifier.result == "temperror":
            result, why = "temperror", f"{identifier.method} of {identifier.domain} could not be checked"
    return result, why
