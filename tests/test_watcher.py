"""What is asked of a reactor reaches it, whichever it is; ours has a watcher of its own."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock

from rproxy.watcher import Foreign, watcher_of
from tests.hands import hands

METHODS = ("addReader", "addWriter", "removeReader", "removeWriter")


class Reactor(Clock):
    """Remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, Any]] = []

    def __getattr__(self, name: str) -> Any:
        if name not in METHODS:
            raise AttributeError(name)
        return lambda selectable: self.asked.append((name, selectable))


def test_another_reactor_is_asked_as_twisted_s_are() -> None:
    reactor, one = Reactor(), object()
    it = watcher_of(reactor)
    assert isinstance(it, Foreign)
    assert it.add_reader(5, one)
    assert it.add_writer(5, one)
    assert it.remove_reader(5, one)
    assert it.remove_writer(5, one)
    assert reactor.asked == [
        (name, one) for name in ("addReader", "addWriter", "removeReader", "removeWriter")
    ]


def test_forgetting_is_no_more_reading_and_no_more_writing() -> None:
    reactor, one = Reactor(), object()
    watcher_of(reactor).forget(5, one)
    assert reactor.asked == [("removeReader", one), ("removeWriter", one)]


def test_the_time_is_the_clock_s() -> None:
    clock = Clock()
    it = watcher_of(clock)
    clock.advance(2.5)
    assert it.seconds() == 2.5


def test_our_reactor_has_its_own() -> None:
    with hands() as place:
        assert watcher_of(place.reactor) is place.reactor.watcher
        assert abs(watcher_of(place.reactor).seconds() - place.reactor.seconds()) < 5
