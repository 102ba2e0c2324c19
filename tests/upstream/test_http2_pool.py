"""Shared connections to a peer: how many there are, who gets a place, what happens to those that end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from rproxy.upstream.http2_pool import Http2Pool
from rproxy.upstream.http_client import HttpPeer
from tests.http2_peers import Http2PeerWorld, Peer
from tests.http_world import GET, statuses_of

POST = b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"


@pytest.fixture
def world() -> Iterator[Http2PeerWorld]:
    made = Http2PeerWorld()
    yield made
    made.end()


def crowd(world: Http2PeerWorld, size: int) -> list[Any]:
    """Clients that have asked for something, each on a connection of its own."""
    clients = [world.connect() for _ in range(size)]
    for client in clients:
        client.send(GET)
    return clients


def accepted(world: Http2PeerWorld, number: int = 0, **options: Any) -> Peer | None:
    """The next connection to a peer, if one has been made."""
    try:
        return world.peer(number, **options)
    except BlockingIOError:
        return None


def test_clients_share_a_connection(world: Http2PeerWorld) -> None:
    clients = crowd(world, 5)
    peer = world.peer()
    assert list(peer.take()) == [1, 3, 5, 7, 9]
    for number in (9, 1, 5, 3, 7):
        peer.answer(number, b"%d" % number)
    assert [client.read()[-8:-7] for client in clients] == [b"1", b"3", b"5", b"7", b"9"]
    assert accepted(world) is None
    assert world.open == [0]


def test_nobody_asks_before_the_settings_are_there(world: Http2PeerWorld) -> None:
    crowd(world, 2)
    wire = world.asked()
    greeting = wire.read()
    assert greeting.startswith(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    assert b"\0\1\4" not in greeting  # no HEADERS
    assert accepted(world) is None
    wire.send(b"\0\0\0\4\0\0\0\0\0")
    assert b"/x" in wire.read()
    assert world.open == [2]


def test_another_connection_is_made_when_the_first_is_full(world: Http2PeerWorld) -> None:
    crowd(world, 5)
    first = world.peer(settings={3: 2})
    second = world.peer(settings={3: 2})
    third = world.peer(settings={3: 2})
    assert [list(each.take()) for each in (first, second, third)] == [[1, 3], [1, 3], [1]]
    assert accepted(world) is None


def test_a_place_that_becomes_free_is_the_next_ones(world: Http2PeerWorld) -> None:
    world.pool.most = 1
    clients = crowd(world, 3)
    peer = world.peer(settings={3: 1})
    assert (list(peer.take()), accepted(world), world.open) == ([1], None, [3])
    peer.answer(1, b"first")
    assert list(peer.take()) == [1, 3]
    peer.answer(3, b"second")
    peer.take()
    peer.answer(5, b"third")
    assert [statuses_of(client.read()) for client in clients] == [[200]] * 3


def test_whoever_waits_too_long_for_a_place_is_told_so(world: Http2PeerWorld) -> None:
    world.pool.most = 1
    clients = crowd(world, 2)
    peer = world.peer(settings={3: 1})
    world.wait(16)
    assert statuses_of(clients[1].read()) == [503]
    peer.answer(1, b"ok")
    assert statuses_of(clients[0].read()) == [200]


def test_a_peer_that_takes_nothing_gets_one_connection(world: Http2PeerWorld) -> None:
    (client,) = crowd(world, 1)
    peer = world.peer(settings={3: 0})
    assert (accepted(world), client.read()) == (None, b"")
    peer.set(max_concurrent_streams=1)
    assert list(peer.take()) == [1]
    peer.answer(1, b"ok")
    assert statuses_of(client.read()) == [200]


def test_who_has_left_takes_no_place(world: Http2PeerWorld) -> None:
    clients = crowd(world, 3)
    wire = world.asked()
    clients[0].reset()
    clients[1].reset()
    wire.send(b"\0\0\0\4\0\0\0\0\0")
    assert wire.read().count(b"\1\5\0\0\0") == 1  # HEADERS with all of a request
    assert world.open == [1]


def test_when_all_have_left_the_connection_is_kept(world: Http2PeerWorld) -> None:
    (client,) = crowd(world, 1)
    client.reset()
    world.peer()
    assert (len(world.pool.connections), world.open) == (1, [0])


def test_a_refused_connection_is_told_to_all_who_wait(world: Http2PeerWorld) -> None:
    world.listening[0].close()
    clients = crowd(world, 3)
    world.wait(1)
    assert [statuses_of(client.read()) for client in clients] == [[502]] * 3
    assert [line.reason for line in world.answers.lines] == ["peer_unreachable"] * 3


def test_the_next_peer_is_tried_when_one_is_not_there() -> None:
    world = Http2PeerWorld(peers=2)
    world.listening[0].close()
    clients = crowd(world, 2)
    world.wait(1)
    peer = world.peer(1)
    for number in peer.take():
        peer.answer(number, b"ok")
    assert [statuses_of(client.read()) for client in clients] == [[200]] * 2
    world.listening[0] = world.listening[1]
    world.end()


def test_two_peers_are_asked_in_turn() -> None:
    world = Http2PeerWorld(peers=2)
    crowd(world, 4)
    assert [len(world.peer(number).take()) for number in (0, 1)] == [2, 2]
    world.end()


def test_a_peer_that_closes_before_it_has_begun_says_nothing_about_the_request(
    world: Http2PeerWorld,
) -> None:
    client = world.connect()
    client.send(POST)
    world.asked().leave()
    assert statuses_of(client.read()) == [502]
    assert world.answers.lines[-1].reason == "peer_unreachable"
    assert world.peers[0].down_until > 0


def test_another_peer_takes_over_from_one_that_closes_before_it_has_begun() -> None:
    world = Http2PeerWorld(peers=2)
    client = world.connect()
    client.send(POST[:-5])
    world.asked(0).leave()
    peer = world.peer(1)
    client.send(b"hello")
    assert peer.latest.body == b"hello"
    world.end()


def test_a_connection_that_is_told_to_end_gets_no_requests(world: Http2PeerWorld) -> None:
    crowd(world, 1)
    first = world.peer()
    first.goaway((1 << 31) - 1)
    crowd(world, 1)
    second = world.peer()
    assert (list(first.take()), list(second.take())) == ([1], [1])


def test_an_idle_connection_that_is_told_to_end_ends(world: Http2PeerWorld) -> None:
    (client,) = crowd(world, 1)
    peer = world.peer()
    peer.answer(1, b"ok")
    client.read()
    peer.goaway(1)
    assert peer.wire.read().endswith(b"<end>")
    assert world.pool.connections == []


def test_idle_connections_are_closed_in_time(world: Http2PeerWorld) -> None:
    crowd(world, 1)
    peer = world.peer()
    peer.answer(1, b"ok")
    world.wait(15)
    assert peer.take()
    assert (peer.gone, len(world.pool.connections)) == (None, 1)
    world.wait(11)
    peer.take()
    assert peer.gone is not None
    assert (peer.gone.error_code, world.pool.connections, peer.closed) == (0, [], b"<end>")


def test_none_is_kept_if_none_may_be() -> None:
    class Keepless(Http2PeerWorld):
        keep = 0

    world = Keepless()
    one, other = crowd(world, 2)
    peer = world.peer()
    assert list(peer.take()) == [1, 3]  # sharing is not keeping
    peer.answer(1, b"ok")
    assert (statuses_of(one.read()), peer.closed) == ([200], b"")
    peer.answer(3, b"ok")
    peer.take()
    assert (statuses_of(other.read()), peer.closed) == ([200], b"<end>")
    world.end()


def test_a_peer_that_is_forgotten_keeps_what_is_in_use(world: Http2PeerWorld) -> None:
    (client,) = crowd(world, 1)
    peer = world.peer()
    world.peers[0].forget()
    peer.answer(1, b"ok")
    assert statuses_of(client.read()) == [200]
    assert world.pool.connections == []


def test_a_connection_that_nobody_waits_for_is_given_up(world: Http2PeerWorld) -> None:
    (client,) = crowd(world, 1)
    wire = world.asked()
    client.reset()
    world.peers[0].forget()
    wire.send(b"\0\0\0\4\0\0\0\0\0")
    assert wire.read().endswith(b"<end>")
    assert world.pool.connections == []


def test_an_idle_connection_that_the_peer_closes_is_forgotten(world: Http2PeerWorld) -> None:
    (client,) = crowd(world, 1)
    peer = world.peer()
    peer.answer(1, b"ok")
    client.read()
    peer.wire.leave()
    client.send(GET)
    second = world.peer()
    assert list(second.take()) == [1]
    assert world.peers[0].down_until < 0


def test_a_request_lost_with_its_connection_is_asked_again_if_it_may_be(world: Http2PeerWorld) -> None:
    first, safe, unsafe = world.connect(), world.connect(), world.connect()
    first.send(GET)
    peer = world.peer()
    peer.answer(1, b"ok")
    safe.send(GET)
    unsafe.send(POST)
    peer.take()
    peer.wire.reset()
    assert statuses_of(unsafe.read()) == [502]
    second = world.peer()
    assert second.latest.get(b":method") == b"GET"
    second.answer(1, b"ok")
    assert statuses_of(safe.read()) == [200]


def test_who_waits_goes_on_waiting_when_no_other_connection_comes_about(world: Http2PeerWorld) -> None:
    clients = crowd(world, 1)
    peer = world.peer(settings={3: 1})
    world.listening[0].close()
    clients += crowd(world, 1)
    world.wait(1)
    assert (clients[1].read(), world.open) == (b"", [2])
    peer.answer(1, b"first")
    assert 3 in peer.take()
    peer.answer(3, b"second")
    assert [statuses_of(client.read()) for client in clients] == [[200], [200]]


def test_who_waits_gets_the_next_connection_when_a_full_one_is_lost(world: Http2PeerWorld) -> None:
    world.pool.most = 1
    post, waiting = world.connect(), world.connect()
    post.send(POST)
    peer = world.peer(settings={3: 1})
    waiting.send(GET)
    assert accepted(world) is None
    peer.wire.reset()
    assert statuses_of(post.read()) == [502]
    assert list(world.peer().take()) == [1]


class Nowhere:
    """An endpoint that takes its time."""

    def __init__(self) -> None:
        self.asked = self.cancelled = 0

    def connect(self, factory: Any) -> Deferred[Any]:
        self.asked += 1
        return Deferred(lambda _: self._cancel())

    def _cancel(self) -> None:
        self.cancelled += 1


def lonely(endpoint: Any) -> tuple[Clock, HttpPeer, Any]:
    peer = HttpPeer("p", authority=b"p", endpoint=endpoint, http2=Http2Pool)
    return Clock(), peer, peer.pool


def test_an_attempt_is_given_up_when_nobody_waits_and_the_peer_is_forgotten() -> None:
    endpoint = Nowhere()
    clock, peer, pool = lonely(endpoint)
    waiting = pool.wait(clock, 5.0, lambda place: None, lambda refusal: None)
    clock.advance(0)
    peer.forget()
    assert (endpoint.asked, endpoint.cancelled, peer.open) == (1, 0, 1)
    waiting.cancel()
    assert endpoint.cancelled == 0  # somebody else may want it soon
    peer.forget()
    assert (endpoint.cancelled, peer.open, clock.getDelayedCalls()) == (1, 0, [])


def test_one_who_is_told_may_give_up_for_another() -> None:
    told: list[str] = []
    clock, _, pool = lonely(Nowhere())

    def refused(refusal: object) -> None:
        told.append("first")
        second.cancel()

    pool.wait(clock, 5.0, lambda place: None, refused)
    second = pool.wait(clock, 5.0, lambda place: None, lambda refusal: told.append("second"))
    clock.pump([0, 6, 0, 0])
    assert (told, pool._queue) == (["first"], {})
