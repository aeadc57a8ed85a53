"""Tells clients that have not been here before to come again later; spammers seldom do.

What comes again is known by the address of the client, and with the arguments `sender` and `recipient` by
the addresses of the mail as well. At first it is refused for now. Behind `black_timeout` it is let in; if
that is before `grey_timeout`, it is remembered, and let in for as long as no more than `white_timeout` lies
between two visits. What comes between `grey_timeout` and `white_timeout` for the second time is let in, but
not remembered.

Relay clients, whitelisted clients and senders, and clients that use TLS are let in at once.

Arguments, in pairs; times are in seconds, and a switch is 0 or 1:
- `remote_ip` (1), `sender` (0), `recipient` (0): what is looked at; at least one is needed.
- `ipv6_prefix` (128): how many bits of an IPv6 address count. Senders with many addresses have them in one
  network, which is mostly of 64 bits.
- `black_timeout` (3000, 50 minutes), `grey_timeout` (12000), `white_timeout` (3110400, 36 days).
- `deny_late` (0): refuse at DATA and not at MAIL, so that the log shows the recipients.
- `reject 0`: remember, but refuse nobody; for the first week. `mode testonly` and `mode off` mean the same.
- `p0f`: only clients that the plugin `ident/p0f` has found to be like this; one match is enough.
  `genre,windows,distance,3` means: a system whose name matches `windows`, or more than 3 hops away. There
  are `genre` and `link`, regular expressions; `distance`, above the number; `uptime`, below it.
- `geoip`: countries whose clients are let in at once, such as `US,CH`; `ident/geoip` finds them.
- `per_recipient` (0): settings for each recipient, see below. `per_recipient_db 1` is the same as `recipient 1`.
- `db_dir`: a directory to remember in; without it that is done where `config/store` says.
- `nfslock` and `upgrade` are taken and mean nothing here.

`config/denysoft_greylist` may hold the same, a name and a value in each line; arguments go before it. With
`per_recipient 1` the recipient's own file of this name, if a plugin such as `user_config` finds one, goes
before both. Changes of the former are seen at the next start.

With `recipient` or `per_recipient` the answer comes at RCPT, else at MAIL. Bounces (an empty sender) are
refused at DATA then, since some servers check addresses so. Nobody is refused at DATA if the plugin
`whitelist` knows all the recipients (the transaction's note `whitelistrcpt` counts them).

Notes: the transaction's `greylist` holds the refusal that is to come at DATA.

Result: DECLINED or DENYSOFT (450, at DATA 451). If the store cannot be read or written, clients are let in,
and the log says `error, ...`.

In config/plugins, behind the plugins that whitelist and before rcpt_ok:

    greylisting recipient 1 sender 1 ipv6_prefix 64
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

from qpsmtpd import (
    DECLINED,
    DENYSOFT,
    LOGDEBUG,
    LOGERROR,
    LOGINFO,
    LOGWARN,
    Mailbox,
    Parameters,
    Plugin,
    Result,
    Site,
    Transaction,
    blocking,
)
from qpsmtpd.plugins._clients import network_of, prefix_length
from qpsmtpd.plugins._options import flag, seconds
from qpsmtpd.store import StoreError

_FILE = "denysoft_greylist"
_NOTE = "greylist"
_REFUSAL = "we do not know you yet, please try again later"
_ARGUMENTS = (
    "remote_ip", "sender", "recipient", "per_recipient", "per_recipient_db", "ipv6_prefix", "black_timeout",
    "grey_timeout", "white_timeout", "deny_late", "reject", "mode", "p0f", "geoip", "db_dir",
)  # fmt: skip
_MEANINGLESS = ("nfslock", "upgrade")

_Match = Callable[[str], bool]


class Greylisting(Plugin):
    """Tells clients that have not been here before to come again later; spammers seldom do."""

    shared_arguments = ("reject", "loglevel")

    def register(self, qp: Site, *args: str) -> None:
        """Read the arguments and the file, and serve MAIL or RCPT."""
        given = self.options(args, *_ARGUMENTS, *_MEANINGLESS)
        for name in _MEANINGLESS:
            if name in given:
                self.log(LOGWARN, f"the argument {name} means nothing here")
        self._words = {**_pairs(qp.config(_FILE)), **given}
        self._policy = Policy.read(self._words)
        self._per_recipient = flag(self._words, "per_recipient")
        self._deny_late = flag(self._words, "deny_late")
        self._complaints: set[tuple[str, ...]] = set()
        self._store = qp.store("greylisting", self._words.get("db_dir", ""))
        if self._policy.recipient or self._per_recipient:
            self.register_hook("rcpt", self.judge_recipient)
        else:
            self.register_hook("mail", self.judge_sender)

    @blocking
    def judge_sender(self, transaction: Transaction, sender: Mailbox, parameters: Parameters) -> Result:
        """Serve the hook mail."""
        return self._refuse(transaction, late=self._deny_late) if self._is_unknown(self._policy, sender) else DECLINED

    @blocking
    def judge_recipient(self, transaction: Transaction, recipient: Mailbox, parameters: Parameters) -> Result:
        """Serve the hook rcpt."""
        sender = transaction.reverse_path
        unknown = self._is_unknown(self._policy_for(recipient), sender, recipient)
        return self._refuse(transaction, late=not sender) if unknown else DECLINED

    def hook_data(self, transaction: Transaction) -> Result:
        """Refuse what was to be refused late."""
        text = transaction.notes.get(_NOTE)
        if not text:
            return DECLINED
        if (transaction.notes.get("whitelistrcpt") or 0) == len(transaction.recipients):
            self.log(LOGWARN, "skip, all recipients whitelisted")
            return DECLINED
        return DENYSOFT, str(text)

    def _refuse(self, transaction: Transaction, *, late: bool) -> Result:
        if not late:
            return DENYSOFT, _REFUSAL
        transaction.notes[_NOTE] = _REFUSAL
        return DECLINED

    def _policy_for(self, recipient: Mailbox) -> "Policy":
        """What the arguments say, or the recipient's own file."""
        if not self._per_recipient:
            return self._policy
        lines = self.qp.config(_FILE, recipient)
        if lines == self.qp.config(_FILE):
            return self._policy
        try:
            return Policy.read({**self._words, **_pairs(lines)})
        except ValueError as error:
            if lines not in self._complaints and len(self._complaints) < 100:
                self._complaints.add(lines)
                self.log(LOGERROR, f"error, {_FILE} of {recipient.address}: {error}; the arguments hold for it")
            return self._policy

    def _is_unknown(self, policy: "Policy", sender: Mailbox, recipient: Mailbox | None = None) -> bool:
        """Look the triplet up and remember it; whether it is to be refused."""
        if self._is_let_in(policy):
            return False
        key = self._key(policy, sender, recipient)
        try:
            unknown, why = self._store.update(key, lambda old: policy.judge(old, self.qp.wall()), policy.white_timeout)
        except StoreError as error:
            self.log(LOGERROR, f"error, {error}")
            return False
        self.log(LOGWARN if unknown else LOGINFO, why)
        return unknown and policy.reject

    def _is_let_in(self, policy: "Policy") -> bool:
        notes = self.connection.notes
        if self.connection.relay_client:
            why = "relay client"
        elif notes.get("whitelisthost"):
            why = "whitelisted host"
        elif self.transaction.notes.get("whitelistsender"):
            why = "whitelisted sender"
        elif self.connection.security is not None:
            why = "tls"
        elif policy.fingerprint and not _fits(policy.fingerprint, notes.get("p0f")):
            why = "no p0f match"
        elif policy.countries and str(notes.get("geoip_country")).lower() in policy.countries:
            why = f"geoip, {notes.get('geoip_country')}"
        else:
            return False
        self.log(LOGDEBUG if why.startswith("geoip") else LOGINFO, f"skip, {why}")
        return True

    def _key(self, policy: "Policy", sender: Mailbox, recipient: Mailbox | None) -> str:
        ip = self.connection.remote_ip
        parts = [network_of(ip, policy.ipv6_prefix) or ip] if policy.remote_ip else []
        if policy.sender:
            parts.append(sender.address)
        if policy.recipient and recipient is not None:
            parts.append(recipient.address)
        return "\n".join(parts)  # which no address holds


