"""Refuses senders whose domain cannot take mail: neither exchanges nor an address in the DNS.

An exchange (MX record) is good if one of its addresses is. A domain without exchanges needs
an address of its own. An address within a network of `config/invalid_resolvable_fromhost` is
none:

    127.0.0.0/8
    10.0.0.0/8
    fe80::/10

A domain that says that it takes no mail (RFC 7505) is refused. Of the exchanges the ten most
preferred are looked up.

Arguments:
- `reject`: 1 (the default); 0 only logs; `naughty` leaves the refusal to the plugin naughty.
- `reject_type`: soft (the default), perm, disconnect or temp_disconnect.
- `timeout`: seconds for a look-up; by default, and at most, those of `config/timeoutdns`.

Notes: the transaction's `resolvable_fromhost` is `mx` or `a` for a domain that is good, by an
exchange or an address; `ip` for an address literal, `null` for bounces, both of which pass;
else what is wrong. `resolvable_fromhost_host` is the domain. The connection's karma falls by 1
for an address literal, for a domain without exchanges, for one with none that is good, and for
each sender that is refused or would be.

Result: DECLINED, or what `reject_type` says: DENYSOFT (450) by default. If nobody can say
now, DENYSOFT, whatever `reject_type` says; with `reject 0` DECLINED. Relay clients and
whitelisted clients are not checked.

Needs dnspython: `pip install 'qpsmtpd[dns]'`.

In config/plugins:

    resolvable_fromhost reject_type perm
"""

import ipaddress

from qpsmtpd import DECLINED, DENYSOFT, LOGINFO, LOGWARN, Mailbox, Parameters, Plugin, Result, Site, Transaction, dsn
from qpsmtpd.networks import is_listed, parse_network
from qpsmtpd.plugins._dns import look_ups
from qpsmtpd.plugins._lists import parse_each
from qpsmtpd.plugins._options import with_defaults
from qpsmtpd.resolver import DnsError

_OUTCOME, _DOMAIN = "resolvable_fromhost", "resolvable_fromhost_host"  # notes
_MOST_EXCHANGES = 10
_OFF = frozenset({"0", "no", "off", ""})


class ResolvableFromhost(Plugin):
    """Refuses senders whose domain cannot take mail: neither exchanges nor an address in the DNS."""

    def register(self, qp: Site, *args: str) -> None:
        """Read the arguments. Raises ValueError."""
        options = self.options(args, "timeout")
        with_defaults(self, options, reject_type="soft")
        self._tolerant = options.get("reject", "1").lower() in _OFF
        self._resolver = look_ups(self, options)
        self._invalid = parse_each(self, "invalid_resolvable_fromhost", parse_network)
        self._invalid()  # what is wrong in the file should be in the log from the start

    async def hook_mail(self, transaction: Transaction, sender: Mailbox, parameters: Parameters) -> Result:
        """Look the sender's domain up."""
        if self.is_immune():
            return DECLINED
        notes = transaction.notes
        if not sender:
            notes[_OUTCOME] = "null"
            self.log(LOGINFO, "pass, null sender")
            return DECLINED
        domain = sender.domain
        if domain is None:
            return self._refuse(transaction, "the sender has no domain")
        notes[_DOMAIN] = domain
        if domain.startswith("["):
            notes[_OUTCOME] = "ip"
            self.adjust_karma(-1)
            self.log(LOGINFO, f"skip, {domain} is an IP")
            return DECLINED
        try:
            trouble = await self._look_up(transaction, domain)
        except DnsError as error:
            return self._cannot_say(transaction, error)
        return self._refuse(transaction, trouble) if trouble else DECLINED

    async def _look_up(self, transaction: Transaction, domain: str) -> str:
        """What is wrong with a domain, empty if nothing. Raises DnsError if nobody can say."""
        exchanges = await self._resolver().look_up(domain, "MX")
        if exchanges:
            return await self._check_exchanges(transaction, domain, exchanges)
        self.adjust_karma(-1)
        addresses = await self._resolver().addresses(domain)
        if any(map(self._is_good, addresses)):
            transaction.notes[_OUTCOME] = "a"
            self.log(LOGINFO, f"pass, found A for {domain}")
            return ""
        return f"{domain} has no MX, and no good address"

    async def _check_exchanges(self, transaction: Transaction, domain: str, exchanges: tuple[str, ...]) -> str:
        named = [exchange for exchange in exchanges[:_MOST_EXCHANGES] if exchange]
        questions = [(exchange, kind) for exchange in named for kind in ("A", "AAAA")]
        answers = await self._resolver().look_up_all(questions)
        for (exchange, _), answer in zip(questions, answers, strict=True):
            if (_is_ip(exchange) and self._is_good(exchange)) or any(map(self._is_good, answer or ())):
                transaction.notes[_OUTCOME] = "mx"
                self.log(LOGINFO, f"pass, {domain} has MX at {exchange}")
                return ""
        if None in answers:
            raise DnsError(f"no name server can tell the addresses of the exchanges of {domain}")
        self.adjust_karma(-1)
        return f"invalid MX for {domain}" if named else f"{domain} takes no mail"

    def _is_good(self, address: str) -> bool:
        return not is_listed(address, self._invalid())

    def _refuse(self, transaction: Transaction, why: str) -> Result:
        transaction.notes[_OUTCOME] = why
        self.adjust_karma(-1)
        result = self.get_reject("The domain of the sender's address takes no mail", why)
        return dsn.addr_bad_from_system(*result) if isinstance(result, tuple) else result

    def _cannot_say(self, transaction: Transaction, error: DnsError) -> Result:
        transaction.notes[_OUTCOME] = f"{error}"
        self.log(LOGWARN, f"error, {error}")
        if self._tolerant:
            return DECLINED
        return dsn.temp_resolver_failed(DENYSOFT, "The domain of the sender's address cannot be looked up at present")


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
