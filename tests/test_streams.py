"""What the reactor's transports have beyond `Stream`: addresses, names, half-closes, copies passed on."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import ITCPTransport, ITLSTransport
from zope.interface.verify import verifyObject

from rproxy.streams import Server, zoned
from tests.fakes import LogLines
from tests.hands import Hands, Made, Pair, hands


@pytest.fixture
def place() -> Iterator[Hands]:
    with hands() as made:
        yield made


def test_they_provide_what_twisteds_do(place: Hands) -> None:
    pair = Pair(place, Made(), Made())
    for transport in (pair.serving, pair.calling):
        verifyObject(ITCPTransport, transport)
        verifyObject(ITLSTransport, transport)


@pytest.mark.parametrize(("interface", "kind"), [("127.0.0.1", IPv4Address), ("::1", IPv6Address)])
def test_each_end_knows_both_addresses(place: Hands, interface: str, kind: Any) -> None:
    server, client = Made(), Made()
    pair = Pair(place, server, client, interface)
    assert isinstance(pair.serving.getHost(), kind)
    assert pair.serving.getHost() == pair.calling.getPeer() == pair.port.getHost() == client.addresses[0]
    assert pair.serving.getPeer() == pair.calling.getHost() == server.addresses[0]
    name = pair.calling.socket.getsockname()
    assert (pair.serving.client, pair.serving.hostname) == (name, interface)


def test_a_socket_s_name_has_its_interface_behind_a_link_local_address() -> None:
    number = socket.if_nametoindex("lo")
    assert zoned(("fe80::1", 80, 0, number)) == ("fe80::1%lo", 80, 0, number)
    assert zoned(("10.0.0.1", 80)) == ("10.0.0.1", 80)
    assert zoned("/run/s") == "/run/s"


def test_they_say_whose_they_are(place: Hands) -> None:
    pair = Pair(place, Made(), Made())
    number = pair.port.getHost().port
    assert repr(pair.serving) == str(pair.serving) == f"<Remembering #0 on {number}>"
    assert pair.serving.logPrefix() == "Remembering,0,127.0.0.1"
    assert pair.calling.logPrefix() == "Remembering,client"
    assert f"to ('127.0.0.1', {number}) at" in repr(pair.calling)


def test_a_half_close_is_told_in_the_next_turn_and_the_other_half_goes_on(place: Hands) -> None:
    pair = Pair(place, Made(), Made())
    pair.calling.write(b"last")
    pair.calling.loseWriteConnection()
    assert "write_lost" not in pair.client.calls
    place.until(lambda: "read_lost" in pair.server.calls)
    assert (pair.client.calls[-1], pair.server.octets) == ("write_lost", b"last")
    pair.serving.write(b"answer")
    place.until(lambda: pair.client.octets == b"answer")


@pytest.mark.parametrize("bad", ["text", bytearray(b"may change"), 7])
def test_what_is_no_bytes_is_refused_and_nothing_of_it_written(place: Hands, bad: Any) -> None:
    pair = Pair(place, Made(), Made())
    parts: list[Any] = [b"good", bad]
    with pytest.raises(TypeError):
        pair.calling.writeSequence(parts)
    pair.calling.writeSequence(iter([b"one ", b"two"]))
    place.until(lambda: pair.server.octets == b"one two")


def test_writes_go_out_at_once_and_nobody_is_probed_unasked(place: Hands) -> None:
    pair = Pair(place, Made(), Made())
    for transport in (pair.serving, pair.calling):
        assert (transport.getTcpNoDelay(), transport.getTcpKeepAlive()) == (True, False)
        transport.setTcpNoDelay(0)
        transport.setTcpKeepAlive(1)
        assert (transport.getTcpNoDelay(), transport.getTcpKeepAlive()) == (False, True)


class Counting:
    """A pull producer: so many writes, one for each time it is asked."""

    def __init__(self, consumer: Any, times: int) -> None:
        self.consumer, self.left = consumer, times

    def resumeProducing(self) -> None:
        self.left -= 1
        self.consumer.write(b"x")
        if not self.left:
            self.consumer.unregisterProducer()

    def stopProducing(self) -> None:
        raise AssertionError("nothing was lost")


@pytest.mark.parametrize("streaming", [False, 0])
def test_a_pull_producer_is_asked_again_and_again(place: Hands, streaming: Any) -> None:
    pair = Pair(place, Made(), Made())
    pair.serving.registerProducer(Counting(pair.serving, 5), streaming)
    place.until(lambda: pair.client.octets == b"xxxxx")
    assert pair.serving.producer is None


@pytest.mark.parametrize("close", ["loseConnection", "close"])
def test_one_that_is_closed_while_somebody_has_a_copy_is_heard_of_no_more(place: Hands, close: str) -> None:
    pair = Pair(place, Made(), Made())
    copy = os.dup(pair.serving.fileno())
    try:
        with LogLines() as lines:
            getattr(pair.serving, close)()
            place.until(lambda: pair.server.reason is ConnectionDone)
            pair.calling.write(b"for the copy")
            place.settle()
        assert os.read(copy, 99) == b"for the copy"
        assert lines.texts("rproxy.reactor") == []
    finally:
        os.close(copy)


def test_the_socket_is_one_of_pythons_and_does_not_block(place: Hands) -> None:
    pair = Pair(place, Made(), Made())
    for transport in (pair.serving, pair.calling):
        assert isinstance(transport.getHandle(), socket.socket)
        assert not transport.getHandle().getblocking()


def test_a_blocking_socket_is_made_one_that_does_not(place: Hands) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        protocol = Made().buildProtocol(None)
        transport = Server(ours, protocol, ("127.0.0.1", 1), None, 7, place.reactor)
        protocol.makeConnection(transport)
        assert not ours.getblocking()
        assert repr(transport) == "<Remembering #7 on >"
