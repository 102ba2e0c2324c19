"""A run for people who were not there: table.md and chart.svg, written by bench.py at the end of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from aims import aim
from figures import OURS, Figure, rounded

COLOURS = {"nginx": "#8a94a6", "haproxy": "#c99a3f", OURS: "#1f6fb2"}
NAMES = {"nginx": "nginx", "haproxy": "HAProxy", OURS: "rproxy"}

TITLE = """# The last run

Written by `make bench`. [README.md](README.md) says what the cases are and what the figures mean: medians
of all rounds, of the CPU time that a proxy used per unit of work where the unit does not say otherwise.
"""
HEADINGS = "| case | unit | nginx | HAProxy | rproxy | ours beside the better | aim |"

WIDTH, LEFT, RIGHT = 860, 190, 110
"""Pixels: all, and what is left of the bars for names and right of them for figures."""
BAR, ROW, LINE = 9, 40, 13
"""Pixels: the height of a bar, of the three of a case with their gap, and of a line of small text."""
WIDEST = 4.0
"""Multiples at which bars are cut off: the figure beside them says how far they would go."""


def write(folder: Path, about: Sequence[str], figures: Sequence[Figure]) -> None:
    """Both files. `about` says in a few lines what was measured, on what, when and how."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "table.md").write_text(table(about, figures))
    (folder / "chart.svg").write_text(chart(about, figures))


def table(about: Sequence[str], figures: Sequence[Figure]) -> str:
    """Every figure with its ratio and its aim, in Markdown."""
    lines = [TITLE, *(f"- {line}" for line in about), "", HEADINGS, "|---" * 7 + "|"]
    lines += [_row(figure) for figure in figures]
    told = [f"- `{figure.case}`: {note}" for figure in figures for note in _remarks(figure)]
    return "\n".join([*lines, *(["", *told] if told else [])]) + "\n"


def _row(figure: Figure) -> str:
    medians = figure.medians()
    cells = [rounded(medians[name]) if name in medians else "" for name in NAMES]
    if others := [f"{name}: {rounded(cost)}" for name, cost in medians.items() if name not in NAMES]:
        cells[-1] = ", ".join(others)
    return f"| `{figure.case}` | {figure.unit} | {' | '.join(cells)} | {figure.outcome()} | {aim(figure)} |"


def _remarks(figure: Figure) -> Iterable[str]:
    yield from figure.notes
    yield from (line.strip(" !") for line in figure.troubles())


def chart(about: Sequence[str], figures: Sequence[Figure]) -> str:
    """The figures that others have as well, as bars: multiples of the better of the others."""
    shown = [figure for figure in figures if _best_other(figure) is not None]
    top = 52 + LINE * len(about)
    height = top + ROW * len(shown) + 12
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        f'height="{height}" font-family="Helvetica, Arial, sans-serif">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        _text(10, 20, "What it costs: the better of nginx and HAProxy is 1, less is better", size=15),
        *(_text(10, 36 + LINE * number, line, colour="#555") for number, line in enumerate(about)),
        *_legend(),
        *_scale(top, height),
    ]
    for number, figure in enumerate(shown):
        parts += _bars(figure, top + ROW * number)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _best_other(figure: Figure) -> float | None:
    """What is 1 in the row of this figure; None where there is nobody to be compared with."""
    others = [cost for name, cost in figure.medians().items() if name in NAMES and name != OURS and cost]
    return min(others) if others and not figure.baseline else None


def _legend() -> Iterable[str]:
    for number, (name, colour) in enumerate(COLOURS.items()):
        yield _box(WIDTH - 270 + 90 * number, 11, 10, 10, colour)
        yield _text(WIDTH - 256 + 90 * number, 20, NAMES[name])


def _scale(top: int, height: int) -> Iterable[str]:
    """A line for each multiple, the one that all are compared with in black."""
    for multiple in range(int(WIDEST) + 1):
        at, colour = _along(multiple), "#222" if multiple == 1 else "#ddd"
        yield f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{top - 4}" y2="{height - 8}" stroke="{colour}"/>'
        yield _text(at - 3, top - 8, str(multiple), colour="#555")


def _bars(figure: Figure, top: int) -> Iterable[str]:
    """The name of a case, and a bar with its figure for each of the three."""
    best, medians = _best_other(figure) or 1.0, figure.medians()
    yield _text(10, top + 15, figure.case, size=12)
    yield _text(10, top + 28, figure.unit, colour="#555")
    for number, (name, colour) in enumerate(COLOURS.items()):
        at = top + number * (BAR + 2)
        end = _along(min((medians.get(name) or 0.0) / best, WIDEST))
        yield _box(LEFT, at, end - LEFT, BAR, colour)
        if name in medians:
            yield _text(end + 4, at + BAR - 1, _label(medians[name], best), size=9)


def _label(cost: float | None, best: float) -> str:
    beyond = f" ({cost / best:.1f} times)" if cost and cost / best > WIDEST else ""
    return rounded(cost) + beyond


def _along(multiple: float) -> float:
    return LEFT + multiple / WIDEST * (WIDTH - LEFT - RIGHT)


def _box(x: float, y: float, width: float, height: float, colour: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height}" fill="{colour}"/>'


def _text(x: float, y: float, words: str, *, size: int = 11, colour: str = "#222") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{colour}">{escape(words)}</text>'
