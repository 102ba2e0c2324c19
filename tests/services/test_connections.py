"""A stop waits for the connections that live, and says truly whether any had to be cut off."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock

from rproxy.services.connections import Connections


class Alive:
    """A connection that ends a turn after it was cut off, as transports do."""

    def __init__(self, connections: Connections, clock: Clock) -> None:
        self.connections, self.clock, self.aborted, self.drained = connections, clock, 0, 0
        connections.add(self)

    def drain(self) -> None:
        self.drained += 1

    def abort(self) -> None:
        self.aborted += 1
        self.clock.callLater(0, self.end)

    def end(self) -> None:
        self.connections.discard(self)


class Setup:
    def __init__(self, live: int) -> None:
        self.clock, self.connections = Clock(), Connections()
        self.live = [Alive(self.connections, self.clock) for _ in range(live)]
        self.outcome: list[Any] = []

    def drain(self) -> None:
        self.connections.drain(self.clock, 10.0).addBoth(self.outcome.append)  # type: ignore[arg-type]


def test_with_none_alive_it_is_over_at_once() -> None:
    it = Setup(0)
    it.drain()
    assert (it.outcome, it.clock.getDelayedCalls()) == ([True], [])


def test_it_waits_for_the_last_one() -> None:
    it = Setup(3)
    assert len(it.connections) == 3
    it.drain()
    it.live[0].end()
    it.live[1].end()
    assert it.outcome == []
    it.live[2].end()
    assert (it.outcome, it.clock.getDelayedCalls()) == ([True], [])


def test_all_are_told_to_begin_nothing_new() -> None:
    it = Setup(2)
    it.drain()
    assert [one.drained for one in it.live] == [1, 1]


def test_one_that_ends_when_it_is_told_needs_no_more_time() -> None:
    it = Setup(2)
    it.live[0].drain = it.live[0].end  # type: ignore[method-assign]
    it.live[1].drain = it.live[1].end  # type: ignore[method-assign]
    it.drain()
    assert (it.outcome, it.clock.getDelayedCalls()) == ([True], [])


def test_at_the_deadline_those_left_are_cut_off() -> None:
    it = Setup(2)
    it.drain()
    it.live[0].end()
    it.clock.advance(9.9)
    assert (it.outcome, it.live[1].aborted) == ([], 0)
    it.clock.advance(0.1)
    it.clock.advance(0)
    assert (it.outcome, it.live[0].aborted, it.live[1].aborted) == ([False], 0, 1)


def test_who_hurries_the_drain_cuts_off_and_that_is_not_clean() -> None:
    it = Setup(1)
    it.drain()
    it.connections.abort_all()
    it.clock.advance(0)
    assert (it.outcome, it.clock.getDelayedCalls()) == ([False], [])


def test_hurrying_when_none_is_left_is_clean() -> None:
    it = Setup(0)
    it.connections.abort_all()
    it.drain()
    assert it.outcome == [True]


def test_one_that_came_in_meanwhile_is_waited_for_too() -> None:
    it = Setup(1)
    it.drain()
    late = Alive(it.connections, it.clock)
    it.live[0].end()
    assert it.outcome == []
    late.end()
    assert it.outcome == [True]


def test_ending_twice_is_nothing() -> None:
    it = Setup(2)
    it.live[0].end()
    it.live[0].end()
    assert len(it.connections) == 1
