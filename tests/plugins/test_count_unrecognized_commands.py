"""When `count_unrecognized_commands` has had enough."""

import pytest

from qpsmtpd.config import ConfigError


@pytest.mark.parametrize(("line", "limit"), [("", 4), (" 2", 2), (" 1", 1)])
def test_the_last_one_closes_the_connection_and_good_commands_do_not_count(kit, line, limit):
    client = kit(f"count_unrecognized_commands{line}").connect()
    for _ in range(limit - 1):
        assert client.send(b"FROB\r\n").startswith(b"500")
        assert client.send(b"NOOP\r\n").startswith(b"250")
    assert client.send(b"FROB\r\nNOOP\r\n").startswith(b"521")
    assert client.closed
    assert client.replies.count(b"\r\n") == 2 * limit
    assert client.connection.notes["unrec_cmd_count"] == limit


def test_each_connection_has_a_count_of_its_own(kit):
    stage = kit("count_unrecognized_commands 2")
    for _ in range(3):
        client = stage.connect()
        assert client.send(b"FROB\r\n").startswith(b"500")
        assert client.connection.notes["unrec_cmd_count"] == 1


@pytest.mark.parametrize("word", ["0", "-1", "many", "²", "٣"])
def test_a_limit_that_is_no_number_of_1_or_more_is_refused(kit, word):
    with pytest.raises(ConfigError, match=r"plugins:1: count_unrecognized_commands: .* is no number of 1 or more"):
        kit(f"count_unrecognized_commands {word}")
