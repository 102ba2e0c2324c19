"""TLS from clients, in memory: a fake transport and a fake clock. Over sockets: tests/e2e/test_tls.py."""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IProtocolFactory
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from rproxy.deadlines import Deadlines
from rproxy.downstream.admission import Admission
from rproxy.downstream.peek import PeekFactory
from rproxy.downstream.terminate import HTTP1, Terminate, choose
from rproxy.errors import NoCommonProtocol
from rproxy.interfaces import Arrival, Lease
from rproxy.native.tlsbytes import MOST
from rproxy.openssl import RECORD
from rproxy.services.certificates import Site
from rproxy.tls import GOODBYE, HANDSHAKE
from rproxy.wire.address import Address
from rproxy.wire.clienthello import ClientHello
from tests.fakes import Journal, LogLines
from tests.tlspeers import Inners, Made, MemoryClient, Pipe, converse, make, trusting_nobody, whole

CLIENT = IPv4Address("TCP", "192.0.2.7", 4711)
GOOD, OTHER = make("example.org"), make("other.example", number=1)
Cut = Callable[[bytes], Iterable[bytes]]


class NoLimits(Admission):
    def admit(self, lease: Lease) -> None:
        pass

    def admit_client(self, client: Address, lease: Lease) -> None:
        pass


@dataclass
class Port:
    """A TLS port with two apps on it, and what it leaves behind."""

    clock: Clock
    factory: PeekFactory
    inners: Inners
    journal: Journal
    log: LogLines
    sites: dict[str, Site]

    def connect(self) -> tuple[Any, Pipe]:
        server, pipe = self.factory.buildProtocol(CLIENT), Pipe()
        assert server is not None
        server.makeConnection(pipe)
        return server, pipe

    def shake(self, client: MemoryClient, cut: Cut = whole) -> tuple[Any, Pipe]:
        """A connection with its handshake done."""
        server, pipe = self.connect()
        converse(client, server, pipe, cut)
        assert client.done
        return server, pipe

    @property
    def lines(self) -> list[str]:
        return self.log.texts("rproxy")

    @property
    def timers(self) -> int:
        self.clock.advance(60)
        return len(self.clock.getDelayedCalls())


def port_with(tmp_path: Path, offered: tuple[bytes, ...], **options: Any) -> Iterator[Port]:
    clock, inners, journal = Clock(), Inners(), Journal()
    deadlines = Deadlines(clock)
    sites = {
        "example.org": Site("good", (GOOD.pair(tmp_path, "a"),)),
        "other.example": Site("other", (OTHER.pair(tmp_path, "b"),)),
    }
    routes = {name: Terminate(site, inners, offered, deadlines, **options) for name, site in sites.items()}

    def route(arrival: Arrival) -> IProtocolFactory:
        return routes[arrival.server_name or ""]

    register: Any = set()
    factory = PeekFactory(clock, "tls", route, NoLimits(), register, journal, deadlines)
    with LogLines() as log:
        yield Port(clock, factory, inners, journal, log, sites)
    assert not [event for event in log.events if "log_failure" in event], "there was a traceback"


@pytest.fixture
def port(tmp_path: Path) -> Iterator[Port]:
    yield from port_with(tmp_path, (HTTP1,))


@pytest.fixture
def both(tmp_path: Path) -> Iterator[Port]:
    """A port that offers HTTP/2 too."""
    yield from port_with(tmp_path, (b"h2", HTTP1))


def certificate_of(client: MemoryClient) -> x509.Certificate:
    octets = client.tls.getpeercert(binary_form=True)
    assert octets is not None
    return x509.load_der_x509_certificate(octets)


# Which context


def test_the_inner_protocol_sees_the_arrival_and_the_plaintext(port: Port) -> None:
    client = MemoryClient("example.org", "http/1.1")
    server, pipe = port.shake(client)
    server.dataReceived(client.send(b"hello"))
    client.take(pipe.value())
    (inner,) = port.inners.built
    assert inner.octets == b"hello"
    assert client.got == b"HELLO"
    assert inner.arrival.server_name == "example.org"
    assert inner.arrival.hello.alpn == (b"http/1.1",)


