"""Refuses clients before they are greeted, by `config/hosts_allow`, one a line:

    192.0.2.66       DENY      go away
    198.51.100.0/24  DENYSOFT  not now, please
    198.51.100.7     OK

A line is an address or network, a return code, and a text. The first line that names the
client decides: DENY and DENYSOFT refuse it, anything else lets it in. How many connections
a client may have at a time is the setting `max_per_ip`.

Arguments: none.
"""

from qpsmtpd import DECLINED, LOGERROR, LOGINFO, HookResult, Plugin, ReturnCode, Transaction
from qpsmtpd.plugins._networks import matches
from qpsmtpd.protocol import hooks

__all__ = ["HostsAllow"]


class HostsAllow(Plugin):
    """Refuses clients in config/hosts_allow."""

    def hook_pre_connection(self, transaction: Transaction, arrival: hooks.PreConnection) -> HookResult:
        for line in self.qp.config("hosts_allow"):
            entry, word, text = (*line.split(None, 2), "", "")[:3]
            if not matches(arrival.remote_ip, entry):
                continue
            if word not in ReturnCode.__members__:
                self.log(LOGERROR, f"error, hosts_allow: {line!r} names no return code; the line is skipped")
                continue
            self.log(LOGINFO, f"{'pass' if word in ('OK', 'DECLINED') else 'fail'}, {entry} {word}")
            return (ReturnCode[word], text) if text else ReturnCode[word]
        return DECLINED
