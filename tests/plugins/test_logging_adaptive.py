"""What `logging/adaptive` writes at once, and what once more when it has gone well."""

import re

import pytest

from qpsmtpd import DECLINED, DENY, DENYSOFT, LOGERROR, LOGINFO, OK, Plugin
from qpsmtpd.config import ConfigError
from qpsmtpd.plugins.logging import adaptive


class Talker(Plugin):
    def hook_noop(self, transaction):
        for level in range(8):
            self.log(level, f"level {level}\nnext line")


class Mentioner(Plugin):
    """Says a word in each of these hooks."""

    def hook_connect(self, transaction):
        self.log(LOGERROR, "at connect")

    def hook_mail(self, transaction, sender, parameters):
        self.log(LOGERROR, f"mail from {sender.user}")

    def hook_queue(self, transaction):
        self.log(LOGERROR, "at queue")

    def hook_noop(self, transaction):
        self.log(LOGERROR, "at noop")


class Judge(Plugin):
    """Refuses what is called bad."""

    def hook_helo(self, transaction, host):
        return DENY if "bad" in host else DECLINED

    def hook_help(self, transaction, subject=""):
        return DENY

    def hook_mail(self, transaction, sender, parameters):
        return DENY if "badsender" in sender.user else DECLINED

    def hook_rcpt(self, transaction, recipient, parameters):
        return DENY if "bad" in recipient.user else OK

    def hook_queue(self, transaction):
        if "raise" in transaction.sender.user:
            raise OSError
        return {"bad": DENY, "soft": DENYSOFT}.get(transaction.sender.user, OK)


@pytest.fixture
def play(kit, capsys):
    """Play with one `logging/adaptive`; what it has written is then in `written`."""

    class Play:
        def __init__(self, words, *plugins):
            self.kit = kit(*plugins, config={"logging": (f"logging/adaptive {words}",), "loglevel": ("0",)})
            self.client = self.kit.connect()

        @property
        def written(self):
            return capsys.readouterr().err.splitlines()

        @property
        def again(self):
            """What was written behind the prefix, from the name of the plugin on."""
            return [text.split(") ", 1)[-1] for text in self.written if text.startswith("`")]

    yield Play
    capsys.readouterr()


@pytest.mark.parametrize(
    ("words", "at_once", "again"),
    [
        ("", range(5), range(4)),
        ("accept 3 reject 6", range(7), range(4)),
        ("reject 7", range(8), range(4)),
        ("accept LOGINFO reject LOGCRIT", range(3), range(7)),
        ("accept 0 reject 0", range(1), range(1)),
    ],
)
def test_what_was_written_at_once_is_written_again_at_the_end_up_to_a_level_of_its_own(play, words, at_once, again):
    made = play(words, Talker)
    made.client.say("EHLO client.example")
    made.client.say("NOOP")
    line = rf"{made.client.connection.id} (noop) Talker: level %d\x0anext line"
    assert [text for text in made.written if "level" in text] == [line % level for level in at_once]
    made.client.say("QUIT")
    assert [text for text in made.written if "level" in text] == ["`" + line % level for level in again]
    assert made.kit.log == []


def test_the_prefix_can_be_chosen(play):
    made = play("prefix accepted: accept 0 reject 0", Talker)
    made.client.say("NOOP")
    made.client.say("QUIT")
    line = rf"{made.client.connection.id} (noop) Talker: level 0\x0anext line"
    assert made.written == [line, f"accepted:{line}"]


def test_an_accepted_message_is_told_in_one_piece_when_it_is_queued(play):
    made = play("", Mentioner)
    made.client.say("EHLO client.example")
    assert made.again == []
    before = ["Mentioner: at connect"]
    for sender in "ab":
        made.client.deliver(sender=f"{sender}@client.example")
        assert made.again == [*before, f"Mentioner: mail from {sender}", "Mentioner: at queue"]
        before = []


@pytest.mark.parametrize("sender", ["bad", "soft", "raise"])
def test_a_message_that_is_not_queued_is_not_told_again(play, sender):
    made = play("", Mentioner, Judge)
    codes = [reply.code for reply in made.client.deliver(sender=f"{sender}@client.example")]
    assert codes[:-1] == [250, 250, 250, 354]
    assert codes[-1] >= 400
    made.client.say("QUIT")
    assert made.again == ["Mentioner: at connect"]


def test_a_message_that_the_client_does_not_send_is_not_told_again(play):
    made = play("", Mentioner)
    for line in ("EHLO client.example", "MAIL FROM:<a@b.example>", "RSET", "MAIL FROM:<c@d.example>"):
        made.client.say(line)
    made.client.send(b"")
    assert made.client.closed
    assert made.again == ["Mentioner: at connect"]


