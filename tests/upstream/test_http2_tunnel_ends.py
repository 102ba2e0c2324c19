"""How a tunnel through a peer's stream ends: while it waits for window or a client, or under a GOAWAY."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.http2_peers import Http2PeerWorld, Peer
from tests.upstream.test_http2_tunnel import CONNECT, TAKES_TUNNELS, WEBSOCKET
from tests.wire.http2_talk import rst, window

OCTETS = bytes(range(256)) * 400  # 102,400: more than the window that a peer begins with
EXTENDED = [
    (b":method", b"CONNECT"),
    (b":protocol", b"websocket"),
    (b":scheme", b"http"),
    (b":authority", b"a"),
    (b":path", b"/chat"),
]
NO_ERROR, PROTOCOL_ERROR, CANCEL = 0, 1, 8


@pytest.fixture
def world() -> Iterator[Http2PeerWorld]:
    made = Http2PeerWorld(allow_connect=True)
    yield made
    made.end()


def opened(world: Http2PeerWorld, head: bytes = WEBSOCKET, **options: Any) -> tuple[Any, Peer]:
    """A tunnel between an HTTP/1.1 client and stream 1 of a peer that gives no window back."""
    client = world.connect(**options)
    client.send(head)
    peer = world.peer(settings=TAKES_TUNNELS, credit=False)
    peer.take()
    peer.respond(1)
    assert client.read().startswith(b"HTTP/1.1 ")
    return client, peer


def give_window(peer: Peer, count: int) -> None:
    peer.h2.increment_flow_control_window(count)
    peer.h2.increment_flow_control_window(count, 1)
    peer.take()


# -- what the client has sent waits for the peer's window


def test_an_end_waits_behind_what_waits_for_window(world: Http2PeerWorld) -> None:
    client, peer = opened(world)
    client.send(OCTETS).finish()
    assert (peer.take()[1].body, peer.asked[1].ended) == (OCTETS[:65535], False)
    give_window(peer, 1)
    assert (peer.take()[1].body, peer.asked[1].ended) == (OCTETS[:65536], False)
    give_window(peer, len(OCTETS))
    assert (peer.take()[1].body, peer.asked[1].ended) == (OCTETS, True)
    peer.send(1, b"bye", end=True)
    assert client.read() == b"bye<end>"
    assert (world.open, world.pool.connections[0].streams) == ([0], {})


def test_an_end_behind_nothing_needs_no_window(world: Http2PeerWorld) -> None:
    client, peer = opened(world)
    client.send(OCTETS[:65535])
    client.finish()
    assert (len(peer.take()[1].body), peer.asked[1].ended) == (65535, True)


def test_a_client_that_cuts_its_connection_cancels_what_waits(world: Http2PeerWorld) -> None:
    client, peer = opened(world)
    client.send(OCTETS)
    client.reset()
    assert (peer.take()[1].reset, peer.asked[1].ended) == (CANCEL, False)
    assert (world.open, world.pool.connections[0].streams) == ([0], {})
    peer.raw(window(0, len(OCTETS)) + window(1, len(OCTETS)))
    assert len(peer.asked[1].body) == 65535


def test_what_waits_arrives_although_the_peer_has_ended_its_half(world: Http2PeerWorld) -> None:
    client, peer = opened(world)
    client.send(OCTETS).finish()
    peer.take()
    peer.send(1, b"bye", end=True)
    assert client.read() == b"bye<end>"
    give_window(peer, len(OCTETS))
    assert (peer.take()[1].body, peer.asked[1].ended, peer.asked[1].reset) == (OCTETS, True, None)
    assert (world.open, world.pool.connections[0].streams) == ([0], {})


def test_a_peer_that_never_takes_what_waits_is_not_waited_for_without_end(world: Http2PeerWorld) -> None:
    """Both halves of the client's connection are over: only the peer's window is missing."""
    client, peer = opened(world)
    client.send(OCTETS).finish()
    peer.send(1, b"", end=True)
    client.read()
    for _ in range(6):
        world.wait(9)
        assert peer.take()[1].reset is None
    world.wait(7)
    assert peer.take()[1].reset == CANCEL
    assert world.pool.connections[0].streams == {}


def test_a_peer_that_takes_it_slowly_gets_all_of_it(world: Http2PeerWorld) -> None:
    client, peer = opened(world)
    client.send(OCTETS).finish()
    peer.send(1, b"", end=True)
    client.read()
    left = len(OCTETS) - 65535
    while left:
        for _ in range(5):
            world.wait(9)
            peer.take()
        give_window(peer, min(9000, left))
        left -= min(9000, left)
    assert (peer.take()[1].body, peer.asked[1].ended, peer.asked[1].reset) == (OCTETS, True, None)


def test_a_reset_by_the_peer_drops_what_waits(world: Http2PeerWorld) -> None:
    client, peer = opened(world)
    client.send(OCTETS).finish()
    peer.reset(1)
    assert client.read().endswith((b"<end>", b"<reset>"))
    assert (world.open, world.pool.connections[0].streams, len(world.pool.connections[0]._line)) == (
        [0],
        {},
        0,
    )


def test_a_window_that_is_taken_back_holds_the_end_too(world: Http2PeerWorld) -> None:
    client, peer = opened(world)
    client.send(OCTETS).finish()
    peer.take()
    peer.set(initial_window_size=1000)
    give_window(peer, 60000)  # the stream's is below nothing still
    assert len(peer.take()[1].body) == 65535
    give_window(peer, len(OCTETS))
    assert (peer.take()[1].body, peer.asked[1].ended) == (OCTETS, True)
    peer.send(1, b"", end=True)


def test_the_end_of_one_tunnel_does_not_wait_for_the_window_of_another(world: Http2PeerWorld) -> None:
    client, peer = opened(world)
    client.send(OCTETS)
    peer.take()
    other = world.connect()
    other.send(WEBSOCKET)
    assert list(peer.take()) == [1, 3]
    peer.respond(3)
    other.read()
    other.finish()  # the connection has no window left at all
    assert (peer.take()[3].ended, peer.asked[1].ended) == (True, False)
    peer.send(3, b"", end=True)
    assert other.read() == b"<end>"


# -- what the peer has sent waits for the client


def slow(world: Http2PeerWorld, head: bytes = WEBSOCKET) -> tuple[Any, Peer, int]:
    """A tunnel whose client takes nothing, and how much of the peer's has gone in before it was full."""
    client, peer = opened(world, head, receive_buffer=4096)
    total, stream = 0, world.pool.connections[0].streams[1]
    while total < 12_000_000 and sum(map(len, stream._inbox)) < 40_000:
        total += peer.upload(1, b"x" * 16384)
    assert stream._inbox
    return client, peer, total


