"""What plugin authors inherit: every hook with its signature, and the helpers.

A plugin overrides the hooks it wants; only those are registered. A hook is a `def` or an
`async def`; a `def` that blocks is marked `@blocking`; a generator may yield effects itself.
It returns a return code, or a tuple of a code and texts for the client.
"""

import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from qpsmtpd.config import ConfigError
from qpsmtpd.logs import LOGINFO
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
from qpsmtpd.session.connection import Connection
from qpsmtpd.session.effects import Effects
from qpsmtpd.session.transaction import Transaction

if TYPE_CHECKING:
    from qpsmtpd.site import Site

__all__ = ["HookResult", "Plugin", "Result", "blocking", "hook_method"]

Result = ReturnCode | tuple[ReturnCode, *tuple[str, ...]] | None
"""A return code, with texts for the client where there are any; None counts as DECLINED."""

HookResult = Result | Awaitable[Result] | Effects
"""What a hook method gives: a result, or something that leads to one."""

_F = TypeVar("_F", bound=Callable[..., object])

_REJECT_TYPES: Mapping[str, ReturnCode] = {
    "perm": DENY,
    "soft": DENYSOFT,
    "temp": DENYSOFT,
    "disconnect": DENY_DISCONNECT,
    "temp_disconnect": DENYSOFT_DISCONNECT,
}


def blocking(function: _F) -> _F:
    """Mark a hook that blocks (disk, a slow library): it is run in a worker thread."""
    setattr(function, "qpsmtpd_blocking", True)  # noqa: B010 - a mark, read by the loader
    return function


def hook_method(hook: str) -> str:
    """The method that serves a hook: `post-fork` becomes `hook_post_fork`."""
    return "hook_" + hook.replace("-", "_")


