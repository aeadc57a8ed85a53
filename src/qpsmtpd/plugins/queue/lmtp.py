"""Delivers messages to a mail store by LMTP (RFC 2033), such as Dovecot's or Cyrus'.

    queue/lmtp HOST [PORT]
    queue/lmtp /PATH/OF/SOCKET

PORT is 24 by default.

Arguments behind them, in pairs: `tls`, `ca`, `helo` and `timeout`, as `queue/smtp-forward` has
them; without TLS over a socket. What is said there of content, parameters and connections holds
here too.

A client that speaks SMTP has one answer for all recipients, while the store has one for each:
- If the store refuses a recipient before the content is sent, the message goes to nobody.
- Behind the content some recipients may have the message already, and others not:
  - If one was refused for good, the client is told so (552), by name. It bounces the message;
    who has it keeps it, but its sender learns that not everybody does.
  - If others were refused for now, the client is told to send it again (452): those who have it
    get it twice then. A second copy is a nuisance, a lost one is a loss.
Neither happens under the role `lmtp`: the client has an answer for each recipient, and gets the
store's.

Result: OK behind the store's 250 for every recipient; DENY (552) and DENYSOFT (452) as
`queue/smtp-forward`.

In config/plugins:

    queue/lmtp /run/dovecot/lmtp
"""

from qpsmtpd import Site
from qpsmtpd.plugins._forward import Forward


class Lmtp(Forward):
    """Delivers messages to a mail store by LMTP."""

    def register(self, qp: Site, *args: str) -> None:
        """Read the arguments. Raises ValueError."""
        self.set_up(args, 24, lmtp=True)
