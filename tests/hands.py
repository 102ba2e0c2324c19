"""A reactor of ours in a test's hands, beside the one that the tests run on; and factories that remember."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from twisted.internet.protocol import ClientFactory

from rproxy.reactor import ProxyReactor
from tests.fakes import PATIENCE, Remembering


class Hands:
    """Turns `reactor` until what a test waits for has come."""

    def __init__(self) -> None:
        self.reactor: Any = ProxyReactor()

    def until(self, condition: Callable[[], Any]) -> Any:
        """The first true value of `condition`."""
        end = time.monotonic() + PATIENCE
        while not (value := condition()):
            assert time.monotonic() < end, "it never came true"
            self.turn(0.01)
        return value

    def turn(self, seconds: float = 0.0) -> None:
        """Once; waits for events at most this long."""
        self.reactor.runUntilCurrent()
        self.reactor.doIteration(seconds)

    def settle(self) -> None:
        """As long as anything goes on; what goes on takes turns at once, one after the other."""
        for _ in range(10):
            self.turn()

    def selectables(self) -> set[Any]:
        """What it watches, without what it needs itself."""
        return {*self.reactor.getReaders(), *self.reactor.getWriters()} - self.reactor._internalReaders

    def close(self) -> None:
        self.reactor.disconnectAll()
        self.settle()
        _close(self.reactor, self.reactor._poller)


def fresh(kind: type) -> Iterator[Any]:
    """For a fixture: a reactor of this kind, which may be given another poller meanwhile."""
    reactor: Any = kind()
    poller = reactor._poller
    yield reactor
    _close(reactor, poller)


def _close(reactor: Any, poller: Any) -> None:
    """What a reactor keeps open for itself."""
    poller.close()
    for number in (reactor.waker.i, reactor.waker.o):
        os.close(number)


@contextmanager
def hands() -> Iterator[Hands]:
    """For one test."""
    made = Hands()
    try:
        yield made
    finally:
        made.close()


class Made(ClientFactory):
    """A factory for either side; its protocols do what `on` says."""

    noisy = False

    def __init__(self, **on: Callable[[Any], object]) -> None:
        self.on, self.built, self.addresses = on, list[Remembering](), list[Any]()
        self.failures, self.losses = list[Any](), list[Any]()
        self.started: list[Any] = []

    def buildProtocol(self, addr: Any) -> Any:
        self.addresses.append(addr)
        self.built.append(Remembering(**self.on))
        return self.built[-1]

    def startedConnecting(self, connector: Any) -> None:
        self.started.append(connector)

    def clientConnectionFailed(self, connector: Any, reason: Any) -> None:
        self.failures.append(reason.value)

    def clientConnectionLost(self, connector: Any, reason: Any) -> None:
        self.losses.append(reason.type)

    @property
    def protocol_(self) -> Remembering:
        """The only one that it has built."""
        (built,) = self.built
        return built


class Pair:
    """A client and a server, connected by the reactor over TCP."""

    def __init__(self, place: Hands, server: Made, client: Made, interface: str = "127.0.0.1") -> None:
        self.place = place
        self.port = place.reactor.listenTCP(0, server, interface=interface)
        place.reactor.connectTCP(interface, self.port.getHost().port, client)
        place.until(lambda: server.built and client.built and client.built[0].transport)
        self.server, self.client = server.protocol_, client.protocol_
        self.serving: Any = self.server.transport
        self.calling: Any = self.client.transport
