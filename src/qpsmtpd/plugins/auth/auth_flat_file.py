"""Knows users by a file: config/flat_auth_pw.

A line of `config/flat_auth_pw` is a user and, behind the first colon, a password or what is
stored of one. `qpsmtpd passwd config/flat_auth_pw USER` writes such a line.

    user@example.org:$scrypt$ln=15,r=8,p=3$cn5IS46Qm0lsX/29cD6yJQ$OQ...
    other@example.org:secret

A user's name is compared as a whole; case does not count, and of several lines for a user
the first counts. What is stored of a password decides who may ask for it:

    stored                               plain, login   cram-md5   scram-sha-256
    the password itself, {PLAIN}password yes            yes        yes
    SCRAM-SHA-256$...                    yes            no         yes
    $scrypt$..., $argon2id$...           yes            no         no

Argon2id needs argon2-cffi: `pip install 'qpsmtpd[argon2]'`.

A line that makes no sense is an error at the start. The file is read again when it changes;
a bad line is then logged and counts as absent.

To check a hash takes time and memory, so no more are checked at once than there are
processors. Who has waited for 10 seconds is refused. Where the file has hashes and passwords as they
are, every check takes as long as the longest, so that time tells nothing of a user.

Arguments: the mechanisms to offer, by default `plain login cram-md5`. Leave out cram-md5 where
there are hashes, since a client may insist on it.

Result: OK; DENY (535) for a wrong password; DECLINED for a user that is not in the file, or
whose password is stored in a form that the mechanism cannot use; DENYSOFT after the wait.

In config/plugins:

    auth/auth_flat_file plain login
"""

import hmac
import os
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from qpsmtpd import (
    DECLINED,
    DENY,
    DENYSOFT,
    LOGDEBUG,
    LOGERROR,
    LOGINFO,
    LOGNOTICE,
    LOGWARN,
    OK,
    Plugin,
    Result,
    Site,
    Transaction,
    blocking,
)
from qpsmtpd.config import ConfigError, did_you_mean
from qpsmtpd.passwords import cost, fold, parse_entry, plain_text, scram_verifier, verify, verify_nothing
from qpsmtpd.plugins._lists import Parsed
from qpsmtpd.protocol.sasl import cram_md5
from qpsmtpd.session.effects import CallBlocking, Effect, Pause

_SETTING = "flat_auth_pw"
_DEFAULT = ("plain", "login", "cram-md5")
_FITS: Mapping[str, Callable[[str], bool]] = {
    "cram-md5": lambda stored: plain_text(stored) is not None,
    "scram-sha-256": lambda stored: plain_text(stored) is not None or stored.startswith("SCRAM-"),
}
"""Which stored forms a mechanism can serve, where not all."""
_WAIT = 10.0  # seconds
_LOOK = 0.2  # seconds between two looks whether it is one's turn


