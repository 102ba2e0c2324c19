"""One request on a shared connection: who is slower holds the other back, and nobody else."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rproxy.upstream.http2_stream import MOST_QUEUED
from rproxy.wire.http2_settings import STREAM_WINDOW
from tests.http2_peers import OK, Http2PeerWorld
from tests.http_world import GET, body_of

SMALL_WINDOW = {4: 10}
LARGE = bytes(range(256)) * 40000
CHUNK = bytes(16384)
MANY = 300
"""Turns that are enough for `LARGE`, whoever is asked to go on."""


@pytest.fixture
def world() -> Iterator[Http2PeerWorld]:
    made = Http2PeerWorld()
    yield made
    made.end()


def test_a_large_response_comes_whole(world: Http2PeerWorld) -> None:
    client = world.client()
    number = client.begin()
    peer = world.peer()
    peer.take()
    peer.respond(1)
    sent = 0
    for _ in range(MANY):
        sent += peer.upload(1, LARGE[sent:])
        client.take()
    peer.send(1, b"", end=True)
    assert client.take()[number].body == LARGE
    assert client.answers[number].ended


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


def test_a_client_that_takes_nothing_stops_the_peer(world: Http2PeerWorld) -> None:
    slow = world.client(settings=SMALL_WINDOW, credit=False)
    number = slow.begin()
    peer = world.peer()
    peer.take()
    peer.respond(1)
    sent = 0
    for _ in range(100):
        sent += peer.upload(1, CHUNK)
    assert sent == STREAM_WINDOW  # the first quarter of it has gone on to the client's side
    assert world.server.streams[number]._queued >= MOST_QUEUED
    assert slow.take()[number].body == bytes(10)


def test_a_client_that_goes_on_gets_the_rest(world: Http2PeerWorld) -> None:
    slow = world.client(settings=SMALL_WINDOW, credit=False)
    number = slow.begin()
    peer = world.peer()
    peer.take()
    peer.respond(1)
    sent = peer.upload(1, LARGE)
    slow.take()
    slow.h2.increment_flow_control_window(1 << 24)
    slow.h2.increment_flow_control_window(1 << 24, number)
    slow.flush()
    for _ in range(MANY):
        sent += peer.upload(1, LARGE[sent:])
        slow.take()
    peer.send(1, b"", end=True)
    assert slow.take()[number].body == LARGE
    assert slow.answers[number].ended


def test_a_response_that_has_ended_waits_for_a_slow_client(world: Http2PeerWorld) -> None:
    slow = world.client(settings=SMALL_WINDOW, credit=False)
    number = slow.begin()
    peer = world.peer()
    peer.take()
    peer.respond(1)
    peer.upload(1, bytes(200_000))
    peer.trailers(1, [(b"x-sum", b"7")])
    assert slow.take()[number].ended is False
    slow.h2.increment_flow_control_window(1 << 24)
    slow.h2.increment_flow_control_window(1 << 24, number)
    slow.flush()
    answer = slow.take()[number]
    assert (len(answer.body), answer.trailers, answer.ended) == (200_000, [(b"x-sum", b"7")], True)
    assert world.open == [0]


def test_stalled_clients_do_not_stall_their_neighbours(world: Http2PeerWorld) -> None:
    slow = world.client(settings=SMALL_WINDOW, credit=False)
    for _ in range(20):  # two and a half times the window of the connection
        slow.begin()
    peer = world.peer()
    peer.take()
    for number in range(1, 41, 2):
        peer.respond(number)
        for _ in range(40):
            peer.upload(number, CHUNK)
    quick = world.client()
    number = quick.begin()
    peer.take()
    peer.respond(41)
    for _ in range(64):
        assert peer.upload(41, CHUNK) == len(CHUNK)
        quick.take()
    peer.send(41, b"", end=True)
    assert len(quick.take()[number].body) == len(CHUNK) * 64
    assert quick.answers[number].ended


def test_clients_that_leave_large_responses_do_not_break_the_connection(world: Http2PeerWorld) -> None:
    """As many as there may be at a time, again and again, each with a window full of bytes under way."""
    peer = None
    stayed = world.client()
    kept = stayed.begin()
    for _ in range(5):
        client = world.client()
        numbers = [client.begin() for _ in range(60)]
        peer = peer or world.peer()
        peer.take()
        world.pool.connections[0]._patience = 1000
        begun = sorted(peer.asked)[-60:]
        for number in begun:
            peer.respond(number)
        for number in numbers:
            client.reset(number)
        late = [b"\0\x40\0\0\0" + number.to_bytes(4, "big") + CHUNK for number in begun]
        peer.wire.send(b"".join(late))  # the resets have not been read yet
    assert peer is not None
    peer.answer(1, b"still here")
    assert stayed.take()[kept].body == b"still here"
    assert peer.gone is None


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


def test_a_client_of_http1_that_takes_nothing_stops_the_peer(world: Http2PeerWorld) -> None:
    client = world.connect(receive_buffer=4096)
    client.send(GET)
    peer = world.peer()
    peer.take()
    peer.respond(1, [*OK, (b"content-length", b"%d" % len(LARGE))])
    sent = peer.upload(1, LARGE)
    assert sent < len(LARGE)
    got = b""
    for _ in range(MANY):
        got += client.read()
        sent += peer.upload(1, LARGE[sent:])
    peer.send(1, b"", end=True)
    assert (
        body_of(got + client.read())[: len(LARGE)] == LARGE[: len(body_of(got))] + LARGE[len(body_of(got)) :]
    )


def test_whoever_is_held_back_is_told_so_on_the_way_to_http1_too(world: Http2PeerWorld) -> None:
    client = world.connect()
    client.send(b"PUT /x HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(LARGE))
    peer = world.peer(credit=False)
    client.push(LARGE)
    exchange = world.servers[-1]._become.exchange
    assert MOST_QUEUED <= exchange.upstream._queued <= MOST_QUEUED + (1 << 16)
    assert len(peer.latest.body) == 65535
