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
    """What one case found for each target, in `unit`; smaller is better. It grows round by round.

    With a `baseline` it is about what ours has more than that, not about how many times as much.
    """

    case: str
    unit: str
    ours: str = OURS
    baseline: str = ""
    notes: list[str] = field(default_factory=list)
    rounds: dict[str, list[float]] = field(default_factory=dict)
    failures: dict[str, list[str]] = field(default_factory=dict)

    def take(self, target: str, measure: Callable[[], float]) -> None:
        """One round: what it measured, or why it does not count."""
        try:
            self.add(target, measure())
        except Trouble as trouble:
            self.fail(target, str(trouble))

    def take_pair(self, measure: Callable[[], tuple[float, float]]) -> None:
        """One round of the baseline and one of ours: both, or why neither counts."""
        try:
            for target, value in zip((self.baseline, self.ours), measure(), strict=True):
                self.add(target, value)
        except Trouble as trouble:
            self.fail(self.ours, str(trouble))

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

    def added(self) -> float | None:
        """What ours has more than the baseline, in the median of their pairs of rounds; None without one."""
        differences = self._differences()
        return statistics.median(differences) if differences else None

    def note_spread(self) -> None:
        """Tell what `added` is worth: between which two lies the middle half of the differences."""
        if found := self._differences():
            low, high = percentile(found, 25), percentile(found, 75)
            self.notes.append(f"half of {len(found)} differences are from {low:.2f} to {high:.2f}")

    def text(self) -> str:
        """One line with every figure and what comes of them, then one for each note and each trouble."""
        shown = (f"{name} {rounded(cost)}" for name, cost in self.medians().items())
        line = f"{self.case:14s} {self.unit:11s} " + "  ".join(shown)
        if outcome := self.outcome():
            line += f"  {outcome}"
        return "\n".join([line, *(f"  {note}" for note in self.notes), *self.troubles()])

    def outcome(self) -> str:
        """The ratio, or what is added; empty where there is neither."""
        if (added := self.added()) is not None:
            return f"added {added:.2f}"
        ratio = None if self.baseline else self.ratio()
        return "" if ratio is None else f"ratio {ratio:.2f}"

    def record(self) -> dict[str, object]:
        """The same for a JSON file, with every single round."""
        found: dict[str, object] = {"case": self.case, "unit": self.unit, "median": self.medians()}
        found |= {"ratio": self.ratio(), "added": self.added(), "notes": self.notes}
        return found | {"rounds": self.rounds, "failures": self.failures}

    def troubles(self) -> Iterable[str]:
        """One line for each target of which rounds do not count."""
        for name, reasons in self.failures.items():
            tried = len(reasons) + len(self.rounds[name])
            different = "; ".join(dict.fromkeys(reasons))
            yield f"  ! {name}: {len(reasons)} of {tried} rounds do not count: {different}"

    def _differences(self) -> list[float]:
        if not self.baseline:
            return []
        pairs = zip(self.rounds.get(self.baseline, ()), self.rounds.get(self.ours, ()), strict=True)
        return [ours - baseline for baseline, ours in pairs]


def percentile(values: Iterable[float], percent: float) -> float:
    """The smallest of the values that `percent` of them do not exceed (nearest rank; never in between)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def rounded(cost: float | None) -> str:
    """As it is shown to people."""
    return "failed" if cost is None else f"{cost:.2f}"
