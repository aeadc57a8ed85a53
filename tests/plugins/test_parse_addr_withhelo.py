"""What `parse_addr_withhelo` lets clients say that have said HELO."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qpsmtpd import DENY, OK
from qpsmtpd.plugins.parse_addr_withhelo import _parse
from qpsmtpd.testing import Kit

BOTH = ("parse_addr_withhelo", "dont_require_anglebrackets")
STAGE = Kit(*BOTH)


def talk(stage, hello, argument, command="MAIL FROM:"):
    client = stage.connect()
    client.say(f"{hello} client.example")
    if command.upper().startswith("RCPT"):
        client.say("MAIL FROM:<a@client.example>")
    return client.say(f"{command}{argument}").code


@pytest.mark.parametrize("command", ["MAIL FROM:", "RCPT TO:", "mail from: ", "rcpt to:  "])
@pytest.mark.parametrize(
    ("argument", "code"),
    [("<u@x.example>", 250), ("<u@x.example> ", 250), ('<"a> b"@x.example>', 250), ("<u@x.example> X-A=1", 501),
     ("<u@x.example>X", 501), ("<u@x.example> !", 501), ("u@x.example", 501), ("postmaster", 501), ("<u@x.example", 501)],
)  # fmt: skip
def test_a_path_may_have_no_parameters(kit, command, argument, code):
    assert talk(kit("parse_addr_withhelo"), "HELO", argument, command) == code


@pytest.mark.parametrize("command", ["MAIL FROM:", "RCPT TO:"])
@pytest.mark.parametrize(
    ("argument", "code"),
    [("u@x.example", 250), (" u@x.example ", 250), ("u@x.example SIZE=1", 501), ("u@x.example X", 501), ("postmaster", 501),
     ("u v@x.example", 250), ("u@x.example v@x.example", 501)],
)  # fmt: skip
def test_the_brackets_may_be_left_out_where_another_plugin_adds_them(kit, command, argument, code):
    assert talk(kit(*BOTH), "HELO", argument, command) == code


def test_nothing_is_the_null_sender_but_no_recipient(kit):
    stage = kit("parse_addr_withhelo")
    assert talk(stage, "HELO", "") == 250
    assert talk(stage, "HELO", "", "RCPT TO:") == 501
    assert talk(stage, "EHLO", "") == 501
    assert _parse("rcpt", "TO:")[0] is DENY


@pytest.mark.parametrize(("hello", "code"), [("HELO", 501), ("EHLO", 250)])
def test_clients_that_have_said_ehlo_may_give_parameters(kit, hello, code):
    assert talk(kit("parse_addr_withhelo"), hello, "<u@x.example> SIZE=1") == code


def test_a_greeting_of_the_other_kind_counts(kit):
    client = kit("parse_addr_withhelo").connect()
    client.say("HELO client.example")
    client.say("EHLO client.example")
    assert client.say("MAIL FROM:<u@x.example> SIZE=1").code == 250


@given(st.sampled_from(["mail", "rcpt"]), st.text() | st.text().map("FROM:".__add__) | st.text().map("TO:".__add__))
def test_any_argument_is_a_path_of_it_or_refused(command, argument):
    code, text, *more = _parse(command, argument)
    assert not more
    assert code is DENY or (code is OK and (text in argument or text == "<>"))


@given(st.binary(max_size=80))
def test_whatever_follows_gets_one_reply(argument):
    line = argument.replace(b"\r", b"").replace(b"\n", b"")
    client = STAGE.connect()
    client.say("HELO client.example")
    assert client.send(b"MAIL FROM:" + line + b"\r\n").count(b"\r\n") == 1
    assert not STAGE.logged("Traceback")
