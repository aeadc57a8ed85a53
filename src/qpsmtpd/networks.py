"""Lists of networks: those of the server itself, and those of plugins."""

import ipaddress
from collections.abc import Sequence

from qpsmtpd.session.connection import plain_address

__all__ = ["Network", "is_listed", "parse_network"]

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


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


def is_listed(address: str, networks: Sequence[Network]) -> bool:
    """Whether one of the networks holds the address; what is no IP address is in none."""
    if not networks:
        return False
    try:
        ip = ipaddress.ip_address(plain_address(address))
    except ValueError:
        return False
    return any(ip in network for network in networks)
