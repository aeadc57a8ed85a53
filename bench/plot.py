"""How do the figures of compare.py look? Draws CPU per message by server, a panel a workload, as SVG.

python bench/plot.py FIGURES.json [--output docs/performance.svg]
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

from contenders import OURS
from report import Figures, shown
from workloads import COMMANDS, WORKLOADS

PANELS = ("W1", "W2", "W3")
LABELS, PANEL, GAP = 150, 220, 20  # widths
HEAD, ROW, BAR, FOOT = 64, 24, 16, 34  # heights
NUMBER = 44  # room for the figure behind a bar
OUR_COLOUR, THEIR_COLOUR, INK, PALE = "#2563a8", "#9a9fa6", "#1c1f23", "#5b616a"


def draw(figures: Figures, caption: str) -> str:
    """The chart."""
    servers = [name for name in COMMANDS if any(figures.measured(workload=panel, server=name) for panel in PANELS)]
    width = LABELS + len(PANELS) * (PANEL + GAP)
    height = HEAD + ROW * len(servers) + FOOT
    size = f'width="{width}" height="{height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {width} {height}" role="img"',
        '     font-family="system-ui, sans-serif">',
        "<title>CPU microseconds a message, by server and workload; a shorter bar is better</title>",
        f'<rect {size} fill="#ffffff"/>',
        _text(LABELS, 20, "CPU microseconds a message (a shorter bar is better)", size=14, weight="bold"),
        *_names(servers),
    ]
    for number, panel in enumerate(PANELS):
        parts += _panel(LABELS + number * (PANEL + GAP), panel, servers, figures)
    parts += [_text(LABELS, height - 12, caption, colour=PALE, size=11), "</svg>"]
    return "\n".join(parts) + "\n"


def _names(servers: Sequence[str]) -> Iterator[str]:
    for row, server in enumerate(servers):
        weight = "bold" if server in OURS else "normal"
        yield _text(LABELS - 10, _middle(row), shown(server), anchor="end", weight=weight)


def _panel(left: int, workload: str, servers: Sequence[str], figures: Figures) -> Iterator[str]:
    """The bars of a workload, on a scale of their own."""
    longest = max((figures.median(workload, server) or 0.0 for server in servers), default=0.0)
    yield _text(left, 44, workload, weight="bold")
    yield _text(left + 28, 44, WORKLOADS[workload].title, colour=PALE, size=11)
    bottom = HEAD + ROW * len(servers)
    yield f'<line x1="{left}" y1="{HEAD - 8}" x2="{left}" y2="{bottom}" stroke="{PALE}"/>'
    for row, server in enumerate(servers):
        figure = figures.median(workload, server)
        if figure is None:
            yield _text(left + 6, _middle(row), "not measured", colour=PALE, size=11)
            continue
        length = figure / longest * (PANEL - NUMBER)
        colour = OUR_COLOUR if server in OURS else THEIR_COLOUR
        top = HEAD + ROW * row
        yield f'<rect x="{left}" y="{top}" width="{length:.1f}" height="{BAR}" fill="{colour}"/>'
        yield _text(left + length + 6, _middle(row), f"{figure:.0f}")


def _middle(row: int) -> float:
    """The base line of a text beside a bar."""
    return HEAD + ROW * row + BAR - 4


def _text(
    x: float,
    y: float,
    text: str,
    *,
    size: int = 12,
    weight: str = "normal",
    anchor: str = "start",
    colour: str = INK,
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}" text-anchor="{anchor}" '
        f'fill="{colour}">{escape(text)}</text>'
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figures", type=Path, help="what bench/compare.py --json has written")
    default = Path(__file__).parents[1] / "docs" / "performance.svg"
    parser.add_argument("--output", type=Path, default=default)
    options = parser.parse_args()
    result = json.loads(options.figures.read_text())
    caption = f"Python {result['python']}, {result['cpu']}; 20 connections; each panel has its own scale"
    options.output.write_text(draw(Figures(result["runs"]), caption), "utf-8")
    print(f"wrote {options.output}")


if __name__ == "__main__":
    main()
