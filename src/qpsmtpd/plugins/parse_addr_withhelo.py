"""Lets clients that have said HELO give no parameters to MAIL and RCPT.

Parameters came with EHLO (RFC 1869); RFC 821 knows none. Without this plugin they are
taken from either kind of client.

The path without angle brackets that some old clients send is handed on if it holds an `@`;
the plugin `dont_require_anglebrackets` makes it good. `MAIL FROM:` with nothing behind it
counts as the null sender. Clients that have said EHLO are none of this plugin's business.

Arguments: none.

Result: for a client that has said HELO, OK with a parser that gives the path, or DENY (501).

In config/plugins:

    parse_addr_withhelo
"""

from qpsmtpd import DECLINED, DENY, OK, Plugin, Result, Site, Transaction
from qpsmtpd.plugin import ParseHookResult
from qpsmtpd.protocol import SyntaxProblem
from qpsmtpd.protocol.commands import parse_path_argument


class ParseAddrWithHelo(Plugin):
    """Lets clients that have said HELO give no parameters to MAIL and RCPT."""

    def register(self, qp: Site) -> None:
        """Take no arguments."""

    def hook_mail_parse(self, transaction: Transaction, argument: str) -> ParseHookResult:
        """Give the parser to a client that has said HELO."""
        return self._parser()

    def hook_rcpt_parse(self, transaction: Transaction, argument: str) -> ParseHookResult:
        """Give the parser to a client that has said HELO."""
        return self._parser()

    def _parser(self) -> ParseHookResult:
        return (OK, _parse) if self.connection.hello == "helo" else DECLINED


def _parse(command: str, rest: str) -> Result:
    """The path in `rest`, as sent."""
    keyword = "FROM:" if command == "mail" else "TO:"
    if command == "mail" and rest.strip().upper() == keyword:
        return OK, "<>"
    parsed = parse_path_argument(keyword, rest)
    if isinstance(parsed, SyntaxProblem):
        return DENY, f"{command.upper()} {keyword}<address> is what is needed, and nothing behind it"
    path, parameters = parsed
    if parameters:
        return DENY, f"parameters of {command.upper()} come with EHLO only"
    if not path.startswith("<") and "@" not in path:
        return DENY, "this is no address"
    return OK, path
