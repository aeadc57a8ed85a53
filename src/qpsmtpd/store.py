"""What outlives a connection: small entries, each for a limited time, that plugins keep.

An SQLite file serves one machine, with all its workers and threads; Redis or Valkey serve several
machines. All calls block, so they belong in hooks that are marked `@blocking`. Whatever goes wrong is a
`StoreError`, and comes within seconds: a plugin logs it, and lets the client pass.
"""

import contextlib
import hashlib
import importlib
import os
import re
import sqlite3
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from qpsmtpd.config import ConfigError

__all__ = ["Backend", "Redis", "Sqlite", "Store", "StoreError", "open_backend", "place_in"]

T = TypeVar("T")

Change = Callable[[bytes | None], tuple[bytes | None, T]]
"""Makes of the value of an entry, None where there is none, the new one, None to leave it, and a result."""

MOST_OCTETS = 1 << 16
"""How large a value may be."""

_LONGEST = 365 * 86400.0  # seconds that an entry may last
_KEY = 200  # octets of a key that is kept as it is
_SQLITE_SECONDS = 5.0  # to wait for others who write
_REDIS_SECONDS = 1.0  # to wait for each answer
_UPDATE_SECONDS = 3.0  # to begin another try of a change
_PAUSE = 5.0  # seconds in which a Redis that has not answered is not asked again
_TRIES = 20  # of a change that others disturb
_PRUNED = 8  # expired entries that are removed with each one that is written
_PAGE = 500
_MOST_PAGES = 1 << 18  # of a file, with the usual 4 KiB each 1 GiB
_PRUNED_WHEN_FULL = 1000


class StoreError(OSError):
    """The entries cannot be read or written now."""