@pytest.mark.parametrize("name", ["example.org", "other.example", "EXAMPLE.org"])
def test_the_name_in_the_hello_decides_the_certificate(port: Port, name: str) -> None:
    client = MemoryClient(name)
    port.shake(client)
    expected = OTHER if name == "other.example" else GOOD
    assert certificate_of(client) == expected.certificate


@pytest.mark.parametrize(
    ("listed", "chosen"),
    [
        (["h2", "http/1.1"], "h2"),
        (["http/1.1", "h2"], "h2"),
        (["http/1.1"], "http/1.1"),
        (["spdy/3", "http/1.1"], "http/1.1"),
        ([], None),
    ],
)
def test_our_order_of_protocols_decides(both: Port, listed: list[str], chosen: str | None) -> None:
    client = MemoryClient("example.org", *listed)
    both.shake(client)
    assert client.tls.selected_alpn_protocol() == chosen
    (inner,) = both.inners.built
    assert inner.transport.negotiatedProtocol == (chosen.encode() if chosen else None)


def test_no_common_protocol_is_alert_120_before_any_handshake(port: Port) -> None:
    client = MemoryClient("example.org", "h2", "spdy/3")
    server, pipe = port.connect()
    server.dataReceived(client.out())
    assert pipe.value() == b"\x15\x03\x03\x00\x02\x02\x78"
    assert port.journal.end.reason == "no_common_alpn"
    assert port.inners.built == []


def test_choose_prefers_ours_and_falls_back_to_http1() -> None:
    def hello(*alpn: bytes) -> ClientHello:
        return ClientHello("example.org", alpn, (0x0304,))

    assert choose(hello(b"http/1.1", b"h2"), (b"h2", HTTP1)) == b"h2"
    assert choose(hello(), (b"h2", HTTP1)) == HTTP1
    with pytest.raises(NoCommonProtocol):
        choose(hello(b"h2"), (HTTP1,))


def test_one_context_serves_all_connections_of_a_choice(port: Port) -> None:
    port.shake(MemoryClient("example.org", "http/1.1"))
    port.shake(MemoryClient("example.org"))
    first, second = port.inners.built
    contexts = {id(inner.transport._tlsConnection.get_context()) for inner in (first, second)}
    assert len(contexts) == 1


def test_served_alone_openssl_picks_the_protocol(both: Port) -> None:
    """On an endpoint of its own there is no hello yet."""
    route = Terminate(both.sites["example.org"], both.inners, (b"h2", HTTP1), both.factory.deadlines)
    for listed, chosen in (("h2", "h2"), ("http/1.1", "http/1.1")):
        client, server, pipe = MemoryClient("whoever", listed), route.buildProtocol(CLIENT), Pipe()
        assert server is not None
        server.makeConnection(pipe)
        converse(client, server, pipe, whole)
        assert client.tls.selected_alpn_protocol() == chosen


def test_served_alone_without_a_common_protocol_openssl_refuses(port: Port) -> None:
    route = Terminate(port.sites["example.org"], port.inners, (HTTP1,), port.factory.deadlines)
    client, server, pipe = MemoryClient("whoever", "h2"), route.buildProtocol(CLIENT), Pipe()
    assert server is not None
    server.makeConnection(pipe)
    with pytest.raises(ssl.SSLError, match="no application protocol"):
        converse(client, server, pipe, whole)


def test_an_inner_factory_that_takes_no_more_refuses(port: Port) -> None:
    port.inners.build = lambda arrival: None
    server, pipe = port.connect()
    server.dataReceived(MemoryClient("example.org").out())
    assert port.journal.end.reason == "too_many"
    assert pipe.disconnecting


# Fragmented hellos (class 21)


