"""Dialogues over TLS: in memory and on every driver, however the ciphertext is cut, and the same transcript each time.

Those of `dialogues` are held on a listener where TLS begins with the connection. Those of
`dialogues/encrypted` begin in clear; the handshake is at the line of equal signs.
"""

import re
import ssl
from pathlib import Path

import pytest
import trustme
from tests.test_dialogues import CUTS, DIALOGUES, Async, Blocking, Decides, cut, turns

from qpsmtpd import DENY, OK, Plugin
from qpsmtpd.session.role import MX, Role
from qpsmtpd.session.tls import ServerTls, TlsChannel
from qpsmtpd.testing import Client, make_site
from qpsmtpd.testing.dialogue import parse

HOST = "mx.example.test"
ENCRYPTED = sorted((Path(__file__).parent / "dialogues" / "encrypted").glob("*.txt"))
FROM_THE_START = Role("mx", implicit_tls=True)


class Users(Plugin):
    """One user."""

    def hook_auth(self, transaction, mechanism, user, password, digest, ticket):
        return (OK, "welcome") if (user, password) == ("user", "pass") else (DENY, "who are you?")


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture(scope="module")
def context(authority):
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.fixture(scope="module")
def tls(authority, tmp_path_factory):
    both = tmp_path_factory.mktemp("tls") / "mx.pem"
    authority.issue_cert(HOST).private_key_and_cert_chain_pem.write_to_path(both)
    return ServerTls((both, both))


def site(tls, *plugins):
    # Passwords are taken under TLS alone.
    config = {"databytes": ["100000"], "timeoutsession": ["60"], "tls_before_auth": ["1"]}
    made = make_site(Async, Blocking, Decides, *plugins, config=config)
    made.tls = tls
    return made


def parts(path):
    """The turns in clear, and those behind the handshake."""
    clear, _, encrypted = path.read_text("utf-8").partition("\n=====\n")
    *_, behind = [[(turn.sent, turn.said) for turn in parse(part)] for part in (clear, encrypted)]
    return [(turn.sent, turn.said) for turn in parse(clear)], [turn for turn in behind if turn != (b"", b"")]


class Wire:
    """A client's end, over TLS from `shake_hands` on, which cuts what it sends."""

    def __init__(self, send, receive, how, seed):
        self._send, self._receive, self._how, self._seed = send, receive, how, seed
        self._channel = None
        self._heard = b""

    def shake_hands(self, context):
        channel = TlsChannel(context, server_side=False, server_hostname=HOST)
        while not channel.handshake():
            self._write(channel.data_to_send())
            channel.receive_data(self._receive())
        self._channel = channel
        self._write(channel.data_to_send())

    def say(self, data):
        if self._channel is not None and data:
            self._channel.write(data)
            data = self._channel.data_to_send()
        self._write(data)

    def hear(self, expected):
        """What the server says, as much as is expected."""
        while len(self._heard) < len(expected):
            self._heard += self._read()
        said, self._heard = self._heard[: len(expected)], self._heard[len(expected) :]
        return said

    def rest(self):
        """What it says until it closes."""
        while not self._ended():
            self._heard += self._read()
        return self._heard

    def _write(self, data):
        for piece in cut(data, self._how, self._seed):
            self._send(piece)

    def _read(self):
        data = self._receive()
        if self._channel is None:
            assert data, f"the server has closed the connection behind {self._heard!r}"
            return data
        self._channel.receive_data(data)
        said = self._channel.read()
        assert said or data, f"the server has closed the connection behind {self._heard!r}"
        return said

    def _ended(self):
        return self._channel.eof


def hold(wire, clear, encrypted, context):
    """Hold a dialogue, and see that the server says what it should."""
    for data, expected in clear:
        wire.say(data)
        assert wire.hear(expected).decode() == expected.decode()
    wire.shake_hands(context)
    *first, (data, expected) = encrypted
    for sent, said in first:
        wire.say(sent)
        assert wire.hear(said).decode() == said.decode()
    wire.say(data)
    assert wire.rest().decode() == expected.decode()


def in_memory(made, role, how, seed):
    client, waiting = Client(made, role=role), []

    def send(piece):
        if piece and not client.closed:
            waiting.append(client.link.go(piece))

    def receive():
        said, waiting[:] = b"".join(waiting), []
        return said

    waiting.append(client.replies)
    return Wire(send, receive, how, seed)


@pytest.mark.parametrize("how", CUTS)
@pytest.mark.parametrize("path", ENCRYPTED, ids=lambda path: path.stem)
def test_an_encrypted_dialogue_in_memory(tls, context, path, how):
    hold(in_memory(site(tls, Users), MX, how, path.stem), *parts(path), context)


@pytest.mark.parametrize("how", CUTS)
@pytest.mark.parametrize("path", DIALOGUES, ids=lambda path: path.stem)
def test_a_dialogue_under_tls_in_memory(tls, context, path, how):
    hold(in_memory(site(tls), FROM_THE_START, how, path.stem), [], turns(path), context)


DRIVERS = ["asyncio", "uvloop", "trio", "anyio", "anyio-trio", "blocking"]


@pytest.fixture(scope="module", params=DRIVERS)
def server(request, running, tls):
    with running(request.param, site(tls, Users)) as address:
        yield address


@pytest.fixture(scope="module", params=DRIVERS)
def server_under_tls(request, running, tls):
    with running(request.param, site(tls), role=FROM_THE_START) as address:
        yield address


@pytest.mark.parametrize("how", CUTS)
@pytest.mark.parametrize("path", ENCRYPTED, ids=lambda path: path.stem)
def test_an_encrypted_dialogue_on_a_driver(server, wire, context, path, how):
    with wire(server) as client:
        hold(Wire(client.send, lambda: client.socket.recv(65536), how, path.stem), *parts(path), context)


@pytest.mark.parametrize("how", ["as written", "at random"])
@pytest.mark.parametrize("path", DIALOGUES, ids=lambda path: path.stem)
def test_a_dialogue_under_tls_on_a_driver(server_under_tls, wire, context, path, how):
    with wire(server_under_tls) as client:
        hold(Wire(client.send, lambda: client.socket.recv(65536), how, path.stem), [], turns(path), context)


def test_no_driver_knows_of_tls_or_auth():
    transports = Path(__file__).parents[1] / "src" / "qpsmtpd" / "transports"
    for path in transports.glob("*.py"):
        assert not re.search(r"(?i)\b(tls|ssl|starttls|auth|sasl)\b", path.read_text("utf-8")), path
