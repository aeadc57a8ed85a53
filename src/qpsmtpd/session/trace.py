"""The trace field (RFC 5321 section 4.4)."""

import re

from qpsmtpd.session.connection import Connection
from qpsmtpd.session.transaction import Transaction

__all__ = ["received_field"]

_UNSAFE = re.compile(r"[^A-Za-z0-9.:_\[\]\-]")


def received_field(connection: Connection, transaction: Transaction, hostname: str, protocol: str, date: str) -> bytes:
    """The Received field for a message, CRLF included.

    The recipient is named only where there is just one: others are nobody's business.
    """
    hello = _UNSAFE.sub("?", connection.hello_host or "unknown")[:255]
    who = f"[{connection.remote_ip}]"
    if connection.remote_host != who:
        who = f"{connection.remote_host} {who}"
    recipients = transaction.recipients
    only = f"\r\n\tfor {recipients[0].path}" if len(recipients) == 1 and recipients[0].is_ascii else ""
    return (
        f"Received: from {hello} ({who})\r\n"
        f"\tby {hostname} (qpsmtpd) with {protocol} id {transaction.id}{only};\r\n"
        f"\t{date}\r\n"
    ).encode("ascii", "replace")
