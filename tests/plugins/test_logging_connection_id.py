"""What `logging/connection_id` writes, and in front of what."""

import re

import pytest

from qpsmtpd import LOGALERT, Plugin
from qpsmtpd.config import ConfigError


class Talker(Plugin):
    def hook_noop(self, transaction):
        for level in range(8):
            self.log(level, f"level {level}\nnext line")


def lines(capsys):
    return capsys.readouterr().err.splitlines()


@pytest.mark.parametrize(("word", "last"), [("", 4), ("0", 0), ("LOGINFO", 6), ("debug", 7)])
def test_messages_up_to_the_level_are_written_behind_the_id_of_the_connection(kit, capsys, word, last):
    made = kit(Talker, config={"logging": (f"logging/connection_id {word}",), "loglevel": ("0",)})
    client = made.connect()
    client.say("NOOP")
    assert [text for text in lines(capsys) if "level" in text] == [
        rf"{client.connection.id} (noop) Talker: level {level}\x0anext line" for level in range(last + 1)
    ]
    assert made.log == []


def test_lines_of_two_clients_can_be_told_apart(kit, capsys):
    made = kit(Talker, config={"logging": ("logging/connection_id 0",)})
    clients = [made.connect(), made.connect()]
    for client in clients:
        client.say("NOOP")
    words = [text.split()[0] for text in lines(capsys) if "level" in text]
    assert words == [client.connection.id for client in clients]
    assert len(set(words)) == 2


def test_outside_of_connections_no_process_is_named(kit, capsys):
    made = kit(config={"logging": ("logging/connection_id",)})
    made.site.log(LOGALERT, "the moon is full")
    assert lines(capsys) == ["- the moon is full"]


def test_the_first_line_of_a_connection_is_preceded_by_the_address_of_the_client(kit, capsys):
    client = kit(Talker, config={"logging": ("logging/connection_id LOGEMERG",)}).connect("192.0.2.77")
    assert lines(capsys) == []
    for _ in range(2):
        client.say("NOOP")
    first, *others = lines(capsys)
    assert first == f"{client.connection.id} connected, 192.0.2.77:40000"
    assert len(others) == 2
    assert not any("connected" in text for text in others)


def test_where_the_server_says_who_has_connected_it_is_said_once(kit, capsys):
    kit(Talker, config={"logging": ("logging/connection_id LOGINFO",)}).connect().say("NOOP")
    assert sum("connected, " in text for text in lines(capsys)) == 1


def test_an_address_cannot_break_the_line(kit, capsys):
    kit(Talker, config={"logging": ("logging/connection_id 0",)}).connect("fe80::1%a\nb").say("NOOP")
    assert re.fullmatch(r"\S+ connected, fe80::1%a\\x0ab:40000", lines(capsys)[0])


def test_further_logging_plugins_write_too(kit, capsys):
    kit(Talker, config={"logging": ("logging/connection_id 0", "logging/warn 0")}).connect().say("NOOP")
    assert sum("level 0" in text for text in lines(capsys)) == 2


def test_a_word_that_is_no_level_is_refused(kit):
    with pytest.raises(ConfigError, match="logging/connection_id: 'LOGSOME' is no log level"):
        kit(config={"logging": ("logging/connection_id LOGSOME",)})
