"""What a protocol behind `acceptproxy:` sees, in memory, with a clock that stands still."""

from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IAddress, IHalfCloseableProtocol, IProtocol, ITLSTransport, ITransport
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.stdio import PipeAddress
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import globalLogPublisher
from twisted.python.failure import Failure
from zope.interface import alsoProvides, implementer

from rproxy.downstream.acceptproxy import (
    AcceptProxyFactory,
    ProxiedTransport,
    Terms,
    socket_address,
    twisted_address,
)
from rproxy.policy.networks import NetworkSet
from rproxy.wire.address import Address, Inet, Unix
from rproxy.wire.proxyheader import ALPN, encode_v1, encode_v2

CLIENT, SERVER = Inet("192.0.2.7", 51234), Inet("198.51.100.3", 443)
CLIENT6, SERVER6 = Inet("2001:db8::7", 51234), Inet("2001:db8:1::3", 443)
PROXY = IPv4Address("TCP", "127.0.0.1", 40000)
STRANGER = IPv4Address("TCP", "203.0.113.9", 40000)
OURS = IPv4Address("TCP", "127.0.0.1", 8443)
V1, V2 = encode_v1(CLIENT, SERVER), encode_v2(CLIENT, SERVER, ((ALPN, b"h2"),))
either_version = pytest.mark.parametrize("header", [V1, V2], ids=["v1", "v2"])


class Recorder(Protocol):
    """Writes down what it is told, and does in `connectionMade` what a test wants."""

    def __init__(self, addr: IAddress, on_made: str) -> None:
        self.built_for = addr
        self.on_made = on_made
        self.events: list[str] = []
        self.octets = b""
        self.seen: list[IAddress] = []

    def connectionMade(self) -> None:
        self.events.append("made")
        self.seen = [self.transport.getPeer(), self.transport.getHost()]
        for name in self.on_made.split():
            getattr(self.transport, name)()

    def dataReceived(self, data: bytes) -> None:
        self.octets += data

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self.events.append("lost")


@implementer(IHalfCloseableProtocol)
class HalfCloser(Recorder):
    def readConnectionLost(self) -> None:
        self.events.append("read lost")

    def writeConnectionLost(self) -> None:
        self.events.append("write lost")


class Recorders(Factory):
    """Builds `kind` for each connection and keeps them all."""

    def __init__(self, kind: type[Recorder] | None = Recorder, on_made: str = "") -> None:
        self.kind = kind
        self.on_made = on_made
        self.built: list[Recorder] = []

    def buildProtocol(self, addr: IAddress) -> Recorder | None:  # type: ignore[override]
        if self.kind is None:
            return None
        self.built.append(self.kind(addr, self.on_made))
        return self.built[-1]


class Connection:
    """One connection from `peer` to an accepting factory with these terms."""

    def __init__(
        self,
        peer: Any = PROXY,
        *,
        required: bool = True,
        trusted: tuple[str, ...] = ("127.0.0.1", "unix"),
        kind: type[Recorder] | None = Recorder,
        on_made: str = "",
    ) -> None:
        self.clock = Clock()
        self.factory = Recorders(kind, on_made)
        self.transport = StringTransport(hostAddress=OURS, peerAddress=peer)
        terms = Terms(self.clock, NetworkSet(trusted), required, 3.0)
        self.accepting: Any = AcceptProxyFactory(terms, self.factory).buildProtocol(peer)
        self.accepting.makeConnection(self.transport)

    @property
    def inner(self) -> Recorder:
        (built,) = self.factory.built
        return built

    @property
    def proxied(self) -> ProxiedTransport:
        transport = self.inner.transport
        assert isinstance(transport, ProxiedTransport)
        return transport

    @property
    def closed(self) -> bool:
        return self.transport.disconnected

    def receive(self, *pieces: bytes) -> "Connection":
        for piece in pieces:
            self.accepting.dataReceived(piece)
        return self

    def lose(self) -> None:
        self.accepting.connectionLost(Failure(ConnectionDone()))


@pytest.fixture
def warnings() -> Iterator[list[Any]]:
    """The events logged by the code under test."""
    events: list[Any] = []

    def observe(event: Any) -> None:
        if event["log_namespace"].startswith("rproxy."):
            events.append(event)

    globalLogPublisher.addObserver(observe)
    yield events
    globalLogPublisher.removeObserver(observe)


