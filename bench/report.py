"""What do the runs of compare.py say: figures, ratios, goals? Knows nothing of how they were made."""

import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contenders import OURS
from workloads import COMMANDS, WORKERS, WORKLOADS

BEGIN = "<!-- figures: written by bench/compare.py --page; do not edit -->"
END = "<!-- end of the figures -->"
REFERENCES = ("smtp-sink", "aiosmtpd")


class Figures:
    """The runs of compare.py, put together over the rounds."""

    def __init__(self, runs: Iterable[Mapping[str, Any]]) -> None:
        self._rounds: dict[tuple[str, str], dict[int, float]] = {}
        for run in runs:
            if run["figure"] is not None:
                self._rounds.setdefault((run["workload"], run["server"]), {})[run["round"]] = run["figure"]

    def measured(self, *, workload: str | None = None, server: str | None = None) -> bool:
        """Whether there is a figure of a workload, of a server, or of both together."""
        return any(workload in (None, each) and server in (None, of) for each, of in self._rounds)

    def median(self, workload: str, server: str) -> float | None:
        """Over the rounds."""
        rounds = self._rounds.get((workload, server))
        return statistics.median(rounds.values()) if rounds else None

    def ratio(self, workload: str, server: str, reference: str) -> float | None:
        """The median of the ratios within each round: what disturbs a whole round falls out."""
        ours, theirs = (self._rounds.get((workload, each), {}) for each in (server, reference))
        ratios = [ours[number] / theirs[number] for number in ours.keys() & theirs.keys()]
        return statistics.median(ratios) if ratios else None


def report(result: Mapping[str, Any]) -> str:
    """All that compare.py prints, in Markdown."""
    figures = Figures(result["runs"])
    parts = [_conditions(result), _table(figures), _legend(figures), _faults(result)]
    return "\n\n".join(filter(None, parts)) + "\n"


def write_page(page: Path, result: Mapping[str, Any]) -> None:
    """Put the report between the two marks of a page. Raises ValueError if it has none."""
    before, begin, rest = page.read_text("utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} has not the lines {BEGIN} and {END}")
    page.write_text(f"{before}{BEGIN}\n\n{report(result)}\n{END}{after}", "utf-8")


def shown(server: str) -> str:
    """The name of a server in a table."""
    if server in WORKERS:
        return f"qpsmtpd asyncio, {server}"
    return f"qpsmtpd {server}" if server in OURS else server


def _conditions(result: Mapping[str, Any]) -> str:
    pinned = "server and generator on a CPU each" if result["pinned"] else "server and generator on the same CPU"
    return (
        f"Python {result['python']} on {result['cpus']} x {result['cpu']}, Linux {result['kernel']}; {pinned}; "
        f"rounds: {result['rounds']}, of which the medians stand here; {result['seconds']:g} s a run."
    )


def _table(figures: Figures) -> str:
    workloads = [name for name in WORKLOADS if figures.measured(workload=name)]
    servers = [name for name in COMMANDS if figures.measured(server=name)]
    lines = ["| server |" + "".join(f" {name} |" for name in workloads), "|---|" + "--:|" * len(workloads)]
    for server in servers:
        cells = (_cell(figures, workload, server) for workload in workloads)
        lines.append(f"| {shown(server)} |" + "".join(f" {cell} |" for cell in cells))
    return "\n".join(lines)


def _cell(figures: Figures, workload: str, server: str) -> str:
    figure = figures.median(workload, server)
    if figure is None:
        return "-"
    text = f"{figure:,.0f}" if figure >= 100 else f"{figure:.1f}"
    ratios = [figures.ratio(workload, server, reference) for reference in REFERENCES]
    if ratios == [None, None]:
        return text
    return f"{text} ({'; '.join('-' if ratio is None else f'{ratio:.2f}' for ratio in ratios)})"


def _legend(figures: Figures) -> str:
    lines = ["In brackets the ratios to smtp-sink and to aiosmtpd, each the median of the ratios within a round.", ""]
    for name, workload in WORKLOADS.items():
        if figures.measured(workload=name):
            better = "less" if workload.unit.less_is_better else "more"
            lines.append(f"- {name}: {workload.title}; {workload.unit.value}, {better} is better")
    return "\n".join(lines)


