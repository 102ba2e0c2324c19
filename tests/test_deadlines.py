"""Time-outs: never early, at most two ticks late, dropped for good, and not stopped by a failing one."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from rproxy.deadlines import PRECISE, TICK, Deadlines
from tests.fakes import LogLines

STEP = TICK / 8
"""The clock's step: small against a tick, and exact in binary."""


def run(clock: Clock, seconds: float) -> None:
    for _ in range(int(seconds / STEP) + 1):
        clock.advance(STEP)


@given(
    st.lists(st.tuples(st.integers(0, 200), st.floats(0.01, 20, allow_nan=False)), min_size=1, max_size=20)
)
def test_never_early_and_at_most_two_ticks_late(wanted: list[tuple[int, float]]) -> None:
    clock, called = Clock(), []
    deadlines = Deadlines(clock)
    for number, (wait, seconds) in enumerate(wanted):
        run(clock, wait * STEP)
        due = clock.seconds() + seconds
        deadlines.after(
            seconds, lambda number=number, due=due: called.append((number, clock.seconds() - due))
        )
    run(clock, 20 + 2 * TICK)
    assert sorted(number for number, _ in called) == list(range(len(wanted)))
    assert all(-1e-9 <= late <= 2 * TICK + STEP for _, late in called)


def test_short_ones_are_precise() -> None:
    clock, called = Clock(), []
    Deadlines(clock).after(PRECISE / 2, lambda: called.append(clock.seconds()))
    clock.advance(PRECISE / 2)
    assert called == [PRECISE / 2]


def test_a_dropped_one_never_expires_and_dropping_again_is_nothing() -> None:
    clock, called = Clock(), []
    deadlines = Deadlines(clock)
    drops = [deadlines.after(seconds, lambda: called.append(1)) for seconds in (1.0, 5.0)]
    for drop in drops * 2:
        drop.drop()
    run(clock, 10)
    assert called == []


def test_dropping_after_it_expired_does_nothing_to_others() -> None:
    clock, called = Clock(), []
    deadlines = Deadlines(clock)
    early = [deadlines.after(seconds, lambda: called.append("early")) for seconds in (1.0, 5.0)]
    run(clock, 6)
    deadlines.after(5.0, lambda: called.append("late"))
    for drop in early:
        drop.drop()
    run(clock, 6)
    assert called == ["early", "early", "late"]


def test_a_failing_one_does_not_keep_the_others() -> None:
    clock, called = Clock(), []
    deadlines = Deadlines(clock)
    deadlines.after(5.0, lambda: 1 / 0)
    deadlines.after(5.0, lambda: called.append("same bucket"))
    deadlines.after(7.0, lambda: called.append("later"))
    with LogLines() as log:
        run(clock, 10)
    assert called == ["same bucket", "later"]
    assert log.texts("rproxy.deadlines") == ["a time-out failed"]


def test_one_may_drop_another_of_its_bucket() -> None:
    clock, called = Clock(), []
    deadlines = Deadlines(clock)
    drops = []
    deadlines.after(5.0, lambda: drops[0].drop())
    drops.append(deadlines.after(5.0, lambda: called.append("dropped too late")))
    run(clock, 10)
    assert called == []


def test_one_may_set_the_next() -> None:
    clock, called = Clock(), []
    deadlines = Deadlines(clock)

    def again() -> None:
        called.append(clock.seconds())
        deadlines.after(5.0, again)

    deadlines.after(5.0, again)
    run(clock, 21)
    assert len(called) in (3, 4)
    assert all(5 <= second - first <= 5 + 2 * TICK for first, second in pairwise(called))


def test_thousands_cost_one_timer_and_none_is_left_when_all_are_dropped() -> None:
    clock = Clock()
    deadlines = Deadlines(clock)
    drops = [deadlines.after(5.0 + n, lambda: None) for n in range(100)]
    assert len(clock.getDelayedCalls()) == 1
    for drop in drops:
        drop.drop()
    clock.advance(TICK)
    assert clock.getDelayedCalls() == []
    assert deadlines._buckets == {}


def test_a_clock_that_jumps_expires_all_in_order() -> None:
    clock, called = Clock(), []
    deadlines = Deadlines(clock)
    for seconds in (9.0, 3.0, 6.0):
        deadlines.after(seconds, lambda seconds=seconds: called.append(seconds))
    clock.advance(100)
    assert called == [3.0, 6.0, 9.0]
