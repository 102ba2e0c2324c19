"""An HTTP/2 connection as bytes and events: states, errors, windows. The section numbers are RFC 9113's."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rproxy.wire.http2 import Http2Codec
from rproxy.wire.http2_events import (
    Body,
    Broken,
    End,
    ErrorCode,
    Leaving,
    Pong,
    RefusedHead,
    RequestHead,
    Reset,
    WindowOpened,
)
from rproxy.wire.http2_frames import MAX_FRAME, PREFACE
from rproxy.wire.http2_gate import BEFORE_SETTINGS, MOST_FRAMES
from rproxy.wire.http2_settings import CONNECTION_WINDOW, STREAM_WINDOW
from rproxy.wire.http2_speaker import MOST_REMEMBERED
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


# -- the preface


def test_the_server_says_what_it_takes_before_the_client_has_said_anything() -> None:
    talk = Talk(streams=7, begun=False)
    said, opened = talk.greeting
    pairs = {said.payload[at + 1]: said.payload[at + 2 : at + 6] for at in range(0, len(said.payload), 6)}
    told = {code: int.from_bytes(value, "big") for code, value in pairs.items()}
    assert (said.kind, said.flags, said.stream) == (SETTINGS, 0, 0)
    assert (told[3], told[4], told[5], told[6], told[8]) == (7, STREAM_WINDOW, 16384, 65536, 1)
    assert (opened.kind, opened.stream) == (WINDOW, 0)
    assert int.from_bytes(opened.payload, "big") == CONNECTION_WINDOW - 65535


def test_settings_are_acknowledged() -> None:
    talk = Talk(begun=False)
    assert talk.hear(PREFACE, settings(window=10, frame=20000)) == [WindowOpened(0)]
    assert [(one.kind, one.flags) for one in talk.say()] == [(SETTINGS, ACK)]


@pytest.mark.parametrize(
    "octets",
    [b"GET / HTTP/1.1\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\rX", PREFACE + frame(PING, payload=bytes(8))],
    ids=["HTTP/1", "almost", "no SETTINGS"],
)
def test_another_preface_is_no_http2(octets: bytes) -> None:
    assert Talk(begun=False).broken(octets) is ErrorCode.PROTOCOL_ERROR


def test_an_acknowledgement_is_not_the_settings_of_a_preface() -> None:
    assert Talk(begun=False).broken(PREFACE, frame(SETTINGS, ACK)) is ErrorCode.PROTOCOL_ERROR


def test_a_conversation_may_be_cut_anywhere() -> None:
    octets = PREFACE + settings() + head(1) + head(3, POST, end=False) + frame(DATA, 0, 3, b"abc")
    octets += frame(DATA, END_STREAM, 3, b"d") + frame(PING, payload=b"12345678")
    whole = _shown(Talk(begun=False).hear(octets))
    for at in range(1, len(octets)):
        talk = Talk(begun=False)
        assert _joined(_shown(talk.hear(octets[:at]) + talk.hear(octets[at:]))) == _joined(whole), at
    talk = Talk(begun=False)
    assert _joined(_shown([event for one in octets for event in talk.hear(bytes([one]))])) == _joined(whole)


def _shown(events: list[Any]) -> list[Any]:
    return [e._replace(request=e.request.method) if isinstance(e, RequestHead) else e for e in events]


def _joined(events: list[Any]) -> tuple[list[Any], bytes, int]:
    bodies = [event for event in events if isinstance(event, Body)]
    rest = [event for event in events if not isinstance(event, Body)]
    return rest, b"".join(bytes(b.piece) for b in bodies), sum(b.credit for b in bodies)


# -- requests and responses


def test_a_request_without_a_body_and_its_answer() -> None:
    talk = Talk()
    (event,) = talk.hear(head(1))
    assert isinstance(event, RequestHead)
    assert (event.stream, event.ended, event.request.framing) == (1, True, Framing.NONE)
    talk.codec.send_head(1, 200, OK, False)
    talk.codec.send_body(1, b"hello", True)
    first, second = talk.say()
    assert (first.kind, first.flags, first.stream) == (HEADERS, END_HEADERS, 1)
    assert talk.fields(first) == [(b":status", b"200"), (b"x-a", b"1")]
    assert second == (DATA, END_STREAM, 1, b"hello")
    assert talk.codec.streams == 0


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


def test_trailers_end_a_body() -> None:
    talk = Talk()
    talk.hear(head(1, POST, end=False), frame(DATA, 0, 1, b"x"))
    (end,) = talk.hear(head(1, [(b"grpc-status", b"0")]))
    assert isinstance(end, End)
    assert end.trailers is not None
    assert end.trailers.pairs == [(b"grpc-status", b"0")]


def test_interim_heads_and_trailers_of_ours() -> None:
    talk = Talk()
    talk.hear(head(1))
    talk.codec.send_head(1, 103, OK, False)
    talk.codec.send_head(1, 200, OK, False)
    talk.codec.send_body(1, b"x", False)
    talk.codec.send_trailers(1, [(b"Grpc-Status", b"0")])
    early, final, body, trailers = talk.say()
    assert talk.fields(early)[0] == (b":status", b"103")
    assert talk.fields(final)[0] == (b":status", b"200")
    assert (body.flags, trailers.flags) == (0, END_STREAM | END_HEADERS)
    assert talk.fields(trailers) == [(b"grpc-status", b"0")]


def test_a_long_head_of_ours_is_split() -> None:
    talk = Talk()
    talk.hear(head(1))
    talk.codec.send_head(1, 200, Fields([(b"x-%d" % n, b"v" * 1000) for n in range(40)]), True)
    said = talk.say()
    assert [one.kind for one in said] == [HEADERS, CONTINUATION, CONTINUATION]
    assert [one.flags for one in said] == [END_STREAM, 0, END_HEADERS]
    whole = b"".join(one.payload for one in said)
    assert len(talk.fields(said[0]._replace(payload=whole))) == 41


@pytest.mark.parametrize("table", [0, 1, 100, 4096, (1 << 32) - 1])
def test_whatever_table_a_client_has_ours_is_empty(table: int) -> None:
    talk = Talk(begun=False)
    talk.decoder.max_allowed_table_size = min(table, 65536)
    talk.hear(PREFACE, settings(table=table), head(1), head(3))
    for stream in (1, 3):
        talk.codec.send_head(stream, 200, Fields([(b"x-name", b"value")]), True)
    first, second = [one for one in talk.say() if one.kind == HEADERS]
    assert talk.fields(first) == talk.fields(second) == [(b":status", b"200"), (b"x-name", b"value")]
    assert (talk.decoder.header_table_size, first.payload[:1]) == (0, b"\x20")
    assert second.payload == first.payload[1:]


def test_a_response_that_is_quicker_than_its_request_leaves_the_stream_open_until_it_is_reset() -> None:
    talk = Talk(streams=1)
    talk.hear(head(1, POST, end=False))
    talk.codec.send_head(1, 413, OK, True)
    assert talk.hear(frame(DATA, 0, 1, b"on")) == [Body(1, b"on", 2)]
    talk.codec.reset(1, ErrorCode.NO_ERROR)
    reset = talk.say()[-1]
    assert (reset.kind, reset.stream, reset.payload) == (RST, 1, bytes(4))
    assert talk.hear(frame(DATA, 0, 1, b"late")) == []
    assert [type(event) for event in talk.hear(head(3))] == [RequestHead]


def test_a_client_that_resets_what_it_has_the_response_of_pays_nothing_for_it() -> None:
    talk = Talk(streams=2)
    for number in range(1, 101, 2):
        talk.hear(head(number, POST, end=False))
        talk.codec.send_head(number, 413, OK, True)
        assert talk.hear(rst(number)) == [Reset(number, None, 8)]


def test_what_is_said_to_a_stream_that_is_gone_is_dropped() -> None:
    talk = Talk()
    talk.hear(head(1))
    assert talk.hear(rst(1)) == [Reset(1, None, 8)]
    talk.codec.send_head(1, 200, OK, False)
    talk.codec.send_body(1, b"x", False)
    talk.codec.send_trailers(1, [])
    talk.codec.reset(1, ErrorCode.CANCEL)
    assert (talk.say(), talk.codec.room(1)) == ([], 0)


def test_a_request_that_is_taken_back_in_the_same_read_was_none() -> None:
    talk = Talk()
    events = talk.hear(head(1, POST, end=False), frame(DATA, 0, 1, b"x"), rst(1), head(3))
    assert [(type(event), event.stream) for event in events] == [(RequestHead, 3)]


def test_a_stream_has_two_halves_that_end_one_after_the_other() -> None:
    talk = Talk()
    talk.hear(head(1, POST, end=False))
    talk.codec.send_head(1, 200, OK, False)
    talk.codec.send_body(1, b"", True)
    assert [one.kind for one in talk.say()] == [HEADERS, DATA]
    assert talk.hear(frame(DATA, END_STREAM, 1, b"bye")) == [Body(1, b"bye", 3), End(1, None)]
    assert talk.codec.streams == 0


# -- windows


def test_windows_are_given_back_only_when_told() -> None:
    talk = Talk()
    talk.hear(head(1, POST, end=False))
    sent = [frame(DATA, 0, 1, bytes(MAX_FRAME)) for _ in range(STREAM_WINDOW // MAX_FRAME)]
    events = talk.hear(*sent)
    assert (len(events), talk.say()) == (len(sent), [])
    for event in events:
        talk.codec.credit(1, event.credit)
    opened = [int.from_bytes(one.payload, "big") for one in talk.say() if one.stream == 1]
    assert STREAM_WINDOW // 2 <= sum(opened) <= STREAM_WINDOW


def test_more_than_the_window_is_an_error() -> None:
    talk = Talk()
    talk.hear(head(1, POST, end=False))
    sent = [frame(DATA, 0, 1, bytes(MAX_FRAME)) for _ in range(STREAM_WINDOW // MAX_FRAME)]
    assert talk.broken(*sent, frame(DATA, 0, 1, b"x")) is ErrorCode.FLOW_CONTROL_ERROR


def test_what_came_for_a_stream_that_was_reset_does_not_eat_up_the_connection() -> None:
    talk = Talk()
    number = 1
    for _ in range(2 * CONNECTION_WINDOW // (8 * MAX_FRAME)):
        talk.now += 10
        talk.hear(head(number, POST, end=False))
        talk.codec.reset(number, ErrorCode.CANCEL)
        events = talk.hear(*[frame(DATA, 0, number, bytes(MAX_FRAME))] * 8)
        assert events == []
        number += 2


def test_the_clients_windows_bound_what_is_sent() -> None:
    talk = Talk(begun=False)
    talk.hear(PREFACE, settings(window=10), head(1), head(3))
    assert (talk.codec.room(1), talk.codec.room(3), talk.codec.room_in_all) == (10, 10, 65535)
    talk.codec.send_head(1, 200, OK, False)
    talk.codec.send_body(1, b"x" * 10, False)
    assert (talk.codec.room(1), talk.codec.room_in_all) == (0, 65525)
    assert talk.hear(window(1, 5)) == [WindowOpened(1)]
    assert talk.hear(window(0, 5)) == [WindowOpened(0)]
    assert (talk.codec.room(1), talk.codec.room_in_all) == (5, 65530)
    assert talk.hear(settings(window=3)) == [WindowOpened(0)]
    assert (talk.codec.room(1), talk.codec.room(3)) == (-2, 3)


def test_more_room_for_a_stream_that_is_over_is_nobodys_business() -> None:
    talk = Talk()
    talk.hear(head(1))
    talk.codec.send_head(1, 200, OK, True)
    assert talk.hear(window(1, 5)) == []


def test_trailers_that_were_on_their_way_to_a_stream_that_we_reset_are_no_breach() -> None:
    talk = Talk()
    talk.hear(head(1, POST, end=False))
    talk.codec.reset(1, ErrorCode.CANCEL)
    assert talk.hear(head(1, [(b"x", b"y")])) == []
    assert [type(event) for event in talk.hear(head(3))] == [RequestHead]


# -- how many


def test_streams_above_the_limit_are_refused_and_others_live() -> None:
    talk = Talk(streams=3)
    events = talk.hear(*[head(number) for number in (1, 3, 5, 7)])
    assert [event.stream for event in events] == [1, 3, 5]
    assert [one for one in talk.say() if one.kind == RST] == [(RST, 0, 7, (7).to_bytes(4, "big"))]
    talk.codec.send_head(1, 200, OK, True)
    assert [type(event) for event in talk.hear(head(9))] == [RequestHead]


def test_a_client_that_has_not_read_the_limit_may_open_a_hundred() -> None:
    talk = Talk(streams=3, begun=False)
    events = talk.hear(PREFACE, settings(), *[head(1 + 2 * n) for n in range(BEFORE_SETTINGS + 1)])
    assert len(events) == BEFORE_SETTINGS
    talk.codec.send_head(1, 200, OK, True)
    assert talk.hear(frame(SETTINGS, ACK), head(301)) == []


def test_streams_that_are_over_are_forgotten() -> None:
    talk = Talk()
    for number in range(1, 10 * MOST_REMEMBERED, 2):
        talk.hear(head(number))
        talk.codec.send_head(number, 200, OK, True)
        talk.hear(head(number + 2 * 10 * MOST_REMEMBERED))
    assert talk.codec.streams == 0


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


# -- errors of the connection

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


# -- malformed messages: errors of their streams


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


def test_a_malformed_head_resets_its_stream_only() -> None:
    talk = Talk()
    first, second = talk.hear(head(1, [*GET, (b"connection", b"close")]), head(3))
    assert isinstance(first, RefusedHead)
    assert (first.was_reset, type(second)) == (True, RequestHead)
    assert [(one.stream, one.payload) for one in talk.say() if one.kind == RST] == [(1, bytes([0, 0, 0, 1]))]


def test_a_request_that_is_only_too_much_is_to_be_answered() -> None:
    talk = Talk()
    (event,) = talk.hear(head(1, [*GET, *[(b"x", b"y")] * 129]))
    assert isinstance(event, RefusedHead)
    assert (event.was_reset, event.refusal.status) == (False, 431)
    talk.codec.send_head(1, 431, OK, True)
    assert [one.kind for one in talk.say()] == [HEADERS]


# -- the end


def test_a_client_that_leaves_is_answered_to_the_end() -> None:
    talk = Talk()
    talk.hear(head(1))
    assert talk.hear(frame(GOAWAY, 0, 0, bytes(8))) == [Leaving()]
    talk.codec.send_head(1, 200, OK, False)
    talk.codec.send_body(1, b"x", True)
    assert [one.kind for one in talk.say()] == [HEADERS, DATA]


def test_goaway_in_two_steps_loses_no_request() -> None:
    talk = Talk()
    talk.hear(head(1))
    talk.codec.goaway(ErrorCode.NO_ERROR, soon=True)
    assert [type(event) for event in talk.hear(head(3))] == [RequestHead]
    talk.codec.goaway(ErrorCode.NO_ERROR)
    assert talk.hear(head(5)) == []
    lasts = [int.from_bytes(one.payload[:4], "big") for one in talk.frames if one.kind == GOAWAY]
    assert lasts == [(1 << 31) - 1, 3]
    assert [one.payload for one in talk.say() if one.kind == RST] == [(7).to_bytes(4, "big")]
    talk.codec.send_head(3, 200, OK, True)
    assert [one.stream for one in talk.say()] == [3]


def test_a_broken_connection_names_the_last_stream_and_says_nothing_after() -> None:
    talk = Talk()
    talk.hear(head(1), head(3))
    assert talk.broken(window(0, 0)) is ErrorCode.PROTOCOL_ERROR
    talk.codec.send_head(1, 200, OK, True)
    talk.codec.credit(1, 5)
    assert talk.say() == []


def test_what_has_begun_is_known() -> None:
    codec = Talk(begun=False).codec
    assert not codec.partial
    begun = PREFACE[5:] + settings() + frame(HEADERS, 0, 1, block(GET)[:4])
    for octets in (PREFACE[:5], begun, b"\0\0", b"\x09\x09\4\0\0\0\1", b"x"):
        codec.receive(octets, 0.0)
        assert codec.partial
    codec = Talk().codec
    codec.receive(head(1, POST, end=False) + frame(DATA, 0, 1, b"abcdef")[:12], 0.0)
    assert not codec.partial


@given(st.lists(st.binary(max_size=60), max_size=8))
def test_any_bytes_give_events_or_a_breach(pieces: list[bytes]) -> None:
    codec = Http2Codec(3, 0.0)
    codec.start()
    codec.receive(PREFACE + settings(), 0.0)
    for piece in pieces:
        codec.receive(piece, 0.0)


FRAMES = st.builds(
    frame,
    st.integers(0, 11),
    st.integers(0, 255),
    st.integers(0, 7),
    st.one_of(st.binary(max_size=20), st.just(block(GET)), st.just(block(POST))),
)


@given(st.lists(FRAMES, max_size=12))
def test_any_frames_give_events_or_a_breach(frames: list[bytes]) -> None:
    codec = Http2Codec(3, 0.0)
    codec.start()
    codec.receive(PREFACE + settings(), 0.0)
    for event in codec.receive(b"".join(frames), 0.0):
        if isinstance(event, RequestHead):
            codec.send_head(event.stream, 200, OK, False)
            codec.send_body(event.stream, b"x" * min(3, max(0, codec.room(event.stream))), True)
    codec.output()


# -- window that is given back


def given_back(talk: Talk) -> int:
    said = [one for one in talk.say() if (one.kind, one.stream) == (WINDOW, 0)]
    return sum(int.from_bytes(one.payload, "big") for one in said)


def test_who_stalls_does_not_hold_up_the_others() -> None:
    talk = Talk()
    stalled = range(1, 11, 2)
    for number in stalled:
        talk.hear(head(number, POST, end=False))
        talk.hear(*[frame(DATA, 0, number, bytes(MAX_FRAME))] * (STREAM_WINDOW // MAX_FRAME))
    talk.hear(head(11, POST, end=False))
    room = CONNECTION_WINDOW - len(stalled) * STREAM_WINDOW
    for _ in range(4 * CONNECTION_WINDOW // MAX_FRAME):
        assert room >= MAX_FRAME
        room -= MAX_FRAME
        for event in talk.hear(frame(DATA, 0, 11, bytes(MAX_FRAME))):
            talk.codec.credit(11, event.credit)
        room += sum(
            int.from_bytes(one.payload, "big") for one in talk.say() if (one.kind, one.stream) == (WINDOW, 0)
        )


@pytest.mark.parametrize("fields", [POST, [*POST, (b"content-length", b"1")]], ids=["reset", "malformed"])
def test_uploads_that_are_taken_back_cost_no_window(fields: Any) -> None:
    talk = Talk()
    for number in range(1, 2 * (3 * CONNECTION_WINDOW // MAX_FRAME), 2):
        talk.now += 1
        talk.hear(head(number, fields, end=False), frame(DATA, 0, number, bytes(MAX_FRAME)), rst(number))
    room = CONNECTION_WINDOW - 3 * CONNECTION_WINDOW // MAX_FRAME * MAX_FRAME
    room += sum(
        int.from_bytes(one.payload, "big") for one in talk.say() if (one.kind, one.stream) == (WINDOW, 0)
    )
    assert room >= CONNECTION_WINDOW // 2


def test_crumbs_of_a_cookie_are_one_field() -> None:
    talk = Talk()
    crumbs = [(b"cookie", b"a%d=1" % number) for number in range(200)]
    (begun,) = talk.hear(head(1, [*GET, (b"x", b"y"), *crumbs, (b"z", b"w")]))
    assert isinstance(begun, RequestHead)
    cookie = b"; ".join(value for _, value in crumbs)
    assert begun.request.headers.pairs == [(b"x", b"y"), (b"cookie", cookie), (b"z", b"w")]
