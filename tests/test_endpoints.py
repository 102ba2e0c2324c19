"""The endpoint strings through Twisted's own parsing, in memory and over real sockets."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import clientFromString, connectProtocol, serverFromString
from twisted.internet.interfaces import (
    IAddress,
    IHalfCloseableProtocol,
    IProtocol,
    IReactorTime,
    IStreamClientEndpoint,
    IStreamServerEndpoint,
)
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure
from zope.interface import implementer
from zope.interface.verify import verifyObject

from rproxy.endpoints import (
    AcceptProxyEndpoint,
    IProxyHeaderSource,
    ProxyVersion,
    SendProxyEndpoint,
)
from rproxy.policy.networks import NetworkSet
from rproxy.wire.address import Address, Inet, Unix
from rproxy.wire.proxyheader import AUTHORITY, ProxyHeaderReader, Tlvs, encode_v1, encode_v2

CLIENT, SERVER = Inet("192.0.2.7", 51234), Inet("198.51.100.3", 443)
OWN, PEER = IPv4Address("TCP", "127.0.0.1", 40000), IPv4Address("TCP", "127.0.0.1", 8443)
ROOT = Path(__file__).parent.parent


# Parsing


def test_acceptproxy_string_wraps_the_endpoint_it_names() -> None:
    reactor = MemoryReactorClock()
    serverFromString(reactor, "acceptproxy:tcp:8443:interface=127.0.0.1:backlog=7").listen(Factory())
    ((port, _, backlog, interface),) = reactor.tcpServers
    assert (port, backlog, interface) == (8443, 7, "127.0.0.1")


def test_sendproxy_string_wraps_the_endpoint_it_names() -> None:
    reactor = MemoryReactorClock()
    clientFromString(reactor, "sendproxy:tcp:192.0.2.1:8443:timeout=7").connect(Factory())
    ((host, port, _, timeout, _),) = reactor.tcpClients
    assert (host, port, timeout) == ("192.0.2.1", 8443, 7)


@pytest.mark.parametrize("path", ["/run/a\\:b", "/run/a\\=b", "/run/a\\\\b", "/run/a\\,b"])
def test_quoting_of_the_wrapped_endpoint_survives(path: str) -> None:
    reactor = MemoryReactorClock()
    serverFromString(reactor, f"acceptproxy:unix:{path}").listen(Factory())
    clientFromString(reactor, f"sendproxy:unix:{path}").connect(Factory())
    plain = path.replace("\\\\", "\0").replace("\\", "").replace("\0", "\\")
    assert [str(place[0]) for place in (*reactor.unixServers, *reactor.unixClients)] == [plain, plain]


@pytest.mark.parametrize(
    ("options", "untrusted_closed", "client_address"),
    [
        ("", True, "127.0.0.1"),
        (":required=yes", True, "127.0.0.1"),
        (":required=no", False, "127.0.0.1"),
        (":from=192.0.2.0/24", True, "192.0.2.9"),
        (":from=192.0.2.0/24,2001\\:db8\\:\\:/32,unix", True, "2001:db8::9"),
    ],
)
def test_options_say_who_must_send_a_header(
    options: str, untrusted_closed: bool, client_address: str
) -> None:
    reactor = MemoryReactorClock()
    serverFromString(reactor, f"acceptproxy:tcp:8443{options}").listen(Factory.forProtocol(Protocol))
    factory = reactor.tcpServers[0][1]
    assert accept(factory, "203.0.113.9").disconnected is untrusted_closed
    assert not accept(factory, client_address).disconnected


def accept(factory: Any, host: str) -> StringTransport:
    peer = IPv4Address("TCP", host, 1)
    transport = StringTransport(peerAddress=peer)
    factory.buildProtocol(peer).makeConnection(transport)
    return transport


def test_unix_peers_are_trusted_by_default_and_not_where_only_networks_are_named() -> None:
    reactor = MemoryReactorClock()
    for description in ("acceptproxy:unix:/run/a", "acceptproxy:unix:/run/b:from=127.0.0.1"):
        serverFromString(reactor, description).listen(Factory.forProtocol(Protocol))
    closed = []
    for _, factory, *_ in reactor.unixServers:
        transport = StringTransport(peerAddress=UNIXAddress(None))
        factory.buildProtocol(UNIXAddress(None)).makeConnection(transport)
        closed.append(transport.disconnected)
    assert closed == [False, True]


@pytest.mark.parametrize(("option", "seconds"), [("", 3), (":timeout=0.5", 0.5), (":timeout=30", 30)])
def test_timeout_is_in_seconds_on_the_reactor_that_parsed(option: str, seconds: float) -> None:
    reactor = MemoryReactorClock()
    serverFromString(reactor, f"acceptproxy:tcp:8443{option}").listen(Factory.forProtocol(Protocol))
    transport = accept(reactor.tcpServers[0][1], "127.0.0.1")
    reactor.advance(seconds - 0.01)
    assert not transport.disconnected
    reactor.advance(0.01)
    assert transport.disconnected


@pytest.mark.parametrize(
    ("description", "sentence"),
    [
        ("acceptproxy:", "wraps another endpoint"),
        ("acceptproxy", "wraps another endpoint"),
        ("acceptproxy:required=no", "wraps another endpoint"),
        ("acceptproxy:nonsense:1", "Unknown endpoint type"),
        ("acceptproxy:tcp:1:required=maybe", "required is yes or no"),
        ("acceptproxy:tcp:1:timeout=soon", "number of seconds"),
        ("acceptproxy:tcp:1:timeout=0", "number of seconds"),
        ("acceptproxy:tcp:1:timeout=-1", "number of seconds"),
        ("acceptproxy:tcp:1:timeout=nan", "number of seconds"),
        ("acceptproxy:tcp:1:timeout=inf", "number of seconds"),
        ("acceptproxy:tcp:1:from=", "is no network"),
        ("acceptproxy:tcp:1:from=10.0.0.1/8", "write 10.0.0.0/8"),
        ("acceptproxy:tcp:1:from=localhost", "is no network"),
    ],
)
def test_bad_server_string_is_a_value_error_with_a_sentence(description: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        serverFromString(MemoryReactorClock(), description)


@pytest.mark.parametrize(
    ("description", "sentence"),
    [
        ("sendproxy:", "wraps another endpoint"),
        ("sendproxy:version=v1", "wraps another endpoint"),
        ("sendproxy:tcp:h:1:version=v3", "version is v1 or v2"),
        ("sendproxy:tcp:h:1:version=1", "version is v1 or v2"),
    ],
)
def test_bad_client_string_is_a_value_error_with_a_sentence(description: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        clientFromString(MemoryReactorClock(), description)


def test_endpoints_provide_what_they_claim() -> None:
    server = serverFromString(MemoryReactorClock(), "acceptproxy:tcp:1")
    client = clientFromString(MemoryReactorClock(), "sendproxy:tcp:192.0.2.1:1")
    assert verifyObject(IStreamServerEndpoint, server)
    assert verifyObject(IStreamClientEndpoint, client)
    assert isinstance(server, AcceptProxyEndpoint)
    assert isinstance(client, SendProxyEndpoint)


def test_plugin_is_light_for_programs_that_only_look_for_plugins() -> None:
    heavy = "{'pydantic', 'OpenSSL', 'rproxy.config', 'rproxy.tap', 'twisted.internet.reactor'}"
    code = f"import twisted.plugins.rproxy_plugin, sys; print(sorted({heavy} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (run.stdout, run.stderr) == ("[]\n", "")


# Sending, in memory


class Receiver(Protocol):
    """Writes a greeting and keeps what it gets."""

    def __init__(self) -> None:
        self.octets = b""
        self.lost = False

    def connectionMade(self) -> None:
        self.transport.write(b"hello")

    def dataReceived(self, data: bytes) -> None:
        self.octets += data

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self.lost = True


@implementer(IHalfCloseableProtocol)
class HalfCloser(Receiver):
    ended = False

    def readConnectionLost(self) -> None:
        self.ended = True

    def writeConnectionLost(self) -> None: ...


@implementer(IProxyHeaderSource)
class Sourced(Factory):
    """A factory that connects for somebody."""

    protocol = Receiver

    def __init__(self, source: Address | None, destination: Address | None, tlvs: Tlvs = ()) -> None:
        self.says = (source, destination, tlvs)

    def proxyHeader(self) -> tuple[Address | None, Address | None, Tlvs]:
        return self.says


@implementer(IStreamClientEndpoint)
class Memory:
    """Connects to a `StringTransport`."""

    def __init__(self) -> None:
        self.transport = StringTransport(hostAddress=OWN, peerAddress=PEER)
        self.protocol: Any = None

    def connect(self, protocolFactory: Any) -> Deferred[IProtocol]:
        self.protocol = protocolFactory.buildProtocol(PEER)
        if self.protocol is None:
            return Deferred()
        self.protocol.makeConnection(self.transport)
        return succeed(self.protocol)


def sent_by(factory: Any, version: ProxyVersion) -> bytes:
    memory = Memory()
    SendProxyEndpoint(memory, version=version).connect(factory)
    return memory.transport.value()


@pytest.mark.parametrize(("version", "encode"), [(ProxyVersion.V1, encode_v1), (ProxyVersion.V2, encode_v2)])
def test_header_is_the_first_thing_sent_and_carries_the_connections_own_addresses(
    version: ProxyVersion, encode: Any
) -> None:
    header = encode(Inet("127.0.0.1", 40000), Inet("127.0.0.1", 8443))
    assert sent_by(Factory.forProtocol(Receiver), version) == header + b"hello"


def test_header_carries_what_its_source_says() -> None:
    tlvs = ((AUTHORITY, b"example.org"),)
    assert (
        sent_by(Sourced(CLIENT, SERVER, tlvs), ProxyVersion.V2) == encode_v2(CLIENT, SERVER, tlvs) + b"hello"
    )
    assert sent_by(Sourced(CLIENT, SERVER, tlvs), ProxyVersion.V1) == encode_v1(CLIENT, SERVER) + b"hello"
    assert sent_by(Sourced(None, None), ProxyVersion.V1) == b"PROXY UNKNOWN\r\nhello"
    assert sent_by(Sourced(Unix(b"/a"), Unix(b"/b")), ProxyVersion.V2)[13] == 0x31


def test_default_version_is_2() -> None:
    memory = Memory()
    SendProxyEndpoint(memory).connect(Sourced(CLIENT, SERVER))
    assert memory.transport.value() == encode_v2(CLIENT, SERVER) + b"hello"


def test_connecting_gives_the_factorys_own_protocol_on_the_real_transport() -> None:
    memory, got = Memory(), []
    SendProxyEndpoint(memory).connect(Factory.forProtocol(Receiver)).addCallback(got.append)
    (receiver,) = got
    assert isinstance(receiver, Receiver)
    assert receiver.transport is memory.transport
    memory.protocol.dataReceived(b"answer")
    memory.protocol.connectionLost(Failure(Exception()))
    assert (receiver.octets, receiver.lost) == (b"answer", True)


def test_sender_half_closes_exactly_if_its_protocol_does() -> None:
    for kind in (Receiver, HalfCloser):
        memory = Memory()
        SendProxyEndpoint(memory).connect(Factory.forProtocol(kind))
        assert IHalfCloseableProtocol.providedBy(memory.protocol) is (kind is HalfCloser)
    memory.protocol.readConnectionLost()
    assert memory.protocol.inner.ended


def test_factory_that_builds_nothing_sends_nothing() -> None:
    class Nobody(Factory):
        def buildProtocol(self, addr: IAddress) -> None:
            return None

    memory = Memory()
    SendProxyEndpoint(memory).connect(Nobody())
    assert memory.protocol is None
    assert memory.transport.value() == b""


# Real sockets


class Reporter(Protocol):
    """Says whom it is connected to, then echoes."""

    def connectionMade(self) -> None:
        peer, host = self.transport.getPeer(), self.transport.getHost()
        self.transport.write(f"{peer}|{host}|".encode())

    def dataReceived(self, data: bytes) -> None:
        self.transport.write(data)
        if data.endswith(b"."):
            self.transport.loseConnection()


class Conversation(Protocol):
    """Sends its pieces, one per turn of the reactor, and collects the answer until the end."""

    def __init__(self, clock: IReactorTime, *pieces: bytes) -> None:
        self.clock = clock
        self.pieces = list(pieces)
        self.answer = b""
        self.ended: Deferred[bytes] = Deferred()

    def connectionMade(self) -> None:
        self.transport.setTcpNoDelay(True)
        self.next()

    def next(self) -> None:
        if self.pieces and not self.ended.called:
            self.transport.write(self.pieces.pop(0))
            self.clock.callLater(0, self.next)

    def dataReceived(self, data: bytes) -> None:
        self.answer += data

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self.ended.callback(self.answer)


@pytest.fixture
def reactor() -> Any:
    from twisted.internet import reactor

    return reactor


async def converse(reactor: Any, options: str, *pieces: bytes) -> bytes:
    """What a server behind `acceptproxy:` answers to these pieces."""
    server = serverFromString(reactor, f"acceptproxy:tcp:0:interface=127.0.0.1{options}")
    port = await server.listen(Factory.forProtocol(Reporter))
    try:
        client = clientFromString(reactor, f"tcp:127.0.0.1:{port.getHost().port}")
        conversation = Conversation(reactor, *pieces)
        await connectProtocol(client, conversation)
        return await conversation.ended
    finally:
        await port.stopListening()


@pytest.mark.parametrize("header", [encode_v1(CLIENT, SERVER), encode_v2(CLIENT, SERVER)], ids=["v1", "v2"])
@pytest_twisted.ensureDeferred
async def test_server_behind_acceptproxy_sees_the_client_of_the_header(reactor: Any, header: bytes) -> None:
    named = f"{IPv4Address('TCP', *CLIENT)}|{IPv4Address('TCP', *SERVER)}|".encode()
    assert await converse(reactor, "", header + b"bye.") == named + b"bye."
    split = [(header + b"bye.")[at : at + 5] for at in range(0, len(header) + 4, 5)]
    assert await converse(reactor, "", *split) == named + b"bye."


@pytest_twisted.ensureDeferred
async def test_server_behind_acceptproxy_never_sees_who_is_refused(reactor: Any) -> None:
    assert await converse(reactor, "", b"GET / HTTP/1.1\r\n\r\n.") == b""
    assert await converse(reactor, ":from=192.0.2.0/24", encode_v2(CLIENT, SERVER) + b"bye.") == b""
    assert (
        await converse(reactor, ":from=192.0.2.0/24:required=no", encode_v2(CLIENT, SERVER) + b"bye.") == b""
    )
    assert await converse(reactor, ":timeout=0.05", b"PROXY TCP4 ") == b""


@pytest_twisted.ensureDeferred
async def test_server_whose_header_is_optional_serves_strangers_as_they_are(reactor: Any) -> None:
    answer = await converse(reactor, ":from=192.0.2.0/24:required=no", b"bye.")
    assert answer.startswith(b"IPv4Address(type='TCP', host='127.0.0.1'")
    assert answer.endswith(b"|bye.")


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest_twisted.ensureDeferred
async def test_sendproxy_and_acceptproxy_understand_each_other(reactor: Any, version: str) -> None:
    class Talking(Sourced):
        def buildProtocol(self, addr: IAddress) -> Conversation:
            return Conversation(reactor, b"bye.")

    server = serverFromString(reactor, "acceptproxy:tcp:0:interface=127.0.0.1")
    port = await server.listen(Factory.forProtocol(Reporter))
    try:
        client = clientFromString(reactor, f"sendproxy:tcp:127.0.0.1:{port.getHost().port}:version={version}")
        conversation: Any = await client.connect(Talking(CLIENT, SERVER))
        named = f"{IPv4Address('TCP', *CLIENT)}|{IPv4Address('TCP', *SERVER)}|".encode()
        assert await conversation.ended == named + b"bye."
    finally:
        await port.stopListening()


@pytest_twisted.ensureDeferred
async def test_half_close_goes_through_both_endpoints(reactor: Any) -> None:
    """The client ends its half first; the server answers what it has got by then."""

    class Answering(HalfCloser):
        def connectionMade(self) -> None: ...

        def readConnectionLost(self) -> None:
            self.transport.write(b"got " + self.octets)
            self.transport.loseConnection()

    @implementer(IHalfCloseableProtocol)
    class Asking(Conversation):
        def connectionMade(self) -> None:
            self.transport.write(b"question")
            self.transport.loseWriteConnection()

        def readConnectionLost(self) -> None:
            self.transport.loseConnection()

        def writeConnectionLost(self) -> None: ...

    server = serverFromString(reactor, "acceptproxy:tcp:0:interface=127.0.0.1")
    port = await server.listen(Factory.forProtocol(Answering))
    try:
        asking = Asking(reactor)
        client = clientFromString(reactor, f"sendproxy:tcp:127.0.0.1:{port.getHost().port}")
        await connectProtocol(client, asking)
        assert await asking.ended == b"got question"
    finally:
        await port.stopListening()


@pytest_twisted.ensureDeferred
async def test_both_work_over_unix_sockets(reactor: Any, tmp_path: Path) -> None:
    class Talking(Sourced):
        def buildProtocol(self, addr: IAddress) -> Conversation:
            conversation = Conversation(reactor, b"bye.")
            conversation.connectionMade = conversation.next  # type: ignore[method-assign]
            return conversation

    path = tmp_path / "socket"
    port = await serverFromString(reactor, f"acceptproxy:unix:{path}").listen(Factory.forProtocol(Reporter))
    try:
        client = clientFromString(reactor, f"sendproxy:unix:{path}")
        conversation: Any = await client.connect(Talking(CLIENT, SERVER))
        assert (await conversation.ended).endswith(b"|bye.")
        assert conversation.answer.startswith(str(IPv4Address("TCP", *CLIENT)).encode())
    finally:
        await port.stopListening()


def test_classes_work_without_strings() -> None:
    clock, reactor = Clock(), MemoryReactorClock()
    inner = serverFromString(reactor, "tcp:8443")
    endpoint = AcceptProxyEndpoint(
        clock, inner, trusted=NetworkSet(["192.0.2.0/24"]), required=True, timeout_seconds=1.5
    )
    endpoint.listen(Factory.forProtocol(Protocol))
    transport = accept(reactor.tcpServers[0][1], "192.0.2.1")
    clock.advance(1.5)
    assert transport.disconnected


def test_what_is_sent_is_what_a_reader_reads() -> None:
    header = ProxyHeaderReader().feed(sent_by(Sourced(CLIENT, SERVER), ProxyVersion.V2))
    assert header is not None
    assert (header.source, header.destination) == (CLIENT, SERVER)
