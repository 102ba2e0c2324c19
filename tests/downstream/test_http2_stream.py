"""One request of an HTTP/2 connection: who is slower holds the other back, and nobody else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

import pytest

from rproxy.downstream.http2_stream import MOST_QUEUED
from rproxy.wire.http2_settings import CONNECTION_WINDOW, STREAM_WINDOW
from tests.http2_world import Http2World
from tests.http_world import OK, head_of, making

Making = Callable[..., Http2World]
KERNEL = 8 << 20
"""More than the sockets of a connection hold."""
READ = 1 << 16
"""Bytes of one read of a transport."""


@pytest.fixture
def worlds() -> Iterator[Making]:
    yield from making(Http2World)


def large(size: int) -> bytes:
    return Random(size).randbytes(size)


def announced(size: int) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size


# -- responses


def test_a_large_response_arrives_as_it_was_sent(worlds: Making) -> None:
    world, octets = worlds(), large(3_000_000)
    client = world.client()
    number = client.begin()
    peer = world.asked()
    assert client.download(peer, announced(len(octets)) + octets) > len(octets)
    assert client.answers[number].body == octets
    assert client.answers[number].ended


def test_a_response_waits_for_the_window_and_its_peer_waits_too(worlds: Making) -> None:
    world, octets = worlds(), large(10_000_000)
    client = world.client(credit=False)
    number = client.begin()
    peer = world.asked()
    taken = client.download(peer, announced(len(octets)) + octets)
    (stream,) = world.server.streams.values()
    assert len(client.answers[number].body) == 65535
    assert stream._queued <= MOST_QUEUED + READ
    assert taken < KERNEL
    client.credit = True
    client.h2.acknowledge_received_data(65535, number)
    client.flush()
    client.download(peer, (announced(len(octets)) + octets)[taken:])
    assert client.answers[number].body == octets


def test_a_response_waits_for_a_client_that_does_not_read_its_socket(worlds: Making) -> None:
    world = worlds()
    big = (1 << 31) - 1
    client = world.client(settings={4: big}, receive_buffer=4096)
    client.h2.increment_flow_control_window(big - 65535)
    client.flush()
    client.begin()
    peer = world.asked()
    assert peer.push(announced(64 << 20) + bytes(64 << 20)) < KERNEL
    (stream,) = world.server.streams.values()
    transport = world.servers[0].transport
    assert stream._queued <= MOST_QUEUED + READ
    assert len(transport.dataBuffer) + transport._tempDataLen < 3 * READ


def test_a_stream_whose_client_does_not_take_it_holds_up_no_other(worlds: Making) -> None:
    world, octets = worlds(), large(5_000_000)
    client = world.client(credit=False)
    stuck = client.begin()
    world.asked().push(announced(10 << 20) + bytes(10 << 20))
    client.take()
    client.h2.increment_flow_control_window(100 << 20)
    client.credit = True
    other = client.begin()
    client.download(world.asked(), announced(len(octets)) + octets)
    assert client.answers[other].body == octets
    assert client.answers[other].ended
    assert len(client.answers[stuck].body) == 65535


def test_a_connection_that_is_opened_a_little_at_a_time_serves_all_alike(worlds: Making) -> None:
    world = worlds()
    client = world.client(credit=False, settings={4: 10 << 20})
    numbers = [client.begin() for _ in range(4)]
    for _ in numbers:
        world.asked().push(announced(1 << 20) + bytes(1 << 20))
    client.take()
    before = [len(client.answers[number].body) for number in numbers]
    for _ in range(16):
        client.h2.increment_flow_control_window(16384)
        client.flush()
        client.take()
    sizes = [len(client.answers[n].body) - size for n, size in zip(numbers, before, strict=True)]
    assert sum(sizes) == 16 * 16384
    assert max(sizes) - min(sizes) <= 2 * 16384


@pytest.mark.parametrize("size", [1, 2, 5])
def test_windows_of_a_few_bytes_are_served(worlds: Making, size: int) -> None:
    client = worlds().client(settings={4: size})
    number = client.begin()
    client.world.asked().send(announced(10) + b"0123456789")
    answer = client.take()[number]
    assert (answer.body, answer.ended) == (b"0123456789", True)


def test_a_window_that_becomes_negative_is_waited_for(worlds: Making) -> None:
    client = worlds().client(credit=False)
    number = client.begin()
    peer = client.world.asked()
    client.download(peer, announced(80000) + bytes(80000))
    client.h2.update_settings({4: 1000})
    client.flush()
    client.take()
    client.h2.increment_flow_control_window(70000)
    client.h2.increment_flow_control_window(64535, number)
    client.flush()
    assert len(client.take()[number].body) == 65535
    client.h2.increment_flow_control_window(20000, number)
    client.flush()
    assert len(client.take()[number].body) == 80000


# -- requests


def test_a_large_body_arrives_as_it_was_sent(worlds: Making) -> None:
    world, octets = worlds(), large(3_000_000)
    client = world.client()
    number = client.begin(b"/", (b"content-length", b"%d" % len(octets)), method=b"PUT", end=False)
    peer = world.asked()
    asked, sent = b"", 0
    while sent < len(octets):
        sent += client.upload(number, octets[sent : sent + 100_000], end=sent + 100_000 >= len(octets))
        asked += peer.read()
    peer.send(OK)
    assert asked.partition(b"\r\n\r\n")[2] + peer.read() == octets
    assert client.take()[number].ended


def test_a_body_whose_peer_takes_nothing_is_held_back(worlds: Making) -> None:
    world = worlds()
    client = world.client()
    number = client.begin(method=b"POST", end=False)
    peer = world.asked()
    sent = client.upload(number, bytes(64 << 20))
    assert sent < KERNEL + STREAM_WINDOW
    (stream,) = world.server.streams.values()
    assert sum(len(piece) for piece, _ in stream._waiting) <= STREAM_WINDOW
    assert len(peer.all(sent)) >= sent
    assert client.upload(number, bytes(1 << 20)) > 0


def test_a_body_that_is_held_back_holds_up_no_other(worlds: Making) -> None:
    world, octets = worlds(), large(4 * CONNECTION_WINDOW)
    client = world.client()
    for _ in range(3):
        stuck = client.begin(method=b"POST", end=False)
        world.asked()
        client.upload(stuck, bytes(16 << 20))
    number = client.begin(method=b"POST", end=False)
    peer = world.asked()
    sent, asked = 0, b""
    for _ in range(1000):
        if sent == len(octets):
            break
        sent += client.upload(number, octets[sent : sent + 100_000], end=False)
        asked += peer.read()
    assert sent == len(octets)


def test_a_body_that_comes_while_a_peer_is_looked_for_is_sent_to_it(worlds: Making) -> None:
    world = worlds()
    client = world.client()
    number = client.begin(method=b"POST", end=False)
    client.h2.send_data(number, b"early")
    client.h2.send_data(number, b"", end_stream=True)
    client.flush()
    peer = world.asked()
    assert peer.read().endswith(b"5\r\nearly\r\n0\r\n\r\n")
    peer.send(OK)
    assert client.take()[number].body == b"ok"


def test_window_for_bytes_that_nobody_has_use_for_is_given_back(worlds: Making) -> None:
    world = worlds(max_body=1000)
    client = world.client()
    for _ in range(2 * CONNECTION_WINDOW // STREAM_WINDOW):
        world.wait(20)
        number = client.begin(method=b"POST", end=False)
        peer = world.asked()
        client.upload(number, bytes(STREAM_WINDOW), end=False)
        assert client.take()[number].status == 413
        peer.leave()
    assert client.h2.outbound_flow_control_window > CONNECTION_WINDOW // 3


def test_the_head_of_the_peers_request_has_the_clients_length(worlds: Making) -> None:
    world = worlds()
    client = world.client()
    number = client.begin(b"/", (b"content-length", b"0"), method=b"POST")
    peer = world.asked()
    assert head_of(peer.read())[1][b"content-length"] == b"0"
    peer.send(OK)
    assert client.take()[number].ended
