"""Requests with large heads, each on a connection of its own, of which there are not too many."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectError
from twisted.internet.testing import StringTransport

from rproxy.errors import PeerUnreachable
from rproxy.upstream.http2_requests import MOST_SHARED
from tests.http2_peers import Http2PeerWorld, Peer
from tests.http2_world import Answer
from tests.http_world import GET, statuses_of
from tests.upstream.test_http2_pool import Nowhere, accepted, crowd, lonely
from tests.upstream.test_http2_tunnel import WEBSOCKET


@pytest.fixture
def world() -> Iterator[Http2PeerWorld]:
    made = Http2PeerWorld()
    yield made
    made.end()


LARGE_HEAD = b"GET /large HTTP/1.1\r\nHost: a\r\nCookie: " + b"x" * MOST_SHARED + b"\r\n\r\n"


def test_a_large_head_has_a_connection_of_its_own(world: Http2PeerWorld) -> None:
    client, large = world.connect(), world.connect()
    client.send(GET)
    shared = world.peer()
    large.send(LARGE_HEAD)
    alone = world.peer()
    assert [list(each.take()) for each in (shared, alone)] == [[1], [1]]
    assert alone.asked[1].get(b"cookie") == b"x" * MOST_SHARED
    assert (len(world.pool.connections), world.open) == (1, [2])
    alone.answer(1, b"large")
    assert b"large" in large.read()
    alone.take()
    assert (alone.closed, world.open) == (b"<end>", [1])
    shared.answer(1, b"ok")
    assert statuses_of(client.read()) == [200]


def test_the_first_request_of_all_may_be_large(world: Http2PeerWorld) -> None:
    client = world.connect()
    client.send(LARGE_HEAD.replace(b"GET", b"POST").replace(b"Host", b"Content-Length: 5\r\nHost") + b"hello")
    shared, wire = world.peer(), world.asked()
    wire.send(b"\0\0\0\4\0\0\0\0\0")  # without a word about windows
    assert shared.take() == {}
    assert wire.read().endswith(b"\0\0\5\0\1\0\0\0\1hello")


def test_a_body_that_comes_while_its_own_connection_is_made_is_sent(world: Http2PeerWorld) -> None:
    client = world.client()
    number = client.begin(b"/", (b"cookie", b"x" * MOST_SHARED), method=b"POST", end=False)
    world.peer()
    client.send(number, b"hel")
    alone = world.peer()
    client.send(number, b"lo", end=True)
    assert (alone.latest.body, alone.latest.ended) == (b"hello", True)
    alone.answer(1, b"ok")
    assert client.take()[number].body == b"ok"


def test_a_peer_that_ends_a_connection_for_a_large_head_ends_no_other(world: Http2PeerWorld) -> None:
    client, large = world.connect(), world.connect()
    client.send(GET)
    shared = world.peer()
    large.send(LARGE_HEAD)
    alone = world.peer()
    alone.goaway(0, 11)
    assert statuses_of(large.read()) == [431]
    assert alone.wire.read().endswith((b"<end>", b"<reset>"))
    shared.answer(1, b"ok")
    assert statuses_of(client.read()) == [200]


def test_a_head_that_is_too_large_for_the_peer_is_told_once_and_is_not_its_fault(
    world: Http2PeerWorld,
) -> None:
    client = world.connect()
    client.send(LARGE_HEAD)
    world.peer()
    alone = world.peer()
    alone.take()
    alone.reset(1, 11)
    assert statuses_of(client.read()) == [431]
    assert (accepted(world), world.peers[0].down_until < 0) == (None, True)
    assert world.answers.lines[-1].reason == "head_too_large"


def test_a_peer_that_is_calm_about_the_head_may_still_reset(world: Http2PeerWorld) -> None:
    client = world.connect()
    client.send(LARGE_HEAD.replace(b"GET", b"POST"))
    world.peer()
    alone = world.peer()
    alone.take()
    alone.reset(1, 2)
    assert statuses_of(client.read()) == [502]


def test_whoever_leaves_before_his_own_connection_is_there_leaves_nothing(world: Http2PeerWorld) -> None:
    client = world.client()
    number = client.begin(b"/", (b"cookie", b"x" * MOST_SHARED))
    world.peer()
    client.reset(number)
    wire = world.asked()
    assert wire.read().endswith((b"<end>", b"<reset>"))
    assert (world.open, world.pool._alone) == ([0], 0)


def test_one_that_is_there_first_is_not_taken_for_one_that_is_to_be_shared(world: Http2PeerWorld) -> None:
    (_,) = crowd(world, 1)
    first = world.peer(settings={3: 2})
    large = world.connect()
    large.send(LARGE_HEAD)
    _, waiting = crowd(world, 2)
    alone, shared = world.peer(), world.asked()
    assert alone.take()[1].get(b"cookie") is not None
    assert len(first.take()) == 2
    shared.send(b"\0\0\0\4\0\0\0\0\0")
    assert b"/x" in shared.read()
    waiting.reset()


def test_one_that_is_handed_over_too_late_is_closed() -> None:
    class Late(Nowhere):
        def connect(self, factory: Any) -> Deferred[Any]:
            self.protocol = factory.buildProtocol(None)
            return Deferred(lambda _: None)

    endpoint = Late()
    clock, peer, pool = lonely(endpoint)
    pool.clock, pool._timeout = clock, 5.0
    places: list[Any] = []
    search = pool.search(places.append, places.append)
    clock.advance(0)
    search.cancel()
    transport = StringTransport()
    endpoint.protocol.makeConnection(transport)
    clock.advance(0)
    assert (places, transport.disconnecting, pool._alone, peer.open) == ([], True, 0, 0)
    assert clock.getDelayedCalls() == []


def test_there_are_not_too_many_of_such_connections(world: Http2PeerWorld) -> None:
    world.pool.most = 2
    clients = [world.connect() for _ in range(3)]
    crowd(world, 1)
    world.peer()
    for client in clients:
        client.send(LARGE_HEAD)
    for _ in range(2):
        world.peer()
    assert [list(statuses_of(client.read())) for client in clients] == [[], [], [503]]


LARGE_FIELD = (b"cookie", b"x" * MOST_SHARED)


def burst(world: Http2PeerWorld, size: int) -> tuple[Any, list[int]]:
    """A client whose requests with large heads come in one read; their streams."""
    client = world.client()
    pseudo = [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"a"), (b":path", b"/x")]
    numbers = [2 * count + 1 for count in range(size)]
    for number in numbers:
        client.h2.send_headers(number, [*pseudo, LARGE_FIELD], end_stream=True)
        client.answers[number] = Answer()
    client.flush()
    return client, numbers


def connections(world: Http2PeerWorld) -> list[Peer]:
    """All that have been made by now."""
    found = []
    while (peer := accepted(world)) is not None:
        found.append(peer)
    return found


def test_a_burst_gets_no_more_of_them_than_requests_one_by_one(world: Http2PeerWorld) -> None:
    world.pool.most = 2
    shared = world.connect().send(GET)
    world.peer().answer(1, b"ok")
    shared.read()
    client, numbers = burst(world, 7)
    alone = connections(world)
    assert (len(alone), world.pool._alone) == (2, 2)
    assert [client.take()[number].status for number in numbers] == [0, 0] + [503] * 5
    for peer in alone:
        peer.take()
        peer.answer(1, b"large")
        peer.take()
    assert [client.take()[number].body for number in numbers[:2]] == [b"large"] * 2
    assert world.pool._alone == 0


def test_a_place_that_becomes_free_may_be_used_again(world: Http2PeerWorld) -> None:
    world.pool.most = 1
    world.connect().send(GET)
    world.peer()
    for _ in range(3):
        client = world.connect().send(LARGE_HEAD)
        alone = world.peer()
        alone.take()
        alone.answer(1, b"ok")
        assert statuses_of(client.read()) == [200]
        alone.take()


def test_one_that_nobody_waits_for_any_more_takes_no_place(world: Http2PeerWorld) -> None:
    world.pool.most = 1
    world.connect().send(GET)
    world.peer()
    for _ in range(3):
        client = world.client()
        client.reset(client.begin(b"/", LARGE_FIELD))
        assert world.pool._alone <= 1
        connections(world)
    assert world.pool._alone == 0


def test_a_search_that_is_given_up_takes_no_place() -> None:
    endpoint = Nowhere()
    clock, peer, pool = lonely(endpoint)
    pool.clock, pool._timeout, pool.most = clock, 5.0, 1
    for asked in (1, 2):
        search = pool.search(print, print)
        clock.advance(0)
        assert (endpoint.asked, pool._alone, peer.open) == (asked, 1, 1)
        search.cancel()
        assert (endpoint.cancelled, pool._alone, peer.open) == (asked, 0, 0)


def test_a_search_that_fails_takes_no_place() -> None:
    class Refusing:
        def connect(self, factory: Any) -> Deferred[Any]:
            return fail(ConnectError())

    clock, peer, pool = lonely(Refusing())
    pool.clock, pool._timeout, pool.most = clock, 5.0, 1
    for _ in range(3):
        told: list[Any] = []
        pool.search(told.append, told.append)
        assert pool._alone == 1
        clock.pump([0, 0, 0])
        assert ([type(refusal) for refusal in told], pool._alone, peer.open) == ([PeerUnreachable], 0, 0)


def test_that_there_are_enough_says_nothing_about_the_peer(world: Http2PeerWorld) -> None:
    """It has not answered anybody yet, so that a failure would be held against it."""
    world.pool.most = 1
    world.connect().send(GET)
    shared = world.peer()
    client, numbers = burst(world, 2)
    assert len(connections(world)) == 1
    assert client.take()[numbers[1]].status == 503
    assert world.peers[0].down_until < 0
    assert [line.reason for line in world.answers.lines] == ["no_peer"]
    shared.take()


def test_nor_does_it_that_we_have_no_file_left() -> None:
    class Shortage:
        def connect(self, factory: Any) -> Deferred[Any]:
            return fail(ConnectError(errno.EMFILE, "Too many open files"))

    world = Http2PeerWorld()
    world.connect().send(GET)
    world.peer()
    world.peers[0].endpoint = Shortage()
    client = world.connect().send(LARGE_HEAD)
    world.wait(1)
    assert statuses_of(client.read()) == [502]
    assert world.peers[0].down_until < 0
    world.end()


def test_a_peer_that_refuses_the_connection_is_to_blame_and_is_asked_once(world: Http2PeerWorld) -> None:
    class Refusing:
        asked = 0

        def connect(self, factory: Any) -> Deferred[Any]:
            self.asked += 1
            return fail(ConnectError(errno.ECONNREFUSED, "Connection refused"))

    world.connect().send(GET)
    world.peer()
    world.peers[0].endpoint = endpoint = Refusing()  # type: ignore[assignment]
    client = world.connect().send(LARGE_HEAD)
    world.wait(1)
    assert statuses_of(client.read()) == [502]
    assert (endpoint.asked, world.peers[0].down_until > 0) == (1, True)


def test_a_tunnel_with_a_large_head_needs_a_peer_that_takes_tunnels_there_too(world: Http2PeerWorld) -> None:
    client = world.connect().send(WEBSOCKET.replace(b"Host", b"Cookie: " + LARGE_FIELD[1] + b"\r\nHost"))
    world.peer(settings={8: 1})
    alone = world.peer()
    assert alone.take() == {}
    assert statuses_of(client.read()) == [501]
    assert (alone.closed, world.pool._alone, world.open) == (b"<end>", 0, [0])
