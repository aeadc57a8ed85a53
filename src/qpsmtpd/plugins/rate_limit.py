"""Keeps clients and users from sending more than so much in a time.

Arguments, in pairs; a limit is a number and a time in seconds, or with s, m, h or d behind it:
- `connections 60/1m`: connections of a client,
- `mails 100/1h`: mails of a client,
- `recipients 1000/1d`: recipients that a client names,
- `user_mails`, `user_recipients`: the same of a user who has authenticated, from wherever;
  these find an account whose password has become known.
- `ipv6_prefix`: how many bits of an IPv6 address make a client, 64 by default.
- `reject 0`: only log.

At least one limit is needed; to have several of a kind, load the plugin as `rate_limit:0`, `rate_limit:1`.
The count begins with the first of a kind, and ends with the time. Relay clients and
whitelisted ones have no limits as clients. What is refused counts too, so that who never
waits does not get in.

The counts are in the store (`config/store`): the workers of a machine count together, and with
Redis several machines do.

Result: DENYSOFT (421 at connect, 450 at MAIL and RCPT) above a limit, else DECLINED. If the
store cannot be used, everybody is let in, and the log says `error, ...`.

In config/plugins, before the plugins that take time:

    rate_limit connections 60/1m recipients 1000/1d user_recipients 500/1d
"""

import re
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
        options = self.options(args, *_OF_CLIENT, *_OF_USER, "ipv6_prefix")
        self._limits = {kind: _Limit.parse(options[kind]) for kind in (*_OF_CLIENT, *_OF_USER) if kind in options}
        if not self._limits:
            raise ValueError(f"at least one limit is needed: {', '.join((*_OF_CLIENT, *_OF_USER))}")
        self._prefix = prefix_length(options.get("ipv6_prefix", "64"))
        self._store = qp.store(self.plugin_name.replace(":", "."))
        if "connections" in self._limits:
            self.register_hook("connect", self.count_connection)
        if self._limits.keys() & {"mails", "user_mails"}:
            self.register_hook("mail", self.count_mail)
        if self._limits.keys() & {"recipients", "user_recipients"}:
            self.register_hook("rcpt", self.count_recipient)

    @blocking
    def count_connection(self, transaction: Transaction) -> Result:
        """Serve the hook connect."""
        return self._count("connections")

    @blocking
    def count_mail(self, transaction: Transaction, sender: Mailbox, parameters: Parameters) -> Result:
        """Serve the hook mail."""
        return self._count("mails", "user_mails")

    @blocking
    def count_recipient(self, transaction: Transaction, recipient: Mailbox, parameters: Parameters) -> Result:
        """Serve the hook rcpt."""
        return self._count("recipients", "user_recipients")

    def _count(self, *kinds: str) -> Result:
        """Count one more of each kind; the first that is too many decides."""
        result: Result = DECLINED
        for kind in kinds:
            limit, who = self._limits.get(kind), self._who(kind)
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

    def _who(self, kind: str) -> str:
        """Whose count it is, empty if nobody's."""
        if kind in _OF_USER:
            return self.auth_user
        if self.is_immune():
            return ""
        return network_of(self.connection.remote_ip, self._prefix)

    def _refuse(self, kind: str, who: str, limit: _Limit) -> Result:
        text = f"too many {kind.removeprefix('user_')} from you, please try again later"
        result = self.get_reject(text, f"{who}: more than {limit.most} {kind} in {limit.seconds} s")
        return result if result is DECLINED else (DENYSOFT, text)
