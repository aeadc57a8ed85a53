"""What plugin authors inherit: every hook with its signature, and the helpers.

A plugin overrides the hooks it wants; only those are registered. A hook is a `def` or an
`async def`; a `def` that blocks is marked `@blocking`; a generator may yield effects itself.
It returns a return code, or a tuple of a code and texts for the client.
"""

import inspect
from argparse import ArgumentParser
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

from qpsmtpd.config import ConfigError, did_you_mean
from qpsmtpd.logs import LOGDEBUG, LOGEMERG, LOGINFO, log_level
from qpsmtpd.protocol import (
    DECLINED,
    DENY,
    DENY_DISCONNECT,
    DENYSOFT,
    DENYSOFT_DISCONNECT,
    Mailbox,
    Parameters,
    ReturnCode,
    hooks,
)
from qpsmtpd.session.connection import Connection, is_ipv6, is_localhost, is_valid_ip
from qpsmtpd.session.effects import Effects
from qpsmtpd.session.trace import AUTHENTICATION_RESULTS
from qpsmtpd.session.transaction import Transaction

if TYPE_CHECKING:
    from qpsmtpd.site import Site

__all__ = [
    "HookResult",
    "ParseHookResult",
    "Parser",
    "Plugin",
    "Result",
    "blocking",
    "check_signature",
    "hook_method",
    "where",
]

Result = ReturnCode | tuple[ReturnCode, *tuple[str, ...]] | None
"""A return code, with texts for the client where there are any; None counts as DECLINED."""

HookResult = Result | Awaitable[Result] | Effects
"""What a hook method gives: a result, or something that leads to one."""

Parser = Callable[[str, str], Result]
"""Takes the command and the rest of its line apart: OK and the pieces, or a refusal with a text."""

_ParseResult = Result | tuple[ReturnCode, Parser]

ParseHookResult = _ParseResult | Awaitable[_ParseResult] | Effects
"""What a parse hook gives: OK with a parser; without one the built-in parser is used."""

_F = TypeVar("_F", bound=Callable[..., object])

REJECT_TYPES: Mapping[str, ReturnCode] = {
    "perm": DENY,
    "hard": DENY,
    "soft": DENYSOFT,
    "temp": DENYSOFT,
    "disconnect": DENY_DISCONNECT,
    "temp_disconnect": DENYSOFT_DISCONNECT,
}
"""The words of the argument `reject_type`."""

_OFF = frozenset({"0", "no", "off", ""})
_NAUGHTY, _NAUGHTY_TYPE, _REJECTED = "naughty", "naughty_reject_type", "rejected"


def blocking(function: _F) -> _F:
    """Mark a hook that blocks (disk, a slow library): it is run in a worker thread."""
    setattr(function, "qpsmtpd_blocking", True)  # noqa: B010 - a mark, read by the loader
    return function


def hook_method(hook: str) -> str:
    """The method that serves a hook: `post-fork` becomes `hook_post_fork`."""
    return "hook_" + hook.replace("-", "_")


