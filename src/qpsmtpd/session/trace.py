"""The fields a server puts on top: Received (RFC 5321 section 4.4), Authentication-Results (RFC 8601)."""

import re
from functools import lru_cache
from typing import cast

from qpsmtpd.session.connection import Connection
from qpsmtpd.session.message import make_field
from qpsmtpd.session.transaction import Transaction

__all__ = ["AUTHENTICATION_RESULTS", "authentication_results_field", "from_clause", "received_field"]

AUTHENTICATION_RESULTS = "authentication_results"
"""The note, of connection or transaction, that keeps a list of results such as `spf=pass`."""

_PLAIN_VALUE = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~@.\-]+")
_UNQUOTABLE = re.compile(r"[^ -~]")
_USER = 255  # characters of a user name that a field shows
_UNSAFE = re.compile(r"[^A-Za-z0-9.:_\[\]\-]")


def from_clause(connection: Connection) -> str:
    """Who the client says it is, reduced to harmless characters, and who it is."""
    hello = _UNSAFE.sub("?", connection.hello_host or "unknown")[:255]
    address, host = f"[{connection.remote_ip}]", connection.remote_host
    return f"from {hello} ({address if host == address else f'{host} {address}'})"


def received_field(from_: str, by: str, transaction: Transaction, date: str) -> bytes:
    """The Received field for a message, CRLF included.

    The recipient is named only where there is just one: others are nobody's business.
    """
    recipient = transaction.sole_recipient
    only = f"\r\n\tfor {recipient.path}" if recipient is not None and recipient.is_ascii else ""
    return f"Received: {from_}\r\n\t{by} id {transaction.id}{only};\r\n\t{date}\r\n".encode("ascii", "replace")


def authentication_results_field(hostname: str, connection: Connection, transaction: Transaction) -> bytes:
    """The Authentication-Results field for a message, CRLF included (RFC 8601 section 2.2).

    It holds what plugins have stored about the connection and about this transaction.
    """
    results = f"{hostname}; {_auth_result(connection)}"
    for notes in (connection.notes, transaction.notes):
        stored = notes.get(AUTHENTICATION_RESULTS)
        if stored:
            further = cast("list[object]", stored) if isinstance(stored, list) else [stored]
            results = "; ".join([results, *map(str, further)])
    return _results_field(results)


def _auth_result(connection: Connection) -> str:
    """How AUTH has ended (RFC 8601 section 2.7.4)."""
    tried = connection.authentication
    if tried is None:
        return "auth=none"
    user = tried.user[:_USER]
    if not _PLAIN_VALUE.fullmatch(user):
        user = '"' + _UNQUOTABLE.sub("?", user).replace("\\", "\\\\").replace('"', '\\"') + '"'
    return f"auth={'pass' if tried.succeeded else 'fail'} ({tried.mechanism}) smtp.auth={user}"


@lru_cache(256)  # most messages have the same
def _results_field(results: str) -> bytes:
    return make_field("Authentication-Results", results)
