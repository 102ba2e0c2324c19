"""What waits on a connection to a peer: it is bounded, it moves as a whole, and what is complete arrives."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.http2_peers import Http2PeerWorld
from tests.http_world import GET, body_of, statuses_of
from tests.upstream.test_http2_tunnel import WEBSOCKET


@pytest.fixture
def world() -> Iterator[Http2PeerWorld]:
    made = Http2PeerWorld()
    yield made
    made.end()


def post(size: int) -> bytes:
    return b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size


def test_a_body_that_the_peer_does_not_take_holds_the_client_up(world: Http2PeerWorld) -> None:
    """Also one that has begun before there was a connection."""
    client = world.connect().send(post(50_000_000))
    sent = client.push(b"a" * 4_000_000)
    peer = world.peer(credit=False, settings={4: 0})
    peer.take()
    sent += client.push(b"a" * (50_000_000 - sent))
    (stream,) = world.pool.connections[0].streams.values()
    assert stream._queued <= 3 * 65536
    assert sent < 50_000_000


def test_a_request_that_moves_while_it_waits_for_its_turn_moves_with_its_body(world: Http2PeerWorld) -> None:
    first = world.connect().send(post(100_000))
    peer = world.peer(credit=False)
    peer.take()
    first.send(b"a" * 100_000)
    peer.take()
    world.connect().send(post(5) + b"hello")
    peer.take()
    peer.goaway(1)
    other = world.peer()
    for _ in range(5):
        world.loop.spin()
        other.take()
    assert (other.asked[1].body, other.asked[1].ended) == (b"hello", True)


@pytest.mark.parametrize("kind", ["the connection ends", "the stream is reset"])
def test_a_whole_response_arrives_however_slow_its_client_is(world: Http2PeerWorld, kind: str) -> None:
    client = world.connect(receive_buffer=4096).send(GET if kind == "the connection ends" else post(10))
    peer = world.peer()
    peer.take()
    peer.respond(1)
    total, stream = 0, world.pool.connections[0].streams[1]
    while total < 12_000_000 and sum(map(len, stream._inbox)) < 40_000:
        total += peer.upload(1, b"x" * 16384)
    peer.send(1, b"y" * 10, end=True)
    peer.take()
    if kind == "the connection ends":
        peer.goaway(1)
        peer.wire.leave()
    else:
        peer.raw(b"\0\0\4\3\0\0\0\0\1\0\0\0\0")
    world.loop.spin()
    got = client.all(20_000_000)
    assert got.count(b"x") + got.count(b"y" * 10) * 10 >= total
    assert b"y" * 10 in got
    assert got.endswith(b"0\r\n\r\n") or b"0\r\n\r\n" in got[-40:]


def test_many_that_are_refused_in_one_go_are_all_answered(world: Http2PeerWorld) -> None:
    clients = [world.connect().send(WEBSOCKET) for _ in range(110)]
    world.peer()
    world.loop.spin()
    assert [statuses_of(client.read()) for client in clients] == [[501]] * 110
    assert not any(world.open)


def test_connections_that_only_end_what_they_have_begun_take_no_place(world: Http2PeerWorld) -> None:
    world.pool.most = 2
    for _ in range(2):
        world.connect().send(GET)
        peer = world.peer()
        peer.take()
        peer.goaway(1)
    client = world.connect().send(GET)
    peer = world.peer()
    peer.take()
    peer.answer(1, b"third")
    assert b"third" in body_of(client.read())


def test_padding_costs_no_window(world: Http2PeerWorld) -> None:
    client = world.connect().send(GET)
    peer = world.peer()
    peer.take()
    peer.respond(1)
    for number in range(1500):
        assert peer.h2.local_flow_control_window(1) > 2000, number
        peer.h2.send_data(1, b"x" * 1000, pad_length=255)
        peer.flush()
        if number % 20 == 0:
            client.read()
            peer.take()
