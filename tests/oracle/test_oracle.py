"""Every recorded fact about the original is played, and is so here, or differs as docs/differences.md says.

ORACLE_DIR names another directory of vectors in the same format. The summary counts them: passed,
failed, divergent (by the row of docs/differences.md), not playable (with the reason).
"""

import os
import re
from pathlib import Path
from unittest import mock

import decisions
import facts
import kinds
import player
import pytest

from conftest import vectors
from qpsmtpd.config import ConfigError

DIFFERENCES = Path(__file__).parents[2] / "docs" / "differences.md"
ALL = list(vectors())


def rows():
    """The names of the rows of docs/differences.md."""
    return re.findall(r"(?m)^\| `([a-z0-9-]+)` \|", DIFFERENCES.read_text("utf-8"))


def judge(vector, steps):
    """The rows that explain how the steps differ. Fails where none does."""
    explained = []
    for number, step in enumerate(steps):
        if not step.differs:
            continue
        decision = decisions.explanation(vector, step)
        assert decision is not None, f"step {number}, {step.sent!r}\n  recorded {step.recorded}\n  here     {step.real}"
        explained.append(decision.row)
        if not decision.goes_on:
            break
    return explained


def judge_fact(vector, directory):
    recorded, real = facts.play(vector, directory)
    if recorded == real:
        return []
    decision = decisions.fact_explanation(vector, recorded, real)
    assert decision is not None, f"{vector['input']!r}\n  recorded {recorded}\n  here     {real}"
    return [decision.row]


def judge_logging(vector, directory):
    explained = []
    for recorded, real in kinds.logs(vector, directory):
        if recorded != real:
            decision = decisions.logging_explanation(vector, recorded, real)
            assert decision is not None, f"recorded {recorded}\n  here     {real}"
            explained.append(decision.row)
    return explained


def judge_listener(vector, directory, running, until):
    explained = {}
    for driver in kinds.DRIVERS:
        own = directory / driver
        own.mkdir()
        explained[driver] = judge(vector, kinds.listened(vector, own, driver, running, until))
    assert len(set(map(tuple, explained.values()))) == 1, explained
    return explained[driver]


def judge_connection(vector, directory):
    try:
        steps = player.play(vector, directory)
    except ConfigError:
        return [decisions.REFUSED_AT_START]
    explained = judge(vector, steps)
    if not explained:
        assert player.files_differ(vector, directory) is None
    return explained


@pytest.mark.parametrize("vector", ALL, ids=[vector["name"] for vector in ALL])
def test_a_vector(vector, tmp_path, tally, running, until):
    kind = vector.get("kind")
    try:
        with mock.patch.dict(os.environ, vector.get("env", {})):
            if kind in facts.KINDS:
                explained = judge_fact(vector, tmp_path)
            elif kind == "logging":
                explained = judge_logging(vector, tmp_path)
            elif kind == "listener":
                explained = judge_listener(vector, tmp_path, running, until)
            elif kind == "timeline":
                explained = judge(vector, kinds.connections(vector, tmp_path))
            else:
                assert kind is None, f"an unknown kind: {kind}"
                explained = judge_connection(vector, tmp_path)
    except (player.NotPlayable, facts.NotPlayable) as reason:
        tally("not playable", str(reason))
        pytest.skip(str(reason))
    if not explained and "divergence" not in vector:
        tally("passed")
        return
    row = decisions.row_of(vector.get("divergence", "")) or next(iter(explained), None)
    assert row is not None, f"no row of docs/differences.md answers: {vector['divergence']}"
    tally("divergent", f"{row}{'' if 'divergence' in vector else ' (not marked in the vector)'}")


def test_every_decision_is_a_row_and_every_row_has_a_test():
    names = rows()
    assert len(names) == len(set(names))
    assert {decision.row for decision in decisions.DECISIONS} | set(decisions.TESTED_ELSEWHERE) == set(names)
    for test in decisions.TESTED_ELSEWHERE.values():
        path, _, name = test.partition("::")
        assert f"def {name}(" in (DIFFERENCES.parents[1] / path).read_text("utf-8"), test


def test_no_row_answers_every_text():
    assert decisions.row_of("something else") is None
