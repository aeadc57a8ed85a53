"""Refuses messages that carry the Klez worm.

A message of 60000 octets or more is refused if within the first 41 lines behind its header
there is a line `Content-type: ...audio...` or `...application...`, and behind it one that begins as an encoded
Windows program of that worm does. The worm is of 2001; a real virus scanner knows more.

Arguments: none.

Result: DECLINED, or DENY (554).

In config/plugins:

    virus/klez_filter
"""

import re

from qpsmtpd import DECLINED, DENY, LOGINFO, Plugin, Result, Site, Transaction, blocking

_LEAST = 60_000  # octets
_MOST = 1 << 16  # octets of the body that are looked at
_MOST_LINES = 41
_PROGRAM = re.compile(rb"Content-type:.*(?:audio|application)", re.IGNORECASE)
_WORM = b"TVqQAAMAAAAEAAAA//8AALgAAAAAAAAAQA"


class KlezFilter(Plugin):
    """Refuses messages that carry the Klez worm."""

    def register(self, qp: Site) -> None:
        """Take no arguments."""

    @blocking
    def hook_data_post(self, transaction: Transaction) -> Result:
        """Look at the beginning of the body."""
        if transaction.data_size < _LEAST:
            return DECLINED
        if not _has_worm(transaction.body_file().read(_MOST).split(b"\n", _MOST_LINES)[:_MOST_LINES]):
            return DECLINED
        self.log(LOGINFO, "fail, Klez")
        return DENY, "this message carries the Klez worm"


def _has_worm(lines: list[bytes]) -> bool:
    announced = False
    for line in lines:
        if _PROGRAM.match(line):
            announced = True
        elif announced and line.startswith(_WORM):
            return True
    return False
