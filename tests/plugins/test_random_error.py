"""How often `random_error` refuses, and how."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qpsmtpd import OK, Plugin
from qpsmtpd.config import ConfigError
from qpsmtpd.testing import Kit


class Accepts(Plugin):
    def hook_rcpt(self, transaction, recipient, parameters):
        return OK

    def hook_queue(self, transaction):
        return OK


class Dice(random.Random):
    """Gives these numbers one after the other."""

    def __init__(self, *numbers):
        super().__init__()
        self._numbers = list(numbers)

    def random(self):
        return self._numbers.pop(0)


def test_with_a_hundred_percent_the_greeting_is_refused(kit):
    stage = kit("random_error 100")
    client = stage.connect()
    assert client.replies.startswith(b"421 ")
    assert client.closed
    assert stage.logged("random_error: fail, at random")


@pytest.mark.parametrize("percent", ["0", "-1"])
def test_it_may_be_switched_off(kit, percent):
    stage = kit(f"random_error {percent}")
    stage.site.rng = Dice()
    assert stage.connect().deliver()[-1].code == 250


@pytest.mark.parametrize(("dice", "closed"), [((0.9, 0.39), True), ((0.9, 0.4), False)])
@pytest.mark.parametrize("step", range(1, 6))
def test_each_step_may_fail_and_two_in_five_close_the_connection(kit, step, dice, closed):
    stage = kit("random_error 50")  # passes if below 0.8909
    stage.site.rng = Dice(*[0.89] * step, *dice)
    client = stage.connect()
    for command in ("EHLO c.example", "MAIL FROM:<a@c.example>", "RCPT TO:<b@example.org>", "DATA", "x: y\r\n\r\n."):
        reply = client.say(command)
        if reply.code >= 400:
            break
    assert reply.code in (421, 450, 451)
    assert client.closed is closed
    assert len([call for call in stage.trace if call.plugin == "random_error"]) == step + 1


def test_a_message_fails_as_often_as_the_argument_says(kit):
    stage = Kit("random_error 30", Accepts)
    stage.site.rng.seed(1)
    failed = 0
    for _ in range(600):
        client = stage.connect()
        for command in ("EHLO c", "MAIL FROM:<a@c>", "RCPT TO:<b@d>", "DATA", "x: y\r\n\r\n."):
            if client.closed or client.say(command).code >= 400:
                failed += 1
                break
    assert 0.25 < failed / 600 < 0.35


@pytest.mark.parametrize(("note", "code"), [(100, 450), (0, 250), ("nonsense", 250), (1e9, 450)])
def test_a_plugin_may_change_the_rate_for_a_client(kit, note, code):
    class Change(Plugin):
        def hook_connect(self, transaction):
            self.connection.notes["random_fail_%"] = note

    stage = kit(Change, "random_error 0")
    client = stage.connect()
    if client.closed:
        return
    stage.site.rng = Dice(0.5, 0.9)
    assert client.say("EHLO c.example").code == code


@pytest.mark.parametrize("word", ["many", "101", "nan", "inf"])
def test_a_bad_argument_is_seen_at_load(kit, word):
    with pytest.raises(ConfigError, match=r"plugins:1: random_error: .* is no number up to 100"):
        kit(f"random_error {word}")


@given(st.floats(max_value=100, allow_nan=False), st.integers())
def test_any_rate_and_any_chance_leads_to_a_reply(percent, seed):
    stage = Kit(f"random_error {percent!r}", Accepts)
    stage.site.rng.seed(seed)
    client = stage.connect()
    assert client.replies[:3] in (b"220", b"421")
    assert not stage.logged("failed")
