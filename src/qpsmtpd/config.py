"""The config directory: one file a setting, one value a line.

Lines are stripped; empty ones and those that begin with `#` are left out. A line
`$include NAME` stands for the lines of another file, or of all files of a directory, by
name, relative to the config directory. A file is read again when it has changed, looked at
once a second at most. Settings without a file have the defaults of `DEFAULTS`.
"""

import difflib
import math
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["DEFAULTS", "Config", "ConfigError", "Line", "did_you_mean", "fingerprint", "values_in"]

DEFAULTS: Mapping[str, tuple[str, ...]] = {
    "loglevel": ("LOGWARN",),
    "size_threshold": ("262144",),
    "timeout": ("300",),
    "timeoutdata": ("600",),
    "timeoutsession": ("7200",),
    "timeouthook": ("120",),
    "timeoutshutdown": ("10",),
    "timeouttls": ("30",),
    "timeoutdns": ("5",),
    "max_connections": ("1000",),
    "max_per_ip": ("50",),
    "recipients_max": ("1000",),
    "spool_perms": ("0700",),
}
"""Settings that have a value where there is no file. Times are seconds, sizes octets."""

_RECHECK = 1.0  # seconds between two looks at a file
_DEPTH = 16  # an include within an include ..., cycles apart


class ConfigError(Exception):
    """Something an administrator must change: the message names file, line and remedy."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """What to say behind a word that is none of those known: the nearest one, or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def values_in(text: str) -> tuple[str, ...]:
    """The values in the text of a file: its lines, stripped, less the empty ones and comments."""
    return tuple(value for _, value in _numbered(text))


def _numbered(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(map(str.strip, text.splitlines()), 1):
        if line and not line.startswith("#"):
            yield number, line


@dataclass(frozen=True, slots=True)
class Line:
    """A value, and where it was written."""

    text: str
    path: Path
    number: int

    @property
    def where(self) -> str:
        """`file:line`, as editors understand it."""
        return f"{self.path}:{self.number}"


@dataclass(slots=True)
class _Cached:
    lines: tuple[Line, ...]
    values: tuple[str, ...]
    """The texts of the lines, or the default."""
    files: Mapping[Path, tuple[int, int, int] | None]
    checked: float


class Config:
    """The settings of one directory, or of none."""

    def __init__(
        self,
        directory: Path | None,
        overrides: Mapping[str, tuple[str, ...]] | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        on_error: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`overrides` stand before the files. `on_error` is told what a changed file does wrong;
        the values it had before then stay. Raises ConfigError if the directory is none.
        """
        if directory is not None and not directory.is_dir():
            raise ConfigError(f"{directory}: there is no such config directory; `qpsmtpd init {directory}` writes one")
        self.directory = directory
        self.on_error = on_error
        self._clock = clock
        self._system_name: str | None = None
        self._cache = {name: _Cached((), values, {}, math.inf) for name, values in (overrides or {}).items()}

    def values(self, name: str) -> tuple[str, ...]:
        """All values of a setting."""
        return self._current(name).values

    def lines(self, name: str) -> tuple[Line, ...]:
        """The lines of a setting's file, with their places; defaults and overrides have none."""
        return self._current(name).lines

    def value(self, name: str, default: str = "") -> str:
        """The first value of a setting, or `default`."""
        values = self.values(name)
        return values[0] if values else default

    def number(self, name: str, text: str) -> float:
        """`text`, a value of this setting, as a number of 0 or more. Raises ConfigError if it is none."""
        try:
            number = float(text)
        except ValueError:
            number = -1.0
        if not 0 <= number < float("inf"):
            raise ConfigError(f"{self.where(name)}: {text!r} is no number of 0 or more")
        return number

    def where(self, name: str) -> str:
        """Where a setting is written, for messages."""
        lines = self.lines(name)
        return lines[0].where if lines else f"setting {name!r}"

    @property
    def system_name(self) -> str:
        """What the system said the name of this host is when it was first asked."""
        if self._system_name is None:
            self._system_name = socket.getfqdn()  # may look up a name, so once and at the start
        return self._system_name

    def _current(self, name: str) -> _Cached:
        cached = self._cache.get(name)
        now = self._clock()
        if cached is not None and now - cached.checked < _RECHECK:
            return cached
        if cached is not None and all(fingerprint(path) == seen for path, seen in cached.files.items()):
            cached.checked = now
            return cached
        try:
            self._cache[name] = self._read(name, now)
        except ConfigError as error:
            if cached is None:
                raise
            self.on_error(f"{error}; the old values of {name} stay in force")
            cached.files = {path: fingerprint(path) for path in cached.files}
            cached.checked = now
        return self._cache[name]

    def _read(self, name: str, now: float) -> _Cached:
        if self.directory is None:
            return _Cached((), DEFAULTS.get(name, ()), {}, now)
        files: dict[Path, tuple[int, int, int] | None] = {}
        lines = tuple(self._lines(self.directory / name, files, ()))
        return _Cached(lines, tuple(line.text for line in lines) or DEFAULTS.get(name, ()), files, now)

    def _lines(
        self, path: Path, files: dict[Path, tuple[int, int, int] | None], including: tuple[Path, ...]
    ) -> Iterator[Line]:
        files[path] = fingerprint(path)
        if path.is_dir() and including:
            for entry in sorted(path.iterdir()):
                if not entry.name.startswith("."):
                    yield from self._lines(entry, files, (*including, path))
            return
        try:
            text = path.read_text("utf-8", "surrogateescape")
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}") from error
        for number, value in _numbered(text):
            line = Line(value, path, number)
            words = line.text.split()
            if words[0] != "$include" or len(words) != 2:  # as in the original, anything else is a value
                yield line
                continue
            included = path.parent / words[1] if self.directory is None else self.directory / words[1]
            if included in (*including, path) or len(including) > _DEPTH:
                raise ConfigError(f"{line.where}: {words[1]} includes itself; remove this $include")
            yield from self._lines(included, files, (*including, path))


def fingerprint(path: Path) -> tuple[int, int, int] | None:
    """What changes when a file does; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