def _faults(result: Mapping[str, Any]) -> str:
    lines = [f"- {name} is left out: {reason}" for name, reason in result["left_out"].items()]
    lines += [
        f"- {run['workload']}, {shown(run['server'])}, round {run['round'] + 1}: "
        f"{run['errors']} errors, the first: {run['first_error']}"
        for run in result["runs"]
        if run["errors"]
    ]
    return "\n".join(lines)


# Goals


@dataclass(frozen=True)
class Goal:
    """A bound of ours, for each backend that has one."""

    title: str
    value: Callable[[Figures, str], float | None]
    """Of a backend; None for what was not measured."""
    bounds: Mapping[str, float]
    at_most: bool


def _ratio(workload: str, reference: str) -> Callable[[Figures, str], float | None]:
    return lambda figures, backend: figures.ratio(workload, backend, reference)


def _inverse(workload: str, reference: str) -> Callable[[Figures, str], float | None]:
    return lambda figures, backend: figures.ratio(workload, reference, backend)


def _plain(workload: str) -> Callable[[Figures, str], float | None]:
    return lambda figures, backend: figures.median(workload, backend)


def _bounds(*bounds: float) -> Mapping[str, float]:
    return dict(zip(("asyncio", "uvloop", "trio", "blocking"), bounds, strict=False))


GOALS = (
    Goal("W2, our CPU to smtp-sink's", _ratio("W2", "smtp-sink"), _bounds(1.4, 1.3, 1.9, 1.5), at_most=True),
    Goal("W3, our CPU to smtp-sink's", _ratio("W3", "smtp-sink"), _bounds(1.5, 1.4, 1.9, 1.6), at_most=True),
    Goal("W6, our CPU to smtp-sink's", _ratio("W6", "smtp-sink"), _bounds(4, 4, 4.5, 4), at_most=True),
    Goal("W1, our CPU to aiosmtpd's", _ratio("W1", "aiosmtpd"), _bounds(0.30, 0.22, 0.40, 0.42), at_most=True),
    Goal("W2, aiosmtpd's CPU to ours", _inverse("W2", "aiosmtpd"), _bounds(4, 4.2, 3, 3.7), at_most=False),
    Goal("W5, our MB/s to smtp-sink's", _ratio("W5", "smtp-sink"), _bounds(1.2, 1.2, 1.0, 1.2), at_most=False),
    Goal("W7, bytes an idle connection", _plain("W7"), _bounds(6000, 6000, 10000), at_most=True),
    Goal("W8, messages/s to aiosmtpd's", _ratio("W8", "aiosmtpd"), _bounds(3), at_most=False),
)


def goals(result: Mapping[str, Any]) -> str:
    """Which goals are reached, in Markdown."""
    figures = Figures(result["runs"])
    lines = ["| goal | backend | bound | figure | reached |", "|---|---|--:|--:|---|"]
    rows = [*_bounded(figures), _ahead_of_smtp_server(figures)]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines) + "\n"


def _bounded(figures: Figures) -> Iterator[Sequence[str]]:
    for goal in GOALS:
        for backend, bound in goal.bounds.items():
            sign = "≤" if goal.at_most else "≥"
            value = goal.value(figures, backend)
            if value is None:
                yield goal.title, backend, f"{sign} {bound:g}", "-", "not measured"
                continue
            reached = value <= bound if goal.at_most else value >= bound
            text = f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
            yield goal.title, backend, f"{sign} {bound:g}", text, "yes" if reached else "no"


def _ahead_of_smtp_server(figures: Figures) -> Sequence[str]:
    behind, ahead = [], []
    for name, workload in WORKLOADS.items():
        ratio = figures.ratio(name, "asyncio", "smtp-server")
        if ratio is not None:
            wins = ratio < 1 if workload.unit.less_is_better else ratio > 1
            (ahead if wins else behind).append(name)
    title, everywhere = "ahead of smtp-server on every workload", f"{len(ahead)} of {len(ahead) + len(behind)}"
    if not ahead and not behind:
        return title, "asyncio", "all", "-", "not measured"
    return title, "asyncio", "all", everywhere, f"no: behind on {', '.join(behind)}" if behind else "yes"
