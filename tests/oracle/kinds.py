"""Vectors with a `kind`: facts have their own module; here are logging, listener and timeline."""

import contextlib
import io
import re
import socket
from dataclasses import dataclass

from player import (
    Moment,
    Step,
    configuration,
    kit_for,
    play,
    real_replies,
    recorded_moment,
    steps,
    unfolded,
)
from scripted import Wire

from qpsmtpd import Plugin
from qpsmtpd.testing import Kit
from qpsmtpd.testing.dialogue import split_replies

DRIVERS = ("asyncio", "trio", "anyio", "blocking")
SECONDS = 20


# logging


@dataclass
class Written:
    """What a log came to: the levels written in order, and what stood before the texts."""

    where: str
    levels: list[int]
    prefix: bool
    plugin_name: bool


def logs(vector, directory):
    """What is recorded and what was written, as pairs."""
    (directory / "out").mkdir(exist_ok=True)
    vector = {**vector, "config": {"loglevel": ["LOGWARN"]} | vector["config"]}

    class p1(Plugin):  # noqa: N801 - the name that is recorded
        def hook_noop(self, transaction):
            for level, text in vector["calls"]:
                self.log(level, text)

    stderr = io.StringIO()
    with contextlib.redirect_stderr(stderr):
        kit = Kit(p1, config=configuration(vector, directory), directory=directory)
        client = kit.connect()
        for action, _ in steps(vector["script"])[1:]:
            client.send(action["send"].encode("latin-1"))
    file = directory / "out" / "log"
    found = {
        "stderr": stderr.getvalue() + "".join(kit.log),
        "file": file.read_text() if file.exists() else "",
    }
    for where, text in found.items():
        recorded = vector.get(where, {"written": [], "prefix": False, "plugin_name": False})
        yield (
            Written(where, recorded["written"], recorded["prefix"], recorded["plugin_name"]),
            written(where, text),
        )


def written(where, text):
    lines = [line for line in text.splitlines() if "oracle:" in line]
    levels = [int(re.search(r"oracle: level (\d)", line)[1]) for line in lines]
    return Written(
        where,
        levels,
        bool(lines) and all("(noop) " in line for line in lines),
        bool(lines) and all("p1: oracle:" in line for line in lines),
    )


# listener


class Peers:
    """Connections to a server: the newest one speaks, earlier ones stay open."""

    def __init__(self, address):
        self._address = address
        self.all = []

    def connect(self):
        self.all.append(socket.create_connection(self._address, timeout=SECONDS))

    def send(self, data):
        if data:
            self.all[-1].sendall(data)
        else:
            self.all[-1].shutdown(socket.SHUT_WR)

    def read(self, replies, closed):
        """So many replies of the newest connection, and whether it is closed behind them."""
        data, end = b"", False
        while not end and (closed or len(whole(data)) < replies):
            piece = self.all[-1].recv(65536)
            data += piece
            end = not piece
        return data, end


def whole(data):
    cut = data.rfind(b"\n") + 1
    with contextlib.suppress(ValueError):
        return split_replies(data[:cut])
    return []


def listened(vector, directory, driver, running, until):
    """The steps of a vector over real sockets, and the whole trace as one more step behind them."""
    trace = []
    vector = {"files": {}, "trace_marks": [], **vector}
    vector["config"] = {"max_per_ip": [str(vector.get("max_per_ip", 5))], **vector["config"]}
    kit = kit_for(vector, directory, trace, Wire())
    done, called = [], 0
    turns = steps(vector["script"])[1:]
    with running(driver, kit.site) as address:
        peers = Peers(address)
        for action, expectations in turns:
            if "connect" in action:
                peers.connect()
            else:
                peers.send(b"" if action.get("close") else action["send"].encode("latin-1"))
            old = recorded_moment(expectations, [])
            data, closed = peers.read(len(old.replies), old.closed)
            new = Moment(real_replies(data), closed, [])
            done.append(Step(str(action.get("send", "")), old, new, kit.trace[called:], kit.trace[:called]))
            called = len(kit.trace)
        for peer in peers.all:
            peer.close()
        recorded = [unfolded(entry) for entry in vector["trace"]]
        with contextlib.suppress(AssertionError):
            until(lambda: len(trace) >= len(recorded), 5)
    several = len(peers.all) > 1
    kept = [entry for entry in trace if not several or entry[1] in ("pre-connection", "connect")]
    done.append(Step("", Moment([], False, recorded), Moment([], False, kept), kit.trace, []))
    return done


# timeline


def connections(vector, directory):
    """The steps of all connections in time, each with plugins of its own and a directory they share."""
    shared = directory / "shared"
    shared.mkdir()
    for number, each in enumerate(vector["connections"]):
        own = directory / str(number)
        own.mkdir()
        text = {**each, "config": vector["config"], "topic": vector["topic"]}
        text["plugins"] = [
            {**plugin, "args": [word.replace("@SHARED@", str(shared)) for word in plugin["args"]]}
            if "args" in plugin
            else plugin
            for plugin in each["plugins"]
        ]
        yield from play(text, own, at=each["at"])
