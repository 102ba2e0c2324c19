"""Buckets forget nobody who owes a token, and stay few whoever comes."""

from __future__ import annotations

import tracemalloc
from itertools import count, islice

from hypothesis import given, settings
from hypothesis import strategies as st

from rproxy.policy.bucket import EMPTY, TICKS, Bucket
from rproxy.services.buckets import FEWEST, MOST, SHARED, Buckets

NOW = 1_800_000_000 * TICKS


def buckets(capacity: int, fill_rate: float, *, most: int = MOST, shared: int = SHARED) -> Buckets:
    return Buckets(Bucket(capacity, fill_rate), most=most, shared=shared)


def at(seconds: float) -> int:
    return NOW + round(seconds * TICKS)


def test_who_has_been_away_long_enough_is_forgotten() -> None:
    it = buckets(2, 1.0)
    for number in range(FEWEST):
        it.take(f"old {number}", at(0))
    it.take("new", at(1.0))
    assert len(it) == 1


def test_who_owes_a_token_is_not() -> None:
    it = buckets(1, 10.0)
    for number in range(4 * FEWEST):
        it.take(f"{number}", at(0))
    for number in range(4 * FEWEST):
        assert it.take(f"{number}", at(9.999)) > 0, number


def test_a_table_that_has_shrunk_is_looked_through_early_again() -> None:
    it = buckets(1, 1.0)
    for number in range(8 * FEWEST):
        it.take(f"first {number}", at(0))
    for number in range(8 * FEWEST):
        it.take(f"second {number}", at(10 + number))
    assert len(it) <= 2 * FEWEST


def test_however_many_clients_fit_into_the_bound() -> None:
    """A million take two seconds and no more memory than these."""
    it = buckets(20, 1.0)
    tracemalloc.start()
    for number in range(3 * MOST):
        it.take(number.to_bytes(8, "big"), NOW)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(it) == MOST
    assert size < 16 << 20


def test_no_crowd_makes_the_table_forget_who_is_over_his_limit() -> None:
    it, now = buckets(2, 1000.0, most=FEWEST), NOW
    early = [f"early {number}" for number in range(FEWEST)]
    late = [f"late {number}" for number in range(200)]
    for key in [*early, *late]:
        while it.take(key, now) == 0:
            pass
    for number in range(20_000):
        it.take(f"crowd {number}", now)
        now += TICKS // 100
    assert len(it) <= FEWEST
    assert [key for key in [*early, *late] if it.take(key, now) == 0] == []


def test_who_comes_into_a_full_table_is_served_while_few_do() -> None:
    it = buckets(20, 1.0, most=FEWEST)
    for number in range(FEWEST):
        it.take(f"{number}", NOW)
    assert sum(it.take(f"late {number}", NOW) == 0 for number in range(SHARED)) == SHARED


def test_who_shared_a_bucket_keeps_its_debt_when_there_is_room_again() -> None:
    it = buckets(2, 10.0, most=FEWEST)
    for number in range(FEWEST):
        it.take(f"{number}", at(0))
    assert [it.take("late", at(1.0)) == 0 for _ in range(3)] == [True, True, False]
    assert [it.take("late", at(11.5)) == 0 for _ in range(2)] == [True, False]
    assert len(it) < FEWEST


def test_a_clock_set_back_does_not_keep_a_full_table_full() -> None:
    it = buckets(1, 1.0, most=FEWEST)
    for number in range(2 * FEWEST):
        it.take(f"{number}", at(86400.0))
    new, newer = sharing_with_nobody(it)
    it.take(new, at(0))
    assert len(it) == FEWEST
    it.take(newer, at(1.0))
    assert len(it) == 1


def sharing_with_nobody(it: Buckets) -> list[str]:
    """Two clients in whose shared buckets there are tokens, whatever the salt of the hash is."""
    names = (f"new {number}" for number in count())
    return list(islice((name for name in names if not it._shared[hash(name) & (SHARED - 1)]), 2))


@settings(max_examples=50, deadline=None)
@given(
    steps=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 3_000_000)), max_size=300),
    most=st.sampled_from([4, 16, 1000]),
)
def test_nobody_gets_more_than_a_bucket_of_his_own_would_give(
    steps: list[tuple[int, int]], most: int
) -> None:
    """Equality where there is room for all, and never more where there is not."""
    it, now = buckets(3, 1.0, most=most, shared=4), NOW
    own: dict[str, int] = {}
    for number, gap in steps:
        now += gap
        key = f"{number}"
        after = Bucket(3, 1.0).take(own.get(key, 0), now)
        allowed = it.take(key, now) == 0
        assert not allowed or after != EMPTY
        assert allowed or after == EMPTY or most < 1000
        if allowed:
            own[key] = after
        assert len(it) <= most
