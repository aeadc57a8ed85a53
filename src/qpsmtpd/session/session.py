"""One client, from accept to close: events of the protocol in, hooks run, effects out.

Theory of operation. `run` is a generator of effects (`effects`). It takes events from
`protocol.Server`; a hook is answered by its chain of plugins (`_ask`), then by what the
session itself does at that hook (`_OWN`), and the answer goes back. A hook is called in
one place only (`_ask`), so that a fault of a plugin is caught in one place only; the other
code of plugins that runs here, the parsers that parse hooks have given, has `_parse`.

Nothing in here reads or writes a socket, starts a thread or sleeps; clock and randomness
are the site's, and arguments there.
"""

import contextvars
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import ClassVar, cast

from qpsmtpd.logs import LOGDEBUG, LOGERROR, LOGINFO, LOGWARN
from qpsmtpd.protocol import (
    CLOSED,
    DECLINED,
    DENY,
    DONE,
    DRAIN,
    FAILED,
    NEED_DATA,
    OK,
    REFUSALS,
    VERDICTS,
    Answer,
    Content,
    Hook,
    Reply,
    ReturnCode,
    Server,
    hooks,
)
from qpsmtpd.session.connection import Connection, Peer
from qpsmtpd.session.effects import (
    SHUTTING_DOWN,
    TIMED_OUT,
    Await,
    CallBlocking,
    Close,
    Effect,
    Effects,
    Flush,
    Pause,
    Receive,
)
from qpsmtpd.session.trace import authentication_results_field, from_clause, received_field
from qpsmtpd.session.transaction import Transaction
from qpsmtpd.site import Entry, Kind, Site, current_session, no_result

__all__ = ["Session"]

_Texts = tuple[str, ...]
_Chain = Generator[Effect, object, tuple[Answer, _Texts]]

_TIMEOUT = Reply(421, "4.4.2", "Timeout, closing the connection")
_TOO_LONG = Reply(421, "4.4.2", "This session has lasted too long, closing the connection")
_SHUTDOWN = Reply(421, "4.3.2", "Service shutting down, closing the connection")
_TOO_MANY = Reply(421, None, "Too many connections, please try again later")
_TOO_MANY_FROM_YOU = Reply(421, None, "Too many connections from your address, please try again later")

_NOBODY_LEFT = "5.5.1 No recipient is left"

_WATCHERS = frozenset({"ok", "deny"})
_QUEUEING = frozenset({"queue_pre", "queue"})
_PARSE_HOOKS = frozenset(name for name, hook in hooks.HOOKS.items() if issubclass(hook, hooks.ParseHook))
_KEPT = {code: MappingProxyType({"return": code}) for code in ReturnCode}
_NO_OPINION: tuple[Answer, _Texts] = (DECLINED, ())


