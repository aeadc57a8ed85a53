"""Records sessions while a server runs: notes what happens, and has it written.

Theory of operation. While a client waits, there is time for no more than to note: each thing that happens becomes
a tuple of plain values in a list (`notes`). A `scribe` makes the lines of a recording out of that, masked,
and is in no hurry: it has the notes when a session is over, or is waiting with much to tell. It may well be in
another process, see `writer`.

A `RecordedSession` notes what each hook came to, and its `TapedServer` what goes in and out, in clear also where TLS
is around it, and what the octets between two places are: content, an exchange of AUTH, or nobody's business any more.
A server that does not record has none of this.
"""

import base64
import os
import random
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from qpsmtpd.config import Config
from qpsmtpd.logs import LOGERROR, LOGINFO
from qpsmtpd.protocol import Answer, Reply, Security, Server, hooks
from qpsmtpd.protocol.host import HangUp, Result
from qpsmtpd.protocol.sasl import Credentials, Exchange, Mechanism, Outcome, SaslError, Steps
from qpsmtpd.recording.scribe import Note, Notes, Scribe
from qpsmtpd.recording.tape import NAMES, Head, head_fields, reply_fields, security_fields
from qpsmtpd.resolver import DnsError, Resolver
from qpsmtpd.session.chain import WATCHERS
from qpsmtpd.session.connection import Connection
from qpsmtpd.session.effects import Effect, Interruption, Receive
from qpsmtpd.session.session import Session
from qpsmtpd.site import Site, current_session

__all__ = ["Files", "Keep", "RecordedSession", "RecordingSite", "TapedServer", "in_directory"]

_MUCH = 65_536  # octets that are noted before the notes are handed on
_MANY = 2_000  # notes
_MOST_LOGGED = 8  # messages of a plugin about one hook

_HEARD, _SAID, _CALLED, _ASKED = Note.HEARD.value, Note.SAID.value, Note.CALLED.value, Note.ASKED.value
_CONTENT, _CONTENT_END = Note.CONTENT.value, Note.CONTENT_END.value


class Recorder:
    """What is noted of one session."""

    __slots__ = ("_hand_on", "clock", "drains", "log", "much", "notes", "same_turn", "total")

    def __init__(self, clock: Callable[[], float], hand_on: Callable[[Notes], object]) -> None:
        self.clock = clock
        self._hand_on = hand_on
        self.notes: Notes = []
        self.same_turn = True
        """Whether what comes belongs to the turn of the moment."""
        self.drains = 0
        """How often the client has been waited for to read in this turn."""
        self.total = 0
        """Octets that the client has sent."""
        self.much = _MUCH
        """How many octets it may be until the notes are handed on."""
        self.log: list[tuple[str, str]] = []
        """Plugin and text, since a plugin has last answered."""

    def note(self, note: Note, *values: object) -> None:
        """Note something."""
        self.notes.append((note.value, *values))

    def add(self, key: str, value: object) -> None:
        """Note one more of something in this turn."""
        self.notes.append((Note.ADDED.value, key, value))

    def taken_log(self, plugin: str) -> list[str]:
        """What a plugin has logged since one has last answered; all of it is forgotten here."""
        logged, self.log = self.log, []
        return [text for name, text in logged if name == plugin]

    def logged(self, plugin: str, text: str) -> None:
        """Note what a plugin has written to the log."""
        if len(self.log) < _MOST_LOGGED:
            self.log.append((plugin, text))

    def hung_up(self, reply: Reply, drained: int | None = None) -> None:
        """Note that the client is told this in place of being read any longer, or of being waited for to read."""
        self.note(Note.HUNG_UP, reply_fields(reply), drained)

    def end_turn(self) -> None:
        """Let the next octets begin a turn; hand on what is noted, if that is much."""
        self.same_turn = False
        self.drains = 0
        if self.total > self.much or len(self.notes) > _MANY:
            self._give()

    def close(self, place: int) -> None:
        """Hand on what is left: the session is over, and nobody looks at what came from this place on."""
        self.note(Note.END, place)
        self._give()

    def _give(self) -> None:
        notes, self.notes = self.notes, []
        self.much = self.total + _MUCH
        self._hand_on(notes)