@pytest.mark.parametrize("head", [WEBSOCKET, CONNECT], ids=["websocket", "connect"])
@pytest.mark.parametrize("how", ["end", "end and no error", "end and goaway", "end and connection"])
def test_what_the_peer_has_said_to_its_end_arrives(world: Http2PeerWorld, head: bytes, how: str) -> None:
    """Go's server resets a stream with NO_ERROR once it has ended its half (RFC 9113 §8.1)."""
    client, peer, total = slow(world, head)
    peer.send(1, b"y" * 10, end=True)
    if how == "end and no error":
        peer.raw(rst(1, NO_ERROR))
    elif how == "end and goaway":
        peer.goaway(0)
    elif how == "end and connection":
        peer.wire.leave()
    world.loop.spin()
    got = client.all(total + 10 + len(b"<end>"))
    assert got.count(b"x") == total
    assert b"y" * 10 in got
    client.finish()


def test_a_tunnel_that_has_ended_both_ways_ends_cleanly(world: Http2PeerWorld) -> None:
    client, peer, total = slow(world)
    peer.send(1, b"y", end=True)
    client.finish()
    assert peer.take()[1].ended
    assert client.all(total + 6).endswith(b"y<end>")


def test_a_peer_that_resets_what_it_has_ended_has_cut_nothing_off(world: Http2PeerWorld) -> None:
    client = world.client()
    number = client.raw(EXTENDED, end=False)
    peer = world.peer(settings=TAKES_TUNNELS)
    peer.take()
    peer.respond(1).send(1, b"bye", end=True)
    peer.raw(rst(1, NO_ERROR))
    answer = client.take()[number]
    assert (answer.body, answer.ended, answer.reset) == (b"bye", True, NO_ERROR)
    assert (world.open, world.server.streams) == ([0], {})


