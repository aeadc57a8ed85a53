"""SQLite and a real Redis do what a dict does."""

import hashlib
import os
import signal

import pytest
import servers
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from qpsmtpd import store
from qpsmtpd.store import Redis, Sqlite, Store, StoreError
from qpsmtpd.testing.memory import Clock

KEYS = ("", "a", "ab", "a*b", "a?[b]\\", "\udcff", "ä\n", "x" * 200, "x" * 201, "ä" * 150, "#", "#a", "a#")
PREFIXES = ("", "a", "a*", "a?[", "x", "#", "\udcff", "b")
SECTIONS = ("one", "one.a", "two*")
LONG = 1000

values = st.binary(max_size=20)
keys = st.tuples(st.sampled_from(SECTIONS), st.sampled_from(KEYS))
counters = st.tuples(st.sampled_from(SECTIONS), st.sampled_from(("n", "n" * 300)))


def listed(key):
    octets = key.encode("utf-8", "surrogateescape")
    if len(octets) <= 200 and not key.startswith("#"):
        return key
    return "#" + hashlib.sha256(octets).hexdigest()


class Model(RuleBasedStateMachine):
    """A store beside a dict from (section, key) to (value, end)."""

    backend = None
    clock = None  # where time can be moved

    def __init__(self):
        super().__init__()
        self.model = {}

    @initialize()
    def begin(self):
        for section in SECTIONS:
            for key, _ in list(self.store(section).items()):
                self.backend.delete(f"{section}:{key}".encode("utf-8", "surrogateescape"))

    def store(self, section):
        return Store(self.backend, section)

    def now(self):
        return self.clock.now if self.clock else 0.0

    def expected(self, where):
        value, end = self.model.get(where, (None, 0.0))
        return value if end > self.now() else None

    @rule(where=keys, value=values, ttl=st.integers(LONG, 2 * LONG))
    def put(self, where, value, ttl):
        self.store(where[0]).put(where[1], value, ttl)
        self.model[where] = value, self.now() + ttl

    @rule(where=st.one_of(keys, counters))
    def get(self, where):
        assert self.store(where[0]).get(where[1]) == self.expected(where)

    @rule(where=st.one_of(keys, counters))
    def delete(self, where):
        self.store(where[0]).delete(where[1])
        self.model.pop(where, None)

    @rule(where=keys, more=st.none() | values, ttl=st.integers(LONG, 2 * LONG))
    def update(self, where, more, ttl):
        old = self.expected(where)
        new = None if more is None else ((old or b"") + more)[:100]
        seen = self.store(where[0]).update(where[1], lambda value: (new, value), ttl)
        assert seen == old
        if new is not None:
            self.model[where] = new, self.now() + ttl

    @rule(where=counters, number=st.integers(-1000, 1000), ttl=st.integers(LONG, 2 * LONG))
    def add(self, where, number, ttl):
        old = self.expected(where)
        total = int(old or 0) + number
        assert self.store(where[0]).add(where[1], number, ttl) == total
        self.model[where] = str(total).encode(), self.now() + ttl if old is None else self.model[where][1]

    @rule(section=st.sampled_from(SECTIONS), prefix=st.sampled_from(PREFIXES))
    def items(self, section, prefix):
        found = list(self.store(section).items(prefix))
        assert len(found) == len(dict(found))
        assert dict(found) == {
            listed(key): self.expected((owner, key))
            for owner, key in self.model
            if owner == section and listed(key).startswith(prefix) and self.expected((owner, key)) is not None
        }

    @precondition(lambda self: self.clock is not None)
    @rule(seconds=st.integers(0, LONG))
    def wait(self, seconds):
        self.clock.advance(seconds)


def check(backend, clock=None):
    machine = type("Model", (Model,), {"backend": backend, "clock": clock})
    few = settings(max_examples=40, stateful_step_count=25, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(machine, settings=few)


def test_sqlite_is_like_a_dict(tmp_path):
    clock = Clock()
    check(Sqlite(str(tmp_path / "store"), clock.wall), clock)


def test_sqlite_in_memory_is_like_a_dict():
    clock = Clock()
    check(Sqlite(":memory:", clock.wall), clock)


def test_redis_is_like_a_dict(redis):
    check(Redis(redis.url, Clock()))


def test_redis_by_a_unix_socket(redis, tmp_path):
    backend = store.open_backend(f"unix:{redis.path}", tmp_path, Clock().wall, Clock())
    backend.put(b"key", b"value", 10)
    assert Redis(redis.url, Clock()).get(b"key") == b"value"


def test_redis_keeps_an_entry_as_long_as_it_was_said(redis):
    backend = Redis(redis.url, Clock())
    backend.delete(b"counter")
    backend.put(b"value", b"", 1000)
    backend.update(b"changed", lambda old: (b"", None), 2000)
    backend.add(b"counter", 1, 3000)
    backend.add(b"counter", 1, 9000)
    left = [backend._client.pttl(b"qpsmtpd:" + key) for key in (b"value", b"changed", b"counter")]
    assert all(0 <= wanted - milliseconds < 60_000 for wanted, milliseconds in zip((1e6, 2e6, 3e6), left, strict=True))


def test_a_change_in_redis_that_others_disturb_is_done_again(redis):
    backend, other = Redis(redis.url, Clock()), Redis(redis.url, Clock())
    backend.put(b"key", b"0", 10)
    seen = []

    def change(old):
        seen.append(old)
        if len(seen) == 1:
            other.put(b"key", b"1", 10)
        return old + b"x", old

    assert backend.update(b"key", change, 10) == b"1"
    assert (seen, backend.get(b"key")) == ([b"0", b"1"], b"1x")


def test_a_change_in_redis_is_given_up_in_the_end(redis):
    backend, other = Redis(redis.url, Clock()), Redis(redis.url, Clock())

    def change(old):
        other.add(b"disturbed", 1, 10)
        return b"never", None

    with pytest.raises(StoreError, match="others change the same entry all the time"):
        backend.update(b"disturbed", change, 10)
    assert backend.get(b"disturbed") != b"never"
    backend.delete(b"disturbed")


def test_a_change_in_redis_takes_no_longer_than_it_may(redis):
    clock = Clock()
    backend, other = Redis(redis.url, clock), Redis(redis.url, Clock())
    tries = []

    def change(old):
        tries.append(old)
        other.add(b"slow", 1, 10)
        clock.advance(store._UPDATE_SECONDS)
        return b"never", None

    with pytest.raises(StoreError):
        backend.update(b"slow", change, 10)
    assert len(tries) == 2
    backend.delete(b"slow")


def test_what_is_no_counter_in_redis_is_an_error(redis):
    backend = Redis(redis.url, Clock())
    backend.put(b"key", b"value", 10)
    with pytest.raises(StoreError):
        backend.add(b"key", 1, 10)
    assert backend.get(b"key") == b"value"


def test_a_redis_that_is_killed_is_an_error(own_redis):
    with own_redis() as server:
        backend = Redis(server.url, Clock())
        backend.put(b"key", b"value", 10)
        os.kill(server.process.pid, signal.SIGKILL)
        servers.wait_for(lambda: servers.ended(server.process), lambda: "it does not end")
        with pytest.raises(StoreError):
            backend.get(b"key")
        with pytest.raises(StoreError, match="a moment ago"):
            backend.get(b"key")
