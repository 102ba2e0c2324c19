"""Peers that answer before they have all of a request: what waits for them is let go, and holds up nobody."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rproxy.upstream.http2_upload import MOST_QUEUED
from tests.http2_peers import OK, Http2PeerWorld
from tests.http_world import GET, body_of, statuses_of
from tests.wire.http2_talk import rst

CHUNK = bytes(16384)
CHUNKED = b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
NO_ERROR = 0


@pytest.fixture
def world() -> Iterator[Http2PeerWorld]:
    made = Http2PeerWorld()
    yield made
    made.end()


def test_an_early_answer_ends_the_request_and_drops_what_waits_of_it(world: Http2PeerWorld) -> None:
    client = world.client()
    number = client.begin(method=b"POST", end=False)
    peer = world.peer(credit=False)
    for _ in range(10):
        client.upload(number, CHUNK, end=False)
    stream = world.pool.connections[0].streams[1]
    assert (len(peer.take()[1].body), stream.queued >= MOST_QUEUED) == (65535, True)
    peer.answer(1, b"enough")
    assert (client.take()[number].body, client.answers[number].ended) == (b"enough", True)
    assert client.answers[number].reset == NO_ERROR  # RFC 9113 §8.1: it need not go on
    assert (peer.take()[1].reset, peer.asked[1].ended) == (NO_ERROR, False)
    assert (stream.queued, len(stream._queue), world.pool.connections[0].streams) == (0, 0, {})
    assert world.open == [0]


def test_requests_answered_early_leave_nothing_in_line(world: Http2PeerWorld) -> None:
    """The connection's window is used up, so all of them wait; and it is never opened again."""
    client = world.client()
    first = client.begin(method=b"POST", end=False)
    peer = world.peer(credit=False)
    client.upload(first, CHUNK * 4, end=False)
    line = world.pool.connections[0]._line
    for number in range(3, 103, 2):
        stream = client.begin(method=b"POST", end=False)
        client.upload(stream, CHUNK, end=False)
        peer.take()
        peer.answer(number, b"enough")
        assert client.take()[stream].body == b"enough"
        assert len(line) <= 1


def test_requests_that_are_reset_leave_nothing_in_line(world: Http2PeerWorld) -> None:
    client = world.client()
    first = client.begin(method=b"POST", end=False)
    peer = world.peer(credit=False)
    client.upload(first, CHUNK * 4, end=False)
    line = world.pool.connections[0]._line
    for number in range(3, 43, 2):
        stream = client.begin(method=b"POST", end=False)
        client.upload(stream, CHUNK, end=False)
        peer.take()
        if number % 4 == 1:
            client.reset(stream)
        else:
            peer.reset(number, 2)
        assert len(line) <= 1


def test_what_comes_behind_an_early_answer_is_sent_to_nobody(world: Http2PeerWorld) -> None:
    client = world.client()
    number = client.begin(method=b"POST", end=False)
    peer = world.peer()
    peer.take()
    peer.respond(1, [(b":status", b"413")], end=True)
    assert client.take()[number].status == 413
    client.upload(number, CHUNK * 3, end=False)
    client.send(number, b"", end=True)
    assert (peer.take()[1].body, peer.asked[1].reset, peer.gone) == (b"", NO_ERROR, None)
    assert (world.server.streams, world.open) == ({}, [0])


def test_a_client_of_http1_gets_an_early_answer(world: Http2PeerWorld) -> None:
    client = world.connect().send(CHUNKED + b"4000\r\n" + CHUNK + b"\r\n")
    peer = world.peer(credit=False)
    peer.take()
    peer.answer(1, b"enough", [*OK, (b"content-length", b"6")])
    assert body_of(client.read()).startswith(b"enough")
    assert (world.pool.connections[0].streams, world.open) == ({}, [0])


def test_a_request_that_ends_after_its_early_answer_says_nothing_more(world: Http2PeerWorld) -> None:
    """Its answer has come and waits for a client that takes none of it; the peer still takes the request."""
    client = world.client(settings={4: 10}, credit=False)
    number = client.begin(method=b"POST", end=False)
    peer = world.peer()
    peer.take()
    peer.respond(1)
    peer.upload(1, CHUNK * 10)
    peer.send(1, b"", end=True)
    client.send(number, b"late", end=True)
    assert (peer.take()[1].body, peer.asked[1].ended) == (b"late", True)
    client.h2.increment_flow_control_window(1 << 24)
    client.h2.increment_flow_control_window(1 << 24, number)
    client.flush()
    assert (len(client.take()[number].body), client.answers[number].ended) == (10 * len(CHUNK), True)
    assert world.open == [0]


@pytest.mark.parametrize("how", ["no error", "lost"])
def test_nobody_is_held_back_for_a_peer_that_listens_no_more(world: Http2PeerWorld, how: str) -> None:
    """A client that sends all before it takes the answer: that is there, and waits for it to have done so."""
    client = world.client(settings={4: 10}, credit=False)
    number = client.begin(method=b"POST", end=False)
    peer = world.peer(credit=False)
    peer.take()
    while client.upload(number, CHUNK, end=False):
        pass
    stream = world.pool.connections[0].streams[1]
    assert stream.queued >= MOST_QUEUED
    peer.respond(1)
    assert peer.upload(1, CHUNK * 10) == 10 * len(CHUNK)
    peer.send(1, b"y", end=True)
    assert client.upload(number, CHUNK, end=False) == 0
    if how == "no error":
        peer.raw(rst(1, NO_ERROR))
    else:
        peer.wire.leave()
    world.loop.spin()
    sent = sum(client.upload(number, CHUNK, end=False) for _ in range(100))
    assert (sent, stream.queued, len(stream._queue)) == (100 * len(CHUNK), 0, 0)
    client.h2.increment_flow_control_window(1 << 20)
    client.h2.increment_flow_control_window(1 << 20, number)
    client.flush()
    answer = client.take()[number]
    assert (len(answer.body), answer.body[-1:], answer.ended) == (10 * len(CHUNK) + 1, b"y", True)


def test_an_early_answer_that_waits_for_its_client_still_lets_others_ask(world: Http2PeerWorld) -> None:
    slow = world.client(settings={4: 10}, credit=False)
    number = slow.begin(method=b"POST", end=False)
    peer = world.peer(credit=False)
    slow.upload(number, CHUNK * 5, end=False)
    peer.take()
    peer.respond(1)
    peer.upload(1, CHUNK * 10)
    peer.send(1, b"", end=True)
    quick = world.connect().send(GET)
    peer.take()
    peer.answer(3, b"ok")
    assert statuses_of(quick.read()) == [200]
