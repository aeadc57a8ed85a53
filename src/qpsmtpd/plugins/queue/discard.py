"""Takes every message and throws it away: for tests, benchmarks and traps.

Arguments: none.
"""

from qpsmtpd import LOGINFO, OK, HookResult, Plugin, Transaction

__all__ = ["Discard"]


class Discard(Plugin):
    """Accepts messages and throws them away."""

    def hook_queue(self, transaction: Transaction) -> HookResult:
        self.log(LOGINFO, "pass, discarded")
        return OK, f"Queued! {transaction.header.get('Message-Id')}".rstrip()
