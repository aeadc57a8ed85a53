"""Random plugins against random dialogues, held against a model and against the promises of the documentation.

Plugins do what they like, within what can go wrong: every code, odd texts, no text, nonsense, exceptions,
replies of their own, parsers that misbehave, recipients that disappear. After each step of the client two
judges look at what happened. The *laws* know nothing of SMTP: they read the replies and the trace of calls.
The *model* knows the order of the hooks and the syntax of the few lines that are sent here; it walks through
the trace, says who must have been asked and with what, finds the answer that decides, and reads its row in
`VERDICTS`. No code of the server is used to find out what the server should have done.

What is left out, and why: `config`, `user_config`, `logging` and `post-fork` are asked by the site and the
daemon, not by a session; those of AUTH have tests of their own; exceptions that are no `Exception` (an
interrupt from the keyboard) end the session, as they must.
Results of parsers are in no trace, and neither told to `ok` and `deny` nor kept: they have a record of their own.
"""

import itertools
import re
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pytest
from hypothesis import note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from tests.protocol.conftest import singly

from qpsmtpd import (
    DECLINED,
    DENY,
    DENY_DISCONNECT,
    DENYSOFT,
    DENYSOFT_DISCONNECT,
    DONE,
    OK,
    Pause,
    Plugin,
    blocking,
)
from qpsmtpd.protocol import FAILED, VERDICTS, Mailbox, ReturnCode, hooks
from qpsmtpd.session.effects import Await, CallBlocking
from qpsmtpd.testing import CLIENT, Client, Kit
from qpsmtpd.testing.strategies import cut, cuts

HOST = "mx.example.test"
REFUSALS = {DENY, DENYSOFT, DENY_DISCONNECT, DENYSOFT_DISCONNECT}
PARSE = {"helo_parse", "ehlo_parse", "mail_parse", "rcpt_parse"}
WATCHERS = {"ok", "deny"}
AT_THE_END = {"disconnect", "reset_transaction", "post-connection"}
NOT_OF_A_SESSION = {"config", "user_config", "logging", "post-fork"}
AUTH = {name for name in hooks.HOOKS if name.startswith("auth")}
COMMANDS = "HELO EHLO MAIL RCPT DATA BDAT RSET NOOP QUIT VRFY HELP"
SERVED = sorted(hooks.HOOKS.keys() - NOT_OF_A_SESSION - AUTH)
ONLY_LOGGED = {hook for hook in SERVED if VERDICTS[hook][FAILED].reply is None}
NAMES = ("one", "two", "three", "four")


# What plugins do


@dataclass(frozen=True)
class Act:
    """What a hook does when it is called, in this order."""

    removes: bool = False
    """It takes all recipients out of the transaction."""
    respond: tuple = ()
    """It prepares a reply of its own."""
    raises: type[Exception] | None = None
    gives: object = None
    parser: "Act | None" = None
    """It gives a parser behind its code, which does this."""

    def __repr__(self):
        return f"Act({', '.join(f'{name}={value!r}' for name, value in vars(self).items() if value)})"


@dataclass(frozen=True)
class Serving:
    """A hook as one plugin serves it; its acts come in turn."""

    hook: str
    acts: tuple[Act, ...]
    kind: str = "plain"
    unshift: bool = False


CODES = (DECLINED, OK, DENY, DENYSOFT, DENY_DISCONNECT, DENYSOFT_DISCONNECT, DONE)
SENDER, RECIPIENT, MENDED = "<a@client.example>", "<b@example.org>", "<mended@example.org>"
TEXTS = (
    ("words",),
    ("one", "two"),
    ("two\nlines",),
    ("0",),
    ("",),
    ("", ""),
    ("evil\r\n250 fine",),
    ("all of %s",),
    ("host.example", "and", "more"),
    (MENDED,),
    (MENDED, "KEY=value"),
    (MENDED, "KEY=value", "key"),
    (None, "behind nothing"),
    (None,),
)
NONSENSE = (
    42,
    0,
    True,
    "OK",
    (),
    (OK, 5),
    (OK, "fine", 5),
    (DENY, b"octets"),
    (None, "text"),
    (42, "text"),
    [OK],
    object(),
)
EXCEPTIONS = (ValueError, KeyError, OSError, TimeoutError, AssertionError, StopIteration, RecursionError)
RESPONSES = ((299, "my own"), (250, "mine", "in two lines"), (550, ""), (354, "go on"), (42, "no such code"))
KINDS = ("plain", "async", "blocking", "slow")

EVERY_ACT = (
    *(Act(gives=code) for code in CODES),
    *(Act(gives=(code, *texts)) for code in CODES for texts in ((), ("words", "more"), ("0",), ("",), (MENDED,))),
    *(Act(gives=nonsense) for nonsense in (None, *NONSENSE)),
    *(Act(raises=error) for error in EXCEPTIONS),
    *(Act(respond=respond, gives=code) for code in (DECLINED, OK, DENY) for respond in RESPONSES[:1]),
    *(Act(respond=respond, gives=DONE) for respond in RESPONSES),
    *(Act(respond=(250, "sure"), **failure) for failure in ({"gives": 42}, {"raises": ValueError})),
    *(Act(removes=True, gives=code) for code in (DECLINED, OK)),
)

# One choice stands for a whole act, the plain ones first: many small choices would make most plugins alike.
_OFTEN = (DECLINED, OK, *CODES, DECLINED, OK, DECLINED, OK, DONE, DONE)
_PERHAPS = (*[()] * 6, *RESPONSES, *RESPONSES[:2])
_PATHS = (*TEXTS, *3 * TEXTS[9:12])


