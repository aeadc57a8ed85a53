"""Plays recorded sessions again, in memory, and says what differs.

`play_recorded` answers each hook as it was answered then: what comes out is byte for byte what was said, or the
protocol has changed. A `PlayedSite` that has loaded plugins has these answer, with the time, the names and the
random numbers of the recording; only passwords, which are masked, are judged as they were, and nothing is queued.

What is played is recorded too, so that two recordings are compared.
"""

import random
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import zip_longest
from typing import Any

from qpsmtpd.config import Config
from qpsmtpd.protocol import Extension, Hook, Reply, hooks
from qpsmtpd.protocol.host import NOTHING, HangUp, Result
from qpsmtpd.protocol.sasl import Credentials, Exchange, Mechanism, Outcome, SaslError, Steps, VerifierFor
from qpsmtpd.recording.recorder import TapedServer
from qpsmtpd.recording.rehearsal import QUEUED, RehearsalSession, RehearsalSite
from qpsmtpd.recording.tape import Asked, Tape, Turn
from qpsmtpd.resolver import DnsError, Resolver
from qpsmtpd.session.effects import Close, Effect, Flush, Pause, Receive
from qpsmtpd.session.role import ROLES, Role
from qpsmtpd.site import Settings, Site
from qpsmtpd.transports.memory import complete

__all__ = ["Difference", "PlayedSession", "PlayedSite", "Script", "compare", "play", "play_recorded", "playing"]


@dataclass(frozen=True, slots=True)
class Difference:
    """Something that went otherwise than when it was recorded."""

    turn: int
    """The number of the turn, from 0."""
    what: str
    """`said`, or the name of a hook."""
    then: str
    now: str


@dataclass(slots=True)
class Script:
    """A recording, and how far it has been used up."""

    tape: Tape
    number: int = 0
    """Which turn it is."""
    end: int = 0
    """How many octets the client has sent up to the end of this turn."""
    octets: int = 0
    """How many it has sent now."""
    drains: int = 0
    """How often it has been waited for to read in this turn."""
    asked: dict[str, deque[Asked]] = field(default_factory=dict[str, deque[Asked]])
    exchanges: deque[list[tuple[str, str]]] = field(default_factory=deque[list[tuple[str, str]]])
    announced: deque[tuple[str, ...]] = field(default_factory=deque[tuple[str, ...]])
    handshakes: deque[Any] = field(default_factory=deque[Any])
    draws: dict[str, deque[Any]] = field(default_factory=dict[str, deque[Any]])
    names: dict[tuple[str, str], tuple[str, ...] | None] = field(
        default_factory=dict[tuple[str, str], tuple[str, ...] | None]
    )

    def __post_init__(self) -> None:
        for turn in self.tape.turns:
            for asked in turn.asked:
                self.asked.setdefault(asked.hook, deque()).append(asked)
            for kind, value in turn.draws:
                self.draws.setdefault(kind, deque()).append(value)
            self.names |= {(kind, name): found for kind, name, found in turn.names}
            for step in turn.steps:
                if step[0] == "begin":
                    self.exchanges.append([])
                elif self.exchanges:
                    self.exchanges[-1].append(step)
            self.announced += turn.announced
            self.handshakes += turn.handshakes

    @property
    def role(self) -> Role:
        """The role of the listener."""
        head = self.tape.head
        return replace(ROLES[head.role], line_endings=head.line_endings)

    @property
    def turn(self) -> Turn:
        """The turn of the moment."""
        return self.tape.turns[self.number]

    def heard(self, data: bytes) -> None:
        """Find the turn that a piece of what the client sent belongs to."""
        self.octets += len(data)
        while self.number + 1 < len(self.tape.turns) and (not data or self.end < self.octets):
            self.number += 1
            self.drains = 0
            self.end += len(self.turn.received)
            if not data and self.turn.eof:
                break

    def result(self, hook: str) -> Result | None:
        """The next result of a hook, as it was; None if it was not asked so often."""
        recorded = self.asked.get(hook)
        return recorded.popleft().result if recorded else None

    def draw(self, kind: str) -> Any:
        """The next random value of a kind; None if there is no other."""
        recorded = self.draws.get(kind)
        return recorded.popleft() if recorded else None


