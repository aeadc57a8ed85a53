"""Has other plugins spare clients whose IP address is in a list of good hosts in the DNS.

A line of `config/whitelist_zones` is such a list. All are asked at the same time, IPv6
addresses too. An entry is an address within 127.0.0.0/8 (RFC 5782); 127.0.0.1, 127.0.0.255
and 127.255.255.0/24 are none, since lists say so that they do not serve you. A list that has
an entry for 127.0.0.1 too has one for everybody, and is left out.

Argument: `timeout`, seconds for a look-up; by default, and at most, those of
`config/timeoutdns`.

Notes: the connection's `whitelisthost` is what the list says of the client, for the plugins
that spare whitelisted clients; most that are bundled do.

Result: DECLINED. A list that does not answer is logged, and counts as one that has no entry.

Needs dnspython: `pip install 'qpsmtpd[dns]'`.

In config/plugins, before the plugins that are to spare such clients:

    dns_whitelist_soft
"""

from qpsmtpd import DECLINED, LOGDEBUG, LOGINFO, Plugin, Result, Site, Transaction
from qpsmtpd.plugins._dns import look_ups
from qpsmtpd.plugins._dns_lists import find_listings, no_address, parse_zone, reasons
from qpsmtpd.plugins._lists import parse_each
from qpsmtpd.resolver import reversed_address

_NOT_SERVED = ("127.0.0.255",)  # dnswl.org says so


class DnsWhitelistSoft(Plugin):
    """Has other plugins spare clients whose IP address is in a list of good hosts in the DNS."""

    shared_arguments = ("loglevel",)  # it refuses nobody

    def register(self, qp: Site, *args: str) -> None:
        """Read the argument. Raises ValueError."""
        self._resolver = look_ups(self, self.options(args, "timeout"))
        self._zones = parse_each(self, "whitelist_zones", parse_zone)
        self._zones()  # what is wrong in the file should be in the log from the start

    async def hook_connect(self, transaction: Transaction) -> Result:
        """Look the client up."""
        address = self.connection.remote_ip
        zones = [zone.name for zone in self._zones()]
        if not zones or not self.is_valid_ip(address):
            self.log(LOGDEBUG, "skip, there is no list to ask, or nothing to ask for")
            return DECLINED
        listings = await find_listings(self, self._resolver(), [reversed_address(address)], zones, no_address(address))
        found = [listing for listing in listings if listing.addresses != _NOT_SERVED]
        if not found:
            self.log(LOGINFO, "skip, in no list")
            return DECLINED
        (reason,) = await reasons(self._resolver(), found[:1])
        self.connection.notes["whitelisthost"] = reason or f"listed by {found[0].zone}"
        self.log(LOGINFO, f"pass, in {found[0].zone}")
        return DECLINED
