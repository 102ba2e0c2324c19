"""Who is watched for what, in Python and in Cython, with a real epoll object; and the clock of the loop."""

from __future__ import annotations

import os
import select
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from select import EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.native.twins import Twins, outcome, patient, told

BOTH = EPOLLIN | EPOLLOUT
OTHER = {EPOLLIN: EPOLLOUT, EPOLLOUT: EPOLLIN}
ALWAYS = EPOLLERR | EPOLLHUP
"""What epoll tells of without being asked."""


class Tables:
    """An epoll object with a reactor's tables, which one twin changes."""

    def __init__(self, one: Any) -> None:
        self.one, self.poller = one, select.epoll()
        self.watched: dict[int, set[int]] = {EPOLLIN: set(), EPOLLOUT: set()}
        self.selectables: dict[int, Any] = {}

    def _for(self, event: int) -> tuple[Any, ...]:
        number = -1 if self.poller.closed else self.poller.fileno()
        return self.poller, number, self.watched[event], self.watched[OTHER[event]], self.selectables

    def add(self, number: int, event: int, selectable: Any = "somebody") -> Any:
        return told(self.one.add, *self._for(event), number, selectable, event, BOTH)

    def remove(self, number: int, event: int) -> Any:
        return told(self.one.remove, *self._for(event), number, OTHER[event])

    def forget(self, number: int) -> Any:
        return told(self.one.forget, *self.watched.values(), self.selectables, number)

    @property
    def state(self) -> tuple[set[int], set[int], dict[int, Any]]:
        return set(self.watched[EPOLLIN]), set(self.watched[EPOLLOUT]), dict(self.selectables)

    @property
    def asked(self) -> dict[int, int]:
        """What epoll itself says that it was asked to tell of (proc(5))."""
        lines = Path(f"/proc/self/fdinfo/{self.poller.fileno()}").read_text().splitlines()
        words = [line.split() for line in lines if line.startswith("tfd:")]
        return {int(each[1]): int(each[3], 16) & ~ALWAYS for each in words}

    def told(self) -> list[tuple[int, int]]:
        return self.poller.poll(0)


@pytest.fixture(scope="module")
def events(twins_of: Callable[[str], Twins]) -> Twins:
    return twins_of("events")


@pytest.fixture
def both(events: Twins) -> Iterator[tuple[Tables, Tables]]:
    made = Tables(events.python), Tables(events.compiled)
    yield made
    for tables in made:
        tables.poller.close()


@pytest.fixture(params=["python", "compiled"])
def tables(request: pytest.FixtureRequest, events: Twins) -> Iterator[Tables]:
    made = Tables(getattr(events, request.param))
    yield made
    made.poller.close()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    theirs.send(b"x")
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def number(pair: tuple[socket.socket, socket.socket]) -> int:
    """A descriptor that can be read and written."""
    return pair[0].fileno()


@pytest.fixture
def closed() -> int:
    """A descriptor that is nobody's."""
    number = os.dup(0)
    os.close(number)
    return number


# -- what epoll is asked


@pytest.mark.parametrize("first", [EPOLLIN, EPOLLOUT])
@pytest.mark.parametrize("gone", [EPOLLIN, EPOLLOUT])
def test_epoll_tells_of_what_is_watched_and_of_no_more(
    tables: Tables, number: int, first: int, gone: int
) -> None:
    assert tables.add(number, first) is True
    assert tables.told() == [(number, first)]
    assert tables.add(number, OTHER[first]) is True
    assert tables.told() == [(number, BOTH)]
    assert tables.state == ({number}, {number}, {number: "somebody"})
    assert tables.remove(number, gone) is True
    assert tables.told() == [(number, OTHER[gone])]
    assert tables.watched == {gone: set(), OTHER[gone]: {number}}
    assert tables.selectables == {number: "somebody"}
    assert tables.remove(number, OTHER[gone]) is True
    assert (tables.told(), tables.asked, tables.state) == ([], {}, (set(), set(), {}))


@pytest.mark.parametrize("event", [EPOLLIN, EPOLLOUT])
def test_what_is_not_watched_needs_no_removing(tables: Tables, number: int, event: int) -> None:
    """It says whether the descriptor is known at all: Twisted looks for others elsewhere."""
    assert tables.remove(number, event) is False
    assert tables.remove(-1, event) is False
    assert (tables.asked, tables.state) == ({}, (set(), set(), {}))
    tables.add(number, OTHER[event])
    before = tables.state
    assert tables.remove(number, event) is True
    assert (tables.asked, tables.state) == ({number: OTHER[event]}, before)


