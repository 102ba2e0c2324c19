"""When a certificate is ordered, and when not. Pure: the time is an argument, in epoch seconds, chance too.

What has to be remembered over a restart is a `Record` per certificate and the `Budget` of all
names; `acme_store` keeps both on disk, `acme_service` asks here what follows from them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Final

from rproxy.services.acme_problems import AcmeError, Kind

HOUR: Final = 3600.0
DAY: Final = 86400.0

SHORT_LIFE: Final = 10 * DAY
"""Certificates that live shorter than this are renewed at half of their life, others at two thirds."""
SPREAD: Final = 0.02
"""Of a life, over which renewals are spread: what was issued together is not renewed together."""
AT_LAST: Final = 0.1
"""Of a life: a renewal is not put off beyond this, whatever the authority suggests."""
PANIC: Final = 1 / 6
"""Of a life: less than this left, and a failed renewal is told as critical."""

MOST_FAILURES: Final = 4
"""Of one name within `BUDGET_FOR`. Let's Encrypt blocks a name for an hour at the fifth."""
BUDGET_FOR: Final = HOUR
DELAYS: Final = (60.0, 300.0, 1800.0, 7200.0, 21600.0)
"""Seconds after the first, second ... failure in a row; the last one for all that follow."""
JITTER: Final = 0.25
"""Of a delay, to either side, so that what failed together is not tried together."""
SOONEST_AGAIN: Final = 6 * HOUR
"""Seconds after a success until the next order, for where clocks differ by more than a certificate lives."""
REFUSED_FOR: Final = 21600.0
"""Seconds after a refusal that only a person can change; a reload tries at once."""
LIMITED_FOR: Final = HOUR
"""Seconds after "too often" without a time."""
MOST_LIMITED: Final = 7 * DAY
"""Seconds: no authority counts over more than a week."""
FIRST_PAUSE: Final = 5.0
"""Seconds after an authority could not be reached, doubled each time up to `LAST_PAUSE`."""
LAST_PAUSE: Final = 600.0
MANY: Final = 30
"""Where counting such times ends."""
FAILED_OVER: Final = 3
"""Times in a row that an authority cannot be reached until the next one is asked instead."""
TRIES_EACH: Final = 2
"""Failed validations until the next authority is asked."""

SOONEST_ASKED: Final = 60.0
LATEST_ASKED: Final = DAY
"""Seconds between two questions for renewal information, whatever the authority wants (RFC 9773 §4.3.3)."""
NOT_ANSWERED: Final = 6 * HOUR
"""Seconds after a question for renewal information that failed (RFC 9773 §4.3.2)."""


@dataclass(frozen=True, slots=True)
class Window:
    """Epoch seconds between which something should happen."""

    begins: float
    ends: float


@dataclass(frozen=True, slots=True)
class Life:
    """When a certificate is good: epoch seconds."""

    begins: float
    ends: float

    def window(self) -> Window:
        """When to renew it if the authority has no opinion."""
        life = self.ends - self.begins
        begins = self.ends - (life / 2 if life < SHORT_LIFE else life / 3)
        return Window(begins, begins + SPREAD * life)

    def latest(self) -> float:
        """When to renew it whatever the authority's opinion is."""
        return self.ends - AT_LAST * (self.ends - self.begins)

    def is_critical(self, now: float) -> bool:
        """Whether a failure to renew it should wake somebody up."""
        return self.ends - now < PANIC * (self.ends - self.begins)


