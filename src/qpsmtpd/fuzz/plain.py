"""The engine that needs nothing: seeds and what has shown something new, changed at random."""

import random
from collections.abc import Callable, Sequence
from itertools import count

from qpsmtpd.fuzz.engines import Campaign
from qpsmtpd.fuzz.targets import Target

__all__ = ["run"]

_MOST_OCTETS = 4096
_MOST_INPUTS = 10_000
_NUMBERS = (b"0", b"1", b"2", b"5", b"255", b"256", b"300", b"301", b"65535", b"65536", b"999999999999999999")
_LINE_ENDS = (b"\r\n", b"\n", b"\r", b"\r\r\n", b"\n\r")
_OF = 4
_FROM_SEEDS = 0.06  # how often it is one of those that somebody has thought about
_LOOK = 128  # runs between two looks at the clock


class _Mutator:
    """Changes inputs, always the same way for the same random numbers."""

    def __init__(self, tokens: Sequence[bytes], draw: random.Random) -> None:
        self._tokens = tokens
        self._random = draw.random
        self._changes: tuple[Callable[[bytes, bytes], bytes], ...] = (
            self._insert, self._insert, self._at_line, self._replace_line, self._delete, self._delete_line, self._repeat,
            self._octet, self._line_end, self._splice, self._number, self._end, self._swap,
        )  # fmt: skip

    def mutate(self, data: bytes, other: bytes) -> bytes:
        """An input like this one; `other` is one that parts may come from."""
        for _ in range(1 + int(self._random() * self._random() * 5)):
            data = self._changes[int(self._random() * len(self._changes))](data, other)
        return data[:_MOST_OCTETS]

    def _place(self, size: int) -> int:
        return int(self._random() * size)

    def _token(self) -> bytes:
        return self._tokens[self._place(len(self._tokens))]

    def _range(self, data: bytes) -> tuple[int, int]:
        start = self._place(len(data) + 1)
        return start, min(start + 1 + self._place(1 + self._place(24)), len(data))

    def _line(self, data: bytes) -> tuple[int, int]:
        """A line with its end."""
        at = self._place(len(data) + 1)
        return data.rfind(b"\n", 0, at) + 1, (data.find(b"\n", at) + 1) or len(data)

    def _insert(self, data: bytes, _: bytes) -> bytes:
        at = self._place(len(data) + 1)
        return data[:at] + self._token() + data[at:]

    def _at_line(self, data: bytes, _: bytes) -> bytes:
        start, _end = self._line(data)
        return data[:start] + self._token() + data[start:]

    def _replace_line(self, data: bytes, _: bytes) -> bytes:
        start, end = self._line(data)
        return data[:start] + self._token() + data[end:]

    def _delete(self, data: bytes, _: bytes) -> bytes:
        start, end = self._range(data)
        return data[:start] + data[end:]

    def _delete_line(self, data: bytes, _: bytes) -> bytes:
        start, end = self._line(data)
        return data[:start] + data[end:]

    def _repeat(self, data: bytes, _: bytes) -> bytes:
        start, end = self._range(data) if self._random() < 0.5 else self._line(data)
        times = 1 << self._place(5)
        return data[:start] + data[start:end] * times + data[end:]

    def _octet(self, data: bytes, _: bytes) -> bytes:
        at = self._place(len(data) + 1)
        return data[:at] + bytes((self._place(256),)) + data[at + 1 :]

    def _line_end(self, data: bytes, _: bytes) -> bytes:
        start, end = self._line(data)
        return data[:start] + data[start:end].rstrip(b"\r\n") + _LINE_ENDS[self._place(len(_LINE_ENDS))] + data[end:]

    def _splice(self, data: bytes, other: bytes) -> bytes:
        (_, end), (start, _end) = (self._line(data), self._line(other)) if self._random() < 0.7 else (
            self._range(data), self._range(other),
        )  # fmt: skip
        return data[:end] + other[start:]

    def _number(self, data: bytes, _: bytes) -> bytes:
        at = self._place(len(data) + 1)
        start = next((place for place in range(at, len(data)) if 48 <= data[place] < 58), -1)
        if start < 0:
            return data
        end = start + 1
        while end < len(data) and 48 <= data[end] < 58:
            end += 1
        if self._random() < 0.5:
            return data[:start] + _NUMBERS[self._place(len(_NUMBERS))] + data[end:]
        return data[:start] + b"%d" % max(int(data[start:end][:18]) + self._place(5) - 2, 0) + data[end:]

    def _end(self, data: bytes, _: bytes) -> bytes:
        return data[: self._place(len(data) + 1)]

    def _swap(self, data: bytes, _: bytes) -> bytes:
        start, end = self._line(data)
        next_end = (data.find(b"\n", end) + 1) or len(data)
        return data[:start] + data[end:next_end] + data[start:end] + data[next_end:]


def run(target: Target, campaign: Campaign) -> None:
    """Run inputs until the campaign is over. Raises what a check raises, the input noted in the campaign."""
    draw = random.Random(campaign.seed)  # noqa: S311 - to be drawn again
    mutator, check, uniform = _Mutator(target.tokens, draw), target.check, draw.random
    seen: set[object] = set()
    corpus = list(campaign.begin(target))
    seeds = len(corpus)
    number = 0
    try:
        for number in count():
            if number % _LOOK == 0 or campaign.limit is not None:
                campaign.runs, campaign.paths, campaign.inputs = number, len(seen), len(corpus)
                if campaign.over():
                    return
            data = corpus[number] if number < seeds else _changed(mutator, corpus, seeds, uniform)
            campaign.input = data
            edges = check(data)
            if not seen.issuperset(edges):
                seen.update(edges)
                if number >= seeds and len(corpus) < _MOST_INPUTS:
                    corpus.append(data)
                    campaign.keep(data)
    finally:
        campaign.runs, campaign.paths, campaign.inputs = number, len(seen), len(corpus)


def _changed(mutator: _Mutator, corpus: Sequence[bytes], seeds: int, uniform: Callable[[], float]) -> bytes:
    """A new input, like a seed, or like the shortest of some, as that takes the least time."""
    size = len(corpus)
    other = corpus[int(uniform() * size)]
    if uniform() < _FROM_SEEDS:
        return mutator.mutate(corpus[int(uniform() * seeds)], other)
    shortest = other
    for _ in range(_OF):
        one = corpus[int(uniform() * size)]
        if len(one) < len(shortest):
            shortest = one
    return mutator.mutate(shortest, other)
