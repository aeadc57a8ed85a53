"""Asks an LDAP directory: finds the user's entry, then binds as it with the password.

Settings are words on the plugin's line, in pairs of name and value, or lines of `config/ldap`,
where values may hold blanks. The plugin's line counts where both say something. They are read
at the start.

- `ldap_base`: where entries are looked for, below this DN; there is no default
- `ldap_host`: 127.0.0.1 by default
- `ldap_port`: 389 by default, 636 with `ldap_tls yes`
- `ldap_tls`: `yes` from the first octet, `starttls`, or `no`, the default. Without TLS passwords
  cross the network in clear: say `no` for this machine only
- `ldap_ca`: the authority, in PEM, that has signed the server's certificate; by default those
  that the system trusts. The certificate has to name `ldap_host`
- `ldap_auth_filter_attr`: the attribute that holds the user's name, `uid` by default
- `ldap_user`: which part of the user's name is looked for, `local`, the default, for what stands
  before the first @, or `whole`
- `ldap_bind_dn`, `ldap_bind_password`: who looks for entries; by default anybody does, anonymously
- `ldap_timeout`: seconds that the server has for each answer, 5 by default

Needs ldap3: `pip install 'qpsmtpd[ldap]'`.

Mechanisms: PLAIN and LOGIN.

Result: OK; DECLINED for a wrong password, and for a user who has no entry, or several; DENYSOFT
if the directory cannot be reached or makes no sense, which is logged.

In config/plugins:

    auth/auth_ldap_bind ldap_base ou=people,dc=example,dc=org ldap_host ldap.example.org ldap_tls starttls
"""

import importlib
import re
import ssl
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from socket import socket
from typing import Any, Protocol, cast

from qpsmtpd import DECLINED, DENYSOFT, LOGERROR, LOGINFO, LOGWARN, OK, Plugin, Result, Site, Transaction, blocking
from qpsmtpd.config import ConfigError, did_you_mean
from qpsmtpd.plugins._options import seconds

_SETTING = "ldap"
_DEFAULTS: Mapping[str, str] = {
    "ldap_base": "",
    "ldap_host": "127.0.0.1",
    "ldap_port": "",
    "ldap_tls": "no",
    "ldap_ca": "",
    "ldap_auth_filter_attr": "uid",
    "ldap_user": "local",
    "ldap_bind_dn": "",
    "ldap_bind_password": "",
    "ldap_timeout": "5",
}
_CHOICES: Mapping[str, tuple[str, ...]] = {"ldap_tls": ("yes", "starttls", "no"), "ldap_user": ("local", "whole")}
_ATTRIBUTE = re.compile(r"[A-Za-z][A-Za-z0-9-]*|[0-9]+(?:\.[0-9]+)+")  # RFC 4512 section 2.5
_LOOPBACK = ("localhost", "127.0.0.1", "::1")

# Results of a bind that are about the user, not about the server (RFC 4511 appendix A):
# constraintViolation, noSuchObject, inappropriateAuthentication, invalidCredentials,
# insufficientAccessRights, unwillingToPerform.
_REFUSALS = frozenset({19, 32, 48, 49, 50, 53})
_SUCCESS, _NO_SUCH_OBJECT, _SIZE_LIMIT_EXCEEDED = 0, 32, 4