@dataclass(frozen=True, slots=True)
class Policy:
    """Who is told to come again, and when that is late enough."""

    remote_ip: bool
    sender: bool
    recipient: bool
    ipv6_prefix: int
    black_timeout: float
    grey_timeout: float
    white_timeout: float
    reject: bool
    fingerprint: Mapping[str, _Match]
    countries: frozenset[str]

    @classmethod
    def read(cls, words: Mapping[str, str]) -> "Policy":
        """Make it from names and values. Raises ValueError."""
        policy = cls(
            remote_ip=flag(words, "remote_ip", default=True),
            sender=flag(words, "sender"),
            recipient=flag(words, "recipient") or flag(words, "per_recipient_db"),
            ipv6_prefix=prefix_length(words.get("ipv6_prefix", "128")),
            black_timeout=seconds(words, "black_timeout", 50 * 60),
            grey_timeout=seconds(words, "grey_timeout", 200 * 60),
            white_timeout=seconds(words, "white_timeout", 36 * 86400),
            reject=_rejects(words),
            fingerprint=_fingerprint(words.get("p0f", "")),
            countries=frozenset(word.strip().lower() for word in words.get("geoip", "").split(",") if word.strip()),
        )
        if not (policy.remote_ip or policy.sender or policy.recipient):
            raise ValueError("one of remote_ip, sender and recipient is needed")
        return policy

    def judge(self, entry: bytes | None, now: float) -> tuple[bytes | None, tuple[bool, str]]:
        """What to remember, None for what is remembered already; whether this is unknown; and why."""
        since, new, black, white = _read(entry)
        age = now - since
        if not since or age >= self.white_timeout:
            return _entry(now, 1, 0, 0), (True, "fail, unknown")
        if white:
            return _entry(now, new, black, white + 1), (False, f"pass, white, {white + 1} deliveries")
        if age < self.black_timeout:
            return _entry(since, new, black + 1, 0), (True, f"fail, black, {black + 1} deferred")
        if age < self.grey_timeout:
            return _entry(now, new, black, 1), (False, "pass, grey becomes white")
        return None, (False, "pass, timed out (grey)")


