"""The engine that sees which branches of the code are taken: atheris, which is libFuzzer for Python.

libFuzzer takes a process for itself, and code has to be instrumented when it is imported. So it runs in a process of
its own, `child`, and what it prints is read here.
"""

import re
import subprocess
import sys
import tempfile
import time
from collections import deque
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from qpsmtpd.fuzz import patience
from qpsmtpd.fuzz.engines import Campaign
from qpsmtpd.fuzz.targets import Target

__all__ = ["child", "run"]

_CHILD = """\
import sys, atheris
with atheris.instrument_imports(include=["qpsmtpd.protocol"]):
    from qpsmtpd.fuzz.guided import child
child(*sys.argv[1:3], sys.argv[3:])
"""
_STATE = re.compile(r"#(\d+)\s+\w+\s+cov: (\d+) ft: \d+(?: corp: (\d+)/)?")
_COUNT = re.compile(r"runs: (\d+)$")
_MOST_OCTETS = 2048


def run(target: Target, campaign: Campaign) -> None:
    """Run inputs until the campaign is over. Raises what a check raises, the input noted in the campaign."""
    with tempfile.TemporaryDirectory(prefix="qpsmtpd-fuzz-") as scratch:
        place = Path(scratch)
        seeds, found = place / "seeds", place / "found"
        seeds.mkdir()
        found.mkdir()
        for number, data in enumerate(campaign.begin(target)):
            (seeds / str(number)).write_bytes(data)
        tokens = place / "tokens"
        tokens.write_text("".join(f'"{_quoted(token)}"\n' for token in target.tokens), "ascii")
        corpus = found if campaign.corpus is None else campaign.corpus
        arguments = [
            str(corpus), str(seeds), f"-artifact_prefix={place}/crash-", f"-dict={tokens}", f"-max_len={_MOST_OCTETS}",
            f"-seed={campaign.seed or 1}", "-print_final_stats=0", "-timeout=0",
        ]  # fmt: skip
        if campaign.limit is not None:
            arguments.append(f"-runs={campaign.limit}")
        if campaign.seconds is not None:
            arguments.append(f"-max_total_time={max(int(campaign.seconds), 1)}")
        status, last = _watch([sys.executable, "-c", _CHILD, target.name, campaign.planted, *arguments], campaign)
        for path in place.glob("crash-*"):
            if path.name.startswith("crash-slow-unit-"):  # which is no fault
                continue
            campaign.input = path.read_bytes()
            target.check(campaign.input, thoroughly=True)
            raise RuntimeError(f"libFuzzer has written {path.name}, and now nothing is wrong with it")
        if status:
            raise ChildProcessError(f"atheris has failed:\n{last}")


def _quoted(token: bytes) -> str:
    return "".join(f"\\x{octet:02x}" for octet in token)


def _watch(command: list[str], campaign: Campaign) -> tuple[int, str]:
    """Run the child, and tell how it goes. Gives its exit status and what it has written last."""
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, errors="replace"
    ) as process:
        assert process.stderr is not None
        last: deque[str] = deque(maxlen=10)
        try:
            for line in process.stderr:
                if (count := _COUNT.match(line)) is not None:
                    campaign.runs = int(count[1])
                elif (state := _STATE.match(line)) is not None:
                    campaign.runs, campaign.paths = int(state[1]), int(state[2])
                    campaign.inputs = int(state[3] or campaign.inputs)
                else:
                    last.append(line)
                campaign.over()
        except BaseException:
            process.kill()
            raise
    return process.returncode, "".join(last)


def child(target: str, planted: str, arguments: list[str]) -> None:
    """What runs in the other process; the code is instrumented already."""
    import atheris  # type: ignore[import-not-found, import-untyped, unused-ignore]

    from qpsmtpd.fuzz.plants import PLANTS
    from qpsmtpd.fuzz.targets import TARGETS

    engine: Any = atheris
    check = TARGETS[target].check

    runs, told = 0, time.monotonic()

    def attempt(data: bytes) -> None:
        nonlocal runs, told
        runs += 1
        patience.begin()
        try:
            check(data)
        except Exception:
            tell()
            raise
        if (now := time.monotonic()) - told > 1.0:  # libFuzzer is silent where it finds nothing new
            told = now
            tell()

    def tell() -> None:
        sys.stderr.write(f"runs: {runs}\n")
        sys.stderr.flush()

    with PLANTS[planted].plant() if planted else nullcontext(), patience.bounded():
        engine.Setup(["fuzz", *arguments], attempt)
        engine.Fuzz()
