"""A hook and its plugins: the chain is run, its answer understood, its faults caught.

Plugins are called in one place only (`_ask`), so that their faults are caught in one place
only; the other code of plugins that runs here, the parsers that parse hooks have given, has
`_parse`. `session` says which hook is asked when.
"""

import contextvars
from collections.abc import Awaitable, Callable, Generator, Mapping
from functools import partial
from types import MappingProxyType
from typing import cast

from qpsmtpd.logs import LOGDEBUG, LOGWARN
from qpsmtpd.protocol import (
    DECLINED,
    DENY,
    DONE,
    FAILED,
    REFUSALS,
    VERDICTS,
    Answer,
    Hook,
    Reply,
    ReturnCode,
    ScramVerifier,
    hooks,
)
from qpsmtpd.protocol.conversation import own_reply
from qpsmtpd.protocol.host import Result
from qpsmtpd.session.connection import Connection
from qpsmtpd.session.effects import Await, CallBlocking, Effect, Effects, Pause
from qpsmtpd.session.transaction import Transaction
from qpsmtpd.site import PLAIN, Entry, Kind, Settings, Site, current_session, no_result

__all__ = ["PARSE_HOOKS", "WATCHERS", "Asking", "Chains"]

Texts = tuple[str, ...]

Asking = Generator[Effect, object, Result]
"""A hook that is being asked; in the end its answer."""

_SLOW = 0.05  # seconds that a plain hook may take where it keeps others waiting
_REMEDY = "make the hook `async def`, or mark it @blocking (docs/plugins.md)"
_NOBODY_LEFT = "5.5.1 No recipient is left"

WATCHERS = frozenset({"ok", "deny"})
"""The hooks that are asked behind the answer of a plugin to another hook."""

PARSE_HOOKS = frozenset(name for name, hook in hooks.HOOKS.items() if issubclass(hook, hooks.ParseHook))
_DECIDED_LATER = WATCHERS | PARSE_HOOKS  # or never
_QUEUEING = frozenset({"queue_pre", "queue"})
_SECRET = hooks.AuthScramSha256.name  # its text is nobody's business
_KEPT: Mapping[ReturnCode, object] = {code: MappingProxyType({"return": code}) for code in ReturnCode}


