r"""Refuses the senders in config/badmailfrom.

A line of `config/badmailfrom` is an address, `@domain`, or a regular expression, and may
have a reason behind it, which the client is told:

    spammer@example.com        we have had enough of your mail
    @bulk.example
    ^bounce-.*@.*\.example$    no newsletters

A line with one of `/ ^ $ * + ! % ? \` is a regular expression (Python's), and matches
anywhere in an address; anchor it with ^ and $. Case does not count.

Bounces (an empty sender), relay clients and whitelisted clients pass. An address of more
than 320 characters, which RFC 5321 section 4.5.3.1 does not know, is refused where the list
has an expression: some would take minutes over it.

Arguments: `reject 0` only logs; `reject_type` is perm (the default), soft, disconnect or
temp_disconnect.

Result: DECLINED, or what `reject_type` says: DENY (550) by default. A sender that is
refused lowers the connection's karma by 1.

In config/plugins:

    badmailfrom
"""

from qpsmtpd import DECLINED, LOGDEBUG, LOGINFO, Mailbox, Parameters, Plugin, Result, Site, Transaction
from qpsmtpd.plugins._lists import parse_addresses


class BadMailFrom(Plugin):
    """Refuses the senders in config/badmailfrom."""

    def register(self, qp: Site, *args: str) -> None:
        """Read the arguments."""
        self.options(args)
        self._list = parse_addresses(self, "badmailfrom")
        self._list()  # what is wrong in the file should be in the log from the start

    def hook_mail(self, transaction: Transaction, sender: Mailbox, parameters: Parameters) -> Result:
        """Look the sender up."""
        if self.is_immune():
            return DECLINED
        if not sender:
            self.log(LOGDEBUG, "skip, null sender")
            return DECLINED
        pattern = self._list().find_bad(sender)
        if pattern is not None:
            self.adjust_karma(-1)
            return self.get_reject(pattern.reason or "your sender address is not welcome here", pattern.text)
        self.log(LOGINFO, "pass")
        return DECLINED
