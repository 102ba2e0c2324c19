"""TLS from clients that are asked for a certificate, in memory; e2e has it with sockets."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.task import Clock

from rproxy.deadlines import Deadlines
from rproxy.downstream.peek import LINGER, LINGER_BYTES
from rproxy.downstream.terminate import HTTP1, Terminate
from rproxy.interfaces import Arrival
from rproxy.policy.identity import ClientPolicy
from rproxy.services.certificates import Site
from rproxy.services.clientca import ClientFiles
from rproxy.tls import HANDSHAKE
from rproxy.wire.address import inet
from rproxy.wire.clienthello import ClientHello
from tests.clientcerts import authority, signed
from tests.fakes import LogLines
from tests.tlspeers import Inners, Made, MemoryClient, Pipe, converse, make, trusting_nobody, whole

ROOT, OTHER = authority("Root", 1), authority("Other", 2)
BOB, EVE, SERVER = signed("bob@admin", ROOT), signed("eve@admin", OTHER), make("example.org")


@dataclass
class Port:
    """A port whose app wants client certificates; `required` or not."""

    folder: Path
    clock: Clock
    inners: Inners
    route: Terminate
    log: LogLines
    pipe: Pipe

    def connect(self) -> Any:
        hello = ClientHello("example.org", (b"http/1.1",), (0x0304,))
        address = inet("192.0.2.7", 4711)
        server: Any = self.route.buildProtocol(Arrival("tls", address, address, hello=hello))
        server.makeConnection(self.pipe)
        return server

    def client(self, who: Made | None) -> MemoryClient:
        context = trusting_nobody("http/1.1")
        if who is not None:
            context.load_cert_chain(*who.write(self.folder, "client"))
        return MemoryClient("example.org", context=context)

    @property
    def lines(self) -> list[str]:
        return self.log.texts("rproxy")


@pytest.fixture(params=[True, False], ids=["required", "optional"])
def required(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def port(tmp_path: Path, required: bool) -> Iterator[Port]:
    clock, inners = Clock(), Inners()
    (tmp_path / "ca.crt").write_bytes(ROOT.pem)
    files = ClientFiles(tmp_path / "ca.crt", required=required)
    site = Site("app", (SERVER.pair(tmp_path, "server"),), files.load())
    policy = ClientPolicy("app", files, required)
    route = Terminate(site, inners, (HTTP1,), Deadlines(clock), clients=policy)
    with LogLines() as log:
        yield Port(tmp_path, clock, inners, route, log, Pipe())
    assert not [event for event in log.events if "log_failure" in event], "there was a traceback"


def test_what_is_inside_begins_with_the_verified_client(port: Port) -> None:
    server, client = port.connect(), port.client(BOB)
    (inner,) = port.inners.built
    first = client.out()
    server.dataReceived(first)
    assert inner.transport is None
    client.take(port.pipe.value())
    port.pipe.clear()
    converse(client, server, port.pipe, whole)
    assert inner.transport is server
    assert inner.arrival.shown.identity.subject == "CN=bob@admin"
    assert inner.arrival.shown.asked_by is port.route.clients
    assert (inner.arrival.alpn, inner.arrival.server_name) == (b"http/1.1", "example.org")
    server.dataReceived(client.send(b"hello"))
    assert inner.octets == b"hello"


def test_a_request_in_the_clients_last_flight_is_not_lost(port: Port) -> None:
    server, client = port.connect(), port.client(BOB)
    server.dataReceived(client.out())
    client.take(port.pipe.value())
    flight = client.out()
    assert client.done
    server.dataReceived(flight + client.send(b"hello"))
    assert port.inners.built[0].octets == b"hello"


def test_each_connection_has_an_identity_of_its_own(port: Port) -> None:
    ann = signed("ann@ops", ROOT)
    for who in (BOB, ann):
        port.pipe = Pipe()
        converse(port.client(who), port.connect(), port.pipe, whole)
    subjects = [inner.arrival.shown.identity.subject for inner in port.inners.built]
    assert subjects == ["CN=bob@admin", "CN=ann@ops"]


def test_without_a_certificate_it_begins_only_where_that_is_optional(port: Port, required: bool) -> None:
    server, client = port.connect(), port.client(None)
    if not required:
        converse(client, server, port.pipe, whole)
        (inner,) = port.inners.built
        assert inner.transport is server
        assert inner.arrival.shown.identity is None
        return
    with pytest.raises(ssl.SSLError, match="CERTIFICATE_REQUIRED"):
        converse(client, server, port.pipe, whole)
    (inner,) = port.inners.built
    assert (inner.transport, inner.octets, inner.lost) == (None, b"", None)
    (line,) = port.lines
    assert "with app failed: peer did not return a certificate (name example.org, listener tls)" in line


def refused(port: Port) -> Any:
    """A connection whose client has shown a certificate of somebody else's authority."""
    server, client = port.connect(), port.client(EVE)
    with pytest.raises(ssl.SSLError, match="UNKNOWN_CA"):
        converse(client, server, port.pipe, whole)
    return server


def test_a_bad_certificate_never_begins_it_and_is_told_once(port: Port) -> None:
    server = refused(port)
    port.clock.advance(60)
    server.connectionLost(None)
    (inner,) = port.inners.built
    assert (inner.transport, inner.octets, inner.lost) == (None, b"", None)
    (line,) = port.lines
    assert line.startswith(
        "TLS handshake of 192.0.2.7:4711 with app failed: certificate verify failed: unable to get local"
        " issuer certificate: CN=eve@admin, issued by CN=Other (name"
    )


def test_who_is_refused_is_listened_to_until_it_has_the_alert(port: Port) -> None:
    """What it sends on is dropped; closing on unread bytes would be a reset."""
    server = refused(port)
    assert port.pipe.disconnecting
    assert not port.pipe.aborted
    server.dataReceived(b"x" * 1000)
    port.clock.advance(LINGER * 0.9)
    assert not port.pipe.aborted
    port.clock.advance(LINGER)
    assert port.pipe.aborted
    server.connectionLost(None)
    port.clock.advance(60)
    assert port.clock.getDelayedCalls() == []


def test_who_sends_on_and_on_is_cut_off(port: Port) -> None:
    server = refused(port)
    for _ in range(LINGER_BYTES >> 16):
        server.dataReceived(b"x" * (1 << 16))
    assert not port.pipe.aborted
    server.dataReceived(b"x")
    assert port.pipe.aborted


@pytest.mark.parametrize("moment", ["before the hello", "before the certificate"])
def test_who_leaves_or_takes_too_long_leaves_nothing_behind(port: Port, moment: str) -> None:
    for leave in (True, False):
        port.pipe = Pipe()
        server, client = port.connect(), port.client(BOB)
        if moment == "before the certificate":
            server.dataReceived(client.out())
        if not leave:
            port.clock.advance(HANDSHAKE + 1)
            assert port.pipe.aborted
        server.connectionLost(None)
        port.clock.advance(60)
        assert port.clock.getDelayedCalls() == []
    assert [inner.transport for inner in port.inners.built] == [None, None]
    assert len(port.lines) == 2


def test_a_proxy_that_stops_does_not_wait_for_a_handshake(port: Port) -> None:
    server = port.connect()
    server.wrappedProtocol.drain()
    assert port.pipe.aborted


def test_a_route_that_takes_no_more_is_asked_before_the_handshake(port: Port) -> None:
    port.inners.build = lambda arrival: None
    hello = ClientHello("example.org", (b"http/1.1",), (0x0304,))
    address = inet("192.0.2.7", 4711)
    assert port.route.buildProtocol(Arrival("tls", address, address, hello=hello)) is None
