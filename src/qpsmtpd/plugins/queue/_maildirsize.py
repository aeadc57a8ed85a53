"""Quotas of Maildirs: the file `maildirsize` of Maildir++, which IMAP servers such as Courier and Dovecot keep.

Its first line says what the Maildir may hold, such as `10000000S,1000C` for octets and messages;
each other line how many octets and messages have come or gone.
"""

import contextlib
import os
import re

__all__ = ["count", "has_room"]

_MOST = 1 << 20  # octets; who keeps the file makes it short again long before
_LIMIT = re.compile(rb"([0-9]{1,18})([SC])")
_ENTRY = re.compile(rb"^ *(-?[0-9]{1,18}) +(-?[0-9]{1,18})[ \r]*$", re.MULTILINE)

# Who owns the Maildir may have put a pipe there, which would be waited for, or a link to a file of somebody else.
_FLAGS = os.O_NONBLOCK | os.O_NOFOLLOW


def has_room(folder: str, size: int) -> bool:
    """Whether another message of this size may come; it may where the file is not there, or cannot be read."""
    try:
        descriptor = os.open(_path(folder), os.O_RDONLY | _FLAGS)
        try:
            first, _, entries = os.read(descriptor, _MOST).partition(b"\n")
        finally:
            os.close(descriptor)
    except OSError:
        return True
    limits = {kind: int(number) for number, kind in _LIMIT.findall(first)}
    used = [(int(octets), int(messages)) for octets, messages in _ENTRY.findall(entries)]
    wanted = {b"S": sum(octets for octets, _ in used) + size, b"C": sum(messages for _, messages in used) + 1}
    return all(not limit or wanted[kind] <= limit for kind, limit in limits.items())


def count(folder: str, size: int) -> None:
    """Note that a message has come, where the file is there; at worst it is not noted, and counted later."""
    with contextlib.suppress(OSError):
        descriptor = os.open(_path(folder), os.O_WRONLY | os.O_APPEND | _FLAGS)
        try:
            os.write(descriptor, b"%d 1\n" % size)
        finally:
            os.close(descriptor)


def _path(folder: str) -> str:
    return f"{folder}/maildirsize"
