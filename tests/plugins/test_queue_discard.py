"""What becomes of a message with `queue/discard`."""

import pytest

from qpsmtpd import Plugin
from qpsmtpd.config import ConfigError

CONTENT = b"Message-Id: <a@b>\r\nSubject: x\r\n\r\nbody\r\n"


class Marks(Plugin):
    def hook_data_post(self, transaction):
        transaction.notes["discard_mail"] = transaction.header.get("Subject") == "x"


def test_a_message_is_accepted_and_nothing_is_kept(kit):
    made = kit("queue/discard")
    replies = made.connect().deliver(b"Subject: x\r\n\r\nbody\r\n")
    assert (replies[-1].code, replies[-1].text) == (250, "Queued! (discarded)")
    assert made.logged("(queue) queue::discard: pass, discarded 20 octets\n")


def test_marked_messages_alone_are_thrown_away_and_the_client_does_not_see_it(kit):
    client = kit(Marks, "queue/discard marked").connect()
    assert client.deliver(CONTENT)[-1].text == "Queued! <a@b>"
    assert client.deliver(CONTENT.replace(b"Subject: x", b"Subject: y"))[-1].text == "taken by base"
    assert client.deliver(CONTENT)[-1].text == "Queued! <a@b>"


def test_without_a_mark_nothing_is_thrown_away(kit):
    assert kit("queue/discard marked").connect().deliver(CONTENT)[-1].text == "taken by base"


def test_another_word_is_refused_at_load(kit):
    with pytest.raises(ConfigError, match="plugins:1: queue/discard: 'some' is neither"):
        kit("queue/discard some")
