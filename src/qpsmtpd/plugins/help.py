"""Answers HELP from files, a file for each command.

`HELP MAIL` is answered with the text of the file `mail` in the help directory, `HELP`
alone by a word on how to use it. Where there is no file, the client is told so. A file is read for each
HELP; no more than 100 lines of it, or 16 KiB, are sent.

Arguments, in pairs; paths are relative to the directory above `config`:
- `help_dir DIRECTORY`: where the files are, `help` by default. Their names are in lower case.
- `COMMAND FILE`: the file for this command, whatever its name, in the directory `help`, or
  where FILE says if it has a slash. Repeat it for further commands.
- `not_implemented 1`: answer 502 to every HELP.

Result: OK (214) with the text; DONE behind a reply 502 for what is no name of a command
(1 to 64 letters, digits and `_`), and with `not_implemented`. A file that cannot be read counts as
none, and the reason is logged.

In config/plugins:

    help help_dir /etc/qpsmtpd/help
"""

import re
from pathlib import Path

from qpsmtpd import DONE, LOGERROR, LOGINFO, OK, Plugin, Result, Site, Transaction, blocking
from qpsmtpd.plugins._options import flag

_NAME = re.compile(r"[A-Za-z0-9_]{1,64}")
_MOST = 1 << 14  # octets
_MOST_LINES = 100
_WORDS = ("help_dir", "not_implemented")


class Help(Plugin):
    """Answers HELP from files, a file for each command."""

    def register(self, qp: Site, *args: str) -> None:
        """Read the arguments. Raises ValueError for files that are not there."""
        commands = tuple(name for name in args[::2] if name not in _WORDS and _NAME.fullmatch(name))
        options = self.options(args, *_WORDS, *commands)
        self._not_implemented = flag(options, "not_implemented")
        directory = qp.settings.directory
        base = directory.parent if directory is not None else Path()
        self._directory = base / options.get("help_dir", "help")
        if "help_dir" in options and not self._directory.is_dir():
            raise ValueError(f"help_dir: there is no directory {self._directory}")
        self._files = {
            command.lower(): _existing(base / ("" if "/" in options[command] else "help") / options[command])
            for command in commands
            if command not in self.shared_arguments
        }

    @blocking
    def hook_help(self, transaction: Transaction, subject: str = "") -> Result:
        """Look the command up."""
        if self._not_implemented:
            return self._not_known("5.5.1 HELP is not implemented")
        if not subject:
            return OK, "HELP COMMAND tells about a command"
        if not _NAME.fullmatch(subject):
            return self._not_known("5.5.2 HELP takes the name of a command")
        name = subject.lower()
        self.log(LOGINFO, f"pass, {name}")
        lines = self._read(self._files.get(name) or self._directory / name)
        return (OK, *(lines or (f"There is no help on {name}",)))

    def _not_known(self, text: str) -> Result:
        self.qp.respond(502, text)
        return DONE

    def _read(self, path: Path) -> tuple[str, ...]:
        """The lines of a file, none if there is no such file."""
        try:
            with path.open("rb") as file:
                text = file.read(_MOST)
        except (FileNotFoundError, IsADirectoryError):
            return ()
        except OSError as error:
            self.log(LOGERROR, f"error, {path}: {error.strerror}")
            return ()
        return tuple(text.decode("utf-8", "replace").rstrip().splitlines()[:_MOST_LINES])


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    return path
