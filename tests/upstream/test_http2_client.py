"""A connection from its making to its end: peers that speak no HTTP/2, say nothing, or say too much."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from OpenSSL import SSL
from twisted.internet.task import Clock

from rproxy.errors import Refusal
from rproxy.services.certificates import server_context
from rproxy.tls import TLSTransport
from rproxy.transports import unsent_of
from rproxy.upstream.asking import Asking, HttpClient
from rproxy.upstream.http2_alive import PING_AFTER, PONG_WITHIN
from rproxy.upstream.http2_client import MOST_WAITING, NO_ALPN
from rproxy.upstream.http2_pool import Http2Pool
from rproxy.upstream.http_client import HttpPeer
from rproxy.upstream.tls import client_options
from rproxy.wire.message import Fields, bare_request
from tests.fakes import LogLines
from tests.http2_peers import Http2PeerWorld, Peer
from tests.http_world import GET, statuses_of
from tests.tlspeers import Inner, Pipe, make

SETTINGS = b"\0\0\0\4\0\0\0\0\0"
POST = b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"


@pytest.fixture
def world() -> Iterator[Http2PeerWorld]:
    made = Http2PeerWorld(response_timeout=600.0, body_timeout=600.0)
    yield made
    made.end()


class Asker(Asking):
    """Remembers why it gets no answer."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def broken(self, refusal: Refusal, silent: bool) -> None:
        assert refusal.other_peer
        self.told.append(str(refusal))


def asked(world: Http2PeerWorld, head: bytes = GET, **options: Any) -> tuple[Any, Peer]:
    client = world.connect()
    client.send(head)
    peer = world.peer(**options)
    peer.take()
    return client, peer


def refused(world: Http2PeerWorld, *said: bytes) -> tuple[list[int], list[str]]:
    """What a client is answered when the peer says this, and what is logged about the peer."""
    with LogLines() as lines:
        client = world.connect()
        client.send(POST)
        wire = world.asked()
        for octets in said:
            wire.send(octets)
        return list(statuses_of(client.read())), lines.texts("rproxy.upstream.peer")


def test_a_peer_that_answers_in_http1_is_named(world: Http2PeerWorld) -> None:
    statuses, (line,) = refused(world, b"HTTP/1.1 400 Bad Request\r\n\r\n")
    assert statuses == [502]
    assert "the peer answers in HTTP/1.1 to HTTP/2" in line
    assert '"force_http2_upstream"' in line


@pytest.mark.parametrize(
    "said",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\0\0\x08\6\0\0\0\0\0pingping",
        b"\0\0\0\4\1\0\0\0\0",
        b"\0\0\5\4\0\0\0\0\0abcde",
    ],
)
def test_a_peer_that_speaks_something_else_is_a_bad_gateway(world: Http2PeerWorld, said: bytes) -> None:
    statuses, (line,) = refused(world, said)
    assert statuses == [502]
    assert "has broken HTTP/2" in line


def test_a_peer_that_says_nothing_is_not_waited_for_longer_than_for_a_handshake(
    world: Http2PeerWorld,
) -> None:
    client = world.connect()
    client.send(POST)
    wire = world.asked()
    world.wait(9)
    assert client.read() == b""
    world.wait(2)
    assert statuses_of(client.read()) == [504]
    assert wire.read().endswith(b"<end>")