def in_records_of(size: int) -> Cut:
    """The same handshake message in records of at most this many bytes."""

    def cut(octets: bytes) -> Iterable[bytes]:
        if octets[:1] != b"\x16" or octets[5] != 1:
            return [octets]
        length = int.from_bytes(octets[3:5])
        body, rest = octets[5 : 5 + length], octets[5 + length :]
        pieces = [body[at : at + size] for at in range(0, len(body), size)]
        return [b"".join(b"\x16\x03\x01" + len(p).to_bytes(2) + p for p in pieces) + rest]

    return cut


def bytewise(octets: bytes) -> Iterable[bytes]:
    return [octets[at : at + 1] for at in range(len(octets))]


@pytest.mark.parametrize("size", [1, 2, 5, 40, 100, 300])
@pytest.mark.parametrize("name", ["example.org", "other.example"])
def test_a_hello_in_many_records_gets_the_certificate_of_its_name(port: Port, name: str, size: int) -> None:
    client = MemoryClient(name, "http/1.1")
    port.shake(client, in_records_of(size))
    assert certificate_of(client) == (OTHER if name == "other.example" else GOOD).certificate
    assert client.tls.selected_alpn_protocol() == "http/1.1"


def test_a_hello_cut_anywhere_gets_the_certificate_of_its_name(port: Port) -> None:
    size = len(MemoryClient("other.example", "http/1.1").out())
    for at in range(1, size, 3):
        client = MemoryClient("other.example", "http/1.1")
        port.shake(client, lambda octets, at=at: [o for o in (octets[:at], octets[at:]) if o])
        assert certificate_of(client) == OTHER.certificate


def test_a_handshake_byte_by_byte(port: Port) -> None:
    client = MemoryClient("other.example", "http/1.1")
    server, pipe = port.shake(client, bytewise)
    for octet in bytewise(client.send(b"hello")):
        server.dataReceived(octet)
    client.take(pipe.value())
    assert client.got == b"HELLO"
    assert certificate_of(client) == OTHER.certificate


# Failures


def test_a_handshake_that_takes_too_long_is_cut_off(port: Port) -> None:
    server, pipe = port.connect()
    server.dataReceived(MemoryClient("example.org").out())
    port.clock.advance(HANDSHAKE - 1)
    assert not pipe.aborted
    port.clock.pump([0.25] * 8)
    assert pipe.aborted
    server.connectionLost(Failure(ConnectionDone()))
    (line,) = port.lines
    assert line == (
        "TLS handshake of 192.0.2.7:4711 with good failed: it took more than 10 s"
        " (name example.org, listener tls)"
    )
    assert port.inners.built[0].lost is not None
    assert port.timers == 0


def test_a_finished_handshake_has_no_deadline(port: Port) -> None:
    _, pipe = port.shake(MemoryClient("example.org"))
    port.clock.pump([1.0] * 60)
    assert not pipe.aborted
    assert port.timers == 0


def test_nonsense_after_the_hello_is_told_in_one_line(port: Port) -> None:
    server, pipe = port.connect()
    server.dataReceived(MemoryClient("example.org").out())
    pipe.clear()
    server.dataReceived(b"\x17\x03\x03\x00\x05hello" * 3)
    server.connectionLost(Failure(ConnectionDone()))
    assert pipe.disconnecting
    assert pipe.value()[:1] in (b"\x15", b"\x17"), "an alert, encrypted or not"
    (line,) = port.lines
    assert re.fullmatch(r"TLS handshake of .* with good failed: [a-z ]+ \(name example.org, .*\)", line)
    assert port.timers == 0


def test_a_client_that_leaves_during_the_handshake_is_told_in_one_line(port: Port) -> None:
    server, _ = port.connect()
    server.dataReceived(MemoryClient("example.org").out())
    server.connectionLost(Failure(ConnectionDone()))
    (line,) = port.lines
    assert "failed: the other side left (name" in line
    assert port.inners.built[0].lost is not None
    assert port.timers == 0


def test_a_client_that_refuses_our_certificate_is_told_in_its_words(port: Port) -> None:
    client = MemoryClient("example.org", context=ssl.create_default_context())
    server, pipe = port.connect()
    with pytest.raises(ssl.SSLCertVerificationError):
        converse(client, server, pipe, whole)
    server.dataReceived(client._out.read())
    (line,) = port.lines
    assert "unknown ca" in line