@dataclass(frozen=True, slots=True)
class Record:
    """What is remembered of one certificate and of the attempts to get the next."""

    authority: str = ""
    """The directory of the authority that signed the certificate; empty when that is not known."""
    certificate: str = ""
    """Which certificate `renew_at` and `window` are about: its SHA-256 in hex."""
    renew_at: float = 0.0
    window: tuple[float, float] = (0.0, 0.0)
    suggested: bool = False
    """Whether the window is the authority's."""
    explanation: str = ""
    """An address where the authority says why."""
    ask_at: float = 0.0
    """When to ask it (again) for its opinion."""
    turn: int = 0
    """The index of the authority that is asked next."""
    failures: int = 0
    """In a row, without those that nobody counts."""
    stumbles: int = 0
    """Attempts in a row that got no sensible answer."""
    not_before: float = 0.0
    """No attempt earlier than this."""
    problem: str = ""
    kind: str = ""
    problem_at: float = 0.0
    settings: str = ""
    """What the attempt was made with, so that a change of it is worth an attempt."""

    def begun(self, certificate: str, life: Life, rng: Random) -> Record:
        """The record once this certificate is in use: the same if it is about it already."""
        if certificate == self.certificate:
            return self
        window = life.window()
        return replace(
            self,
            certificate=certificate,
            window=(window.begins, window.ends),
            renew_at=rng.uniform(window.begins, window.ends),
            suggested=False,
            explanation="",
            ask_at=0.0,
        )

    def succeeded(self, authority: str, now: float, life: Life) -> Record:
        """After an attempt that gave a certificate. The first authority is the next to be asked.

        However soon the certificate should be renewed, by our clock or the authority's wish: not at once.
        """
        rest = min(SOONEST_AGAIN, (life.ends - life.begins) / 8)
        return replace(
            self,
            authority=authority,
            turn=0,
            failures=0,
            stumbles=0,
            not_before=now + rest,
            problem="",
            kind="",
            problem_at=0.0,
        )

    def suggests(self, window: Window, explanation: str, again: float, now: float, rng: Random) -> Record:
        """After an authority's answer; a moment within its window is kept for as long as the window stays."""
        again = min(max(again, SOONEST_ASKED), LATEST_ASKED)
        record = replace(self, ask_at=now + again, explanation=explanation)
        if self.suggested and self.window == (window.begins, window.ends):
            return record
        return replace(
            record,
            window=(window.begins, window.ends),
            suggested=True,
            renew_at=rng.uniform(window.begins, window.ends),
        )

    def not_suggested(self, now: float, rng: Random) -> Record:
        """After an authority that would not say."""
        return replace(self, ask_at=now + NOT_ANSWERED * _jitter(rng))

    def failed(self, problem: AcmeError, now: float, rng: Random, authorities: int) -> Record:
        """After an attempt that gave none, with so many authorities to turn to."""
        record = replace(self, problem=problem.words, kind=problem.kind.value, problem_at=now)
        if problem.kind is Kind.UNREACHABLE:  # `Standing` says which authority is asked
            pause = _pause(self.stumbles, rng)
            return replace(record, stumbles=min(self.stumbles + 1, MANY), not_before=now + pause)
        failures = self.failures + 1
        record = replace(record, failures=failures, not_before=now + _delay(problem, failures, rng))
        if problem.kind is Kind.OURS or (problem.kind is Kind.VALIDATION and failures % TRIES_EACH):
            return record
        turn = (self.turn + 1) % max(authorities, 1)
        if turn and problem.kind is not Kind.VALIDATION:  # this one will not, but the next one may, and now
            return replace(record, turn=turn, not_before=now)
        return replace(record, turn=turn)

    def changed(self, settings: str) -> Record:
        """For these settings: a new chance if they are not those that failed."""
        if settings == self.settings:
            return self
        return replace(self, settings=settings, turn=0, failures=0, stumbles=0, not_before=0.0)

    def given_another_chance(self) -> Record:
        """After a reload: somebody may have changed what an authority has refused."""
        return replace(self, not_before=0.0, turn=0) if self.kind == Kind.REFUSED.value else self

    def due_at(self, life: Life | None, complete: bool) -> float:
        """When to order; `complete` says whether the certificate has all the names that it should."""
        if life is None or not complete:
            return self.not_before
        return max(min(self.renew_at, life.latest()), self.not_before)


@dataclass(frozen=True, slots=True)
class Budget:
    """The failed validations of each name: when they were, epoch seconds."""

    failures: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def open_at(self, names: Iterable[str], now: float) -> float:
        """When all of these names may be tried (again); not later than `now` if they may at once."""
        return max((self._open_at(name, now) for name in names), default=now)

    def charged(self, names: Iterable[str], now: float) -> Budget:
        """With a failure of each more; what no longer counts is dropped."""
        kept = {name: recent for name, times in self.failures.items() if (recent := _recent(times, now))}
        for name in names:
            kept[name] = (*kept.get(name, ()), now)
        return Budget(kept)

    def refunded(self, names: Iterable[str], charged_at: float) -> Budget:
        """Without the failures that were charged then: it was no failure."""
        kept = dict(self.failures)
        for name in names:
            times = list(kept.pop(name, ()))
            if charged_at in times:
                times.remove(charged_at)
            if times:
                kept[name] = tuple(times)
        return Budget(kept)

    def _open_at(self, name: str, now: float) -> float:
        times = _recent(self.failures.get(name, ()), now)
        return now if len(times) < MOST_FAILURES else sorted(times)[-MOST_FAILURES] + BUDGET_FOR


@dataclass(frozen=True, slots=True)
class Standing:
    """How an authority has answered lately."""

    failures: int = 0
    """In a row."""
    paused_until: float = 0.0

    def failed(self, problem: AcmeError, now: float, rng: Random) -> Standing:
        """After a problem that is the authority's, or about how often it is asked."""
        pause = _pause(self.failures, rng)
        if problem.kind is Kind.UNREACHABLE and problem.retry_after is not None:
            pause = max(pause, min(problem.retry_after, DAY))
        return Standing(min(self.failures + 1, MANY), now + pause)


def choose(turn: int, standings: Sequence[Standing], now: float) -> tuple[int | None, float]:
    """The index of the authority to ask, beginning with `turn`; or None, and when to look again."""
    again = []
    for step in range(len(standings)):
        index = (turn + step) % len(standings)
        standing = standings[index]
        if standing.paused_until <= now:
            return index, now
        again.append(standing.paused_until)
        if standing.failures < FAILED_OVER:  # it may be back in a moment
            break
    return None, min(again, default=now)


def _delay(problem: AcmeError, failures: int, rng: Random) -> float:
    match problem.kind:
        case Kind.LIMITED:
            asked = LIMITED_FOR if problem.retry_after is None else problem.retry_after
            # Later, never earlier than it was asked for.
            return min(max(asked, SOONEST_ASKED), MOST_LIMITED) * rng.uniform(1, 1 + JITTER / 2)
        case Kind.REFUSED:
            return REFUSED_FOR * _jitter(rng)
        case _:
            return DELAYS[min(failures, len(DELAYS)) - 1] * _jitter(rng)


def _pause(before: int, rng: Random) -> float:
    return min(FIRST_PAUSE * 2.0**before, LAST_PAUSE) * _jitter(rng)


def _jitter(rng: Random) -> float:
    return rng.uniform(1 - JITTER, 1 + JITTER)


def _recent(times: Iterable[float], now: float) -> tuple[float, ...]:
    """Those that count; one in the future, after the clock was put back, does not."""
    return tuple(time for time in times if now - BUDGET_FOR < time <= now)
