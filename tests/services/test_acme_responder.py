"""The answer to an authority: there while an order waits for it, for that name, and for nobody else."""

from __future__ import annotations

from hashlib import sha256
from typing import Any, NamedTuple

import pytest
from cryptography import x509
from twisted.internet.interfaces import IProtocolFactory
from twisted.internet.task import Clock
from txacme.interfaces import IResponder  # type: ignore[import-untyped]
from zope.interface.verify import verifyObject

from rproxy.deadlines import Deadlines
from rproxy.interfaces import Arrival
from rproxy.services.acme_responder import PROOF, AlpnResponder
from rproxy.tls import GOODBYE, HANDSHAKE
from rproxy.wire.address import inet
from rproxy.wire.clienthello import ClientHello
from tests.fakes import LogLines
from tests.tlspeers import MemoryClient, Pipe, converse, trusting_nobody, whole

CLIENT = inet("192.0.2.1", 999)


class Response(NamedTuple):
    key_authorization: str


def arrival(name: str | None = "a.example", *alpn: bytes) -> Arrival:
    return Arrival("l", CLIENT, CLIENT, hello=ClientHello(name, alpn or (b"acme-tls/1",), (0x0304,)))


class World:
    def __init__(self) -> None:
        self.clock = Clock()
        self.responder = AlpnResponder(Deadlines(self.clock))

    def begin(self, name: str = "a.example", authorization: str = "token.print") -> None:
        self.responder.start_responding(name, None, Response(authorization))

    def end(self, name: str = "a.example", authorization: str = "token.print") -> None:
        self.responder.stop_responding(name, None, Response(authorization))

    def connect(self, where: Arrival) -> tuple[Any, Pipe]:
        route = self.responder.route(where)
        assert route is not None
        server, pipe = route.buildProtocol(where), Pipe()
        assert server is not None
        server.makeConnection(pipe)
        return server, pipe


@pytest.fixture
def world() -> World:
    return World()


def test_it_is_a_responder_of_txacme(world: World) -> None:
    assert verifyObject(IResponder, world.responder)
    assert world.responder.challenge_type == "tls-alpn-01"


def test_there_is_an_answer_only_while_an_order_waits_for_it(world: World) -> None:
    assert world.responder.route(arrival()) is None
    world.begin()
    assert world.responder.route(arrival()) is not None
    assert world.responder.route(arrival("b.example")) is None
    assert world.responder.route(arrival(None)) is None
    world.end()
    assert world.responder.route(arrival()) is None
    assert len(world.responder) == 0


@pytest.mark.parametrize(
    "alpn",
    [
        (b"h2", b"acme-tls/1"),
        (b"acme-tls/1", b"http/1.1"),
        (b"acme-tls/1", b"acme-tls/1"),
        (b"acme-tls/2",),
        (),
    ],
)
def test_who_offers_anything_else_is_a_user(world: World, alpn: tuple[bytes, ...]) -> None:
    world.begin()
    hello = ClientHello("a.example", alpn, (0x0304,))
    assert world.responder.route(Arrival("l", CLIENT, CLIENT, hello=hello)) is None
    assert world.responder.route(Arrival("l", CLIENT, CLIENT)) is None


def test_a_newer_challenge_takes_the_place_of_an_older_and_outlives_its_end(world: World) -> None:
    world.begin(authorization="old")
    world.begin(authorization="new")
    world.end(authorization="old")
    assert shown(world).endswith(sha256(b"new").digest())
    world.end(authorization="new")
    assert world.responder.route(arrival()) is None
    world.end(authorization="new")


def test_a_route_is_made_once_for_all_connections_of_a_challenge(world: World) -> None:
    """Authorities validate from several places."""
    world.begin()
    route: IProtocolFactory | None = world.responder.route(arrival())
    assert world.responder.route(arrival()) is route


def shown(world: World, **context: Any) -> bytes:
    """The proof in the certificate that an authority is shown."""
    return proof_in(handshake(world, **context)[0])


def handshake(world: World, version: Any = None) -> tuple[x509.Certificate, Any, Pipe]:
    server, pipe = world.connect(arrival())
    context = trusting_nobody("acme-tls/1")
    if version is not None:
        context.maximum_version = version
    client = MemoryClient("a.example", context=context)
    converse(client, server, pipe, whole)
    assert client.tls.selected_alpn_protocol() == "acme-tls/1"
    der = client.tls.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der), server, pipe


def proof_in(certificate: x509.Certificate) -> bytes:
    extension = certificate.extensions.get_extension_for_oid(PROOF)
    assert extension.critical
    found: Any = extension.value
    octets: bytes = found.value
    return octets


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_the_certificate_is_as_rfc_8737_wants_it(world: World, version: str) -> None:
    import ssl

    world.begin()
    certificate, _, _ = handshake(world, getattr(ssl.TLSVersion, version))
    assert proof_in(certificate) == b"\x04\x20" + sha256(b"token.print").digest()
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [x509.DNSName("a.example")]
    certificate.verify_directly_issued_by(certificate)


def test_after_the_handshake_the_connection_is_closed(world: World) -> None:
    world.begin()
    _, server, pipe = handshake(world)
    assert server.disconnecting
    assert not pipe.aborted
    world.clock.advance(GOODBYE + 1)
    assert pipe.aborted, "an authority that does not say goodbye is cut off"


def test_a_handshake_that_stalls_is_cut_off(world: World) -> None:
    world.begin()
    server, pipe = world.connect(arrival())
    server.dataReceived(MemoryClient("a.example", "acme-tls/1").out()[:50])
    with LogLines() as log:
        world.clock.advance(HANDSHAKE + 1)
    assert pipe.aborted
    (line,) = log.texts("rproxy")
    assert "with ACME challenge of a.example failed: it took more than 10 s" in line


def test_who_talks_inside_is_cut_off(world: World) -> None:
    world.begin()
    server, pipe = world.connect(arrival())
    client = MemoryClient("a.example", "acme-tls/1")
    converse(client, server, pipe, whole)
    server.dataReceived(client.send(b"GET / HTTP/1.1\r\n\r\n"))
    assert pipe.aborted