class TapedServer(Server):
    """A server that has what goes in and out recorded."""

    __slots__ = ("recorder",)

    recorder: Recorder

    def record(self, recorder: Recorder) -> None:
        """Have it recorded from now on."""
        self.recorder = recorder
        draw = self._nonce
        self._nonce = None if draw is None else lambda: self._noted(draw())

    def _noted(self, nonce: str) -> str:
        self.recorder.add("draws", ["nonce", nonce])
        return nonce

    def receive_data(self, data: bytes | bytearray | memoryview) -> None:  # noqa: D102 - as in the base class
        recorder, octets = self.recorder, bytes(data)
        recorder.notes.append((_HEARD, recorder.clock(), octets, recorder.same_turn))
        recorder.same_turn = True
        recorder.total += len(octets)
        Server.receive_data(self, octets)

    def data_to_send(self) -> bytes:  # noqa: D102
        data = Server.data_to_send(self)
        if data:
            self.recorder.notes.append((_SAID, data))
        return data

    @property
    def place(self) -> int:
        """Where in the stream the next octet is that nobody has looked at."""
        return self.recorder.total - len(self._input)

    def _drop_input(self) -> None:
        self.recorder.note(Note.DROPPED, self.place)
        super()._drop_input()

    def _receive(self, message: Any) -> Generator[Any, Any, None]:
        self.recorder.notes.append((_CONTENT, self.place))
        yield from super()._receive(message)
        self.recorder.notes.append((_CONTENT_END, self.place))

    def _exchange(self, mechanism: Mechanism, initial: bytes | None) -> Generator[Any, Any, None]:
        def serve(exchange: Exchange) -> Steps:
            return _noting(mechanism.serve(exchange), self.recorder)

        self.recorder.note(Note.AUTH, self.place)
        try:
            yield from super()._exchange(replace(mechanism, serve=serve), initial)
        finally:
            self.recorder.note(Note.AUTH_END, self.place)


def _noting(serving: Steps, recorder: Recorder) -> Steps:
    """A mechanism whose steps are noted, without what would help to guess a password."""

    def stepped(kind: str, text: str = "") -> None:
        recorder.add("auth", [kind, text])

    stepped("begin")
    answer: Any = None
    while True:
        try:
            step = serving.send(answer)
        except StopIteration as stop:
            outcome: Outcome = stop.value
            stepped("success" if outcome.success else "failure", outcome.user)
            return outcome
        except SaslError as error:
            stepped("malformed" if error.malformed else "refused")
            raise
        if isinstance(step, bytes):
            shown = b"v=" + bytes(len(step) - 2) if step[:2] == b"v=" else step  # RFC 5802 section 7: a signature
            if shown is not step:
                recorder.note(Note.REPLACED, base64.b64encode(step), base64.b64encode(shown))
            stepped("challenge", shown.decode("latin-1"))
        elif isinstance(step, Credentials):
            stepped("credentials", step.user)
        else:
            stepped("verifier", step.user)
        answer = yield step


class RecordedSession(Session):
    """A session that is recorded; its site is a `RecordingSite`."""

    _server_type = TapedServer
    _server: TapedServer
    _traced = True
    _site: "RecordingSite"

    def _make_server(self) -> TapedServer:
        server = super()._make_server()
        assert isinstance(server, TapedServer)
        site = self._site  # anew behind a PROXY header: nothing has been recorded then
        recorder = Recorder(site.clock, site.scribe(self.connection))
        recorder.note(Note.BEGIN, site.clock())
        server.record(recorder)
        return server

    @property
    def recorder(self) -> Recorder:
        """What is noted of this session."""
        return self._server.recorder

    def run(self) -> Generator[Effect, object, None]:  # noqa: D102 - as in the base class
        try:
            yield from super().run()
        finally:
            self.recorder.close(self._server.place)

    def _admit(self, address: str) -> Generator[Effect, object, Reply | None]:
        refusal = yield from super()._admit(address)
        settings, connection = self._settings, self.connection
        head = Head(
            id=connection.id,
            started=connection.started,
            peer=connection.peer,
            role=self._role.name,
            wanted=self._site.wanted,
            hostname=settings.hostname,
            greeting=settings.greeting,
            limits=settings.limits,
            extensions=self._extensions(),
            line_endings=self._role.line_endings or settings.line_endings,
            auth_in_clear=settings.auth_in_clear,
            security=connection.security,
            refusal=refusal,
            masked=("auth", "content") if self._site.mask_content else ("auth",),
        )
        self.recorder.note(Note.HEAD, head_fields(head))
        return refusal

    def _trace(self, hook: str, plugin: str, answer: Answer, texts: Sequence[str], seconds: float) -> None:
        recorder = self._server.recorder
        logged = recorder.taken_log(plugin) if recorder.log else ()
        if hook not in WATCHERS:  # which are asked while another hook is
            recorder.notes.append((_CALLED, plugin, NAMES[answer], texts, seconds, *logged))

    def _trace_result(self, hook: str, result: Result) -> None:
        answer, texts, own = result
        fields = None if own is None else reply_fields(own)
        self._server.recorder.notes.append((_ASKED, hook, NAMES[answer], texts, fields))

    def _next_wait(self) -> Receive:
        self._server.recorder.end_turn()
        return super()._next_wait()

    def _goodbye(self, why: Interruption) -> Reply:
        reply = super()._goodbye(why)
        self.recorder.hung_up(reply)
        return reply

    def drain(self) -> Generator[Effect, object, None]:  # noqa: D102
        recorder = self.recorder
        try:
            yield from super().drain()
        except HangUp as goodbye:
            recorder.hung_up(goodbye.reply, recorder.drains)
            raise
        recorder.drains += 1

    def _begin_tls(self) -> Generator[Effect, object, bool]:
        self.recorder.end_turn()  # what comes with the end of the handshake is none of what was said in clear
        done = yield from super()._begin_tls()
        self._note_handshake(self.connection.security if done else None)
        return done

    def _note_handshake(self, security: Security | None) -> None:
        """Note what a TLS handshake has led to."""
        self.recorder.add("tls", security_fields(security))

    def greeted(self, hello: hooks.Helo | hooks.Ehlo) -> None:  # noqa: D102
        super().greeted(hello)
        keywords = self.transaction.notes.get("capabilities")
        known = cast("Sequence[object]", keywords) if isinstance(keywords, list | tuple) else ()
        self.recorder.add("announced", list(map(str, known)))


