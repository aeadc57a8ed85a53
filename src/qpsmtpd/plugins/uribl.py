"""Looks for hosts in the text of a message that are in a list in the DNS.

A line of `config/uribl_zones` is a list; which of its entries count (numbers, of which one at
least must share a bit with the address that the list answers; all count by default); and what
to do, in place of the argument `action`:

    multi.example.org   2,8   deny
    dbl.example.net

Of each host in a URI or by itself the registered domain is looked up, as the public suffix
list has it, and up to two longer names of it; of each IP address in a URI the address. The first
256 KiB of the body are read, with quoted-printable, base64, percent signs and HTML entities
undone, and 50 names at most are looked up, all at the same time. An entry is an address within
127.0.0.0/8 (RFC 5782); 127.0.0.1 and 127.255.255.0/24 are none, since lists say so that they
do not serve you. A list that has an entry for the domain `invalid` has one for all, and is
left out.

Further files:
- `config/uribl_whitelist_domains`: domains that are not looked up, nor the hosts in them.
- `config/uribl_twolevel_domains`: domains in which others have theirs, beyond the public
  suffix list.

Arguments:
- `action`: add-header (the default) adds a field X-URIBL-Match, ten at most; deny and denysoft
  refuse the message; log only logs. Mail that quotes spam, a complaint for one, is refused too.
- `check-headers 1` or `scan-headers 1`: the header is read as well.
- `timeout`: seconds for a look-up; by default, and at most, those of `config/timeoutdns`.

Result: DECLINED, DENY (554) or DENYSOFT (451). A list that does not answer is logged, and
counts as one that has no entry.

Needs publicsuffixlist and dnspython: `pip install 'qpsmtpd[dmarc]'`.

In config/plugins:

    uribl action deny
"""

import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice

from anyio import to_thread
from publicsuffixlist import PublicSuffixList

from qpsmtpd import DECLINED, DENY, DENYSOFT, LOGDEBUG, LOGINFO, Plugin, Result, Site, Transaction
from qpsmtpd.plugins._dns import look_ups
from qpsmtpd.plugins._dns_lists import NO_DOMAIN, Listing, find_listings, parse_zone, reasons
from qpsmtpd.plugins._lists import Parsed, parse_each
from qpsmtpd.plugins._uris import Address, find_hosts
from qpsmtpd.resolver import reversed_address

_OCTETS = 262_144  # of a body that are read
_MOST_NAMES = 50
_MOST_LEVELS = 3
_MOST_MATCHES = 10
_ACTIONS = ("deny", "denysoft", "add-header", "log")
_FIELD = "X-URIBL-Match"
_ALL_BITS = 0x00FFFFFF
_REFUSALS = {"deny": DENY, "denysoft": DENYSOFT}


@dataclass(frozen=True, slots=True)
class _List:
    """A line of `config/uribl_zones`."""

    name: str
    mask: int
    action: str

    def has(self, listing: Listing) -> bool:
        """Whether the entry is one that counts."""
        return any(int(ipaddress.IPv4Address(address)) & self.mask for address in listing.addresses)


def _parse_list(line: str, action: str) -> _List:
    """Read `zone`, `zone masks` or `zone masks action`. Raises ValueError."""
    words = line.split()
    name, masks, action = (*words, *("", "0", action)[len(words) :])[:3]
    if action not in _ACTIONS:
        raise ValueError(f"{action!r} is none of {', '.join(_ACTIONS)}")
    mask = 0
    for number in map(int, masks.split(",")):
        mask |= number if number > 0 else _ALL_BITS
    return _List(parse_zone(name).name, mask, action)


class Uribl(Plugin):
    """Looks for hosts in the text of a message that are in a list in the DNS."""

    shared_arguments = ("loglevel",)  # what to do is for `action` to say

    def register(self, qp: Site, *args: str) -> None:
        """Read the arguments. Raises ValueError."""
        options = self.options(args, "action", "timeout", "check-headers", "scan-headers")
        action = options.get("action", "add-header")
        if action not in _ACTIONS:
            raise ValueError(f"action {action!r} is none of {', '.join(_ACTIONS)}")
        self._with_header = options.get("check-headers", options.get("scan-headers", "0")) not in ("", "0")
        self._resolver = look_ups(self, options)
        self._lists = parse_each(self, "uribl_zones", partial(_parse_list, action=action))
        self._spared = Parsed(self, "uribl_whitelist_domains", _domains)
        self._shared = Parsed(self, "uribl_twolevel_domains", _domains)
        self._suffixes = PublicSuffixList(accept_unknown=False)
        self._lists()  # what is wrong in the file should be in the log from the start

    async def hook_data_post(self, transaction: Transaction) -> Result:
        """Read the message in a thread, since that takes a while, and look up what is in it."""
        lists = {each.name: each for each in self._lists()}
        if not lists:
            self.log(LOGDEBUG, "skip, there is no list to ask")
            return DECLINED
        names = await to_thread.run_sync(self._names, transaction)
        if not names:
            self.log(LOGINFO, "pass, no URIs")
            return DECLINED
        listings = await find_listings(self, self._resolver(), list(names), lists, NO_DOMAIN)
        matches = [listing for listing in listings if lists[listing.zone].has(listing)]
        if not matches:
            self.log(LOGINFO, f"pass, {len(names)} names are in no list")
            return DECLINED
        matches.sort(key=lambda listing: _ACTIONS.index(lists[listing.zone].action))
        texts = await reasons(self._resolver(), matches[:_MOST_MATCHES])
        results = [
            self._act(lists[match.zone].action, f"{names[match.name]} in {match.zone}: {text or match.addresses[0]}")
            for match, text in zip(matches, texts, strict=False)
        ]
        return results[0]

    def _act(self, action: str, text: str) -> Result:
        """Do what is to be done about a match."""
        self.log(LOGINFO, f"fail, {action}, {text}")
        if action == "add-header":
            self.transaction.header.add(_FIELD, text)
        return (_REFUSALS[action], text) if action in _REFUSALS else DECLINED

    def _names(self, transaction: Transaction) -> Mapping[str, str]:
        """What to look up, each with how it is shown."""
        with transaction.body_file() as body:
            content = body.read(_OCTETS)
        if self._with_header:
            content = bytes(transaction.header) + content
        return dict(islice(self._different(content), _MOST_NAMES))

    def _different(self, content: bytes) -> Iterator[tuple[str, str]]:
        spared, shared = self._spared(), self._shared()
        seen: set[str | Address] = set()
        for host in find_hosts(content):
            if host in seen:
                continue
            seen.add(host)
            if not isinstance(host, str):
                yield reversed_address(f"{host}"), f"{host}"
                continue
            for name in self._domains_of(host, spared, shared):
                if name == host or name not in seen:
                    seen.add(name)
                    yield name, name

    def _domains_of(self, host: str, spared: frozenset[str], shared: frozenset[str]) -> list[str]:
        """The registered domain of a host and longer names of it; nothing if there is none, or it is spared."""
        labels = host.split(".")
        registered = self._suffixes.privatesuffix(host)
        if registered is None or any(".".join(labels[place:]) in spared for place in range(len(labels))):
            return []
        least = registered.count(".") + 1 + (registered in shared)
        return [".".join(labels[-size:]) for size in range(least, len(labels) + 1)][:_MOST_LEVELS]


def _domains(lines: tuple[str, ...]) -> frozenset[str]:
    return frozenset(line.strip().strip(".").lower() for line in lines)
