r"""Refuses the recipients in config/badrcptto.

A line of `config/badrcptto` is an address, `@domain`, or a regular expression, and may
have a reason behind it, which the client is told:

    former.colleague@example.org    has left us
    @closed.example.org
    ^(root|daemon)@                 no mail to system accounts

A line with one of `/ ^ $ * + ! % ? \` is a regular expression (Python's), and matches
anywhere in an address; anchor it with ^ and $. Case does not count.

`<postmaster>` without a domain, relay clients and whitelisted clients pass. An address of
more than 320 characters, which RFC 5321 section 4.5.3.1 does not know, is refused where
the list has an expression: some would take minutes over it.

Arguments: `reject 0` only logs; `reject_type` is perm (the default), soft, disconnect or
temp_disconnect.

Result: DECLINED, or what `reject_type` says: DENY (550) by default. A recipient that is
refused lowers the connection's karma by 2.

In config/plugins, before rcpt_ok:

    badrcptto
"""

from qpsmtpd import DECLINED, LOGINFO, Mailbox, Parameters, Plugin, Result, Site, Transaction, dsn
from qpsmtpd.plugins._lists import parse_addresses


class BadRcptTo(Plugin):
    """Refuses the recipients in config/badrcptto."""

    def register(self, qp: Site, *args: str) -> None:
        """Read the arguments."""
        self.options(args)
        self._list = parse_addresses(self, "badrcptto")
        self._list()  # what is wrong in the file should be in the log from the start

    def hook_rcpt(self, transaction: Transaction, recipient: Mailbox, parameters: Parameters) -> Result:
        """Look the recipient up."""
        if self.is_immune():
            return DECLINED
        if recipient.domain is None:  # RFC 5321 section 4.5.1: there is always a postmaster
            self.log(LOGINFO, "skip, no domain")
            return DECLINED
        pattern = self._list().find_bad(recipient)
        if pattern is not None:
            self.adjust_karma(-2)
            _, unknown = dsn.no_such_user(self.get_reject_type(), "mail to this address is not accepted here")
            return self.get_reject(pattern.reason or unknown, pattern.text)
        self.log(LOGINFO, "pass")
        return DECLINED
