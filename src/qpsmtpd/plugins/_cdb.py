"""Look-ups in constant databases, the `.cdb` files of qmail (https://cr.yp.to/cdb/cdb.txt).

Such a file is never changed, but replaced as a whole; it is opened for each look-up, which
then reads a few octets of it, however large it is.
"""

import os
import struct
from collections.abc import Iterable
from pathlib import Path

__all__ = ["find_key"]

_TABLES = 256
_KEY_LIMIT = 65_536  # octets; what a broken file says may be four thousand million
_PAIR = struct.Struct("<II")


def find_key(path: Path, keys: Iterable[str]) -> str | None:
    """The first of the keys that the file holds; None also where there is no such file.

    Raises OSError for a file that cannot be read, and ValueError for one that is no database.
    """
    try:
        file = path.open("rb", buffering=0)
    except FileNotFoundError:
        return None
    with file:
        return next((key for key in keys if _holds(file.fileno(), key.encode("utf-8", "surrogatepass"))), None)


def _holds(file: int, key: bytes) -> bool:
    digest = _digest(key)
    table, slots = _pair(file, digest % _TABLES * _PAIR.size)
    for probe in range(slots):
        slot = (digest // _TABLES + probe) % slots
        found, record = _pair(file, table + slot * _PAIR.size)
        if not record:
            break
        if found == digest and _key_at(file, record) == key:
            return True
    return False


def _key_at(file: int, record: int) -> bytes:
    length, _ = _pair(file, record)
    return os.pread(file, min(length, _KEY_LIMIT), record + _PAIR.size)


def _digest(key: bytes) -> int:
    digest = 5381
    for octet in key:
        digest = (digest * 33 & 0xFFFFFFFF) ^ octet
    return digest


def _pair(file: int, place: int) -> tuple[int, int]:
    """The two numbers at a place of the file. Raises ValueError where it has ended."""
    data = os.pread(file, _PAIR.size, place)
    if len(data) < _PAIR.size:
        raise ValueError("this is no cdb file, or not the whole of one")
    first, second = _PAIR.unpack(data)
    return first, second
