"""Which servers do we compare, how is each started, and what is missing where one cannot be had?

Every server listens on 127.0.0.1 alone, takes every message for dest.example, and throws it away
(or, for one workload, writes it into a Maildir).
"""

import enum
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Self

from processes import HERE, Usage, on_cpu, usage

SOURCE = HERE.parent / "src"
SECONDS = 20  # for a server to greet, or to end


class Kind(enum.Enum):
    """What a server is to do."""

    DISCARD = "discard"
    TLS = "tls"
    MAILDIR = "maildir"


class UnavailableError(Exception):
    """Why a server is left out."""


@dataclass(frozen=True)
class Setup:
    """What a server is started with."""

    kind: Kind
    port: int
    directory: Path
    """Its own, for the time it runs."""
    python: str


def qpsmtpd(setup: Setup, backend: str, *arguments: str) -> list[str]:
    """The command for one of our backends, with its config directory written."""
    needed = "trio" if backend.startswith("trio") else backend if backend in ("uvloop", "anyio") else "ssl"
    _need_module(setup.python, needed)
    queue = f"queue/maildir {setup.directory / 'mail'}" if setup.kind is Kind.MAILDIR else "queue/discard"
    settings = {
        "me": "mx.dest.example",
        "plugins": f"relay\nbadrcptto\nrcpt_ok\n{queue}",
        "rcpthosts": "dest.example",
        "badrcptto": "nobody@dest.example",
        "max_connections": "100000",
        "max_per_ip": "100000",
        "loglevel": "LOGWARN",
    }
    config = setup.directory / "config"
    config.mkdir()
    for name, text in settings.items():
        (config / name).write_text(f"{text}\n")
    tls = (
        [f"--tls-{name}={path}" for name, path in zip(("cert", "key"), certificate(), strict=True)]
        if setup.kind is Kind.TLS
        else []
    )
    return [
        *(setup.python, "-m", "qpsmtpd", "run", "--config", str(config)),
        *("--listen", f"127.0.0.1:{setup.port}", "--backend", backend),
        *tls,
        *arguments,
    ]


def recorded(setup: Setup) -> list[str]:
    """The command for our asyncio backend that records every session."""
    return [*qpsmtpd(setup, "asyncio"), "--record", str(setup.directory / "recordings")]


def aiosmtpd(setup: Setup) -> list[str]:
    """The command for aiosmtpd, on asyncio."""
    _need_module(setup.python, "aiosmtpd")
    command = [setup.python, str(HERE / "serve_aiosmtpd.py"), str(setup.port)]
    if setup.kind is Kind.MAILDIR:
        command += ["--maildir", str(setup.directory / "mail")]
    if setup.kind is Kind.TLS:
        command += [f"--{name}={path}" for name, path in zip(("certificate", "key"), certificate(), strict=True)]
    return command


