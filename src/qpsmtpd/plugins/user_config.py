r"""Settings of a single user, read from a directory of that user.

Where a plugin asks for a setting of an address, as in `self.qp.config("badmailfrom",
recipient)`, and there is a file of that name in the user's directory, its lines are the
values. Else the setting is the one that all users share. An empty file is a setting
without values. Lines are stripped; empty ones and those that begin with `#` are left out.
There is no `$include`: it would let a user read the files of others.

Argument: the directory, in which `%u` stands for the local part of the address, `%h` for
its domain, `%a` for both with the `@`, and `%%` for `%`. It is relative to the config
directory. By default `/home/%u/.qpsmtpd`.

A client may choose the address. It is taken in lower case, and one that is empty, too long
for a file name, begins with a dot, or holds `/`, `\` or a character that is not printable
has no settings of its own: it leads nowhere else.

Result: OK with the values, or DECLINED.

In config/plugins:

    user_config users/%h/%u
"""

import re
import stat
from collections.abc import Mapping
from pathlib import Path

from qpsmtpd import DECLINED, LOGDEBUG, LOGWARN, OK, Mailbox, Plugin, Result, Site, Transaction
from qpsmtpd.config import values_in

_PLACES = re.compile(r"%(.?)")
_LETTERS = frozenset("uha")
_NAME_LIMIT = 255  # octets in the name of a file
_SIZE_LIMIT = 1 << 20  # octets in a file; users may write what they like


class UserConfig(Plugin):
    """Settings of a single user, read from a directory of that user."""

    def register(self, qp: Site, pattern: str = "/home/%u/.qpsmtpd") -> None:
        """Read the argument."""
        letters = set(_PLACES.findall(pattern))
        if unknown := letters - _LETTERS - {"%"}:
            raise ValueError(f"{pattern}: there is no %{min(unknown)}; known are %u, %h, %a and %%")
        if not letters & _LETTERS:
            raise ValueError(f"{pattern} is the same directory for all users; put %u, %h or %a into it")
        self._letters = letters & _LETTERS
        self._pattern = str(Path(pattern).expanduser())
        self._base = qp.settings.directory or Path()

    def hook_user_config(self, transaction: Transaction | None, address: Mailbox, setting: str) -> Result:
        """Read the file, if there is one."""
        words = {"u": address.user.lower(), "h": (address.host or "").lower(), "a": address.address.lower()}
        if not all(map(_is_file_name, (setting, *(words[letter] for letter in self._letters)))):
            self.log(LOGDEBUG, f"skip, {address} and {setting} do not both name a file")
            return DECLINED
        try:
            values = _read(self._base / _fill(self._pattern, words) / setting)
        except (FileNotFoundError, NotADirectoryError):
            return DECLINED
        except (OSError, ValueError) as error:
            self.log(LOGWARN, f"error, {error}; the setting that all users share counts")
            return DECLINED
        return OK, *values


def _is_file_name(word: str) -> bool:
    """Whether a word stays what it is as the name of a file, or as a part of one."""
    if not word.isprintable() or word.startswith(".") or "/" in word or "\\" in word:
        return False
    return 0 < len(word.encode()) <= _NAME_LIMIT


def _fill(pattern: str, words: Mapping[str, str]) -> str:
    """The pattern with words in place of its letters; what they hold themselves is left alone."""
    return _PLACES.sub(lambda place: words.get(place[1], "%"), pattern)


def _read(path: Path) -> tuple[str, ...]:
    """The values in a file. Raises OSError, and ValueError for what cannot be a setting."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for a writer
        raise ValueError(f"{path} is no plain file")
    if status.st_size > _SIZE_LIMIT:
        raise ValueError(f"{path} is larger than {_SIZE_LIMIT} octets")
    return values_in(path.read_text("utf-8", "surrogateescape"))
