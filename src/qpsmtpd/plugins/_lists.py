"""Settings that are lists, for the plugins that look things up in them.

A line that makes no sense is logged and left out, so that one slip does not switch off the
rest of the list; the log says which line.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from qpsmtpd import LOGWARN, Mailbox, Plugin

__all__ = ["AddressPattern", "Parsed", "parse_each", "parse_pattern"]

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
        if last is None or (last[0] is not values and last[0] != values):
            self._last = last = values, self._parse(values)
        return last[1]


def parse_each(plugin: Plugin, setting: str, parse: Callable[[str], T]) -> Parsed[tuple[T, ...]]:
    """A setting whose lines are parsed one by one; `parse` raises ValueError for a bad one."""

    def parse_all(values: tuple[str, ...]) -> tuple[T, ...]:
        results: list[T] = []
        for value in values:
            try:
                results.append(parse(value))
            except ValueError as error:
                plugin.log(LOGWARN, f"error, config/{setting}: {error}; left out the line {value!r}")
        return tuple(results)

    return Parsed(plugin, setting, parse_all)


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
    try:
        expression = re.compile(word, re.IGNORECASE)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"bad regular expression: {error}") from error
    return AddressPattern(word.lower(), expression, reason.strip())