@pytest.mark.parametrize(("takes", "works"), [((b"h2",), True), ((), False)])
def test_in_tls_nothing_is_said_before_both_have_agreed_on_http2(
    tmp_path: Path, takes: tuple[bytes, ...], works: bool
) -> None:
    pair = make("api.internal").pair(tmp_path, "peer")
    options = client_options("api.internal", insecure=True).offering(b"h2")
    peer = HttpPeer("p", authority=b"p", tls=options, http2=Http2Pool)
    inner, asker, clock = Inner(), Asker(), Clock()

    def ask(place: HttpClient) -> None:
        place.ask(asker, bare_request(b"GET", b"/"), b"/", Fields([(b"Host", b"a")]), False, False)

    client: Any = peer.protocol(clock, ask)
    connection = SSL.Connection(server_context("peer", (pair,), takes))
    connection.set_accept_state()
    server = TLSTransport(inner, connection, None, 0)
    near, far = Pipe(), Pipe()
    server.makeConnection(far)
    client.makeConnection(near)
    for _ in range(10):
        for pipe, receiver in ((near, server), (far, client)):
            octets = pipe.value()
            pipe.clear()
            if octets and not inner.octets:
                receiver.dataReceived(octets)
    assert inner.octets.startswith(b"PRI") is works
    assert [NO_ALPN in why for why in asker.told] == ([] if works else [True])
    assert len(clock.getDelayedCalls()) == works  # SETTINGS are waited for, or nothing


def test_settings_in_pieces_are_settings(world: Http2PeerWorld) -> None:
    client = world.connect()
    client.send(GET)
    wire = world.asked()
    wire.send(SETTINGS[:3], SETTINGS[3:8])
    assert b"/x" not in wire.read()
    wire.send(SETTINGS[8:])
    assert b"/x" in wire.read()


def test_a_silent_peer_is_asked_whether_it_is_there(world: Http2PeerWorld) -> None:
    client, peer = asked(world)
    world.wait(PING_AFTER - 5)
    peer.take()
    assert peer.pings == []
    world.wait(11)
    peer.take()
    assert peer.pings == [b"rproxy-a"]
    peer.answer(1, b"ok")
    assert statuses_of(client.read()) == [200]


def test_a_peer_that_is_gone_without_a_word_is_given_up(world: Http2PeerWorld) -> None:
    client = world.connect()
    client.send(POST)
    wire = world.peer().wire  # which answers nothing from now on
    world.wait(PING_AFTER + PONG_WITHIN + 12)
    assert statuses_of(client.read()) == [502]
    assert wire.read().endswith((b"<end>", b"<reset>"))
    assert world.pool.connections == []


def test_an_idle_peer_is_left_in_peace(world: Http2PeerWorld) -> None:
    _, peer = asked(world)
    peer.answer(1, b"ok")
    world.wait(30)
    peer.take()
    assert peer.pings == []


def test_a_peer_that_is_silent_for_long_is_not_asked_again_and_again(world: Http2PeerWorld) -> None:
    """Servers of gRPC end a connection for that."""
    _, peer = asked(world)
    for _ in range(28):
        world.wait(10)
        peer.take()
    assert len(peer.pings) == 1
    for _ in range(8):
        world.wait(10)
        peer.take()
    assert len(peer.pings) == 2


def test_it_is_asked_again_when_it_was_asked_for_something_since(world: Http2PeerWorld) -> None:
    _, peer = asked(world)
    for _ in range(4):
        world.wait(10)
        peer.take()
    another = world.connect()
    another.send(GET)
    for _ in range(4):
        world.wait(10)
        peer.take()
    assert len(peer.pings) == 2


def test_pings_of_the_peer_are_answered(world: Http2PeerWorld) -> None:
    _, peer = asked(world)
    peer.h2.ping(b"12345678")
    peer.take()
    assert peer.pings == [b"12345678"]


def test_errors_that_end_a_connection_are_logged(world: Http2PeerWorld) -> None:
    client, peer = asked(world)
    with LogLines() as lines:
        peer.goaway(1, 11)
        assert lines.texts("rproxy.upstream.http2") == [
            f"peer {world.peers[0].name} ends an HTTP/2 connection with code 11"
        ]
    peer.answer(1, b"ok")
    assert statuses_of(client.read()) == [200]


