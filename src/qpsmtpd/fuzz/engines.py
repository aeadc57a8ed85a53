"""What all engines share: how long they run, what they tell meanwhile, and which input is tried now."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from qpsmtpd.fuzz import patience
from qpsmtpd.fuzz.targets import Target

__all__ = ["Campaign"]


@dataclass(slots=True)
class Campaign:
    """One target under one engine."""

    tell: Callable[["Campaign"], None]
    """Is called now and then with how it goes."""
    every: float = 1.0
    """Seconds between two calls of it."""
    seconds: float | None = None
    limit: int | None = None
    """How many inputs are run; both bounds may be given."""
    seed: int = 0
    planted: str = ""
    """A fault that is planted, for engines that run in a process of their own."""
    one_seed: bool = False
    """Whether to begin with one seed alone, to see what an engine finds by itself."""
    corpus: Path | None = None
    """A directory of inputs: what is in it is run first, and what shows something new is added."""

    input: bytes = b""
    """What is tried now."""
    runs: int = 0
    paths: int = 0
    """How many things have been seen of the behaviour."""
    inputs: int = 0
    """How many inputs have shown something new."""
    begun: float = field(default_factory=time.monotonic)
    _told: float = field(default_factory=time.monotonic)

    @property
    def elapsed(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self.begun

    def begin(self, target: Target) -> Iterator[bytes]:
        """The seeds of a target, then what is in the directory."""
        seeds = target.seeds()
        yield from seeds[:1] if self.one_seed else seeds
        if self.corpus is not None:
            yield from (path.read_bytes() for path in sorted(self.corpus.iterdir()) if path.is_file())

    def keep(self, data: bytes) -> None:
        """Add an input to the directory."""
        if self.corpus is not None:
            (self.corpus / sha256(data).hexdigest()[:16]).write_bytes(data)

    def over(self) -> bool:
        """Whether it is time to end; tells how it goes, if it is time for that. What runs until the next look is bounded."""
        patience.begin()
        now = time.monotonic()
        if now - self._told >= self.every:
            self._told = now
            self.tell(self)
        ended = self.limit is not None and self.runs >= self.limit
        return ended or (self.seconds is not None and now - self.begun >= self.seconds)
