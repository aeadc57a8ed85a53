"""Inputs that fail: made small, written to be run again, and run again."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from qpsmtpd.compare.minimal import minimise
from qpsmtpd.fuzz import patience
from qpsmtpd.fuzz.dialogue import settings_of
from qpsmtpd.fuzz.targets import Target
from qpsmtpd.logs import escape as printable
from qpsmtpd.testing.dialogue import escape

__all__ = ["Crash", "examine", "shown", "shrink"]

_PROBES = 2000
_SECONDS = 30.0  # for making an input small
_SHOWN = 200


@dataclass(frozen=True, slots=True)
class Crash:
    """An input on which a target fails."""

    target: str
    data: bytes
    error: Exception

    @property
    def name(self) -> str:
        """What a file with it is called."""
        return f"{self.target}-{sha256(self.data).hexdigest()[:12]}"

    def write(self, directory: Path, about: str) -> Path:
        """Write the input, and beside it a text that says what is wrong. Raises OSError."""
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / self.name
        path.write_bytes(self.data)
        path.with_suffix(".txt").write_text("\n".join([about, *shown(self), ""]), "utf-8")
        return path


def examine(target: Target, data: bytes, *, thoroughly: bool = True) -> Crash | None:
    """Run an input; None if nothing is wrong."""
    patience.begin()
    try:
        target.check(data, thoroughly=thoroughly)
    except Exception as error:  # noqa: BLE001 - that is what is looked for
        return Crash(target.name, data, error)
    return None


def shrink(target: Target, crash: Crash) -> Crash:
    """The smallest input found, within half a minute, on which a target fails by the same kind of error."""
    thoroughly = examine(target, crash.data, thoroughly=False) is None  # which takes its time
    end = time.monotonic() + _SECONDS

    def fails(writes: list[bytes]) -> bool:
        if time.monotonic() > end:
            return False
        found = examine(target, b"".join(writes), thoroughly=thoroughly)
        return found is not None and type(found.error) is type(crash.error)

    if not fails([crash.data]):
        return crash
    small = b"".join(minimise([crash.data], lambda _: True, fails, _PROBES))
    return examine(target, small) or crash


def shown(crash: Crash) -> Iterator[str]:
    """A crash for people: the error, then the input in lines as `qpsmtpd.testing.dialogue` writes octets."""
    text = printable(str(crash.error))
    yield f"{type(crash.error).__name__}: {text[:_SHOWN]}{'...' if len(text) > _SHOWN else ''}"
    data = crash.data
    if crash.target in ("server", "bdat"):
        yield f"settings: {settings_of(data)}"
        data = data[1:]
    yield from (f"  {escape(line)}" for line in data.splitlines(keepends=True))