class Session:
    """The session of one client. A transport drives `run` and sends `data_to_send`."""

    def __init__(self, site: Site, peer: Peer) -> None:
        self.connection = Connection(peer, site.new_identity(), site.wall())
        """What is known about the connection."""
        self.hook_name = ""
        """The hook that runs now."""
        self._site = site
        self._chains = site.chains
        self._watched = not _WATCHERS.isdisjoint(site.chains)
        self._settings = settings = site.current_settings()
        self._server = Server(
            hooks={*self._OWN, *site.chains},
            hostname=settings.hostname,
            greeting=settings.greeting,
            limits=settings.limits,
        )
        self._output = b""  # what is said before the protocol begins
        self._early = b""  # what came while a hook was pausing
        self._trace_from = ""
        self._in_header = False  # a piece of the header has come, and nothing behind it
        self._broken: OSError | None = None  # why the content could not be kept
        self._transactions = 0
        self._parser: tuple[Entry, Callable[..., object]] | None = None  # what the last parse hook has given
        self._clock = site.clock
        self._last_chance = False  # the time left is less than a command may take
        self._deadline = site.clock() + settings.session_timeout
        self._next_command = Receive(settings.command_timeout)
        self._next_content = Receive(settings.content_timeout)
        self.transaction = self._make_transaction()
        """The mail transaction; there is always one, with a sender after MAIL."""

    # The transport's side

    def data_to_send(self) -> bytes:
        """What waits to be written; it is then forgotten here."""
        if self._output:
            data, self._output = self._output, b""
            return data
        return self._server.data_to_send()

    def run(self) -> Generator[Effect, object, None]:
        """The session as a generator of effects; closing it early leaves nothing behind."""
        address = self.connection.remote_ip
        self._site.census.enter(address)
        try:
            self._log(LOGINFO, f"connected, {address}:{self.connection.remote_port}")
            refusal = yield from self._admit(address)
            if refusal is not None:
                self._output = refusal.encode(enhanced=False)
                yield Close(linger=True)
                return
            yield from self._serve()
            yield Close(linger=not self._server.peer_has_finished)
            yield from self._ask(hooks.PostConnection())
        finally:
            self._site.census.leave(address)
            self.transaction.discard()

    # From accept to close

    def _admit(self, address: str) -> Generator[Effect, object, Reply | None]:
        census, settings = self._site.census, self._settings
        if census.total > settings.max_connections:
            self._log(LOGWARN, f"fail, {census.total - 1} connections already")
            return _TOO_MANY
        if census.connected[address] > settings.max_per_ip:
            self._log(LOGWARN, f"fail, {settings.max_per_ip} connections already from {address}")
            return _TOO_MANY_FROM_YOU
        if "pre-connection" not in self._chains:
            return None
        peer = self.connection.peer
        others = list(census.addresses())
        others.remove(address)
        answer, texts = yield from self._ask(
            hooks.PreConnection(
                peer.remote_ip, peer.remote_port, peer.local_ip, peer.local_port, settings.max_per_ip, tuple(others)
            )
        )
        verdict = VERDICTS["pre-connection"][answer]
        if verdict.reply is None or not texts or not verdict.plugin_text:
            return verdict.reply
        return Reply(verdict.reply.code, None, "\n".join(texts))

    def _serve(self) -> Generator[Effect, object, None]:
        server = self._server
        while True:
            event = server.next_event()
            if event is NEED_DATA:
                early, self._early = self._early, b""
                self._take(early or (yield self._next_receive()))
            elif isinstance(event, Content):
                self._keep(event)
            elif isinstance(event, Hook):
                name = event.name
                if self._in_header:
                    self._end_header()
                answer, texts = _NO_OPINION
                if self._broken is not None and VERDICTS[name][FAILED].reply is not None:
                    answer = FAILED
                elif name in self._chains:
                    chain = self._parse(event) if isinstance(event, hooks.ParseHook) else self._ask(event)
                    answer, texts = yield from chain
                if answer is FAILED:
                    server.fail()
                    continue
                if name in self._OWN:
                    self._OWN[name](self, event, answer, texts)
                server.answer(answer, *texts)
            elif event is DRAIN:
                self._take((yield Flush(self._settings.command_timeout)))
            elif event is CLOSED:
                return

    def _next_receive(self) -> Receive:
        receive = self._next_content if self._server.in_content else self._next_command
        left = self._deadline - self._clock()
        self._last_chance = left < receive.timeout
        return Receive(max(left, 0.0)) if self._last_chance else receive

    def _take(self, outcome: object) -> None:
        if isinstance(outcome, bytes):
            self._server.receive_data(outcome)
        elif outcome is SHUTTING_DOWN:
            self._server.hang_up(_SHUTDOWN)
        elif outcome is TIMED_OUT:
            expired = self._last_chance  # not by the clock: a loop's timer may be early by its granularity
            self._log(LOGINFO, "fail, session limit" if expired else "fail, timeout")
            self._server.hang_up(_TOO_LONG if expired else _TIMEOUT)

    # Hooks

    def _ask(self, hook: Hook) -> _Chain:
        """Run the chain of a hook: the first answer that is not DECLINED ends it.

        Here, and only here, plugins are called. Whatever one does wrong is logged and becomes
        FAILED, which ends the chain too where a client waits for the reply.
        """
        name = hook.name
        arguments = (self.transaction, *hook.arguments)
        results = (self.transaction if hook.of_transaction else self.connection).notes
        answer: ReturnCode = DECLINED
        texts: _Texts = ()
        queueing = name in _QUEUEING
        for entry in self._chains.get(name, ()):
            if queueing and not self.transaction.recipients:
                self._server.respond(554, _NOBODY_LEFT)
                return DONE, ()
            self.hook_name = name
            current_session.set(self)
            try:
                if entry.kind is Kind.PLAIN:
                    result = entry.method(*arguments[: entry.arguments])
                else:
                    result = yield from self._wait_for(entry, arguments[: entry.arguments])
                if isinstance(result, ReturnCode):
                    answer, texts = result, ()
                elif result is None:
                    texts = ()
                    self._site.log(LOGDEBUG, "returned None, which counts as DECLINED", hook=name, plugin=entry.name)
                    continue
                else:
                    answer, texts = self._understood(name, entry, result)
            except Exception:  # noqa: BLE001 - a plugin may raise anything
                current_session.set(self)
                self._site.log_failure(name, entry.name, "the hook")
                if VERDICTS[name][FAILED].reply is None:
                    continue
                return FAILED, ()
            kept = results.setdefault(entry.name, {})
            if isinstance(kept, dict):  # else the plugin has a note of its own under this name
                kept[entry.note] = _KEPT[answer]
            if self._watched and name not in _WATCHERS:
                first = texts[0] if texts else ""
                watcher = hooks.Deny if answer in REFUSALS else hooks.Ok
                yield from self._ask(watcher(entry.name, answer, first))
            if answer is not DECLINED:
                return answer, texts
        return DECLINED, texts

    def _parse(self, hook: hooks.ParseHook) -> _Chain:
        """Run the chain of a parse hook, then the parser that it has given.

        The code of the hook itself means nothing: without a parser the built-in one is used.
        """
        answer, _ = yield from self._ask(hook)
        given = self._take_parser()
        if answer is FAILED or given is None:
            return (FAILED, ()) if answer is FAILED else _NO_OPINION
        entry, parser = given
        try:
            code, texts = self._understood(hook.name, entry, parser(hook.command, hook.argument))
        except Exception:  # noqa: BLE001 - it is a plugin's
            self._site.log_failure(hook.name, entry.name, "the parser")
            return FAILED, ()
        return (DENY if code is DECLINED else code), texts

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
            try:
                outcome, step = (yield effect), effects.send
            except Exception as error:  # noqa: BLE001 - it is the plugin's to handle
                outcome, step = error, effects.throw
            current_session.set(self)
            if isinstance(effect, Pause) and isinstance(outcome, bytes):
                self._early += outcome

    def _understood(self, hook: str, entry: Entry, result: object) -> tuple[ReturnCode, _Texts]:
        """A hook's result as code and texts. Raises TypeError for what is none."""
        if result is None or isinstance(result, ReturnCode):
            return result or DECLINED, ()
        if isinstance(result, tuple) and result:
            code, *given = cast("tuple[object, ...]", result)
            if given and callable(given[0]) and hook in _PARSE_HOOKS:
                self._parser = entry, given[0]
                del given[0]
            texts = tuple(text for text in given if isinstance(text, str))
            if isinstance(code, ReturnCode) and len(texts) == len(given) - given.count(None):
                return code, texts
        raise no_result(f"{result!r}")

    def respond(self, code: int, *lines: str) -> None:
        """Prepare the plugin's own reply to the command; it is sent if the plugin returns DONE."""
        self._server.respond(code, *lines)

    # What the session itself does at a hook, once the plugins have answered

    def _greeted(self, event: hooks.Helo | hooks.Ehlo, answer: Answer, texts: _Texts) -> None:
        del texts
        if VERDICTS[event.name][answer].proceed:
            self.connection.hello, self.connection.hello_host = event.name, event.host
            self._trace_from = from_clause(self.connection)
        keywords = self.transaction.notes.get("capabilities", ())
        if isinstance(keywords, list | tuple):
            self._server.announce(*map(str, cast("Sequence[object]", keywords)))

    def _sender(self, event: hooks.Mail, answer: Answer, texts: _Texts) -> None:
        del texts
        if VERDICTS["mail"][answer].proceed:
            self.transaction.sender, self.transaction.sender_parameters = event.sender, event.parameters

    def _recipient(self, event: hooks.Rcpt, answer: Answer, texts: _Texts) -> None:
        del texts
        if VERDICTS["rcpt"][answer].proceed:
            self.transaction.add_recipient(event.recipient, event.parameters)

    def _received(self, event: hooks.ReceivedLine, answer: Answer, texts: _Texts) -> None:
        header, hostname = self.transaction.header, self._settings.hostname
        if answer is OK:
            header.add("Received", "\n".join(texts), 0)
        else:
            by = f"by {hostname} (qpsmtpd) with {event.protocol}"
            header.prepend(received_field(self._trace_from, by, self.transaction, self._site.date()))
        for forged in header.take("Authentication-Results"):
            header.add("Original-Authentication-Results", forged)
        header.prepend(authentication_results_field(hostname, self.connection, self.transaction))

    def _new_transaction(self, event: Hook, answer: Answer, texts: _Texts) -> None:
        del event, answer, texts
        if not self.transaction.is_fresh:
            self.transaction.discard()
            self.transaction = self._make_transaction()
        self._in_header = False
        self._broken = None

    _OWN: ClassVar[Mapping[str, Callable[..., None]]] = {
        "helo": _greeted,
        "ehlo": _greeted,
        "mail": _sender,
        "rcpt": _recipient,
        "received_line": _received,
        "reset_transaction": _new_transaction,
    }

    def _make_transaction(self) -> Transaction:
        self._transactions += 1
        identity = f"{self.connection.id}.{self._transactions}"
        return Transaction(identity, self._settings.size_threshold, self._site.spool_dir)

    def _keep(self, event: Content) -> None:
        content = self.transaction.content
        if event.in_header:
            self._in_header = True
            content.write_header(event.data)
            return
        if self._in_header:
            self._end_header()
        if self._broken is None:
            try:
                content.write(event.data)
            except OSError as error:
                self._broke(error)

    def _end_header(self) -> None:
        self._in_header = False
        try:
            self.transaction.content.end_header()
        except OSError as error:
            self._broke(error)

    def _broke(self, error: OSError) -> None:
        """The content cannot be kept: the client is told 451 when it has sent all of it."""
        self._broken = error
        self._log(LOGERROR, f"error, the message cannot be kept: {error}")

    def _log(self, level: int, text: str) -> None:
        current_session.set(self)
        self._site.log(level, text)
