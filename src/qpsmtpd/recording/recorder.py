"""Records sessions while a server runs: a file each, written turn by turn, with secrets masked before that.

Theory of operation. A `RecordedSession` notes what each hook came to, and its `TapedServer` what goes in and out,
in clear also where TLS is around it. Both write into the `_Recorder` of the session, which has the turn of the
moment as the JSON object that it will be. What the client sends is only written out when the server has made up
its mind what it is, since nobody can tell before that an octet is part of a password: `taken` is how far that has
come in the stream, and a turn is due when all of its octets are. So what waits in memory is a line at most, and
the turn of the moment.

Only what a session says or asks is slower by this; a server that does not record has none of it.
"""

import base64
import os
import random
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from qpsmtpd.config import Config
from qpsmtpd.logs import LOGERROR, LOGINFO
from qpsmtpd.protocol import Answer, Hook, Reply, Security, Server, hooks
from qpsmtpd.protocol.host import HangUp, Result
from qpsmtpd.protocol.sasl import Credentials, Exchange, Mechanism, Outcome, SaslError, Steps
from qpsmtpd.recording import masks
from qpsmtpd.recording.tape import NAMES, Head, encode, head_fields, reply_fields, security_fields
from qpsmtpd.resolver import DnsError, Resolver
from qpsmtpd.session.chain import WATCHERS
from qpsmtpd.session.effects import Effect
from qpsmtpd.session.session import Session
from qpsmtpd.site import Site, current_session

__all__ = ["RecordedSession", "RecordingSite", "TapedServer", "in_directory"]

_SECRET_TEXTS = hooks.AuthScramSha256.name
_WITH_SECRETS = hooks.AuthParse.name
_AT_ONCE = 65_536  # octets that wait in memory before they are written
_MOST_LOGGED = 8  # messages of a plugin about one hook


class _Turn:
    """A turn under way, and where it ends in the stream of what the client sends."""

    __slots__ = ("end", "fields", "received", "said", "start")

    def __init__(self, start: int, at: float) -> None:
        self.start = self.end = start
        self.received = b""
        self.said: list[bytes] = []
        self.fields: dict[str, Any] = {"at": at}

    def add(self, key: str, value: object) -> None:
        """Note one more of something."""
        found = self.fields.get(key)
        if found is None:
            self.fields[key] = [value]
        else:
            found.append(value)

    def part(self, start: int, end: int) -> slice:
        """What of a piece of the stream is in this turn."""
        return slice(max(start - self.start, 0), min(end, self.end) - self.start)

    def line(self) -> str:
        """The turn as a line of a recording."""
        if self.received:
            self.fields["in"] = self.received.decode("latin-1")
        if self.said:
            self.fields["out"] = b"".join(self.said).decode("latin-1")
        return encode(self.fields)


