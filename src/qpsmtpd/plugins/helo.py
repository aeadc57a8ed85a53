r"""Refuses clients by the name they give in HELO or EHLO, and notes it in the message.

How much is checked is for the argument `policy` to say:
- `lenient`, the default: a name in `config/badhelo`; `localhost` from anywhere else; an IP
  address without brackets.
- `rfc`: also a name that is not fully qualified or cannot be a host name; a name without an
  address in the DNS; a client whose IP address has no name. An address literal in brackets
  needs the last only. Windows sends short names: people who use this server to send mail
  need `reject 0` or `reject naughty`.
- `strict`: also any address literal; a name that does not lead to the client's address or
  network (the same /24 of IPv4, /64 of IPv6), while no name of the address is the same or
  has the same last two labels. RFC 5321 section 4.1.4 forbids to refuse mail for that alone:
  try it with `reject 0`.

A line of `config/badhelo` is a name, or a regular expression (Python's) if it holds one of
`{ } [ ] ( ) ^ $ | * + ? \ !`. An expression matches anywhere in the name, which is in lower
case by then; with a `!` before it, where it does not match. Where there is one, a name of more than
255 characters, which no host has, fails: some expressions take minutes over it.

    yahoo.com
    ^dsl-.*\.example\.net$
    !\.

At data_post the field X-HELO with the name is put on top, in place of any the client has sent.

Further arguments:
- `reject`: 1 (the default); 0 only logs; `naughty` leaves the refusal to the plugin naughty.
- `reject_type`: disconnect (the default), perm, soft or temp_disconnect.
- `timeout`: seconds for a look-up; by default, and at most, those of `config/timeoutdns`.

Notes: with `rfc` and `strict` the connection's `helo_forward_match` and `helo_reverse_match`
are True where name and address match as above. Its karma falls by 1 for a name that fails,
and with `strict` rises by 1 if both match.

Result: DECLINED, or what `reject_type` says: DENY_DISCONNECT (550) by default. If nobody can
say now what is in the DNS, that is logged, and passes. Relay clients and whitelisted clients
are not checked.

`rfc` and `strict` need dnspython: `pip install 'qpsmtpd[dns]'`.

In config/plugins:

    helo policy rfc reject naughty
"""

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from qpsmtpd import DECLINED, LOGDEBUG, LOGINFO, LOGWARN, Plugin, Result, Site, Transaction
from qpsmtpd.plugins._dns import look_ups, same_network
from qpsmtpd.plugins._lists import parse_each
from qpsmtpd.plugins._options import with_defaults
from qpsmtpd.session.connection import plain_address

_POLICIES = ("lenient", "rfc", "strict")
_FORWARD, _REVERSE = "helo_forward_match", "helo_reverse_match"
_FIELD = "X-HELO"
_LONGEST = 255
_META = re.compile(r"[{}\[\]()^$|*+?\\!]")  # what makes a line an expression, in the original too
_NO_NAME = re.compile(r"[^A-Za-z0-9.-]")
_UNSAFE = re.compile(r"[^!-~]")

_Failure = tuple[str, str] | None
"""What to tell the client whose name fails, and what the log."""


@dataclass(frozen=True, slots=True)
class _BadName:
    """A line of `config/badhelo`."""

    text: str
    expression: re.Pattern[str] | None
    negated: bool

    def matches(self, name: str) -> bool:
        """Whether it means this name, which is in lower case."""
        if name == self.text.lower():
            return True
        return self.expression is not None and (self.expression.search(name) is None) is self.negated


def _parse_bad_name(line: str) -> _BadName:
    """Raises ValueError for a bad expression."""
    if not _META.search(line):
        return _BadName(line, None, negated=False)
    try:
        return _BadName(line, re.compile(line.removeprefix("!")), line.startswith("!"))
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"bad regular expression: {error}") from error


