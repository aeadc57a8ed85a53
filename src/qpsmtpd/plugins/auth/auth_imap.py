"""Asks an IMAP server: who can log in there may send mail here.

    auth/auth_imap [HOST [PORT]]

HOST is localhost by default, PORT 143. The server is asked by AUTHENTICATE PLAIN, or by LOGIN
where it does not offer that.

Arguments behind them, in pairs:
- `tls`: `yes` from the first octet, the default for port 993; `starttls`; `no`, the default for
  other ports. Without TLS passwords cross the network in clear: say `no` for this machine only.
- `ca FILE`: the authority, in PEM, that has signed the server's certificate; by default those
  that the system trusts. The certificate has to name HOST.
- `timeout`: seconds that the server has for each answer, 10 by default.

Mechanisms: PLAIN and LOGIN.

Result: OK; DENY if the server says no; DENYSOFT if it cannot be reached or makes no sense,
which is logged.

In config/plugins:

    auth/auth_imap imap.example.org 993
"""

import contextlib
import imaplib
import itertools
import re

from qpsmtpd import DENY, DENYSOFT, LOGERROR, LOGINFO, LOGWARN, OK, Plugin, Result, Site, Transaction, blocking
from qpsmtpd.plugins._options import seconds, trust

_IMAP, _IMAPS = 143, 993
_OPTIONS = ("tls", "ca", "timeout")
_TLS = ("yes", "starttls", "no")
_ATOM = re.compile(r"[A-Za-z0-9@._+=/~$&!#-]+")  # what LOGIN takes without quotes
_TROUBLE = re.compile(  # what is nobody's password (RFC 5530)
    r"\[(?:UNAVAILABLE|PRIVACYREQUIRED|SERVERBUG|LIMIT|INUSE|CONTACTADMIN)\b|command error: BAD", re.IGNORECASE
)
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class AuthImap(Plugin):
    """Asks an IMAP server: who can log in there may send mail here."""

    def register(self, qp: Site, *args: str) -> None:
        """Read the arguments. Raises ValueError."""
        places = list(itertools.takewhile(lambda word: word not in _OPTIONS, args[:2]))
        options = self.options(args[len(places) :], *_OPTIONS)
        self._host, port = (*places, *("localhost", f"{_IMAP}")[len(places) :])
        if not (port.isascii() and port.isdecimal() and 0 < int(port) < 1 << 16):
            raise ValueError(f"{port!r} is no port")
        self._port = int(port)
        self._tls = options.get("tls", "yes" if self._port == _IMAPS else "no")
        if self._tls not in _TLS:
            raise ValueError(f"tls {self._tls!r} is none of {', '.join(_TLS)}")
        self._context = trust(options)
        self._timeout = seconds(options, "timeout", 10)
        if self._tls == "no" and self._host not in _LOOPBACK:
            self.log(LOGWARN, f"passwords go to {self._where} in clear; say `tls starttls`")

    @property
    def _where(self) -> str:
        return f"{self._host}:{self._port}"

    @blocking
    def hook_auth_plain(  # noqa: PLR0917 - a hook's arguments
        self, transaction: Transaction, mechanism: str, user: str, password: str, digest: None, ticket: None
    ) -> Result:
        try:
            right = self._ask(user, password)
        except OSError as error:  # also a bad certificate, which is a ValueError as well
            self.log(LOGERROR, f"error, {self._where}: {error.strerror or error}")
            return DENYSOFT
        except (imaplib.IMAP4.error, ValueError) as error:
            # Its text may be the server's, who may repeat what it was told.
            self.log(LOGERROR, f"error, {self._where} ends the talk or makes no sense ({type(error).__name__})")
            return DENYSOFT
        if right:
            self.log(LOGINFO, f"pass, {user} by {mechanism}")
            return OK
        self.log(LOGINFO, f"fail, {user} by {mechanism}: {self._where} says no")
        return DENY

    hook_auth_login = hook_auth_plain

    def _ask(self, user: str, password: str) -> bool:
        """Whether the server takes them. Raises OSError, and IMAP4.error or ValueError for nonsense."""
        if "\0" in user or "\0" in password:
            return False  # in PLAIN it would end the field (RFC 4616)
        if self._tls == "yes":
            client: imaplib.IMAP4 = imaplib.IMAP4_SSL(
                self._host, self._port, ssl_context=self._context, timeout=self._timeout
            )
        else:
            client = imaplib.IMAP4(self._host, self._port, timeout=self._timeout)
        try:
            if self._tls == "starttls":
                client.starttls(self._context)
            right = _authenticate(client, user, password)
            with contextlib.suppress(OSError, imaplib.IMAP4.error):
                client.logout()
            return right
        finally:
            with contextlib.suppress(OSError):
                client.shutdown()


def _authenticate(client: imaplib.IMAP4, user: str, password: str) -> bool:
    if client.state != "NONAUTH":
        raise imaplib.IMAP4.abort("PREAUTH")  # whoever that is, it is not the user
    responses = iter([f"\0{user}\0{password}".encode("utf-8", "surrogateescape")])
    try:
        if "AUTH=PLAIN" in client.capabilities:
            client.authenticate("PLAIN", lambda _: next(responses, None))
        elif _ATOM.fullmatch(user) and password.isascii() and password.isprintable():
            client.login(user, password)
        else:
            return False  # LOGIN cannot carry them (RFC 3501 section 9)
    except imaplib.IMAP4.abort:
        raise
    except imaplib.IMAP4.error as error:
        if _TROUBLE.search(str(error)) or "LOGINDISABLED" in client.capabilities:
            raise  # it says nothing of the password
        return False
    return True