@pytest.mark.parametrize("event", [EPOLLIN, EPOLLOUT])
def test_who_is_watched_already_stays_who_it_is(tables: Tables, number: int, event: int) -> None:
    tables.add(number, event, "first")
    assert tables.add(number, event, "second") is True
    assert tables.selectables == {number: "first"}
    assert tables.add(number, OTHER[event], "third") is True
    assert tables.selectables == {number: "third"}
    assert tables.asked == {number: BOTH}


def test_what_is_forgotten_is_in_no_table_and_leaves_epoll_as_it_is_closed(
    tables: Tables, pair: tuple[socket.socket, socket.socket], number: int
) -> None:
    other = pair[1].fileno()
    tables.add(other, EPOLLOUT)
    for wanted in ([EPOLLIN], [EPOLLOUT], [EPOLLIN, EPOLLOUT], []):
        copy = os.dup(number)
        for event in wanted:
            tables.add(copy, event)
        assert tables.forget(copy) is None
        assert tables.state == (set(), {other}, {other: "somebody"})
        os.close(copy)
        assert tables.forget(copy) is None
    assert tables.asked.keys() - {other} <= {copy}  # as the pair's own descriptor is still open
    assert tables.forget(-1) is None
    assert tables.state == (set(), {other}, {other: "somebody"})


STEPS = st.tuples(
    st.sampled_from(["add", "remove", "forget"]), st.integers(0, 2), st.sampled_from([EPOLLIN, EPOLLOUT])
)


@patient
@given(steps=st.lists(STEPS, max_size=30))
def test_in_any_order_the_tables_and_epoll_say_the_same(
    events: Twins, steps: list[tuple[str, int, int]]
) -> None:
    made = Tables(events.python), Tables(events.compiled)
    ends = [os.pipe() for _ in range(3)]
    try:
        for step, at, event in steps:
            one, other = (walked(tables, step, ends[at][0], event) for tables in made)
            assert one == other
    finally:
        for number in (end for pair in ends for end in pair):
            os.close(number)
        for tables in made:
            tables.poller.close()


def walked(tables: Tables, step: str, number: int, event: int) -> Any:
    """What a step gives and leaves; the tables say what epoll was asked."""
    if step == "forget":
        if number in tables.asked:
            tables.poller.unregister(number)  # what closing does
        gives = tables.forget(number)
    else:
        gives = getattr(tables, step)(number, event)
    wanted: dict[int, int] = {}
    for each, numbers in tables.watched.items():
        for watched in numbers:
            wanted[watched] = wanted.get(watched, 0) | each
    assert tables.asked == wanted
    assert tables.selectables.keys() == wanted.keys()
    return gives, tables.state


# -- errors


@pytest.mark.parametrize("event", [EPOLLIN, EPOLLOUT])
def test_what_is_closed_is_not_watched(both: tuple[Tables, Tables], closed: int, event: int) -> None:
    for tables in both:
        assert tables.add(closed, event) == (OSError, 9)
        assert tables.state == (set(), set(), {})


@pytest.mark.parametrize("event", [EPOLLIN, EPOLLOUT])
def test_no_descriptor_is_watched_by_neither(both: tuple[Tables, Tables], event: int) -> None:
    for tables in both:
        assert tables.add(-1, event) in ((OSError, 9), ValueError)
        assert tables.state == (set(), set(), {})


@pytest.mark.parametrize("event", [EPOLLIN, EPOLLOUT])
def test_one_that_was_closed_while_it_was_watched_is_an_error_and_leaves_the_same(
    both: tuple[Tables, Tables], closed: int, event: int
) -> None:
    """As Twisted's own tables are left."""
    for tables in both:
        tables.watched[event].add(closed)
        tables.selectables[closed] = "somebody"
        before = tables.state
        assert tables.add(closed, OTHER[event], "another") == (OSError, 9)
        assert tables.state == before
        assert tables.remove(closed, event) == (OSError, 9)
        assert (tables.watched[event], tables.selectables) == ({closed}, {})
        assert tables.remove(closed, event) is KeyError
        tables.watched[OTHER[event]].add(closed)
        assert tables.remove(closed, event) == (OSError, 9)
        assert tables.watched == {event: {closed}, OTHER[event]: {closed}}