def _read(entry: bytes | None) -> tuple[float, int, int, int]:
    """When it was seen, and how often it was new, black and white; zeros for what makes no sense."""
    try:
        since, new, black, white = (entry or b"0:0:0:0").split(b":")
        return float(since), int(new), int(black), int(white)
    except ValueError:
        return 0.0, 0, 0, 0


def _entry(since: float, new: int, black: int, white: int) -> bytes:
    return f"{since:.3f}:{new}:{black}:{white}".encode()


def _pairs(lines: tuple[str, ...]) -> dict[str, str]:
    """The names and values in a file. Raises ValueError for a name that is none."""
    found: dict[str, str] = {}
    for line in lines:
        name, _, value = line.replace("\t", " ").partition(" ")
        if name not in (*_ARGUMENTS, *_MEANINGLESS):
            raise ValueError(f"config/{_FILE}: unknown name {name!r}")
        found[name] = value.strip()
    return found


def _rejects(words: Mapping[str, str]) -> bool:
    """What `reject` says, or its older form `mode`. Raises ValueError."""
    if "reject" in words or "mode" not in words:
        return flag(words, "reject", default=True)
    if words["mode"].lower() not in ("denysoft", "testonly", "off"):
        raise ValueError(f"mode {words['mode']!r} is none of denysoft, testonly, off")
    return words["mode"].lower() == "denysoft"


def _fingerprint(text: str) -> Mapping[str, _Match]:
    """Read `genre,windows,distance,3`. Raises ValueError."""
    words = [word.strip() for word in text.split(",")] if text else []
    if len(words) % 2:
        raise ValueError(f"p0f {text!r} is no list of names and values")
    return {name: _match(name, value) for name, value in zip(words[::2], words[1::2], strict=True)}


def _match(name: str, value: str) -> _Match:
    try:
        if name in ("genre", "link"):
            expression = re.compile(value, re.IGNORECASE)
            return lambda found: expression.search(found) is not None
        if name in ("distance", "uptime"):
            number = float(value)
            return lambda found: float(found) > number if name == "distance" else float(found) < number
    except (re.error, OverflowError, RecursionError, ValueError) as error:
        raise ValueError(f"p0f {name},{value}: {error}") from error
    raise ValueError(f"p0f knows genre, link, distance and uptime, but no {name!r}")


def _fits(wanted: Mapping[str, _Match], found: object) -> bool:
    """Whether one thing that is wanted was found of a client."""
    if not isinstance(found, Mapping):
        return False
    known = cast("Mapping[str, object]", found)
    return any(_matches(match, known.get(name)) for name, match in wanted.items())


def _matches(match: _Match, found: object) -> bool:
    try:
        return found is not None and match(str(found))
    except ValueError:  # no number
        return False
