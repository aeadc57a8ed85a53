"""The loop within the loop: what is called, and when."""

import itertools
import socket

import pytest

from qpsmtpd.transports import reactor as reactor_module
from qpsmtpd.transports.reactor import Reactor


@pytest.fixture
def around():
    """What the loop around has been asked to call."""
    return []


@pytest.fixture
def reactor(around):
    made = Reactor(around.append, lambda delay, callback: None)
    yield made
    made.close()


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_who_is_to_read_is_called_while_there_is_something(reactor, pair):
    ours, theirs = pair
    called = []
    reactor.add_reader(ours.fileno(), lambda: called.append("read"))
    reactor.turn()
    assert not called
    theirs.send(b"x")
    reactor.turn()
    reactor.turn()
    assert called == ["read", "read"]
    reactor.remove_reader(ours.fileno())
    reactor.turn()
    assert called == ["read", "read"]


def test_reading_and_writing_are_asked_for_and_left_one_by_one(reactor, pair):
    ours, theirs = pair
    called = []
    descriptor = ours.fileno()
    theirs.send(b"x")
    reactor.add_writer(descriptor, lambda: called.append("write"))
    reactor.add_reader(descriptor, lambda: called.append("read"))
    reactor.turn()
    assert sorted(called) == ["read", "write"]
    reactor.remove_reader(descriptor)
    reactor.turn()
    assert called[2:] == ["write"]
    reactor.remove_writer(descriptor)
    reactor.remove_writer(descriptor)  # once more makes no difference
    reactor.turn()
    assert len(called) == 3


def test_who_has_been_removed_in_this_turn_is_not_called(reactor, pair):
    called = []

    def read(own, other):
        called.append(own.fileno())
        reactor.remove_reader(other.fileno())

    ours, theirs = pair
    reactor.add_reader(ours.fileno(), lambda: read(ours, theirs))
    reactor.add_reader(theirs.fileno(), lambda: read(theirs, ours))
    ours.send(b"x")
    theirs.send(b"x")
    reactor.turn()
    assert len(called) == 1


def test_soon_is_the_end_of_the_turn_or_the_loop_around(reactor, around, pair):
    ours, theirs = pair
    called = []

    def read():
        reactor.call_soon(lambda: called.append("soon"))
        called.append("read")

    reactor.add_reader(ours.fileno(), read)
    theirs.send(b"x")
    reactor.turn()
    assert called == ["read", "soon"]
    assert not around
    reactor.call_soon(lambda: called.append("outside"))
    assert called == ["read", "soon"]
    (call,) = around
    call()
    assert called[2:] == ["outside"]


def test_what_is_due_soon_does_not_wait_for_a_long_turn_and_comes_within_no_other_call(reactor, pair, monkeypatch):
    ticks = itertools.count()
    monkeypatch.setattr(reactor_module, "monotonic", lambda: float(next(ticks)))
    called = []

    def read(name):
        called.append(f"{name} begins")
        reactor.call_soon(lambda: called.append(f"soon of {name}"))
        called.append(f"{name} ends")

    ours, theirs = pair
    reactor.add_reader(ours.fileno(), lambda: read("one"))
    reactor.add_reader(theirs.fileno(), lambda: read("the other"))
    ours.send(b"x")
    theirs.send(b"x")
    reactor.turn()
    first, second = ("one", "the other") if called[0].startswith("one") else ("the other", "one")
    expected = [[f"{name} begins", f"{name} ends", f"soon of {name}"] for name in (first, second)]
    assert [called[:3], called[3:]] == expected


def test_one_of_those_due_soon_that_fails_takes_no_other_along(reactor, around):
    called = []

    def fail():
        raise RuntimeError("a fault")

    reactor.call_soon(fail)
    reactor.call_soon(lambda: called.append("soon"))
    with pytest.raises(RuntimeError, match="a fault"):
        around.pop(0)()
    while around:
        around.pop(0)()
    assert called == ["soon"]


def test_what_cannot_be_watched_is_not_taken_for_watched(reactor, pair):
    ours, _ = pair
    descriptor = ours.fileno()
    ours.close()
    with pytest.raises(OSError):
        reactor.add_reader(descriptor, lambda: None)
    reactor.remove_reader(descriptor)


def test_a_reactor_that_is_closed_has_nothing_to_remove(reactor, pair):
    ours, _ = pair
    reactor.add_reader(ours.fileno(), lambda: None)
    reactor.close()
    reactor.remove_reader(ours.fileno())


def test_a_callback_that_fails_takes_no_other_along(reactor, pair):
    ours, theirs = pair
    called = []

    def fail():
        reactor.call_soon(lambda: called.append("soon"))
        raise RuntimeError("a fault")

    reactor.add_reader(ours.fileno(), fail)
    theirs.send(b"x")
    with pytest.raises(RuntimeError, match="a fault"):
        reactor.turn()
    assert called == ["soon"]
    reactor.add_reader(ours.fileno(), lambda: called.append("read"))
    reactor.turn()
    assert called == ["soon", "read"]