def test_a_refused_recipient_does_not_hide_that_the_message_was_accepted(play):
    made = play("", Mentioner, Judge)
    codes = [reply.code for reply in made.client.deliver(recipients=("bad@example.org", "b@example.org"))]
    assert codes == [250, 250, 550, 250, 354, 250]
    assert made.again == ["Mentioner: at connect", "Mentioner: mail from a", "Mentioner: at queue"]


def test_notes_of_other_plugins_are_no_answers_of_the_hook_queue(play):
    class Noter(Plugin):
        def hook_mail(self, transaction, sender, parameters):
            transaction.notes |= {"word": "x", "table": {"hook_queue": 1}}

    made = play("", Noter, Mentioner)
    made.client.deliver()
    assert made.again[-1] == "Mentioner: at queue"


@pytest.mark.parametrize(
    ("commands", "again"),
    [
        (["HELO bad.example"], ["Mentioner: at noop"]),
        (["HELP"], ["Mentioner: at noop"]),
        (["HELO good.example", "MAIL FROM:<badsender@b.example>"], ["Mentioner: at connect", "Mentioner: at noop"]),
    ],
)
def test_what_comes_before_a_refusal_is_not_told_again_but_what_comes_after_the_reset_is(play, commands, again):
    made = play("", Mentioner, Judge)
    assert [made.client.say(command).code for command in commands][-1] in (500, 550)
    for command in ("RSET", "NOOP", "QUIT"):
        made.client.say(command)
    assert made.again == again


def test_what_two_clients_do_is_not_mixed(play):
    made = play("", Mentioner, Judge)
    other = made.kit.connect()
    for client in (made.client, other):
        client.say("EHLO client.example")
    made.client.say("MAIL FROM:<bad@b.example>")
    other.deliver(sender="good@b.example")
    lines = [text for text in made.written if text.startswith("`") and "mail from" in text]
    assert lines == [f"`{other.connection.id} (mail) Mentioner: mail from good"]


def test_two_of_them_hold_back_each_for_itself(kit, capsys):
    lines = ("logging/adaptive:0 prefix a: accept 0 reject 0", "logging/adaptive:1 prefix b: accept 1 reject 0")
    client = kit(Talker, config={"logging": lines}).connect()
    client.say("NOOP")
    client.say("QUIT")
    again = re.findall(r"^([ab]):.*level (\d)", capsys.readouterr().err, re.MULTILINE)
    assert again == [("a", "0"), ("b", "0"), ("b", "1")]


def test_outside_of_connections_messages_are_only_written_at_once(play):
    made = play("")
    made.kit.site.log(LOGERROR, "the moon is full")
    made.client.say("QUIT")
    assert [text.split(" ", 1)[1] for text in made.written] == ["the moon is full"]
    assert made.kit.log == []


def test_further_logging_plugins_write_too(kit, capsys):
    kit(Talker, config={"logging": ("logging/adaptive", "logging/warn 7")}).connect().say("NOOP")
    written = capsys.readouterr().err
    assert written.count("level 4") == 2
    assert written.count("level 5") == 1


def test_what_is_held_back_has_a_bound_and_the_rest_is_counted(play):
    class Chatterbox(Plugin):
        def hook_noop(self, transaction):
            for number in range(100):
                self.log(LOGERROR, f"number {number} {'x' * 5000}")

    made = play("accept LOGERROR reject LOGEMERG", Chatterbox)
    made.client.say("NOOP")
    held = made.client.connection.notes["logging::adaptive held"]
    assert sum(map(len, held.lines)) <= adaptive._MOST
    kept = len(held.lines)
    assert 0 < kept < 100
    made.client.say("RSET")
    *lines, last = made.written
    assert len(lines) == kept
    assert last == f"`{made.client.connection.id} lines left out here: {100 - kept}"
    made.client.say("QUIT")
    assert made.written == []


def test_nothing_is_kept_once_a_transaction_has_ended(play):
    made = play("accept LOGINFO")
    made.client.say("EHLO client.example")
    made.kit.site.log(LOGINFO, "x")
    made.client.deliver()
    made.client.send(b"QUIT\r\n")
    assert "logging::adaptive held" not in made.client.connection.notes


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("accept LOGSOME", "'LOGSOME' is no log level"),
        ("reject naughty", "'naughty' is no log level"),
        ("acept 3", r"unknown argument 'acept'; did you mean accept\?"),
        ("loglevel 3", "unknown argument 'loglevel'"),
        ("4", "'4' is left over"),
    ],
)
def test_bad_arguments_are_refused(play, words, message):
    with pytest.raises(ConfigError, match=message):
        play(words)
