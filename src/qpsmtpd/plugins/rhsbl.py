"""Refuses senders whose domain is in a list in the DNS.

A line of `config/rhsbl_zones` is a list, and may have a text behind it, which tells the
client what the matter is with the domain. Without one it is told what the list says (a TXT
record):

    dbl.example.org
    abuse.example.net  it has no address for complaints

All lists are asked at the same time. An entry is an address within 127.0.0.0/8 (RFC 5782);
127.0.0.1 and 127.255.255.0/24 are none, since lists say so that they do not serve you. A
list that has an entry for the domain `invalid` has one for all, and is left out.

Arguments:
- `reject`: 1 (the default); 0 only logs; `naughty` leaves the refusal to the plugin naughty.
- `reject_type`: perm (the default), soft, disconnect or temp_disconnect. `rhsbl disconnect`
  is good too.
- `timeout`: seconds for a look-up; by default, and at most, those of `config/timeoutdns`.

Result: DECLINED, or what `reject_type` says: DENY (550) by default. The connection's karma
falls by 1. A list that does not answer is logged, and counts as one that has no entry.
Bounces (an empty sender), address literals, relay clients and whitelisted clients pass.

Needs dnspython: `pip install 'qpsmtpd[dns]'`.

In config/plugins:

    rhsbl
"""

from qpsmtpd import DECLINED, LOGDEBUG, LOGINFO, Mailbox, Parameters, Plugin, Result, Site, Transaction
from qpsmtpd.plugins._dns import look_ups
from qpsmtpd.plugins._dns_lists import NO_DOMAIN, Listing, find_listings, parse_zone, reasons
from qpsmtpd.plugins._lists import parse_each


class Rhsbl(Plugin):
    """Refuses senders whose domain is in a list in the DNS."""

    def register(self, qp: Site, *args: str) -> None:
        """Read the arguments. Raises ValueError."""
        if len(args) % 2:  # as it was written once
            args = ("reject_type", *args)
        self._resolver = look_ups(self, self.options(args, "timeout"))
        self._zones = parse_each(self, "rhsbl_zones", parse_zone)
        self._zones()  # what is wrong in the file should be in the log from the start

    async def hook_mail(self, transaction: Transaction, sender: Mailbox, parameters: Parameters) -> Result:
        """Look the sender's domain up."""
        if self.is_immune():
            return DECLINED
        domain = sender.domain
        if not domain or domain.startswith("["):
            self.log(LOGINFO, "skip, the sender has no domain")
            return DECLINED
        zones = [zone.name for zone in self._zones()]
        if not zones:
            self.log(LOGDEBUG, "skip, there is no list to ask")
            return DECLINED
        found = await find_listings(self, self._resolver(), [domain], zones, NO_DOMAIN)
        if not found:
            self.log(LOGINFO, "pass")
            return DECLINED
        self.adjust_karma(-1)
        text = f"Mail from {domain} is not taken: {await self._reason(found[0])}"
        return self.get_reject(text, f"{domain} in {', '.join(listing.zone for listing in found)}")

    async def _reason(self, listing: Listing) -> str:
        text = next((zone.text for zone in self._zones() if zone.name == listing.zone), "")
        return text or (await reasons(self._resolver(), [listing]))[0] or f"it is listed by {listing.zone}"