def test_a_tunnel_that_is_reset_with_an_error_is_cut_off(world: Http2PeerWorld) -> None:
    client, peer, total = slow(world)
    peer.reset(1, PROTOCOL_ERROR)
    world.loop.spin()
    assert len(client.all(total)) <= total + len(b"<reset>")
    assert (world.open, world.pool.connections[0].streams) == ([0], {})


def test_a_client_that_leaves_with_something_to_be_told_leaves_nothing(world: Http2PeerWorld) -> None:
    client, peer, _ = slow(world)
    peer.send(1, b"y", end=True)
    peer.raw(rst(1, NO_ERROR))
    client.reset()
    world.loop.spin()
    assert (world.open, world.pool.connections[0].streams) == ([0], {})


# -- GOAWAY


def test_a_goaway_below_an_open_tunnel_ends_it(world: Http2PeerWorld) -> None:
    """It says that the peer has never looked at what it has agreed to; the client has to notice."""
    client, peer = opened(world)
    client.send(b"hello")
    peer.goaway(0)
    assert client.read().endswith((b"<end>", b"<reset>"))
    assert (world.open, world.pool.connections) == ([0], [])
    assert peer.take()[1].reset == CANCEL
    assert not world.is_asked()  # a tunnel is not asked for again


def test_a_goaway_below_an_open_tunnel_resets_the_stream_of_a_client_of_http2(world: Http2PeerWorld) -> None:
    client = world.client()
    number, other = client.raw(EXTENDED, end=False), client.begin()
    peer = world.peer(settings=TAKES_TUNNELS)
    peer.take()
    peer.respond(1).goaway(0)
    assert client.take()[number].reset == CANCEL
    second = world.peer(settings=TAKES_TUNNELS)
    second.answer(1, b"moved")
    assert (client.take()[other].body, client.gone) == (b"moved", None)


def test_a_goaway_above_an_open_tunnel_lets_it_live(world: Http2PeerWorld) -> None:
    client, peer = opened(world)
    peer.goaway(1)
    client.send(b"hello")
    assert peer.take()[1].body == b"hello"
    peer.send(1, b"world")
    assert client.read() == b"world"
    assert peer.closed == b""
    client.finish()
    peer.send(1, b"", end=True)
    peer.take()
    assert (client.read(), peer.closed, world.pool.connections) == (b"<end>", b"<end>", [])


def test_an_end_that_waits_for_window_keeps_a_connection_that_drains(world: Http2PeerWorld) -> None:
    client, peer = opened(world)
    client.send(OCTETS).finish()
    peer.take()
    peer.goaway(1)
    assert peer.take()[1].ended is False
    give_window(peer, len(OCTETS))
    assert (peer.take()[1].body, peer.asked[1].ended, peer.closed) == (OCTETS, True, b"")
    peer.send(1, b"", end=True)
    peer.take()
    assert (client.read(), peer.closed) == (b"<end>", b"<end>")


def test_a_goaway_below_a_tunnel_that_waits_for_window_drops_what_waits(world: Http2PeerWorld) -> None:
    client, peer = opened(world)
    client.send(OCTETS).finish()
    peer.goaway(0)
    assert client.read().endswith((b"<end>", b"<reset>"))
    assert (world.open, world.pool.connections) == ([0], [])


def test_a_tunnel_that_nobody_has_agreed_to_moves(world: Http2PeerWorld) -> None:
    client = world.client()
    number = client.raw(EXTENDED, end=False)
    client.send(number, b"early")
    first = world.peer(settings=TAKES_TUNNELS)
    first.take()
    first.goaway(0)
    second = world.peer(settings=TAKES_TUNNELS)
    assert dict(second.latest.fields)[b":protocol"] == b"websocket"
    second.respond(1)
    assert client.take()[number].status == 200
    client.send(number, b" bird", end=True)
    assert (second.take()[1].body, second.asked[1].ended) == (b"early bird", True)
    second.send(1, b"", end=True)
    assert client.take()[number].ended


def test_a_tunnel_does_not_move_to_where_there_are_none(world: Http2PeerWorld) -> None:
    """RFC 8441 §3: it is asked for only where the peer has said that it may be."""
    client = world.connect()
    client.send(WEBSOCKET)
    first = world.peer(settings=TAKES_TUNNELS)
    first.take()
    first.goaway(0)
    second = world.peer()
    assert second.take() == {}
    assert client.read().startswith(b"HTTP/1.1 501 ")
    assert (world.open, world.peers[0].down_until < 0) == ([0], True)
