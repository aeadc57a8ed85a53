"""Keeps clients and users from sending more than so much in a time.

Arguments, in pairs; a limit is a number and a time in seconds, or with s, m, h or d behind it:
- `connections 60/1m`: connections of a client,
- `mails 100/1h`: mails of a client,
- `recipients 1000/1d`: recipients that a client names,
- `user_mails`, `user_recipients`: the same of a user who has authenticated, from wherever;
  these find an account whose password has become known.
- `sender_mails`: mails of one envelope sender from clients that have limits; bounces, which have none, do not count,
- `recipient_mails`: the same to one recipient. Senders are easily forged, and whoever likes can use up both; so
  these should be high.
- `ipv6_prefix`: how many bits of an IPv6 address make a client, 64 by default.
- `reject 0`: only log.

At least one limit is needed; to have several of a kind, load the plugin as `rate_limit:0`, `rate_limit:1`.
The count begins with the first of a kind, and ends with the time. Relay clients and
whitelisted ones count for their users only. What is refused counts too, so that who never
waits does not get in.

The counts are in the store (`config/store`): the workers of a machine count together, and with
Redis several machines do.

Result: DENYSOFT (421 at connect, 450 at MAIL and RCPT) above a limit, else DECLINED. If the
store cannot be used, everybody is let in, and the log says `error, ...`.

In config/plugins, before the plugins that take time:

    rate_limit connections 60/1m recipients 1000/1d user_recipients 500/1d
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from qpsmtpd import (
    DECLINED,
    DENYSOFT,
    LOGERROR,
    Mailbox,
    Parameters,
    Plugin,
    Result,
    Site,
    Transaction,
    blocking,
)
from qpsmtpd.plugins._clients import network_of, prefix_length
from qpsmtpd.store import StoreError

_LIMIT = re.compile(r"([1-9][0-9]{0,8})/([1-9][0-9]{0,8})([smhd]?)")
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_OF_CLIENT = ("connections", "mails", "recipients")
_OF_USER = ("user_mails", "user_recipients")
_OF_ADDRESS = ("sender_mails", "recipient_mails")
_KINDS = (*_OF_CLIENT, *_OF_USER, *_OF_ADDRESS)


@dataclass(frozen=True, slots=True)
class _Limit:
    """So many in so many seconds."""

    most: int
    seconds: int

    @classmethod
    def parse(cls, text: str) -> "_Limit":
        """Read `100/1h`. Raises ValueError."""
        match = _LIMIT.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is no limit such as 100/1h")
        return cls(int(match[1]), int(match[2]) * _UNITS[match[3]])


class RateLimit(Plugin):
    """Keeps clients and users from sending more than so much in a time."""

    shared_arguments = ("reject", "loglevel")

    def register(self, qp: Site, *args: str) -> None:
        """Read the arguments, and serve the hooks that have limits. Raises ValueError."""
        options = self.options(args, *_KINDS, "ipv6_prefix")
        self._limits = {kind: _Limit.parse(options[kind]) for kind in _KINDS if kind in options}
        if not self._limits:
            raise ValueError(f"at least one limit is needed: {', '.join(_KINDS)}")
        self._prefix = prefix_length(options.get("ipv6_prefix", "64"))
        self._store = qp.store(self.plugin_name.replace(":", "."))
        if "connections" in self._limits:
            self.register_hook("connect", self.count_connection)
        if self._limits.keys() & {"mails", "user_mails", "sender_mails"}:
            self.register_hook("mail", self.count_mail)
        if self._limits.keys() & {"recipients", "user_recipients", "recipient_mails"}:
            self.register_hook("rcpt", self.count_recipient)

    @blocking
    def count_connection(self, transaction: Transaction) -> Result:
        """Serve the hook connect."""
        return self._count({"connections": self._client()})

    @blocking
    def count_mail(self, transaction: Transaction, sender: Mailbox, parameters: Parameters) -> Result:
        """Serve the hook mail."""
        client = self._client()
        return self._count({
            "mails": client,
            "user_mails": self.auth_user,
            "sender_mails": sender.address.lower() if client else "",
        })  # fmt: skip

    @blocking
    def count_recipient(self, transaction: Transaction, recipient: Mailbox, parameters: Parameters) -> Result:
        """Serve the hook rcpt."""
        client = self._client()
        return self._count({
            "recipients": client,
            "user_recipients": self.auth_user,
            "recipient_mails": recipient.address.lower() if client else "",
        })  # fmt: skip

    def _count(self, counted: Mapping[str, str]) -> Result:
        """Count one more of each kind for whom it is, nobody where that is empty; the first too many decides."""
        result: Result = DECLINED
        for kind, who in counted.items():
            limit = self._limits.get(kind)
            if limit is None or not who:
                continue
            try:
                total = self._store.add(f"{kind} {who}", 1, limit.seconds)
            except StoreError as error:
                self.log(LOGERROR, f"error, {error}")
                continue
            if total > limit.most and result is DECLINED:
                result = self._refuse(kind, who, limit)
        return result

    def _client(self) -> str:
        """Which client it is, empty if it has no limits."""
        return "" if self.is_immune() else network_of(self.connection.remote_ip, self._prefix)

    def _refuse(self, kind: str, who: str, limit: _Limit) -> Result:
        whose = "to this recipient" if kind == "recipient_mails" else "from you"
        text = f"too many {kind.rpartition('_')[2]} {whose}, please try again later"
        result = self.get_reject(text, f"{who}: more than {limit.most} {kind} in {limit.seconds} s")
        return result if result is DECLINED else (DENYSOFT, text)