# A header from somebody trusted


@either_version
def test_header_gives_the_protocol_its_addresses_before_it_is_connected(header: bytes) -> None:
    connection = Connection().receive(header + b"hello")
    assert connection.inner.seen == [
        IPv4Address("TCP", "192.0.2.7", 51234),
        IPv4Address("TCP", "198.51.100.3", 443),
    ]
    assert connection.inner.built_for == IPv4Address("TCP", "192.0.2.7", 51234)
    assert connection.inner.octets == b"hello"


@either_version
def test_header_may_be_split_anywhere(header: bytes) -> None:
    stream = header + b"hello"
    for cut in range(len(stream) + 1):
        connection = Connection().receive(stream[:cut], stream[cut:])
        assert (connection.inner.seen[0], connection.inner.octets) == (
            IPv4Address("TCP", "192.0.2.7", 51234),
            b"hello",
        )
    connection = Connection().receive(*(stream[at : at + 1] for at in range(len(stream))))
    assert connection.inner.octets == b"hello"


@either_version
def test_nothing_is_built_before_the_header_is_whole(header: bytes) -> None:
    connection = Connection().receive(header[:-1])
    assert connection.factory.built == []
    assert connection.receive(header[-1:]).inner.events == ["made"]


def test_bytes_behind_the_first_segment_are_passed_on() -> None:
    assert Connection().receive(V2 + b"one", b"two", V1).inner.octets == b"onetwo" + V1


def test_ipv6_and_unix_clients_have_their_own_kind_of_address() -> None:
    assert Connection().receive(encode_v2(CLIENT6, SERVER6)).inner.seen == [
        IPv6Address("TCP", "2001:db8::7", 51234),
        IPv6Address("TCP", "2001:db8:1::3", 443),
    ]
    assert Connection().receive(encode_v2(Unix(b"/run/a"), Unix(b""))).inner.seen == [
        UNIXAddress(b"/run/a"),
        UNIXAddress(None),
    ]


@pytest.mark.parametrize("header", [encode_v1(None, None), encode_v2(None, None)], ids=["UNKNOWN", "LOCAL"])
def test_header_without_addresses_keeps_the_sockets(header: bytes) -> None:
    connection = Connection().receive(header + b"hello")
    assert connection.inner.seen == [PROXY, OURS]
    assert connection.inner.built_for == PROXY
    assert connection.inner.octets == b"hello"


def test_header_is_there_to_read_on_the_transport() -> None:
    header = Connection().receive(V2).proxied.proxy_header
    assert header is not None
    assert (header.version, header.tlv(ALPN)) == (2, b"h2")


@pytest.mark.parametrize(
    "peer",
    [IPv6Address("TCP", "::ffff:127.0.0.1", 1), UNIXAddress(None), UNIXAddress(b"/run/client")],
    ids=str,
)
def test_trusted_peers_may_come_over_ipv6_or_unix_sockets(peer: IAddress) -> None:
    assert Connection(peer).receive(V1).inner.events == ["made"]


def test_factory_that_refuses_the_client_closes_the_connection() -> None:
    assert Connection(kind=None).receive(V1).closed


# Refusals


@pytest.mark.parametrize(
    "peer", [STRANGER, IPv6Address("TCP", "2001:db8::1", 1), PipeAddress()], ids=["v4", "v6", "pipe"]
)
def test_required_header_is_not_even_awaited_from_strangers(peer: Any, warnings: list[Any]) -> None:
    connection = Connection(peer)
    assert connection.closed
    assert [event["reason"] for event in warnings] == ["bad_proxy_header"]
    assert connection.clock.getDelayedCalls() == []
    assert connection.receive(V1).factory.built == []


def test_unix_peers_are_trusted_only_where_the_set_says_so() -> None:
    assert Connection(UNIXAddress(None), trusted=("127.0.0.1",)).closed


@pytest.mark.parametrize(
    "octets", [b"GET / HTTP/1.1\r\n\r\n", b"PROXY TCP4 \r\n", V2[:12] + b"\x31", b"P" + V1, V1[:-2] + b"\n"]
)
def test_anything_but_a_good_header_is_closed_with_one_line_in_the_log(
    octets: bytes, warnings: list[Any]
) -> None:
    connection = Connection().receive(octets.ljust(120, b"x"), b"more")
    assert connection.closed
    assert connection.factory.built == []
    assert connection.transport.value() == b""
    (event,) = warnings
    assert (event["peer"], event["reason"]) == ("127.0.0.1:40000", "bad_proxy_header")
    assert connection.clock.getDelayedCalls() == []
    connection.lose()


