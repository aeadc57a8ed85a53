"""Refuses the senders in `config/badmailfrom`, one a line, each with a reason for the client.

A line is an address, `@domain`, or a regular expression, then the reason:

    spammer@example.com  we have had enough of your mail

The null sender and relay clients are never refused.

Arguments: `reject 0` only logs; `reject_type` is perm (the default), soft, disconnect or
temp_disconnect.
"""

from qpsmtpd import DECLINED, LOGERROR, LOGINFO, HookResult, Mailbox, Parameters, Plugin, Site, Transaction
from qpsmtpd.plugins._addresses import AddressList

__all__ = ["BadMailFrom"]


class BadMailFrom(Plugin):
    """Refuses senders in config/badmailfrom."""

    def register(self, qp: Site, *args: str) -> None:
        self.options(args)
        self._list = AddressList(
            lambda: qp.config("badmailfrom"), lambda text: self.log(LOGERROR, f"error, badmailfrom: {text}")
        )

    def hook_mail(self, transaction: Transaction, sender: Mailbox, parameters: Parameters) -> HookResult:
        if self.is_immune():
            return DECLINED
        if not sender:
            self.log(LOGINFO, "skip, null sender")
            return DECLINED
        reason = self._list.reason_for(sender)
        if reason is None:
            self.log(LOGINFO, "pass")
            return DECLINED
        self.adjust_karma(-1)
        return self.get_reject(reason or f"Mail from {sender.address} not accepted here", sender.address)
