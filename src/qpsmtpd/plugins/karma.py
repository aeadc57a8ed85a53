"""Remembers how clients have behaved, and keeps those out for some days that have behaved badly.

Plugins count good and bad signs of a connection in its note `karma` (`self.adjust_karma(-1)`). A connection
that ends with `strikes` or more above zero was a nice one, with as many below zero a naughty one. Whose
naughty connections outweigh the nice ones is in the penalty box: for `penalty_days` it is refused.

This plugin adds signs itself:
- a blank between the colon and the path of MAIL or RCPT (`MAIL FROM: <a@b>`), or no brackets: -2,
- the top-level domain of the sender, if `config/karma_tlds` has it: a line `info:-4` lowers karma by 4, `fr:+1`
  raises it by 1,
- more than 10 nice connections above the naughty ones: +1.

A client whose history and whose karma are not above zero may name one recipient in a mail; further ones are
refused with DENY, whatever `reject` says. One whose karma is below -4 is refused at DATA, or behind the message.

Relay clients and whitelisted clients are spared all but the signs.

Arguments, in pairs:
- `strikes` (3): see above.
- `negative` (1): how far the naughty connections have to outweigh the nice ones, the present one included.
- `penalty_days` (1): how long the penalty is, also a part of a day such as 0.5.
- `count_naughty` (0): 1 counts naughty connections. Without it, as in qpsmtpd 1.00, they are not counted,
  so that each stands for itself: a `negative` above 1 then lets everybody in, and one nice connection makes
  up for all naughty ones to come. With it, who has never been nice and falls below -5 gets a day more for
  each further one.
- `reject`: 1 or connect refuse at once; 0 only logs; naughty (the default) leaves it to the plugin `naughty`.
- `reject_type`: disconnect (the default), perm, soft or temp_disconnect.
- `db_dir`: a directory to remember in; without it that is done where `config/store` says.
- `nfslock` is taken and means nothing here.

A client is forgotten 90 days after its last connection with a karma.

On the command line, for people:

    qpsmtpd karma list                   all clients
    qpsmtpd karma search WHAT            those that are naughty, nice, both or none, or one address
    qpsmtpd karma capture ADDRESS        into the penalty box
    qpsmtpd karma release ADDRESS        and out of it; its naughty connections are forgiven
    qpsmtpd karma prune [DAYS]           forget those not seen for so many days (7)

Notes: the connection's `karma`, 0 at the start, and `karma_history`, the nice connections less the naughty
ones, if there are any.

Result: DECLINED, or a refusal as said. If the store cannot be read or written, clients are let in, and the
log says `error, ...`.

In config/plugins, before the plugins that take time:

    karma penalty_days 2 reject connect
"""