class _Recorder:
    """What is recorded of one session."""

    def __init__(self, clock: Callable[[], float], write: Callable[[str], object], *, mask_content: bool) -> None:
        self._clock = clock
        self._begun = clock()
        self._write = write
        self.mask_content = mask_content
        self.turn = _Turn(0, 0.0)
        self.in_turn = True
        """Whether what comes belongs to the turn of the moment."""
        self._waiting: list[_Turn] = []
        self._recording = False
        self._lines: list[str] = []
        self._size = 0
        self._calls: list[list[object]] = []  # of the hook that is asked now
        self._logged: list[tuple[str, str]] = []  # plugin and text, since a plugin has last answered
        self._replaced: list[tuple[bytes, bytes]] = []  # what the server says and is written differently
        self.drains = 0
        """How often the client has been waited for to read in this turn."""
        self.total = 0
        """Octets that the client has sent."""
        self.taken = 0
        """How many of them have been dealt with."""

    def begin(self, head: Head) -> None:
        """Write the first line. Nothing is recorded without it."""
        self._recording = True
        self._put(encode(head_fields(head)))

    def heard(self, data: bytes) -> None:
        """Begin a turn: the client has sent this, or closed its side."""
        turn = self.turn
        if not self.in_turn:  # else it is one more record of the same flight of TLS
            self.in_turn = True
            self.drains = 0
            self._waiting.append(turn)
            self.turn = turn = _Turn(self.total, round(self._clock() - self._begun, 6))
        if data:
            turn.received += data
            self.total += len(data)
            turn.end = self.total
        else:
            turn.fields["eof"] = True

    def said(self, data: bytes) -> None:
        """Note what the server says."""
        if self._replaced:
            for old, new in self._replaced:
                data = data.replace(old, new)
        self.turn.said.append(data)

    def replace(self, old: bytes, new: bytes) -> None:
        """Write something else in place of what the server is about to say."""
        self._replaced.append((old, new))

    def called(self, plugin: str, answer: Answer, texts: Sequence[str], seconds: float) -> None:
        """Note what a plugin has answered."""
        own = [text for name, text in self._logged if name == plugin]
        self._calls.append([plugin, NAMES[answer], texts, int(seconds * 1e6), *own])
        self._logged.clear()

    def logged(self, plugin: str, text: str) -> None:
        """Note what a plugin has written to the log."""
        if len(self._logged) < _MOST_LOGGED:
            self._logged.append((plugin, text))

    def nothing_called(self) -> None:
        """Leave out what a plugin has answered, which is no part of the recording, with what it wrote to the log."""
        self._logged.clear()

    def asked(self, hook: str, result: Result) -> None:
        """Note what a hook has come to."""
        calls, self._calls = self._calls, []
        answer, texts, own = result
        if hook == _WITH_SECRETS:
            texts = tuple(map(masks.mask_text, texts[1:]))
            texts = (*result[1][:1], *texts)
            for call in calls:
                call[2] = ()
        elif hook == _SECRET_TEXTS:
            texts = ()
        asked = [hook, calls, NAMES[answer], texts, None if own is None else reply_fields(own)]
        fields = self.turn.fields
        if "asked" in fields:
            fields["asked"].append(asked)
        else:
            fields["asked"] = [asked]

    def handshake(self, security: Security | None) -> None:
        """Note what a TLS handshake has led to."""
        self.turn.add("tls", security_fields(security))

    def stepped(self, kind: str, text: str = "") -> None:
        """Note a step of AUTH."""
        self.turn.add("auth", [kind, text])

    def hung_up(self, reply: Reply, drained: int | None = None) -> None:
        """Note that the client is told this in place of being read any longer, or of being waited for to read."""
        self.turn.fields["hung_up"] = reply_fields(reply)
        if drained is not None:
            self.turn.fields["drained"] = drained

    def mask(self, start: int, end: int, octets: Callable[[bytes], bytes]) -> None:
        """Mask a piece of what the client has sent."""
        parts = [
            (turn, turn.part(start, end))
            for turn in (*self._waiting, self.turn)
            if turn.start < end and start < turn.end
        ]
        masked = octets(b"".join([turn.received[part] for turn, part in parts]))
        for turn, part in parts:
            size = part.stop - part.start
            turn.received = turn.received[: part.start] + masked[:size] + turn.received[part.stop :]
            masked = masked[size:]

    def end_turn(self) -> None:
        """Let the next octets begin a turn; write those turns whose octets have all been dealt with, if it is time."""
        self.in_turn = False
        waiting = self._waiting
        while waiting and waiting[0].end <= self.taken:
            self._put(waiting.pop(0).line())
        if self._size > _AT_ONCE:
            self._write_lines()

    def close(self) -> None:
        """Write what is left: the session is over."""
        self._waiting.append(self.turn)
        self.end_turn()
        if self._recording:
            self._put('{"end":true}')
            self._write_lines()

    def _put(self, line: str) -> None:
        self._lines.append(line)
        self._size += len(line)

    def _write_lines(self) -> None:
        lines, self._lines, self._size = self._lines, [], 0
        self._write("\n".join([*lines, ""]))


def _no_octets(data: bytes) -> bytes:
    return data.translate(masks.RESPONSE)


