"""What both ends of a connection have in common: what is a breach, what is ignored, how bodies come."""

from __future__ import annotations

from typing import Any

import pytest

from rproxy.wire.http2_connection import JOIN_BELOW
from rproxy.wire.http2_events import Body, Broken, End, ErrorCode, Pong, RequestHead, Reset
from rproxy.wire.http2_frames import MAX_FRAME
from rproxy.wire.http2_gate import MOST_FRAMES
from rproxy.wire.message import Fields, Framing
from tests.wire.http2_talk import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GET,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    POST,
    PRIORITISED,
    PRIORITY,
    PUSH,
    RST,
    SETTINGS,
    WINDOW,
    Talk,
    block,
    frame,
    head,
    rst,
    settings,
    window,
)

OK = Fields([(b"X-A", b"1")])


def test_a_body_comes_in_pieces_and_ends() -> None:
    talk = Talk()
    (begun,) = talk.hear(head(1, POST, end=False))
    assert (begun.ended, begun.request.framing) == (False, Framing.CHUNKED)
    assert talk.hear(frame(DATA, 0, 1, b"x" * 3000)) == [Body(1, b"x" * 3000, 3000)]
    assert talk.hear(frame(DATA, END_STREAM, 1, b"y")) == [Body(1, b"y", 1), End(1, None)]


def test_padding_is_no_body_but_counts_for_the_window() -> None:
    talk = Talk()
    talk.hear(head(1, POST, end=False))
    assert talk.hear(frame(DATA, PADDED, 1, b"\4abc" + bytes(4))) == [Body(1, b"abc", 8)]


def test_small_pieces_of_one_stream_are_joined_and_those_of_two_are_not() -> None:
    talk = Talk()
    talk.hear(head(1, POST, end=False), head(3, POST, end=False))
    a, b = frame(DATA, 0, 1, b"a"), frame(DATA, 0, 3, b"b")
    assert talk.hear(a, a, a, b, a) == [Body(1, b"aaa", 3), Body(3, b"b", 1), Body(1, b"a", 1)]


def test_what_is_joined_is_not_much_larger_than_a_frame() -> None:
    """Else each of many small pieces would be copied with all before it."""
    talk = Talk()
    talk.hear(head(1, POST, end=False))
    events = talk.hear(b"".join(frame(DATA, 0, 1, bytes([n]) * 1000) for n in range(200)))
    assert b"".join(event.piece for event in events) == b"".join(bytes([n]) * 1000 for n in range(200))
    assert sum(event.credit for event in events) == 200_000
    assert len(events) < 20
    assert max(len(event.piece) for event in events) < MAX_FRAME + JOIN_BELOW


def test_trailers_end_a_body() -> None:
    talk = Talk()
    talk.hear(head(1, POST, end=False), frame(DATA, 0, 1, b"x"))
    (end,) = talk.hear(head(1, [(b"grpc-status", b"0")]))
    assert isinstance(end, End)
    assert end.trailers is not None
    assert end.trailers.pairs == [(b"grpc-status", b"0")]


def test_trailers_that_were_on_their_way_to_a_stream_that_we_reset_are_no_breach() -> None:
    talk = Talk()
    talk.hear(head(1, POST, end=False))
    talk.codec.reset(1, ErrorCode.CANCEL)
    assert talk.hear(head(1, [(b"x", b"y")])) == []
    assert [type(event) for event in talk.hear(head(3))] == [RequestHead]


def test_other_connections_have_their_turn_while_one_sends_many_frames() -> None:
    codec = Talk().codec
    heads = b"".join(head(1 + 2 * n, POST, end=False) for n in range(10))
    assert len(codec.receive(heads, 0.0)) == 10
    body = b"".join(frame(DATA, 0, 1 + 2 * (n % 10), b"x" * 10) for n in range(3 * MOST_FRAMES))
    assert len(codec.receive(body, 0.0)) == MOST_FRAMES
    assert codec.unread
    assert len(codec.receive(b"", 0.0)) == MOST_FRAMES
    assert len(codec.receive(b"", 0.0)) == MOST_FRAMES
    assert not codec.unread