import ipaddress
import math
import time
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from qpsmtpd import (
    DECLINED,
    DENY,
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
from qpsmtpd.plugins._clients import network_of
from qpsmtpd.plugins._lists import parse_each
from qpsmtpd.plugins._options import flag
from qpsmtpd.store import StoreError

_DAY = 86400.0
_KEPT = 90 * _DAY
_VERY_BAD = -4
_VERY_GOOD = 10
_NEVER_NICE = -5


class Karma(Plugin):
    """Remembers how clients have behaved, and keeps those out for some days that have behaved badly."""

    def register(self, qp: Site, *args: str) -> None:
        """Read the arguments."""
        known = ("strikes", "negative", "penalty_days", "count_naughty", "db_dir", "nfslock")
        options = self.options(args, *known)
        for name, default in (("reject", "naughty"), ("reject_type", "disconnect")):
            if name not in options:
                self.options((name, default))
        self._strikes = int(_above_zero(options, "strikes", "3"))
        self._negative = int(_above_zero(options, "negative", "1"))
        self._penalty = _above_zero(options, "penalty_days", "1") * _DAY
        self._counts_naughty = flag(options, "count_naughty")
        if "nfslock" in options:
            self.log(LOGWARN, "the argument nfslock means nothing here")
        self._domains = parse_each(self, "karma_tlds", _parse_domain)
        self._domains()  # what is wrong in the file should be in the log from the start
        self._store = qp.store("karma", options.get("db_dir", ""))

    # The hooks

    @blocking
    def hook_connect(self, transaction: Transaction) -> Result:
        """Refuse a client in the penalty box."""
        self.connection.notes["karma"] = 0
        if self.is_immune() or not (key := self._key()):
            return DECLINED
        try:
            return self._meet(key)
        except StoreError as error:
            self.log(LOGERROR, f"error, {error}")
            return DECLINED

    def _meet(self, key: str) -> Result:
        """Judge a client by its record. Raises StoreError."""
        entry = self._store.get(key)
        if entry is None:
            self.log(LOGINFO, "pass, no record")
            return DECLINED
        record = Record.read(entry)
        self._tell_history(record)
        if not record.penalty:
            self.log(LOGINFO, f"pass, no penalty ({record})")
            return DECLINED
        left = self._penalty - (self.qp.wall() - record.penalty)
        if left <= 0:
            self.log(LOGINFO, f"pass, penalty expired ({record})")
            return DECLINED
        self._store.update(key, partial(_count_visit, self.qp.wall()), _KEPT)
        text = f"your host has misbehaved; come again in {left / _DAY:.2f} days"
        return self.get_reject(text, str(record))

    def _tell_history(self, record: "Record") -> None:
        if record.naughty or record.nice:
            self.connection.notes["karma_history"] = record.history
            if record.history > _VERY_GOOD:
                self.adjust_karma(1)

    def hook_mail(self, transaction: Transaction, sender: Mailbox, parameters: Parameters) -> Result:
        """Look at the form of the command, and at the sender's domain."""
        self._look_at_form("FROM:<")
        host = f".{sender.domain or ''}".lower()
        for domain, karma in dict(self._domains()).items():
            if host.endswith(f".{domain}") and len(host) > len(domain) + 1:
                self.log(LOGINFO, f"the sender is in .{domain}")
                self.adjust_karma(karma)
        return DECLINED

    def hook_rcpt(self, transaction: Transaction, recipient: Mailbox, parameters: Parameters) -> Result:
        """Look at the form of the command; one recipient is enough for strangers."""
        self._look_at_form("TO:<")
        if self.is_immune() or not transaction.has_recipients:
            return DECLINED
        history, karma = self._number("karma_history"), self._number("karma")
        if history > 0 or karma > 0:
            self.log(LOGINFO, f"pass, good {'history' if history > 0 else 'connection'}")
            return DECLINED
        self.log(LOGINFO, f"fail, too many recipients for karma {karma}, history {history}")
        return DENY, "too many recipients from a host that is not known to behave"

    def hook_data(self, transaction: Transaction) -> Result:
        """Refuse a client that has misbehaved before it sends the message."""
        return self._refuse_the_worst()

    def hook_data_post(self, transaction: Transaction) -> Result:
        """Refuse a client that has misbehaved meanwhile."""
        return self._refuse_the_worst()

    def _refuse_the_worst(self) -> Result:
        if self.is_immune():
            return DECLINED
        karma = self._number("karma")
        return self.get_reject("your host misbehaves", f"karma {karma}") if karma < _VERY_BAD else DECLINED

    @blocking
    def hook_disconnect(self, transaction: Transaction) -> Result:
        """Remember how the client has behaved."""
        karma = self._number("karma")
        key = self._key()
        if not karma or not key:
            self.log(LOGDEBUG, "skip, no karma")
            return DECLINED
        try:
            what = self._store.update(key, partial(self._judge, karma), _KEPT)
        except StoreError as error:
            self.log(LOGERROR, f"error, {error}")
        else:
            self.log(LOGINFO, what)
        return DECLINED

    def _judge(self, karma: int, entry: bytes | None) -> tuple[bytes, str]:
        """What to remember of a client behind a connection, and how to call it."""
        now = self.qp.wall()
        record = Record.read(entry).seen_at(now)
        history = record.history
        if karma >= self._strikes:
            record, what = replace(record, nice=record.nice + 1), "positive"
        elif karma > -self._strikes:
            what = "neutral"
        else:
            history, what = history - 1, "negative"
            if self._counts_naughty:
                record = replace(record, naughty=record.naughty + 1)
            if history <= -self._negative:
                extra = -history if not record.nice and history < _NEVER_NICE else 0
                record, what = replace(record, penalty=now + extra * _DAY), "negative, sent to the penalty box"
        return record.entry, f"{what} (karma {karma}, history {history})"

    def _look_at_form(self, wanted: str) -> None:
        said = self.qp.session.path_argument
        if not said.upper().startswith(wanted):
            self.log(LOGINFO, f"not the form of an envelope address: {said!r}")
            self.adjust_karma(-2)

    def _number(self, note: str) -> int:
        value = self.connection.notes.get(note)
        return value if isinstance(value, int) else 0

    def _key(self) -> str:
        key = network_of(self.connection.remote_ip)
        if not key:
            self.log(LOGINFO, "skip, no address")
        return key

    # The command line

    def command(self, parser: ArgumentParser) -> None:
        """`qpsmtpd karma`."""
        actions = parser.add_subparsers(required=True, metavar="ACTION")
        actions.add_parser("list", help="all clients").set_defaults(run=self._list, what="all")
        search = actions.add_parser("search", help="some of them")
        search.add_argument("what", metavar="WHAT", help=f"{', '.join(_KINDS)}, or an address", type=_kind_or_address)
        search.set_defaults(run=self._list)
        for name, run, help_ in (
            ("capture", self._capture, "put a client into the penalty box"),
            ("release", self._release, "let a client out of the penalty box"),
        ):
            action = actions.add_parser(name, help=help_)
            action.add_argument("address", metavar="ADDRESS", type=_address)
            action.set_defaults(run=run)
        prune = actions.add_parser("prune", help="forget clients that have not been seen for long")
        prune.add_argument("days", metavar="DAYS", type=float, nargs="?", default=7.0, help="how long (default: 7)")
        prune.set_defaults(run=self._prune)

    def _list(self, options: Namespace) -> Iterable[str]:
        wanted = _KINDS.get(options.what)
        clients = ((address, Record.read(entry)) for address, entry in self._store.items())
        found = [
            (address, record)
            for address, record in clients
            if (wanted(record) if wanted is not None else address == options.what)
        ]
        yield f"{'address':39} {'penalty since':16} {'naughty':>7} {'nice':>5} {'visits':>6}"
        for address, record in sorted(found, key=lambda client: _order(client[0])):
            since = time.strftime("%Y-%m-%d %H:%M", time.localtime(record.penalty)) if record.penalty else ""
            yield f"{address:39} {since:16} {record.naughty:7} {record.nice:5} {record.connects:6}"
        totals = [sum(column) for column in zip(*((r.naughty, r.nice, r.connects) for _, r in found), strict=True)]
        naughty, nice, connects = totals or (0, 0, 0)
        yield f"{f'{len(found)} clients':56} {naughty:7} {nice:5} {connects:6}"

    def _capture(self, options: Namespace) -> Iterable[str]:
        now = self.qp.wall()

        def captured(entry: bytes | None) -> tuple[bytes, None]:
            record = Record.read(entry).noted_at(now)
            return replace(record, penalty=now, naughty=record.naughty + 1).entry, None

        self._store.update(options.address, captured, _KEPT)
        yield f"{options.address} is in the penalty box"

    def _release(self, options: Namespace) -> Iterable[str]:
        def released(entry: bytes | None) -> tuple[bytes | None, bool]:
            return (None, False) if entry is None else (replace(Record.read(entry), penalty=0, naughty=0).entry, True)

        known = self._store.update(options.address, released, _KEPT)
        yield f"{options.address} is {'released' if known else 'not known'}"

    def _prune(self, options: Namespace) -> Iterable[str]:
        clients = list(self._store.items())
        oldest = self.qp.wall() - options.days * _DAY
        old = [address for address, entry in clients if Record.read(entry).seen <= oldest]
        for address in old:
            self._store.delete(address)
        yield f"{len(old)} of {len(clients)} clients forgotten"


@dataclass(frozen=True, slots=True)
class Record:
    """What is remembered of a client. Times are in seconds since the epoch."""

    penalty: float = 0.0
    """When its penalty began; 0 if it has none. It may be in the future, which makes the penalty longer."""
    naughty: int = 0
    nice: int = 0
    connects: int = 0
    seen: float = 0.0
    """When something was last noted of it."""

    @classmethod
    def read(cls, entry: bytes | None) -> "Record":
        """Read what `entry` has written; an empty record for what makes no sense."""
        try:
            penalty, naughty, nice, connects, seen = (entry or b"0:0:0:0:0").split(b":")
            return cls(_time(penalty), int(naughty), int(nice), int(connects), _time(seen))
        except ValueError:
            return cls()

    @property
    def entry(self) -> bytes:
        """The record as it is kept."""
        return f"{self.penalty:.3f}:{self.naughty}:{self.nice}:{self.connects}:{self.seen:.3f}".encode()

    @property
    def history(self) -> int:
        """How far the nice connections outweigh the naughty ones."""
        return self.nice - self.naughty

    def noted_at(self, now: float) -> "Record":
        """The same with another time."""
        return replace(self, seen=now)

    def seen_at(self, now: float) -> "Record":
        """The same with one connection more."""
        return replace(self, seen=now, connects=self.connects + 1)

    def __str__(self) -> str:
        return f"{self.naughty} naughty, {self.nice} nice, {self.connects} connects"


_KINDS: Mapping[str, Callable[[Record], bool]] = {
    "all": lambda _: True,
    "naughty": lambda record: record.naughty > 0,
    "nice": lambda record: record.nice > 0,
    "both": lambda record: record.naughty > 0 and record.nice > 0,
    "none": lambda record: not record.naughty and not record.nice,
}


def _count_visit(now: float, entry: bytes | None) -> tuple[bytes, None]:
    return Record.read(entry).seen_at(now).entry, None


def _time(octets: bytes) -> float:
    seconds = float(octets)
    if not math.isfinite(seconds):
        raise ValueError("no time")
    return seconds


def _parse_domain(line: str) -> tuple[str, int]:
    """Read `info:-4`. Raises ValueError."""
    domain, _, karma = line.replace(" ", "").partition(":")
    if not domain:
        raise ValueError("not a domain, a colon and a number")
    return domain.lower().removeprefix("."), int(karma)


def _above_zero(options: Mapping[str, str], name: str, default: str) -> float:
    text = options.get(name, default)
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < math.inf:
        raise ValueError(f"{name} {text!r} is no number above 0")
    return number


def _address(text: str) -> str:
    address = network_of(text)
    if not address:
        raise ArgumentTypeError(f"{text!r} is no address")
    return address


def _kind_or_address(text: str) -> str:
    if text in _KINDS:
        return text
    try:
        return _address(text)
    except ArgumentTypeError:
        raise ArgumentTypeError(f"{text!r} is neither an address nor one of {', '.join(_KINDS)}") from None


def _order(address: str) -> tuple[int, int]:
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return 0, 0
    return ip.version, int(ip)
