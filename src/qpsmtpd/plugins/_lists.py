"""Settings that are lists, for the plugins that look things up in them.

A line that makes no sense is logged and left out, so that one slip does not switch off the
rest of the list; the log says which line.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from qpsmtpd import LOGWARN, Mailbox, Plugin

__all__ = [
    "ADDRESS_LIMIT",
    "AddressList",
    "AddressPattern",
    "Parsed",
    "compiled",
    "parse_addresses",
    "parse_each",
    "parse_pattern",
    "parse_values",
]

ADDRESS_LIMIT = 64 + 1 + 255
"""Characters in an address (RFC 5321 section 4.5.3.1). No expression is tried on a longer one: it could take minutes."""

T = TypeVar("T")

_META = re.compile(r"[/^$*+!%?\\]")  # what makes an entry a regular expression, in the original too


class Parsed(Generic[T]):
    """What `parse` makes of the values of a setting; made again only when they have changed."""

    def __init__(self, plugin: Plugin, setting: str, parse: Callable[[tuple[str, ...]], T]) -> None:
        self._plugin = plugin
        self._setting = setting
        self._parse = parse
        self._last: tuple[tuple[str, ...], T] | None = None

    def __call__(self) -> T:
        """Give the current result."""
        values = self._plugin.qp.config(self._setting)
        last = self._last  # read once and replaced whole: sessions run in several threads
        if last is not None and (last[0] is values or last[0] == values):
            return last[1]
        self._last = values, self._parse(values)
        return self._last[1]


def parse_each(plugin: Plugin, setting: str, parse: Callable[[str], T]) -> Parsed[tuple[T, ...]]:
    """A setting whose lines are parsed one by one; `parse` raises ValueError for a bad one."""
    return Parsed(plugin, setting, lambda values: parse_values(plugin, f"config/{setting}", values, parse))


def parse_values(plugin: Plugin, place: str, values: Sequence[str], parse: Callable[[str], T]) -> tuple[T, ...]:
    """What `parse` makes of each value; those it raises ValueError for are logged, with `place`, and left out."""
    results: list[T] = []
    for value in values:
        try:
            results.append(parse(value))
        except ValueError as error:
            plugin.log(LOGWARN, f"error, {place}: {error}; left out the line {value!r}")
    return tuple(results)


@dataclass(frozen=True, slots=True)
class AddressPattern:
    """A line that names mail addresses, with what to tell them."""

    text: str
    """An address or `@domain`, in lower case."""
    expression: re.Pattern[str] | None
    """Or what an address may match anywhere."""
    reason: str

    def matches(self, mailbox: Mailbox) -> bool:
        """Whether the line means this mailbox; case does not count."""
        address = mailbox.address.lower()
        if self.text in (address, f"@{(mailbox.domain or '').lower()}"):
            return True
        return self.expression is not None and self.expression.search(address) is not None


def parse_pattern(line: str) -> AddressPattern:
    r"""Read `address`, `@domain` or a regular expression, and a reason behind a blank.

    An entry with one of `/ ^ $ * + ! % ? \` is an expression. It is taken literally as well,
    since `user+tag@example.org` is a fine address. Raises ValueError.
    """
    word, reason = (*line.split(None, 1), "", "")[:2]
    if not _META.search(word):
        if "@" not in word:
            raise ValueError("neither an address, nor @domain, nor a regular expression")
        return AddressPattern(word.lower(), None, reason.strip())
    return AddressPattern(word.lower(), compiled(word), reason.strip())


def compiled(text: str) -> re.Pattern[str]:
    """A regular expression for which case does not count. Raises ValueError."""
    try:
        return re.compile(text, re.IGNORECASE)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"bad regular expression: {error}") from error


class AddressList:
    """Lines that name mail addresses, as quick to look in with thousands of addresses as with few."""

    def __init__(self, patterns: Sequence[AddressPattern]) -> None:
        self._patterns = patterns
        self._places = {pattern.text: place for place, pattern in reversed(list(enumerate(patterns)))}
        self._expressions = [place for place, pattern in enumerate(patterns) if pattern.expression is not None]

    def find(self, mailbox: Mailbox) -> AddressPattern | None:
        """The first line that means this mailbox; an expression means none that is longer than an address may be."""
        domain = "" if mailbox.domain is None else f"@{mailbox.domain}".lower()
        by_address = self._places.get(mailbox.local_part.lower() + domain)
        by_domain = self._places.get(domain)
        if by_address is None and by_domain is None and not self._expressions:
            return None
        tried = () if _is_too_long(mailbox) else self._expressions
        by_expression = next((place for place in tried if self._patterns[place].matches(mailbox)), None)
        found = [place for place in (by_address, by_domain, by_expression) if place is not None]
        return self._patterns[min(found)] if found else None

    def find_bad(self, mailbox: Mailbox) -> AddressPattern | None:
        """As `find`, for a list of who is unwelcome: nobody gets past an expression by being too long for it."""
        return self.find(mailbox) or (_TOO_LONG if self._expressions and _is_too_long(mailbox) else None)


_TOO_LONG = AddressPattern(f"more than {ADDRESS_LIMIT} characters", None, "this address is too long")


def _is_too_long(mailbox: Mailbox) -> bool:
    return len(mailbox.address) > ADDRESS_LIMIT


def parse_addresses(plugin: Plugin, setting: str) -> Parsed[AddressList]:
    """A setting whose lines name addresses (`parse_pattern`)."""
    place = f"config/{setting}"
    return Parsed(plugin, setting, lambda values: AddressList(parse_values(plugin, place, values, parse_pattern)))
