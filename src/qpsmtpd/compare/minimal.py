"""Make a dialogue small that still shows a difference: delta debugging, first by rules, then by octets."""

import re
from collections.abc import Callable, Sequence

__all__ = ["minimise"]

_Writes = list[bytes]

_RULES: tuple[tuple[re.Pattern[bytes], bytes], ...] = tuple(
    (re.compile(pattern, re.DOTALL), short)
    for pattern, short in (
        (rb"QUIT\r\n\Z", b""),
        (rb"EHLO client.example", b"HELO x"),
        (rb"MAIL FROM:<[^>]+>", b"MAIL FROM:<>"),
        (rb"Subject: [^\r\n]*\r\n\r\n", b""),
        (rb"(?:outer|embedded|text)", b""),
        (rb"(?<=<)[^@>]+(?=@)", b"x"),
    )
)


def minimise(
    writes: Sequence[bytes],
    possible: Callable[[_Writes], bool],
    shows: Callable[[_Writes], bool],
    probes: int,
) -> _Writes:
    """The smallest dialogue found that is `possible` and `shows` the same, which is asked at most `probes` times."""
    small = list(writes)
    shrunk = True
    while shrunk:
        shrunk = False
        for size in (0, 64, 32, 16, 8, 4, 2, 1):
            place = 0
            while (candidate := _candidate(small, size, place)) is not None:
                if candidate != small and possible(candidate):
                    if probes == 0:
                        return small
                    probes -= 1
                    if shows(candidate):
                        small, shrunk = candidate, True
                        if size:
                            continue  # at the same place there are other octets now
                place += max(size, 1)
    return small


def _candidate(writes: _Writes, size: int, place: int) -> _Writes | None:
    """The dialogue without `size` octets at a place; for size 0 the rule of that number is applied. None at the end."""
    if size == 0:
        if place >= len(_RULES):
            return None
        pattern, short = _RULES[place]
        return [shorter for write in writes if (shorter := pattern.sub(short, write))]
    if place >= sum(map(len, writes)):
        return None
    return _without(writes, place, place + size)


def _without(writes: _Writes, start: int, end: int) -> _Writes:
    """The dialogue without a range of its octets; a write that becomes empty is no more."""
    left: _Writes = []
    position = 0
    for write in writes:
        kept = write[: max(start - position, 0)] + write[max(end - position, 0) :]
        position += len(write)
        if kept:
            left.append(kept)
    return left
