"""Passes messages on to another mail server by SMTP, before the client is told that they are taken.

    queue/smtp-forward HOST [PORT] [xclient]

PORT is 25 by default. With `xclient` the server is told for whom each message is passed on, by
XCLIENT (Postfix's XCLIENT_README) where it offers that: address, port and verified name of the
client, what it calls itself, whom it has authenticated as, and where it has connected to.

Arguments behind them, in pairs:
- `tls`: `starttls`, mail goes by STARTTLS or not at all; `yes`, TLS from the first octet, as on
  port 465; `no`, the default, mail crosses the network in clear.
- `ca FILE`: the authority, in PEM, that has signed the server's certificate; by default those
  that the system trusts. The certificate has to name HOST.
- `helo`: what this side calls itself, by default the name in `config/me`.
- `timeout`: seconds that a message may take, connecting included, 110 by default. Keep it below
  `timeouthook`: a hook that takes longer is given up and the client told 451, but it goes on, and
  may pass on what the client then sends again.

Content is passed on byte for byte, while it is read, by BDAT where the server offers CHUNKING.
What the client has asked for goes with it as far as the server offers it: RET, ENVID, NOTIFY and
ORCPT, 8BITMIME, SMTPUTF8. What is a promise (REQUIRETLS, BINARYMIME, an address that needs
SMTPUTF8) makes the message fail where the server cannot keep it. A header that is not ASCII,
of a client that has not asked for SMTPUTF8, is passed on as it is.

A message goes to all its recipients or, if the server refuses one of them, to none, since the
client has one answer for all of them: with a part of them served it could only lose the others, or
send to the first ones again and again. The answer names those who were refused. Refuse them at
RCPT, with a plugin such as badrcptto, to keep them from hindering others. Under the role `lmtp`,
where the client has an answer for each recipient, each is passed on alone.

A connection is used for further messages if they come within 10 seconds; at most 8 wait for
them. One that the server has closed meanwhile is replaced by a new one, once, and only if none
of the content has been sent. If the connection breaks behind the content, nobody knows whether
the server has taken the message; the client is told to send it again, since two copies are
better than none.

Result: OK behind the server's 250 for the content. DENY (552) if it refuses sender, a
recipient, DATA or the content for good, or the message needs what it does not offer. DENYSOFT
(452) for whatever else goes wrong: a refusal for now, a server that greets nobody, cannot be
reached, is late or makes no sense. The answer holds what the server said, the log too.

In config/plugins:

    queue/smtp-forward mx.internal.example 25
"""

from qpsmtpd import Site
from qpsmtpd.plugins._forward import Forward


class SmtpForward(Forward):
    """Passes messages on to another mail server by SMTP."""

    flags = ("xclient",)

    def register(self, qp: Site, *args: str) -> None:
        """Read the arguments. Raises ValueError."""
        self.set_up(args, 25)
