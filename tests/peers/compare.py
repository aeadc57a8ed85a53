"""Run `qpsmtpd compare` against every mail server that this machine has; arguments are passed on."""

import contextlib
import subprocess
import sys
from pathlib import Path

import servers

from qpsmtpd.cli import main

VERSIONS = {
    "aiosmtpd": [sys.executable, "-m", "aiosmtpd", "--version"],
    "postfix": ["postconf", "mail_version"],
    "exim": ["exim4", "-bV"],
    "opensmtpd": [f"{servers.UNPACKED}/usr/sbin/smtpd", "-h"],
}


def version(name):
    """What a server says of itself, in a line."""
    command = [servers.program(VERSIONS[name][0]), *VERSIONS[name][1:]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout or done.stderr).partition("\n")[0]


def run(arguments):
    """Start the servers, compare, and give the exit status; servers that see a smuggled message are no failure here."""
    with contextlib.ExitStack() as stack:
        files = servers.Files.make(stack.enter_context(servers.directory()))
        targets = []
        for name in servers.COMPARABLE:
            try:
                targets.append(stack.enter_context(servers.comparable(name, files)))
                print(f"{name}: {version(name)}", flush=True)
            except servers.MissingError as reason:
                print(f"{name}: left out, {reason}", flush=True)
        return 1 if main(["compare", *targets, *arguments]) == 1 else 0


if __name__ == "__main__":
    sys.path.append(str(Path(__file__).parent))
    sys.exit(run(sys.argv[1:]))