def old_client(version: ssl.TLSVersion, ciphers: str = "ALL:@SECLEVEL=0") -> ssl.SSLContext:
    context = trusting_nobody()
    context.set_ciphers(ciphers)
    context.minimum_version = context.maximum_version = version
    return context


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_old_versions_are_refused(port: Port, version: ssl.TLSVersion) -> None:
    server, pipe = port.connect()
    with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
        converse(MemoryClient("example.org", context=old_client(version)), server, pipe, whole)
    (line,) = port.lines
    assert "unsupported protocol" in line


@pytest.mark.parametrize("ciphers", ["AES128-SHA", "ECDHE-ECDSA-AES128-SHA256", "AES128-GCM-SHA256"])
def test_ciphers_that_are_not_intermediate_are_refused(port: Port, ciphers: str) -> None:
    context = old_client(ssl.TLSVersion.TLSv1_2, ciphers)
    server, pipe = port.connect()
    with pytest.raises(ssl.SSLError, match="HANDSHAKE_FAILURE"):
        converse(MemoryClient("example.org", context=context), server, pipe, whole)


@pytest.mark.parametrize("cipher", ["ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-ECDSA-CHACHA20-POLY1305"])
def test_the_clients_order_of_ciphers_counts(port: Port, cipher: str) -> None:
    context = old_client(ssl.TLSVersion.TLSv1_2, f"{cipher}:ECDHE-ECDSA-AES128-GCM-SHA256")
    client = MemoryClient("example.org", context=context)
    port.shake(client)
    used = client.tls.cipher()
    assert used is not None
    assert used[0] == cipher


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_the_transport_knows_its_version(port: Port, version: ssl.TLSVersion) -> None:
    context = trusting_nobody()
    context.minimum_version = context.maximum_version = version
    port.shake(MemoryClient("example.org", context=context))
    assert port.inners.built[0].transport.version == version.name.replace("_", ".")


def test_the_version_is_not_known_before_the_handshake(port: Port) -> None:
    server, _ = port.connect()
    server.dataReceived(MemoryClient("example.org").out())
    assert port.inners.built[0].transport.version == ""


# Closing


def test_what_was_written_and_the_close_alert_arrive(port: Port) -> None:
    client = MemoryClient("example.org")
    server, pipe = port.shake(client)
    (inner,) = port.inners.built
    inner.transport.write(b"x" * 100_000)
    inner.transport.loseConnection()
    client.take(pipe.value())
    assert client.got == b"x" * 100_000
    assert client.closed
    assert not pipe.disconnecting
    server.dataReceived(client.goodbye())
    assert pipe.disconnecting
    server.connectionLost(Failure(ConnectionDone()))
    assert inner.lost.type is ConnectionDone
    assert port.timers == 0
    assert port.lines == []


def test_a_registered_producer_does_not_hold_the_close_up(port: Port) -> None:
    client = MemoryClient("example.org")
    _, pipe = port.shake(client)
    transport = port.inners.built[0].transport
    transport.registerProducer(Counting(), True)
    transport.write(b"bye")
    transport.loseConnection()
    client.take(pipe.value())
    assert client.got == b"bye"
    assert client.closed
    assert pipe.producer is None


def test_an_end_before_the_handshake_is_one(port: Port) -> None:
    server, pipe = port.connect()
    server.dataReceived(MemoryClient("example.org").out())
    port.inners.built[0].transport.loseConnection()
    assert pipe.aborted


def test_what_was_written_before_the_handshake_is_sent_after_it(port: Port) -> None:
    port.inners.build = Greeting
    client = MemoryClient("example.org")
    port.shake(client)
    assert client.got == b"welcome"
    assert client.closed


class Greeting(Protocol):
    def __init__(self, arrival: Any) -> None:
        pass

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(b"welcome")
        self.transport.loseConnection()


