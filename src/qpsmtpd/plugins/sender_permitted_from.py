"""Checks whether the client may send mail for the sender's domain (SPF, RFC 7208).

The owner of a domain says in the DNS which hosts send its mail. This plugin asks at MAIL, for
the domain of the sender, or for the name that the client gives itself where the sender is
empty, as that of a bounce is. Relay clients, whitelisted clients and those that are refused
anyway are not checked.

The result is pass, fail, softfail, neutral, none (there is no policy), permerror (the policy
makes no sense) or temperror (the DNS does not answer). It is shown in the header fields
Received-SPF and Authentication-Results.

Arguments:
- `reject LEVEL`: what is refused; each level refuses what the lower ones do, or more:
    - 0: nothing (the default),
    - 1: nothing, but fail and softfail lower the connection's karma by 1, as on all higher levels,
    - 2: fail and temperror for now (450),
    - 3: fail for good (550), softfail for now,
    - 4: softfail for good, permerror for now,
    - 5: neutral for good,
    - 6: permerror and none for good.
- `no_dmarc_policy LEVEL`: what is refused behind the content if the plugin dmarc has found that
  the domain of the author has no policy: 0 nothing (the default), 1 fail, 2 softfail too,
  3 neutral too, 4 permerror and none too. For use with `reject 0` or `reject 1`.
- `spf_deny 1` and `spf_deny 2` are old names of `reject 3` and `reject 4`.

Level 3 is a good choice without the plugin dmarc, level 1 with it, since mail that has been
forwarded fails here though it is genuine. A name that the client gives itself is never refused for
none: hardly any has a policy.

Config file: `config/spfbehavior` holds the level where the argument is missing or 0.

Notes of the transaction: `spfquery` is the result; `spf_pass_host` is the domain, if the result
is pass; `dmarc_spf` is a dict of domain, scope (mfrom or helo) and result.

Result: DECLINED, or DENY or DENYSOFT as above. A pass raises the connection's karma by 1. If the
DNS does not answer the sender passes on levels 0 and 1. A check takes 20 seconds at most, apart
from the look-up that runs then, which has `config/timeoutdns`; it makes no more look-ups than RFC 7208
section 4.6.4 allows.

Needs pyspf: `pip install 'qpsmtpd[spf]'`.

In config/plugins, before rcpt_ok, and before dmarc if you use that:

    sender_permitted_from reject 3
"""

import importlib
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from qpsmtpd import (
    DECLINED,
    DENY,
    DENYSOFT,
    LOGDEBUG,
    LOGERROR,
    LOGINFO,
    Mailbox,
    Parameters,
    Plugin,
    Result,
    Site,
    Transaction,
    blocking,
)
from qpsmtpd.config import ConfigError
from qpsmtpd.plugins._domains import ascii_domain
from qpsmtpd.plugins._lists import parse_each
from qpsmtpd.resolver import DnsError, Resolver

_SECONDS = 20.0  # RFC 7208 section 4.6.4
_LONGEST_RECORD = 8192
_NEVER = 99

_REFUSED_FROM: Mapping[str, tuple[int, int]] = {
    "fail": (2, 3),
    "softfail": (3, 4),
    "neutral": (5, 5),
    "none": (6, 6),
    "permerror": (4, 6),
    "temperror": (2, _NEVER),
    "pass": (_NEVER, _NEVER),
}
"""The levels of `reject` from which on a result is refused: for now, for good."""

_REFUSED_WITHOUT_DMARC = {"fail": 1, "softfail": 2, "neutral": 3, "none": 4, "permerror": 4}
"""The levels of `no_dmarc_policy` from which on a result is refused."""

_MEANING = {
    "pass": "{ip} may send mail of {domain}",
    "fail": "{ip} may not send mail of {domain}",
    "softfail": "{ip} should not send mail of {domain}",
    "neutral": "{domain} does not say whether {ip} may send its mail",
    "none": "{domain} has no policy",
    "permerror": "the policy of {domain} makes no sense",
    "temperror": "the policy of {domain} cannot be looked up now",
}

_NOT_PRINTABLE = re.compile(r"[^ -~]")
_LONGEST_VALUE = 320  # characters of what the client says that a field shows


