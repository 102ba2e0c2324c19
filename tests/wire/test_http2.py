"""An HTTP/2 connection as bytes and events: states, errors, windows. The section numbers are RFC 9113's."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rproxy.wire.http2 import Http2Codec
from rproxy.wire.http2_events import (
    Body,
    ErrorCode,
    Leaving,
    RefusedHead,
    RequestHead,
    Reset,
    WindowOpened,
)
from rproxy.wire.http2_frames import PREFACE
from rproxy.wire.http2_gate import BEFORE_SETTINGS
from rproxy.wire.http2_settings import CONNECTION_WINDOW, STREAM_WINDOW
from rproxy.wire.message import Fields, Framing
from tests.wire.http2_talk import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    GET,
    GOAWAY,
    HEADERS,
    PING,
    POST,
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


def test_a_client_that_resets_what_it_has_the_response_of_pays_nothing_for_it() -> None:
    talk = Talk(streams=2)
    for number in range(1, 101, 2):
        talk.hear(head(number, POST, end=False))
        talk.codec.send_head(number, 413, OK, True)
        assert talk.hear(rst(number)) == [Reset(number, None, 8)]


def test_a_request_that_is_taken_back_in_the_same_read_was_none() -> None:
    talk = Talk()
    events = talk.hear(head(1, POST, end=False), frame(DATA, 0, 1, b"x"), rst(1), head(3))
    assert [(type(event), event.stream) for event in events] == [(RequestHead, 3)]


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


# -- malformed messages: errors of their streams


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


def test_crumbs_of_a_cookie_are_one_field() -> None:
    talk = Talk()
    crumbs = [(b"cookie", b"a%d=1" % number) for number in range(200)]
    (begun,) = talk.hear(head(1, [*GET, (b"x", b"y"), *crumbs, (b"z", b"w")]))
    assert isinstance(begun, RequestHead)
    cookie = b"; ".join(value for _, value in crumbs)
    assert begun.request.headers.pairs == [(b"x", b"y"), (b"cookie", cookie), (b"z", b"w")]
