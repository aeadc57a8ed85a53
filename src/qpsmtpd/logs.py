"""Log levels, and the one form of a log line.

A message reads `(hook) plugin: text`, the form that log processors know. Nothing in it can
break the line or drive a terminal: what is not printable is shown as an escape.
"""

import contextlib
import sys
from collections.abc import Mapping

__all__ = [
    "LEVELS",
    "LOGALERT",
    "LOGCRIT",
    "LOGDEBUG",
    "LOGEMERG",
    "LOGERROR",
    "LOGINFO",
    "LOGNOTICE",
    "LOGWARN",
    "escape",
    "log_level",
    "message",
    "write_stderr",
]

LOGEMERG, LOGALERT, LOGCRIT, LOGERROR, LOGWARN, LOGNOTICE, LOGINFO, LOGDEBUG = range(8)

LEVELS: Mapping[str, int] = {
    "LOGEMERG": LOGEMERG,
    "LOGALERT": LOGALERT,
    "LOGCRIT": LOGCRIT,
    "LOGERROR": LOGERROR,
    "LOGWARN": LOGWARN,
    "LOGNOTICE": LOGNOTICE,
    "LOGINFO": LOGINFO,
    "LOGDEBUG": LOGDEBUG,
}
"""Names to numbers; a lower number is more urgent, as in syslog."""


def log_level(word: str) -> int:
    """The number of a level given by name or number. Raises ValueError for anything else."""
    if word.isdecimal() and int(word) <= LOGDEBUG:
        return int(word)
    name = word.upper()
    name = name if name.startswith("LOG") else f"LOG{name}"
    if name not in LEVELS:
        raise ValueError(f"{word!r} is no log level; use 0 to 7 or one of {', '.join(LEVELS)}")
    return LEVELS[name]


def escape(text: str) -> str:
    r"""`text` with all that is not printable as `\xNN` or `\uNNNN`, on one line."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else _escaped(ord(character)) for character in text)


def _escaped(code: int) -> str:
    if 0xDC80 <= code <= 0xDCFF:  # an octet that is not UTF-8 (PEP 383)
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def message(hook: str, plugin: str, text: str) -> str:
    """The log message, without time and connection id."""
    where = f"({hook}) " if hook else ""
    whom = f"{plugin}: " if plugin else ""
    return escape(f"{where}{whom}{text}")


def write_stderr(text: str) -> None:
    """Write whole lines to standard error at once; where it is closed nobody reads, which must not stop the mail."""
    with contextlib.suppress(AttributeError, OSError, ValueError):
        sys.stderr.write(text)
        sys.stderr.flush()
