"""TLS that begins in the middle of a conversation, on transports of the reactor."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import ISSLTransport
from twisted.internet.ssl import CertificateOptions, PrivateCertificate

from rproxy.descriptors import UnixServer
from rproxy.dialling import Client, UnixClient
from rproxy.interfaces import local_of
from rproxy.streams import Server
from rproxy.transports import Stream, close, is_plain
from rproxy.wire.address import Inet
from tests.e2e.peers import self_signed
from tests.hands import Hands, Made, Pair, hands

GO = b"in clear\r\n"


@pytest.fixture
def place() -> Iterator[Hands]:
    with hands() as made:
        yield made


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made = self_signed(tmp_path_factory.mktemp("own"), "a.test")
    return PrivateCertificate.loadPEM(Path(made.both).read_text())


@pytest.fixture
def secured(place: Hands, own: Any) -> Pair:
    """A conversation that both ends have begun TLS in, after some words in clear."""
    pair = Pair(place, Made(), Made())
    begin(pair, own)
    return pair


def begin(pair: Pair, own: Any, normal: bool = True) -> None:
    pair.calling.write(GO)
    pair.place.until(lambda: pair.server.octets == GO)
    pair.serving.startTLS(own.options(), normal)
    pair.calling.startTLS(own.options(own), normal)


def test_what_is_written_arrives_and_none_of_it_was_in_clear(secured: Pair) -> None:
    below = seen(secured.calling)
    secured.calling.writeSequence([b"question", b"?"])
    secured.serving.write(b"answer")
    secured.place.until(lambda: secured.server.octets == GO + b"question?")
    secured.place.until(lambda: secured.client.octets == b"answer")
    assert below
    assert not any(b"question" in data for data in below)


def seen(transport: Any) -> list[bytes]:
    """What is written below TLS from now on."""
    layer, octets = transport.protocol.transport, list[bytes]()
    write = layer.write
    layer.write = lambda data: (octets.append(data), write(data))
    return octets


def test_the_transport_stays_what_the_protocol_knows_and_says_that_it_is_secure(secured: Pair) -> None:
    for protocol, transport in ((secured.server, secured.serving), (secured.client, secured.calling)):
        assert protocol.transport is transport
        assert ISSLTransport.providedBy(transport)
        assert transport.TLS
        assert isinstance(transport, Stream)
        assert not is_plain(transport), "a relay would send past TLS"
    secured.place.until(lambda: secured.calling.getPeerCertificate())
    assert secured.calling.getPeerCertificate().get_subject().CN == "a.test"
    assert secured.calling.getHandle() is secured.calling.protocol.getHandle()
    assert secured.calling.getPeer() == secured.port.getHost()


def test_no_other_connection_is_changed(secured: Pair) -> None:
    other = Pair(secured.place, Made(), Made())
    for transport in (other.serving, other.calling):
        assert (type(transport) in (Server, Client), transport.TLS) == (True, False)
        assert not ISSLTransport.providedBy(transport)
        assert is_plain(transport)


@pytest.mark.parametrize("kind", [Server, Client, UnixServer, UnixClient])
def test_each_kind_becomes_its_secure_self(kind: Any) -> None:
    assert kind.secured.__mro__[2] is kind
    assert kind.calls is issubclass(kind, Client)


def test_closing_says_goodbye_on_both_sides(secured: Pair) -> None:
    secured.calling.write(b"last words")
    secured.calling.loseConnection()
    secured.place.until(lambda: secured.server.reason and secured.client.reason)
    assert (secured.server.reason, secured.client.reason) == (ConnectionDone, ConnectionDone)
    assert secured.server.octets == GO + b"last words"
    for transport in (secured.calling, secured.serving):
        transport.write(b"too late")
        transport.writeSequence([b"too late"])
        transport.loseConnection()
        transport.unregisterProducer()


def test_the_roles_can_be_the_other_way_round(place: Hands, own: Any) -> None:
    pair = Pair(place, Made(), Made())
    pair.calling.write(GO)
    place.until(lambda: pair.server.octets == GO)
    pair.serving.startTLS(CertificateOptions(trustRoot=own), False)  # with no key it could not be the server
    pair.calling.startTLS(own.options(), False)
    pair.serving.write(b"from TLS's client")
    place.until(lambda: pair.client.octets == b"from TLS's client")
    assert pair.serving.getPeerCertificate().get_subject().CN == "a.test"


def test_what_waits_in_clear_goes_out_first(place: Hands, own: Any) -> None:
    pair = Pair(place, Made(), Made())
    clear = b"x" * 8_000_000
    pair.calling.write(clear)
    assert pair.calling.unsent
    pair.calling.startTLS(own.options(own))
    pair.calling.write(b"sealed")
    place.until(lambda: len(pair.server.octets) >= len(clear) or None)
    assert pair.server.octets[: len(clear)] == clear
    assert b"sealed" not in pair.server.octets


class Producer:
    def __init__(self) -> None:
        self.calls: list[str] = []

    def pauseProducing(self) -> None:
        self.calls.append("pause")

    def resumeProducing(self) -> None:
        self.calls.append("resume")

    def stopProducing(self) -> None:
        self.calls.append("stop")


def test_a_producer_goes_on_above_tls_and_is_paused_by_it(place: Hands, own: Any) -> None:
    pair, producer = Pair(place, Made(), Made()), Producer()
    pair.calling.registerProducer(producer, True)
    begin(pair, own)
    pair.calling.write(b"x" * 4_000_000)
    place.until(lambda: producer.calls[-1:] == ["pause"])
    place.until(lambda: len(pair.server.octets) >= 4_000_000)
    place.until(lambda: producer.calls[-1] == "resume")
    pair.calling.unregisterProducer()
    pair.calling.loseConnection()
    place.until(lambda: pair.client.reason)


def test_aborting_is_over_in_the_next_turn_and_is_a_loss_to_the_other_side(secured: Pair) -> None:
    secured.calling.write(b"shaken hands")
    secured.place.until(lambda: secured.server.octets.endswith(b"hands"))
    secured.calling.abortConnection()
    secured.place.until(lambda: secured.server.reason and secured.client.reason)
    assert secured.server.reason is not ConnectionDone


def test_closing_says_all_and_the_goodbyes_of_tls(secured: Pair) -> None:
    """Not what would close the connection below TLS, past what TLS still holds."""
    answer_and_close(secured.serving)
    secured.place.until(lambda: secured.client.reason)
    assert secured.client.octets == b"answer"
    assert secured.client.reason is ConnectionDone


def answer_and_close(transport: Any) -> None:
    transport.write(b"answer")
    close(transport)


def test_our_end_behind_twisteds_tls_has_an_address(place: Hands, own: Any) -> None:
    found = list[Any]()
    serving = Made(made=lambda transport: found.append(local_of(transport)))
    port = place.reactor.listenSSL(0, serving, own.options(), interface="127.0.0.1")
    place.reactor.connectSSL("127.0.0.1", port.getHost().port, Made(), CertificateOptions())
    place.until(lambda: found)
    assert found == [Inet("127.0.0.1", port.getHost().port)]
