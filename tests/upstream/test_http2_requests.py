"""Requests that share a connection: how many there may be, whose turn it is, what one may cost others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from rproxy.upstream.http2_requests import MOST_CANCELLED, STREAMS
from tests.http2_peers import OK, Http2PeerWorld
from tests.http_world import GET, statuses_of
from tests.upstream.test_http2_client import asked
from tests.upstream.test_http2_pool import POST, crowd


@pytest.fixture
def world() -> Iterator[Http2PeerWorld]:
    made = Http2PeerWorld()
    yield made
    made.end()


class Recording:
    """A transport that knows what was written."""

    def __init__(self, transport: Any) -> None:
        self.transport = transport
        self.writes: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transport, name)

    def write(self, octets: bytes) -> None:
        self.writes.append(octets)
        self.transport.write(octets)


def test_what_breaks_one_connection_is_told_to_all_of_its_clients(world: Http2PeerWorld) -> None:
    clients = [world.connect() for _ in range(3)]
    for client in clients:
        client.send(POST)
    peer = world.peer()
    peer.take()
    peer.wire.send(b"\0\0\0\0\0\0\0\0\0")  # DATA of no stream
    assert [list(statuses_of(client.read())) for client in clients] == [[502]] * 3


def test_nothing_of_a_body_is_sent_while_the_transport_is_full(world: Http2PeerWorld) -> None:
    client = world.client()
    number = client.begin(method=b"POST", end=False)
    peer = world.peer()
    peer.take()
    connection = world.pool.connections[0]
    connection.pauseProducing()
    client.send(number, b"hello")
    assert peer.take()[1].body == b""
    connection.resumeProducing()
    assert peer.take()[1].body == b"hello"


def test_requests_of_one_turn_leave_together(world: Http2PeerWorld) -> None:
    _, peer = asked(world)
    peer.answer(1, b"ok")
    connection = world.pool.connections[0]
    connection.transport = recording = Recording(connection.transport)
    modern = world.client()
    for _ in range(10):
        modern.h2.send_headers(
            modern.h2.get_next_available_stream_id(),
            [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"a"), (b":path", b"/")],
            end_stream=True,
        )
    modern.wire.send(modern.h2.data_to_send())
    assert len(peer.take()) == 11
    assert len([octets for octets in recording.writes if octets[3] == 1]) == 1


def test_the_answer_to_what_was_given_up_is_no_harm(world: Http2PeerWorld) -> None:
    client, peer = asked(world)
    client.reset()
    peer.wire.send(b"\0\0\1\1\4\0\0\0\1\x88" + b"\0\0\2\0\1\0\0\0\1ok")
    another = world.connect()
    another.send(GET)
    assert 3 in peer.take()
    assert peer.gone is None
    peer.answer(3, b"ok", OK)
    assert statuses_of(another.read()) == [200]


def test_no_more_requests_than_ours_are_on_one_connection(world: Http2PeerWorld) -> None:
    clients = [world.client() for _ in range(3)]
    for client in clients:
        for _ in range(50):
            client.begin()
    peers = [world.peer(settings={3: 1000}) for _ in range(2)]
    assert [len(peer.take()) for peer in peers] == [STREAMS, 50]


def test_fewer_streams_from_now_on(world: Http2PeerWorld) -> None:
    crowd(world, 3)
    peer = world.peer()
    assert len(peer.take()) == 3
    peer.set(max_concurrent_streams=1)
    crowd(world, 1)
    assert len(peer.take()) == 3
    assert len(world.peer().take()) == 1


def test_who_refuses_gets_no_more_than_it_has_taken(world: Http2PeerWorld) -> None:
    crowd(world, 3)
    first = world.peer()
    first.take()
    first.reset(5, 7)
    assert len(world.peer().take()) == 1
    crowd(world, 1)
    assert len(first.take()) == 3


def test_who_has_refused_gets_more_again_with_each_answer(world: Http2PeerWorld) -> None:
    crowd(world, 3)
    first = world.peer()
    first.take()
    first.reset(5, 7)
    assert len(world.peer().take()) == 1
    first.answer(1, b"ok")
    crowd(world, 2)
    assert len(first.take()) == 5


def test_numbers_run_out(world: Http2PeerWorld) -> None:
    (client,) = crowd(world, 1)
    peer = world.peer()
    last = world.pool.connections[0].codec._next = (1 << 31) - 1
    peer.answer(1, b"ok", OK)
    client.read()
    client.send(GET)
    assert max(peer.take()) == last
    crowd(world, 1)
    assert list(world.peer().take()) == [1]


def test_a_connection_on_which_most_is_given_up_gets_no_more(world: Http2PeerWorld) -> None:
    stays = world.connect()
    stays.send(GET)
    first = world.peer()
    for _ in range(MOST_CANCELLED):
        client = world.connect()
        client.send(GET)
        client.reset()
    assert len(first.take()) == MOST_CANCELLED + 1
    (other,) = crowd(world, 1)
    second = world.peer()
    assert list(second.take()) == [1]
    first.answer(1, b"ok")
    assert statuses_of(stays.read()) == [200]
    second.answer(1, b"ok")
    assert statuses_of(other.read()) == [200]


def test_one_that_is_answered_makes_up_for_one_that_was_given_up(world: Http2PeerWorld) -> None:
    (client,) = crowd(world, 1)
    peer = world.peer()
    connection = world.pool.connections[0]
    connection._patience = 1
    peer.answer(1, b"ok")
    client.read()
    gone, stays = crowd(world, 2)
    gone.reset()
    peer.take()
    assert (connection._patience, connection.draining) == (1, False)
    peer.answer(5, b"ok")
    assert statuses_of(stays.read()) == [200]
