"""When `loadcheck` lets clients in."""

import os

import pytest

from qpsmtpd.config import ConfigError


@pytest.fixture
def load(monkeypatch):
    """Set the load; `asked` counts how often it was asked for."""

    class Load:
        now, asked = 0.0, 0

        def __call__(self):
            self.asked += 1
            return self.now, 99.0, 99.0

    load = Load()
    monkeypatch.setattr(os, "getloadavg", load)
    return load


@pytest.mark.parametrize(("args", "most"), [("", 7), ("max_load 0.5", 0.5), ("max_load 3 uptime /usr/bin/uptime", 3)])
def test_nobody_is_let_in_while_the_load_is_too_high(kit, load, args, most):
    stage = kit(f"loadcheck {args}")
    load.now = most
    assert stage.connect().replies.startswith(b"220 ")
    stage.clock.advance(10)
    load.now = most + 0.01
    client = stage.connect()
    assert (client.replies[:4], client.closed) == (b"421 ", True)
    assert stage.logged(f"loadcheck: fail, the load is {load.now:.2f}")
    stage.clock.advance(10)
    load.now = 0
    assert stage.connect().replies.startswith(b"220 ")


def test_the_load_is_asked_for_now_and_then(kit, load):
    stage = kit("loadcheck cache_time 30")
    for _ in range(5):
        stage.connect()
    assert load.asked == 1
    stage.clock.advance(29)
    stage.connect()
    assert load.asked == 1
    stage.clock.advance(1)
    stage.connect()
    assert load.asked == 2


@pytest.mark.parametrize("args", ["max_load x", "max_load -1", "max_load nan", "cache_time 0", "7", "most 3"])
def test_bad_arguments_are_seen_at_load(kit, args):
    with pytest.raises(ConfigError, match="plugins:1: loadcheck: "):
        kit(f"loadcheck {args}")
