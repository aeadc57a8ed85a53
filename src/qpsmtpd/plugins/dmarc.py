"""Follows the DMARC policies of the domains that authors write from (RFC 7489).

The owner of a domain says in the DNS what should happen to a message that has the domain in its From
field, but whose origin neither SPF nor DKIM can confirm. Such a message fails. It passes if
SPF is a pass for the same domain, or a signature by the same domain is; with relaxed
alignment, the default, domains of the same organisation count as the same (mail.example.org and
example.org). SPF and DKIM are checked by the plugins sender_permitted_from and dkim, which have
to stand before this one; let them refuse nothing. Relay clients, whitelisted clients and
those that are refused anyway are not checked.

The result is pass, fail, none (there is no policy), permerror (there is not exactly one From
field with exactly one domain) or temperror (the DNS does not answer). It stands in the header
field Authentication-Results.

A message that fails is refused where the policy says reject or quarantine: there is no other
place to put it. With the policy none it passes. A policy may be for a part of the messages only
(`pct`): for the others the next milder one is taken, so that quarantine comes to none. A message that
is a permerror is refused too (RFC 7489 section 6.6.1).

Arguments:
- `reject`: 1 refuses (the default), 0 only logs, naughty leaves it to the plugin naughty.
- `reject_type` is perm (the default), soft, disconnect or temp_disconnect.
- `reporting` is taken, and has no effect: reports to the owners of domains are not made.

Config file: `config/dmarc_whitelist` holds the networks of forwarders whose mail is not refused
though it fails, one a line, as in `config/relayclients`; what stands behind a blank is a comment.
Mailing lists and forwarders often break what SPF and DKIM check.

Note of the transaction: `dmarc_result` is the result.

Result: DECLINED, or what `reject_type` says: DENY (554) by default. A failed message lowers the
connection's karma by 3, unless it is tolerated. If the DNS does not answer, to this plugin or to
those that checked the same domain before, the message passes, and the log says so.

Needs publicsuffixlist: `pip install 'qpsmtpd[dmarc]'`.

In config/plugins, behind the plugins whose results it takes, and before naughty:

    sender_permitted_from reject 1
    dkim
    dmarc
"""

from typing import cast

from publicsuffixlist import PublicSuffixList

from qpsmtpd import DECLINED, LOGERROR, LOGINFO, LOGWARN, Plugin, Result, Site, Transaction
from qpsmtpd.networks import is_listed, parse_network
from qpsmtpd.plugins._dmarc import Identifier, Policy, alignment, only_record, parse_policy
from qpsmtpd.plugins._domains import author_domain
from qpsmtpd.plugins._lists import parse_each
from qpsmtpd.plugins._options import flag
from qpsmtpd.resolver import DnsError

_REFUSE = "reject_dmarc"


class Dmarc(Plugin):
    """Follows the DMARC policies of the domains that authors write from."""

    def register(self, qp: Site, *args: str) -> None:
        """Read the arguments. Raises ValueError, and ConfigError if dnspython is not installed."""
        if flag(self.options(args, "reporting"), "reporting"):
            self.log(LOGWARN, "reporting 1 has no effect: no reports are made here")
        self._forwarders = parse_each(self, "dmarc_whitelist", parse_network)
        self._forwarders()  # what is wrong in the file should be in the log from the start
        self._suffixes = PublicSuffixList()
        _ = qp.resolver

    async def hook_data_post_headers(self, transaction: Transaction) -> Result:
        """Find the policy, and what it says to this message."""
        if self.is_immune():
            return DECLINED
        try:
            author = author_domain(transaction.header)
        except ValueError as error:
            self._conclude(transaction, "permerror", "")
            self.log(LOGINFO, f"fail, {error}")
            transaction.notes[_REFUSE] = str(error)
            return DECLINED
        try:
            policy = await self._discover(author)
        except DnsError as error:
            self._conclude(transaction, "temperror", f" header.from={author}")
            self.log(LOGERROR, f"error, {error}")
            return DECLINED
        if policy is None:
            self._conclude(transaction, "none", f" header.from={author}")
            self.log(LOGINFO, f"skip, no policy for {author}")
            return DECLINED
        self._apply(transaction, author, policy)
        return DECLINED

    def _organisation(self, domain: str) -> str:
        """The domain that somebody has registered, and to which this one belongs (RFC 7489 section 3.2)."""
        return str(self._suffixes.privatesuffix(domain) or domain)

    async def _discover(self, author: str) -> Policy | None:
        """The policy for a domain, its own or its organisation's (RFC 7489 section 6.6.3). Raises DnsError."""
        for domain in dict.fromkeys((author, self._organisation(author))):
            found, record = only_record(await self.qp.resolver.look_up(f"_dmarc.{domain}", "TXT"))
            if found:
                return parse_policy(record, is_own=domain == author)
        return None

    def _apply(self, transaction: Transaction, author: str, policy: Policy) -> None:
        """Hold the message against the policy."""
        result, why = alignment(author, policy, _identifiers(transaction), self._organisation)
        wanted = policy.sampled(self.qp.rng.random()) if result == "fail" else "none"
        forwarded = wanted != "none" and is_listed(self.connection.remote_ip, self._forwarders())
        disposition = "none" if forwarded else wanted
        self._conclude(transaction, result, f" (p={policy.wish} dis={disposition}) header.from={author}")
        if result == "pass":
            self.log(LOGINFO, f"pass, {why}")
        elif result == "temperror":
            self.log(LOGERROR, f"error, {why}")
        elif disposition == "none":
            reason = "a forwarder" if forwarded else f"policy {policy.wish}"
            self.log(LOGINFO, f"fail, tolerated, {author}, {reason}")
        else:
            self.log(LOGINFO, f"fail, {author}, policy {policy.wish}")
            self.adjust_karma(-3)
            transaction.notes[_REFUSE] = f"{author} asks to refuse mail whose origin cannot be confirmed (DMARC)"

    def _conclude(self, transaction: Transaction, result: str, detail: str) -> None:
        transaction.notes["dmarc_result"] = result
        self.store_auth_results(f"dmarc={result}{detail}")

    def hook_data_post(self, transaction: Transaction) -> Result:
        """Refuse the message, if that is what was found."""
        why = transaction.notes.get(_REFUSE)
        if not isinstance(why, str) or self.is_immune():
            return DECLINED
        return self.get_reject(why, f"DMARC {transaction.notes.get('dmarc_result')}")


def _identifiers(transaction: Transaction) -> list[Identifier]:
    """What the plugins sender_permitted_from and dkim have found."""
    found: list[Identifier] = []
    spf = transaction.notes.get("dmarc_spf")
    if isinstance(spf, dict):
        note = cast("dict[str, object]", spf)
        found.append(Identifier("SPF", str(note.get("domain", "")), str(note.get("result", ""))))
    signatures = cast("list[tuple[str, str]]", transaction.notes.get("dkim_signatures") or [])
    return [*found, *(Identifier("DKIM", domain, result) for domain, result in signatures)]
