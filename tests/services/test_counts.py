"""Open connections by client are counted exactly, and nobody is kept who has none."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rproxy.interfaces import Lease
from rproxy.services.counts import Counts


@given(st.lists(st.tuples(st.sampled_from(["a", "b", b"12345678"]), st.integers(0, 9)), max_size=60))
def test_there_are_as_many_as_have_not_left(steps: list[tuple[str | bytes, int]]) -> None:
    it, live = Counts(), list[tuple[str | bytes, Lease]]()
    for key, leaving in steps:
        lease = Lease()
        it.add(key, it.open.get(key, 0), lease)
        live.append((key, lease))
        if leaving < len(live):
            live.pop(leaving)[1].release()
        keys = [key for key, _ in live]
        assert it.open == {key: keys.count(key) for key in keys}


def test_a_lease_that_is_released_twice_counts_once() -> None:
    it, first, second = Counts(), Lease(), Lease()
    it.add("a", 0, first)
    it.add("a", 1, second)
    first.release()
    first.release()
    assert it.open == {"a": 1}
