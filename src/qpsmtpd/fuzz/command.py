"""`qpsmtpd fuzz`: inputs made until one fails, or the time is over."""

import argparse
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from qpsmtpd.config import ConfigError, did_you_mean
from qpsmtpd.fuzz.crashes import Crash, examine, shown, shrink
from qpsmtpd.fuzz.engines import Campaign
from qpsmtpd.fuzz.patience import bounded
from qpsmtpd.fuzz.plants import PLANTS
from qpsmtpd.fuzz.targets import TARGETS, Target

__all__ = ["ENGINES", "add_arguments"]

ENGINES: Mapping[str, tuple[str, str]] = {
    "atheris": ("atheris", "qpsmtpd.fuzz.guided"),
    "hypothesis": ("hypothesis", "qpsmtpd.fuzz.structured"),
    "plain": ("", "qpsmtpd.fuzz.plain"),
}
"""The library that an engine needs, and its module, which has `run(target, campaign)`. The first that can be had is used."""

_SECONDS = 60.0
_EVERY = 10.0  # seconds between two lines, where nobody looks on


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.add_argument(
        "targets", metavar="TARGET", nargs="*", help="what is fuzzed, one after another; all by default"
    )
    parser.add_argument(
        "--list", action="store_true", help="show the targets, the engines and the faults that can be planted"
    )
    parser.add_argument(
        "--engine", choices=list(ENGINES), help="atheris follows the branches of the code, hypothesis the grammar, plain needs "
        "neither (default: the first that is installed)",
    )  # fmt: skip
    parser.add_argument(
        "--seconds",
        type=_seconds,
        metavar="N",
        help=f"how long, for each target (default: {_SECONDS:g}, without --count)",
    )
    parser.add_argument("--count", type=_count, metavar="N", help="how many inputs, for each target")
    parser.add_argument("--seed", type=int, help="of the random numbers; plain makes the same inputs for the same seed")
    parser.add_argument(
        "--corpus",
        type=Path,
        metavar="DIR",
        help="inputs to begin with, in a directory for each target; new ones are added",
    )
    parser.add_argument(
        "--crashes",
        type=Path,
        metavar="DIR",
        default=Path("crashes"),
        help="where inputs that fail are written (default: crashes)",
    )
    parser.add_argument(
        "--one-seed", action="store_true", help="begin with one input alone, to see what an engine finds by itself"
    )
    parser.add_argument("--plant", metavar="FAULT", help="plant a fault in the code in memory, to see that it is found")
    parser.add_argument("--replay", type=Path, metavar="FILE", nargs="+", help="run inputs that have been written")
    parser.set_defaults(command=_fuzz)


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no time")
    return seconds


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of inputs")
    return int(text)


def _fuzz(options: argparse.Namespace) -> int:
    """Give 1 if something was found. Raises ConfigError."""
    if options.list:
        return _say(_lists())
    plant = None
    if options.plant is not None:
        plant = PLANTS.get(options.plant)
        if plant is None:
            raise ConfigError(
                f"there is no fault {options.plant!r}{did_you_mean(options.plant, PLANTS)}; --list shows them"
            )
    with plant.plant() if plant is not None else nullcontext(), bounded():
        if options.replay:
            return _replay(options)
        names = options.targets or ([plant.target] if plant is not None else list(TARGETS))
        targets = [_target(name) for name in names]
        engine, run = _engine(options.engine)
        # All targets get their turn, whatever becomes of the first.
        return max([_campaign(target, engine, run, options) for target in targets])


def _say(lines: Iterator[str]) -> int:
    for line in lines:
        print(line, flush=True)
    return 0


def _lists() -> Iterator[str]:
    yield "targets"
    yield from (f"  {target.name:20} {target.about}" for target in TARGETS.values())
    yield "engines"
    yield from (
        f"  {name:20} {'can be used' if _can_be_had(name) else f'needs the library {library}'}"
        for name, (library, _) in ENGINES.items()
    )
    yield "faults to plant"
    yield from (f"  {plant.name:20} {plant.target:8} {plant.about}" for plant in PLANTS.values())


def _target(name: str) -> Target:
    if name not in TARGETS:
        raise ConfigError(f"there is no target {name!r}{did_you_mean(name, TARGETS)}; there are {', '.join(TARGETS)}")
    return TARGETS[name]


Run = Callable[[Target, Campaign], None]


def _can_be_had(engine: str) -> bool:
    library = ENGINES[engine][0]
    return not library or find_spec(library) is not None


def _engine(wanted: str | None) -> tuple[str, Run]:
    """An engine by its name, or the best there is. Raises ConfigError."""
    name = wanted or next(filter(_can_be_had, ENGINES))
    if not _can_be_had(name):
        raise ConfigError(
            f"the engine {name} needs {ENGINES[name][0]}, which is not installed; run `pip install 'qpsmtpd[fuzz]'`"
        )
    run: Run = import_module(ENGINES[name][1]).run
    return name, run


def _campaign(target: Target, engine: str, run: Run, options: argparse.Namespace) -> int:
    """Fuzz one target; give 1 if something was found. Raises OSError, for directories and for an engine that fails."""
    seed = random.randrange(1, 1 << 31) if options.seed is None else options.seed  # noqa: S311 - to be told
    on_terminal = sys.stdout.isatty()

    def tell(campaign: Campaign, crashes: int = 0) -> None:
        end = "\r" if on_terminal and not crashes else "\n"
        print(_progress(target, engine, campaign, crashes), end=end, flush=True)

    campaign = Campaign(
        tell,
        1.0 if on_terminal else _EVERY,
        _SECONDS if options.seconds is None and options.count is None else options.seconds,
        options.count,
        seed,
        options.plant or "",
        options.one_seed,
        options.corpus / target.name if options.corpus is not None else None,
    )
    if campaign.corpus is not None:
        campaign.corpus.mkdir(parents=True, exist_ok=True)
    try:
        run(target, campaign)
    except OSError:  # nothing of what is fuzzed does I/O
        raise
    except Exception as error:  # noqa: BLE001 - that is what is looked for
        tell(campaign, 1)
        crash = shrink(target, Crash(target.name, campaign.input, error))
        _say(shown(crash))
        path = crash.write(options.crashes, f"{target.name}, found by {engine} with the seed {seed}")
        print(f"written to {path}; run it again: qpsmtpd fuzz --replay {path}")
        return 1
    if on_terminal:
        print()
    print(_progress(target, engine, campaign, 0), flush=True)
    return 0


def _progress(target: Target, engine: str, campaign: Campaign, crashes: int) -> str:
    speed = campaign.runs / max(campaign.elapsed, 0.001)
    return (
        f"{target.name:8} {engine:10} {campaign.elapsed:6.1f} s {campaign.runs:12,} runs {speed:9,.0f}/s "
        f"{campaign.paths:7,} paths {campaign.inputs:7,} inputs  {crashes} crashes"
    )


def _replay(options: argparse.Namespace) -> int:
    failed = 0
    for path in options.replay:
        name = options.targets[0] if options.targets else path.name.partition("-")[0]
        found = examine(_target(name), path.read_bytes())
        if found is None:
            print(f"{path}: nothing is wrong")
            continue
        failed = 1
        print(f"{path}:")
        _say(shown(found))
    return failed
