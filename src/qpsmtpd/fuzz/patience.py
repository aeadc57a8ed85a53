"""An end for inputs that come to none: a loop without end, a regular expression that tries everything."""

import signal
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

from qpsmtpd.fuzz.wrong import Wrong

__all__ = ["PATIENCE", "begin", "bounded"]

PATIENCE = 5.0
"""Seconds of the processor, not of the clock: a machine that stands still is nobody's fault."""


@contextmanager
def bounded() -> Generator[None]:
    """For as long as the block lasts, what takes longer than `PATIENCE` from its `begin` on ends by `Wrong`."""
    before = signal.signal(signal.SIGVTALRM, _give_up)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def begin() -> None:
    """From now on."""
    signal.setitimer(signal.ITIMER_VIRTUAL, PATIENCE)


def _give_up(number: int, frame: FrameType | None) -> None:
    del number, frame
    raise Wrong(f"after {PATIENCE:g} seconds it has not come to an end")
