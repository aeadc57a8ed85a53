"""Bids farewell with a saying, found by the program `fortune`.

Clients that have said EHLO are too busy for it; those that have said HELO, or nothing,
get it. Where the program is not installed this plugin does nothing.

Arguments: none.

Result: OK with the farewell, or DECLINED.

In config/plugins:

    quit_fortune
"""

import os
import shutil
import subprocess

from qpsmtpd import DECLINED, LOGDEBUG, LOGWARN, OK, Plugin, Result, Site, Transaction, blocking

_PLACES = os.pathsep.join(("/usr/games", "/usr/local/games", "/usr/bin", "/usr/local/bin", "/opt/homebrew/bin"))
_SECONDS = 2.0
_LINES = 10
_COLUMNS = 100


class QuitFortune(Plugin):
    """Bids farewell with a saying, found by the program `fortune`."""

    def register(self, qp: Site) -> None:
        """Look for the program."""
        program = shutil.which("fortune") or shutil.which("fortune", path=_PLACES)
        if program is None:
            self.log(LOGDEBUG, "skip, there is no program fortune")
            return
        self._program = program
        self.register_hook("quit", self.farewell)

    @blocking
    def farewell(self, transaction: Transaction) -> Result:
        """Serve the hook quit."""
        if self.connection.hello == "ehlo":
            return DECLINED
        try:
            saying = subprocess.run(  # noqa: S603 - a fixed program, no argument of the client's
                [self._program, "-s"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_SECONDS,
                check=True,
            ).stdout.decode("utf-8", "replace")
        except (OSError, subprocess.SubprocessError) as error:
            self.log(LOGWARN, f"error, {error}")
            return DECLINED
        lines = [f"  / {line.expandtabs()[:_COLUMNS]}" for line in saying.splitlines() if line.strip()][:_LINES]
        return OK, "\n".join((f"{self.qp.current_settings().hostname} closing the connection", *lines))
