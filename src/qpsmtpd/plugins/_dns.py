"""Look-ups of plugins that have the argument `timeout`, and what counts as the same network."""

import ipaddress
from collections.abc import Callable, Mapping

from qpsmtpd import Plugin
from qpsmtpd.plugins._options import seconds
from qpsmtpd.resolver import DnsError, Resolver

__all__ = ["look_ups", "same_network"]

_NETWORK_BITS = {4: 24, 6: 64}


class _Hurried(Resolver):
    """A resolver that gives up earlier than another."""

    def __init__(self, resolver: Resolver, limit: float) -> None:
        self._resolver = resolver
        self._limit = limit

    async def look_up(self, name: str, kind: str) -> tuple[str, ...]:
        from anyio import move_on_after  # noqa: PLC0415 - comes with the extra dns

        with move_on_after(self._limit):
            return await self._resolver.look_up(name, kind)
        raise DnsError(f"{kind} of {name}: no answer within {self._limit:g} s")

    def look_up_blocking(self, name: str, kind: str) -> tuple[str, ...]:
        return self._resolver.look_up_blocking(name, kind)


def look_ups(plugin: Plugin, options: Mapping[str, str]) -> Callable[[], Resolver]:
    """What gives the resolver, at each use; the option `timeout` bounds a look-up further than `timeoutdns`.

    Raises ValueError for a bad option, and ConfigError if there can be no resolver.
    """
    limit = seconds(options, "timeout", 0) if "timeout" in options else None

    def resolver() -> Resolver:
        found = plugin.qp.resolver
        return found if limit is None else _Hurried(found, limit)

    resolver()  # what is wrong should show at the start
    return resolver


def same_network(one: str, other: str) -> bool:
    """Whether two IP addresses are neighbours: in the same /24 of IPv4, or /64 of IPv6."""
    ip, neighbour = ipaddress.ip_address(one), ipaddress.ip_address(other)
    network = ipaddress.ip_network((ip, _NETWORK_BITS[ip.version]), strict=False)
    return neighbour in network
