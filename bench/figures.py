"""What the cases found and how it is shown: medians, ratios, and the rounds that did not count.

Nothing in here measures; cases.py fills figures and bench.py prints them.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

OURS = "rproxy"


class Trouble(Exception):
    """A round that does not count, and why: one line for people."""


@dataclass(slots=True)
class Figure:
    """What one case found for each target, in `unit`; smaller is better. It grows round by round."""

    case: str
    unit: str
    ours: str = OURS
    rounds: dict[str, list[float]] = field(default_factory=dict)
    failures: dict[str, list[str]] = field(default_factory=dict)

    def take(self, target: str, measure: Callable[[], float]) -> None:
        """One round: what it measured, or why it does not count."""
        try:
            self.add(target, measure())
        except Trouble as trouble:
            self.fail(target, str(trouble))

    def add(self, target: str, value: float) -> None:
        """One round that counts."""
        self.rounds.setdefault(target, []).append(value)

    def fail(self, target: str, why: str) -> None:
        """One round that does not count."""
        self.rounds.setdefault(target, [])
        self.failures.setdefault(target, []).append(why)

    def medians(self) -> dict[str, float | None]:
        """Of the rounds that count; None where none does."""
        return {name: statistics.median(each) if each else None for name, each in self.rounds.items()}

    def ratio(self) -> float | None:
        """Ours as a multiple of the best other; None where either is missing."""
        medians = self.medians()
        own = medians.pop(self.ours, None)
        others = [cost for cost in medians.values() if cost]
        return own / min(others) if own is not None and others else None

    def text(self) -> str:
        """One line with every figure and the ratio, then one for each target that had trouble."""
        shown = (f"{name} {_rounded(cost)}" for name, cost in self.medians().items())
        line = f"{self.case:14s} {self.unit:11s} " + "  ".join(shown)
        if (ratio := self.ratio()) is not None:
            line += f"  ratio {ratio:.2f}"
        return "\n".join([line, *self._troubles()])

    def record(self) -> dict[str, object]:
        """The same for a JSON file, with every single round."""
        found = {"case": self.case, "unit": self.unit, "median": self.medians(), "ratio": self.ratio()}
        return found | {"rounds": self.rounds, "failures": self.failures}

    def _troubles(self) -> Iterable[str]:
        for name, reasons in self.failures.items():
            tried = len(reasons) + len(self.rounds[name])
            different = "; ".join(dict.fromkeys(reasons))
            yield f"  ! {name}: {len(reasons)} of {tried} rounds do not count: {different}"


def percentile(values: Iterable[float], percent: float) -> float:
    """The smallest of the values that `percent` of them do not exceed (nearest rank; never in between)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def _rounded(cost: float | None) -> str:
    return "failed" if cost is None else f"{cost:.2f}"
