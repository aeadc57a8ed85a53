"""How long does the event loop stand still, and how much memory does it take, when much comes at once?

The asyncio driver runs in this process, beside a heartbeat on the same loop: a task that wakes every
millisecond, and notes the longest time that it had to wait. The mail comes from another process.

    python bench/stalls.py [--size MIB] [--sessions N] [--seconds S]

It measures, and judges nothing: a stall is also what the machine does meanwhile.
"""

import argparse
import asyncio
import concurrent.futures
import contextlib
import json
import multiprocessing
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from processes import GENERATOR, build_generator, resident
from qpsmtpd.config import Config
from qpsmtpd.loader import load
from qpsmtpd.site import Site
from qpsmtpd.transports.asyncio import listen

TICK = 0.001
MEBIBYTE = 2**20


@dataclass
class Seen:
    """What was noticed while mail came in."""

    longest_ms: float = 0
    beats: int = 0
    idle: int = 0
    peak: int = 0
    messages: int = 0
    seconds: float = 0
    errors: str = ""


@contextlib.asynccontextmanager
async def watching(seen: Seen) -> AsyncIterator[None]:
    """Note gaps and memory while the block runs."""

    async def beat() -> None:
        last = time.perf_counter()
        while True:
            await asyncio.sleep(TICK)
            now = time.perf_counter()
            seen.longest_ms = max(seen.longest_ms, (now - last - TICK) * 1e3)
            seen.beats += 1
            if seen.beats % 10 == 0:
                seen.peak = max(seen.peak, resident())
                now = time.perf_counter()  # looking at memory is no stall of the server's
            last = now

    seen.idle = resident()
    heart = asyncio.create_task(beat())
    await asyncio.sleep(0.2)
    _forget_peak()
    try:
        yield
    finally:
        heart.cancel()
        seen.peak = max(seen.peak, resident(field="VmHWM"))


def _forget_peak() -> None:
    """Let VmHWM begin again, where that is allowed."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


async def _generate(port: int, arguments: list[str], seen: Seen) -> None:
    command = [str(GENERATOR), "--port", str(port), *arguments]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    said, _ = await process.communicate()
    result = json.loads(said)
    seen.messages, seen.seconds, seen.errors = result["messages"], result["seconds"], result["first_error"]


def _site(directory: Path, queue: str) -> Site:
    settings = {
        "me": "mx.dest.example",
        "plugins": f"relay\nbadrcptto\nrcpt_ok\n{queue}",
        "rcpthosts": "dest.example",
        "badrcptto": "nobody@dest.example",
        "max_per_ip": "1000",
    }
    directory.mkdir()
    for name, text in settings.items():
        (directory / name).write_text(f"{text}\n")
    load(site := Site(Config(directory)))
    return site


async def measure(queue: str, arguments: list[str]) -> Seen:
    """Serve while the generator runs."""
    seen = Seen()
    with tempfile.TemporaryDirectory(prefix="qpsmtpd-bench-") as name:
        directory = Path(name)
        site = _site(directory / "config", queue.format(mail=directory / "mail"))
        async with listen(site, [("127.0.0.1", 0)]) as server:
            port = server.addresses[0][1]
            await _generate(port, ["--count", "400", "--messages", "20"], Seen())  # warm
            async with watching(seen):
                await _generate(port, arguments, seen)
        site.remove_spool_dir()
    return seen


def _in_a_process(queue: str, arguments: list[str]) -> Seen:
    """Measure in a child, so that no measurement finds the memory that an earlier one has grown."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, context) as pool:
        return pool.submit(_measure, queue, arguments).result()


def _measure(queue: str, arguments: list[str]) -> Seen:
    return asyncio.run(measure(queue, arguments))


def _row(title: str, seen: Seen) -> str:
    megabytes = [f"{octets / MEBIBYTE:.1f}" for octets in (seen.idle, seen.peak, seen.peak - seen.idle)]
    cells = [title, str(seen.messages), f"{seen.seconds:.1f}", f"{seen.longest_ms:.1f}", *megabytes]
    return "| " + " | ".join(cells) + " |" + (f" {seen.errors}" if seen.errors else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=50, help="of a large message, MiB (default: %(default)s)")
    parser.add_argument("--sessions", type=int, default=10, help="with a large message each (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=3, help="of mail into a Maildir (default: %(default)s)")
    options = parser.parse_args()
    build_generator()
    sessions = str(options.sessions)
    large = ["--size", str(options.size * MEBIBYTE), "--connections", sessions, "--count", sessions, "--messages", "1"]
    small = ["--connections", "20", "--seconds", str(options.seconds)]
    print("| what comes | messages | seconds | longest stall, ms | idle, MiB | peak, MiB | over idle, MiB |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    print(_row("nothing but the heartbeat", _in_a_process("queue/discard", ["--count", "1"])))
    print(_row(f"{sessions} x {options.size} MiB at once", _in_a_process("queue/discard", large)))
    print(_row("1 KiB into a Maildir, 20 connections", _in_a_process("queue/maildir {mail}", small)))


if __name__ == "__main__":
    main()
