"""How a tunnel through a client's stream ends: while it waits for window, left alone, or under a GOAWAY."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from rproxy.downstream.http2_stream import MOST_QUEUED
from tests.downstream.test_http2_tunnel import ACCEPT, AGREED, WEBSOCKET
from tests.http2_world import Client, Http2World
from tests.http_world import SLACK, Stream, making
from tests.wire.http2_talk import DATA, END_STREAM, GOAWAY, PING, frame, said, window

Making = Callable[..., Http2World]
OCTETS = bytes(range(256)) * 400
SMALL_WINDOW = {4: 100}
NO_ERROR, CANCEL = 0, 8


@pytest.fixture
def worlds() -> Iterator[Making]:
    yield from making(Http2World)


def opened(world: Http2World, **options: Any) -> tuple[Client, int, Stream]:
    """A tunnel whose client gives no window back."""
    client = world.client(settings=SMALL_WINDOW, credit=False, **options)
    number = client.raw(WEBSOCKET, end=False)
    peer = world.asked()
    peer.read()
    peer.send(AGREED % ACCEPT)
    assert client.take()[number].status == 200
    return client, number, peer


def give_window(client: Client, number: int, count: int) -> None:
    client.h2.increment_flow_control_window(count)
    client.h2.increment_flow_control_window(count, number)
    client.flush()
    client.take()


def test_an_end_waits_behind_what_waits_for_window(worlds: Making) -> None:
    world = worlds()
    client, number, peer = opened(world)
    peer.send(OCTETS).finish()
    answer = client.take()[number]
    assert (answer.body, answer.ended) == (OCTETS[:100], False)
    give_window(client, number, 1)
    assert (answer.body, answer.ended) == (OCTETS[:101], False)
    give_window(client, number, 1 << 20)
    assert (answer.body, answer.ended, answer.reset) == (OCTETS, True, None)
    client.send(number, b"bye", end=True)
    assert peer.read() == b"bye<end>"
    assert (world.server.streams, world.open) == ({}, [0])


def test_an_end_behind_nothing_needs_no_window(worlds: Making) -> None:
    world = worlds()
    client, number, peer = opened(world)
    peer.send(OCTETS[:100]).finish()
    assert (client.take()[number].body, client.answers[number].ended) == (OCTETS[:100], True)
    client.send(number, b"", end=True)
    assert peer.read() == b"<end>"


def test_the_end_of_one_tunnel_does_not_wait_for_the_window_of_the_connection(worlds: Making) -> None:
    world = worlds()
    client, number, peer = opened(world)
    client.h2.increment_flow_control_window(1 << 20, number)
    client.flush()
    peer.send(OCTETS)
    assert len(client.take()[number].body) == 65535
    other = client.raw(WEBSOCKET, end=False)
    second = world.asked()
    second.read()
    second.send(AGREED % ACCEPT).finish()
    assert (client.take()[other].ended, client.answers[number].ended) == (True, False)
    client.send(other, b"", end=True)
    assert second.read() == b"<end>"


def test_a_client_that_has_ended_its_half_gets_the_rest(worlds: Making) -> None:
    world = worlds()
    client, number, peer = opened(world)
    peer.send(OCTETS).finish()
    client.send(number, b"bye", end=True)
    assert peer.read() == b"bye<end>"
    give_window(client, number, 1 << 20)
    answer = client.answers[number]
    assert (answer.body, answer.ended, answer.reset) == (OCTETS, True, None)
    assert (world.server.streams, world.open) == ({}, [0])
    assert [line[:2] for line in world.answers.lines] == [(200, "ok")]


@pytest.mark.parametrize("how", ["reset", "connection"])
def test_a_client_that_leaves_before_it_has_the_rest_leaves_nothing(worlds: Making, how: str) -> None:
    world = worlds()
    client, number, peer = opened(world)
    server = world.server
    peer.send(OCTETS).finish()
    if how == "reset":
        client.reset(number)
    else:
        client.wire.reset()
    assert peer.read() in (b"<end>", b"<reset>")
    assert (server.streams, world.open) == ({}, [0])


def test_a_client_that_takes_none_of_the_rest_is_not_waited_for_without_end(worlds: Making) -> None:
    world = worlds(tunnel_idle=30.0)
    client, number, peer = opened(world)
    peer.send(OCTETS).finish()
    client.send(number, b"", end=True)
    peer.read()
    world.wait(25)
    assert client.take()[number].reset is None
    world.wait(5 + 2 * SLACK)
    assert client.take()[number].reset == CANCEL
    assert (world.server.streams, world.open) == ({}, [0])


def test_a_peer_that_never_stops_is_held_back_from_its_first_byte_on(worlds: Making) -> None:
    """What comes in one read with its agreement is written before there is a producer to be paused."""
    world = worlds()
    client = world.client(settings=SMALL_WINDOW, credit=False)
    number = client.raw(WEBSOCKET, end=False)
    peer = world.asked()
    peer.read()
    peer.push(AGREED % ACCEPT + bytes(32 << 20))
    stream = world.server.streams[number]
    assert client.take()[number].status == 200
    assert MOST_QUEUED <= stream._queued <= 2 * MOST_QUEUED


def test_a_client_that_says_goaway_keeps_its_tunnel(worlds: Making) -> None:
    world = worlds()
    client, number, peer = opened(world)
    client.wire.send(frame(GOAWAY, 0, 0, bytes(8)))
    peer.send(OCTETS).finish()
    assert (len(client.take()[number].body), client.closed) == (100, b"")
    client.send(number, b"bye", end=True)
    assert peer.read() == b"bye<end>"
    give_window(client, number, 1 << 20)
    assert (client.answers[number].body, client.answers[number].ended) == (OCTETS, True)
    client.take()
    assert client.closed == b"<end>"


def test_a_drain_waits_for_an_end_that_waits_for_window(worlds: Making) -> None:
    world = worlds()
    client, number, peer = opened(world)
    peer.send(OCTETS).finish()
    client.send(number, b"", end=True)
    peer.read()
    client.take()
    world.server.drain()
    world.wait(2)
    assert [one.kind for one in said(client.wire.read())] == [GOAWAY, PING, GOAWAY]
    client.wire.send(window(0, 1 << 20) + window(number, 1 << 20))
    *rest, last = said(client.wire.read().removesuffix(b"<end>"))
    assert b"".join(one.payload for one in (*rest, last)) == OCTETS[100:]
    assert (last.kind, last.flags, client.wire.open) == (DATA, END_STREAM, False)