def _acts(codes, texts, responses=((),)):
    """A code alone or with texts, and a reply of its own before it."""
    return [Act(respond=respond, gives=(code, *words)) for respond in responses for code in codes for words in texts]


def _any_of(*lists):
    strategies = {id(acts): st.sampled_from(acts) for acts in lists}
    return st.sampled_from([strategies[id(acts)] for acts in lists]).flatmap(lambda strategy: strategy)


def _tame(texts, *parsers):
    """What lets the dialogue go on: no refusal, and with OK something that is understood."""
    acts = _acts([DECLINED], [(), ("a remark",)], ((), RESPONSES[0])) + _acts([OK], [texts], ((), RESPONSES[0]))
    return st.sampled_from([*acts, Act(), *(Act(gives=code, parser=parser) for code in CODES for parser in parsers)])


def _wild(texts, *parsers):
    """What may be: any code, any texts, rarely nonsense or an exception, and perhaps a reply first."""
    codes = [Act(respond=respond, gives=code) for respond in _PERHAPS for code in _OFTEN]
    nonsense = [Act(respond=respond, gives=thing) for respond in _PERHAPS for thing in (None, *NONSENSE)]
    raising = [Act(respond=respond, raises=error) for respond in _PERHAPS for error in EXCEPTIONS]
    removing = [Act(removes=True, gives=code) for code in _OFTEN]
    lists = [*3 * [codes, _acts(_OFTEN, texts, _PERHAPS)], nonsense, raising, removing]
    return lists if not parsers else lists + 6 * [[Act(gives=code, parser=p) for p in parsers for code in CODES]]


