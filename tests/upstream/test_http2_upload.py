"""What a stream has to send to a peer: it arrives whole, in turns, and whoever sends more is held back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rproxy.upstream.http2_upload import MOST_QUEUED
from rproxy.wire.http2_settings import STREAM_WINDOW
from tests.http2_peers import Http2PeerWorld
from tests.upstream.test_http2_stream import CHUNK, LARGE, MANY


@pytest.fixture
def world() -> Iterator[Http2PeerWorld]:
    made = Http2PeerWorld()
    yield made
    made.end()


def test_a_large_request_comes_whole(world: Http2PeerWorld) -> None:
    client = world.client()
    number = client.begin(method=b"POST", end=False)
    peer = world.peer()
    sent = 0
    for _ in range(MANY):
        sent += client.upload(number, LARGE[sent:], end=False)
        peer.take()
    client.send(number, b"", end=True)
    assert peer.latest.body == LARGE
    assert peer.latest.ended


def test_a_large_request_of_http1_comes_whole(world: Http2PeerWorld) -> None:
    client = world.connect()
    client.send(b"PUT /x HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(LARGE))
    peer = world.peer()
    sent = 0
    for _ in range(MANY):
        sent += client.push(LARGE[sent : sent + 500_000])
        peer.take()
    assert peer.latest.body == LARGE
    assert peer.latest.ended


def test_a_peer_that_takes_nothing_stops_the_client(world: Http2PeerWorld) -> None:
    client = world.client()
    number = client.begin(method=b"POST", end=False)
    peer = world.peer(credit=False)
    sent = sum(client.upload(number, CHUNK, end=False) for _ in range(60))
    assert peer.latest.uncredited == 65535
    assert sent <= 65535 + MOST_QUEUED + len(CHUNK) + STREAM_WINDOW
    peer.h2.increment_flow_control_window(1 << 24)
    peer.h2.increment_flow_control_window(1 << 24, 1)
    sent += client.upload(number, CHUNK * 60, end=True)
    assert len(peer.latest.body) == sent


def test_a_peer_that_stalls_one_request_gets_the_others(world: Http2PeerWorld) -> None:
    client = world.client()
    stalled, other = client.begin(method=b"POST", end=False), client.begin(method=b"POST", end=False)
    peer = world.peer(credit=False)
    peer.h2.increment_flow_control_window(1 << 24)
    peer.h2.increment_flow_control_window(1 << 24, 3) if peer.take() else None
    peer.flush()
    for _ in range(20):
        client.upload(stalled, CHUNK, end=False)
    client.upload(other, CHUNK * 20)
    peer.take()
    assert (len(peer.asked[1].body), len(peer.asked[3].body)) == (65535, 20 * len(CHUNK))
    assert (peer.asked[1].ended, peer.asked[3].ended) == (False, True)


def test_requests_take_turns(world: Http2PeerWorld) -> None:
    client = world.client()
    numbers = [client.begin(method=b"POST", end=False) for _ in range(2)]
    peer = world.peer(credit=False, settings={4: 1 << 20})
    peer.take()
    for number in numbers:  # more than the connection's window in all
        client.upload(number, CHUNK * 4, end=False)
    peer.take()
    before = [len(peer.asked[number].body) for number in (1, 3)]
    assert sum(before) == 65535
    for _ in range(2):
        peer.h2.increment_flow_control_window(len(CHUNK))
        peer.take()
    after = [len(peer.asked[number].body) for number in (1, 3)]
    assert all(new > old for new, old in zip(after, before, strict=True))


def test_the_window_of_a_stream_may_be_taken_back(world: Http2PeerWorld) -> None:
    client = world.client()
    number = client.begin(method=b"POST", end=False)
    peer = world.peer(credit=False)
    client.upload(number, CHUNK, end=False)
    peer.set(initial_window_size=10)
    client.upload(number, CHUNK * 4, end=False)
    assert len(peer.latest.body) == len(CHUNK)
    peer.set(initial_window_size=1 << 20)
    assert len(peer.latest.body) == 65535


def test_whoever_is_held_back_is_told_so_on_the_way_to_http1_too(world: Http2PeerWorld) -> None:
    client = world.connect()
    client.send(b"PUT /x HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(LARGE))
    peer = world.peer(credit=False)
    client.push(LARGE)
    exchange = world.servers[-1]._become.exchange
    assert MOST_QUEUED <= exchange.upstream._queued <= MOST_QUEUED + (1 << 16)
    assert len(peer.latest.body) == 65535
