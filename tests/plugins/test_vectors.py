"""The recorded behaviour of the original's bundled plugins, played in memory.

ORACLE_DIR names the directory of the vectors; its README says what stands in them. Scripted
plugins are built from their plans. Replies are compared by code, closing and the texts that
plugins gave; results of bundled plugins by the ok and deny hooks; files byte for byte, less
the fields that a server words itself.
"""

import json
import os
import re
from pathlib import Path

import pytest

from qpsmtpd import Plugin, ReturnCode
from qpsmtpd.loader import _chains, find_plugin
from qpsmtpd.plugin import hook_method
from qpsmtpd.session.connection import Peer
from qpsmtpd.testing import Client, make_site

TOPICS = ("badmailfrom", "badrcptto", "count_unrecognized_commands", "dont_require_anglebrackets",
          "queue_maildir", "quit_fortune", "rcpt_ok", "relay")  # fmt: skip
DEFAULTS = {"me": ["mx.example.test"], "size_threshold": ["10000"], "loglevel": ["3"]}
_GENERATED = re.compile(r"^(?:Authentication-Results|Received): .*\n(?:[ \t].*\n)*", re.MULTILINE)


def vectors():
    directory = os.environ.get("ORACLE_DIR")
    if directory is None:
        yield pytest.param(None, marks=pytest.mark.skip(reason="ORACLE_DIR is not set"))
        return
    for topic in TOPICS:
        for vector in json.loads((Path(directory) / f"bundled_{topic}.json").read_text()):
            why = vector.get("divergence")
            marks = [pytest.mark.skip(reason=f"decided otherwise: {why}")] if why else []
            yield pytest.param(vector, id=vector["name"], marks=marks)


def scripted(plugin, trace):
    """A plugin class whose hooks follow their plans."""

    def method(hook, plan):
        calls = iter(plan) if isinstance(plan, list) else None

        def run(self, transaction, *args):
            if hook in ("ok", "deny") and args[0] != "base":  # left out of the records too
                trace.append((hook, args[0], args[1].name, args[2]))
            result = plan["always"] if calls is None else next(calls, ["DECLINED"])
            if isinstance(result, dict):
                for action, *words in result["do"]:
                    ACTIONS[action](self, trace, *words)
                result = result["return"]
            return (ReturnCode[result[0]], *result[1:])

        return run

    hooks = {hook_method(hook): method(hook, plan) for hook, plan in plugin["hooks"].items()}
    return type(plugin["name"], (Plugin,), hooks)


def note_relay_client(self, trace, *names):
    assert names == ("relay_client",)
    value = self.connection.relay_client
    trace.append(("@conn", None if value is None else str(int(value))))


def note_note(self, trace, scope, key):
    trace.append(("@note", str(getattr(self, scope).notes.get(key))))


def set_relay_client(self, trace, value):
    self.connection.relay_client = bool(value)


ACTIONS = {"conn": note_relay_client, "get_note": note_note, "relay_client": set_relay_client}


def wanted_trace(vector):
    for _, hook, args in vector["trace"]:
        if hook in ("ok", "deny"):
            yield (hook, *args)
        elif hook == "@conn":
            yield hook, args["relay_client"]
        elif hook == "@note":
            yield hook, args[2]


def build(vector, directory, trace):
    site = make_site(config={name: value or [] for name, value in (DEFAULTS | vector["config"]).items()})
    for plugin in vector["plugins"]:
        if "hooks" in plugin:
            site.plugins.append(scripted(plugin, trace)(site, plugin["name"]))
        else:
            name, args = plugin["name"], [word.replace("@DIR@", str(directory)) for word in plugin["args"]]
            site.plugins.append(find_plugin(site.settings, name)(site, name.replace("/", "::")))
            site.plugins[-1].register(site, *args)
    site.chains = _chains(site.plugins)
    return site


def replies(data):
    """Each reply as its code and its texts, without enhanced status codes."""
    found = re.findall(r"(?:(\d{3})-.*\r\n)*(\d{3}) .*\r\n", data)
    texts = re.findall(r"((?:\d{3}-.*\r\n)*\d{3} .*\r\n)", data)
    return [(int(code), text) for (_, code), text in zip(found, texts, strict=True)]


@pytest.mark.parametrize("vector", list(vectors()))
def test_a_recorded_dialogue_goes_the_same_way(vector, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("qpsmtpd.plugins.quit_fortune._PLACES", str(tmp_path))
    trace = []
    peer = vector.get("peer", {"ip": "192.0.2.10", "host": "client.example"})
    client = Client(build(vector, tmp_path, trace), Peer(peer["ip"], 40000, "192.0.2.1", 25, peer["host"]))
    waiting = replies(client.replies.decode())
    for step in vector["script"]:
        if "send" in step:
            assert not waiting
            waiting = replies(client.send(step["send"].encode("latin-1")).decode())
            continue
        expected = step["expect"]
        code, text = waiting.pop(0)
        assert code == expected["code"]
        assert client.closed == expected["closed"]
        for line in expected.get("plugin_text", ()):
            assert line in text
    wanted = list(wanted_trace(vector))
    assert len(trace) == len(wanted)
    for seen, entry in zip(trace, wanted, strict=True):
        assert seen == (entry if entry[-1] != "<text>" else (*entry[:-1], seen[-1]))
    stored = {_GENERATED.sub("", path.read_text()) for path in tmp_path.rglob("*/new/*")}
    assert stored == {_GENERATED.sub("", content) for _, content in vector.get("files_after", ())}
    folders = sorted(str(path.parent.relative_to(tmp_path)) for path in tmp_path.rglob("*/new/*"))
    assert folders == sorted(str(Path(name).parent) for name, _ in vector.get("files_after", ()))