class _PlayedServer(TapedServer):
    """A server whose exchanges of AUTH go as they went."""

    __slots__ = ("script",)

    script: Script

    def receive_data(self, data: bytes | bytearray | memoryview) -> None:
        self.script.heard(bytes(data))
        super().receive_data(data)

    def _exchange(self, mechanism: Mechanism, initial: bytes | None) -> Generator[Any, Any, None]:
        steps = self.script.exchanges.popleft() if self.script.exchanges else []
        return super()._exchange(replace(mechanism, serve=partial(_as_recorded, steps)), initial)


def _as_recorded(steps: Sequence[tuple[str, str]], exchange: Exchange) -> Steps:
    """A mechanism that goes as it went, whatever the client says."""
    del exchange
    for kind, text in steps:
        if kind == "challenge":
            yield text.encode("latin-1")
        elif kind == "credentials":
            yield Credentials(text)
        elif kind == "verifier":
            yield VerifierFor(text)
        elif kind in ("success", "failure"):
            return Outcome(text, success=kind == "success")
        else:
            break
    raise SaslError("as recorded", malformed=bool(steps) and steps[-1][0] == "malformed")


class PlayedSession(RehearsalSession):
    """A recorded session on its second way."""

    _server_type = _PlayedServer

    def __init__(self, site: RehearsalSite, script: Script, *, plugins_answer: bool) -> None:
        """`plugins_answer`: with the plugins and settings of the site; else all is as it was."""
        self.script = script
        self._plugins_answer = plugins_answer
        super().__init__(site, script.tape.head.peer, script.role)

    def _choose_settings(self, site: Site) -> Settings:
        settings, head = super()._choose_settings(site), self.script.tape.head
        if self._plugins_answer:
            return settings
        return replace(
            settings,
            hostname=head.hostname,
            greeting=head.greeting,
            limits=head.limits,
            extensions=head.extensions,
            line_endings=head.line_endings,
            auth_in_clear=head.auth_in_clear,
        )

    def _make_server(self) -> _PlayedServer:
        server = super()._make_server()
        assert isinstance(server, _PlayedServer)
        server.script = self.script
        return server

    def _extensions(self) -> frozenset[Extension]:
        recorded = self.script.tape.head.extensions
        if self._plugins_answer:  # there need be no certificate for a handshake that is not made
            return super()._extensions() - {Extension.STARTTLS} | (recorded & {Extension.STARTTLS})
        return recorded

    def _introduce(self) -> Generator[Effect, object, bool]:
        yield from ()
        if (security := self.script.tape.head.security) is not None:
            self._secure(security)
        return True

    def _admit(self, address: str) -> Generator[Effect, object, Reply | None]:
        refusal = yield from super()._admit(address)
        return refusal if self._plugins_answer else self.script.tape.head.refusal

    def ask(self, hook: Hook) -> Generator[Effect, object, Result]:  # noqa: D102 - as in the base class
        name = hook.name
        if self._plugins_answer and not (name.startswith("auth") or name == "queue"):
            return super().ask(hook)
        return self._say(name, self.script.result(name) or (QUEUED if name == "queue" else NOTHING))

    def receive(self) -> Generator[Effect, object, None]:  # noqa: D102
        turn = self.script.turn
        if turn.hung_up is not None and turn.drained is None:
            if self._chore is not None or self._leaving:
                yield from self._do_chore()
            self.recorder.hung_up(turn.hung_up)
            raise HangUp(turn.hung_up)
        yield from super().receive()

    def drain(self) -> Generator[Effect, object, None]:  # noqa: D102
        script = self.script
        if script.turn.hung_up is not None and script.turn.drained == script.drains:
            self.recorder.hung_up(script.turn.hung_up, script.drains)
            raise HangUp(script.turn.hung_up)
        script.drains += 1
        yield from super().drain()

    def greeted(self, hello: hooks.Helo | hooks.Ehlo) -> None:  # noqa: D102
        if not self._plugins_answer and self.script.announced:
            self.transaction.notes["capabilities"] = list(self.script.announced.popleft())
        super().greeted(hello)

    def _begin_tls(self) -> Generator[Effect, object, bool]:
        yield from ()
        self._output = self.data_to_send()
        self.recorder.end_turn()
        security = self.script.handshakes.popleft() if self.script.handshakes else None
        self._note_handshake(security)
        if security is None:
            self._out_of_tls = True
            return False
        self._secure(security)
        return True


class _RecordedDraws(random.Random):
    """The random numbers of a recording, then others, the same each time."""

    def __init__(self, script: Script) -> None:
        super().__init__(0)
        self._script = script

    def random(self) -> float:
        value = self._script.draw("random")
        return super().random() if value is None else float(value)

    def getrandbits(self, k: int, /) -> int:
        value = self._script.draw(f"getrandbits {k}")
        return super().getrandbits(k) if value is None else int(value)


