"""Lists in the DNS (RFC 5782), for the plugins that ask them.

An entry of a list is an A record within 127.0.0.0/8, and mostly a TXT record that says why.
What else an answer may hold is none: lists that are given up resolve to anything, and
127.0.0.1 and 127.255.255.0/24 are how lists tell that they do not serve who asks. A list
that has an entry for what must never be in it has one for everything, and does not count.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from qpsmtpd import LOGWARN, Plugin
from qpsmtpd.networks import is_listed, parse_network
from qpsmtpd.resolver import Resolver, reversed_address

__all__ = ["NO_DOMAIN", "Listing", "Zone", "find_listings", "no_address", "parse_zone", "reasons", "shown"]

NO_DOMAIN = "invalid"
"""What is in no list of domains (RFC 5782 section 5)."""

_ENTRIES = (parse_network("127.0.0.0/8"),)
_REFUSALS = (parse_network("127.0.0.1"), parse_network("127.255.255.0/24"))
_LINE = re.compile(r"([^\s:]+)(?:[\s:]\s*(.*))?")
_NAME = re.compile(r"[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*")
_LONGEST_REASON = 300
_UNPRINTABLE = re.compile(r"[^ -~]")


@dataclass(frozen=True, slots=True)
class Zone:
    """A list, as a line of a setting names it."""

    name: str
    text: str
    """What stands behind the name, for the client; empty if the list's own words are wanted."""


def parse_zone(line: str) -> Zone:
    """Read `zone`, `zone:text` or `zone text`. Raises ValueError."""
    match = _LINE.fullmatch(line.strip())
    name = match[1].lower().rstrip(".") if match else ""
    if match is None or not _NAME.fullmatch(name):
        raise ValueError("it does not begin with the name of a list, such as zen.example.org")
    return Zone(name, match[2] or "")


@dataclass(frozen=True, slots=True)
class Listing:
    """An entry that was found."""

    name: str
    """What is listed: a domain, or an address turned round."""
    zone: str
    addresses: tuple[str, ...]
    """The A records: what the entry means is up to the list."""


def no_address(address: str) -> str:
    """What is in no list of addresses (RFC 5782 section 5), of the version of this one."""
    return reversed_address("::ffff:127.0.0.1" if ":" in address else "127.0.0.1")


async def find_listings(
    plugin: Plugin, resolver: Resolver, names: Sequence[str], zones: Iterable[str], never: str
) -> list[Listing]:
    """Which of the names are in which lists, list by list; all look-ups go on at the same time.

    `never` is a name that is in no list. A list that nobody can ask is logged, and has no entries.
    """
    zones = list(dict.fromkeys(zones))
    questions = [(f"{name}.{zone}", "A") for zone in zones for name in (*names, never)]
    answers = dict(zip(questions, await resolver.look_up_all(questions), strict=True))
    found: list[Listing] = []
    for zone in zones:
        of_zone = [answers[f"{name}.{zone}", "A"] for name in names]
        trouble = _trouble(of_zone, answers[f"{never}.{zone}", "A"])
        if trouble:
            plugin.log(LOGWARN, f"error, {zone} {trouble}")
        if not _entries(answers[f"{never}.{zone}", "A"]):
            found += [
                Listing(name, zone, entries)
                for name, answer in zip(names, of_zone, strict=True)
                if (entries := _entries(answer))
            ]
    return found


def _entries(answer: tuple[str, ...] | None) -> tuple[str, ...]:
    return tuple(
        address for address in answer or () if is_listed(address, _ENTRIES) and not is_listed(address, _REFUSALS)
    )


def _trouble(answers: list[tuple[str, ...] | None], never: tuple[str, ...] | None) -> str:
    """What is wrong with a list, by its answers."""
    if _entries(never):
        return "lists everything, and is left out"
    if None in answers:
        return "cannot be asked"
    refusals = [address for answer in answers for address in answer or () if not _entries((address,))]
    return f"answers {refusals[0]}, which is no entry" if refusals else ""


async def reasons(resolver: Resolver, listings: Sequence[Listing]) -> list[str]:
    """What the lists say about entries of theirs, safe to be shown; empty where they say nothing."""
    answers = await resolver.look_up_all([(f"{listing.name}.{listing.zone}", "TXT") for listing in listings])
    return [shown(answer[0]) if answer else "" for answer in answers]


def shown(text: str) -> str:
    """Somebody else's text on one line, printable and not too long."""
    return _UNPRINTABLE.sub("?", " ".join(text.split())[:_LONGEST_REASON])
