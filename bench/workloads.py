"""What are the servers given to do, and what does one run of it say?"""

import enum
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from contenders import OURS, SERVERS, Kind, Running, Setup, recorded, with_workers
from processes import GENERATOR, HERE, on_cpu, two_cpus

SMALL = ("--size", "1024", "--connections", "20")
MEGABYTE = 1_000_000
IDLE_CONNECTIONS = 2000
WARM_UP = {"smtp-server": 10_000}
"""Messages before anything counts, where 400 are too few: V8 compiles what has run for a while."""
WITH_RECORDED = (*SERVERS, "recorded")
WORKERS = {f"{number} workers" if number > 1 else "1 worker": number for number in (1, 2)}


class Unit(enum.Enum):
    """What the figure of a workload is."""

    MICROSECONDS = "CPU µs a message"
    MEGABYTES = "MB a CPU second"
    OCTETS = "bytes an idle connection"
    RATE = "messages a second"

    @property
    def less_is_better(self) -> bool:
        return self in (Unit.MICROSECONDS, Unit.OCTETS)


@dataclass(frozen=True)
class Workload:
    """One thing to do."""

    title: str
    flags: tuple[str, ...] = SMALL
    unit: Unit = Unit.MICROSECONDS
    kind: Kind = Kind.DISCARD
    servers: tuple[str, ...] = tuple(SERVERS)
    fresh: bool = False
    """Every run is against a server that has just been started."""
    size: int = 1024


# In this order, and those that want no fresh servers share one: a large message that came
# earlier would have grown the heap, and hidden what allocation costs.
WORKLOADS: Mapping[str, Workload] = {
    "W1": Workload("1 KiB, a connection a message", (*SMALL, "--messages", "1"), servers=WITH_RECORDED),
    "W2": Workload("1 KiB, 100 messages a connection", (*SMALL, "--messages", "100"), servers=WITH_RECORDED),
    "W3": Workload("as W2, pipelined", (*SMALL, "--pipeline"), servers=WITH_RECORDED),
    "W3F": Workload("as W3, addresses new in every message", (*SMALL, "--pipeline", "--fresh")),
    "W6": Workload("as W3, 50 recipients", (*SMALL, "--pipeline", "--recipients", "50")),
    "W4": Workload("as W3, 10 KiB", ("--size", "10240", "--connections", "20", "--pipeline"), size=10240),
    "TLS": Workload(
        "1 KiB, a connection with STARTTLS a message",
        (),
        kind=Kind.TLS,
        servers=(*OURS, "aiosmtpd", "smtp-server"),
        fresh=True,
    ),
    "W5": Workload(
        "10 MiB, pipelined, 4 connections",
        ("--size", "10485760", "--connections", "4", "--messages", "20", "--pipeline"),
        Unit.MEGABYTES,
        fresh=True,
        size=10485760,
    ),
    "W7": Workload(
        f"{IDLE_CONNECTIONS} connections after EHLO",
        (),
        Unit.OCTETS,
        fresh=True,
    ),
    "W8": Workload(
        "as W2, into a Maildir, synced",
        (*SMALL, "--messages", "100"),
        Unit.RATE,
        Kind.MAILDIR,
        (*OURS, "recorded", "aiosmtpd"),
        fresh=True,
    ),
    "W9": Workload(
        "as W3, from two generators, on all CPUs", (*SMALL, "--pipeline"), Unit.RATE, servers=tuple(WORKERS), fresh=True
    ),
}

COMMANDS: Mapping[str, Callable[[Setup], list[str]]] = {
    **SERVERS,
    "recorded": recorded,
    **{name: partial(with_workers, workers=number) for name, number in WORKERS.items()},
}
"""All that can be started, by name."""


@dataclass
class Run:
    """One run of one workload against one server: raw, as it goes into the JSON."""

    server: str
    workload: str
    round: int
    messages: int
    errors: int
    first_error: str
    seconds: float
    p50_ms: float
    p99_ms: float
    cpu_seconds: float
    figure: float | None
    """In the unit of the workload; None where nothing came of it."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Bench:
    """How runs are made."""

    python: str = sys.executable
    seconds: float = 0.6
    idle_connections: int = IDLE_CONNECTIONS

    def start(self, stack: ExitStack, server: str, workload: str) -> Running:
        """Start a server for a workload, and send it a few messages. Raises UnavailableError."""
        what = WORKLOADS[workload]
        cpu = None if server in WORKERS else two_cpus()[0]
        running = stack.enter_context(Running(COMMANDS[server], self.python, what.kind, cpu))
        # Memory that many messages have left free would serve the connections of W7.
        count = str(400 if what.unit is Unit.OCTETS else WARM_UP.get(server, 400))
        _generate([str(GENERATOR), "--port", str(running.port), "--messages", "20", "--count", count])
        return running

    def measure(self, server: str, workload: str, round_: int, running: Running) -> Run:
        """Run a workload once against a server that runs."""
        what = WORKLOADS[workload]
        begin = running.usage()
        figure = None
        if what.unit is Unit.OCTETS:
            result, figure = self._hold(running)
        else:
            result = self._load(what, running, generators=2 if server in WORKERS else 1)
        cpu = running.usage().cpu - begin.cpu
        run = Run(server=server, workload=workload, round=round_, cpu_seconds=cpu, figure=figure, **result)
        return run if what.unit is Unit.OCTETS else replace(run, figure=_figure(what, run))

    def _load(self, what: Workload, running: Running, generators: int) -> dict[str, Any]:
        program = [sys.executable, str(HERE / "tls_load.py")] if what.kind is Kind.TLS else [str(GENERATOR)]
        command = [*program, "--port", str(running.port), "--seconds", str(self.seconds), *what.flags]
        return _generate(command, generators)

    def _hold(self, running: Running) -> tuple[dict[str, Any], float | None]:
        command = [str(GENERATOR), "--port", str(running.port), "--idle", "--connections", str(self.idle_connections)]
        before = running.usage().resident
        with on_cpu(two_cpus()[1]):
            generator = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert generator.stdout is not None
        held = json.loads(generator.stdout.readline())["held"]
        time.sleep(0.3)  # memory of the last ones
        grown = running.usage().resident - before
        result = json.loads(generator.communicate()[0])
        del result["connections"]
        return result, grown / held if held else None


def _generate(command: Sequence[str], generators: int = 1) -> dict[str, Any]:
    """Run the generator, or several at once; add up what they say."""
    with on_cpu(two_cpus()[1] if generators == 1 else None):
        running = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(generators)]
    results = [json.loads(process.communicate()[0]) for process in running]
    return {
        "messages": sum(result["messages"] for result in results),
        "errors": sum(result["errors"] for result in results),
        "first_error": next((result["first_error"] for result in results if result["errors"]), ""),
        **{name: max(result[name] for result in results) for name in ("seconds", "p50_ms", "p99_ms")},
    }


def _figure(what: Workload, run: Run) -> float | None:
    if not run.messages or not run.seconds or not run.cpu_seconds:
        return None
    if what.unit is Unit.RATE:
        return run.messages / run.seconds
    if what.unit is Unit.MEGABYTES:
        return run.messages * what.size / MEGABYTE / run.cpu_seconds
    return run.cpu_seconds / run.messages * 1e6
