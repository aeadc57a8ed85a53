"""What `connection_time` writes."""

import pytest

from qpsmtpd.config import ConfigError


@pytest.mark.parametrize("args", ["", "LOGDEBUG", "5"])
def test_the_time_of_a_connection_is_logged_when_it_is_over(kit, args):
    stage = kit(f"connection_time {args}")
    client = stage.connect("192.0.2.7")
    stage.clock.advance(61.5)
    assert not stage.logged("connection time")
    client.say("QUIT")
    assert len(stage.logged("connection_time: connection time from 192.0.2.7: 61.500 s")) == 1


def test_each_connection_has_a_time_of_its_own(kit):
    stage = kit("connection_time")
    first = stage.connect("192.0.2.1")
    stage.clock.advance(10)
    second = stage.connect("192.0.2.2")
    stage.clock.advance(1)
    second.say("QUIT")
    first.say("QUIT")
    assert [line.partition("from ")[2] for line in stage.logged("connection time")] == [
        "192.0.2.2: 1.000 s\n", "192.0.2.1: 11.000 s\n",
    ]  # fmt: skip


def test_a_level_that_is_above_the_log_s_writes_nothing(kit):
    stage = kit("connection_time LOGDEBUG", config={"loglevel": ["LOGNOTICE"]})
    stage.connect().say("QUIT")
    assert not stage.logged("connection time")
    stage = kit("connection_time", config={"loglevel": ["LOGNOTICE"]})
    stage.connect().say("QUIT")
    assert stage.logged("connection time")


@pytest.mark.parametrize("args", ["LOGNOISE", "LOGINFO LOGINFO"])
def test_bad_arguments_are_seen_at_load(kit, args):
    with pytest.raises(ConfigError, match="plugins:1: connection_time: "):
        kit(f"connection_time {args}")