class SenderPermittedFrom(Plugin):
    """Checks whether the client may send mail for the sender's domain (SPF)."""

    shared_arguments = ("loglevel",)  # `reject` is a level here

    def register(self, qp: Site, *args: str) -> None:
        """Read the arguments. Raises ValueError, and ConfigError if a library is not installed."""
        options = self.options(args, "reject", "no_dmarc_policy", "spf_deny")
        self._fixed_reject = _level(options, "reject", 6)
        old = _level(options, "spf_deny", 2)
        if old:
            self._fixed_reject = 2 + old
        self._no_dmarc_policy = _level(options, "no_dmarc_policy", 4)
        self._behavior = parse_each(self, "spfbehavior", lambda text: _number("spfbehavior", text, 6))
        self._behavior()  # what is wrong in the file should be in the log from the start
        self._spf = _library()
        _ = qp.resolver

    @property
    def _reject(self) -> int:
        return self._fixed_reject or next(iter(self._behavior()), 0)

    @blocking
    def hook_mail(self, transaction: Transaction, sender: Mailbox, parameters: Parameters) -> Result:
        """Ask for the policy of the domain, and follow it."""
        if self.is_immune():
            return DECLINED
        claim = _claim(sender, self.connection.hello_host or "", self.connection.remote_ip)
        if not claim.domain or not self.is_valid_ip(claim.ip):
            self.log(LOGINFO, "skip, there is no domain to ask about" if not claim.domain else "skip, no IP address")
            return DECLINED
        result, why = self._evaluate(claim)
        transaction.notes["spfquery"] = result
        transaction.notes["dmarc_spf"] = {"domain": claim.domain, "scope": claim.scope, "result": result}
        transaction.notes[_CLAIM] = claim
        self.store_auth_results(f"spf={result} smtp.{_IDENTITIES[claim.scope]}={claim.domain}")
        if result == "pass":
            transaction.notes["spf_pass_host"] = claim.domain
            self.adjust_karma(1)
            self.log(LOGINFO, f"pass, {why}")
            return DECLINED
        return self._judge(claim, result, why)

    def _evaluate(self, claim: "_Claim") -> tuple[str, str]:
        """The result, and why it is so, for the log."""
        query = self._spf.query(claim.ip, claim.address, claim.helo, receiver=self.qp.hostname)
        # pyspf looks for the first @, which may be one in a quoted local part.
        query.l, query.o, query.d = claim.local_part, claim.domain, claim.domain
        # The explanation would be the sender's text in our reply, and it costs a look-up.
        query.get_explanation = _no_explanation
        query.dns = _LookUps(self._spf, self.qp.resolver, self.qp.clock, self.qp.clock() + _SECONDS)
        try:
            result = query.check()[0]
        except Exception as error:  # noqa: BLE001 - pyspf raises anything for records that make no sense
            self.log(
                LOGERROR, f"error, pyspf cannot read the policy of {claim.domain}: {type(error).__name__}: {error}"
            )
            return "permerror", type(error).__name__
        if result not in _REFUSED_FROM:
            return "permerror", f"pyspf says {result!r}"
        reason = query.prob if result.endswith("error") else query.mechanism
        return result, f"{claim.domain}: {reason or 'nothing matches'}"

    def _judge(self, claim: "_Claim", result: str, why: str) -> Result:
        level = self._reject
        if not level:
            self.log(LOGINFO, f"skip, tolerated, {result}, {why}")
            return DECLINED
        if result in {"fail", "softfail"}:
            self.adjust_karma(-1)
        for_now, for_good = _REFUSED_FROM[result]
        if level < for_now or (result == "none" and claim.scope == "helo"):
            self.log(LOGINFO, f"fail, tolerated, {result}, {why}")
            return DECLINED
        self.log(LOGINFO, f"fail, {result}, {why}")
        return (DENY if level >= for_good else DENYSOFT), f"SPF {result}: {claim.meaning(result)}"

    def hook_data_post(self, transaction: Transaction) -> Result:
        """Show the result in the header; refuse by it where the plugin dmarc has found no policy."""
        claim, result = transaction.notes.get(_CLAIM), transaction.notes.get("spfquery")
        if not isinstance(claim, _Claim) or not isinstance(result, str) or self.is_immune():
            return DECLINED
        transaction.header.add("Received-SPF", claim.received_spf(result, self.qp.hostname), 0)
        if not self._no_dmarc_policy or transaction.notes.get("dmarc_result") != "none":
            return DECLINED
        tolerated = result == "none" and claim.scope == "helo"
        if tolerated or self._no_dmarc_policy < _REFUSED_WITHOUT_DMARC.get(result, _NEVER):
            self.log(LOGDEBUG, f"pass, {result}, there is no DMARC policy")
            return DECLINED
        self.log(LOGINFO, f"fail, {result}, there is no DMARC policy")
        return DENY, f"SPF {result}: {claim.meaning(result)}"


