"""What plugin authors write; both type checkers find nothing to say."""

from typing import assert_type

from qpsmtpd import DECLINED, DENY, OK, Mailbox, Parameters, Plugin, Result, Transaction, blocking, dsn
from qpsmtpd.plugin import ParseHookResult
from qpsmtpd.protocol.hooks import PreConnection
from qpsmtpd.testing import Call, Client, Kit


class Right(Plugin):
    def hook_pre_connection(self, transaction: Transaction, arrival: PreConnection) -> Result:
        return (DENY, "no") if arrival.remote_ip == "192.0.2.1" else DECLINED

    async def hook_mail(self, transaction: Transaction, sender: Mailbox, parameters: Parameters) -> Result:
        assert_type(self.qp.config("setting", sender), tuple[str, ...])
        return None

    @blocking
    def hook_rcpt(self, transaction: Transaction, recipient: Mailbox, parameters: Parameters) -> Result:
        return dsn.no_such_user() if recipient.local_part == "x" else OK

    def hook_rcpt_parse(self, transaction: Transaction, argument: str) -> ParseHookResult:
        return OK, self.parse

    def parse(self, command: str, rest: str) -> Result:
        return OK, f"<{rest}>"


kit = Kit(Right, "rcpt_ok", config={"rcpthosts": ["example.org"]})
assert_type(kit.connect(), Client)
assert_type(kit.calls("rcpt"), list[Call])
