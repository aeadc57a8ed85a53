"""A second list of plugins, `config/plugins.shadow`, judges live mail without any effect.

When a client has gone, its session is played again in memory, as it was recorded: now the plugins of the shadow
list are asked, their answers are noted, and it goes on as the real ones had it. So nobody waits for them, every
hook is compared, and what they do to the message, to the notes or to the store is seen by them alone.
"""

from collections import Counter
from collections.abc import Callable, Generator, Iterator
from itertools import zip_longest
from typing import Any

from qpsmtpd.config import Config
from qpsmtpd.loader import load, plugin_lines
from qpsmtpd.logs import LOGERROR, LOGNOTICE, LOGWARN
from qpsmtpd.protocol import VERDICTS, Hook
from qpsmtpd.protocol.host import NOTHING, Result
from qpsmtpd.recording.player import PlayedSession, Script, playing
from qpsmtpd.recording.recorder import Keep, RecordedSession, RecordingSite
from qpsmtpd.recording.rehearsal import RehearsalSession, RehearsalSite
from qpsmtpd.recording.tape import NAMES, Asked, Tape, Turn, tapes_in
from qpsmtpd.resolver import Resolver
from qpsmtpd.session.effects import Effect
from qpsmtpd.site import Site, current_session

__all__ = ["SHADOW", "ShadowedSite", "differences"]

SHADOW = "plugins.shadow"
"""The setting with the shadow list."""

_MOST = 64 * 1024 * 1024  # characters that recordings of all sessions under way may take in memory
_SUMMARY = 600.0  # seconds between two lines that sum up
_SHOWN = 10  # kinds of differences in such a line


class _ShadowSession(PlayedSession):
    """A session that goes as it went, while the plugins of the shadow list are asked in vain."""

    def __init__(self, site: "_ShadowSite", script: Script) -> None:
        super().__init__(site, script, plugins_answer=False)

    def ask(self, hook: Hook) -> Generator[Effect, object, Result]:
        if hook.name.startswith("auth") or hook.name == "queue":  # passwords are masked, and nothing is queued
            return super().ask(hook)
        return self._ask_in_vain(hook)

    def _ask_in_vain(self, hook: Hook) -> Generator[Effect, object, Result]:
        yield from RehearsalSession.ask(self, hook)
        self._own_reply = None
        return self.script.result(hook.name) or NOTHING


class _FirstRecorded(Resolver):
    """Has the names that a session asked for when it was recorded; asks for others."""

    def __init__(self, resolver: Resolver) -> None:
        self.resolver = resolver

    async def look_up(self, name: str, kind: str) -> tuple[str, ...]:
        known = _recorded(name, kind)
        return await self.resolver.look_up(name, kind) if known is None else known

    def look_up_blocking(self, name: str, kind: str) -> tuple[str, ...]:
        known = _recorded(name, kind)
        return self.resolver.look_up_blocking(name, kind) if known is None else known


def _recorded(name: str, kind: str) -> tuple[str, ...] | None:
    session = current_session.get()
    return session.script.names.get((kind, name)) if isinstance(session, _ShadowSession) else None


class _ShadowSite(RehearsalSite):
    """The site of the shadow list."""

    def __init__(self, settings: Config, tell: Callable[[int, str], None]) -> None:
        """`tell` is for the log of the real site: errors go there."""
        self._tell = tell
        super().__init__(settings)

    def log(self, level: int, text: str, *, hook: str | None = None, plugin: str = "") -> None:
        super().log(level, text, hook=hook, plugin=plugin)
        if level <= LOGERROR:
            self._tell(level, f"shadow: {plugin}: {text}" if plugin else f"shadow: {text}")

    @property
    def resolver(self) -> Resolver:
        return _FirstRecorded(super().resolver)


class _ShadowedSession(RecordedSession):
    """A live session, which is played once more when it is over."""

    def run(self) -> Generator[Effect, object, None]:
        site = self._site
        assert isinstance(site, ShadowedSite)
        try:
            yield from super().run()
            yield from site.ask_shadow(self)
        finally:
            site.forget(self.connection.id)