_CLAIM = "sender_permitted_from_claim"
_IDENTITIES = {"mfrom": "mailfrom", "helo": "helo"}  # RFC 8601 section 2.7.2


@dataclass(frozen=True, slots=True)
class _Claim:
    """Who says to send mail of which domain."""

    ip: str
    scope: str
    local_part: str
    domain: str
    """Empty if there is none that could be asked about."""
    helo: str

    @property
    def address(self) -> str:
        return f"{self.local_part}@{self.domain}"

    def meaning(self, result: str) -> str:
        return _MEANING[result].format(ip=self.ip, domain=self.domain)

    def received_spf(self, result: str, receiver: str) -> str:
        """The body of the field (RFC 7208 section 9.1)."""
        return (
            f"{result} ({receiver}: {self.meaning(result)})\n"
            f"client-ip={self.ip}; envelope-from={_quoted(self.address)};\n"
            f"helo={_quoted(self.helo)}; receiver={receiver}; identity={_IDENTITIES[self.scope]}"
        )


def _claim(sender: Mailbox, hello_host: str, ip: str) -> _Claim:
    helo = ascii_domain(hello_host)
    if sender.domain:
        domain = ascii_domain(sender.domain)
        return _Claim(ip, "mfrom", sender.local_part or "postmaster", domain, helo or "unknown")
    return _Claim(ip, "helo", "postmaster", helo, helo or "unknown")  # RFC 7208 section 2.4


def _quoted(text: str) -> str:
    shown = _NOT_PRINTABLE.sub("?", text[:_LONGEST_VALUE])
    return '"' + shown.replace("\\", "\\\\").replace('"', '\\"') + '"'


@dataclass(slots=True)
class _LookUps:
    """What pyspf asks in one evaluation; takes the place of its method `dns`, which counts the same."""

    spf: Any
    resolver: Resolver
    clock: Callable[[], float]
    deadline: float
    void: int = 0

    def __call__(self, name: str, kind: str, cnames: object = None, ignore_void: bool = False) -> list[object]:
        """The records as pyspf wants them. Raises its TempError and PermError."""
        if self.clock() >= self.deadline:
            raise self.spf.TempError("it takes too long")
        try:
            found = self.resolver.look_up_blocking(name, kind)
        except DnsError as error:
            raise self.spf.TempError(str(error)) from error
        if not found and not ignore_void:
            self.void += 1
            if self.void > self.spf.MAX_VOID_LOOKUPS:
                raise self.spf.PermError("too many look-ups find nothing")
        match kind:
            case "TXT":
                return [(self._text(text),) for text in found]
            case "MX":  # in their order
                return [*enumerate(found)]
            case _:
                return [*found]

    def _text(self, text: str) -> bytes:
        octets = text.encode("utf-8", "surrogateescape")
        if len(octets) > _LONGEST_RECORD and self.spf.RE_SPF.match(octets):
            raise self.spf.PermError("the policy is too long")
        return octets


def _no_explanation(spec: str) -> None:
    """Take the place of pyspf's method that looks up what the domain tells those who fail."""


def _level(options: Mapping[str, str], name: str, most: int) -> int:
    return _number(name, options.get(name, "0"), most)


def _number(name: str, text: str, most: int) -> int:
    """A level. Raises ValueError."""
    if not (text.isascii() and text.isdecimal() and int(text) <= most):
        raise ValueError(f"{name} {text!r} is no level from 0 to {most}")
    return int(text)


def _library() -> Any:
    try:
        with warnings.catch_warnings(action="ignore"):  # a docstring of pyspf 2.0 has a bad escape sequence
            return importlib.import_module("spf")
    except ModuleNotFoundError:
        raise ConfigError("SPF needs pyspf; run `pip install 'qpsmtpd[spf]'`") from None
