"""Plays one recorded connection through the plugin kit, and tells what differs, step by step.

A step is the greeting, or one `send` of the client with all that it caused: replies, closing, and
calls of hooks. What a step should have been comes from the vector, what it was from the kit.
"""

import base64
import hashlib
import hmac
import re
from dataclasses import dataclass, field

from scripted import ACTIONS, Wire, octets, plugin_class

from qpsmtpd import Mailbox
from qpsmtpd.certificates import make_self_signed
from qpsmtpd.config import ConfigError
from qpsmtpd.loader import find_plugin
from qpsmtpd.protocol import parse_path, parse_reply
from qpsmtpd.testing import CLIENT, Kit, Names
from qpsmtpd.testing.dialogue import split_replies

DEFAULTS = {"me": ["mx.example.test"], "size_threshold": ["10000"], "loglevel": ["3"], "tls_before_auth": ["0"]}
"""The recorded server offers AUTH in clear as long as nothing is said against it."""


class NotPlayable(Exception):  # noqa: N818 - no error
    """The vector needs something that does not exist here, or not yet; the text says what."""


@dataclass(slots=True)
class Said:
    """One reply, recorded or real."""

    code: int | None
    texts: list[str] = field(default_factory=list)
    """The lines, for a real reply; the texts of plugins, for a recorded one."""
    whole: bool = False
    """Whether the recorded reply consists of its texts alone."""
    keywords: list[str] | None = None


@dataclass(slots=True)
class Moment:
    """What one step came to, recorded or real."""

    replies: list[Said]
    closed: bool
    trace: list[object]

    @property
    def codes(self):
        return [reply.code for reply in self.replies]


@dataclass(slots=True)
class Step:
    """One step: what the client sent, what is recorded, what happened, and the calls that led there."""

    sent: str
    recorded: Moment
    real: Moment
    calls: list
    """The kit's calls of this step."""
    before: list
    """The kit's calls of the steps before."""
    scripted: frozenset = frozenset()
    """The names of the plugins whose texts are recorded; the wording of others is free."""

    @property
    def replies_differ(self):
        old, new = self.recorded.replies, self.real.replies
        return len(old) != len(new) or not all(map(agree, old, new)) or self.shows_a_hidden_text

    @property
    def shows_a_hidden_text(self):
        """Whether a text that a hook gave in this step is shown, though the record shows none."""
        given = {
            octets(line)
            for call in self.calls
            if isinstance(call.result, tuple) and call.plugin in self.scripted
            for value in call.result[1:]
            if isinstance(value, str)
            for line in value.split("\n")
            if len(line) > 3  # shorter ones are found in the server's own words by chance
        }
        recorded = {text for reply in self.recorded.replies for text in reply.texts}
        return any(line in given - recorded for reply in self.real.replies for line in reply.texts)

    @property
    def closing_differs(self):
        return self.recorded.closed != self.real.closed

    @property
    def trace_differs(self):
        return not same(self.recorded.trace, self.real.trace)

    @property
    def differs(self):
        return self.replies_differ or self.closing_differs or self.trace_differs


def agree(recorded, real):
    """Whether a real reply is what is recorded; the server's own wording is free."""
    if recorded.code != real.code:
        return False
    if recorded.keywords is not None and not set(recorded.keywords) <= set(real.texts[1:]):
        return False
    if recorded.whole:
        return real.texts == recorded.texts
    lines = iter(real.texts)
    # What is short and not the whole reply was found in the server's own words by chance.
    return all(any(wanted in line for line in lines) for wanted in recorded.texts if len(wanted) > 3)


def same(recorded, real):
    """Whether a recorded value of a trace stands for a real one."""
    if recorded in ("<text>", "<generated>", "<digest>", "<ticket>"):
        return isinstance(real, str)
    if isinstance(recorded, str) and (count := re.fullmatch(r"<(?:(\d+) )?packed addresses>", recorded)):
        return isinstance(real, tuple) and count[1] in (None, str(len(real)))
    if isinstance(real, Mailbox):
        return isinstance(recorded, str) and _mailbox(recorded) == real
    if isinstance(recorded, dict):
        return (
            isinstance(real, dict) and recorded.keys() == real.keys() and all(same(recorded[k], real[k]) for k in real)
        )
    if isinstance(recorded, list):
        return isinstance(real, list) and len(recorded) == len(real) and all(map(same, recorded, real))
    if recorded is None and real == "":  # a path that a parser has not given
        return True
    return recorded == real


def _mailbox(path):
    return parse_path(path.encode("latin-1").decode("utf-8", "surrogateescape"))


# The server


def configuration(vector, directory):
    settings = DEFAULTS | vector["config"]
    return {
        name: [str(line).replace("@DIR@", str(directory)) for line in lines]
        for name, lines in settings.items()
        if lines is not None
    }


def write_files(vector, directory):
    for name, content in vector.get("files", {}).items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.replace("@DIR@", str(directory)).encode("latin-1"))


def plugins(entries, directory, trace, wire):
    """The entries of a vector as the kit takes them. Raises NotPlayable for a plugin that is not there."""
    for entry in entries:
        if "hooks" in entry:
            yield plugin_class(entry, trace, wire)
            continue
        require(entry["name"])
        words = [str(word).replace("@DIR@", str(directory)) for word in entry["args"]]
        yield " ".join([entry["name"], *words])


def require(name):
    """Raise NotPlayable if there is no plugin of this name."""
    try:
        find_plugin(Kit().site.settings, name)
    except ConfigError as error:
        raise NotPlayable(f"there is no plugin {name} yet") from error


