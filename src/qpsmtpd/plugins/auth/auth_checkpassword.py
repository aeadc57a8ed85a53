"""Asks a checkpassword program, as D. J. Bernstein's interface has it (https://cr.yp.to/checkpwd.html).

The program is given user and password on descriptor 3, and runs the program that it is told
of, usually `true`, if the password is right. Say so on the plugin's line, or in
`config/smtpauth-checkpassword` as one line of words: the program, its arguments, `true`.

A program that must be root is made so by its owner, setuid or by sudo, which has to leave the
descriptor open:

    /usr/bin/sudo -C4 -u vpopmail /home/vpopmail/bin/vchkpw /bin/true

Arguments:
- `checkpw PATH` and `true PATH`: the two programs,
- `timeout`: seconds that they have, 10 by default; then they are killed.

Mechanisms: PLAIN and LOGIN.

Result: OK if the program says 0; DECLINED if it says 1, and for what the interface cannot
carry: a NUL, or more than 512 octets; DENYSOFT for anything else, which is logged.

In config/plugins:

    auth/auth_checkpassword checkpw /usr/local/vpopmail/bin/vchkpw true /bin/true
"""

import contextlib
import fcntl
import os
import signal
import time
from pathlib import Path

from qpsmtpd import DECLINED, DENYSOFT, LOGERROR, LOGINFO, OK, Plugin, Result, Site, Transaction, blocking
from qpsmtpd.plugins._options import seconds

_SETTING = "smtpauth-checkpassword"
_MOST_OCTETS = 512  # «There must be no more than 512 bytes of data before end of file»
_TIMESTAMP = b"Y123456"  # the original's; of no meaning for a password in clear
_FIRST_LOOK, _LONGEST_WAIT = 0.001, 0.05  # seconds between looks at the program
_GRACE = 1.0  # seconds for what was killed to be gone
_BAD_PASSWORD = 1


class AuthCheckpassword(Plugin):
    """Asks a checkpassword program."""

    def register(self, qp: Site, *args: str) -> None:
        """Read the arguments, or the setting. Raises ValueError."""
        options = self.options(args, "checkpw", "true", "timeout")
        self._command = [options[name] for name in ("checkpw", "true") if name in options]
        if not self._command:
            self._command = qp.value(_SETTING).split()
        if len(self._command) < 2:
            raise ValueError(f"say `checkpw PATH true PATH`, or PATH PATH in config/{_SETTING}")
        for path in (self._command[0], self._command[-1]):
            if not (Path(path).is_absolute() and Path(path).is_file() and os.access(path, os.X_OK)):
                raise ValueError(f"{path} is no absolute path of a program that may be run")
        self._timeout = seconds(options, "timeout", 10)

    @blocking
    def hook_auth_plain(  # noqa: PLR0917 - a hook's arguments
        self, transaction: Transaction, mechanism: str, user: str, password: str, digest: None, ticket: None
    ) -> Result:
        fields = [text.encode("utf-8", "surrogateescape") for text in (user, password)]
        data = b"".join(b"%b\0" % each for each in (*fields, _TIMESTAMP))
        # A NUL would move the fields: the user's own choice of what is checked against what.
        if any(b"\0" in each for each in fields) or len(data) > _MOST_OCTETS:
            self.log(LOGINFO, f"fail, {user}: not to be carried to {self._command[0]}")
            return DECLINED
        try:
            status = self._run(data)
        except OSError as error:
            self.log(LOGERROR, f"error, {self._command[0]}: {error.strerror}")
            return DENYSOFT
        if status == 0:
            self.log(LOGINFO, f"pass, {user} by {mechanism}")
            return OK
        if status == _BAD_PASSWORD:
            self.log(LOGINFO, f"fail, {user} by {mechanism}")
            return DECLINED
        how = f"ended with {status}" if status > 0 else f"was killed by signal {-status}"
        self.log(LOGERROR, f"error, {self._command[0]} {how}")
        return DENYSOFT

    hook_auth_login = hook_auth_plain

    def _run(self, data: bytes) -> int:
        """Run the program with these data on descriptor 3; give its exit status, or less a signal. Raises OSError."""
        reader, writer = os.pipe()
        try:
            os.write(writer, data)  # the whole of it: a pipe takes 512 octets at once (POSIX)
        finally:
            os.close(writer)
        try:
            # Above 3, so that the duplicate is another descriptor, and not closed for the program.
            source = fcntl.fcntl(reader, fcntl.F_DUPFD_CLOEXEC, 10)
        finally:
            os.close(reader)
        try:
            # `subprocess` cannot give a descriptor a number without a shell, or code after a fork,
            # which a process with threads must not run. All else that is open closes on exec (PEP 446).
            program = os.posix_spawn(
                self._command[0],
                self._command,
                os.environ,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                    (os.POSIX_SPAWN_DUP2, source, 3),
                ],
                setpgroup=0,  # to be killed with all that it has started
                setsigdef=[signal.SIGPIPE],  # Python ignores it, and so would the program
            )
        finally:
            os.close(source)
        status = _wait(program, self._timeout)
        if status is None:
            with contextlib.suppress(OSError):  # it may have just ended, or be another user's by sudo
                os.killpg(program, signal.SIGKILL)
            _wait(program, _GRACE)
            raise TimeoutError(0, f"no answer within {self._timeout:g} s")
        return status


def _wait(program: int, seconds: float) -> int | None:
    """The exit status of a program, below 0 for a signal; None if it is still running then."""
    deadline = time.monotonic() + seconds
    pause = _FIRST_LOOK
    while True:
        ended, status = os.waitpid(program, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= deadline:
            return None
        time.sleep(pause)  # as `subprocess` does: there is no other wait with an end to it
        pause = min(2 * pause, _LONGEST_WAIT)
