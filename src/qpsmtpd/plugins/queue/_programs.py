"""Running the programs of other mail systems that take a message.

They read files, not pipes: a file is never full, so no program that stops reading can hold us up.
"""

import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path
from typing import IO

__all__ = ["check_program", "run", "work_file"]

_GRACE = 1.0  # seconds for what was killed to be gone


def check_program(path: str) -> str:
    """Give the path back. Raises ValueError if it is not the absolute path of a program that may be run."""
    if not (Path(path).is_absolute() and Path(path).is_file() and os.access(path, os.X_OK)):
        raise ValueError(f"{path} is no absolute path of a program that may be run")
    return path


@contextlib.contextmanager
def work_file(directory: Path, pieces: Iterable[bytes] = ()) -> Generator[IO[bytes]]:
    """A file without a name that holds the pieces, to be read from its start. Raises OSError."""
    with tempfile.TemporaryFile(dir=directory) as file:
        file.writelines(pieces)
        file.seek(0)
        yield file


def run(command: Sequence[str], seconds: float, *, stdin: IO[bytes], stdout: IO[bytes], stderr: int | IO[bytes]) -> int:
    """Run a program; give its exit status, or less a signal.

    What is still running after `seconds` is killed, with all that it has started. Raises OSError.
    """
    if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
        # The system then forgets the status, and `subprocess` takes it for 0: mail would be lost.
        raise ChildProcessError("this server was started with SIGCHLD ignored, and cannot know how programs end")
    process = subprocess.Popen(  # noqa: S603 - the administrator's, and no shell
        command, stdin=stdin, stdout=stdout, stderr=stderr, cwd="/", start_new_session=True
    )
    try:
        return process.wait(seconds)
    except BaseException as error:
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):  # it may be another user's
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(_GRACE)
        if isinstance(error, subprocess.TimeoutExpired):
            raise TimeoutError(f"no answer within {seconds:g} s") from None
        raise
