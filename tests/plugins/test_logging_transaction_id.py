"""What `logging/transaction_id` writes, and in front of what."""

import pytest

from qpsmtpd import LOGALERT, Plugin
from qpsmtpd.config import ConfigError


class Talker(Plugin):
    def hook_noop(self, transaction):
        for level in range(8):
            self.log(level, f"level {level}\nnext line")

    def hook_queue_pre(self, transaction):
        self.log(LOGALERT, "here is a message")


def lines(capsys, word):
    return [text for text in capsys.readouterr().err.splitlines() if word in text]


@pytest.mark.parametrize(("word", "last"), [("", 4), ("0", 0), ("LOGINFO", 6), ("debug", 7)])
def test_messages_up_to_the_level_are_written_behind_the_id_of_the_transaction(kit, capsys, word, last):
    made = kit(Talker, config={"logging": (f"logging/transaction_id {word}",), "loglevel": ("0",)})
    client = made.connect()
    client.say("NOOP")
    assert lines(capsys, "level") == [
        rf"{client.transaction.id} (noop) Talker: level {level}\x0anext line" for level in range(last + 1)
    ]
    assert made.log == []


def test_each_message_of_a_connection_has_an_id_of_its_own_which_its_trace_field_has_too(kit, capsys):
    class Keeper(Plugin):
        traces = ()

        def hook_queue(self, transaction):
            Keeper.traces += (transaction.header.get("Received"),)

    client = kit(Talker, Keeper, config={"logging": ("logging/transaction_id",)}).connect()
    client.deliver()
    client.deliver()
    first, second = (text.split()[0] for text in lines(capsys, "here is a message"))
    assert first != second
    assert first.startswith(f"{client.connection.id}.")
    assert f" id {first}\r\n" in Keeper.traces[0]
    assert f" id {second}\r\n" in Keeper.traces[1]


def test_outside_of_connections_no_process_is_named(kit, capsys):
    made = kit(config={"logging": ("logging/transaction_id",)})
    made.site.log(LOGALERT, "the moon is full")
    assert lines(capsys, "") == ["- the moon is full"]


def test_further_logging_plugins_write_too(kit, capsys):
    kit(Talker, config={"logging": ("logging/transaction_id 0", "logging/warn 0")}).connect().say("NOOP")
    assert len(lines(capsys, "level 0")) == 2


def test_a_word_that_is_no_level_is_refused(kit):
    with pytest.raises(ConfigError, match="logging/transaction_id: 'LOGSOME' is no log level"):
        kit(config={"logging": ("logging/transaction_id LOGSOME",)})