def test_a_client_that_does_not_answer_our_close_is_cut_off(port: Port) -> None:
    _, pipe = port.shake(MemoryClient("example.org"))
    transport = port.inners.built[0].transport
    transport.pauseProducing()
    transport.loseConnection()
    assert pipe.producerState == "producing", "or its answer would never be read"
    port.clock.pump([0.25] * 16)
    assert not pipe.aborted
    port.clock.pump([0.25] * 8)
    assert pipe.aborted


def test_a_client_that_still_takes_what_was_written_is_not_cut_off(port: Port) -> None:
    _, pipe = port.shake(MemoryClient("example.org"))
    pipe.dataBuffer = b"x" * 1000  # type: ignore[attr-defined]
    port.inners.built[0].transport.loseConnection()
    for left in (900, 800, 700):
        port.clock.pump([0.25] * int(GOODBYE / 0.25 + 1))
        assert not pipe.aborted
        pipe.dataBuffer = b"x" * left  # type: ignore[attr-defined]
    port.clock.pump([0.25] * int(3 * GOODBYE / 0.25))
    assert pipe.aborted


def test_the_clients_close_alert_closes(port: Port) -> None:
    client = MemoryClient("example.org")
    server, pipe = port.shake(client)
    server.dataReceived(client.send(b"last") + client.goodbye())
    assert port.inners.built[0].octets == b"last"
    assert pipe.disconnecting


def test_an_end_without_a_close_alert_is_a_loss(port: Port) -> None:
    client = MemoryClient("example.org")
    server, _ = port.shake(client)
    server.connectionLost(Failure(ConnectionDone()))
    (inner,) = port.inners.built
    assert inner.lost.type is ConnectionLost
    assert port.lines == []


def test_our_half_can_be_closed_alone(port: Port) -> None:
    client = MemoryClient("example.org")
    server, pipe = port.shake(client)
    (inner,) = port.inners.built
    inner.transport.loseWriteConnection()
    client.take(pipe.value())
    assert client.closed
    server.dataReceived(client.send(b"go on"))  # the inner protocol answers in vain
    assert inner.octets == b"go on"
    assert not pipe.disconnecting
    server.dataReceived(client.goodbye())
    assert pipe.disconnecting


def test_our_half_can_be_closed_before_the_handshake(port: Port) -> None:
    port.inners.build = HalfClosing
    client = MemoryClient("example.org")
    server, pipe = port.shake(client)
    assert client.got == b"welcome"
    assert client.closed
    server.dataReceived(client.send(b"go on"))
    assert not pipe.disconnecting


class HalfClosing(Greeting):
    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(b"welcome")
        self.transport.loseWriteConnection()  # type: ignore[attr-defined]


# Writing and back-pressure


class Counting:
    """A producer that only counts."""

    paused = resumed = stopped = 0

    def pauseProducing(self) -> None:
        self.paused += 1

    def resumeProducing(self) -> None:
        self.resumed += 1

    def stopProducing(self) -> None:
        self.stopped += 1


def test_the_transports_back_pressure_reaches_the_inner_producer(port: Port) -> None:
    _, pipe = port.shake(MemoryClient("example.org"))
    producer = Counting()
    port.inners.built[0].transport.registerProducer(producer, True)
    below: Any = pipe.producer
    below.pauseProducing()
    below.resumeProducing()
    assert (producer.paused, producer.resumed) == (1, 1)


def test_pausing_the_inner_protocol_pauses_the_socket(port: Port) -> None:
    _, pipe = port.shake(MemoryClient("example.org"))
    transport = port.inners.built[0].transport
    transport.pauseProducing()
    assert pipe.producerState == "paused"
    transport.resumeProducing()
    assert pipe.producerState == "producing"


