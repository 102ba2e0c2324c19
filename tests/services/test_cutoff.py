"""Connections of banned clients end, all others stay, and the event loop is not held up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.task import Clock

from rproxy.services.cutoff import SLICE, CutOff


class Turns(Clock):
    """A clock where what is called at once is called in the next turn of the loop, a second later."""

    def callLater(self, when: float, what: Any, *args: Any, **kw: Any) -> Any:
        return super().callLater(when + 1, what, *args, **kw)


class Connection:
    def __init__(self, host: str) -> None:
        self.client_host, self.aborted = host, 0

    def abort(self, reason: str) -> None:
        assert reason == "banned", "what stands in the log"
        self.aborted += 1


def cutting(connections: list[Connection], banned: Callable[[str], bool]) -> tuple[CutOff, Clock]:
    clock = Turns()
    return CutOff(clock, lambda: connections, banned), clock


def test_the_banned_are_cut_off_and_nobody_else() -> None:
    connections = [Connection(host) for host in ("a", "b", "a", "")]
    it, clock = cutting(connections, lambda host: host in ("a", ""))
    it.soon()
    assert [each.aborted for each in connections] == [0, 0, 0, 0]
    clock.advance(1)
    assert [each.aborted for each in connections] == [1, 0, 1, 0]
    assert clock.getDelayedCalls() == []


def test_many_bans_are_one_look() -> None:
    asked = []
    it, clock = cutting([Connection("a")], lambda host: bool(asked.append(host)))
    for _ in range(100):
        it.soon()
    clock.advance(1)
    assert asked == ["a"]


def test_many_connections_are_asked_in_slices_and_again_for_a_ban_made_meanwhile() -> None:
    banned: set[str] = set()
    connections = [Connection(str(number)) for number in range(3 * SLICE)]
    it, clock = cutting(connections, banned.__contains__)
    it.soon()
    clock.advance(1)
    last = connections[-1].client_host  # it has been asked
    banned.add(last)
    it.soon()
    for _ in range(2):
        clock.advance(1)
    assert connections[-1].aborted == 0
    for _ in range(3):
        clock.advance(1)
    assert connections[-1].aborted == 1
    assert clock.getDelayedCalls() == []


def test_it_looks_again_the_next_time() -> None:
    connections = [Connection("a")]
    it, clock = cutting(connections, lambda host: True)
    it.soon()
    clock.advance(1)
    connections[:] = [Connection("b")]
    it.soon()
    clock.advance(1)
    assert connections[0].aborted == 1