# Left out: a parser that gives a parser in its turn. That one is kept, and takes a later command apart.
_PARSERS = [act for acts in _wild(_PATHS) for act in acts[:: 1 + len(acts) // 17]] + _acts([OK], _PATHS)
_TAME = {hook: _tame(()) for hook in SERVED}
_TAME |= {hook: _tame((MENDED,)) for hook in ("mail_pre", "rcpt_pre")}
_TAME |= {hook: _tame((), Act(gives=(OK, MENDED, "KEY=value"))) for hook in ("mail_parse", "rcpt_parse")}
_TAME |= {hook: _tame((), Act(gives=(OK, "host.example", "more"))) for hook in ("helo_parse", "ehlo_parse")}
_WILD = {hook: _any_of(*_wild(TEXTS)) for hook in SERVED}
_WILD |= {hook: _any_of(*_wild(_PATHS)) for hook in ("mail_pre", "rcpt_pre")}
_WILD |= {hook: _any_of(*_wild(_PATHS, *_PARSERS)) for hook in PARSE}

_CONTENT = {hook for hook in SERVED if hook.startswith(("data", "queue"))} | {"received_line"}
_ENVELOPE = {hook for hook in SERVED if hook.startswith(("mail", "rcpt"))}
_REST = set(SERVED) - _CONTENT - _ENVELOPE
_ALWAYS = {"reset_transaction", "ok", "deny"}

ACCEPTS = (Serving("rcpt", (Act(gives=OK),)), Serving("queue", (Act(gives=(OK, "queued")),)))
WATCHES = (Serving("ok", (Act(),)), Serving("deny", (Act(),)))


def _plugins(wild):
    """Plugins that are wild at these hooks, and let the dialogue go on at the others."""

    def serving(hook):
        acts = st.lists((_WILD if hook in wild else _TAME)[hook], min_size=1, max_size=4).map(tuple)
        return st.builds(Serving, st.just(hook), acts, st.sampled_from(KINDS), st.booleans())

    servings = {hook: serving(hook) for hook in SERVED}
    chosen = st.sampled_from([servings[hook] for hook in (*sorted(wild), *SERVED)])
    return st.lists(chosen.flatmap(lambda serving: serving), min_size=1, max_size=8).map(tuple)


_SOME_PLUGINS = [
    st.lists(_plugins(part | _ALWAYS), min_size=1, max_size=3)
    for part in (_CONTENT, _CONTENT | _ENVELOPE, _ENVELOPE, _REST, set(SERVED))
]
PLUGIN_LISTS = st.builds(
    # The last plugin often accepts recipients and messages.
    lambda some, last: (*some, *last),
    st.sampled_from(_SOME_PLUGINS).flatmap(lambda strategy: strategy),
    st.sampled_from([(ACCEPTS,), (ACCEPTS + WATCHES,), (ACCEPTS,), ()]),
)


# Plugins that do it, and remember


@dataclass
class Record:
    """A call, as the plugin saw it."""

    serving: Serving
    act: Act
    hook_name: str
    transaction: object
    connection: object
    sender: str | None
    recipients: list[str]
    body: bytes | None
    own: tuple | None = None
    """The reply it has prepared; one with an impossible code is none."""


@dataclass
class Parsed:
    """A call of a parser."""

    plugin: str
    arguments: tuple[str, str]
    result: object = None
    own: tuple | None = None


class Parser:
    """What a parse hook gives."""

    def __init__(self, stage, plugin, act):
        self.stage, self.plugin, self.act = stage, plugin, act

    def __repr__(self):
        return f"a parser that does {self.act}"

    def __call__(self, *arguments):
        parsed = Parsed(self.plugin.plugin_name, arguments)
        self.stage.parsed.append(parsed)
        try:
            parsed.result = self._act(parsed)
        except Exception as error:
            parsed.result = error
            raise
        return parsed.result

    def _act(self, parsed):
        if self.act.respond:
            self.plugin.qp.respond(*self.act.respond)
            parsed.own = self.act.respond
        if self.act.raises:
            raise self.act.raises("out of cheese")
        return self.act.gives


class Stage:
    """The plugins of one server, made anew from their plans, and what they remember."""

    def __init__(self, plans):
        self.records: list[Record] = []
        self.parsed: list[Parsed] = []
        self.classes = [self._class(name, servings) for name, servings in zip(NAMES, plans, strict=False)]

    def _class(self, name, servings):
        """A plugin that overrides what it can, and registers the rest: what is unshifted, and second methods."""
        methods = [(serving, self._method(serving)) for serving in servings]
        first = {serving.hook: method for serving, method in reversed(methods) if not serving.unshift}

        def register(plugin, qp):
            for serving, method in methods:
                if first.get(serving.hook) is not method:
                    bound = types.MethodType(method, plugin)
                    plugin.register_hook(serving.hook, bound, unshift=serving.unshift)

        overrides = {f"hook_{hook.replace('-', '_')}": method for hook, method in first.items()}
        return type(name, (Plugin,), {**overrides, "register": register})

    def _method(self, serving):
        turns = itertools.cycle(serving.acts)

        def plain(plugin, transaction, *arguments):
            return self._act(plugin, transaction, serving, next(turns))

        async def waiting(plugin, transaction, *arguments):
            return self._act(plugin, transaction, serving, next(turns))

        def slow(plugin, transaction, *arguments):
            yield Pause(2)
            return self._act(plugin, transaction, serving, next(turns))

        return {"plain": plain, "async": waiting, "blocking": blocking(plain), "slow": slow}[serving.kind]

    def _act(self, plugin, transaction, serving, act):
        record = Record(
            serving,
            act,
            plugin.hook_name,
            transaction,
            plugin.connection,
            None if transaction.sender is None else transaction.sender.path,
            [recipient.path for recipient in transaction.recipients],
            transaction.body_file().read() if serving.hook == "queue" else None,
        )
        self.records.append(record)
        if act.removes:
            for recipient in transaction.recipients:
                transaction.remove_recipient(recipient)
        if act.respond:
            plugin.qp.respond(*act.respond)
            record.own = act.respond
        if act.raises:
            raise act.raises("out of cheese")
        if act.parser is not None:
            code = act.gives if isinstance(act.gives, ReturnCode) else OK
            return code, Parser(self, plugin, act.parser)
        return act.gives


# The client's lines, and what an independent reader finds in them


@dataclass(frozen=True)
class Message:
    """The content of a message as sent, and what is in it."""

    sent: bytes
    blank_line: bool = True
    """The header section ends, and nothing was wrong up to there."""
    body: bytes = b""
    """What stands behind the header."""
    refused: tuple[int, str] | None = None
    """The core refuses it."""
    closes: bool = False
    ends: bool = True


LINES = tuple(
    f"{line}\r\n".encode()
    for line in (
        "EHLO client.example",
        "EHLO client.example and more",
        "EHLO",
        "EHLO 127",
        "HELO client.example",
        "HELO",
        f"MAIL FROM:{SENDER}",
        f"MAIL FROM:{SENDER} KEY=value",
        f"MAIL FROM:{SENDER} KEY key",
        "MAIL FROM:<>",
        "MAIL FROM:<broken",
        "MAIL FROM:",
        "MAIL",
        f"RCPT TO:{RECIPIENT}",
        "RCPT TO:<c@example.org> KEY=value",
        "RCPT TO:<>",
        "RCPT TO:<broken",
        "RCPT",
        "DATA",
        "DATA now",
        "RSET",
        "RSET now",
        "NOOP",
        "NOOP now",
        "VRFY someone",
        "HELP",
        "HELP me",
        "QUIT",
        "QUIT now",
        "XYZZY",
        "XYZZY now or never",
        "AUTH PLAIN AGEAYg==",
        "",
    )
)
BARE = b"NOOP\n"
MESSAGES = (
    Message(b"Subject: x\r\n\r\nHello\r\n.\r\n", body=b"\r\nHello\r\n"),
    Message(b"Subject: x\r\n\r\n..\r\n..more\r\n.\r\n", body=b"\r\n.\r\n.more\r\n"),
    Message(b"Subject: x\r\n.\r\n", blank_line=False),
    Message(b".\r\n", blank_line=False),
    Message(b"\r\nHello\r\n\r\n.\r\n", body=b"\r\nHello\r\n\r\n"),
    Message(b"Subject: x\r\n\r\nbare\nfeed\r\n.\r\n", refused=(554, "5.6.0")),
    Message(b"Subject: x\rbare\r\n\r\nHello\r\n.\r\n", blank_line=False, refused=(554, "5.6.0")),
    Message(b"Subject: x\r\n\r\nHello\r\n.\n", refused=(421, "4.5.2"), closes=True),
    Message(b"Subject: x\r\n\r\nHel", refused=(451, "4.4.2"), ends=False),
    Message(b"Subj", blank_line=False, refused=(451, "4.4.2"), ends=False),
)
PATHS = {SENDER, RECIPIENT, MENDED, "<c@example.org>", "<>"}
SPLIT = {  # the arguments of MAIL and RCPT: path and parameters; None where they cannot be split
    f"FROM:{SENDER}": (SENDER, {}),
    f"FROM:{SENDER} KEY=value": (SENDER, {"key": "value"}),
    f"FROM:{SENDER} KEY key": None,
    "FROM:<>": ("<>", {}),
    "FROM:<broken": ("<broken", {}),
    "FROM:": None,
    f"TO:{RECIPIENT}": (RECIPIENT, {}),
    "TO:<c@example.org> KEY=value": ("<c@example.org>", {"key": "value"}),
    "TO:<>": ("<>", {}),
    "TO:<broken": ("<broken", {}),
    "": None,
}
PARAMETERS = {  # what may stand behind a path, among the texts of plugins
    "words": ("words", None),
    "one": ("one", None),
    "two": ("two", None),
    "0": ("0", None),
    "and": ("and", None),
    "more": ("more", None),
    "KEY=value": ("key", "value"),
    "key": ("key", None),
}


def parameters(words):
    """The parameters in words; None if one is malformed or there twice."""
    pairs = [PARAMETERS.get(word) for word in words]
    if None in pairs or len({pair[0] for pair in pairs}) < len(pairs):
        return None
    return dict(pairs)


# What was said, and what is expected


@dataclass(frozen=True)
class Expected:
    """A reply; without `text` its wording is the core's own affair, and `begins` says that more lines follow it."""

    code: int
    status: str | None
    text: str | None = None
    begins: bool = False

    def fits(self, code, lines):
        prefix = f"{self.status} " if self.status else ""
        if self.text is None:
            return code == self.code and all(line.startswith(prefix) for line in lines)
        wanted = [f"{prefix}{line}".removesuffix("\r") for line in self.text.split("\n")]
        return code == self.code and (lines[: len(wanted)] if self.begins else lines) == wanted


def split(said):
    """The replies in what the server said, as code and lines, by a reader of our own."""
    assert re.fullmatch(rb"(?:[2-5][0-9]{2}[ -][^\r\n]*\r\n)*", said), said
    replies, lines = [], []
    for line in said.decode("ascii").split("\r\n")[:-1]:
        lines.append(line[4:])
        if line[3] == " ":
            replies.append((int(line[:3]), lines))
            lines = []
    assert not lines, f"the last reply has no end: {said!r}"
    return replies


@dataclass
class Moment:
    """One step of the client, and all that came of it."""

    kind: str  # greeting, command, content, end of file
    calls: list
    records: list[Record]
    parsed: list[Parsed]
    replies: list[tuple[int, list[str]]]
    closed: bool

    def given(self, *codes, hook=None):
        """The calls that gave one of these codes, parsers left out."""
        answers = [(call, understood(call.hook, call.result)) for call in self.calls if hook in (None, call.hook)]
        return [call for call, answer in answers if isinstance(answer, tuple) and answer[0] in codes]

    def failed(self, harmless):
        """The calls that failed, but for those of harmless hooks, and the parsers that failed."""
        calls = [c for c in self.calls if understood(c.hook, c.result) is FAILED and c.hook not in harmless]
        return calls + [parsed for parsed in self.parsed if understood("", parsed.result) is FAILED]


def understood(hook, result):
    """A result as code, texts and parser; None if it is None, FAILED if it is no result."""
    if result is None or isinstance(result, ReturnCode):
        return result and (result, (), None)
    if not isinstance(result, tuple) or not result or not isinstance(result[0], ReturnCode):
        return FAILED
    code, *rest = result
    parser = rest.pop(0) if hook in PARSE and rest and callable(rest[0]) else None
    if not all(text is None or isinstance(text, str) for text in rest):
        return FAILED
    return code, tuple(text for text in rest if text is not None), parser


# The laws


def every_command_has_one_reply(moment):
    count = len(moment.replies)
    if moment.kind == "end of file":
        assert count == 0
        return
    # DONE says that the plugin has replied; where it has not, nobody has, and the plugin is to blame.
    # The row of such a hook then has no reply of its own. A parser may say DONE too, but its rows have one.
    unanswered = [call for call in moment.given(DONE) if VERDICTS[call.hook][DONE].reply is None]
    assert count == 1 or (count == 0 and unanswered), moment


def a_failure_lets_nothing_through(moment):
    if moment.failed(harmless={*ONLY_LOGGED, "quit"}):
        assert all(code >= 400 for code, _ in moment.replies), moment
        assert moment.replies, "a failure is answered"


def a_message_is_queued_once_and_only_with_recipients(moment):
    asked = [number for number, record in enumerate(moment.records) if record.serving.hook == "queue"]
    assert not asked or moment.kind == "content"
    assert all(moment.records[number].recipients for number in asked), "the queue is asked to deliver to nobody"
    assert len(moment.given(OK, hook="queue")) <= 1


def success_is_reported_only_for_what_is_queued(moment):
    if moment.kind == "content" and any(200 <= code <= 299 for code, _ in moment.replies):
        own = [record for record in moment.records if record.own]
        assert moment.given(OK, hook="queue") or (moment.given(DONE) and own), moment


def behind_disconnect_nothing_but_the_end_is_asked(moment):
    asked = [call.hook for call in moment.calls]
    if "disconnect" in asked:
        assert set(asked[asked.index("disconnect") :]) <= AT_THE_END | WATCHERS
        assert moment.closed
    assert moment.closed or "post-connection" not in asked


def a_hook_knows_its_name(moment):
    for record in moment.records:
        assert record.hook_name == record.serving.hook


LAWS = (
    every_command_has_one_reply,
    a_failure_lets_nothing_through,
    a_message_is_queued_once_and_only_with_recipients,
    success_is_reported_only_for_what_is_queued,
    behind_disconnect_nothing_but_the_end_is_asked,
    a_hook_knows_its_name,
)


# The model


def shown(argument):
    """An argument of a hook, so that it can be compared."""
    if isinstance(argument, Mailbox):
        return argument.path
    if isinstance(argument, Mapping):
        return dict(argument)
    return type(argument) if isinstance(argument, hooks.PreConnection) else argument


class Model:
    """Who must have been asked what, and what the client must have been told, given what plugins answered."""

    def __init__(self, plans):
        self.chains: dict[str, list[tuple[str, Serving]]] = {}
        for name, servings in zip(NAMES, plans, strict=False):
            # Overridden methods are registered before those that `register` adds.
            hooks_overridden: set[str] = set()
            first, then = [], []
            for serving in servings:
                overrides = not serving.unshift and serving.hook not in hooks_overridden
                hooks_overridden |= {serving.hook} if overrides else set()
                (first if overrides else then).append(serving)
            for serving in (*first, *then):
                chain = self.chains.setdefault(serving.hook, [])
                chain.insert(0 if serving.unshift else len(chain), (name, serving))
        self.owners: dict[int, object] = {}
        self.notes: dict[int, dict[str, dict[str, ReturnCode]]] = {}
        self.expected: list[Expected] = []
        self.moment: Moment | None = None
        self.own: tuple | None = None

    def start(self):
        """A new connection."""
        self.state, self.in_content, self.esmtp, self.closed = "start", False, False, False
        self.sender: str | None = None
        self.recipients: list[str] = []

    def read(self, moment: Moment, script: Callable[[], None]):
        """Follow what happened in one step, and hold it against what should have."""
        self.moment, self.expected = moment, []
        self.call, self.record, self.parse = iter(moment.calls), iter(moment.records), iter(moment.parsed)
        script()
        for rest in (self.call, self.record, self.parse):
            assert next(rest, None) is None, f"nobody else should have been asked: {moment}"
        assert len(self.expected) == len(moment.replies), f"{self.expected}, but it was {moment}"
        for expected, (code, lines) in zip(self.expected, moment.replies, strict=True):
            assert expected.fits(code, lines), f"{expected}, but it was {code} {lines}"
        assert self.closed == moment.closed
        self.check_notes()

    def check_notes(self):
        """What each plugin has answered last is in the notes of transaction or connection, and nothing else is."""
        for key, wanted in self.notes.items():
            kept = {name: self.owners[key].notes.get(name) for name in NAMES}
            assert kept == {
                name: {hook: {"return": code} for hook, code in wanted[name].items()} if name in wanted else None
                for name in NAMES
            }

    # Asking

    def asks(self, hook, *arguments):
        """A question to the plugins: the answer that decides, with its texts."""
        self.own = None
        return self._chain(hook, arguments)[:2]

    def _chain(self, hook, arguments):
        texts, parser = (), None
        for name, serving in self.chains.get(hook, ()):
            if hook in {"queue_pre", "queue"} and not self.recipients:  # plugins have taken the last one away
                self.own = (554, "5.5.1 No recipient is left")
                return DONE, (), None
            call, record = next(self.call, None), next(self.record, None)
            assert call is not None, f"{name} should have been asked {hook}"
            assert record is not None
            assert (call.plugin, call.hook) == (name, hook)
            assert record.serving is serving
            assert tuple(map(shown, call.arguments)) == arguments
            assert (record.sender, record.recipients) == (self.sender, self.recipients)
            assert record.body is None or record.body == self.message.body
            if record.act.removes:
                self.recipients = []
            self.own = record.own or self.own
            result = understood(hook, call.result)
            if result is None:  # counts as DECLINED, and is not told to anybody
                texts = ()
                continue
            if result is FAILED:
                if VERDICTS[hook][FAILED].reply is None:
                    continue
                return FAILED, (), None
            code, texts, given = result
            parser = given or parser
            self._keep(hook, name, record, code)
            if hook not in WATCHERS:
                first = texts[0] if texts else ""
                self._chain("deny" if code in REFUSALS else "ok", (name, code, first))
            if code is not DECLINED:
                return code, texts, parser
        return DECLINED, texts, parser

    def _keep(self, hook, name, record, code):
        owner = record.transaction if hooks.HOOKS[hook].of_transaction else record.connection
        self.owners[id(owner)] = owner  # so that the identity stays its own
        kept = self.notes.setdefault(id(owner), {}).setdefault(name, {})
        kept[f"hook_{hook.replace('-', '_')}"] = code

    def judges(self, hook, answer, texts, subject="", *, begins=False):
        """The row of an answer; its reply is expected."""
        row = VERDICTS[hook][answer]
        if row.own_reply and self.own is not None:
            code, *lines = self.own
            self.says(code, None, "\n".join(lines))
        elif row.reply is not None:
            taken = bool(texts) and row.plugin_text
            text = "\n".join(texts) if taken else row.reply.text.replace("%s", subject or "%s")
            self.says(row.reply.code, row.reply.enhanced, text, begins=begins and not taken)
        return row

    def says(self, code, status, text=None, *, begins=False):
        self.expected.append(Expected(code, status, text, begins))

    def puts(self, hook, *arguments, subject=""):
        """Ask, judge, and carry out what becomes of transaction and connection."""
        answer, texts = self.asks(hook, *arguments)
        row = self.judges(hook, answer, texts, subject)
        self.carries_out(row)
        return row

    def carries_out(self, row):
        if row.close:
            self.ends()
        elif row.reset:
            self.forgets()

    def forgets(self):
        self.judges("reset_transaction", *self.asks("reset_transaction"))
        self.sender, self.recipients = None, []
        if self.state != "start":
            self.state = "idle"

    def ends(self):
        self.judges("disconnect", *self.asks("disconnect"))
        self.forgets()
        self.is_over()

    def is_over(self):
        self.asks("post-connection")
        self.closed, self.in_content = True, False

    def parses(self, hook, argument):
        """What a plugin's parser makes of the arguments: OK and pieces, DECLINED, or None if it refuses."""
        self.own = None
        answer, _, parser = self._chain(hook, () if hook in {"helo_parse", "ehlo_parse"} else (argument,))
        texts = ()
        if answer is not FAILED:  # the code of the hook itself means nothing
            answer = DECLINED
            if parser is not None:
                parsed = next(self.parse, None)
                assert parsed is not None, f"the parser for {hook} should have been used"
                assert parser.plugin.plugin_name == parsed.plugin
                assert parsed.arguments == (hook.removesuffix("_parse"), argument)
                self.own = parsed.own or self.own
                result = understood("", parsed.result)
                answer, texts = result[:2] if isinstance(result, tuple) else (result or DENY, ())
                answer = DENY if answer is DECLINED else answer
        return (answer, texts) if self.judges(hook, answer, texts).proceed else None

    # The dialogue

    def greets(self):
        self.start()
        answer, texts = self.asks("pre-connection", hooks.PreConnection)
        row = VERDICTS["pre-connection"][answer]
        if row.reply is not None:  # nothing has begun yet, so nothing ends
            self.says(row.reply.code, None, "\n".join(texts) if texts and row.plugin_text else row.reply.text)
            self.closed = True
            return
        self.puts("connect", subject=f"{HOST} ESMTP qpsmtpd")

    def hangs_up(self):
        """The client closes its side between two commands."""
        self.forgets()
        self.judges("disconnect", *self.asks("disconnect"))
        self.is_over()

    def hears(self, line: bytes):
        """A command line."""
        if line == BARE:
            self.says(500, "5.5.2")
            return
        verb, blank, argument = line.decode().removesuffix("\r\n").partition(" ")
        match verb:
            case "HELO" | "EHLO":
                self.hello(verb.lower(), argument)
            case "MAIL":
                self.mail(argument)
            case "RCPT":
                self.rcpt(argument)
            case "DATA":
                self.data(argument)
            case "RSET":
                self.says(250, "2.0.0")
                self.forgets()
            case "NOOP" | "VRFY" | "QUIT":
                self.puts(verb.lower())
            case "HELP":
                self.puts("help", *filter(None, [argument]), subject=COMMANDS)
            case _:
                self.puts("unrecognized_command", verb.lower(), *([argument] if blank else []))

    def hello(self, hook, argument):
        parsed = self.parses(f"{hook}_parse", argument)
        if parsed is None:
            return
        answer, pieces = parsed
        words = pieces if answer is OK else tuple(argument.split())
        if not words or words[0] in {"", "0", "127"}:
            self.says(501, None)
            return
        if self.state in {"mail", "rcpt"}:
            self.forgets()
        answer, texts = self.asks(hook, *words)
        row = self.judges(hook, answer, texts, HOST, begins=hook == "ehlo")  # the keywords have their own tests
        self.carries_out(row)
        if row.proceed:
            self.state, self.esmtp = "idle", hook == "ehlo"

    def path_and_parameters(self, hook, argument):
        """What follows MAIL or RCPT, as plugins and the built-in parser have it; None if it has been refused."""
        parsed = self.parses(f"{hook}_parse", argument)
        if parsed is None:
            return None
        answer, pieces = parsed
        found = SPLIT[argument]
        if answer is OK:
            given = parameters(pieces[1:])
            found = None if given is None else (pieces[0] if pieces else "", given)
        if found is None:
            self.says(501, "5.5.4")
            return None
        path, given = found
        answer, texts = self.asks(f"{hook}_pre", path, given)
        if not self.judges(f"{hook}_pre", answer, texts).proceed:
            return None
        if answer is OK:
            path = texts[0] if texts else ""
        if path not in PATHS or (hook == "rcpt" and path == "<>"):
            self.says(501, "5.1.3")
            return None
        return path, given

    def mail(self, argument):
        if self.state in {"mail", "rcpt"}:
            self.says(503, "5.5.1")
            return
        self.forgets()
        if self.state == "start":
            self.says(503, "5.5.1")
            return
        found = self.path_and_parameters("mail", argument)
        if found is None:
            return
        row = self.puts("mail", *found, subject=found[0])
        if row.proceed:
            self.state, self.sender = "mail", found[0]

    def rcpt(self, argument):
        if self.state not in {"mail", "rcpt"}:
            self.says(503, "5.5.1")
            return
        found = self.path_and_parameters("rcpt", argument)
        if found is None:
            return
        row = self.puts("rcpt", *found, subject=found[0])
        if row.proceed:
            self.state = "rcpt"
            self.recipients = [*self.recipients, found[0]]

    def data(self, argument):
        if argument:
            self.says(501, "5.5.4")
            return
        answer, texts = self.asks("data")
        if VERDICTS["data"][answer].proceed and self.state != "rcpt":
            self.says(503, "5.5.1")
            return
        row = self.judges("data", answer, texts)
        self.carries_out(row)
        self.in_content = row.proceed

    def receives(self, message: Message, *, early):
        """The content of a message, and the end of the client's side where it has no end.

        `early` says that the server has closed when it had seen the header, but not all.
        """
        self.message, self.in_content = message, False
        problem = None if message.refused is None else Expected(*message.refused)
        if message.blank_line or problem is None:
            answer, texts = self.asks("data_headers_end")
            row = VERDICTS["data_headers_end"][answer]
            if row.close:  # while the client is still sending
                self.judges("data_headers_end", answer, texts)
                self.ends()
                assert early == message.blank_line
                return
            if row.reply is not None and message.ends and not message.closes:  # it is said at the end
                text = "\n".join(texts) if texts and row.plugin_text else row.reply.text
                problem = Expected(row.reply.code, row.reply.enhanced, text)
        if problem is not None:
            self.expected.append(problem)
            if message.closes:
                self.ends()
                return
            self.forgets()
            if not message.ends:
                self.hangs_up()
            return
        self.delivers()

    def delivers(self):
        for hook in ("data_post_headers", "received_line", "data_post", "queue_pre", "queue", "queue_post"):
            arguments = ("ESMTP" if self.esmtp else "SMTP", "", "") if hook == "received_line" else ()
            if not self.puts(hook, *arguments).proceed:
                return


# A client in between


def _performing(run):
    """A session, with the part of a driver that a client in memory leaves out: what a hook raises is thrown in."""
    outcome, step = None, run.send
    try:
        while True:
            try:
                effect = step(outcome)
            except StopIteration:
                return
            if isinstance(effect, Await | CallBlocking):
                try:
                    outcome, step = _performed(effect), run.send
                except Exception as error:  # noqa: BLE001 - it is the session's to catch
                    outcome, step = error, run.throw
            else:
                outcome, step = (yield effect), run.send
    finally:
        run.close()


def _performed(effect):
    if isinstance(effect, CallBlocking):
        return effect.function()
    try:
        next(effect.awaitable.__await__())
    except StopIteration as stop:
        return stop.value
    raise AssertionError("these hooks never wait")


class _Client(Client):
    @property
    def _run(self):
        return vars(self)["_run"]

    @_run.setter
    def _run(self, run):
        vars(self)["_run"] = _performing(run)


@dataclass
class Play:
    """Connections to one server with these plugins, every step of them checked."""

    plans: tuple
    sent: list[list[bytes]] = field(default_factory=list)
    """What was sent over each connection, step by step; empty where the client closed its side."""
    replies: list[bytes] = field(default_factory=list)
    tell: Callable[[str], object] = print
    """Takes the story, for whoever has to find out what went wrong."""

    def __post_init__(self):
        self.stage = Stage(self.plans)
        self.kit = Kit(*self.stage.classes, config={"me": [HOST]})
        self.model = Model(self.plans)
        self.client = None

    @property
    def open(self):
        return self.client is not None and not self.client.closed

    def connect(self):
        self.sent.append([])
        self.replies.append(b"")
        self._step("greeting", b"", self.model.greets)

    def command(self, line):
        self._step("command", line, lambda: self.model.hears(line))

    def content(self, message):
        """A message, its header first: only a connection that closes is answered before the end."""
        before = self._marks()
        header = re.match(rb"\r\n|.*?\r\n\r\n|", message.sent, re.DOTALL)[0]
        said = self._send(header) if header else b""
        early = not self.open
        assert early or not said
        if self.open:
            said += self._send(message.sent[len(header) :])
        if self.open and not message.ends:
            said += self._send(b"")
        self._check("content", said, before, lambda: self.model.receives(message, early=early))

    def close(self):
        self._step("end of file", b"", self.model.hangs_up)

    def stop(self):
        """The end of the test."""
        if self.open:
            self.client.vanish()

    def _step(self, kind, data, script):
        before = self._marks()
        self._check(kind, self._greeting() if kind == "greeting" else self._send(data), before, script)

    def _greeting(self):
        self.client = _Client(self.kit.site, CLIENT)
        self.replies[-1] = self.client.replies
        return self.client.replies

    def _send(self, data):
        self.sent[-1].append(data)
        said = self.client.send(data)
        self.replies[-1] += said
        return said

    def _marks(self):
        return len(self.kit.trace), len(self.stage.records), len(self.stage.parsed)

    def _check(self, kind, said, before, script):
        calls, records, parsed = before
        moment = Moment(
            kind,
            self.kit.trace[calls:],
            self.stage.records[records:],
            self.stage.parsed[parsed:],
            split(said),
            self.client.closed,
        )
        self.tell(f"{kind}: {self.sent[-1][-1:]} {said!r}" + "".join(f"\n  {call}" for call in moment.calls))
        for law in LAWS:
            law(moment)
        self.model.read(moment, script)


def played(play):
    """What has been said, who has been asked, and what parsers were given."""
    return play.replies, list(map(str, play.kit.trace)), [parsed.arguments for parsed in play.stage.parsed]


def replayed(play, pieces):
    """The same for a new server with the same plugins that is sent the same in other pieces."""
    stage = Stage(play.plans)
    kit = Kit(*stage.classes, config={"me": [HOST]})
    replies = []
    for sent in play.sent:
        client = _Client(kit.site, CLIENT)
        at_the_end = [b""] if b"" in sent else []
        for piece in (*filter(None, pieces(b"".join(sent))), *at_the_end):
            if client.closed:
                break
            client.send(piece)
        replies.append(client.replies)
        if not client.closed:
            client.vanish()
    return replies, list(map(str, kit.trace)), [parsed.arguments for parsed in stage.parsed]


class Machine(RuleBasedStateMachine):
    """A client that says what it likes to a server whose plugins do what they like."""

    def __init__(self):
        super().__init__()
        self.play = None

    @initialize(plans=PLUGIN_LISTS, cuts=cuts())
    def connects(self, plans, cuts):
        self.play, self.cuts = Play(plans, tell=note), cuts
        self.play.connect()

    @precondition(lambda self: self.play.open and not self.play.model.in_content)
    @rule(line=st.sampled_from((*LINES, BARE, b"")))
    def says_anything(self, line):
        self.play.command(line) if line else self.play.close()

    @precondition(lambda self: self.play.open and not self.play.model.in_content)
    @rule(steps=st.integers(1, 5), recipients=st.integers(1, 2))
    def goes_on_with_a_delivery(self, steps, recipients):
        forward(self.play, steps, recipients)

    @precondition(lambda self: self.play.open and self.play.model.in_content)
    @rule(message=st.sampled_from((*MESSAGES[:2], *MESSAGES)))
    def sends_a_message(self, message):
        self.play.content(message)

    @precondition(lambda self: not self.play.open)
    @rule()
    def connects_again(self):
        self.play.connect()

    def teardown(self):
        if self.play is None:
            return
        self.play.stop()
        for pieces in (lambda data: [data], lambda data: cut(data, self.cuts), singly):
            assert replayed(self.play, pieces) == played(self.play)


def play_all(*plans):
    """Play a dialogue in which every hook is asked, with as many connections as it takes."""
    story = []
    play = Play(plans, tell=story.append)
    try:
        for line in DIALOGUE:
            if not play.open:
                play.connect()
            if play.open and play.model.in_content:
                play.content(MESSAGES[0])
            if play.open:
                play.command(line)
        play.stop()
    except AssertionError:
        print(*plans, *story, sep="\n")
        raise
    return {(call.plugin, call.hook) for call in play.kit.trace}


@pytest.mark.parametrize("hook", SERVED)
def test_every_hook_may_do_everything_once_in_a_whole_dialogue(hook):
    parsers = [Act(gives=code, parser=act) for code, act in zip(itertools.cycle(CODES), EVERY_ACT, strict=False)]
    acts = [*EVERY_ACT, *parsers] if hook in PARSE else EVERY_ACT
    for act, kind in zip(acts, itertools.cycle(KINDS), strict=False):
        asked = play_all((Serving(hook, (act, Act(gives=DECLINED)), kind),), REFUSES, ACCEPTS + WATCHES)
        assert ("one", hook) in asked


@pytest.mark.parametrize("hook", SERVED)
def test_plugins_are_asked_in_order_and_the_last_that_declines_may_remark_on_it(hook):
    others = tuple(serving for serving in (*ACCEPTS, *WATCHES) if serving.hook != hook)
    declines = (Act(gives=DECLINED), Act(gives=(DECLINED, "a remark")), Act(gives=None), Act(gives=()))
    for one, three in itertools.product(declines, repeat=2):
        asked = play_all(
            (Serving(hook, (one,)), Serving(hook, (Act(),), unshift=True)),
            (Serving(hook, (Act(),), "slow", unshift=True), *REFUSES),
            (Serving(hook, (three,), "async"),),
            others,
        )
        assert ("one", hook) in asked


@pytest.mark.parametrize("silent", [hook for hook in SERVED if VERDICTS[hook][DONE].own_reply])
def test_a_reply_that_a_plugin_has_prepared_answers_no_later_question(silent):
    commands = [hook for hook in SERVED if hook not in {silent, "pre-connection", "post-connection", *WATCHERS}]
    talks = tuple(Serving(hook, (Act(respond=(250, "mine"), gives=DECLINED),)) for hook in commands)
    # Not even one that is asked within the same command, and is answered by a plugin that has prepared none.
    assert ("two", silent) in play_all(talks, (Serving(silent, (Act(gives=DONE), Act(gives=DECLINED))),), ACCEPTS)


@pytest.mark.parametrize("message", MESSAGES)
@pytest.mark.parametrize("code", [DECLINED, DENY, DENY_DISCONNECT])
def test_wherever_a_message_is_cut_in_two_the_dialogue_is_the_same(message, code):
    play = Play(((Serving("data_headers_end", (Act(gives=code),), "slow"),), ACCEPTS + WATCHES), tell=lambda _: None)
    play.connect()
    forward(play, 4, recipients=1)
    beginning = sum(map(len, play.sent[0]))
    play.content(message)
    if play.open:
        play.command(b"NOOP\r\n")
    play.stop()
    for place in range(beginning, sum(map(len, play.sent[0])) + 1):
        assert replayed(play, lambda data, place=place: [data[:place], data[place:]]) == played(play)


def test_no_queue_plugin_is_asked_when_another_has_taken_all_recipients_away():
    class Takes(Plugin):
        def hook_queue(self, transaction):
            for recipient in transaction.recipients:
                transaction.remove_recipient(recipient)
            return DECLINED

    class Queues(Plugin):
        def hook_rcpt(self, transaction, recipient, parameters):
            return OK

        def hook_queue(self, transaction):
            return OK

    kit = Kit(Takes, Queues)
    kit.connect().deliver()
    assert kit.calls("queue", "Queues") == []


DIALOGUE = tuple(
    f"{line}\r\n".encode()
    for line in (
        "HELO client.example",
        "EHLO client.example",
        f"MAIL FROM:{SENDER}",
        f"RCPT TO:{RECIPIENT}",
        f"RCPT TO:{RECIPIENT}",
        "DATA",
        "NOOP",
        f"MAIL FROM:{SENDER}",
        f"RCPT TO:{RECIPIENT}",
        "DATA",
        "VRFY someone",
        "HELP",
        "XYZZY",
        "RSET",
        "QUIT",
    )
)
REFUSES = (Serving("noop", (Act(gives=DENY),)),)


def forward(play, steps, recipients):
    """Say what a client says next that wants to deliver a message."""
    lines = ("EHLO client.example", f"MAIL FROM:{SENDER}", f"RCPT TO:{RECIPIENT}", "DATA")
    hello, mail, rcpt, data = (f"{line}\r\n".encode() for line in lines)
    for _ in range(steps):
        if not play.open or play.model.in_content:
            break
        enough = len(play.model.recipients) >= recipients
        line = {"start": hello, "idle": mail, "mail": rcpt, "rcpt": data if enough else rcpt}
        play.command(line[play.model.state])


Machine.TestCase.settings = settings(max_examples=120, stateful_step_count=25)
TestMachine = pytest.mark.timeout(600)(Machine.TestCase)  # the time is for shrinking, should it ever fail
