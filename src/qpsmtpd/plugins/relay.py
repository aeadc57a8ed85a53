"""Says which clients may send to anywhere: those in `config/relayclients` and `config/morerelayclients`.

A line is an address, a network such as `192.0.2.0/24`, or the beginning of an address that
ends in a dot or colon. Clients in `config/norelayclients` may not, whatever the others say.
With the environment variable RELAYCLIENT set (as tcpserver sets it), the client may.

Arguments: `only 1`: others than relay clients may not send at all; relay clients may send to
anywhere, without another plugin being asked.
"""

import os

from qpsmtpd import DECLINED, DENY, LOGINFO, OK, HookResult, Mailbox, Parameters, Plugin, Site, Transaction
from qpsmtpd.plugins._networks import matches

__all__ = ["Relay"]


class Relay(Plugin):
    """Marks the clients in config/relayclients, which may send to anywhere."""

    def register(self, qp: Site, *args: str) -> None:
        only = self.options(args, "only").get("only", os.environ.get("RELAY_ONLY", "0"))
        if only not in ("", "0"):
            self.register_hook("rcpt", self.only_relay_clients)

    def hook_connect(self, transaction: Transaction) -> HookResult:
        address = self.connection.remote_ip
        if entry := self._entry(address, "norelayclients"):
            self.connection.relay_client = False
            self.log(LOGINFO, f"skip, {address} in norelayclients ({entry})")
        elif "RELAYCLIENT" in os.environ:
            self.connection.relay_client = True
            self.log(LOGINFO, "pass, the environment says so")
        elif entry := self._entry(address, "relayclients", "morerelayclients"):
            self.connection.relay_client = True
            self.log(LOGINFO, f"pass, {address} matches {entry}")
        else:
            self.log(LOGINFO, "skip, no match")
        return DECLINED

    def only_relay_clients(self, transaction: Transaction, recipient: Mailbox, parameters: Parameters) -> HookResult:
        """Decide about every recipient by the client alone."""
        return OK if self.connection.relay_client else DENY

    def _entry(self, address: str, *settings: str) -> str | None:
        lines = (line.split()[0] for setting in settings for line in self.qp.config(setting))
        return next((line for line in lines if matches(address, line)), None)