class AuthFlatFile(Plugin):
    """Knows users by a file: config/flat_auth_pw."""

    def register(self, qp: Site, *mechanisms: str) -> None:
        """Offer these mechanisms, and read the file."""
        hooks: Mapping[str, Callable[..., object]] = {
            "plain": self.check_password,
            "login": self.check_password,
            "cram-md5": self.check_digest,
            "scram-sha-256": self.give_verifier,
        }
        self._offered = tuple(dict.fromkeys(word.lower() for word in mechanisms or _DEFAULT))
        for word in self._offered:
            if word not in hooks:
                raise ValueError(f"there is no mechanism {word!r} here{did_you_mean(word, hooks)}")
            self.register_hook(f"auth-{word}", hooks[word])
        self._checking = 0
        self._most = os.cpu_count() or 1
        self._timeout = qp.number("timeouthook")
        self._loading = True
        self._users = Parsed(self, _SETTING, self._read)
        if not self._users().entries:
            self.log(LOGNOTICE, f"nobody can authenticate yet: config/{_SETTING} is empty")
        self._loading = False

    def check_password(  # noqa: PLR0917 - a hook's arguments
        self, transaction: Transaction, mechanism: str, user: str, password: str, digest: None, ticket: None
    ) -> Generator[Effect, object, Result]:
        """Serve auth-plain and auth-login."""
        users = self._users()
        stored = users.entries.get(fold(user))
        waited = 0.0
        while self._checking >= self._most:  # a pause takes no thread: those are for others' mail meanwhile
            if waited >= _WAIT:
                self.log(LOGNOTICE, f"error, {user}: too many passwords are being checked")
                return DENYSOFT, "too many try to authenticate, please try again later"
            yield Pause(_LOOK)
            waited += _LOOK
        self._checking += 1
        try:
            right = yield CallBlocking(partial(_check, stored, password, users.likeness), self._timeout)
        finally:
            self._checking -= 1
        return self._unknown(user) if stored is None else self._judged(user, mechanism, right=right is True)

    def check_digest(  # noqa: PLR0917 - a hook's arguments
        self, transaction: Transaction, mechanism: str, user: str, password: None, digest: str, ticket: str
    ) -> Result:
        """Serve auth-cram-md5."""
        stored = self._users().entries.get(fold(user))
        clear = None if stored is None else plain_text(stored)
        expected = cram_md5(clear or "", ticket)
        right = hmac.compare_digest(expected.encode(), digest.encode("utf-8", "surrogateescape"))
        if stored is None:
            return self._unknown(user)
        if clear is None:
            self.log(LOGNOTICE, f"skip, {user}: {mechanism} needs the password itself, but a hash of it is stored")
            return DECLINED
        return self._judged(user, mechanism, right=right)

    @blocking
    def give_verifier(self, transaction: Transaction, mechanism: str, user: str) -> Result:
        """Serve auth-scram-sha-256."""
        users, name = self._users(), fold(user)
        stored = users.entries.get(name)
        if stored is None:
            return self._unknown(user)
        if name not in users.verifiers:
            # PBKDF2 once for each user and version of the file, and the same salt each time, as
            # stored verifiers have it: a client may keep what it has made of it.
            salt = hmac.digest(self.qp.secret, f"auth_flat_file {name}".encode("utf-8", "surrogateescape"), "sha256")
            try:
                made = scram_verifier(stored, salt[:16])
            except ValueError as error:
                self.log(LOGNOTICE, f"skip, {user}: {error}")
                return DECLINED
            users.verifiers[name] = "" if made is None else str(made)
        if not users.verifiers[name]:
            self.log(LOGNOTICE, f"skip, {user}: {mechanism} cannot use the hash that is stored")
            return DECLINED
        self.log(LOGDEBUG, f"pass, {user} is known; {mechanism} goes on")
        return OK, users.verifiers[name]

    def _judged(self, user: str, mechanism: str, *, right: bool) -> Result:
        if right:
            self.log(LOGINFO, f"pass, {user} by {mechanism}")
            return OK
        self.log(LOGINFO, f"fail, {user} by {mechanism}: wrong password")
        return DENY  # without a text, so that the reply is that for an unknown user

    def _unknown(self, user: str) -> Result:
        self.log(LOGINFO, f"fail, {user}: no such user")
        return DECLINED

    def _read(self, values: tuple[str, ...]) -> "_Users":
        entries: dict[str, str] = {}
        for value, place in zip(values, self._places_of(values), strict=True):
            try:
                user, stored = parse_entry(value)
            except (ValueError, ConfigError) as error:
                if self._loading:
                    raise ConfigError(f"{place}: {error}") from None
                self.log(LOGERROR, f"error, {place}: {error}; this line counts as absent")
                continue
            if entries.setdefault(fold(user), stored) != stored:
                self.log(LOGNOTICE, f"{place}: {user} has an earlier line, which counts")
        unfit = [word for word in self._offered if word in _FITS and not all(map(_FITS[word], entries.values()))]
        if unfit:
            words = " and ".join(unfit)
            self.log(
                LOGWARN, f"{words} cannot serve users with a hash; leave {words} out of the line, if there are such"
            )
        return _Users(entries, max(entries.values(), key=cost, default=""))

    def _places_of(self, values: tuple[str, ...]) -> Sequence[str]:
        """Where the values are written; those of a plugin are counted."""
        lines = self.qp.settings.lines(_SETTING)
        if tuple(line.text for line in lines) == values:
            return [line.where for line in lines]
        return [f"config/{_SETTING}, value {number}" for number in range(1, len(values) + 1)]


def _check(stored: str | None, password: str, likeness: str) -> bool:
    """Whether a password is right; it takes as long for every user, and for none."""
    right = stored is not None and verify(stored, password)
    if stored is None or cost(stored) < cost(likeness):
        verify_nothing(password, likeness)
    return right


@dataclass(frozen=True, slots=True)
class _Users:
    entries: Mapping[str, str] = field(repr=False)
    likeness: str = field(repr=False)
    """The entry that takes longest to verify: an unknown user is to take as long."""
    verifiers: dict[str, str] = field(default_factory=dict[str, str], repr=False)
    """For SCRAM, of the users who have asked for it; empty for a hash that cannot serve."""
