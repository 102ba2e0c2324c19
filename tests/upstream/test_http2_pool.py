"""Shared connections to a peer: how many there are, who gets a place, what happens to those that end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from rproxy.upstream.http2_pool import Http2Pool
from rproxy.upstream.http2_requests import MOST_CANCELLED, MOST_SHARED, STREAMS
from rproxy.upstream.http_client import HttpPeer
from tests.http2_peers import OK, Http2PeerWorld, Peer
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


def test_no_more_requests_than_ours_are_on_one_connection(world: Http2PeerWorld) -> None:
    clients = [world.client() for _ in range(3)]
    for client in clients:
        for _ in range(50):
            client.begin()
    peers = [world.peer(settings={3: 1000}) for _ in range(2)]
    assert [len(peer.take()) for peer in peers] == [STREAMS, 50]


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


def test_fewer_streams_from_now_on(world: Http2PeerWorld) -> None:
    crowd(world, 3)
    peer = world.peer()
    assert len(peer.take()) == 3
    peer.set(max_concurrent_streams=1)
    crowd(world, 1)
    assert len(peer.take()) == 3
    assert len(world.peer().take()) == 1


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