def kit_for(vector, directory, trace, wire):
    """The kit that a vector asks for. Raises NotPlayable."""
    wanted = set(actions(vector["plugins"]))
    if unknown := wanted - ACTIONS.keys():
        raise NotPlayable(f"plugins here cannot do {', '.join(sorted(unknown))}")
    write_files(vector, directory)
    if "tls" in vector.get("fixtures", ()):
        for made, name in zip(make_self_signed(directory, "tls"), ("tls.crt", "tls.key"), strict=True):
            made.rename(directory / name)
    made = list(plugins(vector["plugins"], directory, trace, wire))
    names = Names()  # nothing was in the DNS of the recorded server, and no vector may ask the network
    return Kit(*made, config=configuration(vector, directory), directory=directory, names=names)


def actions(plan):
    """The actions that plans name, however deep."""
    if isinstance(plan, dict):
        yield from (name for name, *_ in plan.get("do", ()))
        plan = list(plan.values())
    if isinstance(plan, list):
        for each in plan:
            yield from actions(each)


# The dialogue


def steps(script):
    """The script as [step of the client or None, expectations]; the first is the greeting."""
    found = [[None, []]]
    for step in script:
        if "expect" not in step:
            found.append([step, []])
        else:
            found[-1][1].append(step["expect"])
    return found


def recorded_moment(expectations, trace):
    replies = [
        Said(
            each["code"],
            each.get("plugin_text", []),
            each.get("plugin_text_is_whole_reply", False),
            each.get("keywords"),
        )
        for each in expectations
        if each["code"] is not None
    ]
    return Moment(replies, bool(expectations) and expectations[-1].get("closed", False), list(map(unfolded, trace)))


def unfolded(entry):
    """An entry of a trace; how fields are folded in a snapshot is the server's affair."""
    plugin, what, arguments = entry
    if what == "@snapshot":
        header = [[name, " ".join(value.split())] for name, value in arguments["header"]]
        arguments = {**arguments, "header": header}
    return [plugin, what, arguments]


def real_replies(data):
    found = []
    for reply in map(parse_reply, split_replies(data)):
        lines = octets(reply.text).split("\n")
        found.append(Said(reply.code, lines))
    return found


def slices(trace, marks):
    return [trace[start:end] for start, end in zip([0, *marks], [*marks, len(trace)], strict=True)]


def play(vector, directory, at=0):
    """Play a vector; give its steps, as far as the connection went. Raises NotPlayable.

    The clock stands at `at` seconds. A trace without marks is judged as a whole, in one more
    step behind the others.
    """
    trace, wire = [], Wire()
    kit = kit_for(vector, directory, trace, wire)
    peer = {"ip": CLIENT.remote_ip, "host": CLIENT.remote_host} | vector.get("peer", {})
    turns = steps(vector["script"])
    early = b""
    if len(turns) > 1 and turns[1][0].get("early"):
        early = turns[1][0]["send"].encode("latin-1")
    names = frozenset(entry["name"] for entry in vector["plugins"] if "hooks" in entry)
    marks = vector.get("trace_marks")
    recorded = slices(vector["trace"], marks) if marks else [[]] * len(turns)
    kit.clock.advance(at)
    client = kit.connect(peer["ip"], peer["host"], user=peer.get("info"), early=early)
    if early:  # greeting and first step are one, and have one mark
        turns[:2] = [[turns[1][0], turns[0][1] + turns[1][1]]]
    done = []
    seen, called = 0, 0
    said = client.replies
    for number, (action, expectations) in enumerate(turns):
        if number:
            if client.closed:
                break
            if any(reply.startswith(b"354") for reply in split_replies(said)):
                wire.begin()
            data = bytes_of(action, said)
            wire.send(data)
            said = client.send(data)
        old = recorded_moment(expectations, recorded[number] if number < len(recorded) else [])
        entries = [entry for entry in trace[seen:] if is_recorded(vector, entry)] if marks else []
        new = Moment(real_replies(said), client.closed, entries)
        sent = "" if action is None else str(action.get("send", ""))
        done.append(Step(sent, old, new, kit.trace[called:], kit.trace[:called], names))
        seen, called = len(trace), len(kit.trace)
    if not marks and vector["trace"]:  # what a plugin does at random has no trace
        old, new = (
            Moment([], False, [unfolded(entry) for entry in vector["trace"]]),
            Moment([], False, [entry for entry in trace if is_recorded(vector, entry)]),
        )
        done.append(Step("", old, new, kit.trace, []))
    return done


def is_recorded(vector, entry):
    """Whether an entry belongs to the records: those of bundled plugins leave out what `base` said."""
    return not (vector["topic"].startswith("bundled_") and entry[1] in ("ok", "deny") and entry[2][0] == "base")


def bytes_of(action, said):
    if action.get("close"):
        return b""
    if "send_cram_md5" in action:
        challenge = base64.b64decode(said.split()[1]) if said.startswith(b"334 ") else b""
        user, password = action["send_cram_md5"]["user"], action["send_cram_md5"]["password"]
        digest = hmac.new(password.encode(), challenge, hashlib.md5).hexdigest()
        return base64.b64encode(f"{user} {digest}".encode()) + b"\r\n"
    return action["send"].encode("latin-1")


def files_differ(vector, directory):
    """Files that a plugin should have written and has not; `<unique-N>` and `<generated>` stand for changing parts."""
    for name, content in vector.get("files_after", ()):
        pattern = re.sub(r"<unique-\d+>", "*", name)
        wanted = re.escape(content).replace("<generated>", r"[^\n]*(?:\n[ \t][^\n]*)*")
        found = [path.read_bytes().decode("latin-1") for path in directory.glob(pattern)]
        if not any(re.fullmatch(wanted, text) for text in found):
            return f"{name} should be written, and hold {content!r}; found {found}"
    return None