@pytest.mark.parametrize("required", [True, False])
def test_timeout_is_for_the_whole_header(required: bool, warnings: list[Any]) -> None:
    connection = Connection(required=required)
    for at in range(5):
        connection.clock.advance(0.5)
        connection.receive(V1[at : at + 1])
    connection.clock.advance(0.49)
    assert not connection.closed
    connection.clock.advance(0.01)
    assert connection.closed
    assert [event["reason"] for event in warnings] == ["too_slow"]


def test_no_timeout_runs_once_the_header_is_read(warnings: list[Any]) -> None:
    connection = Connection().receive(V1)
    assert connection.clock.getDelayedCalls() == []
    assert warnings == []


def test_connection_that_ends_before_its_header_is_forgotten_silently(warnings: list[Any]) -> None:
    connection = Connection().receive(V1[:9])
    connection.lose()
    assert connection.clock.getDelayedCalls() == []
    assert (connection.factory.built, warnings) == ([], [])


# Where a header is not required


@pytest.mark.parametrize("peer", [PROXY, STRANGER], ids=["trusted", "untrusted"])
@pytest.mark.parametrize("stream", [b"GET / HTTP/1.1\r\n", b"PROXYING\n", b"\r\n\r\n\0\r\nQUITE"])
def test_stream_without_header_is_passed_through_untouched(peer: Any, stream: bytes) -> None:
    for cut in range(len(stream)):
        connection = Connection(peer, required=False).receive(stream[:cut], stream[cut:], b"more")
        assert connection.inner.octets == stream + b"more"
        assert connection.inner.seen == [peer, OURS]
        assert connection.proxied.proxy_header is None
        assert connection.clock.getDelayedCalls() == []


def test_nothing_is_built_while_the_first_bytes_could_be_a_header() -> None:
    connection = Connection(required=False).receive(b"", b"PROX")
    assert connection.factory.built == []


@either_version
def test_optional_header_from_a_trusted_peer_is_believed(header: bytes) -> None:
    for cut in range(len(header)):
        connection = Connection(required=False).receive(header[:cut], header[cut:] + b"hello")
        assert connection.inner.seen[0] == IPv4Address("TCP", "192.0.2.7", 51234)
        assert connection.inner.octets == b"hello"


@either_version
def test_header_from_a_stranger_is_refused_where_none_is_required(header: bytes, warnings: list[Any]) -> None:
    for cut in range(len(header)):
        connection = Connection(STRANGER, required=False).receive(header[:cut], header[cut:])
        assert connection.closed
        assert connection.factory.built == []
    assert {event["reason"] for event in warnings} == {"bad_proxy_header"}
    assert len(warnings) == len(header)


def test_bad_optional_header_is_refused_and_not_taken_for_a_stream() -> None:
    connection = Connection(required=False).receive(b"PROXY TCP4 nonsense\r\n")
    assert connection.closed
    assert connection.factory.built == []


# What the protocol may do with its transport


def test_writing_and_closing_reach_the_real_transport() -> None:
    connection = Connection().receive(V1)
    connection.proxied.write(b"one")
    connection.proxied.writeSequence([b"two", b"three"])
    assert connection.transport.value() == b"onetwothree"
    connection.proxied.loseConnection()
    assert connection.transport.disconnecting
    assert connection.proxied.disconnecting


def test_everything_else_is_the_real_transports() -> None:
    connection = Connection()
    alsoProvides(connection.transport, ITLSTransport)
    connection.receive(V1)
    assert ITransport.providedBy(connection.proxied)
    assert ITLSTransport.providedBy(connection.proxied)
    producer = object()
    connection.proxied.registerProducer(producer, True)
    assert connection.transport.producer is producer
    with pytest.raises(AttributeError):
        _ = connection.proxied.unheard_of


