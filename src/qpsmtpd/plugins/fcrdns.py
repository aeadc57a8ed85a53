"""Checks that the client's address has a name in the DNS which leads back to the address.

The names of the address (PTR records) are looked up, and the addresses of the first ten. One
that is the client's is a match; one in its neighbourhood, the same /24 of IPv4 or /64 of
IPv6, passes too, since big senders have pools of servers. A name that matches exactly becomes
the client's host name where it has none yet, as in the field Received.

Arguments:
- `reject`: 0, the default, only logs; 1 refuses who fails; `naughty` leaves the refusal to the
  plugin naughty. Many honest hosts fail.
- `reject_type`: temp (the default), perm, disconnect or temp_disconnect.
- `timeout`: seconds for a look-up; by default, and at most, those of `config/timeoutdns`.

Notes: the result `iprev` of RFC 8601 goes to the field Authentication-Results: `pass`; `fail`
if no name leads back; `permerror` if there is no name; `temperror` if nobody can say now. The
connection's karma rises by 1 for an exact match, or for a client on this machine, and falls by
1 if there is no name, or none with an address. It falls too, and nothing is looked up, if the
name that a client comes with (from tcpserver or a proxy) is no host name, or `localhost`.

Result: DECLINED; with `reject 1` what `reject_type` says, DENYSOFT (421) by default, for `fail`,
`permerror` and such names. Relay clients and whitelisted clients are not looked up.

Needs dnspython: `pip install 'qpsmtpd[dns]'`.

In config/plugins:

    fcrdns
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

from qpsmtpd import DECLINED, LOGINFO, LOGWARN, Plugin, Result, Site, Transaction
from qpsmtpd.plugins._dns import look_ups, same_network
from qpsmtpd.plugins._options import with_defaults
from qpsmtpd.resolver import DnsError
from qpsmtpd.session.connection import plain_address

_MOST_NAMES = 10
_PLAIN_NAME = re.compile(r"[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+\.?")


class Fcrdns(Plugin):
    """Checks that the client's address has a name in the DNS which leads back to the address."""

    def register(self, qp: Site, *args: str) -> None:
        """Read the arguments. Raises ValueError."""
        options = self.options(args, "timeout")
        with_defaults(self, options, reject="0", reject_type="temp")
        self._resolver = look_ups(self, options)

    async def hook_connect(self, transaction: Transaction) -> Result:
        """Check the client."""
        address = self.connection.remote_ip
        if self.is_immune():
            return DECLINED
        if not self.is_valid_ip(address):
            self.log(LOGINFO, "skip, the client has no IP address")
            return DECLINED
        if self.is_localhost(address):
            self.adjust_karma(1)
            self.log(LOGINFO, "pass, is localhost")
            return DECLINED
        why = self._bad_host_name()
        if why:
            return self._fail(why)
        try:
            names = (await self._resolver().names_of(address))[:_MOST_NAMES]
        except DnsError as error:
            return self._cannot_say(f"{error}")
        if not names:
            self._store("permerror")
            return self._fail("no rDNS")
        return await self._check(names)

    def _bad_host_name(self) -> str:
        """Why the name that the client came with, if any, is none."""
        name = self.connection.peer.remote_host
        if not name:
            return ""
        if name.lower() == "localhost":
            return "not localhost"
        if "." not in name:
            return "not FQDN"
        return "" if _PLAIN_NAME.fullmatch(name) else "invalid FQDN chars"

    async def _check(self, names: Sequence[str]) -> Result:
        """Judge the names of the address by their addresses."""
        client = plain_address(self.connection.remote_ip)
        answers = await self._resolver().look_up_all([(name, kind) for name in names for kind in ("A", "AAAA")])
        by_name = [
            [plain_address(address) for address in chain.from_iterable(answer or () for answer in pair)]
            for pair in zip(answers[::2], answers[1::2], strict=True)
        ]
        addresses = list(chain.from_iterable(by_name))
        if client in addresses:
            self.adjust_karma(1)
            self._name_client([name for name, its in zip(names, by_name, strict=True) if client in its])
            return self._pass("the name leads back to the address")
        if any(same_network(client, address) for address in addresses):
            return self._pass("a name leads to the same network")
        if None in answers:
            return self._cannot_say("no name server can tell the addresses of a name")
        self._store("fail")
        if addresses:
            return self.get_reject(_text(client), "the names lead elsewhere")
        return self._fail("no PTR host has forward DNS")

    def _name_client(self, names: Sequence[str]) -> None:
        """Give the client its first name, if it has none and this is one that may be shown anywhere."""
        name = next(filter(_PLAIN_NAME.fullmatch, names), None)
        if name is not None and self.connection.peer.remote_host is None:
            self.connection.peer = replace(self.connection.peer, remote_host=name)

    def _pass(self, why: str) -> Result:
        self._store("pass")
        self.log(LOGINFO, f"pass, {why}")
        return DECLINED

    def _fail(self, why: str) -> Result:
        self.adjust_karma(-1)
        return self.get_reject(_text(self.connection.remote_ip), why)

    def _cannot_say(self, why: str) -> Result:
        self._store("temperror")
        self.log(LOGWARN, f"error, {why}")
        return DECLINED

    def _store(self, result: str) -> None:
        address = self.connection.remote_ip
        shown = f'"{address}"' if ":" in address else address  # RFC 8601 section 2.2: a token, or quoted
        self.store_auth_results(f"iprev={result} policy.iprev={shown}")


def _text(address: str) -> str:
    return f"{address} has no name in the DNS that leads back to it"