def _no_octets_behind_auth(data: bytes) -> bytes:
    start = data.lower().find(b"auth")
    return data if start < 0 else data[:start] + _no_octets(data[start:])


def _no_content(data: bytes) -> bytes:
    return data.translate(masks.CONTENT)


class TapedServer(Server):
    """A server that has what goes in and out recorded."""

    __slots__ = ("_exchanging", "_wary", "recorder")

    recorder: _Recorder

    def record(self, recorder: _Recorder) -> None:
        """Have it recorded from now on."""
        self.recorder = recorder
        self._exchanging = False  # AUTH goes on
        self._wary = False  # behind AUTH, and what comes may be meant for it
        draw = self._nonce
        self._nonce = None if draw is None else lambda: self._noted(draw())

    def _noted(self, nonce: str) -> str:
        self.recorder.turn.add("draws", ["nonce", nonce])
        return nonce

    def receive_data(self, data: bytes | bytearray | memoryview) -> None:  # noqa: D102 - as in the base class
        self.recorder.heard(bytes(data))
        super().receive_data(data)

    def data_to_send(self) -> bytes:  # noqa: D102
        data = super().data_to_send()
        if data:
            self.recorder.said(data)
        return data

    def waits(self) -> None:
        """Say that all that has come has been looked at."""
        recorder = self.recorder
        if self.in_content:
            self._take_content()
        elif not self._input:
            recorder.taken = recorder.total
        elif recorder.total - recorder.taken > _AT_ONCE:  # a line without an end: no more than its beginning counts
            start = bytes(self._input[:8])
            if self._exchanging or self._wary or masks.is_auth(start):
                self._wary = True
                recorder.mask(recorder.taken, recorder.total, _no_octets)
            recorder.taken = recorder.total
        recorder.end_turn()

    def _drop_input(self) -> None:
        self.drop()
        super()._drop_input()

    def drop(self) -> None:
        """Mask what nobody looks at, if there may be a password in it."""
        recorder = self.recorder
        recorder.mask(recorder.taken, recorder.total, _no_octets if self._wary else _no_octets_behind_auth)
        recorder.taken = recorder.total

    def _line(self, limit: int) -> bytearray | None:
        line = super()._line(limit)
        if line is not None:
            recorder = self.recorder
            end = recorder.total - len(self._input)
            if self._exchanging:
                recorder.mask(recorder.taken, end, _no_octets)
            elif self._wary or masks.is_auth(line):
                self._look_at(bytes(line), recorder.taken, end)
            recorder.taken = end
        return line

    def _look_at(self, line: bytes, start: int, end: int) -> None:
        """Mask a command that holds a password, or may do."""
        if masks.is_auth(line):
            self._wary = True
            self.recorder.mask(start, end, masks.mask_command)
        elif self._wary:
            verb = line.partition(b" ")[0].strip().upper().decode("latin-1")
            if verb in self._offer.commands:
                self._wary = False
            else:
                self.recorder.mask(start, end, _no_octets)

    def _receive(self, message: Any) -> Generator[Any, Any, None]:
        yield from super()._receive(message)
        self._take_content()

    def _take_content(self) -> None:
        recorder = self.recorder
        end = recorder.total - len(self._input)
        if recorder.mask_content:
            recorder.mask(recorder.taken, end, _no_content)
        recorder.taken = end

    def _exchange(self, mechanism: Mechanism, initial: bytes | None) -> Generator[Any, Any, None]:
        def serve(exchange: Exchange) -> Steps:
            return _noting(mechanism.serve(exchange), self.recorder)

        self._exchanging = True
        try:
            yield from super()._exchange(replace(mechanism, serve=serve), initial)
        finally:
            self._exchanging = False


