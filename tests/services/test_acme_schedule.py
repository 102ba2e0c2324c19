"""When certificates are ordered: never late, never too often, whatever happens and however often we start."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rproxy.services.acme_problems import AcmeError, Kind
from rproxy.services.acme_schedule import (
    BUDGET_FOR,
    DAY,
    DELAYS,
    FAILED_OVER,
    HOUR,
    JITTER,
    LAST_PAUSE,
    MOST_FAILURES,
    MOST_LIMITED,
    REFUSED_FOR,
    Budget,
    Life,
    Record,
    Standing,
    Window,
    choose,
)

NOW = 1_800_000_000.0
LIFE = Life(NOW, NOW + 90 * DAY)
KINDS = st.sampled_from([Kind.VALIDATION, Kind.REFUSED, Kind.LIMITED, Kind.OURS])


def rng() -> Random:
    return Random(7)


def failure(kind: Kind, retry_after: float | None = None) -> AcmeError:
    return AcmeError(kind, f"it is {kind.value}", retry_after=retry_after)


# -- When to renew ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("days", "left"), [(90, 30), (45, 15), (10, 10 / 3), (9.9, 4.95), (6, 3), (1 / 24, 1 / 48)]
)
def test_renewal_depends_on_how_long_a_certificate_lives(days: float, left: float) -> None:
    window = Life(NOW, NOW + days * DAY).window()
    assert NOW + days * DAY - window.begins == pytest.approx(left * DAY)
    assert window.ends - window.begins == pytest.approx(0.02 * days * DAY)


def test_a_moment_is_chosen_once_for_each_certificate() -> None:
    random = rng()
    record = Record().begun("a", LIFE, random)
    window = LIFE.window()
    assert window.begins <= record.renew_at <= window.ends
    assert record.begun("a", LIFE, random) is record
    assert record.begun("b", LIFE, random).renew_at != record.renew_at


def test_what_was_issued_together_is_not_renewed_together() -> None:
    random = rng()
    moments = [Record().begun("a", LIFE, random).renew_at for _ in range(100)]
    assert max(moments) - min(moments) > DAY


def test_an_authoritys_window_counts_and_its_moment_is_kept_while_it_stays() -> None:
    random, window = rng(), Window(NOW + 5, NOW + 50)
    record = Record().begun("a", LIFE, random).suggests(window, "https://x", 3600, NOW, random)
    assert 5 <= record.renew_at - NOW <= 50
    assert (record.ask_at, record.explanation) == (NOW + 3600, "https://x")
    again = record.suggests(window, "", 3600, NOW + 1, random)
    assert again.renew_at == record.renew_at
    moved = record.suggests(Window(NOW - 9, NOW - 8), "", 3600, NOW, random)
    assert moved.due_at(LIFE, True) < NOW, "as when certificates are revoked by the million"


@pytest.mark.parametrize(("wanted", "granted"), [(0, 60), (5, 60), (21600, 21600), (9e9, DAY)])
def test_an_authority_is_asked_within_bounds(wanted: float, granted: float) -> None:
    record = Record().suggests(Window(1, 2), "", wanted, NOW, rng())
    assert record.ask_at == NOW + granted


def test_an_authority_that_does_not_answer_is_asked_in_six_hours() -> None:
    assert Record().not_suggested(NOW, rng()).ask_at == pytest.approx(NOW + 6 * HOUR, abs=1.5 * HOUR + 1)


def test_no_wish_of_an_authority_lets_a_certificate_end() -> None:
    record = (
        Record().begun("a", LIFE, rng()).suggests(Window(LIFE.ends + 1, LIFE.ends + 2), "", 9, NOW, rng())
    )
    assert record.due_at(LIFE, True) == LIFE.ends - 9 * DAY


def test_a_certificate_that_lacks_a_name_is_due() -> None:
    record = Record().begun("a", LIFE, rng())
    assert record.due_at(LIFE, False) == 0
    assert record.due_at(None, False) == 0
    assert record.due_at(LIFE, True) > NOW + 59 * DAY


def test_after_a_success_there_is_a_rest_even_where_clocks_differ() -> None:
    short = Life(NOW - 7 * DAY, NOW - DAY)
    record = Record(failures=3, turn=1, problem="x").succeeded("ca", NOW, short).begun("a", short, rng())
    assert record.due_at(short, True) == NOW + 6 * HOUR
    assert (record.failures, record.turn, record.problem, record.authority) == (0, 0, "", "ca")
    assert Record().succeeded("ca", NOW, Life(NOW, NOW + 40)).not_before == NOW + 5


def test_a_certificate_is_critical_in_its_last_sixth() -> None:
    assert not LIFE.is_critical(NOW + 74 * DAY)
    assert LIFE.is_critical(NOW + 76 * DAY)


# -- After a failure ----------------------------------------------------------------------------------------


def test_delays_grow_to_six_hours_and_stay_there() -> None:
    record, now = Record(), NOW
    for expected in [*DELAYS, DELAYS[-1], DELAYS[-1]]:
        record = record.failed(failure(Kind.VALIDATION), now, rng(), 1)
        delay = record.not_before - now
        assert (1 - JITTER) * expected <= delay <= (1 + JITTER) * expected
        now = record.not_before
    assert record.problem == "it is validation"


def test_a_refusal_waits_for_hours_or_for_somebody() -> None:
    record = Record().failed(failure(Kind.REFUSED), NOW, rng(), 1)
    assert record.not_before - NOW > (1 - JITTER) * REFUSED_FOR
    assert record.given_another_chance().not_before == 0
    assert Record().failed(failure(Kind.VALIDATION), NOW, rng(), 1).given_another_chance().not_before > NOW


@pytest.mark.parametrize(
    ("asked", "least", "most"),
    [(None, 3600, 4200), (1, 60, 70), (7200, 7200, 8200), (9e9, MOST_LIMITED, 1.2 * MOST_LIMITED)],
)
def test_too_often_waits_as_long_as_it_was_told_never_shorter(
    asked: float | None, least: float, most: float
) -> None:
    for seed in range(50):
        record = Record().failed(failure(Kind.LIMITED, asked), NOW, Random(seed), 1)
        assert least <= record.not_before - NOW <= most


def test_what_costs_nobody_anything_is_tried_soon_and_not_counted() -> None:
    record, now = Record(), NOW
    for expected in (5, 10, 20, 40, 80, 160, 320, 600, 600):
        record = record.failed(failure(Kind.UNREACHABLE), now, rng(), 3)
        assert record.not_before - now == pytest.approx(expected, rel=JITTER)
        now = record.not_before
    assert (record.failures, record.turn) == (0, 0)


def test_changed_settings_are_a_new_chance() -> None:
    record = Record(settings="old").failed(failure(Kind.REFUSED), NOW, rng(), 1)
    assert record.changed("old") is record
    assert record.changed("new").not_before == 0


# -- Several authorities ------------------------------------------------------------------------------------


def test_every_second_failed_validation_turns_to_the_next_authority() -> None:
    record, turns = Record(), []
    for _ in range(6):
        record = record.failed(failure(Kind.VALIDATION), NOW, rng(), 2)
        turns.append(record.turn)
    assert turns == [0, 1, 1, 0, 0, 1]


@pytest.mark.parametrize("kind", [Kind.REFUSED, Kind.LIMITED])
def test_an_authority_that_will_not_is_followed_by_the_next_at_once(kind: Kind) -> None:
    record = Record().failed(failure(kind), NOW, rng(), 2)
    assert (record.turn, record.not_before) == (1, NOW)
    record = record.failed(failure(kind), NOW, rng(), 2)
    assert record.turn == 0
    assert record.not_before > NOW + 1800, "all have been asked"


def test_our_own_trouble_is_no_reason_to_ask_somebody_else() -> None:
    record = Record().failed(failure(Kind.OURS), NOW, rng(), 2)
    assert record.turn == 0
    assert record.not_before > NOW


def test_an_authority_that_does_not_answer_is_waited_for_and_then_passed_over() -> None:
    first, second = Standing(), Standing()
    assert choose(0, [first, second], NOW) == (0, NOW)
    for _ in range(FAILED_OVER - 1):
        first = first.failed(failure(Kind.UNREACHABLE), NOW, rng())
        assert choose(0, [first, second], NOW) == (None, first.paused_until)
    first = first.failed(failure(Kind.UNREACHABLE), NOW, rng())
    assert choose(0, [first, second], NOW) == (1, NOW)
    assert choose(0, [first, second], first.paused_until) == (0, first.paused_until)
    assert choose(1, [first, second], NOW) == (1, NOW)


def test_when_nobody_answers_the_first_to_come_back_is_waited_for() -> None:
    down = [Standing(FAILED_OVER, NOW + 50), Standing(FAILED_OVER, NOW + 20)]
    assert choose(0, down, NOW) == (None, NOW + 20)


def test_pauses_have_an_end_and_what_an_authority_asks_for_counts() -> None:
    standing = Standing()
    for _ in range(2000):
        standing = standing.failed(failure(Kind.UNREACHABLE), NOW, rng())
    assert standing.paused_until - NOW <= (1 + JITTER) * LAST_PAUSE
    assert Standing().failed(failure(Kind.UNREACHABLE, 900), NOW, rng()).paused_until == NOW + 900
    assert Standing().failed(failure(Kind.UNREACHABLE, 9e9), NOW, rng()).paused_until == NOW + DAY


# -- The budget ---------------------------------------------------------------------------------------------


def test_a_name_that_failed_four_times_waits_until_the_first_is_an_hour_old() -> None:
    budget = Budget()
    for step in range(MOST_FAILURES):
        assert budget.open_at(["a", "b"], NOW + step) == NOW + step
        budget = budget.charged(["a"], NOW + step)
    assert budget.open_at(["a", "b"], NOW + 9) == NOW + HOUR
    assert budget.open_at(["b"], NOW + 9) == NOW + 9
    assert budget.open_at(["a"], NOW + HOUR) == NOW + HOUR


def test_a_refund_takes_back_one_charge_only() -> None:
    budget = Budget().charged(["a", "b"], NOW).charged(["a"], NOW + 1)
    assert budget.refunded(["a", "b", "c"], NOW).failures == {"a": (NOW + 1,)}
    assert budget.refunded(["a"], NOW + 7).failures == budget.failures


def test_old_failures_are_forgotten_and_those_of_the_future_do_not_count() -> None:
    budget = Budget({"a": (NOW,) * 4, "b": (NOW + 9 * DAY,) * 4})
    assert budget.charged(["c"], NOW + HOUR + 1).failures == {"c": (NOW + HOUR + 1,)}
    assert budget.open_at(["b"], NOW) == NOW, "a clock that was wrong must not lock a name for ever"


@given(st.lists(st.tuples(KINDS, st.floats(0, 1e5), st.booleans()), max_size=40), st.integers(0, 2**32))
def test_whatever_happens_a_name_fails_at_most_four_times_in_any_hour(
    history: list[tuple[Kind, float, bool]], seed: int
) -> None:
    """Attempts as early as they may be, of any outcome, with restarts that forget everything but the disk."""
    random, record, budget, now = Random(seed), Record(), Budget(), NOW
    failures: list[float] = []
    for kind, pause, restarts in history:
        if restarts:
            record = Record()  # even if the record were lost: the budget is another file
        now = max(now, record.due_at(None, False), budget.open_at(["a"], now)) + pause % 7
        budget = budget.charged(["a"], now)
        if kind is Kind.VALIDATION:
            failures.append(now)
        else:
            budget = budget.refunded(["a"], now)
        record = record.failed(failure(kind), now, random, 1)
    for first, fifth in zip(failures, failures[MOST_FAILURES:], strict=False):
        assert fifth - first >= BUDGET_FOR


def test_the_ladder_alone_keeps_within_the_budget() -> None:
    for seed in range(200):
        record, now, times = Record(), NOW, []
        for _ in range(8):
            times.append(now)
            record = record.failed(failure(Kind.VALIDATION), now, Random(seed), 1)
            now = record.not_before
        assert all(b - a >= BUDGET_FOR for a, b in zip(times, times[MOST_FAILURES:], strict=False))


def test_a_record_is_a_value() -> None:
    assert Record() == replace(Record(failures=1), failures=0)