class Plugin:
    """A plugin as loaded by one line of `config/plugins`; it serves many sessions at once."""

    shared_arguments: ClassVar[tuple[str, ...]] = ("reject", "reject_type", "loglevel")
    """The arguments that every plugin understands, in pairs of name and value at the end of its line.

    A plugin that uses one of these names for something else leaves it out of a tuple of its own.
    """

    def __init__(self, site: "Site", name: str) -> None:
        self.qp = site
        """The server, as plugins see it."""
        self._name = name
        self._site_hooks: list[tuple[str, Callable[..., object], bool]] = []
        self._options: dict[str, str] = {}
        self._fixed_level: int | None = None  # what the argument loglevel says
        self._level_shift = 0

    # Set-up

    # The rest of their signatures is the plugin's own, and the loader holds the words against it.

    def init(self, qp: "Site", *args: Any, **_: Any) -> None:
        """Called first, with the words behind the name in `config/plugins`."""

    def register(self, qp: "Site", *args: Any, **_: Any) -> None:
        """Called last, with the same words; the place for `register_hook` and for checks.

        Raise ValueError for words that make no sense: the administrator sees file and line.
        """

    def command(self, parser: ArgumentParser) -> None:
        """Describe a command line of the plugin's own, `qpsmtpd NAME ...`: add arguments to `parser`.

        Among their defaults is `run`, a function that takes the parsed arguments and gives the lines to print.
        The plugin is set up as its line in `config/plugins` says, and no other is loaded.
        """

    def register_hook(self, hook: str, method: str | Callable[..., object], *, unshift: bool = False) -> None:
        """Have a method called for a hook, behind those registered before, or before them.

        Raises ValueError for a hook or method that does not exist.
        """
        if hook not in hooks.HOOKS:
            raise ValueError(f"there is no hook {hook!r}{did_you_mean(hook, hooks.HOOKS)}")
        function = getattr(self, method, None) if isinstance(method, str) else method
        if not callable(function):
            raise ValueError(f"hook {hook}: there is no method {method!r}")  # noqa: TRY004 - the loader reports it
        self._site_hooks.append((hook, function, unshift))

    def registrations(self) -> Iterable[tuple[str, Callable[..., object], bool]]:
        """The hooks this plugin serves: those it overrides, then those it has registered."""
        for hook in hooks.HOOKS:
            name = hook_method(hook)
            if getattr(type(self), name) is not getattr(Plugin, name):
                yield hook, getattr(self, name), False
        yield from self._site_hooks

    def take_shared_arguments(self, args: tuple[str, ...]) -> tuple[str, ...]:
        """Take the shared arguments off the end of the words of a line; give the other words.

        The loader calls this before `init`. Raises ValueError for a bad value.
        """
        while len(args) >= 2 and args[-2] in self.shared_arguments:
            self._options.setdefault(args[-2], args[-1])
            args = args[:-2]
        self._check_shared()
        return args

    def options(self, args: tuple[str, ...], *allowed: str) -> Mapping[str, str]:
        """Read words as pairs of name and value; the shared arguments are among the result.

        Raises ValueError for an odd word, for a name that is not allowed and for a bad value.
        """
        names = args[::2]
        known = {*self.shared_arguments, *allowed}
        if len(args) % 2:
            raise ValueError(f"the arguments come in pairs of name and value, but {args[-1]!r} is left over")
        for name in names:
            if name not in known:
                hint = did_you_mean(name, known) or f"; known are {', '.join(sorted(known))}"
                raise ValueError(f"unknown argument {name!r}{hint}")
        self._options |= dict(zip(names, args[1::2], strict=True))
        self._check_shared()
        return self._options

    def _check_shared(self) -> None:
        kind = self._options.get("reject_type", "perm")
        if "reject_type" in self.shared_arguments and kind.lower() not in REJECT_TYPES:
            raise ValueError(f"reject_type {kind!r} is none of {', '.join(REJECT_TYPES)}")
        level = self._options.get("loglevel", "")
        if not level or "loglevel" not in self.shared_arguments:
            return
        if level[0] in "+-" and level[1:].isdecimal() and level.isascii():
            self._level_shift = int(level)
        else:
            self._fixed_level = log_level(level)

    # What is going on

    @property
    def plugin_name(self) -> str:
        """The name of the plugin in logs, `queue::maildir` for `queue/maildir`."""
        return self._name

    @property
    def hook_name(self) -> str:
        """The hook that runs now."""
        return self.qp.session.hook_name

    @property
    def connection(self) -> Connection:
        """The connection that is served now."""
        return self.qp.session.connection

    @property
    def transaction(self) -> Transaction:
        """The mail transaction that is served now."""
        return self.qp.session.transaction

    @property
    def auth_user(self) -> str:
        """Who the client is by AUTH; empty if it has not authenticated."""
        return self.connection.auth_user

    @property
    def auth_mechanism(self) -> str:
        """How the client has authenticated, in lower case; empty if it has not."""
        return self.connection.auth_mechanism

    def log(self, level: int, message: str) -> None:
        """Write to the log. By custom a decision reads `pass, why`, `skip, why` or `fail, why`.

        The argument `loglevel` of the plugin replaces the level (`loglevel 5`) or shifts it
        (`loglevel +1` is less urgent).
        """
        if self._fixed_level is not None:
            level = self._fixed_level
        elif self._level_shift:
            level = min(max(level + self._level_shift, LOGEMERG), LOGDEBUG)
        if level <= self.qp.verbosity:
            self.qp.log(level, message, plugin=self._name)

    def isa_plugin(self, name: str) -> "type[Plugin]":
        """Inherit from another plugin, to be called in `init`; gives its class.

        What this plugin does not define itself is then the other's, `register` included, and
        `super()` leads there. A plugin that is a file of functions calls what it overrides
        on the class: `self.parent = self.isa_plugin("rcpt_ok")` in `init`, then
        `self.parent.hook_rcpt(self, transaction, recipient, parameters)`. Where the other
        plugin is known beforehand, a plain subclass of it does the same.
        Raises ConfigError if there is no such plugin.
        """
        parent = self.qp.find_plugin(name)
        own = type(self)
        members = {"__module__": own.__module__, "__doc__": own.__doc__}
        self.__class__ = cast("Any", type(own.__name__, (own, parent), members))
        return parent

    def temp_file(self) -> Path:
        """The name of a file that does not exist yet; removed at the end of the transaction."""
        return self.transaction.temp_file()

    def temp_dir(self) -> Path:
        """A new directory, mode 0700; removed at the end of the transaction."""
        return self.transaction.temp_dir()

    @property
    def spool_dir(self) -> Path:
        """The directory for spool and work files."""
        return self.qp.spool_dir()

    # Shared decisions

    is_valid_ip = staticmethod(is_valid_ip)
    is_localhost = staticmethod(is_localhost)
    is_ipv6 = staticmethod(is_ipv6)

    def get_reject(self, text: str, reason: str = "") -> Result:
        """The result for a client that has failed a check, as the arguments of this plugin say.

        `reject 0` only logs, `reject naughty` leaves the refusal to the plugin `naughty`;
        `reject_type` chooses the return code. `reason` is for the log.
        """
        detail = f", {reason}" if reason else ""
        reject = self._options.get("reject", "1").lower()
        if reject in _OFF:
            self.log(LOGINFO, f"fail, reject disabled{detail}")
            return DECLINED
        if reject == _NAUGHTY:
            self.log(LOGINFO, f"fail, NAUGHTY{detail}")
            return self._reject_later(text)
        self.log(LOGINFO, f"fail{detail}")
        return self.get_reject_type(), text

    def get_reject_type(self, default: ReturnCode = DENY, word: str | None = None) -> ReturnCode:
        """The return code that `word` names, else the argument `reject_type`, else `default`."""
        named = word or self._options.get("reject_type")
        return REJECT_TYPES.get(named.lower(), default) if named else default

    def _reject_later(self, text: str) -> Result:
        notes = self.connection.notes
        earlier = notes.get(_NAUGHTY)
        notes[_NAUGHTY] = f"{earlier}\n{text}" if earlier else text
        if not notes.get(_NAUGHTY_TYPE) and (kind := self._options.get("reject_type")):
            notes[_NAUGHTY_TYPE] = kind
        return DECLINED

    def is_naughty(self, text: str | None = None) -> str:
        """Why the client is to be refused, empty if it is not; `text` says so, for `naughty` to act on."""
        notes = self.connection.notes
        if text is not None:
            notes[_NAUGHTY] = notes[_REJECTED] = text
        return str(notes.get(_NAUGHTY) or "")

    def is_immune(self) -> bool:
        """Whether checks should be skipped: the client may relay, is whitelisted, or is to be refused anyway."""
        session = self.qp.session
        notes = session.connection.notes
        if session.connection.relay_client:
            why = "relay client"
        elif notes.get("whitelisthost"):
            why = "whitelisted host"
        elif session.transaction.notes.get("whitelistsender"):
            why = "whitelisted sender"
        elif notes.get(_NAUGHTY):
            why = "naughty"
        elif notes.get(_REJECTED):
            why = "already rejected"
        else:
            return False
        self.log(LOGINFO, f"skip, {why}")
        return True

    def adjust_karma(self, value: int) -> int:
        """Add to the connection's note `karma`, a sum of good and bad signs; give the new sum."""
        karma = self.connection.notes.get("karma", 0)
        assert isinstance(karma, int)
        karma += value
        self.log(LOGDEBUG, f"karma {value:+d}, now {karma}")
        self.connection.notes["karma"] = karma
        return karma

    def store_auth_results(self, result: str) -> None:
        """Add a result such as `spf=pass smtp.mailfrom=example.org` to the Authentication-Results field.

        It holds for this transaction in a hook that belongs to one, else for the whole
        connection. Let nothing into it that the client may choose freely (RFC 8601 section 2.2).
        """
        session = self.qp.session
        hook = hooks.HOOKS.get(session.hook_name)
        notes = (session.transaction if hook is not None and hook.of_transaction else session.connection).notes
        cast("list[object]", notes.setdefault(AUTHENTICATION_RESULTS, [])).append(result)

    # The hooks, in the order of a session. Arguments are positional.

    def hook_post_fork(self) -> HookResult:
        """A worker process has started. The result is ignored. Must be a plain `def`."""
        return DECLINED

    def hook_pre_connection(self, transaction: Transaction, arrival: hooks.PreConnection) -> HookResult:
        """A client was accepted, before its session begins. DENY and DENYSOFT refuse it."""
        return DECLINED

    def hook_connect(self, transaction: Transaction) -> HookResult:
        """Before the greeting. DENY and DENYSOFT refuse the client; DONE: you have greeted it."""
        return DECLINED

    def hook_helo_parse(self, transaction: Transaction) -> ParseHookResult:
        """The arguments of HELO are taken apart. OK with a parser: it gives the host and further words."""
        return DECLINED

    def hook_helo(self, transaction: Transaction, host: str, *words: str) -> HookResult:
        """HELO. Any refusal; DONE: you have replied."""
        return DECLINED

    def hook_ehlo_parse(self, transaction: Transaction) -> ParseHookResult:
        """The arguments of EHLO are taken apart. OK with a parser: it gives the host and further words."""
        return DECLINED

    def hook_ehlo(self, transaction: Transaction, host: str, *words: str) -> HookResult:
        """EHLO. Any refusal; DONE: you have replied. The note `capabilities` adds keywords."""
        return DECLINED

    def hook_auth_parse(self, transaction: Transaction, argument: str) -> ParseHookResult:
        """The arguments of AUTH are taken apart. OK with a parser: it gives the mechanism and the initial response."""
        return DECLINED

    def hook_auth_plain(
        self, transaction: Transaction, mechanism: str, user: str, password: str, digest: None, ticket: None
    ) -> HookResult:
        """AUTH PLAIN. OK: the password is right; DECLINED: the hook auth is asked; anything else refuses."""
        return DECLINED

    def hook_auth_login(
        self, transaction: Transaction, mechanism: str, user: str, password: str, digest: None, ticket: None
    ) -> HookResult:
        """AUTH LOGIN, as auth-plain."""
        return DECLINED

    def hook_auth_cram_md5(
        self, transaction: Transaction, mechanism: str, user: str, password: None, digest: str, ticket: str
    ) -> HookResult:
        """AUTH CRAM-MD5: `digest` is what the client made of its password and `ticket`; see `sasl.cram_md5`."""
        return DECLINED

    def hook_auth_xoauth2(
        self, transaction: Transaction, mechanism: str, user: str, password: str, digest: None, ticket: None
    ) -> HookResult:
        """AUTH XOAUTH2: `password` is the bearer token. OK: it is good, and the user's; anything else refuses."""
        return DECLINED

    def hook_auth_oauthbearer(
        self, transaction: Transaction, mechanism: str, user: str, password: str, digest: None, ticket: None
    ) -> HookResult:
        """AUTH OAUTHBEARER, as auth-xoauth2."""
        return DECLINED

    def hook_auth_scram_sha_256(self, transaction: Transaction, mechanism: str, user: str) -> HookResult:
        """AUTH SCRAM-SHA-256 and -PLUS. OK with a text gives the user's `sasl.ScramVerifier`; else there is no such user."""
        return DECLINED

    def hook_auth(
        self,
        transaction: Transaction,
        mechanism: str,
        user: str,
        password: str | None,
        digest: str | None,
        ticket: str | None,
    ) -> HookResult:
        """PLAIN, LOGIN or CRAM-MD5, where the hook of the mechanism has declined. OK: the client is who it says."""
        return DECLINED

    def hook_mail_parse(self, transaction: Transaction, argument: str) -> ParseHookResult:
        """The arguments of MAIL are taken apart. OK with a parser: it gives the path and `KEYWORD=value` words."""
        return DECLINED

    def hook_mail_pre(self, transaction: Transaction, path: str, parameters: Parameters) -> HookResult:
        """The path of MAIL as sent. OK with a text replaces it; anything else leaves it."""
        return DECLINED

    def hook_mail(self, transaction: Transaction, sender: Mailbox, parameters: Parameters) -> HookResult:
        """MAIL. Accepted unless refused; DONE: you have replied."""
        return DECLINED

    def hook_rcpt_parse(self, transaction: Transaction, argument: str) -> ParseHookResult:
        """The arguments of RCPT are taken apart. OK with a parser: it gives the path and `KEYWORD=value` words."""
        return DECLINED

    def hook_rcpt_pre(self, transaction: Transaction, path: str, parameters: Parameters) -> HookResult:
        """The path of RCPT as sent. OK with a text replaces it; anything else leaves it."""
        return DECLINED

    def hook_rcpt(self, transaction: Transaction, recipient: Mailbox, parameters: Parameters) -> HookResult:
        """RCPT. OK accepts; refused for now unless a plugin says so; DONE: you have replied."""
        return DECLINED

    def hook_data(self, transaction: Transaction) -> HookResult:
        """DATA, before 354. Any refusal; DONE: you have replied."""
        return DECLINED

    def hook_data_headers_end(self, transaction: Transaction) -> HookResult:
        """The message header is complete. A refusal that closes is told at once, any other behind the content."""
        return DECLINED

    def hook_data_post_headers(self, transaction: Transaction) -> HookResult:
        """All content is there; no field has been added. The result is ignored."""
        return DECLINED

    def hook_received_line(self, transaction: Transaction, protocol: str, authentication: str, tls: str) -> HookResult:
        """The trace field is made. OK with a text gives its body; anything else the default."""
        return DECLINED

    def hook_data_post(self, transaction: Transaction) -> HookResult:
        """The message is whole: content checks. Any refusal; DONE: you have replied."""
        return DECLINED

    def hook_queue_pre(self, transaction: Transaction) -> HookResult:
        """Before queueing: the last chance to change the message. Any refusal; DONE: do not queue, you have replied."""
        return DECLINED

    def hook_queue(self, transaction: Transaction) -> HookResult:
        """Take the message. OK: it is safe; any refusal; DONE: you have replied."""
        return DECLINED

    def hook_queue_post(self, transaction: Transaction) -> HookResult:
        """After the queue hook; the transaction is a new one. The result is ignored."""
        return DECLINED

    def hook_reset_transaction(self, transaction: Transaction) -> HookResult:
        """The transaction is about to be forgotten. The result is ignored."""
        return DECLINED

    def hook_vrfy(self, transaction: Transaction) -> HookResult:
        """VRFY. OK: the recipient exists; any refusal; else 252; DONE: you have replied."""
        return DECLINED

    def hook_noop(self, transaction: Transaction) -> HookResult:
        """NOOP. Any refusal; DONE: you have replied."""
        return DECLINED

    def hook_help(self, transaction: Transaction, subject: str = "") -> HookResult:
        """HELP. The texts are the answer; DENY is a syntax error; DONE: you have replied."""
        return DECLINED

    def hook_unrecognized_command(self, transaction: Transaction, command: str, rest: str = "") -> HookResult:
        """An unknown command. DENY or DENY_DISCONNECT with a text; DONE: you have implemented it."""
        return DECLINED

    def hook_quit(self, transaction: Transaction) -> HookResult:
        """QUIT. The texts are the farewell; DONE: you have replied."""
        return DECLINED

    def hook_disconnect(self, transaction: Transaction) -> HookResult:
        """The session is over. The result is ignored."""
        return DECLINED

    def hook_post_connection(self, transaction: Transaction) -> HookResult:
        """The connection is closed. The result is ignored."""
        return DECLINED

    def hook_deny(self, transaction: Transaction, plugin: str, code: ReturnCode, text: str) -> HookResult:
        """A plugin has refused. The result is ignored."""
        return DECLINED

    def hook_ok(self, transaction: Transaction, plugin: str, code: ReturnCode, text: str) -> HookResult:
        """A plugin has answered without refusing. The result is ignored."""
        return DECLINED

    def hook_config(self, transaction: Transaction | None, setting: str) -> HookResult:
        """A setting is looked up. OK with texts gives its values. Must be a plain `def`."""
        return DECLINED

    def hook_user_config(self, transaction: Transaction | None, address: Mailbox, setting: str) -> HookResult:
        """A setting is looked up for an address. OK with texts gives its values. Must be a plain `def`."""
        return DECLINED

    def hook_logging(
        self, transaction: Transaction | None, level: int, hook: str, plugin: str, text: str
    ) -> HookResult:
        """A message is logged. OK: it is written, ask nobody else. Must be a plain `def`."""
        return DECLINED


def where(function: Callable[..., object]) -> str:
    """`file:line` of a function, as editors understand it."""
    code = getattr(inspect.unwrap(getattr(function, "__func__", function)), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else repr(function)


def check_signature(hook: str, method: Callable[..., object]) -> int:
    """How many arguments `method` takes for `hook`. Raises ConfigError if it takes none that fit."""
    model = inspect.signature(getattr(Plugin, hook_method(hook)))
    expected = list(model.parameters.values())[1:]  # less self
    actual = list(inspect.signature(method).parameters.values())
    positional = [p for p in actual if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = sum(p.default is p.empty for p in positional)
    most = sum(p.kind is p.POSITIONAL_OR_KEYWORD for p in expected)
    if required > most or any(p.kind is p.KEYWORD_ONLY and p.default is p.empty for p in actual):
        names = ", ".join(str(p.replace(annotation=p.empty)) for p in expected)
        raise ConfigError(
            f"{where(method)}: {method.__qualname__}{inspect.signature(method)} asks for more than "
            f"hook {hook} gives: ({names})"
        )
    return 1_000 if any(p.kind is p.VAR_POSITIONAL for p in actual) else len(positional)
