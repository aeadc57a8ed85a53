"""Lets clients leave out the angle brackets around addresses in MAIL and RCPT.

Arguments: none.
"""

from qpsmtpd import OK, HookResult, Parameters, Plugin, Transaction

__all__ = ["DontRequireAngleBrackets"]


class DontRequireAngleBrackets(Plugin):
    """Adds missing angle brackets to addresses."""

    def hook_mail_pre(self, transaction: Transaction, path: str, parameters: Parameters) -> HookResult:
        return OK, _bracketed(path)

    def hook_rcpt_pre(self, transaction: Transaction, path: str, parameters: Parameters) -> HookResult:
        return OK, _bracketed(path)


def _bracketed(path: str) -> str:
    return path if path.startswith("<") and path.endswith(">") else f"<{path}>"
