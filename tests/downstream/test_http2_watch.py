"""Time limits on HTTP/2 clients: idle, half a head, slow bodies, slow readers, clients that are no more."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from rproxy.downstream.http2_watch import PING_AFTER, PONG_WITHIN
from rproxy.downstream.http_watch import LINGER, HttpLimits
from rproxy.wire.http2_frames import PREFACE
from tests.http2_world import Http2World
from tests.http_world import OK, SLACK, Stream, making
from tests.wire.http2_talk import (
    ACK,
    GET,
    GOAWAY,
    HEADERS,
    PING,
    SETTINGS,
    block,
    frame,
    head,
    said,
    settings,
)

Making = Callable[..., Http2World]


@pytest.fixture
def worlds() -> Iterator[Making]:
    yield from making(Http2World)


def raw(world: Http2World) -> Stream:
    wire = world.connect().send(PREFACE + settings() + frame(SETTINGS, ACK))
    wire.read()
    return wire


def test_an_idle_connection_is_told_and_closed(worlds: Making) -> None:
    world = worlds()
    client = world.client()
    client.begin()
    world.asked().send(OK)
    client.take()
    world.wait(70)
    assert client.closed == b""
    world.wait(5 + SLACK)
    client.take()
    assert client.gone is not None
    assert (client.gone.error_code, client.closed) == (0, b"<end>")


def test_pings_do_not_keep_an_idle_connection(worlds: Making) -> None:
    world = worlds()
    wire = raw(world)
    for _ in range(8):
        wire.send(frame(PING, payload=bytes(8)))
        world.wait(10)
    world.wait(SLACK)
    assert wire.read().endswith(b"<end>")


@pytest.mark.parametrize(
    "octets",
    [
        PREFACE[:20],
        PREFACE + settings() + frame(HEADERS, 0, 1, block(GET)),
        PREFACE + settings() + head(1)[:-1],
        PREFACE + settings() + b"\0\0",
    ],
    ids=["preface", "section", "frame", "frame's head"],
)
def test_half_a_head_is_not_waited_for(worlds: Making, octets: bytes) -> None:
    world = worlds()
    wire = world.connect().send(octets)
    wire.read()
    world.wait(20)
    world.wait(SLACK + SLACK)
    (last,) = said(wire.read().removesuffix(b"<end>"))
    assert (last.kind, last.payload[-1]) == (GOAWAY, 11)
    world.wait(LINGER + 1)
    assert len(world.connections) == 0


def test_a_trickled_section_is_half_a_head_too(worlds: Making) -> None:
    world = worlds()
    wire = raw(world)
    octets = frame(HEADERS, 4, 1, block(GET))
    for octet in octets[:40]:
        if not wire.open:
            break
        wire.send(bytes([octet]))
        world.wait(1)
        wire._take()
    assert wire.got.endswith(b"<end>")


def test_heads_that_follow_each_other_are_not(worlds: Making) -> None:
    world = worlds()
    wire = raw(world)
    rest = b""
    for number in range(1, 101, 2):
        octets = head(number, [*GET[:3], (b":path", b"/a/../b")])
        wire.send(rest + octets[:5])
        rest = octets[5:]
        world.wait(1)
    assert wire.open
    assert not [one for one in said(wire.read()) if one.kind == GOAWAY]


def test_a_client_that_is_gone_without_a_word_is_found_out(worlds: Making) -> None:
    world = worlds(response_timeout=10_000.0)
    wire = raw(world)
    wire.send(head(1))
    peer = world.asked()
    world.wait(PING_AFTER + SLACK)
    (ping,) = said(wire.read())
    assert (ping.kind, ping.flags) == (PING, 0)
    world.wait(PONG_WITHIN + SLACK)
    assert wire.read() == b"<reset>"
    assert peer.read().endswith(b"<reset>")


def test_a_client_that_answers_may_wait_for_long(worlds: Making) -> None:
    world = worlds(response_timeout=10_000.0)
    client = world.client()
    number = client.begin()
    peer = world.asked()
    for _ in range(60):
        world.wait(10)
        client.take()
    peer.send(OK)
    assert client.take()[number].body == b"ok"


def test_a_peer_that_does_not_answer_is_a_page(worlds: Making) -> None:
    world = worlds()
    client = world.client()
    number = client.begin()
    peer = world.asked()
    for _ in range(14):
        world.wait(5)
        client.take()
    assert client.answers[number].status == 504
    assert peer.read().endswith(b"<reset>")
    assert client.closed == b""


def test_a_peer_that_stops_in_the_middle_ends_its_stream_only(worlds: Making) -> None:
    world = worlds()
    client = world.client()
    number = client.begin()
    world.asked().send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
    for _ in range(15):
        world.wait(5)
        client.take()
    assert client.answers[number].reset == 2
    assert [line[:2] for line in world.answers.lines] == [(200, "peer_timeout")]
    assert client.closed == b""


def test_a_body_that_stops_is_refused(worlds: Making) -> None:
    world = worlds(limits=HttpLimits(min_rate=0))
    client = world.client()
    number = client.begin(method=b"POST", end=False)
    peer = world.asked()
    client.send(number, b"x")
    for _ in range(14):
        world.wait(5)
        client.take()
    assert client.answers[number].status == 408
    assert peer.read().endswith(b"<reset>")


def test_a_trickled_body_is_refused(worlds: Making) -> None:
    world = worlds()
    client = world.client()
    number = client.begin(method=b"POST", end=False)
    world.asked()
    for _ in range(10):
        client.send(number, b"x" * 50)
        world.wait(1)
    world.wait(SLACK)
    assert client.take()[number].status == 408


def test_a_client_that_waits_for_continue_is_not_slow(worlds: Making) -> None:
    world = worlds()
    client = world.client()
    expect = ((b"expect", b"100-continue"), (b"content-length", b"30000"))
    number = client.begin(b"/", *expect, method=b"PUT", end=False)
    peer = world.asked()
    world.wait(25)
    peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert (client.take()[number].status, client.answers[number].interim) == (0, [100])


def test_a_body_that_its_peer_does_not_take_is_not_slow(worlds: Making) -> None:
    world = worlds(body_timeout=1000.0)
    client = world.client()
    number = client.begin(method=b"POST", end=False)
    world.asked()
    client.upload(number, bytes(64 << 20))
    for _ in range(30):
        world.wait(5)
        client.take()
    assert client.answers[number].status == 0


def test_a_window_that_is_never_opened_ends_its_stream_only(worlds: Making) -> None:
    world = worlds()
    client = world.client(settings={4: 0})
    number, small = client.begin(), client.begin()
    world.asked().push(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + bytes(1_000_000))
    world.asked().send(OK)
    for _ in range(15):
        world.wait(5)
        client.take()
    answers = client.answers
    assert (answers[number].status, answers[number].reset, answers[small].reset) == (200, 2, 8)
    assert sorted(line[:2] for line in world.answers.lines) == [(200, "client_left"), (200, "too_slow")]
    assert (client.closed, world.server.streams) == (b"", {})


def test_a_window_that_is_opened_late_is_not_too_late(worlds: Making) -> None:
    world = worlds()
    client = world.client(credit=False, settings={4: 0})
    number = client.begin()
    world.asked().send(OK)
    for _ in range(11):
        world.wait(5)
        client.take()
    client.h2.increment_flow_control_window(1, number)
    client.flush()
    for _ in range(11):
        world.wait(5)
        client.take()
    client.h2.increment_flow_control_window(1, number)
    client.flush()
    assert client.take()[number].body == b"ok"


def test_a_client_that_does_not_read_its_socket_is_cut_off(worlds: Making) -> None:
    world = worlds()
    big = (1 << 31) - 1
    client = world.client(settings={4: big}, receive_buffer=4096)
    client.h2.increment_flow_control_window(big - 65535)
    client.flush()
    client.begin()
    world.asked().push(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (64 << 20) + bytes(64 << 20))
    for _ in range(12):
        world.wait(5)
        client.wire.send(frame(PING, ACK, 0, b"rproxy-a"))
    assert len(world.connections) == 1
    world.wait(3 * SLACK)
    assert len(world.connections) == 0


def test_the_last_word_is_waited_for_and_not_for_ever(worlds: Making) -> None:
    world = worlds()
    wire = raw(world)
    wire.send(frame(8, 0, 0, bytes(4)))
    assert wire.read().endswith(b"<end>")
    assert len(world.connections) == 1
    world.wait(LINGER + 1)
    assert len(world.connections) == 0


def test_a_body_that_goes_on_is_waited_for(worlds: Making) -> None:
    """Nothing comes back meanwhile: what is received is a sign of life as well."""
    world = worlds(body_timeout=30.0)
    client = world.client()
    number = client.begin(method=b"POST", end=False)
    peer = world.asked()
    for _ in range(6):
        client.send(number, bytes(4000))
        world.wait(20)
        client.take()
    peer.send(OK)
    assert (client.take()[number].status, client.answers[number].body) == (200, b"ok")