class Plugin:
    """A plugin as loaded by one line of `config/plugins`; it serves many sessions at once."""

    def __init__(self, site: "Site", name: str) -> None:
        self.qp = site
        """The server, as plugins see it."""
        self._name = name
        self._site_hooks: list[tuple[str, Callable[..., object], bool]] = []
        self._options: Mapping[str, str] = {}

    # Set-up

    # The rest of their signatures is the plugin's own, and the loader holds the words against it.

    def init(self, qp: "Site", *args: Any, **_: Any) -> None:
        """Called first, with the words behind the name in `config/plugins`."""

    def register(self, qp: "Site", *args: Any, **_: Any) -> None:
        """Called last, with the same words; the place for `register_hook` and for checks.

        Raise ValueError for words that make no sense: the administrator sees file and line.
        """

    def register_hook(self, hook: str, method: str | Callable[..., object], *, unshift: bool = False) -> None:
        """Have a method called for a hook, behind those registered before, or before them.

        Raises ValueError for a hook or method that does not exist.
        """
        if hook not in hooks.HOOKS:
            raise ValueError(f"there is no hook {hook!r}")
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

    def options(self, args: tuple[str, ...], *allowed: str) -> Mapping[str, str]:
        """Read words as pairs of name and value; `reject`, `reject_type` and `loglevel` are always allowed.

        Raises ValueError for an odd word and for a name that is not allowed.
        """
        names = args[::2]
        known = {"reject", "reject_type", "loglevel", *allowed}
        if len(args) % 2:
            raise ValueError(f"the arguments come in pairs of name and value, but {args[-1]!r} is left over")
        for name in names:
            if name not in known:
                raise ValueError(f"unknown argument {name!r}; known are {', '.join(sorted(known))}")
        self._options = dict(zip(names, args[1::2], strict=True))
        return self._options

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

    def log(self, level: int, message: str) -> None:
        """Write to the log. By custom a decision reads `pass, why`, `skip, why` or `fail, why`."""
        if self.qp.logs(level):
            self.qp.log(level, message, plugin=self._name)

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

    def get_reject(self, text: str, reason: str = "") -> Result:
        """The result for a client that has failed a check, as the arguments of this plugin say.

        `reject 0` only logs; `reject_type` chooses the return code. `reason` is for the log.
        """
        detail = f", {reason}" if reason else ""
        if self._options.get("reject", "1").lower() in ("0", "no", "off", ""):
            self.log(LOGINFO, f"fail, reject disabled{detail}")
            return DECLINED
        self.log(LOGINFO, f"fail{detail}")
        return _REJECT_TYPES.get(self._options.get("reject_type", "perm"), DENY), text

    def is_immune(self) -> bool:
        """Whether checks should be skipped: relay clients, and whom a plugin has whitelisted."""
        session = self.qp.session
        if session.connection.relay_client:
            self.log(LOGINFO, "skip, relay client")
            return True
        if session.connection.notes.get("whitelisthost") or session.transaction.notes.get("whitelistsender"):
            self.log(LOGINFO, "skip, whitelisted")
            return True
        return False

    def adjust_karma(self, value: int) -> int:
        """Add to the connection's note `karma`; give the new value."""
        karma = self.connection.notes.get("karma", 0)
        assert isinstance(karma, int)
        self.connection.notes["karma"] = karma + value
        return karma + value

    # The hooks, in the order of a session. Arguments are positional.

    def hook_post_fork(self) -> HookResult:
        """A worker process has started. The result is ignored."""
        return DECLINED

    def hook_pre_connection(self, transaction: Transaction, arrival: hooks.PreConnection) -> HookResult:
        """A client was accepted, before its session begins. DENY and DENYSOFT refuse it."""
        return DECLINED

    def hook_connect(self, transaction: Transaction) -> HookResult:
        """Before the greeting. DENY and DENYSOFT refuse the client; DONE: you have greeted it."""
        return DECLINED

    def hook_helo(self, transaction: Transaction, host: str, *words: str) -> HookResult:
        """HELO. Any refusal; DONE: you have replied."""
        return DECLINED

    def hook_ehlo(self, transaction: Transaction, host: str, *words: str) -> HookResult:
        """EHLO. Any refusal; DONE: you have replied. The note `capabilities` adds keywords."""
        return DECLINED

    def hook_mail_pre(self, transaction: Transaction, path: str, parameters: Parameters) -> HookResult:
        """The path of MAIL as sent. OK with a text replaces it; anything else leaves it."""
        return DECLINED

    def hook_mail(self, transaction: Transaction, sender: Mailbox, parameters: Parameters) -> HookResult:
        """MAIL. Accepted unless refused; DONE: you have replied."""
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
        """The message header is complete. Only DENY_DISCONNECT and DENYSOFT_DISCONNECT act."""
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
        """Before queueing: the last chance to change the message. DONE: do not queue, you have replied."""
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

    def hook_unrecognized_command(self, transaction: Transaction, command: str, rest: str) -> HookResult:
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

    def hook_config(self, transaction: Transaction, setting: str) -> HookResult:
        """A setting is looked up. OK with texts gives its values. Must be a plain `def`."""
        return DECLINED

    def hook_logging(
        self, transaction: Transaction | None, level: int, hook: str, plugin: str, text: str
    ) -> HookResult:
        """A message is logged. OK: it is written, ask nobody else. Must be a plain `def`."""
        return DECLINED


def check_signature(hook: str, method: Callable[..., object]) -> int:
    """How many arguments `method` takes for `hook`. Raises ConfigError if it takes none that fit."""
    expected = inspect.signature(getattr(Plugin, hook_method(hook))).parameters.values()
    most = sum(p.kind is p.POSITIONAL_OR_KEYWORD for p in expected) - 1  # less self
    actual = list(inspect.signature(method).parameters.values())
    positional = [p for p in actual if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = [p for p in positional if p.default is p.empty]
    if len(required) > most or any(p.kind is p.KEYWORD_ONLY and p.default is p.empty for p in actual):
        raise ConfigError(
            f"{method.__qualname__}{inspect.signature(method)} asks for more than hook {hook} gives: "
            f"{inspect.signature(getattr(Plugin, hook_method(hook)))}"
        )
    return 1_000 if any(p.kind is p.VAR_POSITIONAL for p in actual) else len(positional)
