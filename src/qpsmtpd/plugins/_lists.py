"""Settings that are lists of addresses or networks, for the plugins that look things up in them.

A line that makes no sense is logged and left out, so that one slip does not switch off the
rest of the list; the log says which line.
"""

import ipaddress
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from qpsmtpd import LOGWARN, Mailbox, Plugin
from qpsmtpd.session.connection import plain_address

__all__ = ["AddressPattern", "Network", "Parsed", "is_listed", "parse_each", "parse_network", "parse_pattern"]

T = TypeVar("T")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

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


def parse_network(text: str) -> Network:
    """The network that the first word of `text` names: an address, a block, or a beginning.

    `192.0.2.` is `192.0.2.0/24` and `2001:db8:2:` is `2001:db8:2::/48`. What is a whole
    address, `2001:db8::` for one, stands for itself alone. Raises ValueError.
    """
    word = (text.split() or [""])[0]
    if word.endswith("."):
        octets = word[:-1].split(".")
        word = f"{'.'.join(octets + ['0'] * (4 - len(octets)))}/{8 * len(octets)}"
    elif word.endswith(":") and not word.endswith("::"):
        word = f"{word}:/{16 * word.count(':')}"
    network = ipaddress.ip_network(word, strict=False)
    mapped = network.network_address.ipv4_mapped if isinstance(network, ipaddress.IPv6Network) else None
    if mapped is not None and network.prefixlen >= 96:
        return ipaddress.IPv4Network((mapped, network.prefixlen - 96))
    return network


def is_listed(address: str, networks: Iterable[Network]) -> bool:
    """Whether one of the networks holds the address; what is no IP address is in none."""
    try:
        ip = ipaddress.ip_address(plain_address(address))
    except ValueError:
        return False
    return any(ip in network for network in networks)


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
