"""Requests that a peer has not looked at: they move to another connection, or their clients are told."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.http2_peers import Http2PeerWorld
from tests.http_world import GET, statuses_of
from tests.upstream.test_http2_pool import POST, accepted


@pytest.fixture
def world() -> Iterator[Http2PeerWorld]:
    made = Http2PeerWorld()
    yield made
    made.end()


def test_requests_that_the_peer_has_not_looked_at_move(world: Http2PeerWorld) -> None:
    clients = [world.connect() for _ in range(3)]
    for client in clients:
        client.send(POST)
    first = world.peer()
    assert [first.take()[number].body for number in (1, 3, 5)] == [b"hello"] * 3
    first.goaway(1)
    second = world.peer()
    assert [second.take()[number].body for number in (1, 3)] == [b"hello"] * 2
    assert [asked.ended for asked in second.asked.values()] == [True, True]
    first.answer(1, b"old")
    for number in (1, 3):
        second.answer(number, b"new")
    assert [statuses_of(client.read()) for client in clients] == [[200]] * 3
    assert first.wire.read().endswith(b"<end>")


def test_a_refused_stream_moves_whatever_it_asks(world: Http2PeerWorld) -> None:
    keeping, moving = world.connect(), world.connect()
    keeping.send(GET)
    moving.send(POST)
    first = world.peer()
    first.take()
    first.reset(3, 7)
    second = world.peer()
    assert (second.latest.get(b":method"), second.latest.body) == (b"POST", b"hello")
    second.answer(1, b"moved")
    first.answer(1, b"kept")
    assert b"moved" in moving.read()
    assert b"kept" in keeping.read()


def test_who_refuses_everything_is_asked_in_vain(world: Http2PeerWorld) -> None:
    client = world.connect()
    client.send(POST)
    for _ in range(4):
        peer = world.peer()
        peer.take()
        peer.reset(1, 7)
    assert statuses_of(client.read()) == [502]
    assert world.answers.lines[-1].reason == "peer_refused"
    assert accepted(world) is None


def test_a_refused_body_that_was_not_kept_cannot_move(world: Http2PeerWorld) -> None:
    client = world.connect()
    client.send(b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n" + bytes(70000))
    peer = world.peer()
    assert len(peer.latest.body) == 70000
    peer.reset(1, 7)
    assert statuses_of(client.read()) == [502]
    assert accepted(world) is None


def test_a_request_that_goes_on_moves_with_what_there_is_of_it(world: Http2PeerWorld) -> None:
    client = world.client()
    number = client.begin(method=b"POST", end=False)
    client.send(number, b"one ")
    first = world.peer()
    first.take()
    first.goaway(0)
    client.send(number, b"two ")
    second = world.peer()
    client.send(number, b"three", end=True)
    assert (second.latest.body, second.latest.ended) == (b"one two three", True)
    second.answer(1, b"ok")
    assert client.take()[number].body == b"ok"


def test_trailers_move_too(world: Http2PeerWorld) -> None:
    client = world.client()
    number = client.begin(method=b"POST", end=False)
    client.h2.send_headers(number, [(b"x-sum", b"7")], end_stream=True)
    client.flush()
    world.peer().goaway(0)
    second = world.peer()
    assert (second.latest.trailers, second.latest.ended) == ([(b"x-sum", b"7")], True)


def test_a_request_that_was_given_up_while_it_moved_is_not_asked(world: Http2PeerWorld) -> None:
    client = world.client()
    number = client.begin(method=b"POST", end=False)
    world.peer().goaway(0)
    client.reset(number)
    assert world.peer().take() == {}
    assert world.open == [0]


def test_a_refusal_that_comes_after_a_response_is_a_reset(world: Http2PeerWorld) -> None:
    client = world.client()
    number = client.begin(method=b"POST")
    peer = world.peer()
    peer.respond(1).reset(1, 7)
    assert client.take()[number].reset == 2
    assert accepted(world) is None