class Helo(Plugin):
    """Refuses clients by the name they give in HELO or EHLO, and notes it in the message."""

    def register(self, qp: Site, *args: str) -> None:
        """Read the arguments. Raises ValueError."""
        options = self.options(args, "policy", "timeout")
        with_defaults(self, options, reject_type="disconnect")
        self._policy = options.get("policy", "lenient").lower()
        if self._policy not in _POLICIES:
            raise ValueError(f"policy {self._policy!r} is none of {', '.join(_POLICIES)}")
        self._bad_names = parse_each(self, "badhelo", _parse_bad_name)
        self._bad_names()  # what is wrong in the file should be in the log from the start
        if self._policy != "lenient":
            self._resolver = look_ups(self, options)
        for hook in ("helo", "ehlo"):
            self.register_hook(hook, self.check if self._policy == "lenient" else self.check_in_dns)

    def check(self, transaction: Transaction, host: str, *words: str) -> Result:
        """Serve the hooks of a lenient policy."""
        return DECLINED if self._is_excused(host) else self._result(self._by_name(host))

    async def check_in_dns(self, transaction: Transaction, host: str, *words: str) -> Result:
        """Serve the hooks of the other policies."""
        if self._is_excused(host):
            return DECLINED
        return self._result(self._by_name(host) or _not_fully_qualified(host) or await self._by_dns(host))

    def hook_data_post(self, transaction: Transaction) -> Result:
        transaction.header.delete(_FIELD)
        name = self.connection.hello_host
        if name:
            transaction.header.add(_FIELD, _UNSAFE.sub("?", name)[:_LONGEST], 0)
        return DECLINED

    def _is_excused(self, host: str) -> bool:
        if not host:
            self.adjust_karma(-2)
            self.log(LOGINFO, "fail, tolerated, no helo host")
            return True
        return self.is_immune()

    def _result(self, failure: _Failure) -> Result:
        if failure is None:
            self.log(LOGINFO, "pass")
            return DECLINED
        self.adjust_karma(-1)
        return self.get_reject(*failure)

    def _by_name(self, host: str) -> _Failure:
        name = host.lower()
        for bad in self._bad_names():
            if bad.expression is not None and len(name) > _LONGEST:  # some expressions take minutes over it
                return "The name in HELO is too long (RFC 1035)", f"a name of {len(name)} characters"
            if bad.matches(name):
                return "You are not who you say you are", f"in badhelo: {bad.text}"
        if name == "localhost" and not self.is_localhost(self.connection.remote_ip):
            return "You are not localhost", "invalid localhost"
        if self.is_valid_ip(host):
            return "An IP address needs brackets in HELO (RFC 5321 section 4.1.3)", "plain IP"
        return None

    async def _by_dns(self, host: str) -> _Failure:
        notes = self.connection.notes
        notes.pop(_FORWARD, None)  # of an earlier EHLO
        notes.pop(_REVERSE, None)
        is_literal = _is_literal(host)
        questions = [(host, "A"), (host, "AAAA"), (_pointer(self.connection.remote_ip), "PTR")]
        *addresses, names = await self._resolver().look_up_all(questions[2 if is_literal else 0 :])
        return (
            (None if is_literal else self._forward(addresses))
            or self._reverse(names, host)
            or (
                self._strict(is_literal=is_literal, doubt=None in (names, *addresses))
                if self._policy == "strict"
                else None
            )
        )

    def _forward(self, answers: Sequence[tuple[str, ...] | None]) -> _Failure:
        """Judge the addresses of the name, A and AAAA."""
        addresses = list(chain.from_iterable(answer or () for answer in answers))
        if not addresses and None in answers:
            self.log(LOGWARN, "error, no name server can tell the addresses of the name")
            return None
        if not addresses:
            return "The name in HELO has no address in the DNS", "no such host"
        client = plain_address(self.connection.remote_ip)
        if self.is_valid_ip(client) and any(same_network(client, address) for address in addresses):
            self.connection.notes[_FORWARD] = True
        return None

    def _reverse(self, names: tuple[str, ...] | None, host: str) -> _Failure:
        """Judge the names of the client's address."""
        address = self.connection.remote_ip
        if names is None:
            self.log(LOGWARN, f"error, no name server can tell the names of {address}")
            return None
        if not names:
            return f"{address} has no name in the DNS", "no rDNS"
        if any(_same_domain(name, host) for name in names):
            self.connection.notes[_REVERSE] = True
        return None

    def _strict(self, *, is_literal: bool, doubt: bool) -> _Failure:
        if is_literal:
            return "An address literal in HELO is not taken here", "bracketed IP"
        matches = [name for name in (_FORWARD, _REVERSE) if self.connection.notes.get(name)]
        if not matches and doubt:
            return None  # what nobody could tell may match
        if not matches:
            return "The name in HELO and your address do not match in the DNS", "no matching DNS"
        if len(matches) == 2:
            self.adjust_karma(1)
        self.log(LOGDEBUG, f"{' and '.join(matches)}")
        return None


def _is_literal(host: str) -> bool:
    """Whether this is an address literal (RFC 5321 section 4.1.3)."""
    if not (host.startswith("[") and host.endswith("]")):
        return False
    text = host[1:-1]
    try:
        if text[:5].lower() == "ipv6:":
            ipaddress.IPv6Address(text[5:])
        else:
            ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return True


def _not_fully_qualified(host: str) -> _Failure:
    if _is_literal(host):
        return None
    if "." not in host:
        return "The name in HELO is not fully qualified (RFC 5321 section 2.3.5)", "not FQDN"
    if _NO_NAME.search(host):
        return "The name in HELO cannot be a host name (RFC 1035)", "invalid FQDN chars"
    return None


def _pointer(address: str) -> str:
    """Where the names of an address are in the DNS; nowhere for what is none."""
    try:
        return ipaddress.ip_address(plain_address(address)).reverse_pointer
    except ValueError:
        return ""


def _same_domain(name: str, host: str) -> bool:
    """Whether two host names are the same, or have the same last two labels."""
    labels = name.lower().rstrip(".").split(".")
    return len(labels) >= 2 and labels[-2:] == host.lower().rstrip(".").split(".")[-2:]
