"""Lists of clients: addresses, networks, and beginnings of addresses (`192.0.2.`, `2001:db8:`)."""

import ipaddress

__all__ = ["matches"]


def matches(address: str, entry: str) -> bool:
    """Whether an entry of such a list names the address. An entry that makes no sense names none."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if entry.endswith((".", ":")) and not entry.endswith("::"):
        written = ip.exploded if entry.endswith(":") else str(ip)
        return f"{written}.".startswith(_exploded_beginning(entry))
    try:
        return ip in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return False


def _exploded_beginning(entry: str) -> str:
    if entry.endswith("."):
        return entry
    return "".join(f"{group.zfill(4).lower()}:" for group in entry[:-1].split(":"))
