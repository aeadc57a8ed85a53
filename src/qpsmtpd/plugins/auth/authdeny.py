"""Lets nobody in: for trials of AUTH, not for use.

AUTH is offered with PLAIN, LOGIN and CRAM-MD5, and whoever tries it is told 535. Plugins for
these mechanisms, and those of the hook `auth` that stand before, are asked first.

Arguments: none.

Result: DECLINED, with a text.

In config/plugins:

    auth/authdeny
"""

from qpsmtpd import DECLINED, LOGWARN, Plugin, Result, Site, Transaction


class AuthDeny(Plugin):
    """Lets nobody in: for trials of AUTH, not for use."""

    def register(self, qp: Site) -> None:
        """Take no arguments."""

    def hook_auth(  # noqa: PLR0917 - a hook's arguments
        self,
        transaction: Transaction,
        mechanism: str,
        user: str,
        password: str | None,
        digest: str | None,
        ticket: str | None,
    ) -> Result:
        self.log(LOGWARN, f"fail, {user} by {mechanism}: nobody can authenticate here")
        return DECLINED, "you are not free to abuse my relay"
