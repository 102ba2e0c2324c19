"""WebSockets and CONNECT through HTTP/2 streams: handshake, both directions, both ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from rproxy.downstream.http2_tunnel import WebSocketKey
from rproxy.sites import Site, Sites
from rproxy.wire.http2_settings import CONNECTION_WINDOW, STREAM_WINDOW
from rproxy.wire.message import Fields
from tests.http2_world import Client, Http2World
from tests.http_world import Stream, head_of, making

Making = Callable[..., Http2World]
KEY = WebSocketKey(b"\1" * 16)
ACCEPT = KEY._accept
AGREED = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Accept: %b\r\n\r\n"
)
WEBSOCKET = [
    (b":method", b"CONNECT"),
    (b":protocol", b"websocket"),
    (b":scheme", b"http"),
    (b":authority", b"a"),
    (b":path", b"/chat"),
    (b"sec-websocket-version", b"13"),
    (b"sec-websocket-protocol", b"chat"),
    (b"sec-websocket-key", b"forged"),
]


@pytest.fixture
def worlds() -> Iterator[Making]:
    yield from making(Http2World)


def opened(world: Http2World, **options: Any) -> tuple[Client, int, Stream]:
    """A client with a tunnel to a peer."""
    client = world.client(**options)
    number = client.raw(WEBSOCKET, end=False)
    peer = world.asked()
    peer.read()
    peer.send(AGREED % ACCEPT)
    assert client.take()[number].status == 200
    return client, number, peer


def test_the_key_of_rfc_6455_has_the_answer_of_rfc_6455() -> None:
    key = WebSocketKey(b"the sample nonce")
    assert key._key == b"dGhlIHNhbXBsZSBub25jZQ=="
    assert key.is_proven_by(Fields([(b"SEC-WebSocket-Accept", b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")]))
    assert not key.is_proven_by(Fields([(b"Sec-WebSocket-Accept", b"S3pPLMBiTxaQ9kYGzzhZRbK+xOo=")]))
    assert not key.is_proven_by(Fields([]))


def test_a_websocket_is_an_upgrade_to_the_peer(worlds: Making) -> None:
    world = worlds()
    client = world.client()
    number = client.raw(WEBSOCKET, end=False)
    peer = world.asked()
    line, fields = head_of(peer.read())
    assert line == b"GET /chat HTTP/1.1"
    assert (fields[b"connection"].lower(), fields[b"upgrade"]) == (b"upgrade", b"websocket")
    assert fields[b"sec-websocket-key"] == KEY._key
    assert (fields[b"sec-websocket-version"], fields[b"sec-websocket-protocol"]) == (b"13", b"chat")
    assert not {b"content-length", b"transfer-encoding", b":protocol"} & set(fields)
    peer.send(AGREED % ACCEPT)
    answer = client.take()[number]
    assert answer.fields == [(b":status", b"200"), (b"sec-websocket-protocol", b"chat")]
    assert not answer.ended


def test_bytes_go_both_ways_as_they_are(worlds: Making) -> None:
    world = worlds()
    client, number, peer = opened(world)
    octets = Random(1).randbytes(1_000_000)
    client.send(number, b"hello")
    assert peer.read() == b"hello"
    peer.send(b"world")
    assert client.take()[number].body == b"world"
    client.download(peer, octets)
    assert client.answers[number].body == b"world" + octets
    sent, got = 0, b""
    while sent < len(octets):
        sent += client.upload(number, octets[sent : sent + 100_000], end=False)
        got += peer.read()
    assert got + peer.read() == octets


def test_bytes_that_come_with_the_agreement_are_the_first(worlds: Making) -> None:
    world = worlds()
    client = world.client()
    number = client.raw(WEBSOCKET, end=False)
    client.send(number, b"early bird")
    peer = world.asked()
    assert not peer.read().endswith(b"bird")
    peer.send(AGREED % ACCEPT + b"first")
    assert client.take()[number].body == b"first"
    assert peer.read() == b"early bird"


@pytest.mark.parametrize(
    "answer",
    [
        AGREED % b"wrong",
        AGREED.replace(b"Sec-WebSocket-Accept: %b\r\n", b""),
        AGREED.replace(b"%b", ACCEPT).replace(b"Upgrade: websocket", b"Upgrade: other"),
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 204 No Content\r\n\r\n",
    ],
)
def test_a_peer_that_does_not_speak_websocket_is_a_bad_gateway(worlds: Making, answer: bytes) -> None:
    world = worlds()
    client = world.client()
    number = client.raw(WEBSOCKET, end=False)
    client.send(number, b"GET /smuggled HTTP/1.1\r\n\r\n")
    peer = world.asked()
    peer.send(answer)
    assert (client.take()[number].status, client.answers[number].body) == (502, b"bad_response")
    got = peer.read()
    assert b"smuggled" not in got
    assert got.endswith((b"<end>", b"<reset>"))
    assert [line[:2] for line in world.answers.lines] == [(502, "bad_response")]
    world.wait(8)
    assert (world.server.streams, world.open) == ({}, [0])


def test_a_peer_that_refuses_says_so_to_the_client(worlds: Making) -> None:
    world = worlds()
    client = world.client()
    number = client.raw(WEBSOCKET, end=False)
    client.send(number, b"unwanted")
    peer = world.asked()
    peer.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
    answer = client.take()[number]
    assert (answer.status, answer.body, answer.ended) == (403, b"no", True)
    assert b"unwanted" not in peer.read()


def test_bytes_for_tunnels_that_never_came_about_do_not_eat_up_the_connection(worlds: Making) -> None:
    world = worlds()
    client = world.client()
    for _ in range(2 * CONNECTION_WINDOW // STREAM_WINDOW):
        number = client.raw(WEBSOCKET, end=False)
        assert client.upload(number, bytes(STREAM_WINDOW), end=False) == STREAM_WINDOW
        peer = world.asked()
        peer.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        assert client.take()[number].status == 403


def test_who_ends_one_direction_still_hears_the_other(worlds: Making) -> None:
    world = worlds()
    client, number, peer = opened(world)
    client.send(number, b"bye", end=True)
    assert peer.read() == b"bye<end>"
    peer.send(b"still here")
    assert client.take()[number].body == b"still here"
    peer.finish()
    assert client.take()[number].ended
    assert (client.answers[number].reset, world.server.streams) == (None, {})
    assert [line[:2] for line in world.answers.lines] == [(200, "ok")]


def test_a_peer_that_ends_its_direction_still_hears_the_client(worlds: Making) -> None:
    world = worlds()
    client, number, peer = opened(world)
    peer.send(b"last").finish()
    answer = client.take()[number]
    assert (answer.body, answer.ended, answer.reset) == (b"last", True, None)
    client.send(number, b"more")
    assert peer.read() == b"more"
    client.send(number, b"", end=True)
    assert peer.read() == b"<end>"
    assert world.server.streams == {}


def test_a_client_that_ends_before_the_agreement_has_ended(worlds: Making) -> None:
    world = worlds()
    client = world.client()
    number = client.raw(WEBSOCKET, end=False)
    client.send(number, b"all", end=True)
    peer = world.asked()
    peer.read()
    peer.send(AGREED % ACCEPT)
    assert peer.read() == b"all<end>"
    peer.finish()
    assert client.take()[number].ended


def test_a_reset_closes_the_peer(worlds: Making) -> None:
    world = worlds()
    client, number, peer = opened(world)
    client.reset(number)
    assert peer.read() in (b"<end>", b"<reset>")
    assert (world.server.streams, world.open) == ({}, [0])


def test_a_peer_that_is_lost_resets_the_stream(worlds: Making) -> None:
    world = worlds()
    client, number, peer = opened(world)
    peer.reset()
    answer = client.take()[number]
    assert (answer.reset, answer.ended) == (8, False)
    assert (world.server.streams, world.open, client.closed) == ({}, [0], b"")


def test_a_connection_that_is_lost_closes_its_tunnels(worlds: Making) -> None:
    world = worlds()
    client, _, peer = opened(world)
    client.wire.reset()
    assert peer.read() in (b"<end>", b"<reset>")
    assert world.open == [0]


def test_a_client_that_takes_nothing_holds_the_peer_back(worlds: Making) -> None:
    world = worlds()
    client, number, peer = opened(world, credit=False)
    assert client.download(peer, bytes(32 << 20)) < 8 << 20
    assert len(client.answers[number].body) == 65535
    other = client.raw(WEBSOCKET, end=False)
    second = world.asked()
    second.send(AGREED % ACCEPT)
    assert client.take()[other].status == 200
    client.send(other, b"x")
    assert second.read().endswith(b"x")


def test_a_peer_that_takes_nothing_holds_the_client_back(worlds: Making) -> None:
    world = worlds()
    client, number, peer = opened(world)
    sent = client.upload(number, bytes(32 << 20), end=False)
    assert sent < 9 << 20
    assert len(peer.all(sent)) == sent
    assert client.upload(number, bytes(1 << 20), end=False) > 0


def test_a_tunnel_may_be_silent_for_as_long_as_the_route_says(worlds: Making) -> None:
    world = worlds(tunnel_idle=300.0)
    client, number, peer = opened(world)
    for _ in range(29):
        world.wait(10)
        client.take()
    peer.send(b"x")
    for _ in range(28):
        world.wait(10)
        client.take()
    assert client.answers[number].reset is None
    for _ in range(4):
        world.wait(10)
        client.take()
    assert client.answers[number].reset == 8
    assert peer.read() in (b"<end>", b"<reset>")


def test_a_drain_waits_for_tunnels(worlds: Making) -> None:
    world = worlds()
    client, _, peer = opened(world)
    outcome: list[bool] = []
    world.connections.drain(world.loop, 100.0).addCallback(outcome.append)  # type: ignore[arg-type]
    world.wait(50)
    assert outcome == []
    peer.reset()
    assert client.wire.read().endswith(b"<end>")
    world.wait(10)
    assert outcome == [True]


def test_another_protocol_is_not_known(worlds: Making) -> None:
    client = worlds().client()
    number = client.raw([WEBSOCKET[0], (b":protocol", b"connect-udp"), *WEBSOCKET[2:5]], end=False)
    assert client.take()[number].status == 501


# -- CONNECT

CONNECT = [(b":method", b"CONNECT"), (b":authority", b"a:443")]


def allowing(site: Site) -> Sites:
    return Sites({}, {"a": replace(site, allow_connect=True)})


def test_connect_is_not_allowed_unless_it_is(worlds: Making) -> None:
    client = worlds().client()
    number = client.raw(CONNECT, end=False)
    client.send(number, b"octets")
    answer = client.take()[number]
    assert (answer.status, answer.ended) == (405, True)
    assert answer.get(b"allow") is not None


def test_a_connect_is_a_tunnel_once_the_peer_agrees(worlds: Making) -> None:
    world = worlds(sites=allowing)
    client = world.client()
    number = client.raw(CONNECT, end=False)
    client.send(number, b"early")
    peer = world.asked()
    asked = peer.read()
    assert asked.startswith(b"CONNECT a:443 HTTP/1.1\r\n")
    assert not asked.endswith(b"early")
    peer.send(b"HTTP/1.1 200 OK\r\n\r\nhello")
    answer = client.take()[number]
    assert (answer.status, answer.body, answer.ended) == (200, b"hello", False)
    assert peer.read() == b"early"
    client.send(number, b"more", end=True)
    assert peer.read() == b"more<end>"
    peer.finish()
    assert client.take()[number].ended


def test_a_connect_that_the_peer_refuses_is_refused(worlds: Making) -> None:
    world = worlds(sites=allowing)
    client = world.client()
    number = client.raw(CONNECT, end=False)
    world.asked().send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
    assert (client.take()[number].status, client.answers[number].body) == (403, b"no")
