"""What has a server process cost so far, with all its children? Linux only: /proc says it."""

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
GENERATOR = HERE / "load"
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Usage:
    """CPU seconds and resident octets of a process tree."""

    cpu: float
    resident: int


def usage(root: int) -> Usage:
    """Of a process, the children that live, and those that their parents have waited for."""
    cpu: dict[int, float] = {}
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):  # it has just ended
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                pid = int(entry.name)
                parents[pid] = int(fields[1])
                ended_children = (int(fields[13]) + int(fields[14])) / _TICKS
                cpu[pid] = _own_cpu(pid, fields) + ended_children
    tree = [pid for pid in cpu if _descends(pid, root, parents)]
    return Usage(sum(cpu[pid] for pid in tree), sum(map(resident, tree)))


def _own_cpu(pid: int, fields: list[str]) -> float:
    """User and system seconds of a process, with its threads that have ended.

    The CPU clock of another process (as clock_getcpuclockid(3) makes its number) counts
    nanoseconds, `stat` only ticks of 10 ms, which is a few percent of a short run.
    """
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return (int(fields[11]) + int(fields[12])) / _TICKS


def _descends(pid: int, root: int, parents: dict[int, int]) -> bool:
    while pid in parents and pid != root:
        pid = parents[pid]
    return pid == root


def resident(pid: int | str = "self", field: str = "VmRSS") -> int:
    """Octets of a process in memory now; with `VmHWM`, at most until now. 0 if it has ended."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
    return 0


@contextlib.contextmanager
def on_cpu(cpu: int | None) -> Iterator[None]:
    """Processes started in this block run on one CPU; with None, on any."""
    before = os.sched_getaffinity(0)
    if cpu is not None:
        os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def two_cpus() -> tuple[int | None, int | None]:
    """A CPU for the server and one for the generator, if there are two."""
    first, *others = sorted(os.sched_getaffinity(0))
    return (first, others[0]) if others else (None, None)


def build_generator() -> None:
    """Compile load.c, if it is newer than the program. Leaves the bench if that cannot be done."""
    if not Path("/proc/self/stat").exists():
        sys.exit("bench: this needs Linux, whose /proc says what a process has cost")
    source = HERE / "load.c"
    if GENERATOR.exists() and GENERATOR.stat().st_mtime >= source.stat().st_mtime:
        return
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        sys.exit("bench: there is no C compiler `cc` for the load generator; install one (gcc or clang)")
    if subprocess.run([compiler, "-O2", "-Wall", "-o", str(GENERATOR), str(source)], check=False).returncode:
        sys.exit("bench: the load generator does not compile here")
