"""The same dialogue gives the same transcript: in memory and on every driver, however it is cut.

A dialogue is a text file in the form that `qpsmtpd.testing.dialogue` describes.
"""

import random
from pathlib import Path

import pytest

from qpsmtpd import DECLINED, DENY, DENY_DISCONNECT, OK, Plugin, blocking
from qpsmtpd.testing import Client, make_site
from qpsmtpd.testing.dialogue import parse

DIALOGUES = sorted((Path(__file__).parent / "dialogues").glob("*.txt"))
CUTS = ("as written", "octet by octet", "at random")


class Decides(Plugin):
    """Decides by the local part, with a hook of every kind."""

    def hook_rcpt(self, transaction, recipient, parameters):
        return {"bad": (DENY, "no such user", "really not"), "rude": (DENY_DISCONNECT, "out")}.get(recipient.user, OK)

    def hook_queue(self, transaction):
        return OK, f"queued {transaction.data_size} octets"


class Async(Plugin):
    """An `async def` hook."""

    async def hook_mail(self, transaction, sender, parameters):
        assert self.transaction is transaction
        return (DENY, "async says no") if sender.user == "async" else DECLINED


class Blocking(Plugin):
    """A hook in a worker thread."""

    @blocking
    def hook_mail(self, transaction, sender, parameters):
        assert self.transaction is transaction
        return (DENY, "blocking says no") if sender.user == "blocking" else DECLINED


def site():
    return make_site(Async, Blocking, Decides, config={"databytes": ["100000"], "timeoutsession": ["60"]})


def turns(path):
    return [(turn.sent, turn.said) for turn in parse(path.read_text("utf-8"))]


def cut(data, how, seed):
    if how == "as written" or not data:
        return [data]
    if how == "octet by octet":
        return [data[i : i + 1] for i in range(len(data))]
    chance = random.Random(seed)
    places = sorted(chance.sample(range(1, len(data)), min(len(data) - 1, 3))) if len(data) > 1 else []
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


@pytest.mark.parametrize("how", CUTS)
@pytest.mark.parametrize("path", DIALOGUES, ids=lambda path: path.stem)
def test_a_dialogue_in_memory(path, how):
    client = Client(site())
    said = client.replies
    for data, expected in turns(path):
        for piece in cut(data, how, path.stem):
            said += client.send(piece) if piece and not client.closed else b""
        assert said.decode() == expected.decode()
        said = b""
    assert client.closed


@pytest.fixture(scope="module", params=["asyncio", "uvloop", "trio", "anyio", "anyio-trio", "blocking"])
def server(request, running):
    with running(request.param, site()) as address:
        yield address


@pytest.mark.parametrize("how", CUTS)
@pytest.mark.parametrize("path", DIALOGUES, ids=lambda path: path.stem)
def test_a_dialogue_on_a_driver(server, wire, path, how):
    with wire(server) as client:
        *first, last = turns(path)
        for data, expected in first:
            for piece in cut(data, how, path.stem):
                client.send(piece)
            said = b""
            while len(said) < len(expected):
                said += client.reply()
            assert said.decode() == expected.decode()
        data, expected = last
        for piece in cut(data, how, path.stem):
            client.send(piece)
        assert client.rest().decode() == expected.decode()