def test_pausing_in_connection_made_holds_back_what_came_with_the_header() -> None:
    connection = Connection(on_made="pauseProducing").receive(V1 + b"one")
    assert connection.transport.producerState == "paused"
    connection.receive(b"two")  # some transports deliver what they have already decrypted
    assert connection.inner.octets == b""
    connection.proxied.resumeProducing()
    assert connection.inner.octets == b""
    assert connection.transport.producerState == "paused"
    connection.clock.advance(0)
    assert connection.inner.octets == b"onetwo"
    assert connection.transport.producerState == "producing"
    assert connection.receive(b"three").inner.octets == b"onetwothree"


def test_pausing_again_before_the_next_turn_still_holds() -> None:
    connection = Connection(on_made="pauseProducing").receive(V1 + b"one")
    connection.proxied.resumeProducing()
    connection.proxied.pauseProducing()
    connection.clock.advance(0)
    assert connection.inner.octets == b""
    assert connection.transport.producerState == "paused"
    connection.proxied.resumeProducing()
    connection.clock.advance(0)
    assert connection.inner.octets == b"one"
    assert connection.transport.producerState == "producing"


def test_pausing_and_resuming_in_connection_made_ends_up_reading() -> None:
    connection = Connection(on_made="pauseProducing resumeProducing").receive(V1 + b"one")
    connection.clock.advance(0)
    assert connection.inner.octets == b"one"
    assert connection.transport.producerState == "producing"


def test_pausing_with_nothing_held_is_the_real_transports_matter() -> None:
    connection = Connection().receive(V1 + b"one")
    connection.proxied.pauseProducing()
    assert connection.transport.producerState == "paused"
    connection.proxied.resumeProducing()
    assert connection.transport.producerState == "producing"
    assert connection.clock.getDelayedCalls() == []


@pytest.mark.parametrize("call", ["loseConnection", "abortConnection", "stopProducing"])
def test_protocol_that_closes_in_connection_made_receives_nothing(call: str) -> None:
    connection = Connection(on_made=call).receive(V1 + b"one")
    assert connection.inner.octets == b""
    assert connection.transport.disconnecting or connection.transport.disconnected


def test_what_is_held_back_when_the_connection_ends_is_dropped() -> None:
    connection = Connection(on_made="pauseProducing").receive(V1 + b"one")
    inner = connection.inner
    connection.proxied.resumeProducing()
    connection.lose()
    connection.clock.advance(0)
    assert (inner.octets, inner.events) == (b"", ["made", "lost"])


def test_half_close_reaches_a_protocol_that_knows_it() -> None:
    connection = Connection(kind=HalfCloser)
    assert not IHalfCloseableProtocol.providedBy(connection.accepting)
    connection.receive(V1)
    half_closeable = IHalfCloseableProtocol(connection.accepting)
    half_closeable.readConnectionLost()
    half_closeable.writeConnectionLost()
    connection.lose()
    assert connection.inner.events == ["made", "read lost", "write lost", "lost"]


def test_half_close_is_not_offered_to_a_protocol_that_does_not_know_it() -> None:
    assert not IHalfCloseableProtocol.providedBy(Connection().receive(V1).accepting)


def test_one_half_closing_connection_does_not_change_the_others() -> None:
    Connection(kind=HalfCloser).receive(V1)
    assert not IHalfCloseableProtocol.providedBy(Connection().receive(V1).accepting)


# The factory and the addresses


def test_factory_starts_stops_and_names_the_wrapped_one() -> None:
    class Counting(Factory):
        noisy = False
        running = 0

        def startFactory(self) -> None:
            self.running += 1

        def stopFactory(self) -> None:
            self.running -= 1

        def buildProtocol(self, addr: IAddress) -> IProtocol | None:
            return None

    factory = Counting()
    accepting = AcceptProxyFactory(Terms(Clock(), NetworkSet(), True, 3.0), factory)
    accepting.doStart()
    assert factory.running == 1
    accepting.doStop()
    assert factory.running == 0
    assert accepting.logPrefix() == "Counting (PROXY)"


@pytest.mark.parametrize("address", [CLIENT, CLIENT6, Unix(b"/run/a"), Unix(b""), Unix(b"\0abstract")])
def test_addresses_survive_the_way_through_twisted(address: Address) -> None:
    assert socket_address(twisted_address(address)) == address


def test_address_of_no_socket_is_none() -> None:
    assert socket_address(PipeAddress()) is None
