"""The examples of the README are run."""

import asyncio
import re
import socket
import threading
from pathlib import Path

import pytest

from qpsmtpd.config import Config
from qpsmtpd.loader import load
from qpsmtpd.protocol import Mailbox, Message
from qpsmtpd.site import Site
from qpsmtpd.testing import Client

README = (Path(__file__).parent.parent / "README.md").read_text("utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def example(word):
    (found,) = [code for code in EXAMPLES if word in code]
    return found


@pytest.fixture
def client(tmp_path):
    """A client of a site whose only plugin is an example."""

    def client(word, **config):
        (tmp_path / "plugins").mkdir()
        (tmp_path / "config").mkdir()
        (tmp_path / "plugins" / "example.py").write_text(example(word))
        for name, text in {"plugins": "example", "me": "mx", **config}.items():
            (tmp_path / "config" / name).write_text(text)
        site = Site(Config(tmp_path / "config"))
        load(site)
        return Client(site)

    return client


def test_the_smallest_plugin_refuses_everyone(client):
    assert client("hook_connect").replies == b"421 Sorry, server is temporarily unavailable.\r\n"


def test_the_second_smallest_plugin_refuses_whom_its_file_names(client):
    session = client("NoNoReply", noreply="noreply\n")
    session.send(b"EHLO x\r\n")
    assert session.send(b"MAIL FROM:<NoReply@example.org>\r\n")[:3] == b"550"
    assert session.send(b"MAIL FROM:<me@example.org>\r\n")[:3] == b"250"


def test_the_protocol_is_embedded_in_a_few_lines():
    namespace = {}
    exec(example("serve_client"), namespace)
    ours, theirs = socket.socketpair()
    result = []
    thread = threading.Thread(target=lambda: result.append(namespace["serve_client"](ours)))
    thread.start()
    with ours, theirs:
        theirs.sendall(
            b"EHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<x@other.org>\r\nRCPT TO:<x@example.org>\r\nDATA\r\nhello\r\n.\r\nQUIT\r\n"
        )
        replies = b""
        while b"\r\n221" not in replies:
            replies += theirs.recv(4096)
        thread.join()
    assert result == [b"hello\r\n"]
    assert b"550 5.7.1 no such user\r\n250 2.1.5 <x@example.org>, recipient OK\r\n" in replies


def test_the_server_is_embedded_in_a_few_lines(tmp_path, capsys):
    (tmp_path / "me").write_text("mx\n")
    namespace = {}
    exec(example("async def main"), namespace)
    asyncio.run(namespace["main"](tmp_path))
    assert "listening on [('127.0.0.1', " in capsys.readouterr().out


def test_our_client_sends_to_our_server():
    server, client = {}, {}
    exec(example("def serve_client"), server)
    exec(example("def send"), client)
    ours, theirs = socket.socketpair()
    kept = []
    thread = threading.Thread(target=lambda: kept.append(server["serve_client"](ours)))
    thread.start()
    recipients = [Mailbox("x", "example.org"), Mailbox("x", "other.example")]
    with ours, theirs:
        results = client["send"](theirs, [Message(Mailbox("a", "b.example"), recipients, b"hello\r\n")])
        thread.join()
    assert kept == [b"hello\r\n"]
    assert [result.delivered for result in results] == [True, False]
