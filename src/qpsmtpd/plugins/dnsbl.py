"""Refuses clients whose IP address is in a list in the DNS.

A line of `config/dnsbl_zones` is a list, and may have a text behind it that the client is
told, with its address for %IP%. Without one it is told what the list says (a TXT record):

    zen.example.org
    bl.example.net:You are listed, see https://bl.example.net/?ip=%IP%

All lists are asked at the same time, IPv6 addresses too. An entry is an address within
127.0.0.0/8 (RFC 5782); 127.0.0.1 and 127.255.255.0/24 are none, since lists say so that they
do not serve you. A list that has an entry for 127.0.0.1 too has one for everybody, and is left out.

Further files:
- `config/dnsbl_allow`: clients that are not looked up, a line each: an address, a block
  (`192.0.2.0/24`), or the beginning of addresses (`192.0.2.`).
- `config/dnsbl_rejectmsg`: lines that the client is told before the text of the list.

The environment variable RBLSMTPD, where it is set (as by tcpserver), decides without any
list: empty, the client passes; else it is refused with this text.

Arguments:
- `reject`: 1 (the default); 0 only logs; `naughty` leaves the refusal to the plugin naughty,
  and mail to postmaster, abuse, mailer-daemon and root passes, so that people can complain.
- `reject_type`: perm (the default), soft, disconnect or temp_disconnect. `dnsbl disconnect`
  is good too.
- `timeout`: seconds for a look-up; by default, and at most, those of `config/timeoutdns`.

Notes: the connection's `dnsbl` is what a listed client is told. Its karma falls by 1.

Result: DECLINED, or what `reject_type` says: DENY (554) by default. A list that does not
answer is logged, and counts as one that has no entry. Relay clients and whitelisted clients
are not looked up.

Needs dnspython: `pip install 'qpsmtpd[dns]'`.

In config/plugins:

    dnsbl reject naughty
"""

import os
import re

from qpsmtpd import DECLINED, LOGDEBUG, LOGINFO, Mailbox, Parameters, Plugin, Result, Site, Transaction
from qpsmtpd.networks import Network, is_listed, parse_network
from qpsmtpd.plugins._dns import look_ups
from qpsmtpd.plugins._dns_lists import Listing, find_listings, no_address, parse_zone, reasons
from qpsmtpd.plugins._lists import parse_each
from qpsmtpd.resolver import reversed_address

_TEXT, _NAUGHTY = "dnsbl", "naughty"  # notes
_BEGINNING = re.compile(r"[0-9]+(?:\.[0-9]+){0,2}")
_SPECIAL = frozenset({"postmaster", "abuse", "mailer-daemon", "root"})


class Dnsbl(Plugin):
    """Refuses clients whose IP address is in a list in the DNS."""

    def register(self, qp: Site, *args: str) -> None:
        """Read the arguments. Raises ValueError."""
        if len(args) % 2:  # as it was written once
            args = ("reject_type", *args)
        options = self.options(args, "timeout")
        self._resolver = look_ups(self, options)
        self._zones = parse_each(self, "dnsbl_zones", parse_zone)
        self._allowed = parse_each(self, "dnsbl_allow", _parse_allowed)
        for lines in (self._zones, self._allowed):
            lines()  # what is wrong in the files should be in the log from the start
        if options.get("reject", "").lower() == _NAUGHTY:
            self.register_hook("rcpt", self.spare_special_recipients)
            self.register_hook("data", self.judge_all_recipients)

    async def hook_connect(self, transaction: Transaction) -> Result:
        """Look the client up."""
        address = self.connection.remote_ip
        forced = os.environ.get("RBLSMTPD")
        if forced:
            return self._refuse(forced.replace("%IP%", address), "RBLSMTPD is set")
        if self.is_immune() or self._is_excused(address):
            return DECLINED
        try:
            name = reversed_address(address)
        except ValueError:
            self.log(LOGINFO, "skip, the client has no IP address")
            return DECLINED
        found = await self._listings(name)
        if not found:
            self.log(LOGINFO, "pass")
            return DECLINED
        self.adjust_karma(-1)
        return self._refuse(await self._text(found[0]), ", ".join(listing.zone for listing in found))

    def _is_excused(self, address: str) -> bool:
        if "RBLSMTPD" in os.environ:
            self.log(LOGINFO, "skip, RBLSMTPD is empty")
            return True
        if is_listed(address, self._allowed()):
            self.log(LOGINFO, "skip, in dnsbl_allow")
            return True
        if not self._zones():
            self.log(LOGDEBUG, "skip, there is no list to ask")
            return True
        return False

    async def _listings(self, name: str) -> list[Listing]:
        zones = [zone.name for zone in self._zones()]
        return await find_listings(self, self._resolver(), [name], zones, no_address(self.connection.remote_ip))

    async def _text(self, listing: Listing) -> str:
        """What to tell a client that is listed."""
        address = self.connection.remote_ip
        for zone in self._zones():
            if zone.name == listing.zone and zone.text:
                return zone.text.replace("%IP%", address)
        (reason,) = await reasons(self._resolver(), [listing])
        return reason or f"{address} is listed by {listing.zone}"

    def _refuse(self, text: str, why: str) -> Result:
        text = "\n".join([*self.qp.config("dnsbl_rejectmsg"), text])
        self.connection.notes[_TEXT] = text
        return self.get_reject(text, why)

    # With `reject naughty` the mark is taken off for a moment.

    def spare_special_recipients(self, transaction: Transaction, recipient: Mailbox, parameters: Parameters) -> Result:
        """Serve the hook rcpt: the mark counts for all recipients but the special ones."""
        self._mark(wanted=not _is_special(recipient))
        return DECLINED

    def judge_all_recipients(self, transaction: Transaction) -> Result:
        """Serve the hook data: the mark counts unless all recipients are special."""
        self._mark(wanted=not all(map(_is_special, transaction.recipients)))
        return DECLINED

    def _mark(self, *, wanted: bool) -> None:
        """Put the mark of this plugin on the client, or take it off; the marks of others stay."""
        notes = self.connection.notes
        text = notes.get(_TEXT)
        if not isinstance(text, str):  # the client is in no list
            return
        if wanted:
            notes.setdefault(_NAUGHTY, text)
        elif notes.get(_NAUGHTY) == text:
            self.log(LOGINFO, "skip, a special recipient")
            del notes[_NAUGHTY]


def _parse_allowed(line: str) -> Network:
    """A network; the last dot of a beginning may be missing. Raises ValueError."""
    word = (line.split() or [""])[0]
    return parse_network(f"{word}." if _BEGINNING.fullmatch(word) else word)


def _is_special(recipient: Mailbox) -> bool:
    return recipient.local_part.lower() in _SPECIAL