class AuthLdapBind(Plugin):
    """Asks an LDAP directory: finds the user's entry, then binds as it with the password."""

    def register(self, qp: Site, *args: str) -> None:
        """Read the settings. Raises ValueError, and ConfigError if ldap3 is not installed."""
        settings = {**_DEFAULTS, **_read_lines(qp), **self.options(args, *_DEFAULTS)}
        _check(settings)
        self._ldap3 = _library()
        self._base = settings["ldap_base"]
        self._attribute = settings["ldap_auth_filter_attr"]
        self._whole = settings["ldap_user"] == "whole"
        self._searcher = settings["ldap_bind_dn"], settings["ldap_bind_password"]
        self._timeout = seconds(settings, "ldap_timeout", 5)
        self._starttls = settings["ldap_tls"] == "starttls"
        self._where = f"{settings['ldap_host']}:{_port(settings)}"
        self._server = _server(self._ldap3, settings, self._timeout)
        if settings["ldap_tls"] == "no" and settings["ldap_host"] not in _LOOPBACK:
            self.log(LOGWARN, f"passwords go to {settings['ldap_host']} in clear; say `ldap_tls starttls`")

    @blocking
    def hook_auth_plain(  # noqa: PLR0917 - a hook's arguments
        self, transaction: Transaction, mechanism: str, user: str, password: str, digest: None, ticket: None
    ) -> Result:
        if not password:  # a bind without one succeeds, as nobody (RFC 4513 section 5.1.2)
            self.log(LOGINFO, f"fail, {user}: no password")
            return DECLINED
        try:
            why = self._ask(user, password)
        except (self._ldap3.core.exceptions.LDAPException, OSError, _TroubleError) as error:
            self.log(LOGERROR, f"error, {self._where}: {error}")
            return DENYSOFT
        except Exception as error:  # noqa: BLE001 - ldap3 raises anything for octets that are no LDAP
            self.log(LOGERROR, f"error, {self._where} makes no sense ({type(error).__name__})")
            return DENYSOFT
        if why:
            self.log(LOGINFO, f"fail, {user} by {mechanism}: {why}")
            return DECLINED
        self.log(LOGINFO, f"pass, {user} by {mechanism}")
        return OK

    hook_auth_login = hook_auth_plain

    def _ask(self, user: str, password: str) -> str:
        """Why the user may not come in; empty if they may. Raises LDAPException, OSError and _TroubleError."""
        name = user.lower() if self._whole else user.lower().partition("@")[0]
        if not name or not name.isprintable():  # octets that are not UTF-8 are no name either
            return "that is no name"
        found = self._find(name)
        if len(found) != 1:
            return "no such user" if not found else "several entries have this name"
        with self._connect(found[0], password.encode("utf-8", "surrogateescape")) as connection:
            connection.bind(read_server_info=False)
            code = connection.result["result"]
            if code != _SUCCESS and code not in _REFUSALS:
                raise _TroubleError(f"the bind gave {connection.result['description']}")
        return "wrong password" if code else ""

    def _find(self, name: str) -> list[str]:
        """The DNs of the entries that have this name; no more than two of them."""
        # Every octet, so that neither filter nor library finds a meaning in one (RFC 4515 section 3).
        escaped = "".join(f"\\{octet:02x}" for octet in name.encode())
        with self._connect(*self._searcher) as connection:
            if not connection.bind(read_server_info=False):
                raise _TroubleError(f"the bind for the search gave {connection.result['description']}")
            connection.search(
                self._base,
                f"({self._attribute}={escaped})",
                attributes=["1.1"],  # none (RFC 4511 section 4.5.1.8)
                size_limit=2,
                time_limit=int(self._timeout) or 1,
            )
            if connection.result["result"] not in (_SUCCESS, _SIZE_LIMIT_EXCEEDED):
                raise _TroubleError(f"the search gave {connection.result['description']}")
            entries = [each["dn"] for each in connection.response or () if each["type"] == "searchResEntry"]
        return [dn for dn in entries if dn]  # without a DN, a bind is one as nobody

    @contextmanager
    def _connect(self, dn: str, password: str | bytes) -> "Generator[_Connection]":
        """A connection that is encrypted, if it is to be, but not bound."""
        library = self._ldap3
        made = library.Connection(
            self._server(),  # a fresh one: it keeps state of connections, and is not made for threads
            dn or None,
            password or None,
            authentication=library.SIMPLE if dn else library.ANONYMOUS,
            auto_referrals=False,  # the password is for this server alone
            check_names=False,  # whether a DN is one is for the directory to say
            read_only=True,
        )
        connection = cast("_Connection", made)
        try:
            connection.open(read_server_info=False)
            if self._starttls and not connection.start_tls(read_server_info=False):
                raise _TroubleError("STARTTLS has failed")
            yield connection
        finally:
            with suppress(library.core.exceptions.LDAPException, OSError):
                connection.unbind()
            if connection.socket is not None:  # where it could not be opened as a whole
                connection.socket.close()


