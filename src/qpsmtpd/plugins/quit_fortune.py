"""Says good-bye with a fortune, if the program `fortune` is there when the server starts.

Only clients that said HELO hear it, as people do who type; others want to be gone.

Arguments: none.
"""

import shutil
import subprocess

from qpsmtpd import DECLINED, LOGINFO, OK, HookResult, Plugin, Site, Transaction, blocking

__all__ = ["QuitFortune"]

_SECONDS = 5
_LINES = 10


class QuitFortune(Plugin):
    """Says good-bye with a fortune."""

    def register(self, qp: Site) -> None:
        self._program = shutil.which("fortune", path="/usr/games:/usr/bin:/usr/local/bin:/opt/local/bin")
        if self._program is None:
            self.log(LOGINFO, "skip, there is no program fortune")
        else:
            self.register_hook("quit", self.say_good_bye)

    @blocking
    def say_good_bye(self, transaction: Transaction) -> HookResult:
        """Answer QUIT with what the program says."""
        assert self._program is not None
        if self.connection.hello == "ehlo":
            return DECLINED
        try:
            said = subprocess.run(  # noqa: S603 - no shell, no word of a client
                [self._program, "-s"], capture_output=True, check=True, timeout=_SECONDS, stdin=subprocess.DEVNULL
            ).stdout
        except (OSError, subprocess.SubprocessError) as error:
            self.log(LOGINFO, f"error, {error}")
            return DECLINED
        lines: tuple[str, ...] = tuple(said.decode("utf-8", "replace").expandtabs().splitlines()[:_LINES])
        return (OK, *lines)
