"""Who is reset and not closed, and when: what waits goes first, but not for ever."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from twisted.internet.error import ConnectionAborted

from rproxy.parting import PATIENCE, Parting, end_half, is_twisteds_tls
from rproxy.transports import Accepted
from tests.fakes import Loop, Remembering


class Place:
    """A TCP connection on a loop that stands still; the other side reads when the test says so."""

    def __init__(self) -> None:
        self.loop, self.protocol, self.got = Loop(), Remembering(), 0
        with socket.create_server(("127.0.0.1", 0)) as listening:
            self.ours = socket.create_connection(listening.getsockname())
            theirs, place = listening.accept()
        theirs.setblocking(False)
        self.transport = Accepted(theirs, self.protocol, place, None, 0, self.loop)
        self.protocol.makeConnection(self.transport)  # type: ignore[arg-type]

    def fill(self) -> int:
        """Write until something waits; how much in all."""
        size = 0
        while not self.transport.unsent:
            self.transport.write(bytes(65536))
            size += 65536
        return size

    def read(self, size: int = 1 << 30) -> str:
        """Until so much has come, or nothing more does; how it ended."""
        self.ours.settimeout(0.1)
        try:
            while self.got < size and (octets := self.ours.recv(1 << 16)):
                self.got += len(octets)
                self.loop.spin()
        except ConnectionResetError:
            return "reset"
        except TimeoutError:
            return "open"
        return "eof" if self.got < size else "open"


@pytest.fixture
def place() -> Iterator[Place]:
    made = Place()
    yield made
    made.ours.close()
    made.transport.abortConnection()
    made.loop.spin()
    assert made.protocol.reason is not None
    assert made.loop.getDelayedCalls() == []
    assert (made.loop.readers, made.loop.writers) == (set(), set())


class Started:
    """What `startTLS` makes of a transport, as far as it is asked."""

    TLS = True

    def __init__(self) -> None:
        self.calls = list[str]()

    def loseWriteConnection(self) -> None:
        self.calls.append("shut TCP's half")

    def loseConnection(self) -> None:
        self.calls.append("goodbye")


def test_tls_of_twisteds_is_not_shut_below() -> None:
    transport = Started()
    assert is_twisteds_tls(transport)
    end_half(transport, False)
    assert transport.calls == [], "before its handshake it would break off"
    end_half(transport, True)
    assert transport.calls == ["goodbye"]


def test_a_transport_that_has_no_halves_is_left_alone(place: Place) -> None:
    end_half(object(), True)
    assert not is_twisteds_tls(place.transport)
    end_half(place.transport, True)
    assert place.read() == "eof"


def test_what_waits_comes_first(place: Place) -> None:
    size = place.fill()
    Parting(place.transport)
    place.loop.spin()
    assert place.protocol.reason is None
    assert place.read() == "reset"
    assert 0 < place.got <= size
    assert place.protocol.reason is ConnectionAborted


def test_a_transport_that_was_told_to_close_before_is_reset_all_the_same(place: Place) -> None:
    place.fill()
    place.transport.loseConnection()
    Parting(place.transport)
    assert place.read() == "reset"


def test_who_takes_nothing_is_not_waited_for(place: Place) -> None:
    place.fill()
    Parting(place.transport)
    place.loop.advance(PATIENCE - 0.1)
    place.loop.spin()
    assert place.protocol.reason is None
    place.loop.advance(0.2)
    place.loop.spin()
    assert place.protocol.reason is ConnectionAborted
    assert place.read() == "reset"


def test_nothing_more_is_read_from_who_is_parted_with(place: Place) -> None:
    place.fill()
    Parting(place.transport)
    place.ours.send(b"more")
    place.loop.spin()
    assert place.protocol.octets == b""


def test_who_leaves_first_leaves_nothing(place: Place) -> None:
    place.fill()
    Parting(place.transport)
    place.ours.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    place.ours.close()
    place.loop.spin()
    assert "lost" in place.protocol.calls