def test_an_orderly_end_is_not(world: Http2PeerWorld) -> None:
    _, peer = asked(world)
    with LogLines() as lines:
        peer.goaway(1)
        assert lines.texts("rproxy.upstream.http2") == []


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(b"\0\0\x08\6\0\0\0\0\0pingping", id="ping"),
        pytest.param(b"\0\0\0\4\0\0\0\0\0", id="settings"),
        pytest.param(b"\0\0\0\0\0\0\0\0\1", id="empty data"),
        pytest.param(b"\0\0\5\2\0\0\0\0\1\0\0\0\0\0", id="priority"),
        pytest.param(b"\0\0\4\3\0\0\0\0\1\0\0\0\x08", id="rst_stream"),
        pytest.param(b"\0\0\4\x08\0\0\0\0\0\0\0\0\1", id="window_update"),
        pytest.param(b"\0\0\1\x0a\0\0\0\0\0x", id="unknown"),
    ],
)
def test_a_flood_of_frames_that_do_no_work_ends_the_connection(world: Http2PeerWorld, frame: bytes) -> None:
    client = world.connect()
    client.send(GET)
    peer = world.peer()
    peer.wire.send(b"\0\0\1\1\4\0\0\0\1\x88")  # a response, so that nothing is asked again
    peer.wire.send(frame * 500)
    assert len(world.pool.connections) == 1
    peer.wire.send(frame * 20000)
    assert peer.wire.read().endswith((b"<end>", b"<reset>"))
    assert world.pool.connections == []


def test_a_header_section_without_an_end_ends_the_connection(world: Http2PeerWorld) -> None:
    client, peer = asked(world, POST)
    peer.wire.send(b"\0\0\1\1\0\0\0\0\1\x88" + b"\0\x40\0\x09\0\0\0\0\1" + bytes(16384))
    for _ in range(4):
        peer.wire.send(b"\0\x40\0\x09\0\0\0\0\1" + bytes(16384))
    assert statuses_of(client.read()) == [502]
    assert peer.wire.read().endswith((b"<end>", b"<reset>"))


def test_fields_that_unfold_to_megabytes_end_the_connection(world: Http2PeerWorld) -> None:
    client, peer = asked(world, POST)
    entry = b"\x40\1a\x7f\x81\x1e" + b"x" * 4000
    bomb = b"\x88" + entry + b"\xbe" * 2000
    peer.wire.send(len(bomb).to_bytes(3, "big") + b"\1\5\0\0\0\1" + bomb)
    assert statuses_of(client.read()) == [502]
    assert peer.wire.read().endswith((b"<end>", b"<reset>"))


def test_a_push_ends_the_connection(world: Http2PeerWorld) -> None:
    client, peer = asked(world, POST)
    peer.wire.send(b"\0\0\5\5\4\0\0\0\1\0\0\0\2\x82")
    assert statuses_of(client.read()) == [502]
    assert peer.wire.read().endswith((b"<end>", b"<reset>"))


def test_a_peer_that_asks_for_answers_and_takes_none_is_cut_off(world: Http2PeerWorld) -> None:
    _, peer = asked(world)
    connection = world.pool.connections[0]
    connection.pauseProducing()
    connection._unsent = MOST_WAITING
    peer.wire.send(b"\0\0\x08\6\0\0\0\0\0pingping")
    assert world.pool.connections == []


def test_a_connection_on_which_nothing_arrives_is_cut_off(world: Http2PeerWorld) -> None:
    client = world.client()
    number = client.begin(method=b"POST", end=False)
    peer = world.peer(settings={4: 1 << 30}, credit=False)
    peer.h2.increment_flow_control_window(1 << 30)
    peer.take()  # and never again
    for _ in range(2000):
        if not client.upload(number, bytes(16384), end=False):
            break
    connection = world.pool.connections[0]
    assert unsent_of(connection.transport) > 0
    world.wait(PING_AFTER + PONG_WITHIN + 12)
    assert (connection.closed, connection.transport.connected) == (True, 0)
    assert client.take()[number].status == 502
