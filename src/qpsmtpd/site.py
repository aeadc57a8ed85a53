"""What the sessions of a server share, which is also what plugins know as `qp`.

Settings, the plugins with their hooks in order, the log. What belongs to one session
(`connection`, `transaction`, `respond`) is looked up in the session that runs the hook.
"""

import contextlib
import contextvars
import enum
import os
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar, cast

from qpsmtpd.census import Census
from qpsmtpd.config import Config, ConfigError, did_you_mean
from qpsmtpd.logs import LOGDEBUG, LOGERROR, LOGINFO, LOGWARN, log_level, message, write_stderr
from qpsmtpd.networks import Network, parse_network
from qpsmtpd.protocol import DECLINED, DEFAULT_EXTENSIONS, OK, Extension, Limits, LineEndings, Mailbox, ReturnCode
from qpsmtpd.resolver import NameServer, Resolver, SystemResolver, parse_name_server
from qpsmtpd.session.connection import Connection
from qpsmtpd.session.transaction import Transaction
from qpsmtpd.store import Backend, Overlay, Store, open_backend, place_in

if TYPE_CHECKING:
    from qpsmtpd.plugin import Plugin
    from qpsmtpd.session.session import Session
    from qpsmtpd.session.tls import ServerTls

_T = TypeVar("_T")

__all__ = ["PLAIN", "Entry", "Kind", "Running", "Settings", "Site", "current_session", "no_result"]


class Running(Protocol):
    """A session, as far as the hooks that it runs may see it."""

    @property
    def connection(self) -> Connection:
        """The connection."""
        ...

    @property
    def transaction(self) -> Transaction:
        """The mail transaction of the moment."""
        ...

    @property
    def path_argument(self) -> str:
        """What stood behind the word of the last MAIL or RCPT, as sent."""
        ...

    hook_name: str
    """The hook of the moment."""

    def respond(self, code: int, *lines: str) -> None:
        """Prepare the plugin's own reply."""
        ...


current_session: contextvars.ContextVar[Running | None] = contextvars.ContextVar("current_session", default=None)
"""The session whose hook runs in this context."""

_in_log: contextvars.ContextVar[bool] = contextvars.ContextVar("_in_log", default=False)


class Kind(enum.Enum):
    """How a hook method is run."""

    PLAIN = "called"
    ASYNC = "awaited"
    BLOCKING = "called in a worker thread"
    EFFECTS = "asks for effects itself"

    __hash__ = object.__hash__


PLAIN = Kind.PLAIN  # reading a member off its class costs as much as a call in Python 3.11


@dataclass(frozen=True, slots=True)
class Entry:
    """A plugin's method in the chain of a hook."""

    plugin: "Plugin"
    name: str
    method: Callable[..., object]
    kind: Kind
    arguments: int
    """How many arguments the method takes; further ones are left out."""
    note: str
    """The key of the result of this hook in the notes, below the name of the plugin: `hook_rcpt`."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings a session begins with, read once a second at most."""

    hostname: str
    greeting: str
    limits: Limits
    size_threshold: int
    command_timeout: float
    content_timeout: float
    session_timeout: float
    hook_timeout: float
    max_connections: int
    max_per_ip: int
    log_level: int
    """The level up to which messages are written where there is no logging plugin."""
    extensions: frozenset[Extension]
    """What is offered, where the connection and the plugins allow it."""
    line_endings: LineEndings
    auth_in_clear: bool
    handshake_timeout: float
    xclient_networks: tuple[Network, ...]
    """Whose word is taken for whom they speak for."""
    proxy_networks: tuple[Network, ...]
    """Who has to send a PROXY header first."""