class ShadowedSite(RecordingSite):
    """A site with a shadow list. Load its own plugins, then call `load_shadow`."""

    session_type = _ShadowedSession

    def __init__(self, settings: Config, keep: Keep | None = None, **options: Any) -> None:
        """`keep`, if given, keeps the recordings too. The other arguments are those of `Site`."""
        super().__init__(settings, self._keep, **options)
        self._keep_too = keep
        self._tapes: dict[str, list[str] | None] = {}  # None for one that is too large
        self._size = 0
        self.shadow = _ShadowSite(settings, self.log)
        """Where the plugins of the shadow list are."""
        self._sessions = self._otherwise = self._left_out = 0
        self._counts: Counter[str] = Counter()
        self._summed_up = self.clock()

    def load_shadow(self) -> None:
        """Load the plugins of the shadow list. Raises ConfigError."""
        shadow = self.shadow
        load(shadow, plugin_lines(self.settings, SHADOW))
        shadow.chains = {**dict.fromkeys(self.wanted, ()), **shadow.chains}  # a session has all the hooks of the real

    def post_fork(self) -> None:  # noqa: D102 - as in the base class
        super().post_fork()
        self.shadow.post_fork()

    def remove_spool_dir(self) -> None:  # noqa: D102
        super().remove_spool_dir()
        self.shadow.remove_spool_dir()

    # What is recorded

    def _keep(self, site: Site, identity: str) -> Callable[[str], object]:
        too = self._keep_too(site, identity) if self._keep_too is not None else None

        def keep(text: str) -> None:
            lines = self._tapes.setdefault(identity, [])
            if lines is not None:
                lines.append(text)
                self._size += len(text)
                if self._size > _MOST:
                    self.forget(identity)
                    self._tapes[identity] = None
                    self._left_out += 1
            if too is not None:
                too(text)

        return keep

    def forget(self, identity: str) -> None:
        """Free the memory that the recording of a session takes, if there is one."""
        self._size -= sum(map(len, self._tapes.pop(identity, None) or ()))

    # What is compared

    def ask_shadow(self, client: RecordedSession) -> Generator[Effect, object, None]:
        """Ask the shadow list about a session that is over; log and count what it would have had otherwise."""
        lines = self._tapes.get(client.connection.id)
        if lines is None:  # it was too large, or there is nothing
            return
        real = next(tapes_in("the session", "".join(lines).splitlines()))
        session = _ShadowSession(self.shadow, Script(real))
        try:
            yield from playing(session)
            found = list(differences(real, self.shadow.take_tape(session)))
        finally:
            self.shadow.forget(session)
        current_session.set(client)  # whose log it is
        self._sessions += 1
        self._otherwise += bool(found)
        for was, would_be in found:
            self._counts[f"{was.hook}: {_named(would_be)} for {_named(was)}"] += 1
            self.log(LOGNOTICE, f"shadow: {_told(would_be)}, was {_told(was)}", hook=was.hook)
        if self.clock() - self._summed_up >= _SUMMARY:
            self.sum_up()

    def sum_up(self) -> None:
        """Log how many sessions would have gone otherwise, and in what."""
        self._summed_up = self.clock()
        text = f"shadow: {self._sessions} sessions, {self._otherwise} otherwise"
        if self._left_out:
            text += f", {self._left_out} too large to be looked at"
        kinds = [f"{count} {kind}" for kind, count in self._counts.most_common(_SHOWN)]
        self.log(LOGWARN, "; ".join([text, *kinds]), hook="")

    def stopped(self) -> None:  # noqa: D102
        self.sum_up()
        super().stopped()

    @property
    def awaits(self) -> bool:  # noqa: D102
        return super().awaits or self.shadow.awaits


def differences(real: Tape, shadow: Tape) -> Iterator[tuple[Asked, Asked]]:
    """The hooks at which a client would have been told something else, or been let go on: as it was, as it would be."""
    for turn, again in zip_longest(real.turns, shadow.turns):
        was, would_be = _by_hook(turn), _by_hook(again)
        for hook in dict.fromkeys([*was, *would_be]):
            none = Asked(hook, (), NOTHING)
            for pair in zip_longest(was.get(hook, ()), would_be.get(hook, ()), fillvalue=none):
                if _effect(pair[0]) != _effect(pair[1]):
                    yield pair


def _by_hook(turn: Turn | None) -> dict[str, list[Asked]]:
    hooks: dict[str, list[Asked]] = {}
    for asked in turn.asked if turn is not None else ():
        hooks.setdefault(asked.hook, []).append(asked)
    return hooks


def _effect(asked: Asked) -> tuple[object, ...]:
    """What a client sees of an answer, its text left out."""
    verdict = VERDICTS[asked.hook][asked.result[0]]
    return asked.reply and asked.reply.code, verdict.proceed, verdict.close


def _named(asked: Asked) -> str:
    """The answer, and whose it is."""
    by = f" by {asked.decided_by}" if asked.decided_by else ""
    return f"{NAMES[asked.result[0]]}{by}"


def _told(asked: Asked) -> str:
    """The same, with the reason."""
    why = asked.calls[-1].reason if asked.decided_by else ""
    return f"{_named(asked)} ({why})" if why else _named(asked)
