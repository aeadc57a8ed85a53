"""The plugin kit: play dialogues against plugins, and see what they were asked and what they said.

`docs/testing.md` shows it at work.
"""

import contextlib
import enum
import textwrap
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from qpsmtpd.plugin import Plugin
from qpsmtpd.protocol import ReturnCode
from qpsmtpd.resolver import Resolver
from qpsmtpd.session.effects import Effects
from qpsmtpd.session.role import MX, Role
from qpsmtpd.site import Entry, Kind
from qpsmtpd.testing import dialogue
from qpsmtpd.testing.memory import CLIENT, Client, Clock, make_site

__all__ = ["PENDING", "Call", "Kit"]


class _Pending(enum.Enum):
    PENDING = "the hook has not returned"


PENDING = _Pending.PENDING


@dataclass(slots=True)
class Call:
    """One call of a plugin's hook. Prints as `rcpt_ok.rcpt(<a@example.org>, {}) -> OK`."""

    plugin: str
    hook: str
    arguments: tuple[object, ...]
    """What the hook was given, behind the transaction; the whole of it, whatever the method takes."""
    result: object = PENDING
    """What it returned, or the exception it raised."""

    @property
    def code(self) -> object:
        """The return code of the result, or the result where it has none."""
        result = self.result
        return cast("tuple[object, ...]", result)[0] if isinstance(result, tuple) else result

    def __str__(self) -> str:
        return f"{self.plugin}.{self.hook}({', '.join(map(_shown, self.arguments))}) -> {_shown(self.result)}"


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(map(_shown, cast('tuple[object, ...]', value)))})"
    return repr(value) if isinstance(value, str | Exception | ReturnCode) else str(value)


class Kit:
    """A server in memory with these plugins: no socket, no event loop, a clock that stands still."""

    def __init__(
        self,
        *plugins: str | type[Plugin],
        config: Mapping[str, Sequence[str]] | None = None,
        directory: Path | None = None,
        names: Resolver | None = None,
    ) -> None:
        """Load plugins, each a line as in `config/plugins` or a class, in this order.

        `config` holds settings as in files; they stand before those of a config `directory`.
        `names` answers for the DNS, usually `Names`.
        Raises ConfigError as the loader does.
        """
        self.clock = Clock()
        """The server's clock; `advance` it."""
        self.log: list[str] = []
        """What was logged, every level of it; logging plugins write elsewhere."""
        self.trace: list[Call] = []
        """Every call of a hook, in order, but for the hook logging."""
        self.site = make_site(
            *plugins, directory=directory, log=self.log, clock=self.clock, config=config, resolver=names
        )
        self.site.chains = {
            hook: [entry if hook == "logging" else self._recorded(hook, entry) for entry in chain]
            for hook, chain in self.site.chains.items()
        }

    def connect(
        self,
        ip: str = CLIENT.remote_ip,
        host: str | None = CLIENT.remote_host,
        *,
        user: str | None = None,
        early: bytes = b"",
        role: Role = MX,
    ) -> Client:
        """Connect from an address whose verified name is `host`; an ident server says `user`.

        `early` is sent before the greeting has come. `role` is that of the listener.
        """
        peer = replace(CLIENT, remote_ip=ip, remote_host=host, remote_user=user)
        return Client(self.site, peer, early=early, role=role)

    def play(self, text: str) -> str:
        """Play the client's part of a dialogue over a new connection; give the whole as it went.

        Where the server does as the text says, that is the text itself, less its comments
        and indentation.
        """
        first, *turns = dialogue.parse(textwrap.dedent(text))
        client = self.connect(early=first.sent)
        for turn in turns:
            if client.closed:
                break
            client.send(turn.sent)
        return "".join(f"{line}\n" for line in client.transcript)

    def calls(self, hook: str, plugin: str | None = None) -> list[Call]:
        """The calls of one hook so far, of one plugin or of all."""
        return [call for call in self.trace if call.hook == hook and plugin in (None, call.plugin)]

    def logged(self, text: str) -> list[str]:
        """The log lines that hold this text."""
        return [line for line in self.log if text in line]

    def _recorded(self, hook: str, entry: Entry) -> Entry:
        """The entry with a method that keeps its calls, of the same kind."""
        # The method gets all arguments, so that all are kept; it cuts them to what it takes.
        wrap = {Kind.ASYNC: _await_recorded, Kind.EFFECTS: _run_recorded}.get(entry.kind, _call_recorded)

        def begin(arguments: tuple[object, ...]) -> Call:
            call = Call(entry.name, hook, arguments[1:])
            self.trace.append(call)
            return call

        return replace(entry, method=wrap(begin, entry), arguments=1_000)


_Begin = Callable[[tuple[object, ...]], Call]


def _call_recorded(begin: _Begin, entry: Entry) -> Callable[..., object]:
    def method(*arguments: object) -> object:
        with _keeping(begin(arguments)) as call:
            call.result = result = entry.method(*arguments[: entry.arguments])
            return result

    return method


def _await_recorded(begin: _Begin, entry: Entry) -> Callable[..., object]:
    async def method(*arguments: object) -> object:
        with _keeping(begin(arguments)) as call:
            call.result = result = await cast("Awaitable[object]", entry.method(*arguments[: entry.arguments]))
            return result

    return method


def _run_recorded(begin: _Begin, entry: Entry) -> Callable[..., object]:
    def method(*arguments: object) -> Effects:
        with _keeping(begin(arguments)) as call:
            call.result = result = yield from cast("Effects", entry.method(*arguments[: entry.arguments]))
            return result

    return method


@contextlib.contextmanager
def _keeping(call: Call) -> Generator[Call]:
    try:
        yield call
    except Exception as error:
        call.result = error
        raise
