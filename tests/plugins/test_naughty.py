"""When and how `naughty` refuses the clients that others have marked."""

import pytest

from qpsmtpd import DENY_DISCONNECT, OK, Plugin
from qpsmtpd.config import ConfigError
from qpsmtpd.protocol import parse_reply

TEXT = "we know you"
COMMANDS = {
    "ehlo": "EHLO client.example", "mail": "MAIL FROM:<a@client.example>", "rcpt": "RCPT TO:<b@example.org>",
    "data": "DATA", "data_post": "Subject: x\r\n\r\ny\r\n.",
}  # fmt: skip


class Mark(Plugin):
    def hook_connect(self, transaction):
        self.is_naughty(TEXT)


def marking(kind):
    class MarkWithKind(Plugin):
        def hook_connect(self, transaction):
            self.connection.notes.update(naughty=TEXT, naughty_reject_type=kind)

    return MarkWithKind


def talk(stage):
    """Send a message up to the first refusal; give its hook, code and text, and whether it closes."""
    client = stage.connect()
    if client.closed:
        greeting = parse_reply(client.replies)
        return "connect", greeting.code, greeting.text, True
    for hook, command in COMMANDS.items():
        reply = client.say(command)
        if reply.code >= 400:
            return hook, reply.code, reply.text, client.closed
    return None


@pytest.mark.parametrize(
    ("hook", "code"), [("ehlo", 550), ("mail", 550), ("rcpt", 550), ("data", 554), ("data_post", 554)]
)
def test_a_marked_client_is_refused_at_the_hook_of_the_argument_and_disconnected(kit, hook, code):
    assert talk(kit(Mark, f"naughty reject {hook}")) == (hook, code, TEXT, True)


def test_the_greeting_may_be_refused(kit):
    assert talk(kit(Mark, "naughty reject connect")) == ("connect", 554, TEXT, True)


def test_the_recipient_is_refused_by_default(kit):
    stage = kit(Mark, "naughty")
    assert talk(stage)[0] == "rcpt"
    assert [str(call) for call in stage.calls("rcpt", "naughty")] == [
        "naughty.rcpt(<b@example.org>, {}) -> (DENY_DISCONNECT, 'we know you')"
    ]
    assert stage.logged("naughty: fail, we know you")


def test_a_hook_is_named_in_any_case(kit):
    assert talk(kit(Mark, "naughty reject MAIL"))[0] == "mail"


def test_helo_counts_for_helo_only_and_who_gets_by_is_refused_at_the_end(kit):
    stage = kit(Mark, "naughty reject helo reject_type perm")
    assert talk(stage) == ("data_post", 554, TEXT, False)
    assert stage.connect().say("HELO client.example").code == 550


def test_who_is_marked_too_late_is_refused_at_the_end(kit):
    class MarkLate(Plugin):
        def hook_data(self, transaction):
            self.is_naughty("late but certain")

    assert talk(kit(MarkLate, "naughty")) == ("data_post", 554, "late but certain", True)


def test_it_needs_to_come_before_the_plugin_that_accepts(kit):
    class Accept(Plugin):
        def hook_rcpt(self, transaction, recipient, parameters):
            return OK

    assert talk(kit(Mark, Accept, "naughty"))[0] == "data_post"


@pytest.mark.parametrize("hook", ["rcpt", "data_post"])
def test_a_client_without_the_mark_passes_and_each_hook_is_served_once(kit, hook):
    stage = kit(f"naughty reject {hook}")
    assert [reply.code for reply in stage.connect().deliver()] == [250, 250, 250, 354, 250]
    assert [call.hook for call in stage.trace if call.plugin == "naughty"] == list(dict.fromkeys([hook, "data_post"]))


@pytest.mark.parametrize(
    ("word", "code", "closed"),
    [("perm", 550, False), ("soft", 450, False), ("temp", 450, False), ("disconnect", 550, True),
     ("temp_disconnect", 421, True), ("TEMP", 450, False)],
)  # fmt: skip
def test_reject_type_may_be_an_argument_or_the_wish_of_who_marks(kit, word, code, closed):
    assert talk(kit(Mark, f"naughty reject_type {word}"))[1:] == (code, TEXT, closed)
    assert talk(kit(marking(word), "naughty"))[1:] == (code, TEXT, closed)


def test_the_argument_has_precedence_over_the_wish(kit):
    assert talk(kit(marking("disconnect"), "naughty reject_type temp"))[1:] == (450, TEXT, False)


def test_a_wish_that_makes_no_sense_is_no_wish(kit):
    stage = kit(marking("nonsense"), "naughty")
    assert talk(stage)[1:] == (550, TEXT, True)
    assert stage.calls("rcpt", "naughty")[0].code is DENY_DISCONNECT


@pytest.mark.parametrize(
    ("args", "code", "closed"), [("", 550, True), ("reject_type soft", 450, False), ("reject_type perm", 550, False)]
)
def test_bundled_plugins_mark_with_reject_naughty(kit, args, code, closed):
    stage = kit(f"badmailfrom reject naughty {args}", "naughty", config={"badmailfrom": ("@client.example  not you",)})
    assert talk(stage) == ("rcpt", code, "not you", closed)


def test_all_that_was_said_about_a_client_is_told(kit):
    lists = {"badmailfrom": ("@client.example  one thing",), "badrcptto": ("@example.org  and another",)}
    stage = kit("badmailfrom reject naughty", Mark, "naughty", config=lists)
    assert talk(stage)[2] == TEXT  # who is marked is not judged again
    stage = kit("badmailfrom:0 reject naughty", "naughty", config=lists)
    client = stage.connect()
    client.connection.notes["naughty"] = "one thing\nand another"
    client.send(b"EHLO c\r\nMAIL FROM:<a@c.example>\r\n")
    assert client.send(b"RCPT TO:<b@example.org>\r\n") == b"550-5.7.1 one thing\r\n550 5.7.1 and another\r\n"


@pytest.mark.parametrize(
    ("args", "message"),
    [("reject rctp", "'rctp' is no hook to refuse at; did you mean rcpt?"),
     ("reject quit", "'quit' is no hook to refuse at; known are connect, ehlo, helo, mail, rcpt, data, data_post"),
     ("rejct mail", "unknown argument 'rejct'; did you mean reject"),
     ("reject", "'reject' is left over"),
     ("reject_type nonsense", "reject_type 'nonsense' is none of")],
)  # fmt: skip
def test_bad_arguments_are_seen_at_load(kit, args, message):
    with pytest.raises(ConfigError) as caught:
        kit(f"naughty {args}")
    assert message in str(caught.value)
    assert "plugins:1: naughty: " in str(caught.value)


@pytest.mark.parametrize("args", ["reject mail loglevel 0", "loglevel 0 reject mail"])
def test_the_level_of_its_messages_may_be_set(kit, args):
    assert talk(kit(Mark, f"naughty {args}"))[0] == "mail"
