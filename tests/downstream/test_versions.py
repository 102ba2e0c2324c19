"""Which HTTP a connection speaks: by ALPN where there is one, else by its first bytes, however they come."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from rproxy.deadlines import Deadlines
from rproxy.downstream.versions import FIRST_BYTE, HttpVersions
from rproxy.interfaces import Arrival
from rproxy.wire.address import Inet
from rproxy.wire.http2_frames import PREFACE
from tests.http2_world import Http2World
from tests.http_world import GET, OK
from tests.wire.http2_talk import SETTINGS, said, settings

HERE = Arrival("tcp:80", Inet("192.0.2.1", 1), Inet("192.0.2.1", 1))


class Server:
    """What a factory builds: remembers its calls."""

    def __init__(self, told: list[Any], name: str) -> None:
        self.told, self.name = told, name

    def makeConnection(self, transport: Any) -> None:
        self.told.append((self.name, transport))

    def dataReceived(self, octets: bytes) -> None:
        self.told.append(octets)

    def connectionLost(self, reason: Failure) -> None:
        self.told.append("lost")

    def drain(self) -> None:
        self.told.append("drain")


class Transport:
    closed = False

    def loseConnection(self) -> None:
        self.closed = True


class Made:
    """Versions whose factories build nothing but witnesses."""

    def __init__(self, *, builds: bool = True) -> None:
        self.told: list[Any] = []
        self.clock, self.transport = Clock(), Transport()
        one, two = (
            SimpleNamespace(buildProtocol=lambda addr, name=name: Server(self.told, name) if builds else None)
            for name in ("one", "two")
        )
        self.factory: Any = HttpVersions(one, two, Deadlines(self.clock))  # type: ignore[arg-type]

    def connect(self) -> Any:
        protocol = self.factory.buildProtocol(HERE)
        protocol.makeConnection(self.transport)
        return protocol


@pytest.mark.parametrize(("alpn", "name"), [(b"h2", "two"), (b"http/1.1", "one")])
def test_what_was_agreed_on_is_spoken(alpn: bytes, name: str) -> None:
    made = Made()
    built = made.factory.buildProtocol(_Agreed(alpn))
    assert built.name == name


class _Agreed(Arrival):
    """An arrival behind TLS."""

    __slots__ = ("alpn",)

    def __init__(self, alpn: bytes) -> None:
        super().__init__(HERE.listener, HERE.peer, HERE.client)
        object.__setattr__(self, "alpn", alpn)


@pytest.mark.parametrize(
    ("octets", "name"),
    [
        (PREFACE, "two"),
        (PREFACE + settings(), "two"),
        (GET, "one"),
        (b"PRI * HTTP/1.1\r\n\r\n", "one"),
        (b"PUT / HTTP/1.1\r\n\r\n", "one"),
        (b"\x16\x03\x01", "one"),
    ],
)
def test_the_first_bytes_tell_wherever_they_are_cut(octets: bytes, name: str) -> None:
    for at in range(1, len(octets) + 1):
        made = Made()
        protocol = made.connect()
        protocol.dataReceived(octets[:at])
        if octets[at:]:
            protocol.dataReceived(octets[at:])
        assert made.told[0] == (name, made.transport)
        assert b"".join(made.told[1:]) == octets
        assert made.clock.getDelayedCalls() == [] or made.clock.advance(1) is None


def test_nothing_is_decided_while_it_could_be_either() -> None:
    made = Made()
    made.connect().dataReceived(b"PRI * HTTP/2.0\r")
    assert made.told == []


def test_a_client_that_says_nothing_is_not_waited_for_for_ever() -> None:
    made = Made()
    made.connect().dataReceived(b"PRI")
    made.clock.advance(FIRST_BYTE - 1)
    assert not made.transport.closed
    made.clock.advance(2)
    assert made.transport.closed


def test_what_was_decided_in_time_is_not_closed() -> None:
    made = Made()
    made.connect().dataReceived(GET)
    made.clock.pump([1.0] * 100)
    assert not made.transport.closed
    assert made.clock.getDelayedCalls() == []


def test_a_factory_that_builds_nothing_ends_the_connection() -> None:
    made = Made(builds=False)
    made.connect().dataReceived(GET)
    assert made.transport.closed


@pytest.mark.parametrize("octets", [b"", GET])
def test_the_end_is_passed_on_and_stops_the_clock(octets: bytes) -> None:
    made = Made()
    protocol = made.connect()
    if octets:
        protocol.dataReceived(octets)
    protocol.connectionLost(Failure(ConnectionDone()))
    assert made.told[2:] == (["lost"] if octets else [])
    made.clock.advance(100)
    assert not made.transport.closed


def test_who_has_said_nothing_may_leave_and_is_drained_at_once() -> None:
    for leave in ("drain", "readConnectionLost"):
        made = Made()
        getattr(made.connect(), leave)()
        assert made.transport.closed
    made = Made()
    protocol = made.connect()
    protocol.dataReceived(GET)
    protocol.drain()
    assert made.told[-1] == "drain"
    assert IHalfCloseableProtocol.providedBy(protocol)


# -- with the real ones

Making = Callable[..., Http2World]


@pytest.fixture
def world() -> Iterator[Http2World]:
    made = Http2World()
    yield made
    made.end()


def test_one_port_speaks_both(world: Http2World) -> None:
    old, new = world.connect().send(GET), world.client()
    first = world.asked()
    number = new.begin()
    second = world.asked()
    first.send(OK)
    second.send(OK)
    assert old.read() == OK
    assert new.take()[number].body == b"ok"


def test_a_half_close_reaches_whoever_serves(world: Http2World) -> None:
    wire = world.connect().send(GET).finish()
    world.asked().send(OK)
    assert wire.read().endswith(b"ok<end>")


def test_a_server_that_has_been_told_the_version_speaks_first(world: Http2World) -> None:
    world.door.clear = world.http2
    (first, *_) = said(world.connect().read())
    assert first.kind == SETTINGS
