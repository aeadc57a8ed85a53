"""Accepts MAIL FROM:user@example.org, without the angle brackets that RFC 5321 asks for.

For old clients, and for people who test by hand. The brackets are added before the
address is read; it must be a good one all the same.

Arguments: none.

Result: OK with the path.

In config/plugins:

    dont_require_anglebrackets
"""

from qpsmtpd import OK, Parameters, Plugin, Result, Site, Transaction


class DontRequireAnglebrackets(Plugin):
    """Accepts MAIL FROM:user@example.org, without the angle brackets that RFC 5321 asks for."""

    def register(self, qp: Site) -> None:
        """Take no arguments."""

    def hook_mail_pre(self, transaction: Transaction, path: str, parameters: Parameters) -> Result:
        """Add the brackets to a sender."""
        return OK, _bracketed(path)

    def hook_rcpt_pre(self, transaction: Transaction, path: str, parameters: Parameters) -> Result:
        """Add the brackets to a recipient."""
        return OK, _bracketed(path)


def _bracketed(path: str) -> str:
    if not path or (path.startswith("<") and path.endswith(">")):
        return path  # nothing at all is an error, not the null sender
    return f"<{path}>"