def test_one_that_is_open_and_that_epoll_does_not_know_is_an_error(
    both: tuple[Tables, Tables], number: int
) -> None:
    for tables in both:
        tables.watched[EPOLLIN].add(number)
        assert tables.add(number, EPOLLOUT) == (FileNotFoundError, 2)
        assert tables.state == ({number}, set(), {})


def test_a_closed_poller_lets_nobody_go(both: tuple[Tables, Tables], number: int) -> None:
    for tables in both:
        tables.add(number, EPOLLIN)
        tables.add(number, EPOLLOUT)
        tables.poller.close()
        before = tables.state
        assert tables.remove(number, EPOLLIN) in ((OSError, 9), ValueError)
        assert tables.state == before


@pytest.mark.parametrize("wrong", [None, [], {}, frozenset({0}), "text"])
def test_what_is_no_table_is_refused(events: Twins, number: int, wrong: Any) -> None:
    one = events.compiled
    with select.epoll() as poller:
        for tables in ((wrong, set(), {}), (set(), wrong, {}), (set(), set(), wrong)):
            if tables[2] is wrong == {}:
                continue  # that one is right
            for call in (
                lambda tables=tables: one.add(poller, poller.fileno(), *tables, number, "", EPOLLIN, BOTH),
                lambda tables=tables: one.remove(poller, poller.fileno(), *tables, number, EPOLLIN),
                lambda tables=tables: one.forget(*tables, number),
            ):
                assert outcome(call) == ("raises", TypeError)


@pytest.mark.parametrize("wrong", [None, "5", 2**31, -(2**40), [], {}])
def test_what_is_no_descriptor_is_refused(events: Twins, wrong: Any) -> None:
    made = Tables(events.compiled)
    with made.poller:
        for call in (made.add, made.remove):
            assert call(wrong, EPOLLIN) in (TypeError, OverflowError)
        assert (made.asked, made.state) == ({}, (set(), set(), {}))


@pytest.mark.parametrize("wrong", [None, "1", -1, 2**32])
def test_what_is_no_event_is_refused(events: Twins, number: int, wrong: Any) -> None:
    one, tables = events.compiled, (set[int](), set[int](), dict[int, Any]())
    with select.epoll() as poller:
        before = poller, poller.fileno(), *tables, number
        for call in (
            lambda: one.add(*before, "", wrong, BOTH),
            lambda: one.add(*before, "", EPOLLIN, wrong),
            lambda: one.remove(*before, wrong),
        ):
            assert outcome(call)[1] in (TypeError, OverflowError)
    assert tables == (set(), set(), {})


def test_what_nothing_can_be_looked_up_by_is_an_error_of_both(both: tuple[Tables, Tables]) -> None:
    unhashable: Any = []
    for tables in both:
        assert tables.forget(unhashable) is TypeError


def test_nobody_is_held_who_is_not_watched(tables: Tables, number: int) -> None:
    selectable = object()
    held = [selectable, tables.selectables, *tables.watched.values(), tables.poller]
    counts, alone = [sys.getrefcount(each) for each in held], sys.getrefcount(selectable)
    for _ in range(500):
        for event in (EPOLLIN, EPOLLOUT):
            tables.add(number, event, selectable)
            tables.add(number, event, selectable)
        assert sys.getrefcount(selectable) == alone + 1
        for event in (EPOLLIN, EPOLLOUT):
            tables.remove(number, event)
            tables.remove(number, event)
        tables.add(number, EPOLLIN, selectable)
        tables.poller.unregister(number)
        tables.forget(number)
        tables.add(-1, EPOLLIN, selectable)
    assert [sys.getrefcount(each) for each in held] == counts


# -- the clock


def test_the_time_is_the_time(events: Twins) -> None:
    for twin in events:
        before = time.time_ns() * 1e-9
        now = twin.now()
        after = time.time_ns() * 1e-9
        assert type(now) is float
        assert before - 1e-6 <= now <= after + 1e-6


def test_the_time_goes_on_in_fractions_of_a_millisecond(events: Twins) -> None:
    for twin in events:
        first = twin.now()
        while (later := twin.now()) == first:
            pass
        assert 0 < later - first < 0.05
