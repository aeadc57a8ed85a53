"""Writes constant databases as https://cr.yp.to/cdb/cdb.txt describes them."""

import struct


def write(path, keys):
    """A database of these keys, each with some data."""
    records, slots, place = [], [[] for _ in range(256)], 2048
    for key in keys:
        digest = 5381
        for octet in key.encode():
            digest = ((digest << 5) + digest) % (1 << 32) ^ octet
        slots[digest % 256].append((digest, place))
        records.append(struct.pack("<II", len(key.encode()), 4) + key.encode() + b"data")
        place += len(records[-1])
    pointers, tables = [], []
    for entries in slots:
        table = [(0, 0)] * (2 * len(entries))
        for digest, position in entries:
            slot = (digest >> 8) % len(table)
            while table[slot] != (0, 0):
                slot = (slot + 1) % len(table)
            table[slot] = digest, position
        pointers.append(struct.pack("<II", place, len(table)))
        tables += [struct.pack("<II", *each) for each in table]
        place += 8 * len(table)
    path.write_bytes(b"".join(pointers + records + tables))
