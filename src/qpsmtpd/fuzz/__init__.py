"""Fuzzing of everything that reads what a peer sends, in memory, against witnesses that share no code with it.

`targets` is the table of what is fuzzed; an engine (`plain`, `structured`, `guided`) makes the inputs, `crashes` keeps
those that fail, small, and `plants` has faults to plant, to see that they are found.
"""

from qpsmtpd.fuzz.targets import TARGETS, Target
from qpsmtpd.fuzz.wrong import Edges, Wrong

__all__ = ["TARGETS", "Edges", "Target", "Wrong"]
