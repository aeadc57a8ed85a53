r"""Lists of addresses as `badmailfrom` and `badrcptto` have them, one a line:

user@example.org   reason for the client
@example.org       all of a domain
^spam.*@           a regular expression, known by one of the characters / ^ $ * + ! % \
"""

import re
from collections.abc import Callable

from qpsmtpd.protocol import Mailbox

__all__ = ["AddressList"]

_IS_PATTERN = re.compile(r"[/^$*+!%\\]")


class AddressList:
    """The lines of a setting, made ready once for each time they change."""

    def __init__(self, lines: Callable[[], tuple[str, ...]], complain: Callable[[str], object]) -> None:
        """`lines` gives the setting of the moment; `complain` is told of lines that make no sense."""
        self._lines = lines
        self._complain = complain
        self._read: tuple[str, ...] = ()
        self._exact: dict[str, str] = {}
        self._patterns: list[tuple[re.Pattern[str], str]] = []

    def reason_for(self, mailbox: Mailbox) -> str | None:
        """The reason beside the entry that names this address, "" if there is none; None if none names it."""
        lines = self._lines()
        if lines is not self._read:
            self._prepare(lines)
        address = mailbox.address.lower()
        for key in (address, f"@{(mailbox.domain or '').lower()}"):
            if key in self._exact:
                return self._exact[key]
        return next((reason for pattern, reason in self._patterns if pattern.search(address)), None)

    def _prepare(self, lines: tuple[str, ...]) -> None:
        exact: dict[str, str] = {}
        patterns: list[tuple[re.Pattern[str], str]] = []
        for line in lines:
            entry, _, reason = line.strip().partition(" ")
            if _IS_PATTERN.search(entry):
                try:
                    patterns.append((re.compile(entry, re.IGNORECASE), reason.strip()))
                except re.error as error:
                    self._complain(f"{entry!r} is no regular expression: {error}; the line is skipped")
            elif "@" in entry:
                exact.setdefault(entry.lower(), reason.strip())
            else:
                self._complain(f"{entry!r} has no @ and is no regular expression; the line is skipped")
        self._exact, self._patterns, self._read = exact, patterns, lines
