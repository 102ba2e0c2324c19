"""Who sends next on a connection: in turns, and whoever cannot does not hold up the others."""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from rproxy.upstream.asking import Asking
from rproxy.upstream.http2_client import Http2Client
from rproxy.upstream.http2_line import Line
from rproxy.upstream.http2_pool import Http2Pool
from rproxy.upstream.http2_stream import Http2Stream
from rproxy.upstream.http_client import HttpPeer
from rproxy.wire.message import Fields, Framing, Headers, Request
from tests.wire.http2_talk import DATA, END_STREAM, said, settings, window

WHOLE = 16384


def post() -> Request:
    none: frozenset[bytes] = frozenset()
    return Request(
        b"POST", b"/", b"/", b"a", b"http", 20, Headers(()), Framing.CHUNKED, 0, True, False, none, b""
    )


class Setup:
    """A connection whose streams have something to send, and nobody who lets them."""

    def __init__(self, room: int = 1 << 20, stream_room: int = 1 << 20) -> None:
        place = (socket.AF_INET, ("127.0.0.1", 1))
        peer: Any = HttpPeer("p", authority=b"p", fixed=[place], http2=Http2Pool)
        self.client: Any = Http2Client(peer, Clock(), peer.pool, self._keep)
        self.client.makeConnection(StringTransport())
        self.client.dataReceived(settings(window=stream_room) + window(0, room - 65535))
        self.client.full = True
        self.line: Line = self.client._line
        self.client.codec.output()

    def _keep(self, first: Any) -> None:
        """The place for which an unshared connection is made; it is not used."""

    def stream(self, frames: int) -> Http2Stream:
        """A request with so many full frames."""
        stream = Http2Stream(self.client)
        stream.ask(Asking(), post(), b"/", Fields([]), False, True)
        for _ in range(frames):
            stream.send_piece(bytes(WHOLE))
        return stream

    def sent(self) -> list[int]:
        """On which streams full frames of bodies were sent, in their order."""
        return [one.stream for one in said(self.client.codec.output()) if one.kind == DATA and one.payload]


def test_streams_send_a_frame_each_in_turns() -> None:
    it = Setup()
    for frames in (3, 1, 2):
        it.stream(frames)
    assert it.line.give(1 << 20) is False
    assert it.sent() == [1, 3, 5, 1, 5, 1]
    assert (it.line.sent, len(it.line)) == (6 * WHOLE, 0)


def test_nobody_stands_in_it_twice_or_for_nothing() -> None:
    it = Setup()
    one, other = it.stream(1), it.stream(0)
    it.line.stand(one)
    it.line.stand_all([one, other])
    assert len(it.line) == 1
    it.line.give(1 << 20)
    assert (it.sent(), one.in_line, other.in_line) == ([1], False, False)


def test_it_stops_when_that_is_enough_for_once() -> None:
    it = Setup()
    it.stream(5), it.stream(5)
    assert it.line.give(3 * WHOLE) is True
    assert it.sent() == [1, 3, 1]
    it.line.sent = 0
    assert it.line.give(2 * WHOLE) is True
    assert it.sent() == [3, 1]


def test_whoever_has_no_window_steps_out() -> None:
    it = Setup(stream_room=WHOLE)
    stuck, other = it.stream(3), it.stream(1)
    it.line.give(1 << 20)
    assert (it.sent(), stuck.in_line, other.in_line) == ([1, 3], False, False)
    it.client.codec.hear(window(1, 2 * WHOLE), 0.0)
    it.line.stand(stuck)
    it.line.give(1 << 20)
    assert it.sent() == [1, 1]


def test_without_room_on_the_connection_everybody_stays() -> None:
    it = Setup(room=5 * WHOLE)
    it.stream(5), it.stream(5)
    assert it.line.give(1 << 20) is False
    assert (it.sent(), len(it.line)) == ([1, 3, 1, 3, 1], 2)
    it.client.codec.hear(window(0, 2 * WHOLE), 0.0)
    it.line.give(1 << 20)
    assert it.sent() == [3, 1]


def test_an_end_is_sent_in_its_turn() -> None:
    it = Setup()
    it.stream(2).send_end(None)
    it.line.give(1 << 20)
    flags = [one.flags for one in said(it.client.codec.output()) if one.kind == DATA]
    assert flags == [0, END_STREAM]


USED_UP = 5 * WHOLE
"""Room that the first of two streams with as many frames and one more leaves nothing of."""


def used_up(frames: int = 5) -> tuple[Setup, Http2Stream, Http2Stream]:
    """A connection without room, and two that wait for it; the first one still has a frame to send."""
    it = Setup(room=USED_UP)
    first, second = it.stream(frames), it.stream(1)
    it.line.give(1 << 20)
    assert it.sent() == [1, 3, 1, 1, 1]
    third = it.stream(1)
    it.line.give(1 << 20)
    assert (it.sent(), len(it.line), second.in_line) == ([], 2, False)
    return it, first, third


def test_an_end_does_not_wait_for_the_window_of_the_connection() -> None:
    it, *_ = used_up()
    ending = it.stream(0)
    ending.send_end(None)
    assert it.line.give(1 << 20) is False
    ends = [(one.stream, one.flags) for one in said(it.client.codec.output()) if one.kind == DATA]
    assert (ends, len(it.line), ending.in_line) == ([(7, END_STREAM)], 2, False)


def test_whoever_steps_aside_keeps_the_place() -> None:
    it, *_ = used_up()
    it.stream(1)
    it.client.codec.hear(window(0, 4 * WHOLE), 0.0)
    it.line.give(1 << 20)
    assert it.sent() == [1, 5, 7]


def test_whoever_leaves_does_not_wait_for_window_either() -> None:
    it, leaving, staying = used_up()
    it.line.leave(leaving)
    it.line.leave(leaving)
    assert (len(it.line), leaving.in_line) == (1, False)
    it.client.codec.hear(window(0, 4 * WHOLE), 0.0)
    it.line.give(1 << 20)
    assert (it.sent(), staying.in_line) == ([5], False)


def test_nobody_is_left_when_it_is_cleared() -> None:
    it, *_ = used_up()
    it.stream(1)
    it.line.clear()
    it.client.codec.hear(window(0, 4 * WHOLE), 0.0)
    assert (it.line.give(1 << 20), it.sent(), len(it.line)) == (False, [], 0)
