"""Refuses bounces that cannot be answers to anything.

A bounce is a message from the null sender `<>`. A real one goes back to the one sender of
the message it is about, and what reports of that kind leave here must lead nowhere. So it
is bogus if it has more than one recipient, or a Return-Path field that names somebody.

Argument: what to do about them, `log` (the default), `deny` or `denysoft`. In other words:
`log` is `reject 0`, `deny` is `reject 1`, and `denysoft` is `reject 1 reject_type soft`;
`reject naughty` and the other types of `reject_type` are possible too.

Result: DECLINED, or with `deny` DENY (554), with `denysoft` DENYSOFT (451).

In config/plugins:

    bogus_bounce deny
"""

import itertools
from collections.abc import Mapping

from qpsmtpd import DECLINED, LOGINFO, Plugin, Result, Site, Transaction

_ACTIONS: Mapping[str, tuple[str, ...]] = {
    "log": ("reject", "0"),
    "deny": ("reject", "1"),
    "denysoft": ("reject", "1", "reject_type", "soft"),
}


class BogusBounce(Plugin):
    """Refuses bounces that cannot be answers to anything."""

    def register(self, qp: Site, action: str = "log") -> None:
        """Read the arguments; what is said by `reject` and `reject_type` has the last word."""
        if action not in _ACTIONS:
            raise ValueError(f"{action!r} is none of {', '.join(_ACTIONS)}")
        given = itertools.chain.from_iterable(self.options(()).items())
        self.options((*_ACTIONS[action], *given))

    def hook_data_post(self, transaction: Transaction) -> Result:
        """Judge the message, if it is a bounce."""
        if transaction.reverse_path:
            self.log(LOGINFO, "pass, not a bounce")
            return DECLINED
        count = len(set(transaction.recipients))
        if count != 1:
            return self.get_reject("a bounce has one recipient", f"a bounce to {count} recipients")
        if any(path not in ("", "<>") for path in transaction.header.get_all("Return-Path")):
            return self.get_reject("the return path of a bounce is empty (RFC 3834)", "a bounce with a Return-Path")
        self.log(LOGINFO, "pass, one recipient and no return path")
        return DECLINED
