"""Tunnels through a stream to a peer: WebSockets where it takes them, CONNECT, and what is said where not."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from hashlib import sha1
from typing import Any

import pytest
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure

from tests.http2_peers import OK, Http2PeerWorld, Peer
from tests.http_world import head_of, statuses_of

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
WEBSOCKET = (
    b"GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + KEY + b"\r\n\r\n"
)
CONNECT = b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n"
TAKES_TUNNELS = {8: 1}


@pytest.fixture
def world() -> Iterator[Http2PeerWorld]:
    made = Http2PeerWorld(allow_connect=True)
    yield made
    made.end()


def asked(world: Http2PeerWorld, head: bytes = WEBSOCKET) -> tuple[Any, Peer]:
    client = world.connect()
    client.send(head)
    peer = world.peer(settings=TAKES_TUNNELS)
    assert list(peer.take()) == [1]
    return client, peer


def opened(world: Http2PeerWorld, head: bytes = WEBSOCKET) -> tuple[Any, Peer]:
    """A tunnel between an HTTP/1.1 client and stream 1."""
    client, peer = asked(world, head)
    peer.respond(1)
    assert client.read().startswith(b"HTTP/1.1 ")
    return client, peer


def test_a_websocket_is_an_extended_connect(world: Http2PeerWorld) -> None:
    _, peer = asked(world)
    fields = dict(peer.asked[1].fields)
    assert fields[b":method"] == b"CONNECT"
    assert fields[b":protocol"] == b"websocket"
    assert (fields[b":scheme"], fields[b":path"], fields[b":authority"]) == (b"http", b"/chat", b"a")
    assert {b"upgrade", b"connection"}.isdisjoint(fields)
    assert (fields[b"sec-websocket-version"], peer.asked[1].ended) == (b"13", False)


def test_its_answer_is_what_the_client_expects(world: Http2PeerWorld) -> None:
    client, peer = asked(world)
    peer.respond(1, [*OK, (b"sec-websocket-protocol", b"chat")])
    line, fields = head_of(client.read())
    accept = b64encode(sha1(KEY + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    assert line == b"HTTP/1.1 101 Switching Protocols"
    assert fields == {
        b"connection": b"upgrade",
        b"upgrade": b"websocket",
        b"sec-websocket-accept": accept,
        b"sec-websocket-protocol": b"chat",
    }


def test_bytes_go_both_ways(world: Http2PeerWorld) -> None:
    client, peer = opened(world)
    client.send(b"ping")
    assert peer.take()[1].body == b"ping"
    peer.send(1, b"pong")
    assert client.read() == b"pong"


def test_a_client_of_http2_may_open_one_too(world: Http2PeerWorld) -> None:
    client = world.client()
    fields = [(b":method", b"CONNECT"), (b":protocol", b"websocket"), (b":scheme", b"http")]
    number = client.raw([*fields, (b":authority", b"a"), (b":path", b"/chat")], end=False)
    peer = world.peer(settings=TAKES_TUNNELS)
    peer.take()
    peer.respond(1)
    assert client.take()[number].status == 200
    client.send(number, b"ping")
    assert peer.take()[1].body == b"ping"
    peer.send(1, b"pong", end=True)
    assert (client.take()[number].body, client.answers[number].ended) == (b"pong", True)
    client.send(number, b"", end=True)
    assert (peer.take()[1].ended, world.open) == (True, [0])


def test_a_client_of_http2_that_takes_it_back_cancels(world: Http2PeerWorld) -> None:
    client = world.client()
    fields = [(b":method", b"CONNECT"), (b":protocol", b"websocket"), (b":scheme", b"http")]
    number = client.raw([*fields, (b":authority", b"a"), (b":path", b"/chat")], end=False)
    peer = world.peer(settings=TAKES_TUNNELS)
    peer.take()
    peer.respond(1)
    client.take()
    client.reset(number)
    assert peer.take()[1].reset == 8
    assert (world.open, world.pool.connections[0].streams) == ([0], {})


def test_the_end_is_told_once(world: Http2PeerWorld) -> None:
    _, peer = opened(world)
    stream = world.pool.connections[0].streams[1]
    tunnel, stream.tunnel = stream.tunnel, Told()
    told = stream.tunnel
    stream.pause()
    peer.send(1, b"", end=True)
    peer.take()
    stream.resume()
    world.loop.spin()
    assert told.calls == ["end"]
    stream.tunnel = tunnel


def test_much_goes_both_ways(world: Http2PeerWorld) -> None:
    client, peer = opened(world)
    octets = bytes(range(256)) * 8000
    sent = 0
    for _ in range(200):
        sent += client.push(octets[sent : sent + 300_000])
        peer.take()
    assert peer.take()[1].body == octets
    sent, got = 0, b""
    for _ in range(200):
        sent += peer.upload(1, octets[sent:])
        got += client.read()
    assert got == octets


def test_a_slow_peer_holds_the_client_back(world: Http2PeerWorld) -> None:
    client = world.connect()
    client.send(WEBSOCKET)
    peer = world.peer(settings=TAKES_TUNNELS, credit=False)
    peer.take()
    peer.respond(1)
    client.read()
    assert client.push(bytes(20_000_000)) < 20_000_000
    assert len(peer.take()[1].body) == 65535
    (stream,) = world.pool.connections[0].streams.values()
    assert stream._queued < 300_000


def test_the_end_of_the_client_is_the_end_of_its_half(world: Http2PeerWorld) -> None:
    client, peer = opened(world)
    client.finish()
    assert peer.take()[1].ended
    peer.send(1, b"still", end=True)
    assert client.read() == b"still<end>"
    assert world.open == [0]


def test_the_end_of_the_peer_is_told_to_the_client(world: Http2PeerWorld) -> None:
    client, peer = opened(world)
    peer.send(1, b"bye", end=True)
    assert client.read() == b"bye<end>"
    client.leave()
    assert peer.take()[1].ended or peer.asked[1].reset == 8
    assert world.open == [0]


def test_a_client_that_is_gone_cancels(world: Http2PeerWorld) -> None:
    client, peer = opened(world)
    client.reset()
    assert peer.take()[1].reset == 8
    assert (world.open, world.pool.connections[0].streams) == ([0], {})


def test_a_reset_by_the_peer_cuts_the_client_off(world: Http2PeerWorld) -> None:
    client, peer = opened(world)
    peer.reset(1)
    assert client.read().endswith((b"<end>", b"<reset>"))
    assert (world.open, peer.gone) == ([0], None)


def test_a_peer_that_is_gone_cuts_the_client_off(world: Http2PeerWorld) -> None:
    client, peer = opened(world)
    peer.wire.reset()
    assert client.read().endswith((b"<end>", b"<reset>"))
    assert world.open == [0]


def test_a_peer_that_does_not_agree_is_heard(world: Http2PeerWorld) -> None:
    client, peer = asked(world)
    peer.answer(1, b"no", [(b":status", b"403"), (b"content-length", b"2")])
    assert statuses_of(client.read()) == [403]
    assert world.statuses == [403]


def test_without_extended_connect_there_are_no_websockets(world: Http2PeerWorld) -> None:
    client = world.connect()
    client.send(WEBSOCKET)
    peer = world.peer()
    assert peer.take() == {}
    assert statuses_of(client.read()) == [501]
    assert world.answers.lines[-1].reason == "no_tunnel"
    client = world.connect()
    client.send(WEBSOCKET)
    assert statuses_of(client.read()) == [501]
    assert (world.open, world.peers[0].down_until < 0) == ([0], True)


def test_other_protocols_are_not_for_http2(world: Http2PeerWorld) -> None:
    client = world.connect()
    client.send(WEBSOCKET.replace(b": websocket", b": telnet"))
    assert world.peer(settings=TAKES_TUNNELS).take() == {}
    assert statuses_of(client.read()) == [501]


def test_a_connect_has_neither_scheme_nor_path(world: Http2PeerWorld) -> None:
    client, peer = asked(world, CONNECT)
    fields = dict(peer.asked[1].fields)
    assert (fields[b":method"], fields[b":authority"]) == (b"CONNECT", b"a:80")
    assert {b":scheme", b":path", b":protocol"}.isdisjoint(fields)
    peer.respond(1)
    assert client.read() == b"HTTP/1.1 200 OK\r\n\r\n"
    client.send(b"hello")
    assert peer.take()[1].body == b"hello"
    peer.send(1, b"world")
    assert client.read() == b"world"


def test_a_connect_may_be_refused(world: Http2PeerWorld) -> None:
    client, peer = asked(world, CONNECT)
    peer.respond(1, [(b":status", b"407"), (b"content-length", b"0")], end=True)
    assert statuses_of(client.read()) == [407]


def test_a_producer_that_comes_late_is_held_back_all_the_same(world: Http2PeerWorld) -> None:
    opened(world)
    transport, calls = world.pool.connections[0].streams[1].transport, list[str]()

    class Producer:
        def pauseProducing(self) -> None:
            calls.append("pause")

        def resumeProducing(self) -> None:
            calls.append("resume")

    transport.unregisterProducer()
    transport.full()
    transport.registerProducer(Producer(), True)
    transport.ready()
    transport.unregisterProducer()
    transport.full()
    assert calls == ["pause", "resume"]


class Told:
    """Stands in for the far end of a tunnel."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def readConnectionLost(self) -> None:
        self.calls.append("end")

    def connectionLost(self, reason: Failure) -> None:
        self.calls.append(reason.type.__name__)


def test_half_an_end_is_half_an_end_and_a_whole_one_does_not_wait_for_the_peer(
    world: Http2PeerWorld,
) -> None:
    _, peer = opened(world)
    stream = world.pool.connections[0].streams[1]
    tunnel, stream.tunnel = stream.tunnel, Told()
    told, transport = stream.tunnel, stream.transport
    transport.loseWriteConnection()
    assert (peer.take()[1].ended, peer.asked[1].reset, told.calls) == (True, None, [])
    transport.loseConnection()
    assert (peer.take()[1].reset, told.calls) == (8, ["ConnectionDone"])
    transport.loseConnection()
    transport.abortConnection()
    assert told.calls == ["ConnectionDone"]
    tunnel.connectionLost(Failure(ConnectionDone()))


def test_a_tunnel_that_is_idle_ends() -> None:
    world = Http2PeerWorld(tunnel_idle=5.0)
    client, peer = opened(world)
    world.wait(15)
    assert client.read().endswith((b"<end>", b"<reset>"))
    assert peer.take()[1].ended or peer.asked[1].reset == 8
    world.end()
