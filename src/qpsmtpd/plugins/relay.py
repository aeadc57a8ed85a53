"""Says which clients may relay: send mail to recipients elsewhere.

The first that matches decides:
- `config/norelayclients`: may not,
- the environment variable RELAYCLIENT, if it is set, be it empty (as tcpserver does): may,
- `config/relayclients`, `config/morerelayclients`: may,
- `config/morerelayclients.cdb`, a constant database as qmail has them, for many thousands
  of clients: may.

A line is an address (`192.0.2.1`, `2001:db8::1`), a block (`192.0.2.0/24`,
`2001:db8::/32`), or the beginning of addresses, up to a dot or colon (`192.0.2.`,
`2001:db8:2:`). A line that makes no sense is logged and left out. Keys of the database are
whole addresses or such beginnings; if it cannot be read nobody is in it, and the log says so.

Argument: `only 1` refuses every recipient unless the client may relay, and accepts
every recipient if it may. For a server that no stranger should send to. The environment
variable RELAY_ONLY=1 does the same.

Result: DECLINED. The connection's `relay_client` is True, False (norelayclients) or left
as it was. With `only`, OK or DENY (550) for a recipient.

In config/plugins, before the plugins that check anything:

    relay
"""

import ipaddress
import os
from collections.abc import Iterator

from qpsmtpd import (
    DECLINED,
    DENY,
    LOGERROR,
    LOGINFO,
    OK,
    Mailbox,
    Parameters,
    Plugin,
    Result,
    Site,
    Transaction,
)
from qpsmtpd.networks import is_listed, parse_network
from qpsmtpd.plugins._cdb import find_key
from qpsmtpd.plugins._lists import parse_each

_DATABASE = "morerelayclients.cdb"


class Relay(Plugin):
    """Says which clients may relay: send mail to recipients elsewhere."""

    def register(self, qp: Site, *args: str) -> None:
        """Read the argument `only`."""
        only = self.options(args, "only").get("only", os.environ.get("RELAY_ONLY", "0"))
        self._forbidden = parse_each(self, "norelayclients", parse_network)
        self._allowed = [parse_each(self, name, parse_network) for name in ("relayclients", "morerelayclients")]
        self._directory = qp.settings.directory
        if only.lower() not in ("", "0", "no", "off"):
            self.register_hook("rcpt", self.only_relay_clients)
        for networks in (self._forbidden, *self._allowed):
            networks()  # what is wrong in the files should be in the log from the start

    def hook_connect(self, transaction: Transaction) -> Result:
        """Judge the client by its address."""
        address = self.connection.remote_ip
        if is_listed(address, self._forbidden()):
            self.connection.relay_client = False
            self.log(LOGINFO, "skip, in norelayclients")
        elif "RELAYCLIENT" in os.environ:  # often empty, as tcprules has it
            self.connection.relay_client = True
            self.log(LOGINFO, "pass, RELAYCLIENT is set")
        elif any(is_listed(address, networks()) for networks in self._allowed) or self._is_in_database(address):
            self.connection.relay_client = True
            self.log(LOGINFO, "pass, in relayclients")
        else:
            self.log(LOGINFO, "skip, not in relayclients")
        return DECLINED

    def only_relay_clients(self, transaction: Transaction, recipient: Mailbox, parameters: Parameters) -> Result:
        """Serve the hook rcpt with the argument `only`."""
        if self.connection.relay_client:
            return OK
        self.log(LOGINFO, "fail, not a relay client")
        return DENY

    def _is_in_database(self, address: str) -> bool:
        try:
            return self._directory is not None and find_key(self._directory / _DATABASE, _keys(address)) is not None
        except (OSError, ValueError) as error:
            self.log(LOGERROR, f"error, {_DATABASE}: {error}")
            return False


def _keys(address: str) -> Iterator[str]:
    """The keys that stand for an address: itself, and its beginnings up to each dot or colon; none for what is no address."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return
    yield str(ip)
    groups = str(ip).split(".") if ip.version == 4 else [f"{int(group, 16):x}" for group in ip.exploded.split(":")]
    mark = "." if ip.version == 4 else ":"
    for count in range(len(groups) - 1, 0, -1):
        yield mark.join(groups[:count]) + mark
