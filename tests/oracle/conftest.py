"""The vectors, and the line that counts what became of them."""

import collections
import json
import os
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # the modules of the adapter stand beside the tests

TALLY = pytest.StashKey[dict]()


def directory():
    """Where the vectors are: the directory that ORACLE_DIR names, or the public ones in this repository."""
    return Path(os.environ.get("ORACLE_DIR") or HERE / "vectors")


def vectors():
    """Every vector of the directory, by topic."""
    for path in sorted(directory().glob("*.json")):
        yield from json.loads(path.read_text("utf-8"))


def pytest_configure(config):
    config.stash[TALLY] = collections.defaultdict(collections.Counter)


@pytest.fixture
def tally(request):
    """Count a vector under `passed`, `divergent` or `not playable`, with the row or the reason."""

    def count(outcome, why=""):
        request.config.stash[TALLY][outcome][why] += 1

    return count


def pytest_terminal_summary(terminalreporter, config):
    counts = config.stash[TALLY]
    if not counts:
        return
    failed = sum("test_a_vector" in report.nodeid for report in terminalreporter.stats.get("failed", ()))
    numbers = {name: sum(counts[name].values()) for name in ("passed", "divergent", "not playable")}
    terminalreporter.section("oracle")
    for name in ("divergent", "not playable"):
        for why, number in counts[name].most_common():
            terminalreporter.line(f"{name}: {number:4} {why}")
    terminalreporter.line(
        f"oracle: {numbers['passed']} passed, {failed} failed, {numbers['divergent']} divergent, "
        f"{numbers['not playable']} not playable, of the vectors in {directory().name}/"
    )
