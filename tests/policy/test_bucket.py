"""Buckets hold what they should, to the microsecond, however long they are used."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rproxy.policy.bucket import EMPTY, TICKS, Bucket, client_key, ticks


def taken(bucket: Bucket, *moments: float) -> list[bool]:
    """Whether there was a token at each of these seconds."""
    full_at, found = 0, []
    for moment in moments:
        after = bucket.take(full_at, ticks(moment))
        found.append(after != EMPTY)
        full_at = full_at if after == EMPTY else after
    return found


def test_a_full_bucket_holds_its_capacity_and_no_more() -> None:
    assert taken(Bucket(3, 1.0), 10, 10, 10, 10) == [True, True, True, False]


def test_a_token_comes_every_fill_rate_and_not_a_moment_sooner() -> None:
    assert taken(Bucket(1, 1.0), 10, 10.999999, 11, 11.5, 12) == [True, False, True, False, True]


def test_a_bucket_is_never_fuller_than_full() -> None:
    assert taken(Bucket(2, 1.0), 10, 1000, 1000, 1000) == [True, True, True, False]


def test_a_refusal_takes_no_token() -> None:
    assert taken(Bucket(1, 10.0), 0, *range(1, 10), 10) == [True, *[False] * 9, True]


@pytest.mark.parametrize("step", [0.1, 0.3, 0.7, 1e-6])
def test_tenths_add_up(step: float) -> None:
    """As floats they do not: the third tenth is at 0.30000000000000004."""
    moment, moments = 0.0, []
    for _ in range(1000):
        moments.append(moment)
        moment += step
    assert all(taken(Bucket(1, step), *moments))


def test_the_wait_ends_when_there_is_a_token() -> None:
    bucket, now = Bucket(2, 0.5), ticks(100)
    full_at = bucket.take(bucket.take(0, now), now)
    assert bucket.wait(full_at, now) == TICKS // 2
    assert bucket.wait(full_at, now + TICKS // 2 - 1) == 1
    assert bucket.wait(full_at, now + TICKS // 2) == 0
    assert bucket.take(full_at, now + TICKS // 2 - 1) == EMPTY
    assert bucket.take(full_at, now + TICKS // 2) != EMPTY


def test_a_clock_set_back_leaves_an_empty_bucket_at_worst() -> None:
    bucket = Bucket(2, 1.0)
    later = bucket.take(0, ticks(5000))
    full_at = bucket.forgiven(later, ticks(1000))
    assert bucket.wait(full_at, ticks(1000)) == TICKS
    assert bucket.forgiven(full_at, ticks(1000)) == full_at


@given(
    capacity=st.integers(1, 5),
    interval=st.integers(1, 5_000_000),
    gaps=st.lists(st.integers(0, 12_000_000), max_size=40),
)
def test_it_agrees_with_a_bucket_that_counts_tokens(capacity: int, interval: int, gaps: list[int]) -> None:
    bucket, full_at, now = Bucket(capacity, interval / TICKS), 0, ticks(1_800_000_000.0)
    tokens, since = Fraction(capacity), now
    for gap in gaps:
        now += gap
        tokens, since = min(Fraction(capacity), tokens + Fraction(now - since, interval)), now
        after = bucket.take(full_at, now)
        assert (after != EMPTY) == (tokens >= 1)
        assert (bucket.wait(full_at, now) == 0) == (tokens >= 1)
        if after != EMPTY:
            full_at, tokens = after, tokens - 1


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8:0:1::1", "2001:db8:0:1:ffff::2", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("fe80::1%eth0", "fe80::2%eth1", True),
    ],
)
def test_ipv6_clients_are_their_64(one: str, other: str, same: bool) -> None:
    assert (client_key(one) == client_key(other)) == same
