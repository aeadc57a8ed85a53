"""The hooks: their names, their order, and what a plugin's method gets."""

import dataclasses

import pytest
from tests.protocol.conftest import ASKED, DATA, EHLO, MAIL, MESSAGE, QUIT, RCPT, Driver

from qpsmtpd.protocol import DENY, VERDICTS, Hook, Mailbox, hooks

SENDER = Mailbox("sender", "example.org")
PRE_CONNECTION = hooks.PreConnection("192.0.2.1", 1025, "192.0.2.2", 25, 5, ("192.0.2.1",))


def test_hooks_are_found_by_their_names():
    assert hooks.HOOKS.keys() == VERDICTS.keys()
    assert all(hook.name == name for name, hook in hooks.HOOKS.items())
    assert {hook.__name__ for hook in hooks.HOOKS.values()} == set(hooks.__all__) - {"HOOKS", "Hook", "ParseHook"}


@pytest.mark.parametrize("hook", hooks.HOOKS.values())
def test_a_hook_is_a_frozen_value_with_slots(hook):
    assert issubclass(hook, Hook)
    assert dataclasses.is_dataclass(hook)
    assert hook.__dataclass_params__.frozen
    assert "__slots__" in vars(hook)


@pytest.mark.parametrize(
    ("hook", "arguments"),
    [
        (hooks.Connect(), ()),
        (hooks.HeloParse("client.example"), ()),
        (hooks.EhloParse("client.example"), ()),
        (hooks.AuthParse("plain"), ("plain",)),
        (hooks.AuthCramMd5("cram-md5", "u", "", "d", "t"), ("cram-md5", "u", "", "d", "t")),
        (hooks.MailParse("FROM:<>"), ("FROM:<>",)),
        (hooks.RcptParse("TO:<a@b>"), ("TO:<a@b>",)),
        (hooks.Helo("client.example"), ("client.example",)),
        (hooks.Ehlo("client.example", ("and", "more")), ("client.example", "and", "more")),
        (hooks.MailPre("<a@b>", {"x": None}), ("<a@b>", {"x": None})),
        (hooks.Mail(SENDER, {}), (SENDER, {})),
        (hooks.RcptPre("<a@b>", {}), ("<a@b>", {})),
        (hooks.Rcpt(SENDER, {}), (SENDER, {})),
        (hooks.ReceivedLine("ESMTP"), ("ESMTP", "", "")),
        (hooks.Help(None), ()),
        (hooks.Help("me"), ("me",)),
        (hooks.UnrecognizedCommand("xyzzy", "a b"), ("xyzzy", "a b")),
        (hooks.UnrecognizedCommand("xyzzy"), ("xyzzy",)),
        (PRE_CONNECTION, (PRE_CONNECTION,)),
        (hooks.Deny("rcpt_ok", DENY, "no"), ("rcpt_ok", DENY, "no")),
        (hooks.Ok("rcpt_ok", DENY, "no"), ("rcpt_ok", DENY, "no")),
        (hooks.Config("me"), ("me",)),
        (hooks.UserConfig(SENDER, "quota"), (SENDER, "quota")),
        (hooks.Logging(6, "rcpt", "rcpt_ok", "text"), (6, "rcpt", "rcpt_ok", "text")),
    ],
)
def test_what_a_plugins_method_gets(hook, arguments):
    assert hook.arguments == arguments


def test_a_session_meets_the_hooks_in_this_order():
    driver = Driver(EHLO, MAIL, RCPT, DATA, MESSAGE, b"NOOP\r\n", QUIT)
    assert driver.names == [
        "connect",
        "ehlo_parse",
        "ehlo",
        "reset_transaction",
        "mail_parse",
        "mail_pre",
        "mail",
        "rcpt_parse",
        "rcpt_pre",
        "rcpt",
        "data",
        "data_headers_end",
        "data_post_headers",
        "received_line",
        "data_post",
        "queue_pre",
        "queue",
        "reset_transaction",
        "queue_post",
        "noop",
        "quit",
        "disconnect",
        "reset_transaction",
    ]
    first_met = dict.fromkeys(driver.names)
    assert [name for name in hooks.HOOKS if name in first_met and name != "reset_transaction"] == [
        name for name in first_met if name != "reset_transaction"
    ]


@pytest.mark.parametrize(
    ("chunks", "hook"),
    [
        ((b"HELO  client.example and more\r\n",), hooks.HeloParse("client.example and more")),
        ((EHLO,), hooks.EhloParse("client.example")),
        ((EHLO, b"mail FROM:<> X=1 \r\n"), hooks.MailParse("FROM:<> X=1 ")),
        ((EHLO, MAIL, b"RCPT to\r\n"), hooks.RcptParse("to")),
        ((b"HELO client.example and more\r\n",), hooks.Helo("client.example", ("and", "more"))),
        ((b"ehlo  [192.0.2.1]\r\n",), hooks.Ehlo("[192.0.2.1]")),
        ((EHLO, b"MAIL FROM: <sender@example.org> X=1\r\n"), hooks.MailPre("<sender@example.org>", {"x": "1"})),
        ((EHLO, b"MAIL FROM: <sender@example.org> X=1\r\n"), hooks.Mail(SENDER, {"x": "1"})),
        ((EHLO, b"MAIL FROM:<>\r\n"), hooks.Mail(Mailbox("", None), {})),
        ((EHLO, MAIL, b"RCPT TO:<sender@example.org>\r\n"), hooks.RcptPre("<sender@example.org>", {})),
        ((EHLO, MAIL, b"RCPT TO:<sender@example.org>\r\n"), hooks.Rcpt(SENDER, {})),
        ((EHLO, MAIL, RCPT, DATA, MESSAGE), hooks.ReceivedLine("ESMTP")),
        ((b"HELO c\r\n", MAIL, RCPT, DATA, MESSAGE), hooks.ReceivedLine("SMTP")),
        ((EHLO, b"MAIL FROM:<a@b> SMTPUTF8\r\n", RCPT, DATA, MESSAGE), hooks.ReceivedLine("UTF8SMTP")),
        ((b"NOOP with words\r\n",), hooks.Noop()),
        ((b"VRFY someone\r\n",), hooks.Vrfy()),
        ((b"HELP\r\n",), hooks.Help(None)),
        ((b"HELP ehlo\r\n",), hooks.Help("ehlo")),
        ((b"XyZZy  a \xff b\r\n",), hooks.UnrecognizedCommand("xyzzy", "a \udcff b")),
        ((b"XyZZy\r\n",), hooks.UnrecognizedCommand("xyzzy", None)),
        ((b"XyZZy \r\n",), hooks.UnrecognizedCommand("xyzzy", "")),
        ((QUIT,), hooks.Quit()),
        ((QUIT,), hooks.Disconnect()),
    ],
)
def test_a_hook_gets_what_the_client_sent(chunks, hook):
    assert hook in Driver(*chunks).events


@pytest.mark.parametrize("name", sorted(ASKED))
def test_only_the_hooks_that_are_wanted_are_asked(name):
    session = (EHLO, MAIL, RCPT, DATA, MESSAGE, QUIT)
    assert set(Driver(*session, asked={name}).names) <= {name}
    assert name not in Driver(*session, asked=ASKED - {name}).names
