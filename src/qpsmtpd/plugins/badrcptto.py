"""Refuses the recipients in `config/badrcptto`, one a line, each with a reason for the client.

A line is an address, `@domain`, or a regular expression, then the reason:

    former.colleague@example.org  has left us

Relay clients are never refused.

Arguments: `reject 0` only logs; `reject_type` is perm (the default), soft, disconnect or
temp_disconnect.
"""

from qpsmtpd import DECLINED, LOGERROR, LOGINFO, HookResult, Mailbox, Parameters, Plugin, Site, Transaction
from qpsmtpd.plugins._addresses import AddressList

__all__ = ["BadRcptTo"]


class BadRcptTo(Plugin):
    """Refuses recipients in config/badrcptto."""

    def register(self, qp: Site, *args: str) -> None:
        self.options(args)
        self._list = AddressList(
            lambda: qp.config("badrcptto"), lambda text: self.log(LOGERROR, f"error, badrcptto: {text}")
        )

    def hook_rcpt(self, transaction: Transaction, recipient: Mailbox, parameters: Parameters) -> HookResult:
        if self.is_immune():
            return DECLINED
        reason = self._list.reason_for(recipient)
        if reason is None:
            self.log(LOGINFO, "pass")
            return DECLINED
        self.adjust_karma(-2)
        return self.get_reject(reason or f"Mail to {recipient.address} not accepted here", recipient.address)
