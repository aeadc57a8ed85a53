"""What outlives a connection, in SQLite: in files that are shared, broken, or not there; and the faults of a Redis."""

import contextlib
import os
import socket
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from qpsmtpd import store
from qpsmtpd.config import Config, ConfigError
from qpsmtpd.site import Site
from qpsmtpd.store import Overlay, Redis, Sqlite, Store, StoreError
from qpsmtpd.testing.memory import Clock

DAY = 86400


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "store.sqlite"


@pytest.fixture
def entries(path, clock):
    return Store(Sqlite(str(path), clock.wall), "test")


@pytest.fixture
def site(tmp_path, clock):
    """Make a site by its settings; its config directory is tmp_path/config."""
    (tmp_path / "config").mkdir()

    def site(**settings):
        values = {name: (value,) for name, value in settings.items()}
        return Site(Config(tmp_path / "config", {"me": ("mx.example.test",), **values}), clock=clock, wall=clock.wall)

    return site


def python(script, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_an_entry_lasts_as_long_as_it_was_said(entries, clock):
    entries.put("key", b"value", 10)
    clock.advance(9.9)
    assert entries.get("key") == b"value"
    clock.advance(0.1)
    assert entries.get("key") is None
    assert list(entries.items()) == []
    assert entries.update("key", lambda old: (None, old), 10) is None


def test_a_counter_ends_when_its_time_is_over_however_often_it_was_added_to(entries, clock):
    assert [entries.add("key", 2, 10), entries.add("key", 3, 10)] == [2, 5]
    clock.advance(9)
    assert entries.add("key", 1, 10) == 6
    clock.advance(1)
    assert entries.add("key", 1, 10) == 1


def test_what_is_no_counter_cannot_be_added_to_and_stays(entries):
    entries.put("key", b"value", 10)
    with pytest.raises(StoreError):
        entries.add("key", 1, 10)
    assert entries.get("key") == b"value"


def test_a_change_that_fails_changes_nothing(entries):
    entries.put("key", b"old", 10)
    with pytest.raises(ZeroDivisionError):
        entries.update("key", lambda old: (b"new", 1 // 0), 10)
    assert entries.get("key") == b"old"
    entries.put("other", b"", 10)  # nothing is locked


def test_what_is_too_large_or_lasts_for_no_time_is_a_mistake_of_the_plugin(entries):
    entries.put("key", bytes(store.MOST_OCTETS), 10)
    for wrong in (
        lambda: entries.put("key", bytes(store.MOST_OCTETS + 1), 10),
        lambda: entries.update("key", lambda old: (old + b"x", None), 10),
        lambda: entries.put("key", b"", 0),
        lambda: entries.add("key", 1, float("nan")),
    ):
        with pytest.raises(ValueError, match="an entry"):
            wrong()


def test_plugins_do_not_see_each_others_entries(path, clock):
    backend = Sqlite(str(path), clock.wall)
    one, other = Store(backend, "one"), Store(backend, "on")
    one.put("key", b"1", 10)
    other.put("e:key", b"2", 10)
    assert (one.get("key"), other.get("key")) == (b"1", None)
    assert (dict(one.items()), dict(other.items())) == ({"key": b"1"}, {"e:key": b"2"})


def test_all_entries_are_listed_however_many_there_are(entries, monkeypatch):
    monkeypatch.setattr(store, "_PAGE", 3)
    expected = {f"a{number}": b"x" for number in range(10)}
    for key in [*expected, "b", "A"]:
        entries.put(key, b"x", 10)
    assert dict(entries.items("a")) == expected


def test_expired_entries_are_removed_a_few_with_each_that_is_written(entries, path, clock):
    for number in range(20):
        entries.put(str(number), b"x", 10)
    clock.advance(10)
    entries.put("new", b"x", 10)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM entries").fetchone() == (21 - store._PRUNED,)
    entries.put("new", b"x", 10)
    entries.put("new", b"x", 10)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM entries").fetchone() == (1,)


def test_a_full_file_grows_no_more_and_has_room_again_when_entries_expire(entries, path, clock, monkeypatch):
    monkeypatch.setattr(store, "_MOST_PAGES", 20)

    def fill():
        for number in range(1000):
            entries.put(f"{number:09}" * 20, bytes(100), 10)

    with pytest.raises(StoreError, match="full"):
        fill()
    assert entries.get("0" * 180) == bytes(100)
    clock.advance(10)
    with contextlib.suppress(StoreError):  # it may have been this one that made room
        entries.put("new", bytes(20_000), 10)
    entries.put("new", bytes(20_000), 10)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA page_count").fetchone()[0] <= 20


def test_nobody_else_may_read_the_file(entries, path):
    entries.put("key", b"x", 10)
    for each in path.parent.iterdir():
        assert stat.S_IMODE(each.stat().st_mode) == 0o600, each


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_root_leaves_the_file_to_the_owner_of_the_directory(tmp_path, path, clock):
    os.chown(tmp_path, 65534, 65534)
    Sqlite(str(path), clock.wall).put(b"key", b"x", 10)
    assert {each.stat().st_uid for each in tmp_path.iterdir()} == {65534}


def test_threads_lose_nothing(entries):
    def count():
        for _ in range(50):
            entries.add("counter", 1, DAY)
            entries.update("text", lambda old: ((old or b"") + b"x", None), DAY)

    threads = [threading.Thread(target=count) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert entries.add("counter", 0, DAY) == 300
    assert len(entries.get("text")) == 300


COUNT = """
import sys, time
from qpsmtpd.store import Sqlite, Store
entries = Store(Sqlite(sys.argv[1], time.time), "test")
for _ in range(60):
    entries.add("counter", 1, 1000)
    entries.update("text", lambda old: ((old or b"") + b"x", None), 1000)
"""


def test_processes_lose_nothing(path):
    entries = Store(Sqlite(str(path), time.time), "test")
    workers = [python(COUNT, path) for _ in range(3)]
    for worker in workers:
        assert worker.communicate(timeout=50) == ("", "")
    assert entries.add("counter", 0, DAY) == 180
    assert len(entries.get("text")) == 180


FORK = """
import os, sys, time
from qpsmtpd.store import Sqlite
backend = Sqlite(sys.argv[1], time.time)
backend.add(b"counter", 1, 1000)
inherited = backend._opened
pid = os.fork()
backend.add(b"counter", 1, 1000)
assert backend._opened is inherited if pid else backend._opened is not inherited
if pid:
    os.waitpid(pid, 0)
    print(backend.add(b"counter", 0, 1000))
"""


def test_a_connection_is_not_used_on_both_sides_of_a_fork(path):
    assert python(FORK, path).communicate(timeout=50) == ("3\n", "")


def test_a_store_that_was_only_asked_for_holds_no_file_open(path, clock):
    assert Sqlite(str(path), clock.wall)._opened is None


def test_a_file_that_is_locked_for_too_long_is_an_error_and_then_it_is_not(path, clock, monkeypatch):
    monkeypatch.setattr(store, "_SQLITE_SECONDS", 0.05)
    backend = Sqlite(str(path), clock.wall)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match=r"store\.sqlite: .*locked"):
            backend.put(b"key", b"x", 10)
    backend.put(b"key", b"x", 10)
    assert backend.get(b"key") == b"x"


class OthersOpenIt:
    """A connection to a new file that others make ready at this moment, so often."""

    def __init__(self, times, code=sqlite3.SQLITE_BUSY_RECOVERY):
        self.times = times
        self.code = code

    def execute(self, statement):
        if self.times:
            self.times -= 1
            error = sqlite3.OperationalError("database is locked")
            error.sqlite_errorcode = self.code
            raise error


def test_a_new_file_that_others_open_at_the_same_moment_is_waited_for():
    connection = OthersOpenIt(2)
    store._use_wal(connection)
    assert connection.times == 0


def test_a_new_file_is_not_waited_for_too_long_or_for_other_reasons(monkeypatch):
    with pytest.raises(sqlite3.OperationalError):
        store._use_wal(OthersOpenIt(1, sqlite3.SQLITE_READONLY))
    monkeypatch.setattr(store, "_SQLITE_SECONDS", 0.02)
    with pytest.raises(sqlite3.OperationalError):
        store._use_wal(OthersOpenIt(10**9))


def test_a_thread_does_not_wait_for_another_for_ever(path, clock, monkeypatch):
    monkeypatch.setattr(store, "_SQLITE_SECONDS", 0.05)
    backend = Sqlite(str(path), clock.wall)
    with backend._lock, pytest.raises(StoreError, match=r"busy for 0\.05 seconds"):
        backend.get(b"key")


def test_a_file_that_goes_bad_is_an_error_and_one_that_is_mended_is_none(path, clock):
    backend = Sqlite(str(path), clock.wall)
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(StoreError, match="not a database"):
        backend.get(b"key")
    path.unlink()
    backend.put(b"key", b"x", 10)
    assert backend.get(b"key") == b"x"


# Where it is


def test_the_setting_names_a_file_relative_to_the_config_directory(site, tmp_path):
    site(store="sqlite:../mine").store("test").put("key", b"x", 10)
    assert (tmp_path / "mine").is_file()
    assert site(store=f"sqlite:{tmp_path}/mine").store("test").get("key") == b"x"


def test_without_a_setting_it_is_in_a_directory_beside_the_config_directory_or_in_it(site, tmp_path, monkeypatch):
    if Path("/var/lib/qpsmtpd").is_dir():
        pytest.skip("/var/lib/qpsmtpd is there, and would be taken")
    site().store("test")
    assert (tmp_path / "config" / "store.sqlite").is_file()
    (tmp_path / "var" / "db").mkdir(parents=True)
    site().store("test")
    assert (tmp_path / "var" / "db" / "store.sqlite").is_file()


def test_a_directory_of_the_plugins_own_goes_before_the_setting(site, tmp_path):
    (tmp_path / "own").mkdir()
    mine = site(store="memory:")
    mine.store("test", str(tmp_path / "own")).put("key", b"x", 10)
    assert mine.store("test").get("key") is None
    assert (tmp_path / "own" / "store.sqlite").is_file()


def test_plugins_share_one_connection(site):
    mine = site(store="memory:")
    mine.store("test").put("key", b"x", 10)
    assert mine.store("test").get("key") == b"x"


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("sqlite:nowhere/file", "setting 'store': .*nowhere/file: .*No such file"),
        ("sqlite:.", "setting 'store': .*"),
        ("sqlite:bad", "setting 'store': .*bad: file is not a database"),
        ("sqlite:", "'sqlite:' is no store; one is sqlite:PATH, memory:, redis://HOST:PORT/DB or unix:PATH"),
        ("mysql://x", "'mysql://x' is no store"),
        ("redis:x", "'redis:x' is no store"),
        ("redis://localhost:port/0", "setting 'store': .*port"),
    ],
)
def test_what_cannot_be_used_is_told_at_the_start(site, tmp_path, place, message):
    mine = site(store=place)
    (tmp_path / "config" / "bad").write_bytes(b"no database" * 1000)
    with pytest.raises(ConfigError, match=message):
        mine.store("test")


def test_a_directory_that_is_not_there_is_told_at_the_start(site, tmp_path):
    with pytest.raises(ConfigError, match=r"no directory to keep a store in that we may write to: .*/nowhere"):
        site().store("test", str(tmp_path / "nowhere"))


# A Redis that does not do its part


@pytest.fixture
def silent(monkeypatch):
    """Where somebody listens and never answers."""
    monkeypatch.setattr(store, "_REDIS_SECONDS", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"redis://:secret@127.0.0.1:{listener.getsockname()[1]}/3"


def test_a_silent_redis_is_an_error_in_time_and_is_left_alone_for_a_while(silent, clock):
    backend, began = Redis(silent, clock), time.monotonic()
    with pytest.raises(StoreError, match=r"redis://127\.0\.0\.1:\d+/3: Timeout"):
        backend.get(b"key")
    assert time.monotonic() - began < 5
    for operation in (
        lambda: backend.add(b"key", 1, 10),
        lambda: backend.put(b"key", b"", 10),
        lambda: backend.delete(b"key"),
        lambda: backend.update(b"key", lambda old: (old, None), 10),
        lambda: list(backend.items(b"key")),
    ):
        with pytest.raises(StoreError, match="did not answer a moment ago"):
            operation()
    clock.advance(store._PAUSE)
    with pytest.raises(StoreError, match="Timeout"):
        backend.get(b"key")


def test_a_redis_that_is_not_there_is_an_error_without_its_password(clock):
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        with pytest.raises(StoreError) as caught:
            Redis(f"redis://user:secret@127.0.0.1:{holder.getsockname()[1]}/0", clock).get(b"key")
    assert "secret" not in str(caught.value)


def test_the_library_for_redis_may_be_missing(site, monkeypatch):
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(ConfigError, match=r"run `pip install 'qpsmtpd\[redis\]'`"):
        site(store="redis://127.0.0.1:6379/0").store("test")


def test_a_section_has_no_colon(path, clock):
    with pytest.raises(ValueError, match="colon"):
        Store(Sqlite(str(path), clock.wall), "one:two")


def test_an_overlay_reads_what_is_below_and_leaves_it_alone(path, clock):
    below = Sqlite(str(path), clock.wall)
    for key in (b"test:kept", b"test:changed", b"test:removed"):
        below.put(key, b"1", DAY)
    entries = Store(Overlay(below), "test")
    entries.put("new", b"new", DAY)
    entries.delete("removed")
    assert entries.update("changed", lambda old: (old + b"2", "result"), DAY) == "result"
    assert entries.update("kept", lambda old: (None, old), DAY) == b"1"
    assert [entries.add("counter", 2, DAY) for _ in range(2)] == [2, 4]
    assert entries.add("kept", 5, DAY) == 6
    assert [entries.get(key) for key in ("kept", "changed", "removed", "new")] == [b"6", b"12", None, b"new"]
    assert dict(entries.items()) == {"kept": b"6", "changed": b"12", "new": b"new", "counter": b"4"}
    assert dict(entries.items("k")) == {"kept": b"6"}
    assert dict(below.items(b"test:")) == {b"test:kept": b"1", b"test:changed": b"1", b"test:removed": b"1"}
