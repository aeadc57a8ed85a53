r"""Answers for recipients by a list of addresses and regular expressions.

A line of `config/rcpt_regexp` is an address, or a regular expression (Python's) between
slashes, then a return code, then the text for the client if you like:

    me@example.org         OK
    info@example.org       DENY      this address is not used any more
    /^(ann|bob)(\+.*)?@/   DECLINED
    /@example\.org$/       DENY      no such user
    /@shop\.example$/      DENYSOFT  closed over the holidays

The first line that matches decides. Case does not count. An expression matches anywhere in
an address, so anchor it with ^ and $; it holds no blanks. The codes are OK (the recipient
is accepted, whatever plugins behind this one say), DECLINED (they decide), DENY, DENYSOFT,
DENY_DISCONNECT and DENYSOFT_DISCONNECT. A line that makes no sense is logged and left out.

`<postmaster>` without a domain is left to others. Where there is an expression, a
recipient of more than 320 characters is refused: RFC 5321 section 4.5.3.1 knows none that
long, and some expressions take very long over them.

Arguments: none.

Result: what the line says; DECLINED where none matches.

In config/plugins, before rcpt_ok:

    rcpt_regexp
"""

import re
from dataclasses import dataclass

from qpsmtpd import DECLINED, DENY, LOGDEBUG, LOGINFO, OK, Mailbox, Parameters, Plugin, Result, Site, Transaction, dsn
from qpsmtpd.plugins._answers import Answer, parse_answer
from qpsmtpd.plugins._lists import ADDRESS_LIMIT, compiled, parse_each


class RcptRegexp(Plugin):
    """Answers for recipients by a list of addresses and regular expressions."""

    def register(self, qp: Site) -> None:
        """Take no arguments."""
        self._rules = parse_each(self, "rcpt_regexp", _parse_rule)
        self._rules()  # what is wrong in the file should be in the log from the start

    def hook_rcpt(self, transaction: Transaction, recipient: Mailbox, parameters: Parameters) -> Result:
        """Find the first line that matches."""
        if recipient.domain is None:
            self.log(LOGDEBUG, "skip, no domain")
            return DECLINED
        address = recipient.address.lower()
        for rule in self._rules():
            if rule.expression is not None and len(address) > ADDRESS_LIMIT:
                self.log(LOGINFO, f"fail, an address of {len(address)} characters")
                return dsn.addr_bad_dest_syntax(DENY, "this address is too long")
            if rule.matches(address):
                code = rule.answer[0]
                word = "pass" if code in (OK, DECLINED) else "fail"
                self.log(LOGINFO, f"{word}, {code.name} for {rule.text}")
                return rule.answer
        self.log(LOGDEBUG, "pass, not listed")
        return DECLINED


@dataclass(frozen=True, slots=True)
class _Rule:
    text: str
    """An address in lower case, or the expression as written."""
    expression: re.Pattern[str] | None
    answer: Answer

    def matches(self, address: str) -> bool:
        if self.expression is None:
            return self.text == address
        return self.expression.search(address) is not None


def _parse_rule(line: str) -> _Rule:
    word, answer = (*line.split(None, 1), "", "")[:2]
    if len(word) > 1 and word.startswith("/") and word.endswith("/"):
        return _Rule(word, compiled(word[1:-1]), parse_answer(answer))
    if "@" not in word:
        raise ValueError("neither an address nor a regular expression between slashes")
    return _Rule(word.lower(), None, parse_answer(answer))