class Site:
    """A server's settings, plugins and log. Plugins know it as `self.qp`."""

    session_type: "type[Session] | None" = None
    """What kind of session clients get, where it is a special one."""

    rehearsal = False
    """Whether this is only to find out what would be. What plugins write to the store is then forgotten, nothing is
    logged by them, and those that would leave something elsewhere do not; who runs the session queues nothing.
    """

    def __init__(
        self,
        settings: Config,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        rng: random.Random | None = None,
        write: Callable[[str], object] | None = None,
        resolver: Resolver | None = None,
    ) -> None:
        """`clock` gives seconds for deadlines, `wall` seconds since the epoch, `rng` the
        identities of connections; `write` takes log lines where no logging plugin does;
        `resolver` is asked in place of the name servers of the system and of the settings.
        """
        self.settings = settings
        settings.on_error = self._complain
        self.clock = clock
        self.stopwatch: Callable[[], float] | None = None
        """Gives seconds, for how long hooks take, where `clock` stands still meanwhile."""
        self.wall = wall
        self.rng = rng or random.SystemRandom()
        self.secret = self.rng.getrandbits(256).to_bytes(32)
        """Known to this process alone, and the same for all its sessions."""
        self.tls: ServerTls | None = None
        """The certificates; None where there is none, and TLS is not offered."""
        self.census = Census()
        """Who is connected now."""
        self.slow_hooks: set[tuple[str, str]] = set()
        """Plugins and hooks that have kept other sessions waiting, and have been complained about."""
        self.find_plugin: Callable[[str], type[Plugin]] = _no_loader
        """The class of a plugin by its name; the loader's."""
        self.plugins: list[Plugin] = []
        self._chains: Mapping[str, Sequence[Entry]] = {}
        self.wanted: frozenset[str] = frozenset()
        """The hooks that any plugin serves."""
        self._write = write or write_stderr
        self._level = LOGWARN
        self.verbosity = LOGWARN
        """The level up to which messages go anywhere; those above need not be made up."""
        self._snapshot: Settings | None = None
        self._snapshot_at = 0.0
        self._date = (0, "")
        self._spool_dir: Path | None = None
        self._resolver = resolver
        self._backends: dict[str, Backend] = {}
        self._resolves_by: tuple[Sequence[NameServer], float] | None = None
        self._resolver_complaint = ""

    @property
    def chains(self) -> Mapping[str, Sequence[Entry]]:
        """The methods of the plugins for each hook, in their order."""
        return self._chains

    @chains.setter
    def chains(self, chains: Mapping[str, Sequence[Entry]]) -> None:
        self._chains = {hook: chains[hook] for hook in chains if hook != "logging" or not self.rehearsal}
        self.wanted = frozenset(chains)
        self._set_verbosity()

    @property
    def awaits(self) -> bool:
        """Whether any hook is to be awaited, and so needs an event loop."""
        return any(entry.kind is Kind.ASYNC for chain in self.chains.values() for entry in chain)

    def _set_verbosity(self) -> None:
        least = LOGINFO if self.rehearsal else 0  # whoever wants to know what would be wants to know why
        self.verbosity = LOGDEBUG if "logging" in self._chains else max(self._level, least)

    # What plugins use

    def config(self, setting: str, address: Mailbox | None = None) -> tuple[str, ...]:
        """The values of a setting: a plugin's, else those of the file, else the default ones.

        For an address the hook `user_config` is asked first, then `config` in any case.
        """
        values = None
        if address is not None and "user_config" in self._chains:
            values = self._setting("user_config", address, setting)
        if values is None and "config" in self._chains:
            values = self._setting("config", setting)
        return self.settings.values(setting) if values is None else values

    def _setting(self, hook: str, *arguments: object) -> tuple[str, ...] | None:
        """What plugins say a setting is; None where none does."""
        with self._as_hook(hook):
            code, values = self._ask(hook, f"looking up {arguments[-1]}", self._transaction(), *arguments)
        return tuple(map(str, values)) if code is OK else None

    def post_fork(self) -> None:
        """Run the hook post-fork: this process begins to serve. What fails is logged."""
        self._ask("post-fork", "the hook")

    def stopped(self) -> None:
        """Log that this process serves no longer."""
        self.log(LOGINFO, "stopped")

    def _ask(
        self, hook: str, doing: str, *arguments: object, on_failure: Callable[[], object] = lambda: None
    ) -> tuple[ReturnCode, tuple[object, ...]]:
        """Ask the plugins of a hook that no session waits for: the first that does not decline decides.

        One that fails is logged, as failed in `doing`, and the next one asked.
        """
        for entry in self.chains.get(hook, ()):
            try:
                result = entry.method(*arguments[: entry.arguments])
                code, *values = cast("tuple[object, ...]", result) if isinstance(result, tuple) else (result,)
                if not isinstance(code, ReturnCode | None):
                    raise no_result(f"{result!r}")  # noqa: TRY301
            except Exception:  # noqa: BLE001 - a plugin may raise anything
                on_failure()
                self.log_failure(hook, entry.name, doing)
                continue
            if code is not None and code is not DECLINED:
                return code, tuple(values)
        return DECLINED, ()

    @contextlib.contextmanager
    def _as_hook(self, hook: str) -> Generator[None]:
        """Have the session, if one runs, call this its hook of the moment."""
        session = current_session.get()
        if session is None:
            yield
            return
        session.hook_name, outer = hook, session.hook_name
        try:
            yield
        finally:
            session.hook_name = outer

    @property
    def session(self) -> Running:
        """The session that runs the hook. Raises LookupError outside of hooks."""
        session = current_session.get()
        if session is None:
            raise LookupError("there is no session here: this is not called by a hook")
        return session

    @property
    def connection(self) -> Connection:
        """The connection that is served now."""
        return self.session.connection

    @property
    def transaction(self) -> Transaction:
        """The mail transaction that is served now."""
        return self.session.transaction

    def respond(self, code: int, *lines: str) -> None:
        """Reply to the command yourself; return DONE behind it. Raises ValueError for a bad code."""
        self.session.respond(code, *lines)

    def log(self, level: int, text: str, *, hook: str | None = None, plugin: str = "") -> None:
        """Write to the log: by the logging plugins, or to standard error where there is none."""
        session = current_session.get()
        if hook is None:
            hook = session.hook_name if session is not None else ""

        def write() -> None:
            self._write(f"{self.log_line(hook, plugin, text)}\n")

        if "logging" not in self.chains or _in_log.get():
            if level <= self._level:
                write()
            return
        token = _in_log.set(True)
        try:
            arguments = (self._transaction(), level, hook, plugin, text)
            code, _ = self._ask("logging", "writing the log", *arguments, on_failure=write)
            if code not in (OK, DECLINED) and level <= self._level:
                write()
        finally:
            _in_log.reset(token)

    def log_line(self, hook: str, plugin: str, text: str) -> str:
        """A message as one line for the log, the id of the connection first, without a line end."""
        return f"{self.log_identity} {message(hook, plugin, text)}"

    @property
    def log_identity(self) -> str:
        """What a log line begins with: the id of the connection, or of this process."""
        session = current_session.get()
        return session.connection.id if session is not None else f"[{os.getpid()}]"

    def log_failure(self, hook: str, plugin: str, doing: str) -> None:
        """Log the exception that is being handled, with its traceback.

        Of one in AUTH the text is left out: it may hold a password.
        """
        error = sys.exception()
        assert error is not None
        if hook.startswith("auth"):
            self.log(LOGERROR, f"error, {doing} failed: {type(error).__name__}", hook=hook, plugin=plugin)
            for line in "".join(traceback.format_tb(error.__traceback__)).splitlines():
                self.log(LOGERROR, line, hook=hook, plugin=plugin)
            return
        try:
            text = str(error)
        except Exception:  # noqa: BLE001 - even this is the plugin's code
            text = "(its text cannot be made)"
        self.log(LOGERROR, f"error, {doing} failed: {type(error).__name__}: {text}", hook=hook, plugin=plugin)
        for line in "".join(traceback.format_exception(error)).splitlines():
            self.log(LOGERROR, line, hook=hook, plugin=plugin)

    @property
    def resolver(self) -> Resolver:
        """Looks names up, by the settings `nameservers` and `timeoutdns`.

        A plugin that needs it touches it in `register`, so that what is wrong shows at the start.
        Settings that go bad later are logged, and the old ones stay. Raises ConfigError.
        """
        if self._resolver is not None and self._resolves_by is None:
            return self._resolver
        try:
            servers = self._read_each("nameservers", parse_name_server, "name server such as 192.0.2.53")
            wanted = servers, self.number("timeoutdns")
        except ConfigError as error:
            if self._resolver is None:
                raise
            if self._resolver_complaint != str(error):
                self._resolver_complaint = str(error)
                self.log(LOGERROR, f"{error}; the old settings stay in force")
            return self._resolver
        if self._resolver is None or wanted != self._resolves_by:
            self._resolver = SystemResolver(*wanted)
            self._resolves_by = wanted
        return self._resolver

    def store(self, section: str, directory: str = "") -> Store:
        """What outlives a connection: the entries of a plugin, whose name is `section`.

        They are where the setting `store` says, or in a file in `directory`. A plugin asks in `register`,
        so that what is wrong shows at the start. Raises ConfigError.
        """
        base = (self.settings.directory or Path()).absolute()
        if directory:
            place = place_in(Path(directory).expanduser())
        else:
            place = self.value("store") or place_in(Path("/var/lib/qpsmtpd"), base.parent / "var" / "db", base)
        if place not in self._backends:
            self._backends[place] = self._open_backend(place)
        return Store(self._backends[place], section)

    def _open_backend(self, place: str) -> Backend:
        try:
            backend = open_backend(place, (self.settings.directory or Path()).absolute(), self.wall, self.clock)
        except ConfigError as error:
            raise ConfigError(f"{self.settings.where('store')}: {error}") from error
        return Overlay(backend) if self.rehearsal else backend

    def spool_dir(self) -> Path:
        """The directory for spool and work files: `spool_dir`, or one of our own; mode 0700.

        Raises OSError if it cannot be made, and ConfigError if others may write to it.
        """
        named = self.value("spool_dir")
        if not named:
            if self._spool_dir is None or not self._spool_dir.is_dir():
                self._spool_dir = Path(tempfile.mkdtemp(prefix="qpsmtpd-"))
            return self._spool_dir
        path = Path(named).expanduser()
        mode = int(self.value("spool_perms", "0700"), 8)
        path.mkdir(mode=mode, parents=True, exist_ok=True)
        if path.stat().st_mode & 0o022 & ~mode:
            raise ConfigError(f"{path}: others may write to the spool directory; run `chmod {mode:o} {path}`")
        return path

    def remove_spool_dir(self) -> None:
        """Remove the spool directory of our own, if it is empty, at the end of the process."""
        if self._spool_dir is not None and self._spool_dir.is_dir() and not any(self._spool_dir.iterdir()):
            self._spool_dir.rmdir()

    # What sessions use

    def current_settings(self) -> Settings:
        """The settings for a new session. A bad value that comes later leaves the old ones in force."""
        now = self.clock()
        if self._snapshot is None or now - self._snapshot_at >= 1.0:
            try:
                self._snapshot = self.read_settings()
                self._level = self._snapshot.log_level
                self._set_verbosity()
            except ConfigError as error:
                if self._snapshot is None:
                    raise
                self.log(LOGERROR, f"{error}; the old settings stay in force")
            self._snapshot_at = now
        return self._snapshot

    def read_settings(self) -> Settings:
        """Read what `Settings` holds. Raises ConfigError."""
        hostname, number = self.hostname, self.number
        greeting = self.value("smtpgreeting") or f"{hostname} ESMTP qpsmtpd"
        return Settings(
            hostname=hostname,
            greeting=greeting if "ESMTP" in greeting else f"{greeting} ESMTP",
            limits=Limits(
                message_size=int(number("databytes")) or None if self.config("databytes") else None,
                recipients=int(number("recipients_max")),
            ),
            size_threshold=int(number("size_threshold")),
            command_timeout=number("timeoutsmtpd" if self.config("timeoutsmtpd") else "timeout"),
            content_timeout=number("timeoutdata"),
            session_timeout=number("timeoutsession"),
            hook_timeout=number("timeouthook"),
            max_connections=int(number("max_connections")),
            max_per_ip=int(number("max_per_ip")),
            log_level=self._read_log_level(),
            extensions=self._read_extensions(),
            line_endings=self._read_line_endings(),
            auth_in_clear=not self._read_flag("tls_before_auth", default=True),
            handshake_timeout=number("timeouttls"),
            xclient_networks=self._read_networks("xclient_networks"),
            proxy_networks=self._read_networks("proxy_networks"),
        )

    @property
    def hostname(self) -> str:
        """The name of this host: `me`, else what the system says."""
        return self.value("me") or self.settings.system_name

    def value(self, setting: str, default: str = "") -> str:
        """The first value of a setting, or `default`."""
        return next(iter(self.config(setting)), default)

    def number(self, setting: str) -> float:
        """The first value of a setting as a number of 0 or more. Raises ConfigError if it is none."""
        return self.settings.number(setting, self.value(setting))

    def _read_log_level(self) -> int:
        try:
            return log_level(self.value("loglevel"))
        except ValueError as error:
            raise ConfigError(f"{self.settings.where('loglevel')}: {error}") from error

    def _read_extensions(self) -> frozenset[Extension]:
        """The default ones, and STARTTLS and XCLIENT; more with a NAME, fewer with a `-NAME`."""
        offered = {*DEFAULT_EXTENSIONS, Extension.STARTTLS, Extension.XCLIENT}
        known = {extension.value: extension for extension in Extension}
        for value in self.config("extensions"):
            name = value.upper().removeprefix("-")
            if name not in known:
                raise ConfigError(
                    f"{self.settings.where('extensions')}: there is no extension {name!r}{did_you_mean(name, known)}"
                )
            (offered.discard if value.startswith("-") else offered.add)(known[name])
        if Extension.BINARYMIME in offered and Extension.CHUNKING not in offered:  # RFC 3030 section 3
            raise ConfigError(f"{self.settings.where('extensions')}: BINARYMIME needs CHUNKING")
        return frozenset(offered)

    def _read_flag(self, setting: str, *, default: bool) -> bool:
        text = self.value(setting, str(int(default)))
        if text not in ("0", "1"):
            raise ConfigError(f"{self.settings.where(setting)}: {text!r} is neither 0 nor 1")
        return text == "1"

    def _read_line_endings(self) -> LineEndings:
        named = self.value("line_endings", "strict")
        known = {each.name.lower(): each for each in LineEndings}
        if named not in known:
            where = self.settings.where("line_endings")
            raise ConfigError(f"{where}: {named!r} is none of {', '.join(known)}")
        return known[named]

    def _read_networks(self, setting: str) -> tuple[Network, ...]:
        return self._read_each(setting, parse_network, "network such as 192.0.2.0/24")

    def _read_each(self, setting: str, parse: Callable[[str], _T], what: str) -> tuple[_T, ...]:
        found: list[_T] = []
        for value in self.config(setting):
            try:
                found.append(parse(value))
            except ValueError as error:
                raise ConfigError(f"{self.settings.where(setting)}: {value!r} is no {what}") from error
        return tuple(found)

    def nonce(self) -> str:
        """Fresh text that nobody can guess, for the challenges of AUTH."""
        return f"{self.rng.getrandbits(160):040x}"

    def new_identity(self) -> str:
        """A name for a connection, unlikely to be given again."""
        return f"{self.rng.getrandbits(48):012x}"

    def date(self) -> str:
        """The date for a trace field (RFC 5322 section 3.3), made once a second."""
        now = int(self.wall())
        if self._date[0] != now:
            self._date = now, formatdate(now, localtime=True)
        return self._date[1]

    def _complain(self, text: str) -> None:
        self.log(LOGERROR, text)

    def _transaction(self) -> Transaction | None:
        session = current_session.get()
        return session.transaction if session is not None else None


def no_result(shown: str) -> TypeError:
    """What is wrong with what a hook has returned, and is shown here."""
    return TypeError(f"a hook returns a return code, or a tuple of one and texts, but not {shown}")


def _no_loader(name: str) -> "type[Plugin]":
    raise ConfigError(f"no plugin has been loaded, so {name} cannot be found")