BIG = bytes(MAX_FRAME + 1)


@pytest.mark.parametrize(
    ("octets", "code"),
    [
        (frame(DATA, 0, 0, b"x"), ErrorCode.PROTOCOL_ERROR),
        (frame(DATA, 0, 1, b"x"), ErrorCode.PROTOCOL_ERROR),
        (head(1) + frame(DATA, 0, 1, BIG), ErrorCode.FRAME_SIZE_ERROR),
        (frame(HEADERS, END_HEADERS, 0, block(GET)), ErrorCode.PROTOCOL_ERROR),
        (frame(HEADERS, END_HEADERS, 2, block(GET)), ErrorCode.PROTOCOL_ERROR),
        (frame(HEADERS, END_HEADERS | PADDED, 1, b"\xff" + block(GET)), ErrorCode.PROTOCOL_ERROR),
        (frame(HEADERS, END_HEADERS | PRIORITISED, 1, b"\0\0\0\1\0" + block(GET)), ErrorCode.PROTOCOL_ERROR),
        (frame(HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff\xff"), ErrorCode.COMPRESSION_ERROR),
        (frame(HEADERS, END_HEADERS, 1, b"\x80"), ErrorCode.COMPRESSION_ERROR),
        (head(5) + head(3), ErrorCode.PROTOCOL_ERROR),
        (frame(HEADERS, 0, 1, block(GET)) + frame(PING, payload=bytes(8)), ErrorCode.PROTOCOL_ERROR),
        (frame(HEADERS, 0, 1, block(GET)) + frame(CONTINUATION, 4, 3), ErrorCode.PROTOCOL_ERROR),
        (frame(HEADERS, 0, 1, block(GET)) + frame(99, 0, 1), ErrorCode.PROTOCOL_ERROR),
        (frame(CONTINUATION, END_HEADERS, 1, block(GET)), ErrorCode.PROTOCOL_ERROR),
        (frame(PRIORITY, 0, 0, bytes(5)), ErrorCode.PROTOCOL_ERROR),
        (frame(PRIORITY, 0, 1, bytes(4)), ErrorCode.FRAME_SIZE_ERROR),
        (frame(PRIORITY, 0, 1, b"\0\0\0\1\0"), ErrorCode.PROTOCOL_ERROR),
        (frame(PRIORITY, 0, 1, b"\x80\0\0\1\0"), ErrorCode.PROTOCOL_ERROR),
        (frame(RST, 0, 0, bytes(4)), ErrorCode.PROTOCOL_ERROR),
        (rst(1), ErrorCode.PROTOCOL_ERROR),
        (head(1) + frame(RST, 0, 1, bytes(3)), ErrorCode.FRAME_SIZE_ERROR),
        (frame(SETTINGS, ACK, 0, bytes(6)), ErrorCode.FRAME_SIZE_ERROR),
        (frame(SETTINGS, 0, 1), ErrorCode.PROTOCOL_ERROR),
        (frame(SETTINGS, 0, 0, bytes(5)), ErrorCode.FRAME_SIZE_ERROR),
        (settings(push=2), ErrorCode.PROTOCOL_ERROR),
        (settings(window=1 << 31), ErrorCode.FLOW_CONTROL_ERROR),
        (settings(frame=16383), ErrorCode.PROTOCOL_ERROR),
        (settings(frame=1 << 24), ErrorCode.PROTOCOL_ERROR),
        (frame(PUSH, END_HEADERS, 1, b"\0\0\0\2" + block(GET)), ErrorCode.PROTOCOL_ERROR),
        (frame(PING, 0, 1, bytes(8)), ErrorCode.PROTOCOL_ERROR),
        (frame(PING, 0, 0, bytes(7)), ErrorCode.FRAME_SIZE_ERROR),
        (frame(GOAWAY, 0, 1, bytes(8)), ErrorCode.PROTOCOL_ERROR),
        (frame(GOAWAY, 0, 0, bytes(7)), ErrorCode.FRAME_SIZE_ERROR),
        (window(0, 0), ErrorCode.PROTOCOL_ERROR),
        (head(1) + window(1, 0), ErrorCode.PROTOCOL_ERROR),
        (window(1, 1), ErrorCode.PROTOCOL_ERROR),
        (frame(WINDOW, 0, 0, bytes(3)), ErrorCode.FRAME_SIZE_ERROR),
        (window(0, (1 << 31) - 1), ErrorCode.FLOW_CONTROL_ERROR),
        (head(1) + window(1, (1 << 31) - 1), ErrorCode.FLOW_CONTROL_ERROR),
        (head(1) + frame(DATA, 0, 1, b"x"), ErrorCode.STREAM_CLOSED),
        (head(1) + head(1), ErrorCode.STREAM_CLOSED),
        (head(1, POST, end=False) + head(1, [], end=False), ErrorCode.PROTOCOL_ERROR),
        (head(1, POST, end=False) + frame(DATA, PADDED, 1, b"\xff"), ErrorCode.PROTOCOL_ERROR),
    ],
)
def test_a_breach_of_the_protocol_ends_the_connection(octets: bytes, code: ErrorCode) -> None:
    assert Talk().broken(octets) is code


@pytest.mark.parametrize(
    "octets",
    [
        frame(99, 0xFF, 5, b"whatever"),
        frame(10, 0, 0, b"\0\1aa"),
        frame(PING, 0xF0, 0, bytes(8)),
        settings(streams=0, table=1 << 31),
        frame(SETTINGS, 0, 0, b"\xff\xffabcd"),
        frame(PRIORITY, 0, 9, bytes(5)),
        head(1) + rst(1) + frame(PRIORITY, 0, 1, bytes(5)),
        head(1) + rst(1) + rst(1),
        head(1) + rst(1) + window(1, 1),
    ],
)
def test_what_means_nothing_is_ignored(octets: bytes) -> None:
    talk = Talk()
    assert not [event for event in talk.hear(octets) if isinstance(event, Broken)]
    assert [type(event) for event in talk.hear(head(11))] == [RequestHead]


def test_a_ping_is_answered() -> None:
    talk = Talk()
    talk.hear(frame(PING, payload=b"01234567"))
    assert talk.say() == [(PING, ACK, 0, b"01234567")]
    assert talk.hear(frame(PING, ACK, 0, b"01234567")) == [Pong(b"01234567")]
    assert talk.say() == []


def test_answers_leave_in_the_order_of_what_they_answer() -> None:
    talk = Talk()
    talk.hear(head(1), frame(PING, payload=b"01234567"), settings(window=9), frame(PING, payload=b"76543210"))
    talk.codec.send_head(1, 200, OK, True)
    assert [one.kind for one in talk.say()] == [PING, SETTINGS, PING, HEADERS]


@pytest.mark.parametrize(
    ("fields", "octets"),
    [
        ([*POST, (b"content-length", b"4")], frame(DATA, END_STREAM, 1, b"abc")),
        ([*POST, (b"content-length", b"2")], frame(DATA, 0, 1, b"abc")),
        ([*POST, (b"content-length", b"0")], frame(DATA, END_STREAM, 1, b"a")),
        ([*POST, (b"content-length", b"3")], head(1, [(b"x", b"y")])),
        (POST, head(1, [(b"x", b"y"), (b":path", b"/")])),
        (POST, head(1, [(b"transfer-encoding", b"chunked")])),
        (POST, head(1, [(b"X", b"y")])),
    ],
    ids=[
        "short",
        "long",
        "any",
        "short before trailers",
        "pseudo in trailers",
        "framing in trailers",
        "upper case",
    ],
)
def test_a_body_that_is_malformed_is_no_body(fields: Any, octets: bytes) -> None:
    talk = Talk()
    talk.hear(head(1, fields, end=False))
    *_, last = talk.hear(octets)
    assert isinstance(last, Reset)
    assert last.refusal is not None
    assert [(one.stream, one.payload) for one in talk.say() if one.kind == RST] == [(1, bytes([0, 0, 0, 1]))]
    assert [type(event) for event in talk.hear(head(3))] == [RequestHead]