class _TroubleError(Exception):
    """What the directory says makes no sense, or is not about the user."""


class _Connection(Protocol):
    """What is used of `ldap3.Connection`, which has no types of its own."""

    @property
    def result(self) -> Mapping[str, Any]: ...
    @property
    def response(self) -> Sequence[Mapping[str, Any]] | None: ...
    @property
    def socket(self) -> socket | None: ...
    def open(self, *, read_server_info: bool) -> object: ...
    def start_tls(self, *, read_server_info: bool) -> bool: ...
    def bind(self, *, read_server_info: bool) -> bool: ...
    def search(
        self, base: str, pattern: str, *, attributes: Sequence[str], size_limit: int, time_limit: int
    ) -> object: ...
    def unbind(self) -> object: ...


def _library() -> Any:
    try:
        with warnings.catch_warnings(
            category=DeprecationWarning, action="ignore"
        ):  # ldap3 2.9 needs old names of pyasn1
            return importlib.import_module("ldap3")
    except ModuleNotFoundError:
        raise ConfigError("LDAP needs ldap3; run `pip install 'qpsmtpd[ldap]'`") from None


def _server(library: Any, settings: Mapping[str, str], timeout: float) -> Callable[[], object]:
    """What makes an `ldap3.Server`. Raises ValueError."""
    authority = settings["ldap_ca"] or None
    try:
        context = ssl.create_default_context(cafile=authority)
    except OSError as error:
        raise ValueError(f"ldap_ca {authority}: {error.strerror or error}") from error

    def wrap_socket(connection: Any, *, do_handshake: bool) -> None:
        del do_handshake
        connection.socket = context.wrap_socket(connection.socket, server_hostname=settings["ldap_host"])

    tls = library.Tls()
    tls.wrap_socket = wrap_socket  # its own has another idea of host names, and leaks the socket of a stranger
    return partial(
        library.Server,
        settings["ldap_host"],
        _port(settings),
        use_ssl=settings["ldap_tls"] == "yes",
        tls=tls,
        get_info=library.NONE,
        connect_timeout=timeout,  # stays that of the socket, for all it waits for; `receive_timeout` takes no fractions
    )


def _port(settings: Mapping[str, str]) -> int:
    return int(settings["ldap_port"] or (636 if settings["ldap_tls"] == "yes" else 389))


def _read_lines(qp: Site) -> dict[str, str]:
    """The lines of `config/ldap`. Raises ConfigError."""
    settings: dict[str, str] = {}
    for value in qp.config(_SETTING):
        name, _, rest = value.partition(" ")
        if name not in _DEFAULTS:
            raise ConfigError(f"config/{_SETTING}: unknown setting {name!r}{did_you_mean(name, _DEFAULTS)}")
        settings[name] = rest.strip()
    return settings


def _check(settings: Mapping[str, str]) -> None:
    """Raises ValueError for values that make no sense."""
    if not settings["ldap_base"]:
        raise ValueError("ldap_base is missing: the DN below which users are looked for")
    if not _ATTRIBUTE.fullmatch(settings["ldap_auth_filter_attr"]):
        raise ValueError(f"ldap_auth_filter_attr {settings['ldap_auth_filter_attr']!r} is no name of an attribute")
    for name, words in _CHOICES.items():
        if settings[name] not in words:
            raise ValueError(f"{name} {settings[name]!r} is none of {', '.join(words)}")
    port = settings["ldap_port"]
    if port and not (port.isascii() and port.isdecimal() and 0 < int(port) < 1 << 16):
        raise ValueError(f"ldap_port {port!r} is no port")
    if bool(settings["ldap_bind_dn"]) is not bool(settings["ldap_bind_password"]):
        raise ValueError("ldap_bind_dn and ldap_bind_password go together")
