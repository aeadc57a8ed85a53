"""Refuses clients by their address, before they are greeted.

A line of `config/hosts_allow` is an address, a block or the beginning of addresses, then
a return code, then the text for the client if you like. The first line that matches the
client decides; a client that none matches may go on.

    192.0.2.7       OK
    192.0.2.0/24    DENY      no mail from this network
    2001:db8:2:     DENYSOFT  not now, please

The codes are DENY, DENYSOFT, OK (no further plugin is asked), and DECLINED. A line that
makes no sense is logged and left out. How many connections there may be, in all and from
one address, is said by `config/max_connections` and `config/max_per_ip`.

Arguments: none.

Result: what the line says, DECLINED where none matches.

In config/plugins, first of all:

    hosts_allow
"""

from dataclasses import dataclass

from qpsmtpd import DECLINED, DENY, DENYSOFT, LOGDEBUG, LOGINFO, OK, Plugin, Result, ReturnCode, Site, Transaction
from qpsmtpd.networks import Network, is_listed, parse_network
from qpsmtpd.plugins._lists import parse_each
from qpsmtpd.protocol.hooks import PreConnection

_CODES = {code.name: code for code in (OK, DECLINED, DENY, DENYSOFT)} | {
    "DENY_DISCONNECT": DENY,  # nothing else can be meant before a session begins
    "DENYSOFT_DISCONNECT": DENYSOFT,
}


class HostsAllow(Plugin):
    """Refuses clients by their address, before they are greeted."""

    def register(self, qp: Site) -> None:
        """Take no arguments."""
        self._rules = parse_each(self, "hosts_allow", _parse_rule)
        self._rules()  # what is wrong in the file should be in the log from the start

    def hook_pre_connection(self, transaction: Transaction, arrival: PreConnection) -> Result:
        """Look the client up."""
        for rule in self._rules():
            if is_listed(arrival.remote_ip, (rule.network,)):
                word = "fail" if rule.code in (DENY, DENYSOFT) else "pass"
                self.log(LOGINFO, f"{word}, {arrival.remote_ip} in {rule.network}: {rule.code.name}")
                return (rule.code, rule.text) if rule.text else rule.code
        self.log(LOGDEBUG, f"skip, {arrival.remote_ip} is not listed")
        return DECLINED


@dataclass(frozen=True, slots=True)
class _Rule:
    network: Network
    code: ReturnCode
    text: str


def _parse_rule(line: str) -> _Rule:
    _, code, text = (*line.split(None, 2), "", "", "")[:3]
    if code.upper() not in _CODES:
        raise ValueError(f"no return code behind the address, one of {', '.join(_CODES)}")
    return _Rule(parse_network(line), _CODES[code.upper()], text)