class Backend(ABC):
    """Where the entries of all plugins are. Times to live are in seconds; every method may raise StoreError."""

    @abstractmethod
    def get(self, key: bytes) -> bytes | None:
        """The value of an entry; None if there is none, or its time is over."""

    @abstractmethod
    def put(self, key: bytes, value: bytes, ttl: float) -> None:
        """Make an entry, or write it anew."""

    @abstractmethod
    def delete(self, key: bytes) -> None:
        """Remove an entry, if there is one."""

    @abstractmethod
    def update(self, key: bytes, change: Change[T], ttl: float) -> T:
        """Change an entry while nobody else does; `change` may be called more than once."""

    @abstractmethod
    def add(self, key: bytes, number: int, ttl: float) -> int:
        """Add to a counter, and give its value. `ttl` counts for a counter that is begun by this."""

    @abstractmethod
    def items(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """The entries whose keys begin so, in no order."""


class Store:
    """The entries of one plugin. Keys are texts of any length; values are octets, 64 KiB of them at most."""

    def __init__(self, backend: Backend, section: str) -> None:
        """`section` keeps the entries apart from those of others. Raises ValueError if there is a colon in it."""
        if ":" in section:
            raise ValueError(f"{section!r} has a colon in it, which ends the name of a section")
        self._backend = backend
        self._prefix = section.encode() + b":"

    def get(self, key: str) -> bytes | None:
        """The value of an entry; None if there is none, or its time is over. Raises StoreError."""
        return self._backend.get(self._full(key))

    def put(self, key: str, value: bytes, ttl: float) -> None:
        """Keep a value for `ttl` seconds. Raises StoreError."""
        self._backend.put(self._full(key), _checked(value), _bounded(ttl))

    def delete(self, key: str) -> None:
        """Remove an entry, if there is one. Raises StoreError."""
        self._backend.delete(self._full(key))

    def update(self, key: str, change: Change[T], ttl: float) -> T:
        """Change an entry while nobody else does, and keep it for `ttl` seconds from now.

        `change` is given the value, None where there is none. It returns the new value, or None to leave
        all as it is; and the result. It may be called more than once. Raises StoreError.
        """

        def checked(old: bytes | None) -> tuple[bytes | None, T]:
            new, result = change(old)
            return new if new is None else _checked(new), result

        return self._backend.update(self._full(key), checked, _bounded(ttl))

    def add(self, key: str, number: int, ttl: float) -> int:
        """Add to a counter, and give its value; it is forgotten `ttl` seconds after it was begun. Raises StoreError."""
        return self._backend.add(self._full(key), number, _bounded(ttl))

    def items(self, prefix: str = "") -> Iterator[tuple[str, bytes]]:
        """The entries whose keys begin so, in no order; of a long key there is a digest. Raises StoreError."""
        start = len(self._prefix)
        for key, value in self._backend.items(self._prefix + _octets(prefix)):
            yield key[start:].decode("utf-8", "surrogateescape"), value

    def _full(self, key: str) -> bytes:
        octets = _octets(key)
        if len(octets) > _KEY or octets.startswith(b"#"):
            octets = b"#" + hashlib.sha256(octets).hexdigest().encode()
        return self._prefix + octets


def _octets(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _checked(value: bytes) -> bytes:
    if len(value) > MOST_OCTETS:
        raise ValueError(f"an entry has {MOST_OCTETS} octets at most, not {len(value)}")
    return value


def _bounded(ttl: float) -> float:
    if not ttl > 0:
        raise ValueError(f"an entry lasts for some time, not for {ttl} seconds")
    return min(ttl, _LONGEST)


def _number(value: bytes) -> int:
    try:
        return int(value)
    except ValueError:
        raise StoreError("an entry is not the counter that it should be") from None


# SQLite

_SCHEMA = (
    "PRAGMA synchronous = NORMAL",
    "CREATE TABLE IF NOT EXISTS entries (key BLOB PRIMARY KEY, value BLOB NOT NULL, expires REAL NOT NULL) WITHOUT ROWID",
    "CREATE INDEX IF NOT EXISTS entries_by_end ON entries (expires)",
)
_READ = "SELECT value, expires FROM entries WHERE key = ? AND expires > ?"
_WRITE = "INSERT OR REPLACE INTO entries (key, value, expires) VALUES (?, ?, ?)"
_PRUNE = "DELETE FROM entries WHERE key IN (SELECT key FROM entries WHERE expires <= ? LIMIT ?)"
_SELECT = "SELECT key, value FROM entries WHERE key >= ? AND key < ? AND expires > ? ORDER BY key LIMIT ?"
_MEMORY = ":memory:"
_FILE = "store.sqlite"


class Sqlite(Backend):
    """Entries in a file, for the processes of one machine; or in the memory of this process.

    A process has one connection, opened when it is first needed: what is inherited by a fork is not used.
    """

    def __init__(self, path: str, wall: Callable[[], float]) -> None:
        """`wall` gives seconds since the epoch. The file is made where there is none. Raises StoreError."""
        self._path = path
        self._wall = wall
        self._lock = threading.Lock()
        self._opened: tuple[int, sqlite3.Connection] | None = None
        self._inherited: object = None
        with self._transaction():
            pass  # so that what is wrong shows now
        self._close()

    def get(self, key: bytes) -> bytes | None:
        """The value of an entry."""
        with self._transaction("BEGIN") as connection:
            return self._read(connection, key)[0]

    def put(self, key: bytes, value: bytes, ttl: float) -> None:
        """Make an entry, or write it anew."""
        with self._transaction() as connection:
            self._write(connection, key, value, self._wall() + ttl)

    def delete(self, key: bytes) -> None:
        """Remove an entry."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM entries WHERE key = ?", (key,))

    def update(self, key: bytes, change: Change[T], ttl: float) -> T:
        """Change an entry, within a transaction."""
        with self._transaction() as connection:
            value, result = change(self._read(connection, key)[0])
            if value is not None:
                self._write(connection, key, value, self._wall() + ttl)
            return result

    def add(self, key: bytes, number: int, ttl: float) -> int:
        """Add to a counter, within a transaction."""
        with self._transaction() as connection:
            value, expires = self._read(connection, key)
            total = number + (0 if value is None else _number(value))
            self._write(connection, key, b"%d" % total, expires or self._wall() + ttl)
            return total

    def items(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """The entries whose keys begin so, by pages, between which others may write."""
        begin, end = prefix, prefix + b"\xff" * (_KEY + 1)
        while True:
            with self._transaction("BEGIN") as connection:
                found = connection.execute(_SELECT, (begin, end, self._wall(), _PAGE))
                page: list[tuple[bytes, bytes]] = found.fetchall()
            yield from page
            if len(page) < _PAGE:
                return
            begin = page[-1][0] + b"\0"

    def _read(self, connection: sqlite3.Connection, key: bytes) -> tuple[bytes | None, float]:
        row: tuple[bytes, float] | None = connection.execute(_READ, (key, self._wall())).fetchone()
        return row or (None, 0.0)

    def _write(self, connection: sqlite3.Connection, key: bytes, value: bytes, expires: float) -> None:
        connection.execute(_WRITE, (key, value, expires))
        connection.execute(_PRUNE, (self._wall(), _PRUNED))

    @contextlib.contextmanager
    def _transaction(self, begin: str = "BEGIN IMMEDIATE") -> Generator[sqlite3.Connection]:
        """The connection, to one thread at a time, and what is done with it in one piece. Raises StoreError."""
        if not self._lock.acquire(timeout=_SQLITE_SECONDS):
            raise StoreError(f"{self._path}: busy for {_SQLITE_SECONDS:g} seconds")
        try:
            with self._connection() as connection:
                connection.execute(begin)
                yield connection
        except StoreError:
            raise
        except (sqlite3.Error, OSError) as error:
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
                self._make_room()
            self._close()  # the next one may find it mended
            raise StoreError(f"{self._path}: {error}") from error
        finally:
            self._lock.release()

    def _make_room(self) -> None:
        """Remove expired entries on their own: what a write removes comes back if the write fails."""
        if self._opened is not None:
            with contextlib.suppress(sqlite3.Error):
                self._opened[1].execute(_PRUNE, (self._wall(), _PRUNED_WHEN_FULL))

    def _connection(self) -> sqlite3.Connection:
        pid = os.getpid()
        if self._opened is None or self._opened[0] != pid:
            self._inherited = self._opened  # to close it here could hurt the parent's
            self._opened = pid, self._open()
        return self._opened[1]

    def _open(self) -> sqlite3.Connection:
        if self._path != _MEMORY:
            with contextlib.suppress(FileExistsError):
                _make_file(self._path)
        connection = sqlite3.connect(self._path, timeout=_SQLITE_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            _use_wal(connection)
            for statement in _SCHEMA:
                connection.execute(statement)
            connection.execute(f"PRAGMA max_page_count = {_MOST_PAGES}")
        except BaseException:
            connection.close()
            raise
        return connection

    def _close(self) -> None:
        opened, self._opened = self._opened, None
        if opened is not None:
            opened[1].close()


def _use_wal(connection: sqlite3.Connection) -> None:
    """Have readers not wait for writers. A new file that several processes open at once is "locked" at once for some of
    them: SQLite does not wait here, so we do.
    """
    late = time.monotonic() + _SQLITE_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > late:
                raise
            time.sleep(0.01)
        else:
            return


def _make_file(path: str) -> None:
    """Make a file that nobody else may read; root leaves it to the owner of the directory, whose the server is."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        if os.geteuid() == 0:
            owner = Path(path).parent.stat()
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
    finally:
        os.close(descriptor)


# Redis

_SPECIAL = re.compile(rb"[\\*?\[\]^-]")  # in a pattern of SCAN
_COMMON = b"qpsmtpd:"  # a server may have other users


class Redis(Backend):
    """Entries in a Redis or Valkey, for the processes of several machines. Time is the server's."""

    def __init__(self, url: str, clock: Callable[[], float]) -> None:
        """Connects when it is first needed. Raises ConfigError for a bad URL, or if the library is missing."""
        try:
            library: Any = importlib.import_module("redis")
            retry: Any = importlib.import_module("redis.retry")
            backoff: Any = importlib.import_module("redis.backoff")
        except ImportError as error:
            raise ConfigError("it needs the module 'redis'; run `pip install 'qpsmtpd[redis]'`") from error
        try:
            self._client: Any = library.Redis.from_url(
                url,
                socket_timeout=_REDIS_SECONDS,
                socket_connect_timeout=_REDIS_SECONDS,
                retry=retry.Retry(backoff.NoBackoff(), 0),
            )
        except ValueError as error:
            raise ConfigError(str(error)) from error
        self._shown = _without_password(url)
        self._errors = library.exceptions
        self._clock = clock
        self._silent_until = 0.0

    def get(self, key: bytes) -> bytes | None:
        """The value of an entry."""
        with self._asking():
            value: bytes | None = self._client.get(_COMMON + key)
            return value

    def put(self, key: bytes, value: bytes, ttl: float) -> None:
        """Make an entry, or write it anew."""
        with self._asking():
            self._client.set(_COMMON + key, value, px=_milliseconds(ttl))

    def delete(self, key: bytes) -> None:
        """Remove an entry."""
        with self._asking():
            self._client.delete(_COMMON + key)

    def update(self, key: bytes, change: Change[T], ttl: float) -> T:
        """Change an entry, and begin anew if others have changed it meanwhile."""
        key, late = _COMMON + key, self._clock() + _UPDATE_SECONDS
        for _ in range(_TRIES):
            if self._clock() > late:
                break
            with self._asking(), self._client.pipeline() as pipeline, contextlib.suppress(self._errors.WatchError):
                pipeline.watch(key)
                value, result = change(pipeline.get(key))
                if value is not None:
                    pipeline.multi()
                    pipeline.set(key, value, px=_milliseconds(ttl))
                    pipeline.execute()
                return result
        raise StoreError(f"{self._shown}: others change the same entry all the time")

    def add(self, key: bytes, number: int, ttl: float) -> int:
        """Add to a counter, within a transaction."""
        key = _COMMON + key
        with self._asking(), self._client.pipeline(transaction=True) as pipeline:
            pipeline.set(key, 0, px=_milliseconds(ttl), nx=True)
            pipeline.incrby(key, number)
            total: int = pipeline.execute()[1]
            return total

    def items(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """The entries whose keys begin so; one that comes or goes meanwhile may be missing."""
        pattern = _SPECIAL.sub(rb"\\\g<0>", _COMMON + prefix) + b"*"
        cursor, seen = -1, set[bytes]()
        while cursor:
            with self._asking():
                cursor, keys = self._client.scan(max(cursor, 0), match=pattern, count=_PAGE)
                new: list[bytes] = [key for key in keys if key not in seen]
                values: list[bytes | None] = self._client.mget(new) if new else []
            seen.update(new)
            for key, value in zip(new, values, strict=True):
                if value is not None:
                    yield key[len(_COMMON) :], value

    @contextlib.contextmanager
    def _asking(self) -> Generator[None]:
        """Whatever the server does wrong is a StoreError; one that is silent is left alone for a while."""
        if self._clock() < self._silent_until:
            raise StoreError(f"{self._shown}: it did not answer a moment ago")
        try:
            yield
        except (self._errors.ConnectionError, self._errors.TimeoutError) as error:
            self._silent_until = self._clock() + _PAUSE
            raise StoreError(f"{self._shown}: {error}") from error
        except self._errors.RedisError as error:
            raise StoreError(f"{self._shown}: {error}") from error


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def open_backend(place: str, base: Path, wall: Callable[[], float], clock: Callable[[], float]) -> Backend:
    """What `place` names: `sqlite:PATH`, below `base` unless it is absolute; `memory:`, which each process has for
    itself; a Redis by `redis://HOST:PORT/DB` or `unix:PATH`. Raises ConfigError.
    """
    kind, _, rest = place.partition(":")
    try:
        if kind == "sqlite" and rest:
            return Sqlite(str(base / Path(rest).expanduser()), wall)
        if place == "memory:":
            return Sqlite(_MEMORY, wall)
    except StoreError as error:
        raise ConfigError(str(error)) from error
    if kind == "unix" and rest:
        return Redis(f"unix://{rest.removeprefix('//')}", clock)
    if kind in ("redis", "rediss") and rest.startswith("//"):
        return Redis(place, clock)
    raise ConfigError(f"{place!r} is no store; one is sqlite:PATH, memory:, redis://HOST:PORT/DB or unix:PATH")


def place_in(*directories: Path) -> str:
    """The file in the first of these directories in which we may write. Raises ConfigError if there is none."""
    for directory in directories:
        if directory.is_dir() and os.access(directory, os.W_OK | os.X_OK):
            return f"sqlite:{directory.absolute() / _FILE}"
    named = ", ".join(map(str, directories))
    raise ConfigError(f"there is no directory to keep a store in that we may write to: {named}")


class Overlay(Backend):
    """The entries of another backend with changes on top that are kept in memory alone, and do not expire."""

    def __init__(self, below: Backend) -> None:
        self._below = below
        self._changed: dict[bytes, bytes | None] = {}
        self._lock = threading.Lock()

    def get(self, key: bytes) -> bytes | None:
        return self._changed[key] if key in self._changed else self._below.get(key)

    def put(self, key: bytes, value: bytes, ttl: float) -> None:
        del ttl
        self._changed[key] = value

    def delete(self, key: bytes) -> None:
        self._changed[key] = None

    def update(self, key: bytes, change: Change[T], ttl: float) -> T:
        del ttl
        with self._lock:
            new, result = change(self.get(key))
            if new is not None:
                self._changed[key] = new
            return result

    def add(self, key: bytes, number: int, ttl: float) -> int:
        del ttl
        with self._lock:
            value = int(self.get(key) or 0) + number
            self._changed[key] = str(value).encode()
            return value

    def items(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        entries = {**dict(self._below.items(prefix)), **self._changed}
        return ((key, value) for key, value in entries.items() if value is not None and key.startswith(prefix))