def smtp_sink(setup: Setup) -> list[str]:
    """The command for Postfix's sink, which checks next to nothing: a mark for what C can do."""
    program = shutil.which("smtp-sink", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/libexec/postfix")
    if program is None:
        raise UnavailableError("there is no smtp-sink here; it comes with Postfix")
    user = ["-u", "nobody"] if os.getuid() == 0 else []
    return [program, *user, "-m", "10000", f"127.0.0.1:{setup.port}", "1024"]


def smtp_server(setup: Setup) -> list[str]:
    """The command for Nodemailer's smtp-server."""
    node = shutil.which("node")
    if node is None:
        raise UnavailableError("there is no node here")
    if not (HERE / "node_modules" / "smtp-server").is_dir():
        raise UnavailableError("smtp-server is not installed; `make bench` does it where there is npm")
    tls = map(str, certificate() if setup.kind is Kind.TLS else ())
    return [node, str(HERE / "serve_smtp_server.js"), str(setup.port), *tls]


SERVERS: Mapping[str, Callable[[Setup], list[str]]] = {
    "asyncio": partial(qpsmtpd, backend="asyncio"),
    "uvloop": partial(qpsmtpd, backend="uvloop"),
    "trio": partial(qpsmtpd, backend="trio"),
    "anyio": partial(qpsmtpd, backend="anyio"),
    "blocking": partial(qpsmtpd, backend="blocking"),
    "aiosmtpd": aiosmtpd,
    "smtp-sink": smtp_sink,
    "smtp-server": smtp_server,
}
OURS = ("asyncio", "uvloop", "trio", "anyio", "blocking")


def with_workers(setup: Setup, workers: int) -> list[str]:
    """The command for our asyncio backend in several processes."""
    if not knows_workers(setup.python):
        raise UnavailableError("`qpsmtpd run` has no option --workers")
    return [*qpsmtpd(setup, "asyncio"), "--workers", str(workers)]


class Running:
    """A server that runs until the block is left, pinned to one CPU. Raises UnavailableError."""

    def __init__(self, command: Callable[[Setup], list[str]], python: str, kind: Kind, cpu: int | None = None) -> None:
        self._command = command
        self._python = python
        self._kind = kind
        self._cpu = cpu
        self.port = 0

    def __enter__(self) -> Self:
        # Between our closing of the port and the server's opening of it somebody else may take it.
        for last in (False, False, True):
            self._directory = tempfile.TemporaryDirectory(prefix="qpsmtpd-bench-", ignore_cleanup_errors=True)
            try:
                self._start()
            except BaseException as error:
                self._stop()
                if last or not isinstance(error, _NoGreetingError):
                    raise
            else:
                break
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def usage(self) -> Usage:
        """What it has cost so far."""
        return usage(self._process.pid)

    def _start(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self.port = _free_port()
        directory = Path(self._directory.name)
        command = self._command(Setup(self._kind, self.port, directory, self._python))
        environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
        with on_cpu(self._cpu), (directory / "log").open("wb") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
            )
        deadline = time.monotonic() + SECONDS
        while not _greets(self.port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                said = (directory / "log").read_text(errors="replace").strip().splitlines()
                raise _NoGreetingError(f"it does not start: {said[-1] if said else 'it says nothing'}")
            time.sleep(0.02)

    def _stop(self) -> None:
        if self._process is not None:
            for number in (signal.SIGTERM, signal.SIGKILL):
                try:
                    os.killpg(self._process.pid, number)  # its children are of its group
                    self._process.wait(SECONDS)
                except (ProcessLookupError, subprocess.TimeoutExpired):
                    continue
                break
            self._process.wait()
        self._directory.cleanup()


class _NoGreetingError(UnavailableError):
    """The server has been started, and does not answer."""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _greets(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), SECONDS) as client:
            greeting = client.recv(512)
            client.sendall(b"QUIT\r\n")
            client.recv(512)
    except OSError:
        return False
    return greeting.startswith(b"220")


@cache
def _need_module(python: str, module: str) -> None:
    if subprocess.run([python, "-c", f"import {module}"], capture_output=True, check=False).returncode:
        raise UnavailableError(f"{python} has no module {module}")


@cache
def knows_workers(python: str) -> bool:
    """Whether our server can run in several processes."""
    help_ = subprocess.run(
        [python, "-m", "qpsmtpd", "run", "--help"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
    )
    return "--workers" in help_.stdout


_certificates = tempfile.TemporaryDirectory(prefix="qpsmtpd-bench-")


@cache
def certificate() -> tuple[Path, Path]:
    """A self-signed certificate and its key, for the time of the bench."""
    directory = Path(_certificates.name)
    made = subprocess.run(
        [sys.executable, "-m", "qpsmtpd", "certificate", str(directory), "localhost"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
    )
    if made.returncode:
        raise UnavailableError(f"there is no certificate: {made.stderr.strip()}")
    return directory / "localhost.crt", directory / "localhost.key"
