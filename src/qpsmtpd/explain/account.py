"""What came of a session, step by step: the hooks, what each plugin answered and why, and what decided."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from qpsmtpd.protocol import Reply, parse_reply
from qpsmtpd.recording import Asked, Tape, Turn
from qpsmtpd.recording.tape import NAMES
from qpsmtpd.site import Site
from qpsmtpd.testing.dialogue import escape, split_replies

__all__ = ["Row", "Serving", "Step", "outcome", "steps", "who_serves"]

Serving = Mapping[str, Sequence[str]]
"""The names of the plugins of each hook, in their order."""

_SHORT = 300  # octets of a command that are shown whole


@dataclass(frozen=True, slots=True)
class Row:
    """A plugin at a hook."""

    hook: str
    plugin: str
    result: str
    """The name of the return code, `FAILED`, or empty for one that was not asked."""
    seconds: float
    reason: str
    """What it wrote to the log; else its text for the client; else why it was not asked."""
    decided: bool
    """Whether its answer is that of the hook."""


@dataclass(frozen=True, slots=True)
class Step:
    """What a client sent at once, what was asked because of it, and what the client was told."""

    heard: bytes
    rows: tuple[Row, ...]
    said: bytes


def who_serves(site: Site) -> Serving:
    """The plugins of a site at each hook."""
    return {hook: [entry.name for entry in chain] for hook, chain in site.chains.items()}


def steps(tape: Tape, serving: Serving | None = None) -> list[Step]:
    """The steps of a session. Where it is known who serves which hook, there are rows for who was not asked too."""
    return [
        Step(turn.received, tuple(row for asked in turn.asked for row in _rows(asked, serving or {})), turn.said)
        for turn in tape.turns
    ]


def _rows(asked: Asked, serving: Serving) -> Iterator[Row]:
    by = asked.decided_by
    for number, call in enumerate(asked.calls, 1):
        decided = bool(by) and number == len(asked.calls)
        yield Row(asked.hook, call.plugin, NAMES[call.answer], call.seconds, call.reason, decided)
    why = f"not asked, as {asked.calls[-1].plugin} has decided" if asked.calls else "not asked: nothing is queued here"
    for plugin in list(serving.get(asked.hook, ()))[len(asked.calls) :]:
        yield Row(asked.hook, plugin, "", 0.0, why, decided=False)


def outcome(tape: Tape, serving: Serving | None = None) -> list[str]:
    """What came of a session: a line for each refusal, and for each message that was taken."""
    lines = [line for turn in tape.turns for line in _outcome(turn, serving or {})]
    return lines or ["nothing was refused, and no message came"]


def _outcome(turn: Turn, serving: Serving) -> Iterator[str]:
    codes = [reply.code for reply in _refusals(turn.said)]
    line = turn.received.removesuffix(b"\r\n")
    to = f"{escape(line)}: " if 0 < len(line) < _SHORT and b"\n" not in line else ""
    for asked in turn.asked:
        if asked.refuses and asked.reply is not None:
            by = asked.decided_by or "nobody's answer"
            if asked.reply.code in codes:
                codes.remove(asked.reply.code)
            yield f"{to}refused at {asked.hook} by {by}: {_shown(asked.reply)}"
        elif asked.hook == "queue":
            yield _queued(asked, serving)
    yield from (
        f"{to}refused by the protocol: {_shown(reply)}" for reply in _refusals(turn.said) if reply.code in codes
    )


def _queued(asked: Asked, serving: Serving) -> str:
    if asked.calls:
        return f"queued by {asked.decided_by}"
    return f"would go to the plugins that queue: {', '.join(serving.get('queue', ())) or 'there is none'}"


def _refusals(said: bytes) -> list[Reply]:
    return [reply for reply in map(parse_reply, split_replies(said)) if reply.code >= 400]


def _shown(reply: Reply) -> str:
    said = replace(reply, text=reply.text.replace("%s ", "")).encode(utf8=True).decode()
    return " ".join(said.splitlines())
