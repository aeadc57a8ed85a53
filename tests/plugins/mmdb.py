"""Writes small MaxMind DB files (https://maxmind.github.io/MaxMind-DB/, version 2.0).

A file is a binary tree over the bits of an address, whose leaves point to values behind it,
and a map with metadata at the end.
"""

import ipaddress
import struct
from dataclasses import dataclass


@dataclass
class Typed:
    """A number as metadata want it: of a type of its own."""

    kind: int
    size: int
    number: int


def encode(value):
    """A value as the data section holds it: a byte with type and size, then the content."""
    if isinstance(value, str):
        data = value.encode()
        return _control(2, len(data)) + data
    if isinstance(value, Typed):
        data = value.number.to_bytes(value.size, "big")
        return (_control(value.kind, len(data)) if value.kind < 8 else bytes([len(data), value.kind - 7])) + data
    if isinstance(value, list):
        return bytes([len(value), 11 - 7]) + b"".join(map(encode, value))
    if isinstance(value, float):
        return _control(3, 8) + struct.pack(">d", value)
    if isinstance(value, int):
        data = value.to_bytes((value.bit_length() + 7) // 8, "big")
        return _control(6, len(data)) + data
    items = b"".join(encode(key) + encode(item) for key, item in value.items())
    return _control(7, len(value)) + items


def _control(kind, size):
    if size < 29:
        return bytes([kind << 5 | size])
    assert size < 285
    return bytes([kind << 5 | 29, size - 29])


def database(networks, version=6, kind="GeoLite2-City"):
    """A file that gives each network its value; they must not overlap. IPv4 is below ::/96, as in real ones."""
    nodes, data = [[None, None]], b""
    for text, value in networks.items():
        network = ipaddress.ip_network(text)
        length = network.prefixlen + (96 if version == 6 and network.version == 4 else 0)
        width = 128 if version == 6 else 32
        bits = int(network.network_address)
        node = 0
        for depth in range(length - 1):
            side = bits >> (width - 1 - depth) & 1
            if nodes[node][side] is None:
                nodes.append([None, None])
                nodes[node][side] = len(nodes) - 1
            node = nodes[node][side]
        nodes[node][bits >> (width - length) & 1] = len(data), "data"
        data += encode(value)
    tree = b"".join(_record(child, len(nodes)) for node in nodes for child in node)
    metadata = {
        "node_count": len(nodes),
        "record_size": Typed(5, 2, 24),
        "ip_version": Typed(5, 2, version),
        "database_type": kind,
        "languages": ["en"],
        "binary_format_major_version": Typed(5, 2, 2),
        "binary_format_minor_version": Typed(5, 2, 0),
        "build_epoch": Typed(9, 8, 1_767_225_600),
        "description": {"en": "for tests"},
    }
    return tree + bytes(16) + data + b"\xab\xcd\xefMaxMind.com" + encode(metadata)


def _record(child, count):
    if isinstance(child, tuple):
        child = child[0] + count + 16  # data
    return (count if child is None else child).to_bytes(3, "big")
