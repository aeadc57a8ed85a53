"""Does what rcpt_ok does, and sends clients away that try to relay again and again.

Load it in the place of `rcpt_ok`, not beside it: its settings are `config/rcpthosts` and
`config/morercpthosts`, and it has the last word about recipients.

Argument: how many recipients may be refused in one connection, 5 by default. The next one
ends it. With 0 there is no end. The count is kept in the connection's note
`count_relay_attempts`.

Result: OK, DENY (550), or behind too many of these DENY_DISCONNECT (550).

In config/plugins:

    rcpt_ok_maxrelay 5
"""

from qpsmtpd import DENY, DENY_DISCONNECT, LOGINFO, Mailbox, Parameters, Result, Site, Transaction, dsn
from qpsmtpd.plugins._options import count
from qpsmtpd.plugins.rcpt_ok import RcptOk

_NOTE = "count_relay_attempts"


class RcptOkMaxRelay(RcptOk):
    """Does what rcpt_ok does, and sends clients away that try to relay again and again."""

    def register(self, qp: Site, most: str = "5") -> None:
        """Read how many attempts there may be."""
        self._most = count(most, least=0)
        super().register(qp)

    def hook_rcpt(self, transaction: Transaction, recipient: Mailbox, parameters: Parameters) -> Result:
        """Have rcpt_ok decide, and count what it refuses."""
        result = super().hook_rcpt(transaction, recipient, parameters)
        if not self._most or not isinstance(result, tuple) or result[0] is not DENY:
            return result
        before = self.connection.notes.get(_NOTE, 0)
        attempts = before + 1 if isinstance(before, int) else 1
        self.connection.notes[_NOTE] = attempts
        if attempts <= self._most:
            return result
        self.log(LOGINFO, f"fail, relaying attempt number {attempts}")
        return dsn.relaying_denied(DENY_DISCONNECT, "too many relaying attempts")
