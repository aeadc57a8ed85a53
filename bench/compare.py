"""What does a message cost our backends, and what does it cost other servers on the same machine?

Rounds are interleaved: in each, every workload goes to each server in turn, and every other round
turns the order round, so that a busy moment of the machine hits all alike. Prints one Markdown
table of medians. `docs/performance.md` says how to read it.

    python bench/compare.py [--server NAME ...] [--workload NAME ...] [--rounds N] [--seconds S]
                            [--json FILE] [--goals] [--python INTERPRETER]
    python bench/compare.py --from FILE [--goals] [--page docs/performance.md]
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from contenders import SERVERS, UnavailableError, knows_workers
from processes import build_generator, two_cpus
from report import goals, report, shown, write_page
from workloads import COMMANDS, IDLE_CONNECTIONS, WORKERS, WORKLOADS, Bench, Run


class Comparison:
    """The rounds, and what came of them."""

    def __init__(self, bench: Bench, servers: Sequence[str], workloads: Sequence[str]) -> None:
        self._bench = bench
        self._servers = servers
        self._workloads = workloads
        self.runs: list[Run] = []
        self.left_out: dict[str, str] = {}

    def round(self, number: int) -> None:
        """Every workload against each server."""
        servers = self._servers[:: -1 if number % 2 else 1]
        self._shared(number, servers, [name for name in self._workloads if not WORKLOADS[name].fresh])
        for workload in self._workloads:
            if WORKLOADS[workload].fresh:
                for server in self._able(servers, workload):
                    self._shared(number, [server], [workload])

    def _shared(self, number: int, servers: Iterable[str], workloads: Sequence[str]) -> None:
        """Start servers, and run workloads against all of them."""
        if not workloads:
            return
        with ExitStack() as stack:
            running = {}
            for server in [name for name in servers if any(self._able([name], each) for each in workloads)]:
                try:
                    running[server] = self._bench.start(stack, server, workloads[0])
                except UnavailableError as error:
                    self._leave_out(server, workloads, str(error))
            for workload in workloads:
                _say(f"round {number + 1}: {workload} {', '.join(map(shown, running))}")
                for server in self._able(running, workload):
                    self.runs.append(self._bench.measure(server, workload, number, running[server]))

    def _able(self, servers: Iterable[str], workload: str) -> list[str]:
        return [
            server
            for server in servers
            if server in WORKLOADS[workload].servers
            and server not in self.left_out
            and f"{shown(server)}, {workload}," not in self.left_out
        ]

    def _leave_out(self, server: str, workloads: Sequence[str], reason: str) -> None:
        measured = any(run.server == server for run in self.runs)
        name = f"{shown(server)}, {', '.join(workloads)}," if measured else server
        self.left_out[name] = reason
        _say(f"{name} is left out: {reason}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _python_version(python: str) -> str:
    code = "import platform; print(platform.python_implementation(), platform.python_version())"
    words = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    return words[1] if words[0] == "CPython" else " ".join(words)


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _run(options: argparse.Namespace) -> dict[str, Any]:
    bench = Bench(options.python, options.seconds, options.idle_connections)
    all_servers = [*SERVERS, *(WORKERS if knows_workers(options.python) else ())]
    comparison = Comparison(bench, options.server or all_servers, options.workload or list(WORKLOADS))
    for number in range(options.rounds):
        comparison.round(number)
    return {
        "python": _python_version(options.python),
        "cpu": _cpu(),
        "cpus": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "pinned": two_cpus()[0] is not None,
        "rounds": options.rounds,
        "seconds": options.seconds,
        "left_out": comparison.left_out,
        "runs": [run.as_json() for run in comparison.runs],
    }


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", action="append", choices=list(COMMANDS), help="only this one; may be repeated")
    parser.add_argument("--workload", action="append", choices=list(WORKLOADS), help="only this one; may be repeated")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=Bench.seconds, help="for a run (default: %(default)s)")
    parser.add_argument("--idle-connections", type=int, default=IDLE_CONNECTIONS, help="of W7 (default: %(default)s)")
    parser.add_argument("--python", default=sys.executable, help="the interpreter for qpsmtpd and aiosmtpd")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every run to this file")
    parser.add_argument("--goals", action="store_true", help="print which goals are reached")
    parser.add_argument("--from", dest="earlier", type=Path, metavar="FILE", help="measure nothing, take this JSON")
    parser.add_argument("--page", type=Path, metavar="FILE", help="write the table into this page, between its marks")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    if options.earlier:
        result = json.loads(options.earlier.read_text())
    else:
        build_generator()
        result = _run(options)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    print(report(result))
    if options.goals:
        print(goals(result))
    if options.page:
        write_page(options.page, result)


if __name__ == "__main__":
    main()
