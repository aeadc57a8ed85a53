"""Sessions that are only to find out what would be: plugins are asked, nothing is queued, and all is recorded."""

import time
from collections.abc import Callable, Generator
from dataclasses import replace
from typing import Any

from qpsmtpd.config import Config
from qpsmtpd.protocol import OK, Hook
from qpsmtpd.protocol.host import Result
from qpsmtpd.recording.recorder import RecordedSession, RecordingSite
from qpsmtpd.recording.tape import Tape, tapes_in
from qpsmtpd.session.effects import Effect
from qpsmtpd.site import Settings, Site

__all__ = ["QUEUED", "RehearsalSession", "RehearsalSite"]

QUEUED: Result = (OK, ("nothing is queued in a rehearsal",), None)
"""What is answered in place of the plugins that queue."""


class RehearsalSession(RecordedSession):
    """A session whose messages are not queued; its site is a `RehearsalSite`."""

    def ask(self, hook: Hook) -> Generator[Effect, object, Result]:  # noqa: D102 - as in the base class
        return self._say(hook.name, QUEUED) if hook.name == "queue" else super().ask(hook)

    def _say(self, hook: str, result: Result) -> Generator[Effect, object, Result]:
        """Answer a hook without asking anybody."""
        if self._chore is not None or self._leaving:
            yield from self._do_chore()
        self._own_reply = None
        self._trace_result(hook, result)
        return result


class RehearsalSite(RecordingSite):
    """A site for rehearsals. What its plugins log is written nowhere but into the recording."""

    session_type = RehearsalSession
    rehearsal = True

    def __init__(self, settings: Config, **options: Any) -> None:
        """The options are those of `RecordingSite`."""
        self._lines: dict[str, list[str]] = {}
        options.setdefault("write", _unwritten)
        super().__init__(settings, self._keep, **options)
        self.stopwatch = time.perf_counter

    def _keep(self, site: Site, identity: str) -> Callable[[str], object]:
        del site
        return self._lines.setdefault(identity, []).append

    def take_tape(self, session: RecordedSession) -> Tape:
        """What has been recorded of a session; it is then forgotten here."""
        (tape,) = tapes_in("the rehearsal", "".join(self.forget(session)).splitlines())
        return tape

    def forget(self, session: RecordedSession) -> list[str]:
        """Forget what has been recorded of a session, if it has not been taken."""
        return self._lines.pop(session.connection.id, [])

    def read_settings(self) -> Settings:  # noqa: D102
        return replace(super().read_settings(), proxy_networks=())  # the client is the one that a proxy would name


def _unwritten(line: str) -> None:
    """Take a line of the log."""
