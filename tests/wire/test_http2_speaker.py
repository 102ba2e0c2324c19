"""What a connection says, and how much of it: heads, bodies, windows that are kept to and given back."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest

from rproxy.wire.http2_events import Body, End, ErrorCode, RequestHead, Reset, WindowOpened
from rproxy.wire.http2_frames import MAX_FRAME, PREFACE
from rproxy.wire.http2_settings import CONNECTION_WINDOW, STREAM_WINDOW
from rproxy.wire.http2_speaker import MOST_REMEMBERED
from rproxy.wire.message import Fields
from tests.wire.http2_talk import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    POST,
    RST,
    WINDOW,
    Talk,
    frame,
    head,
    rst,
    settings,
    window,
)

OK = Fields([(b"X-A", b"1")])


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


def test_what_is_said_to_a_stream_that_is_gone_is_dropped() -> None:
    talk = Talk()
    talk.hear(head(1))
    assert talk.hear(rst(1)) == [Reset(1, None, 8)]
    talk.codec.send_head(1, 200, OK, False)
    talk.codec.send_body(1, b"x", False)
    talk.codec.send_trailers(1, [])
    talk.codec.reset(1, ErrorCode.CANCEL)
    assert (talk.say(), talk.codec.room(1)) == ([], 0)


def test_a_stream_has_two_halves_that_end_one_after_the_other() -> None:
    talk = Talk()
    talk.hear(head(1, POST, end=False))
    talk.codec.send_head(1, 200, OK, False)
    talk.codec.send_body(1, b"", True)
    assert [one.kind for one in talk.say()] == [HEADERS, DATA]
    assert talk.hear(frame(DATA, END_STREAM, 1, b"bye")) == [Body(1, b"bye", 3), End(1, None)]
    assert talk.codec.streams == 0


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


def test_streams_that_are_over_are_forgotten() -> None:
    talk = Talk()
    for number in range(1, 10 * MOST_REMEMBERED, 2):
        talk.hear(head(number))
        talk.codec.send_head(number, 200, OK, True)
        talk.hear(head(number + 2 * 10 * MOST_REMEMBERED))
    assert talk.codec.streams == 0


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
        room += given_back(talk)


@pytest.mark.parametrize("fields", [POST, [*POST, (b"content-length", b"1")]], ids=["reset", "malformed"])
def test_uploads_that_are_taken_back_cost_no_window(fields: Any) -> None:
    talk = Talk()
    for number in range(1, 2 * (3 * CONNECTION_WINDOW // MAX_FRAME), 2):
        talk.now += 1
        talk.hear(head(number, fields, end=False), frame(DATA, 0, number, bytes(MAX_FRAME)), rst(number))
    room = CONNECTION_WINDOW - 3 * CONNECTION_WINDOW // MAX_FRAME * MAX_FRAME
    room += given_back(talk)
    assert room >= CONNECTION_WINDOW // 2


# -- what fits into a frame


def test_of_a_queue_a_frame_takes_what_fits() -> None:
    talk = Talk()
    talk.hear(head(1), window(1, 1 << 20), window(0, 1 << 20))
    queue: deque[Any] = deque([bytes(100), b"x" * (MAX_FRAME + 5), b"y"])
    cuts = [talk.codec.cut(1, queue) for _ in range(4)]
    assert cuts == [bytes(100), b"x" * MAX_FRAME, b"xxxxx", b"y"]
    assert not queue


@pytest.mark.parametrize("room", [1, 10, 16384])
def test_of_a_queue_a_frame_takes_what_the_windows_allow(room: int) -> None:
    talk = Talk(begun=False)
    talk.hear(PREFACE, settings(window=room), head(1))
    queue: deque[Any] = deque([b"x" * (room + 3)])
    piece = talk.codec.cut(1, queue)
    assert piece == b"x" * room
    talk.codec.send_body(1, piece, False)
    assert (talk.codec.cut(1, queue), list(queue)) == (None, [b"xxx"])


def test_nothing_is_taken_for_a_stream_that_is_over_or_has_less_than_no_room() -> None:
    talk = Talk()
    talk.hear(head(1))
    talk.codec.send_head(1, 200, OK, False)
    talk.codec.send_body(1, b"x" * 100, False)
    talk.hear(settings(window=10))
    queue: deque[Any] = deque([b"y"])
    assert (talk.codec.room(1), talk.codec.cut(1, queue), talk.codec.cut(3, queue)) == (-90, None, None)
    assert list(queue) == [b"y"]


# -- the window of a stream alone


def test_what_was_taken_opens_the_window_of_its_stream_alone() -> None:
    talk = Talk()
    talk.hear(head(1, POST, end=False), *[frame(DATA, 0, 1, bytes(MAX_FRAME))] * 8)
    talk.codec.taken(1, STREAM_WINDOW // 2)
    (said,) = talk.say()
    assert (said.kind, said.stream) == (WINDOW, 1)
    assert int.from_bytes(said.payload, "big") == STREAM_WINDOW // 2


def test_credit_opens_that_of_the_connection_as_well() -> None:
    talk = Talk()
    for number in (1, 3, 5, 7):
        talk.hear(head(number, POST, end=False), *[frame(DATA, 0, number, bytes(MAX_FRAME))] * 16)
        talk.codec.credit(number, STREAM_WINDOW)
    opened = {one.stream: int.from_bytes(one.payload, "big") for one in talk.say()}
    assert opened == {1: STREAM_WINDOW, 3: STREAM_WINDOW, 5: STREAM_WINDOW, 7: STREAM_WINDOW, 0: 1 << 20}


def test_nothing_is_given_back_for_nothing_or_by_a_broken_connection() -> None:
    talk = Talk()
    talk.hear(head(1, POST, end=False), *[frame(DATA, 0, 1, bytes(MAX_FRAME))] * 16)
    talk.codec.credit(1, 0)
    assert talk.say() == []
    talk.broken(window(0, 0))
    talk.codec.credit(1, CONNECTION_WINDOW)
    talk.codec.taken(1, STREAM_WINDOW)
    assert talk.say() == []
