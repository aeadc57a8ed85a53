"""Who is connected, counted in one process and across workers."""

import os
import random
import sys
import threading
import warnings
from collections import Counter

import pytest

from qpsmtpd.census import Census, Regions, WorkerCensus


@pytest.fixture
def workers():
    regions = Regions(3)
    return regions, [WorkerCensus(regions, number) for number in range(3)]


def test_a_census_counts_in_and_out():
    census = Census()
    for address in ("192.0.2.1", "192.0.2.1", "2001:db8::1"):
        census.enter(address)
    assert (census.total, census.count("192.0.2.1"), census.count("::")) == (3, 2, 0)
    assert Counter(census.addresses()) == {"192.0.2.1": 2, "2001:db8::1": 1}
    for address in ("192.0.2.1", "192.0.2.1", "2001:db8::1"):
        census.leave(address)
    assert (census.total, census.connected) == (0, {})


@pytest.mark.parametrize("shared", [False, True])
def test_a_census_is_right_after_many_threads(shared):
    regions = Regions(1)
    census = WorkerCensus(regions, 0) if shared else Census()

    def come_and_go():
        for _ in range(2000):
            census.enter("a")
            census.leave("a")

    threads = [threading.Thread(target=come_and_go) for _ in range(8)]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert (census.total, census.count("a"), census.connected, census.addresses()) == (0, 0, {}, ())


def test_workers_count_together(workers):
    _, (one, two, three) = workers
    one.enter("192.0.2.1")
    two.enter("192.0.2.1")
    two.enter("192.0.2.10")
    for census in (one, two, three):
        assert (census.total, census.count("192.0.2.1"), census.count("192.0.2.10")) == (3, 2, 1)
        assert Counter(census.addresses()) == {"192.0.2.1": 2, "192.0.2.10": 1}
    two.leave("192.0.2.1")
    assert (three.total, three.count("192.0.2.1")) == (2, 1)


@pytest.mark.parametrize(
    "address",
    ["", "@", "unknown", "\udcff", "fe80::1234:5678:9abc:def0%interface-name0", "x" * 200, "\0", "ä"],
    ids=ascii,
)
def test_what_is_no_address_is_counted_too(workers, address):
    _, (one, two, _) = workers
    one.enter("192.0.2.1")
    one.enter(address)
    assert (two.total, two.count(address), two.count("192.0.2.1")) == (2, 1, 1)
    one.leave(address)
    assert (two.total, two.count(address)) == (1, 0)
    assert two.addresses() == ("192.0.2.1",)


def test_any_order_of_events_gives_what_a_counter_gives(workers):
    _, censuses = workers
    rng, inside = random.Random(1), [Counter() for _ in censuses]
    addresses = ["", "@@", *(f"192.0.2.{number}" for number in range(30))]
    for _ in range(3000):
        number, address = rng.randrange(3), rng.choice(addresses)
        if inside[number][address] and rng.random() < 0.5:
            censuses[number].leave(address)
            inside[number][address] -= 1
        else:
            censuses[number].enter(address)
            inside[number][address] += 1
        together = sum(inside, Counter())
        assert censuses[0].total == together.total()
        assert censuses[1].count(address) == together[address]
    assert Counter(censuses[2].addresses()) == together


def test_the_connections_of_a_worker_that_has_ended_are_forgotten(workers):
    regions, (one, two, three) = workers
    for address in ("192.0.2.1", "192.0.2.2", "192.0.2.2"):
        two.enter(address)
    three.enter("192.0.2.2")
    regions.clear(1)
    assert (one.total, one.count("192.0.2.1"), one.count("192.0.2.2")) == (1, 0, 1)
    successor = WorkerCensus(regions, 1)
    successor.enter("192.0.2.3")
    successor.enter("192.0.2.1")
    assert Counter(one.addresses()) == {"192.0.2.1": 1, "192.0.2.2": 1, "192.0.2.3": 1}


def test_an_entry_is_used_again(workers, monkeypatch):
    monkeypatch.setattr(Regions, "ENTRIES", 2)
    _, (one, two, _) = workers
    for number in range(100):
        one.enter(f"192.0.2.{number}")
        assert two.count(f"192.0.2.{number}") == 1
        one.leave(f"192.0.2.{number}")
    assert two.addresses() == ()


def test_where_there_is_no_room_an_address_counts_in_its_own_worker_alone(monkeypatch):
    monkeypatch.setattr(Regions, "ENTRIES", 2)
    regions = Regions(2)
    one, two = WorkerCensus(regions, 0), WorkerCensus(regions, 1)
    for address in "abcc":
        one.enter(address)
    assert (one.count("c"), two.count("c"), two.total) == (2, 0, 4)
    one.leave("a")
    one.enter("c")  # there is room now
    assert (one.count("c"), two.count("c"), two.total) == (3, 3, 4)
    two.enter("c")
    assert one.count("c") == 4
    for address in "bccc":
        one.leave(address)
    assert (two.total, two.addresses()) == (1, ("c",))


def test_two_that_come_at_the_same_time_are_never_both_let_in():
    """Each of two processes counts itself in, then looks: at least one sees both."""
    rounds = 3000
    regions = Regions(4)  # 2 and 3 are used as flags that say how far a process is
    to_parent, from_child = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of other tests' threads, which the child does not need
        child = os.fork()
    if not child:
        try:
            os.write(from_child, bytes(_enter_and_look(regions, 1, 0, rounds)))
        finally:
            os._exit(0)
    seen = _enter_and_look(regions, 0, 1, rounds)
    others = b""
    while len(others) < rounds:
        others += os.read(to_parent, rounds)
    assert os.waitpid(child, 0)[1] == 0
    os.close(to_parent)
    os.close(from_child)
    assert set(seen) | set(others) <= {1, 2}
    assert all(2 in pair for pair in zip(seen, others, strict=True))


def _enter_and_look(regions, own, other, rounds):
    census, seen = WorkerCensus(regions, own), []

    def meet(stage):
        regions.set_total(2 + own, stage)
        while regions._totals[2 + other] < stage:
            os.sched_yield()

    for number in range(rounds):
        meet(2 * number + 1)
        census.enter("192.0.2.1")
        seen.append(census.count("192.0.2.1"))
        meet(2 * number + 2)
        census.leave("192.0.2.1")
    return seen