class _RecordedNames(Resolver):
    """The names of a recording; of others nobody can say anything."""

    def __init__(self, script: Script) -> None:
        self._script = script

    async def look_up(self, name: str, kind: str) -> tuple[str, ...]:
        return self.look_up_blocking(name, kind)

    def look_up_blocking(self, name: str, kind: str) -> tuple[str, ...]:
        found = self._script.names.get((kind, name))
        if found is None:
            raise DnsError(f"{kind} of {name}: not in the recording")
        return found


class PlayedSite(RehearsalSite):
    """A site for one recorded session. With plugins loaded these answer; else all is answered as it was."""

    def __init__(self, tape: Tape, settings: Config | None = None, **options: Any) -> None:
        """`settings` are those of today, whose plugins are to answer; without them nothing is as of today."""
        self.script = Script(tape)
        self.plugins_answer = settings is not None
        super().__init__(
            settings or Config(None, {"plugins": ()}),
            clock=lambda: self.script.turn.at,
            wall=lambda: tape.head.started + self.script.turn.at,
            rng=_RecordedDraws(self.script),
            resolver=_RecordedNames(self.script),
            mask_content="content" in tape.head.masked,
            **options,
        )
        if not self.plugins_answer:
            self.chains = dict.fromkeys(tape.head.wanted, ())

    def nonce(self) -> str:  # noqa: D102
        value = self.script.draw("nonce")
        return super().nonce() if value is None else str(value)

    def new_identity(self) -> str:  # noqa: D102
        return self.script.tape.head.id


def play_recorded(tape: Tape) -> Tape:
    """Play a session with all answers as they were; give what came of it."""
    return play(PlayedSite(tape))


def play(site: PlayedSite) -> Tape:
    """Play the session that a site is for; give what came of it."""
    session = PlayedSession(site, site.script, plugins_answer=site.plugins_answer)
    complete(playing(session))
    site.remove_spool_dir()
    return site.take_tape(session)


def playing(session: PlayedSession) -> Generator[Effect, object, None]:
    """The client of a recorded session as it was; the effects are those for which there has to be a world."""
    script, running = session.script, session.run()
    coming = deque(script.tape.turns[1:])
    outcome: object = None
    step: Callable[..., Effect] = running.send
    try:
        while True:
            try:
                effect = step(outcome)
            except StopIteration:
                return
            session.data_to_send()
            step = running.send
            match effect:
                case Receive():
                    outcome = _next_piece(coming)
                case Pause(seconds, until_input):  # a client that was too early then is too early now
                    early = until_input and coming and not script.turn.said
                    is_early = early and coming[0].at - script.turn.at <= seconds
                    outcome = _next_piece(coming) if is_early else b""
                case Close() | Flush():
                    outcome = None
                case _:
                    try:
                        outcome = yield effect
                    except Exception as error:  # noqa: BLE001 - it is the session's to handle
                        outcome, step = error, running.throw
    finally:
        running.close()


def _next_piece(coming: deque[Turn]) -> bytes:
    """What a client sends next; nothing when it has closed its side."""
    if coming and coming[0].received and coming[0].eof:
        piece = coming[0].received
        coming[0] = replace(coming[0], received=b"")
        return piece
    return coming.popleft().received if coming else b""


def compare(then: Tape, now: Tape) -> Iterator[Difference]:
    """What differs between a session and its replay: what was said, and what hooks came to."""
    empty = Turn(0)
    for number, (old, new) in enumerate(zip_longest(then.turns, now.turns, fillvalue=empty)):
        yield from _compare_hooks(number, old.asked, new.asked)
        if old.said != new.said:
            yield Difference(number, "said", _shown(old.said), _shown(new.said))


def _shown(said: bytes) -> str:
    return said.decode("latin-1")


def _compare_hooks(number: int, then: Sequence[Asked], now: Sequence[Asked]) -> Iterator[Difference]:
    for old, new in zip_longest(_outcomes(then), _outcomes(now), fillvalue=("", "not asked")):
        if old != new:
            hook = old[0] or new[0]
            yield Difference(
                number, hook, *(text if name in ("", hook) else f"{name} {text}" for name, text in (old, new))
            )


def _outcomes(asked: Sequence[Asked]) -> list[tuple[str, str]]:
    return [(each.hook, str(each)) for each in asked]
