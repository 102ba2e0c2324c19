"""What a client may leave standing on an HTTP/2 connection: it costs little, and comes to an end."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from rproxy.wire.http2_frames import PREFACE
from tests.http2_world import Http2World
from tests.http_world import Stream, making, request, response
from tests.wire.http2_talk import DATA, GET, frame, head, rst, settings, window

Making = Callable[..., Http2World]
WEBSOCKET = [(b":method", b"CONNECT"), (b":protocol", b"websocket"), *GET[1:]]
OK = response(b"Content-Length: 0")


@pytest.fixture
def worlds() -> Iterator[Making]:
    yield from making(Http2World)


def joined(world: Http2World, said: bytes = b"") -> Stream:
    return world.connect().send(PREFACE + settings(window=1 << 20) + said)


def test_bytes_that_wait_one_by_one_are_given_on_in_time_and_at_once(worlds: Making) -> None:
    world = worlds(response_timeout=600.0)
    client = joined(world)
    for number in (1, 3):
        client.send(head(number, WEBSOCKET, end=False))
        world.asked().read()
    for _ in range(50):
        world.wait(1)  # as slowly as frames of one byte may come
        client.send((frame(DATA, 0, 1, b"x") + frame(DATA, 0, 3, b"x")) * 1000)
    while world.server._put_off:
        world.loop.spin()
    stream = world.server.streams[1]
    assert (len(stream._waiting), sum(len(piece) for piece, _ in stream._waiting)) == (25, 50_000)
    stream.awaits_tunnel, begun = False, time.thread_time()
    stream.hold_body(False)
    assert time.thread_time() - begun < 0.1
    assert not stream._waiting


def test_streams_that_are_over_do_not_wait_for_the_window_of_the_connection(worlds: Making) -> None:
    world = worlds()
    client = joined(world, head(1))
    peer = world.asked()
    peer.read()
    peer.send(response(b"Content-Length: 70000", body=b"x" * 70000))
    client.send(head(3))
    for number in range(3, 43, 2):
        peer.read()
        peer.send(response(b"Content-Length: 3", body=b"abc"))
        client.send(rst(number), head(number + 2))
    assert len(world.server._turns._blocked) <= 1
    assert [*world.server.streams] == [1, 43]


def test_a_client_that_has_ended_and_takes_nothing_is_cut_off(worlds: Making) -> None:
    world = worlds()
    client = world.connect()
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2304)
    world.servers[-1].transport.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    client.send(PREFACE + settings(window=1 << 20) + window(0, 1 << 20) + head(1))
    peer = world.asked()
    peer.read()
    peer.send(response(b"Content-Length: 60000", body=b"x" * 60000))
    client.finish()
    server = world.server
    assert server.connected
    world.wait(200)
    assert not server.connected


def test_a_client_that_has_ended_and_waits_is_not_asked_whether_it_lives(worlds: Making) -> None:
    world = worlds()
    client = world.client()
    number = client.begin()
    peer = world.asked()
    peer.read()
    client.wire.finish()
    world.wait(58)
    peer.send(OK)
    assert client.take()[number].status == 200


@pytest.mark.parametrize("leave", [lambda client: client.send(rst(1)), lambda client: client.reset()])
def test_a_tunnel_that_is_reset_is_reset_for_the_peer(worlds: Making, leave: Any) -> None:
    """RFC 9113 §8.5; else what was cut off would look whole."""
    world = worlds(allow_connect=True)
    client = joined(world, head(1, [(b":method", b"CONNECT"), (b":authority", b"a:443")], end=False))
    peer = world.asked()
    peer.read()
    peer.send(b"HTTP/1.1 200 OK\r\n\r\n")
    client.send(frame(DATA, 0, 1, b"part"))
    assert peer.read() == b"part"
    leave(client)
    world.loop.spin(3)
    assert peer.read() == b"<reset>"


def test_an_answer_is_whole_though_the_client_has_asked_on(worlds: Making) -> None:
    """HTTP/1: it was not told that the connection would end."""
    world = worlds()
    client = world.connect(receive_buffer=4096).send(request(b"/x"))
    peer = world.asked()
    world.servers[-1].drain()
    answer = response(b"Content-Length: 60000", body=b"x" * 60000)
    peer.send(answer)
    world.loop.spin(3)
    client.socket.send(request(b"/y"))
    got = b""
    for _ in range(2000):
        world.loop.spin()
        try:
            piece = client.socket.recv(4096)
        except BlockingIOError:
            continue
        got += piece
        if not piece:
            break
    assert got.endswith(b"x" * 60000)


def test_two_that_talk_with_each_other_may_do_so_slowly(worlds: Making) -> None:
    """`min_body_rate` is about uploads that nobody answers yet; a gRPC call may carry a byte now and then."""
    world = worlds()
    client = world.client()
    number = client.begin(method=b"POST", end=False)
    peer = world.asked()
    peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(30):
        client.send(number, b"x")
        peer.send(b"1\r\ny\r\n")
        world.wait(2)
    assert (client.take()[number].reset, len(client.answers[number].body)) == (None, 30)
