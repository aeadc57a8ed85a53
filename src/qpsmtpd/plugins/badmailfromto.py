"""Refuses what certain senders send to certain recipients, as if the recipient did not exist.

For harassment: nothing tells the sender that it is meant.

A line of `config/badmailfromto` is a sender and a recipient, with blanks between them. Each
is an address or `@domain`; case does not count. What stands behind them is a remark.

    stalker@example.com    jane@example.org
    @bulk.example          @lists.example.org    they do not listen

A line that makes no sense is logged and left out. Bounces (an empty sender) pass. Relay
clients and whitelisted clients do not: they may be meant.

Arguments: none. Note: a transaction's `badmailfromto` is the sender, as it is listed, if it is.

Result: DECLINED, or DENY (550) for the recipient.

In config/plugins, before rcpt_ok:

    badmailfromto
"""

from qpsmtpd import DECLINED, DENY, LOGDEBUG, LOGINFO, Mailbox, Parameters, Plugin, Result, Site, Transaction, dsn
from qpsmtpd.plugins._lists import parse_each

_NOTE = "badmailfromto"


class BadMailFromTo(Plugin):
    """Refuses what certain senders send to certain recipients, as if the recipient did not exist."""

    def register(self, qp: Site) -> None:
        """Take no arguments."""
        self._pairs = parse_each(self, "badmailfromto", _parse_pair)
        self._pairs()  # what is wrong in the file should be in the log from the start

    def hook_mail(self, transaction: Transaction, sender: Mailbox, parameters: Parameters) -> Result:
        """Note whether the sender is listed at all."""
        names = _names(sender)
        listed = next((bad for bad, _ in self._pairs() if bad in names), None)
        if listed is not None:
            transaction.notes[_NOTE] = listed
        return DECLINED

    def hook_rcpt(self, transaction: Transaction, recipient: Mailbox, parameters: Parameters) -> Result:
        """Refuse the recipient if it is listed with the sender."""
        if not isinstance(transaction.notes.get(_NOTE), str):  # else the results of this plugin are there
            self.log(LOGDEBUG, "pass, sender not listed")
            return DECLINED
        senders, recipients = _names(transaction.reverse_path), _names(recipient)
        for bad, whom in self._pairs():
            if bad in senders and whom in recipients:
                self.log(LOGINFO, f"fail, {bad} to {whom}")
                return dsn.no_such_user(DENY, "no such user here")
        self.log(LOGDEBUG, "pass, recipient not listed")
        return DECLINED


def _names(mailbox: Mailbox) -> tuple[str, ...]:
    """How lines may name a mailbox; those without a domain they cannot."""
    return () if mailbox.domain is None else (mailbox.address.lower(), f"@{mailbox.domain.lower()}")


def _parse_pair(line: str) -> tuple[str, str]:
    sender, recipient = (*line.lower().split(), "", "")[:2]
    if "@" not in sender or "@" not in recipient:
        raise ValueError("not a sender and a recipient, each an address or @domain")
    return sender, recipient
