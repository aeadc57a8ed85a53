"""When `noop_counter` has had enough."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qpsmtpd.config import ConfigError
from qpsmtpd.testing import Kit


def test_the_third_in_a_row_closes_the_connection(kit):
    stage = kit("noop_counter")
    client = stage.connect()
    assert [client.say("NOOP").code for _ in range(3)] == [250, 250, 500]
    assert client.closed
    assert stage.logged("noop_counter: fail, 3 NOOP commands in a row")


@pytest.mark.parametrize(("limit", "codes"), [(1, [500]), (4, [250, 250, 250, 500])])
def test_the_argument_is_the_limit(kit, limit, codes):
    client = kit(f"noop_counter {limit}").connect()
    assert [client.say("NOOP").code for _ in codes] == codes


@pytest.mark.parametrize(
    ("command", "counts_on"),
    [("HELO c.example", False), ("EHLO c.example", False), ("MAIL FROM:<a@c.example>", False), ("DATA", False),
     ("RSET", False), ("VRFY x", False), ("HELP", False), ("FROB", True)],
)  # fmt: skip
def test_other_commands_set_the_count_back_and_unknown_ones_do_not(kit, command, counts_on):
    client = kit("noop_counter").connect()
    client.say("EHLO c.example")
    client.send(b"NOOP\r\nNOOP\r\n")
    client.say(command)
    assert client.say("NOOP").code == (500 if counts_on else 250)


def test_a_recipient_sets_the_count_back(kit):
    client = kit("noop_counter 2").connect()
    for command in ("EHLO c.example", "MAIL FROM:<a@c.example>", "NOOP", "RCPT TO:<b@example.org>", "NOOP"):
        assert client.say(command).code == 250


def test_each_connection_has_a_count_of_its_own(kit):
    stage = kit("noop_counter 2")
    for client in [stage.connect() for _ in range(3)]:
        assert client.say("NOOP").code == 250


@pytest.mark.parametrize("word", ["0", "-1", "many", "²"])
def test_a_limit_that_is_no_number_of_1_or_more_is_refused(kit, word):
    with pytest.raises(ConfigError, match=r"plugins:1: noop_counter: .* is no number of 1 or more"):
        kit(f"noop_counter {word}")


@given(st.lists(st.sampled_from(["NOOP", "NOOP what ever", "RSET", "FROB"]), max_size=12))
def test_a_connection_is_closed_at_the_third_noop_in_a_row_and_not_before(commands):
    client = Kit("noop_counter").connect()
    row = 0
    for command in commands:
        row = 0 if command == "RSET" else row + command.startswith("NOOP")
        client.say(command)
        assert client.closed is (row == 3)
        if client.closed:
            break
