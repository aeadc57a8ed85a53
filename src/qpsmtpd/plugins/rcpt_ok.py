"""Accepts mail for the domains in config/rcpthosts and refuses all other recipients.

Put it behind the other plugins that check recipients: it has the last word.

A recipient is accepted if
- the client may relay (see the plugin `relay`),
- its domain is in `config/rcpthosts` or `config/morercpthosts`, one a line: `example.org`
  stands for itself, `.example.org` for every name below it; case does not count,
- it is `<postmaster>` without a domain (RFC 5321 section 4.5.1).

The name of this host (`config/me`) is no exception: list it if it takes mail.

Result: OK, or DENY (550).

In config/plugins:

    rcpt_ok
"""

from qpsmtpd import DENY, LOGINFO, OK, Mailbox, Parameters, Plugin, Result, Site, Transaction, dsn
from qpsmtpd.plugins._lists import Parsed


class RcptOk(Plugin):
    """Accepts mail for the domains in config/rcpthosts and refuses all other recipients."""

    def register(self, qp: Site) -> None:
        """Take no arguments."""
        self._lists = [(name, Parsed(self, name, _names)) for name in ("rcpthosts", "morercpthosts")]

    def hook_rcpt(self, transaction: Transaction, recipient: Mailbox, parameters: Parameters) -> Result:
        """Accept or refuse the recipient."""
        if self.connection.relay_client:
            self.log(LOGINFO, "pass, relay client")
            return OK
        if recipient.domain is None:
            if recipient.local_part.lower() in ("postmaster", "abuse"):
                self.log(LOGINFO, f"pass, {recipient.address} without a domain")
                return OK
        else:
            domain = recipient.domain.lower()
            for setting, listed in self._lists:
                if _covers(listed(), domain):
                    self.log(LOGINFO, f"pass, {recipient.domain} in {setting}")
                    return OK
        self.log(LOGINFO, f"fail, {recipient.domain or recipient.address} not in rcpthosts")
        return dsn.relaying_denied(DENY, "relaying denied")


def _names(values: tuple[str, ...]) -> frozenset[str]:
    return frozenset(word.lower() for value in values for word in value.split()[:1])


def _covers(names: frozenset[str], domain: str) -> bool:
    """Whether one of the names stands for a domain: itself, or a parent with a leading dot."""
    dot = 0 if domain in names else domain.find(".")
    while dot > 0 and domain[dot:] not in names:
        dot = domain.find(".", dot + 1)
    return dot >= 0