def _noting(serving: Steps, recorder: _Recorder) -> Steps:
    """A mechanism whose steps are noted, without what would help to guess a password."""
    recorder.stepped("begin")
    answer: Any = None
    while True:
        try:
            step = serving.send(answer)
        except StopIteration as stop:
            outcome: Outcome = stop.value
            recorder.stepped("success" if outcome.success else "failure", outcome.user)
            return outcome
        except SaslError as error:
            recorder.stepped("malformed" if error.malformed else "refused")
            raise
        if isinstance(step, bytes):
            shown = b"v=" + bytes(len(step) - 2) if step[:2] == b"v=" else step  # RFC 5802 section 7: a signature
            if shown is not step:
                recorder.replace(base64.b64encode(step), base64.b64encode(shown))
            recorder.stepped("challenge", shown.decode("latin-1"))
        elif isinstance(step, Credentials):
            recorder.stepped("credentials", step.user)
        else:
            recorder.stepped("verifier", step.user)
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
        server.record(_Recorder(site.clock, site.keep(site, self.connection.id), mask_content=site.mask_content))
        return server

    @property
    def recorder(self) -> _Recorder:
        """What is recorded of this session."""
        return self._server.recorder

    def run(self) -> Generator[Effect, object, None]:  # noqa: D102 - as in the base class
        try:
            yield from super().run()
        finally:
            self._server.drop()
            self.recorder.close()

    def _admit(self, address: str) -> Generator[Effect, object, Reply | None]:
        refusal = yield from super()._admit(address)
        settings, connection = self._settings, self.connection
        self.recorder.begin(
            Head(
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
                masked=("auth", "content") if self.recorder.mask_content else ("auth",),
            )
        )
        return refusal

    def ask(self, hook: Hook) -> Generator[Effect, object, Result]:  # noqa: D102
        return self._recorded(hook.name, super().ask(hook))

    def _recorded(self, hook: str, asking: Generator[Effect, object, Result]) -> Generator[Effect, object, Result]:
        result = yield from asking
        self.recorder.asked(hook, result)
        return result

    def _trace(self, hook: str, plugin: str, answer: Answer, texts: Sequence[str], seconds: float) -> None:
        if hook in WATCHERS:  # which are asked while another hook is
            self._server.recorder.nothing_called()
        else:
            self._server.recorder.called(plugin, answer, texts, seconds)

    def receive(self) -> Generator[Effect, object, None]:  # noqa: D102
        self._server.waits()
        try:
            yield from super().receive()
        except HangUp as goodbye:
            self.recorder.hung_up(goodbye.reply)
            raise

    def drain(self) -> Generator[Effect, object, None]:  # noqa: D102
        try:
            yield from super().drain()
        except HangUp as goodbye:
            self.recorder.hung_up(goodbye.reply, self.recorder.drains)
            raise
        self.recorder.drains += 1

    def _begin_tls(self) -> Generator[Effect, object, bool]:
        self.recorder.end_turn()  # what comes with the end of the handshake is none of what was said in clear
        done = yield from super()._begin_tls()
        self.recorder.handshake(self.connection.security if done else None)
        return done

    def greeted(self, hello: hooks.Helo | hooks.Ehlo) -> None:  # noqa: D102
        super().greeted(hello)
        keywords = self.transaction.notes.get("capabilities")
        known = cast("Sequence[object]", keywords) if isinstance(keywords, list | tuple) else ()
        self.recorder.turn.add("announced", list(map(str, known)))


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
        session.recorder.turn.add(key, value)


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
    """Keep each session in a file of its own, `20261126T101500-ID.jsonl` by the time of day in UTC. Raises OSError."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    complaints: list[OSError] = []

    def keep(site: Site, identity: str) -> Callable[[str], object]:
        moment = time.strftime("%Y%m%dT%H%M%S", time.gmtime(site.wall()))
        path = os.fspath(directory / f"{moment}-{identity}.jsonl")

        def write(text: str) -> None:
            try:
                _append(path, text.encode("ascii"))
            except OSError as error:  # mail goes on, whatever becomes of the recording
                if not complaints:
                    site.log(LOGERROR, f"error, sessions are not recorded: {error}", hook="")
                complaints.append(error)

        return write

    return keep


def _append(path: str, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        while data:
            data = data[os.write(descriptor, data) :]
    finally:
        os.close(descriptor)
