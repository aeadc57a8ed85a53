"""The engine that knows what inputs are made of: hypothesis, with the strategies of `qpsmtpd.testing`. It shrinks."""

from collections.abc import Callable, Mapping
from functools import partial

import hypothesis
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from qpsmtpd.fuzz import patience
from qpsmtpd.fuzz.engines import Campaign
from qpsmtpd.fuzz.targets import Target
from qpsmtpd.testing import strategies as smtp

__all__ = ["run"]

_ROUND = 500  # inputs between two looks at the clock
_ALL_IS_WELL = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


def _of_parts(target: Target) -> SearchStrategy[bytes]:
    """Seeds, tokens and octets, one behind another, and lines of seeds."""
    seeds = target.seeds()
    lines = sorted({line for seed in seeds for line in seed.splitlines(keepends=True)})
    parts = st.sampled_from(target.tokens) | st.sampled_from(lines) | st.binary(max_size=4)
    return st.one_of(
        st.lists(parts, max_size=12).map(b"".join),
        st.builds(_spliced, st.sampled_from(seeds), st.integers(0, 1000), st.lists(parts, max_size=3).map(b"".join)),
        st.sampled_from(seeds),
    )


def _spliced(seed: bytes, at: int, part: bytes) -> bytes:
    at %= len(seed) + 1
    return seed[:at] + part + seed[at:]


def _with_letter(streams: SearchStrategy[bytes]) -> SearchStrategy[bytes]:
    return st.builds(bytes.__add__, st.sampled_from([b"s", b"n", b"l", b"e"]), streams)


def _dialogues() -> SearchStrategy[bytes]:
    whole = smtp.dialogues() | smtp.hostile_dialogues() | smtp.smuggling_dialogues()
    return _with_letter(whole.map(b"".join))


def _paths() -> SearchStrategy[bytes]:
    known = smtp.paths() | smtp.nearly_valid_paths() | smtp.hostile_paths()
    return known.map(partial(str.encode, encoding="utf-8", errors="surrogateescape"))


def _replies() -> SearchStrategy[bytes]:
    replies = st.lists(smtp.replies().map(lambda reply: reply.encode()), max_size=10).map(b"".join)
    return st.builds(bytes.__add__, st.sampled_from([b"s", b"l"]), replies)


_STRATEGIES: Mapping[str, Callable[[], SearchStrategy[bytes]]] = {
    "server": _dialogues,
    "address": _paths,
    "replies": _replies,
}
"""What there is for a target beside what its seeds and tokens give."""


def run(target: Target, campaign: Campaign) -> None:
    """Run inputs until the campaign is over. Raises what a check raises, the smallest input noted in the campaign."""
    seen: set[object] = set()
    if campaign.over():
        return

    def attempt(data: bytes) -> None:
        campaign.input = data
        campaign.runs += 1
        patience.begin()
        edges = target.check(data)
        if not seen.issuperset(edges):
            seen.update(edges)
            campaign.paths = len(seen)
            campaign.inputs += 1
            campaign.keep(data)

    for data in campaign.begin(target):
        attempt(data)
    inputs = _of_parts(target)
    if target.name in _STRATEGIES:
        inputs = inputs | _STRATEGIES[target.name]()
    number = 0
    while not campaign.over():
        left = _ROUND if campaign.limit is None else max(min(_ROUND, campaign.limit - campaign.runs), 1)
        profile = hypothesis.settings(
            max_examples=left, database=None, deadline=None, phases=[Phase.generate, Phase.shrink],
            suppress_health_check=_ALL_IS_WELL,
        )  # fmt: skip
        hypothesis.seed(campaign.seed + number)(profile(hypothesis.given(inputs)(attempt)))()
        number += 1
