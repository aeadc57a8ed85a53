"""Accepts mail for the domains in `config/rcpthosts` and `config/morercpthosts`, one a line.

A line that begins with a dot stands for all names below that domain. Relay clients (see the
plugin `relay`) may send to anywhere. `<postmaster>` and `<abuse>` without a domain are taken.
All others are refused, so this is the last plugin that serves the hook `rcpt`.

Arguments: none.
"""

from qpsmtpd import DENY, LOGINFO, OK, HookResult, Mailbox, Parameters, Plugin, Transaction

__all__ = ["RcptOk"]


class RcptOk(Plugin):
    """Accepts recipients in config/rcpthosts and config/morercpthosts."""

    def hook_rcpt(self, transaction: Transaction, recipient: Mailbox, parameters: Parameters) -> HookResult:
        reason = self._reason(recipient)
        if reason is None:
            self.log(LOGINFO, f"fail, {recipient.path}: relaying denied")
            return DENY, "relaying denied"
        self.log(LOGINFO, f"pass, {reason}")
        return OK

    def _reason(self, recipient: Mailbox) -> str | None:
        """Why this recipient is ours; None if it is not."""
        if recipient.domain is None:
            return "local part without a domain" if recipient.user in ("postmaster", "abuse") else None
        host = recipient.domain.lower()
        for setting in ("rcpthosts", "morercpthosts"):
            for line in self.qp.config(setting):
                allowed = line.split()[0].lower()
                if host == allowed or (allowed.startswith(".") and host.endswith(allowed)):
                    return f"{host} in {setting}"
        return "relay client" if self.connection.relay_client else None
