"""Refuses messages whose header lacks a field, has one too often, or bears a date far off.

These fields may come once (RFC 5322 section 3.6): Date, From, Sender, Reply-To, To, Cc,
Bcc, Message-ID, In-Reply-To, References and Subject. A message without any content is
refused too. Relay clients and whitelisted clients may send any header they like.

Arguments:
- `require`: the fields that must be there and not be empty, with commas between them; From
  by default. RFC 5322 asks for Date as well, but bounces and the programs of banks and
  shops often lack it: watch the log with `reject 0` before you require it.
- `past`, `future`: how many days the date of a message may lie in the past or in the
  future; any by default. A date that cannot be read is logged, and passes.
- `reject 0` only logs, `reject naughty` leaves the refusal to the plugin `naughty`, which
  has to stand behind this one.
- `reject_type` is perm (the default), soft, disconnect or temp_disconnect.

Result: DECLINED, or what `reject_type` says: DENY (554) by default. Each fault lowers the
connection's karma by 1.

In config/plugins:

    headers require From,Date past 30 future 2
"""

import calendar
import re
from collections.abc import Iterator, Mapping
from email.utils import parsedate_tz

from qpsmtpd import DECLINED, LOGINFO, Plugin, Result, Site, Transaction
from qpsmtpd.session.message import Header

_ONCE = ("Date", "From", "Sender", "Reply-To", "To", "Cc", "Bcc", "Message-ID", "In-Reply-To", "References", "Subject")
_FIELD_NAME = re.compile(r"[!-9;-~]+")
_DAY = 86_400
_DATE_LIMIT = 200  # characters; a date has some thirty, and perhaps a comment


class Headers(Plugin):
    """Refuses messages whose header lacks a field, has one too often, or bears a date far off."""

    def register(self, qp: Site, *args: str) -> None:
        """Read the arguments."""
        options = self.options(args, "require", "past", "future")
        self._required = options.get("require", "From").split(",")
        self._past, self._future = _days(options, "past"), _days(options, "future")
        for name in self._required:
            if not _FIELD_NAME.fullmatch(name):
                raise ValueError(f"require: {name!r} is no header field name; put commas and no blanks between names")

    def hook_data_post(self, transaction: Transaction) -> Result:
        """Judge the header."""
        if not transaction.data_size:
            return self.get_reject("a message without any content is not accepted here", "no data")
        if self.is_immune():
            return DECLINED
        header = transaction.header
        faults = [*self._missing(header), *_repeated(header), *self._far_off(header)]
        if not faults:
            self.log(LOGINFO, "pass")
            return DECLINED
        self.adjust_karma(-len(faults))
        return self.get_reject("\n".join(faults), ", ".join(faults))

    def _missing(self, header: Header) -> Iterator[str]:
        for name in self._required:
            if not header.get(name):
                yield f"a message needs the field {name}"

    def _far_off(self, header: Header) -> Iterator[str]:
        """What is wrong with the date, where there is one and anybody wants to know."""
        date = header.get("Date")
        if not date or (self._past is None and self._future is None):
            return
        written = _seconds(date)
        if written is None:
            self.log(LOGINFO, f"skip, the date cannot be read: {date[:_DATE_LIMIT]}")
            return
        age = self.qp.wall() - written
        if self._past is not None and age > self._past * _DAY:
            yield "the date of the message lies too far in the past"
        if self._future is not None and -age > self._future * _DAY:
            yield "the date of the message lies too far in the future"


def _repeated(header: Header) -> Iterator[str]:
    for name in _ONCE:
        if len(header.get_all(name)) > 1:
            yield f"a message may have the field {name} once (RFC 5322 section 3.6)"


def _days(options: Mapping[str, str], name: str) -> float | None:
    """An argument in days; None if it is not given, or 0. Raises ValueError."""
    text = options.get(name, "0")
    try:
        days = float(text)
    except ValueError:
        days = -1.0
    if not 0 <= days < float("inf"):
        raise ValueError(f"{name} {text!r} is no number of days")
    return days or None


def _seconds(date: str) -> float | None:
    """A date (RFC 5322 section 3.3) in seconds since the epoch; None if it cannot be read."""
    if len(date) > _DATE_LIMIT:
        return None
    try:
        parts = parsedate_tz(date)
        return None if parts is None else calendar.timegm(parts[:9]) - (parts[9] or 0)
    except (ValueError, IndexError, OverflowError):
        return None
