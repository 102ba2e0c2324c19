"""Limits per client count exactly, and what is refused costs nothing."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from rproxy.errors import RateLimited, TooMany
from rproxy.interfaces import Lease
from rproxy.policy.bucket import Allowance, Key
from rproxy.services.buckets import MOST
from rproxy.services.ratelimits import RateLimiter
from tests.fakes import LogLines


def limiter(capacity: int = 0, fill_rate: float = 1.0, most_open: int = 0) -> tuple[RateLimiter, Clock]:
    clock = Clock()
    clock.advance(1_800_000_000)
    return RateLimiter(clock, "apps.site.rate_limit", Allowance(capacity, fill_rate, most_open)), clock


def admitted(it: RateLimiter, *keys: Key) -> list[str]:
    """What became of a connection of each: "" or the reason of the refusal."""
    outcome = []
    for key in keys:
        try:
            it.admit(key, Lease())
            outcome.append("")
        except TooMany as refusal:
            outcome.append(refusal.reason)
    return outcome


def test_a_burst_then_one_per_fill_rate() -> None:
    it, clock = limiter(capacity=2, fill_rate=3.0)
    assert admitted(it, "a", "a", "a") == ["", "", "rate_limited"]
    clock.advance(2.9)
    assert admitted(it, "a") == ["rate_limited"]
    clock.advance(0.1)
    assert admitted(it, "a", "a") == ["", "rate_limited"]


def test_clients_do_not_know_each_other() -> None:
    it, _ = limiter(capacity=1)
    assert admitted(it, "user@admin", "192.0.2.1", b"\x20\x01\x0d\xb8\0\0\0\1", "user@admin") == [
        "", "", "", "rate_limited",
    ]  # fmt: skip


def test_the_refusal_says_how_long_to_wait() -> None:
    it, clock = limiter(capacity=1, fill_rate=60.0)
    admitted(it, "a")
    clock.advance(12.5)
    with pytest.raises(RateLimited) as refused:
        it.admit("a", Lease())
    assert refused.value.wait == 47.5
    assert it.request("a") == 47.5


def test_the_cap_is_on_open_connections() -> None:
    it, _ = limiter(most_open=2)
    leases = [Lease(), Lease()]
    for lease in leases:
        it.admit("a", lease)
    assert admitted(it, "a", "b") == ["too_many", ""]
    leases[0].release()
    assert admitted(it, "a", "a") == ["", "too_many"]


def test_who_has_too_many_open_loses_no_token() -> None:
    it, _ = limiter(capacity=2, fill_rate=60.0, most_open=1)
    lease = Lease()
    it.admit("a", lease)
    assert admitted(it, "a", "a", "a") == ["too_many"] * 3
    lease.release()
    assert admitted(it, "a") == [""]


def test_who_has_no_token_takes_no_place() -> None:
    it, clock = limiter(capacity=1, most_open=1)
    lease, refused = Lease(), Lease()
    it.admit("a", lease)
    lease.release()
    with pytest.raises(RateLimited):
        it.admit("a", refused)
    refused.release()
    assert it.open == 0
    clock.advance(1)
    assert admitted(it, "a") == [""]


def test_a_place_is_given_back_once() -> None:
    it, _ = limiter(most_open=3)
    leases = [Lease(), Lease()]
    for lease in leases:
        it.admit("a", lease)
    leases[0].release()
    leases[0].release()
    assert it.open == 1
    leases[1].release()
    assert it.open == 0


def test_without_a_cap_it_counts_all_the_same_for_a_reload() -> None:
    it, _ = limiter(capacity=5)
    lease = Lease()
    it.admit("a", lease)
    it.change(Allowance(5, 1.0, 1))
    assert admitted(it, "a") == ["too_many"]
    lease.release()
    assert admitted(it, "a") == [""]


def test_a_reload_keeps_what_was_used() -> None:
    it, _ = limiter(capacity=3, fill_rate=10.0)
    assert admitted(it, "a", "a", "a") == ["", "", ""]
    it.change(Allowance(3, 5.0, 0))
    assert admitted(it, "a") == ["rate_limited"]
    assert it.request("a") <= 15.0


def test_a_clock_that_was_set_back_locks_nobody_out() -> None:
    it, clock = limiter(capacity=2, fill_rate=1.0)
    assert admitted(it, "a", "a") == ["", ""]
    clock.rightNow -= 86400.0
    assert it.request("a") == 1.0
    clock.advance(1.0)
    assert it.request("a") == 0.0


def test_refusals_are_counted_and_seldom_logged() -> None:
    it, clock = limiter(capacity=1, fill_rate=1000.0)
    with LogLines() as lines:
        admitted(it, *["a"] * 101)
        clock.advance(10)
        admitted(it, "a")
    assert it.refused == 101
    assert [(event["limit"], event["n"]) for event in lines.events] == [
        ("apps.site.rate_limit", 1),
        ("apps.site.rate_limit", 100),
    ]


def test_a_limit_without_a_bucket_remembers_nobody() -> None:
    it, _ = limiter(most_open=1)
    assert admitted(it, *map(str, range(100))) == [""] * 100
    assert it.clients == 0
    it.change(Allowance(1, 60.0, 0))
    assert admitted(it, "a", "a") == ["", "rate_limited"]
    assert it.clients == 1


def test_open_connections_are_counted_even_where_buckets_are_shared() -> None:
    it, _ = limiter(capacity=20, fill_rate=100.0, most_open=1)
    for number in range(MOST):
        it.request(f"{number}")
    lease = Lease()
    it.admit("late", lease)
    assert admitted(it, "late") == ["too_many"]
    lease.release()
    assert admitted(it, "late") == [""]


def test_who_has_the_most_open_is_told_first() -> None:
    it, _ = limiter()
    leases = {key: Lease() for key in ("a", "b", "c")}
    for key, count in (("a", 1), ("b", 3), ("c", 2)):
        for _ in range(count):
            it.admit(key, leases[key])
    assert it.busiest(2) == [("b", 3), ("c", 2)]
    leases["b"].release()
    assert it.busiest(9) == [("c", 2), ("a", 1)]
