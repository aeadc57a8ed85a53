"""Accepts mail for the domains in config/rcpthosts and refuses all other recipients.

Put it behind the other plugins that check recipients: it has the last word.

A recipient is accepted if
- the client may relay (see the plugin `relay`),
- its domain is in `config/rcpthosts` or `config/morercpthosts`, one a line: `example.org`
  stands for itself, `.example.org` for every name below it; case does not count,
- its domain is in `config/morercpthosts.cdb`, which qmail's `qmail-newmrh` makes of such a
  list, for many thousands of domains,
- it is `<postmaster>` or `<abuse>` without a domain (RFC 5321 section 4.5.1, RFC 2142).

The name of this host (`config/me`) is no exception: list it if it takes mail.

Result: OK, or DENY (550); DENYSOFT (450) for a recipient that only `morercpthosts.cdb`
could know, if that cannot be read.

In config/plugins:

    rcpt_ok
"""

from collections.abc import Iterator

from qpsmtpd import DENY, DENYSOFT, LOGERROR, LOGINFO, OK, Mailbox, Parameters, Plugin, Result, Site, Transaction, dsn
from qpsmtpd.plugins._cdb import find_key
from qpsmtpd.plugins._lists import Parsed

_DATABASE = "morercpthosts.cdb"
_DOMAIN_LIMIT = 255  # RFC 5321 section 4.5.3.1; a look-up for each label of a longer one would take long


class RcptOk(Plugin):
    """Accepts mail for the domains in config/rcpthosts and refuses all other recipients."""

    def register(self, qp: Site) -> None:
        """Take no arguments."""
        self._lists = [(name, Parsed(self, name, _names)) for name in ("rcpthosts", "morercpthosts")]
        self._directory = qp.settings.directory

    def hook_rcpt(self, transaction: Transaction, recipient: Mailbox, parameters: Parameters) -> Result:
        """Accept or refuse the recipient."""
        if self.connection.relay_client:
            self.log(LOGINFO, "pass, relay client")
            return OK
        if recipient.domain is not None:
            return self._judge(recipient.domain.lower())
        if recipient.local_part.lower() in ("postmaster", "abuse"):
            self.log(LOGINFO, f"pass, {recipient.address} without a domain")
            return OK
        return self._deny(recipient.address)

    def _judge(self, domain: str) -> Result:
        """The result for a domain."""
        try:
            listed = next((setting for setting, names in self._lists if _covers(names(), domain)), None)
            if listed is None and not self._is_in_database(domain):
                return self._deny(domain)
        except (OSError, ValueError) as error:
            self.log(LOGERROR, f"error, {_DATABASE}: {error}")
            return dsn.sys_unspecified(DENYSOFT, "we cannot tell at present whether we take mail for this domain")
        self.log(LOGINFO, f"pass, {domain} in {listed or _DATABASE}")
        return OK

    def _is_in_database(self, domain: str) -> bool:
        if self._directory is None or len(domain) > _DOMAIN_LIMIT:
            return False
        return find_key(self._directory / _DATABASE, _covering(domain)) is not None

    def _deny(self, what: str) -> Result:
        self.log(LOGINFO, f"fail, {what} not in rcpthosts")
        return dsn.relaying_denied(DENY, "relaying denied")


def _names(values: tuple[str, ...]) -> frozenset[str]:
    return frozenset(word.lower() for value in values for word in value.split()[:1])


def _covers(names: frozenset[str], domain: str) -> bool:
    """Whether one of the names stands for a domain."""
    return any(name in names for name in _covering(domain))


def _covering(domain: str) -> Iterator[str]:
    """The names that stand for a domain: itself, and each parent with a leading dot."""
    yield domain
    dot = domain.find(".", 1)
    while dot > 0:
        yield domain[dot:]
        dot = domain.find(".", dot + 1)