class Chains:
    """What runs the hooks of one session."""

    _traced = False  # whether `_trace` is told of each answer

    connection: Connection
    """What is known about the connection."""

    transaction: Transaction
    """The mail transaction; there is always one, with a sender after MAIL."""

    def __init__(self, site: Site, settings: Settings, *, alone: bool) -> None:
        self.hook_name = ""
        """The hook that runs now."""
        self._site = site
        self._settings = settings
        self._stopwatch = site.stopwatch or site.clock
        self._alone = alone
        self._chains = site.chains
        self._watched = not WATCHERS.isdisjoint(site.wanted)
        self._own_reply: Reply | None = None  # what a plugin has prepared for the command of the moment
        self._early = b""  # what came while a hook was pausing
        self._parser: tuple[Entry, Callable[..., object]] | None = None  # what the last parse hook has given

    @property
    def path_argument(self) -> str:
        """What stood behind the word of the last MAIL or RCPT, as sent; empty before the first."""
        return ""

    def _ask(self, hook: Hook) -> Asking:  # noqa: C901, PLR0915 - each plugin of each hook goes through this; a call takes time
        """Run the chain of a hook: the first answer that is not DECLINED ends it.

        Here, and only here, plugins are called. Whatever one does wrong is logged and becomes
        FAILED, which ends the chain too where a client waits for the reply.
        """
        name, clock = hook.name, self._stopwatch
        arguments = (self.transaction, *hook.arguments)
        most = len(arguments)
        results = (self.transaction if hook.of_transaction else self.connection).notes
        answer: Answer = DECLINED
        texts: Texts = ()
        result: object = None
        queueing = name in _QUEUEING
        self._run_as(name)
        begun = clock()
        for entry in self._chains.get(name, ()):
            if queueing and not self.transaction.has_recipients:
                self.respond(554, _NOBODY_LEFT)
                answer, texts = DONE, ()
                break
            given = arguments if entry.arguments >= most else arguments[: entry.arguments]
            try:
                if entry.kind is PLAIN:
                    result = entry.method(*given)
                    if (ended := clock()) - begun > _SLOW:
                        self._held_up(entry, name, ended - begun)
                else:
                    result = yield from self._wait_for(entry, given)
                    self._run_as(name)
                    ended = clock()
                if isinstance(result, ReturnCode):
                    answer, texts = result, ()
                else:
                    answer, texts = self._understood(name, entry, result)
            except Exception:  # noqa: BLE001 - a plugin may raise anything
                self._run_as(name)
                self._site.log_failure(name, entry.name, "the hook")
                ended, answer, texts = clock(), FAILED, ()
            if self._traced:
                self._trace(name, entry.name, answer, texts if name != _SECRET else (), ended - begun)
            begun = ended
            if answer is FAILED and VERDICTS[name][FAILED].reply is not None:
                break
            if answer is FAILED or result is None:
                continue
            kept = results.get(entry.name)
            if kept is None:
                results[entry.name] = {entry.note: _KEPT[answer]}
            elif isinstance(kept, dict):  # else the plugin has a note of its own under this name
                kept[entry.note] = _KEPT[answer]
            if self._watched and name not in WATCHERS:
                first = texts[0] if texts and name != _SECRET else ""
                watcher = hooks.Deny if answer in REFUSALS else hooks.Ok
                yield from self._ask(watcher(entry.name, answer, first))
                self._run_as(name)
                begun = clock()
            if answer is not DECLINED:
                break
        else:
            answer = DECLINED
        outcome = answer, texts, self._own_reply
        if self._traced and name not in _DECIDED_LATER:
            self._trace_result(name, outcome)
        return outcome

    def _trace_result(self, hook: str, result: Result) -> None:
        """See what a hook has come to, one that is no watcher."""

    def _trace(self, hook: str, plugin: str, answer: Answer, texts: Texts, seconds: float) -> None:
        """See what a plugin has answered, and how long it took."""

    def _held_up(self, entry: Entry, hook: str, seconds: float) -> None:
        """Log, once, that a hook has kept all other sessions waiting."""
        if not self._alone and (entry.name, hook) not in self._site.slow_hooks:
            self._site.slow_hooks.add((entry.name, hook))
            text = f"error, took {seconds * 1000:.0f} ms, and no other session could go on; {_REMEDY}"
            self._site.log(LOGWARN, text, hook=hook, plugin=entry.name)

    def _run_as(self, hook: str) -> None:
        """Let what runs now know whose hook it is; again after every wait, as others have run meanwhile."""
        self.hook_name = hook
        current_session.set(self)

    def _parse(self, hook: hooks.ParseHook) -> Asking:
        """Run the chain of a parse hook, then the parser that it has given.

        The code of the hook itself means nothing: without a parser the built-in one is used.
        """
        answer, _, _ = yield from self._ask(hook)
        given = self._take_parser()
        code: Answer = FAILED if answer is FAILED else DECLINED
        texts: Texts = ()
        if answer is not FAILED and given is not None:
            entry, parser = given
            try:
                code, texts = self._understood(hook.name, entry, parser(hook.command, hook.argument))
                code = DENY if code is DECLINED else code
            except Exception:  # noqa: BLE001 - it is a plugin's
                self._site.log_failure(hook.name, entry.name, "the parser")
                code = FAILED
        outcome = code, texts, self._own_reply
        if self._traced:
            self._trace_result(hook.name, outcome)
        return outcome

    def _take_parser(self) -> tuple[Entry, Callable[..., object]] | None:
        parser, self._parser = self._parser, None
        return parser

    def _wait_for(self, entry: Entry, arguments: tuple[object, ...]) -> Generator[Effect, object, object]:
        """Run a hook method that the transport has a part in."""
        call, seconds = entry.method, self._settings.hook_timeout
        if entry.kind is Kind.ASYNC:
            return (yield Await(cast("Awaitable[object]", call(*arguments)), seconds))
        if entry.kind is Kind.BLOCKING:
            context = contextvars.copy_context()
            return (yield CallBlocking(partial(context.run, call, *arguments), seconds))
        return (yield from self._perform(cast("Effects", call(*arguments))))

    def _perform(self, effects: Effects) -> Generator[Effect, object, object]:
        """Run a hook that asks for effects itself; keep the bytes that end its pauses."""
        step: Callable[..., Effect] = effects.send
        outcome: object = None
        while True:
            try:
                effect = step(outcome)
            except StopIteration as stop:
                return stop.value
            if isinstance(effect, Pause) and effect.until_input and (early := self._unread()):
                outcome, step = early, effects.send  # it has talked early already
                continue
            try:
                outcome, step = (yield effect), effects.send
            except Exception as error:  # noqa: BLE001 - it is the plugin's to handle
                outcome, step = error, effects.throw
            current_session.set(self)
            if isinstance(effect, Pause) and isinstance(outcome, bytes):
                self._early += outcome

    def _unread(self) -> bytes:
        """What the client has sent behind the command of the moment."""
        return self._early

    def _understood(self, hook: str, entry: Entry, result: object) -> tuple[ReturnCode, Texts]:
        """A hook's result as code and texts. Raises TypeError for what is none."""
        if isinstance(result, ReturnCode):
            return result, ()
        if result is None:
            self._site.log(LOGDEBUG, "returned None, which counts as DECLINED", hook=hook, plugin=entry.name)
            return DECLINED, ()
        code, *given = _parts(result)
        if isinstance(code, ReturnCode):
            if len(given) == 1 and isinstance(given[0], str):  # as nearly always
                if hook == _SECRET:
                    ScramVerifier.parse(given[0])
                return code, (given[0],)
            if hook in PARSE_HOOKS and given and callable(given[0]):
                self._parser = entry, given[0]
                del given[0]
            texts = tuple([text for text in given if isinstance(text, str)])
            if len(texts) == len(given) - given.count(None):
                return code, texts
        raise no_result(type(result).__name__ if hook.startswith("auth") else f"{result!r}")  # no password in the log

    def respond(self, code: int, *lines: str) -> None:
        """Prepare the plugin's own reply to the command; it is sent if the plugin returns DONE."""
        self._own_reply = own_reply(code, lines)


def _parts(result: object) -> tuple[object, ...]:
    return cast("tuple[object, ...]", result) if isinstance(result, tuple) and result else (None,)
