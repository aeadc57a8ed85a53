"""Which clients count as one, for the plugins that remember them."""

import ipaddress

__all__ = ["network_of", "prefix_length"]


def prefix_length(text: str) -> int:
    """The argument `ipv6_prefix`. Raises ValueError."""
    if not text.isdecimal() or not 0 < int(text) <= 128:
        raise ValueError(f"ipv6_prefix {text!r} is no number of bits from 1 to 128")
    return int(text)


def network_of(address: str, ipv6_prefix: int = 128) -> str:
    """The address in its one spelling, of IPv6 the network of that length; empty for what is no address."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return ""
    if ip.version == 4 or ipv6_prefix == 128:
        return str(ip)
    return str(ipaddress.IPv6Network((int(ip), ipv6_prefix), strict=False))
