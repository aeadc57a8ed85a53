"""Refuses all clients for now while this machine has too much to do.

Arguments:
- `max_load NUMBER`: the highest average load of the last minute, as `uptime` shows it, with
  which clients are still let in; 7 by default.
- `cache_time SECONDS`: how long a load that has been found out counts, 10 by default.
- `uptime PATH`: is not needed any more, and ignored.

Result: DENYSOFT (421) while the load is too high, else DECLINED.

In config/plugins, first of all:

    loadcheck max_load 10
"""

import os

from qpsmtpd import DECLINED, DENYSOFT, LOGDEBUG, LOGERROR, Plugin, Result, Site, Transaction
from qpsmtpd.plugins._options import seconds


class LoadCheck(Plugin):
    """Refuses all clients for now while this machine has too much to do."""

    def register(self, qp: Site, *args: str) -> None:
        """Read the arguments. Raises ValueError."""
        options = self.options(args, "max_load", "cache_time", "uptime")
        self._cache_time = seconds(options, "cache_time", 10)
        try:
            self._most = float(options.get("max_load", 7))
        except ValueError:
            self._most = -1.0
        if not self._most >= 0:
            raise ValueError(f"max_load {options['max_load']!r} is no number of 0 or more")
        self._load, self._until = 0.0, qp.clock()

    def hook_connect(self, transaction: Transaction) -> Result:
        now = self.qp.clock()
        if now >= self._until:
            self._load, self._until = os.getloadavg()[0], now + self._cache_time
        if self._load > self._most:
            self.log(LOGERROR, f"fail, the load is {self._load:.2f}")
            return DENYSOFT, "too busy at present, please try again later"
        self.log(LOGDEBUG, f"pass, the load is {self._load:.2f}")
        return DECLINED
