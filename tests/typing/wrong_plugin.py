"""What plugin authors get wrong: each line marked `# wrong` is found by both type checkers."""

from qpsmtpd import DENY, OK, Mailbox, Parameters, Plugin, Result, Transaction


class Wrong(Plugin):
    def hook_mail(self, transaction: Transaction, sender: str, parameters: Parameters) -> Result:  # wrong
        return OK

    def hook_rcpt(self, transaction: Transaction, recipient: Mailbox) -> Result:  # wrong
        return OK

    def hook_data(self, transaction: Transaction) -> bool:  # wrong
        return True

    def hook_noop(self, transaction: Transaction) -> Result:
        return 550, "no"  # wrong

    def hook_queue(self, transaction: Transaction) -> Result:
        return DENY, 5  # wrong
