"""ProxyReactor beside Twisted's own epoll reactor: the same events, delivered the same way."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from select import EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT
from typing import Any

import pytest
from twisted.internet.epollreactor import EPollReactor
from twisted.internet.interfaces import IHalfCloseableDescriptor
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from zope.interface import implementer

from rproxy.reactor import ProxyReactor
from tests.fakes import LogLines
from tests.hands import fresh
from tests.native.twins import one_for

WAYS = (ProxyReactor, EPollReactor)


class Events:
    """Stands for the epoll object: gives the events that a test wants delivered in one turn."""

    def __init__(self, *events: tuple[int, int]) -> None:
        self.events = list(events)

    def poll(self, timeout: float, most: int) -> list[tuple[int, int]]:
        events, self.events = self.events, []
        return events

    def unregister(self, descriptor: int) -> None:
        pass

    modify = register = lambda self, descriptor, flags: None


@implementer(IHalfCloseableDescriptor)
class Selectable:
    def __init__(self, number: int, read: Any = None, write: Any = None) -> None:
        self.number, self.read, self.write = number, read, write
        self.calls: list[str] = []

    def fileno(self) -> int:
        return self.number

    def logPrefix(self) -> str:
        return "the transport"

    def doRead(self) -> Any:
        self.calls.append("read")
        return self.read() if callable(self.read) else self.read

    def doWrite(self) -> Any:
        self.calls.append("write")
        return self.write() if callable(self.write) else self.write

    def readConnectionLost(self, reason: Any) -> None:
        self.calls.append("read lost")

    def writeConnectionLost(self, reason: Any) -> None:
        self.calls.append("write lost")

    def connectionLost(self, reason: Any) -> None:
        self.calls.append(f"lost: {reason.type.__name__}")


@pytest.fixture(params=WAYS, ids=["ours", "Twisted's"])
def loop(request: Any) -> Iterator[Any]:
    yield from fresh(request.param)


@pytest.fixture
def ours() -> Iterator[Any]:
    yield from fresh(ProxyReactor)


def put(poller: Events, reactor: Any) -> None:
    reactor._poller = poller
    if isinstance(reactor, ProxyReactor):
        reactor.watcher.poller = poller
        for name, function in (("turns", "turn"), ("adds", "add"), ("removes", "remove")):
            setattr(reactor.watcher, name, one_for(Events, "events", function))


def turn(reactor: Any, *events: tuple[int, int]) -> None:
    put(Events(*events), reactor)
    reactor.doPoll(0)


def watched(reactor: Any, number: int, **behaviour: Any) -> Selectable:
    put(Events(), reactor)
    selectable = Selectable(number, **behaviour)
    reactor.addReader(selectable)
    reactor.addWriter(selectable)
    return selectable


@pytest.mark.parametrize(
    ("event", "calls"),
    [
        (EPOLLIN, ["read"]),
        (EPOLLOUT, ["write"]),
        (EPOLLIN | EPOLLOUT, ["read", "write"]),
        (EPOLLIN | EPOLLHUP, ["read"]),
        (EPOLLHUP, ["read lost"]),
        (EPOLLERR | EPOLLOUT, ["read lost"]),
    ],
)
def test_an_event_is_delivered(loop: Any, event: int, calls: list[str]) -> None:
    selectable = watched(loop, 900)
    turn(loop, (900, event))
    assert selectable.calls == calls


def test_a_hang_up_of_one_that_does_not_read_is_a_loss(loop: Any) -> None:
    selectable = watched(loop, 900)
    loop.removeReader(selectable)
    turn(loop, (900, EPOLLHUP | EPOLLERR))
    assert selectable.calls == ["lost: ConnectionLost"]


@pytest.mark.parametrize(
    ("outcome", "calls"),
    [(CONNECTION_DONE, ["read", "read lost"]), (CONNECTION_LOST, ["read", "lost: ConnectionLost"])],
)
def test_what_do_read_returns_ends_the_connection(loop: Any, outcome: Any, calls: list[str]) -> None:
    selectable = watched(loop, 900, read=outcome)
    turn(loop, (900, EPOLLIN | EPOLLOUT))
    assert selectable.calls == calls


def test_a_mistake_in_one_transport_ends_it_and_no_other(ours: Any) -> None:
    broken, sound = watched(ours, 900, read=lambda: 1 / 0), watched(ours, 901)
    with LogLines() as lines:
        turn(ours, (900, EPOLLIN), (901, EPOLLIN))
    assert broken.calls == ["read", "lost: ZeroDivisionError"]
    assert sound.calls == ["read"]
    assert lines.texts("rproxy.reactor") == ["in the transport"]


def test_one_that_an_earlier_event_removed_gets_nothing(loop: Any) -> None:
    second = watched(loop, 901)

    def remove() -> None:
        loop.removeReader(second)
        loop.removeWriter(second)

    watched(loop, 900, read=remove)
    turn(loop, (900, EPOLLIN), (901, EPOLLIN))
    assert second.calls == []


def test_a_number_that_is_another_s_by_now_brings_it_no_old_event(ours: Any) -> None:
    loop = ours
    old = watched(loop, 901)
    new: list[Selectable] = []

    def replace() -> None:
        loop.removeReader(old)
        loop.removeWriter(old)
        new.append(watched(loop, 901))

    watched(loop, 900, read=replace)
    turn(loop, (900, EPOLLIN), (901, EPOLLHUP))
    assert (old.calls, new[0].calls) == ([], [])


def test_it_polls_real_sockets(loop: Any) -> None:
    one, other = socket.socketpair()
    with one, other:
        selectable = Selectable(one.fileno())
        loop.addReader(selectable)
        other.send(b"x")
        loop.doPoll(1)
        assert selectable.calls == ["read"]
        loop.removeReader(selectable)


def test_what_is_closed_is_known_no_more_and_its_number_may_be_used_again() -> None:
    reactor, (ours, theirs) = ProxyReactor(), socket.socketpair()
    first, second = Selectable(ours.fileno()), Selectable(ours.fileno())
    reactor.addReader(first)
    reactor.addWriter(first)
    reactor.watcher.forget(first.number, first)
    ours.close()
    assert not {first} & {*reactor.getReaders(), *reactor.getWriters()}
    os.dup2(theirs.fileno(), first.number)
    reactor.addReader(second)
    assert second in reactor.getReaders()
    reactor.removeReader(second)
    os.close(first.number)
    theirs.close()