@pytest.mark.parametrize("size", [1, RECORD - 1, RECORD, RECORD + 1, 2 * RECORD, 2 * RECORD + 1, 1_000_000])
def test_writes_of_any_size_arrive_whole(port: Port, size: int) -> None:
    client = MemoryClient("example.org")
    _, pipe = port.shake(client)
    octets = bytes(range(251)) * (size // 251 + 1)
    port.inners.built[0].transport.write(octets[:size])
    client.take(pipe.value())
    assert client.got == octets[:size]


def test_several_records_share_one_write(port: Port) -> None:
    _, pipe = port.shake(MemoryClient("example.org"))
    written: list[int] = []
    pipe.write = lambda octets: written.append(len(octets))  # type: ignore[method-assign,assignment]
    port.inners.built[0].transport.write(b"x" * 2 * MOST)
    assert len(written) == 2
    assert MOST >= 2 * RECORD


def test_an_empty_write_sends_nothing(port: Port) -> None:
    _, pipe = port.shake(MemoryClient("example.org"))
    pipe.clear()
    port.inners.built[0].transport.write(b"")
    assert pipe.value() == b""


def test_writes_after_the_end_are_dropped(port: Port) -> None:
    client = MemoryClient("example.org")
    _, pipe = port.shake(client)
    transport = port.inners.built[0].transport
    transport.loseConnection()
    transport.write(b"late")
    client.take(pipe.value())
    assert client.got == b""
    assert client.closed


# Tickets (class 22)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_ticket_is_good_for_its_site_only(port: Port, version: ssl.TLSVersion) -> None:
    context = trusting_nobody()
    context.minimum_version = context.maximum_version = version
    session = _session(port, context, "example.org")
    assert _resumes(port, context, "example.org", session)
    assert not _resumes(port, context, "other.example", session)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_ticket_is_not_good_for_a_renewed_site(port: Port, version: ssl.TLSVersion) -> None:
    context = trusting_nobody()
    context.minimum_version = context.maximum_version = version
    session = _session(port, context, "example.org")
    site = port.sites["example.org"]
    site.replace(site.pairs)
    assert not _resumes(port, context, "example.org", session)


def test_tickets_allow_no_early_data(port: Port) -> None:
    session = _session(port, trusting_nobody(), "example.org")
    assert "max_early_data" not in dir(session)
    assert session.has_ticket
    assert session.ticket_lifetime_hint <= 7200


def _session(port: Port, context: ssl.SSLContext, name: str) -> Any:
    client = MemoryClient(name, context=context)
    server, pipe = port.shake(client)
    server.dataReceived(client.send(b"x"))
    client.take(pipe.value())  # the tickets of TLS 1.3 come with the answer
    return client.tls.session


def _resumes(port: Port, context: ssl.SSLContext, name: str, session: Any) -> bool:
    client = MemoryClient(name, context=context)
    client.tls.session = session
    port.shake(client)
    reused = client.tls.session_reused
    assert reused is not None
    return reused


# Certificates


@pytest.mark.parametrize(
    ("kind", "cipher"), [("rsa", "ECDHE-RSA-AES128-GCM-SHA256"), ("ec", "ECDHE-ECDSA-AES128-GCM-SHA256")]
)
def test_rsa_and_ecdsa_are_served_each_with_its_own_chain(
    tmp_path: Path, port: Port, kind: str, cipher: str
) -> None:
    roots = {k: make(ca=True, key=k, number=n) for n, k in enumerate(("rsa", "ec"), 3)}
    leaves = {k: make("example.org", key=k, number=9, issuer=root) for k, root in roots.items()}
    port.sites["example.org"].replace(tuple(leaves[k].pair(tmp_path, k, roots[k]) for k in roots))
    client = MemoryClient("example.org", context=old_client(ssl.TLSVersion.TLSv1_2, cipher))
    server, pipe = port.connect()
    server.dataReceived(client.out())
    flight = pipe.value()  # certificates are not encrypted in TLS 1.2
    sent = [made for made in (*leaves.values(), *roots.values()) if _der(made) in flight]
    assert sent == [leaves[kind], roots[kind]]
    assert flight.find(_der(leaves[kind])) < flight.find(_der(roots[kind]))


def _der(made: Made) -> bytes:
    return made.certificate.public_bytes(serialization.Encoding.DER)
