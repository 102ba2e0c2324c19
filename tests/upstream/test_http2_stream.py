"""One request on a shared connection: who is slower holds the other back, and nobody else."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rproxy.upstream.http2_upload import MOST_QUEUED
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
