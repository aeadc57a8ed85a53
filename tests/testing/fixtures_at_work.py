"""The fixtures in the hands of a stranger; test_pytest_plugin.py runs this file."""

import asyncio
import smtplib
from email.message import EmailMessage

import aiosmtplib
import anyio
import anyio.lowlevel
import pytest

from qpsmtpd import DENY, DENYSOFT, Plugin

CONTENT = "Subject: hi\r\n\r\n.dot\r\n"


class NoBob(Plugin):
    def hook_rcpt(self, transaction, recipient, parameters):
        return (DENY, "no bob") if recipient.user == "bob" else None


def send(server, recipients=("b@b.example",), content=CONTENT):
    with smtplib.SMTP(*server.address, local_hostname="client.example", timeout=10) as client:
        return client.sendmail("a@a.example", recipients, content)


def test_a_message_is_captured(smtpd):
    send(smtpd, ["b@b.example", "c@c.example"])
    (captured,) = smtpd.messages
    assert (captured.sender, captured.recipients) == ("a@a.example", ("b@b.example", "c@c.example"))
    assert captured.content == CONTENT.encode()
    assert b"\r\nReceived: from client.example" in captured.queued
    assert captured.queued.endswith(CONTENT.encode())
    assert captured.message["Subject"] == "hi"
    assert captured.message.get_content().strip() == ".dot"
    assert captured.hello == "client.example"
    assert captured.user is None
    assert any("connected" in line for line in smtpd.log)


def test_every_test_has_a_server_of_its_own(smtpd):
    assert smtpd.messages == []
    assert smtpd.host == "127.0.0.1"
    assert smtpd.port == smtpd.address[1] > 1024


def test_send_message_of_the_standard_library(smtpd):
    message = EmailMessage()
    message["Subject"], message["From"], message["To"] = "grüße", "a@a.example", "b@b.example"
    message.set_content("漢字\n")
    with smtplib.SMTP(smtpd.host, smtpd.port, timeout=10) as client:
        client.send_message(message)
    assert smtpd.messages[0].message["Subject"] == "grüße"
    assert smtpd.messages[0].message.get_content().strip() == "漢字"


def test_a_bounce_has_no_sender(smtpd):
    with smtplib.SMTP(*smtpd.address, timeout=10) as client:
        client.sendmail("", ["b@b.example"], CONTENT)
    assert smtpd.messages[0].sender == ""


@pytest.mark.smtpd(plugins=[NoBob])
def test_a_plugin_refuses_a_recipient(smtpd):
    assert send(smtpd, ["bob@b.example", "c@c.example"]) == {"bob@b.example": (550, b"5.7.1 no bob")}
    assert smtpd.messages[0].recipients == ("c@c.example",)


@pytest.mark.smtpd(plugins=["badmailfrom"], config={"badmailfrom": ["a@a.example go away"]})
def test_a_line_of_config_plugins_with_its_setting(smtpd):
    with pytest.raises(smtplib.SMTPSenderRefused, match="go away"):
        send(smtpd)
    assert smtpd.messages == []


@pytest.mark.smtpd(plugins=["badmailfrom"])
class TestMarks:
    @pytest.mark.smtpd(config={"badmailfrom": ["@a.example class and test"]})
    def test_of_class_and_test_are_joined(self, smtpd):
        with pytest.raises(smtplib.SMTPSenderRefused, match="class and test"):
            send(smtpd)


class Slow(Plugin):
    """A hook that is a coroutine."""

    async def hook_mail(self, transaction, sender, parameters):
        await anyio.lowlevel.checkpoint()
        return DENYSOFT, "later"


@pytest.mark.smtpd(plugins=[Slow])
def test_an_async_hook_runs(smtpd):
    with pytest.raises(smtplib.SMTPSenderRefused, match="later"):
        send(smtpd)


def test_several_servers(smtpd_factory):
    one, two = smtpd_factory(), smtpd_factory(plugins=[NoBob])
    send(one, ["bob@b.example"])
    with pytest.raises(smtplib.SMTPRecipientsRefused):
        send(two, ["bob@b.example"])
    assert (len(one.messages), len(two.messages)) == (1, 0)


def test_a_client_that_stays_does_not_hold_up_the_end(smtpd):
    client = smtplib.SMTP(*smtpd.address, timeout=10)
    client.noop()
    pytest.left_open = client  # closed by the interpreter's end, long behind the server's


def test_the_client_that_stayed_was_told():
    with pytest.left_open as client:
        assert client.getreply()[0] == 421


def test_from_asyncio_without_a_plugin_for_it(smtpd):
    host, port = smtpd.address
    asyncio.run(aiosmtplib.send(CONTENT, sender="a@a.example", recipients=["b@b.example"], hostname=host, port=port))
    assert smtpd.messages[0].recipients == ("b@b.example",)


@pytest.mark.anyio
async def test_in_the_loop_of_the_test(async_smtpd):
    async with await anyio.connect_tcp(*async_smtpd.address) as stream:
        for line in (
            b"",
            b"HELO a\r\n",
            b"MAIL FROM:<a@a>\r\n",
            b"RCPT TO:<b@b>\r\n",
            b"DATA\r\n",
            b"a: b\r\n\r\n.\r\n",
        ):
            await stream.send(line)
            assert (await stream.receive())[:1] in (b"2", b"3")
    assert async_smtpd.messages[0].content == b"a: b\r\n\r\n"


@pytest.mark.anyio
@pytest.mark.smtpd(plugins=[NoBob])
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_client_of_asyncio_in_the_same_loop(async_smtpd):
    async with aiosmtplib.SMTP(hostname=async_smtpd.host, port=async_smtpd.port) as client:
        with pytest.raises(aiosmtplib.SMTPRecipientsRefused, match="no bob"):
            await client.sendmail("a@a.example", ["bob@b.example"], CONTENT)
        await client.sendmail("a@a.example", ["c@c.example"], CONTENT)
    assert async_smtpd.messages[0].recipients == ("c@c.example",)


@pytest.mark.smtpd(plugins=[NoBob])
def test_without_any_port(smtpd_kit):
    replies = smtpd_kit.connect().deliver(recipients=["bob@b.example", "c@c.example"])
    assert [reply.code for reply in replies] == [250, 250, 550, 250, 354, 250]
    assert smtpd_kit.messages[0].recipients == ("c@c.example",)
    assert smtpd_kit.calls("rcpt", "NoBob")[0].code == DENY
