"""Answers that come before all of a request has: they arrive, and what still comes is let go, for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from rproxy.downstream.http2_stream import MOST_DISCARDED
from rproxy.wire.http2_settings import CONNECTION_WINDOW, STREAM_WINDOW
from tests.http2_world import Client, Http2World
from tests.http_world import SLACK, Stream, making, response

Making = Callable[..., Http2World]
CHUNK = bytes(16384)
SMALL_WINDOW = {4: 10}
NO_ERROR, CANCEL = 0, 8


@pytest.fixture
def worlds() -> Iterator[Making]:
    yield from making(Http2World)


def asked(world: Http2World, **options: object) -> tuple[Client, int, Stream]:
    """A client that has begun to send a body, and the peer that gets it."""
    client = world.client(**options)  # type: ignore[arg-type]
    number = client.begin(method=b"POST", end=False)
    peer = world.asked()
    peer.read()
    return client, number, peer


def test_an_early_answer_arrives_and_the_client_is_told_to_stop(worlds: Making) -> None:
    client, number, peer = asked(worlds())
    client.send(number, b"some")
    peer.send(response(b"Content-Length: 2", body=b"ok"))
    answer = client.take()[number]
    assert (answer.body, answer.ended, answer.reset) == (b"ok", True, NO_ERROR)
    assert client.world.server.streams == {}


def test_what_waits_for_a_peer_that_has_answered_is_given_back(worlds: Making) -> None:
    """Else the window of the connection would shrink with each of them."""
    world = worlds()
    client = world.client()
    for _ in range(2 * CONNECTION_WINDOW // STREAM_WINDOW):
        number = client.begin(method=b"POST", end=False)
        peer = world.asked()
        client.upload(number, bytes(16 << 20), end=False)  # the peer takes none of it
        stream = world.server.streams[number]
        assert stream._waiting
        peer.socket.send(response(b"Content-Length: 2", body=b"ok"))
        assert client.take()[number].body == b"ok"
        assert not stream._waiting
    assert client.h2.outbound_flow_control_window > CONNECTION_WINDOW // 3


def test_an_early_answer_waits_for_window_while_the_client_goes_on(worlds: Making) -> None:
    client, number, peer = asked(worlds(), settings=SMALL_WINDOW, credit=False)
    peer.send(response(b"Content-Length: 1000", body=b"x" * 1000))
    sent = sum(client.upload(number, CHUNK, end=False) for _ in range(100))
    assert (sent, len(client.take()[number].body)) == (100 * len(CHUNK), 10)
    client.h2.increment_flow_control_window(990, number)
    client.flush()
    answer = client.take()[number]
    assert (answer.body, answer.ended, answer.reset) == (b"x" * 1000, True, NO_ERROR)


def test_a_client_that_goes_on_and_takes_no_answer_is_not_waited_for(worlds: Making) -> None:
    """What it sends is of no use any more, so it is no sign of life either."""
    world = worlds(body_timeout=30.0)
    client, number, peer = asked(world, settings=SMALL_WINDOW, credit=False)
    peer.send(response(b"Content-Length: 1000", body=b"x" * 1000))
    for _ in range(3):
        world.wait(9)
        client.send(number, b"on and on")
        assert client.take()[number].reset is None
    world.wait(30 - 27 + 2 * SLACK)  # it is looked at every 5 s, also the first time
    assert client.take()[number].reset == CANCEL
    assert world.server.streams == {}


def test_a_client_that_takes_the_answer_bit_by_bit_gets_it(worlds: Making) -> None:
    world = worlds(body_timeout=30.0)
    client, number, peer = asked(world, settings=SMALL_WINDOW, credit=False)
    peer.send(response(b"Content-Length: 100", body=b"x" * 100))
    for _ in range(9):
        world.wait(25)
        client.h2.increment_flow_control_window(10, number)
        client.flush()
    answer = client.take()[number]
    assert (answer.body, answer.ended) == (b"x" * 100, True)


def test_a_refused_client_that_goes_on_is_stopped_after_so_many_bytes(worlds: Making) -> None:
    client, number, peer = asked(worlds())
    peer.send(response(b"Content-Length: 2", body=b"no", status=b"403 Forbidden"))
    assert (client.take()[number].status, client.answers[number].reset) == (403, None)
    sent = 0
    while client.answers[number].reset is None and sent < 2 * MOST_DISCARDED:
        sent += client.upload(number, CHUNK, end=False)
    assert client.take()[number].reset == NO_ERROR
    assert MOST_DISCARDED <= sent <= MOST_DISCARDED + 2 * len(CHUNK)


def test_many_early_answers_on_one_connection_leave_nothing(worlds: Making) -> None:
    world = worlds()
    client = world.client(credit=False)
    numbers = [client.begin(method=b"POST", end=False) for _ in range(20)]
    for number in numbers:
        client.upload(number, CHUNK, end=False)
    for _ in numbers:
        world.asked().send(response(b"Content-Length: 10000", body=b"x" * 10000))
    client.take()
    assert sum(len(answer.body) for answer in client.answers.values()) == 65535
    waiting = [number for number in numbers if not client.answers[number].ended]
    for number in waiting[::2]:
        client.reset(number)
    client.h2.increment_flow_control_window(1 << 20)
    client.flush()
    client.take()
    assert [len(client.answers[number].body) for number in waiting[1::2]] == [10000] * (len(waiting) // 2)
    assert (world.server.streams, len(world.server._turns._line), world.server._turns._blocked) == ({}, 0, {})