class _Overheard(Resolver):
    """A resolver whose answers are recorded."""

    def __init__(self, resolver: Resolver) -> None:
        self.resolver = resolver

    async def look_up(self, name: str, kind: str) -> tuple[str, ...]:
        try:
            found = await self.resolver.look_up(name, kind)
        except DnsError:
            _note("dns", [kind, name, None])
            raise
        _note("dns", [kind, name, found])
        return found

    def look_up_blocking(self, name: str, kind: str) -> tuple[str, ...]:
        try:
            found = self.resolver.look_up_blocking(name, kind)
        except DnsError:
            _note("dns", [kind, name, None])
            raise
        _note("dns", [kind, name, found])
        return found


class _Draws(random.Random):
    """Random numbers that are recorded."""

    def __init__(self, source: random.Random) -> None:
        super().__init__()
        self._source = source

    def random(self) -> float:
        value = self._source.random()
        _note("draws", ["random", value])
        return value

    def getrandbits(self, k: int, /) -> int:
        value = self._source.getrandbits(k)
        _note("draws", [f"getrandbits {k}", value])
        return value


def _note(key: str, value: object) -> None:
    session = current_session.get()
    if isinstance(session, RecordedSession):
        session.recorder.add(key, value)


Keep = Callable[[Site, str], Callable[[str], object]]
"""Gives, for a site and the id of a session, what takes the lines of its recording, some at a time."""


class RecordingSite(Site):
    """A site whose sessions are recorded."""

    session_type = RecordedSession

    def __init__(self, settings: Config, keep: Keep, *, mask_content: bool = False, **options: Any) -> None:
        """`keep` says where recordings go, usually `in_directory(...)`. `mask_content`: keep of messages no more
        than their line ends, dots and length; passwords are masked in any case. Other arguments are those of `Site`.
        """
        super().__init__(settings, **options)
        self.keep = keep
        self.mask_content = mask_content
        self._source, self.rng = self.rng, _Draws(self.rng)
        self._overheard: _Overheard | None = None

    def scribe(self, connection: Connection) -> Callable[[Notes], object]:
        """What takes the notes of a session."""
        return Scribe(self.keep(self, connection.id), mask_content=self.mask_content).write

    def log(self, level: int, text: str, *, hook: str | None = None, plugin: str = "") -> None:  # noqa: D102
        session = current_session.get()
        if plugin and level <= LOGINFO and isinstance(session, RecordedSession):
            session.recorder.logged(plugin, text)
        super().log(level, text, hook=hook, plugin=plugin)

    @property
    def resolver(self) -> Resolver:  # noqa: D102 - as in the base class
        resolver = super().resolver
        if self._overheard is None or self._overheard.resolver is not resolver:
            self._overheard = _Overheard(resolver)
        return self._overheard

    def nonce(self) -> str:  # noqa: D102 - which the server notes itself
        return f"{self._source.getrandbits(160):040x}"

    def new_identity(self) -> str:  # noqa: D102 - which stands in the first line
        return f"{self._source.getrandbits(48):012x}"


def in_directory(directory: Path) -> Keep:
    """Keep each session in a file of its own, see `Files`. Raises OSError."""
    files = Files(directory)

    def keep(site: Site, identity: str) -> Callable[[str], object]:
        return partial(files.append, identity, site.wall(), partial(site.log, LOGERROR, hook=""))

    return keep


class Files:
    """A file for each session: `20261126T101500-ID.jsonl` by the time of day in UTC, for its owner alone."""

    def __init__(self, directory: Path) -> None:
        """Make the directory, if there is none. Raises OSError."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory = directory
        self._complained = False

    def append(self, identity: str, moment: float, complain: Callable[[str], object], text: str) -> None:
        """Add lines to the file of a session, which began at this moment, in seconds since the epoch.

        What goes wrong is complained of once; mail goes on, whatever becomes of the recording.
        """
        name = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime(moment))}-{identity}.jsonl"
        try:
            _append(os.fspath(self._directory / name), text.encode("ascii"))
        except OSError as error:
            if not self._complained:
                self._complained = True
                complain(f"error, sessions are not recorded: {error}")


def _append(path: str, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        while data:
            data = data[os.write(descriptor, data) :]
    finally:
        os.close(descriptor)
