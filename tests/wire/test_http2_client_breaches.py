"""What is held against a peer: malformed responses, breaches of HTTP/2, and too much of nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rproxy.wire.http2_client import MORE_CHORES, MORE_CRUMBS, ResponseHead
from rproxy.wire.http2_events import Body, Broken, ErrorCode, Reset, WindowOpened
from rproxy.wire.http2_settings import STREAM_WINDOW
from rproxy.wire.message import Pair
from tests.wire.http2_talk import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PRIORITY,
    PUSH,
    RST,
    SETTINGS,
    Said,
    block,
    frame,
    head,
    rst,
    settings,
    window,
)
from tests.wire.test_http2_client import LENGTH, OK, Talk

PROTOCOL, CALM = ErrorCode.PROTOCOL_ERROR, ErrorCode.ENHANCE_YOUR_CALM
SIZE, FLOW = ErrorCode.FRAME_SIZE_ERROR, ErrorCode.FLOW_CONTROL_ERROR


@pytest.mark.parametrize(
    ("octets", "code"),
    [
        pytest.param(head(3, OK), PROTOCOL, id="response to nothing"),
        pytest.param(head(2, OK), PROTOCOL, id="response on a stream of its own"),
        pytest.param(head(0, OK), PROTOCOL, id="response on no stream"),
        pytest.param(frame(DATA, 0, 3, b"x"), PROTOCOL, id="data for nothing"),
        pytest.param(frame(DATA, 0, 0, b"x"), PROTOCOL, id="data on no stream"),
        pytest.param(rst(3), PROTOCOL, id="reset of nothing"),
        pytest.param(window(3, 1), PROTOCOL, id="window of nothing"),
        pytest.param(window(0, 0), PROTOCOL, id="window that opens by nothing"),
        pytest.param(window(0, (1 << 31) - 1), FLOW, id="window above the largest"),
        pytest.param(settings(push=1), PROTOCOL, id="pushes"),
        pytest.param(settings(push=2), PROTOCOL, id="push that is no flag"),
        pytest.param(settings(window=1 << 31), FLOW, id="initial window"),
        pytest.param(settings(frame=100), PROTOCOL, id="frame size"),
        pytest.param(frame(SETTINGS, 0, 1), PROTOCOL, id="settings of a stream"),
        pytest.param(frame(SETTINGS, 0, 0, b"12345"), SIZE, id="settings of a wrong size"),
        pytest.param(frame(PUSH, END_HEADERS, 1, b"\0\0\0\2\x82"), PROTOCOL, id="a push"),
        pytest.param(frame(GOAWAY, payload=b"1234567"), SIZE, id="goaway of a wrong size"),
        pytest.param(frame(PING, payload=b"1"), SIZE, id="ping of a wrong size"),
        pytest.param(frame(PRIORITY, 0, 1, b"1234"), SIZE, id="priority of a wrong size"),
        pytest.param(frame(DATA, 0, 1, bytes(16385)), SIZE, id="frame above the limit"),
        pytest.param(frame(HEADERS, END_HEADERS, 1, b"\xff\xff"), ErrorCode.COMPRESSION_ERROR, id="hpack"),
        pytest.param(frame(CONTINUATION, END_HEADERS, 1, b"\x88"), PROTOCOL, id="continuation of nothing"),
        pytest.param(frame(HEADERS, 0, 1, b"\x88") + frame(PING), PROTOCOL, id="something in a section"),
        pytest.param(
            frame(HEADERS, 0, 1, b"\x88") + frame(CONTINUATION, 0, 1, b"") * 20, CALM, id="continuations"
        ),
        pytest.param(head(1, OK, end=False) + head(1, OK, end=False), PROTOCOL, id="a second response"),
    ],
)
def test_what_ends_the_connection(octets: bytes, code: ErrorCode) -> None:
    talk = Talk()
    talk.ask(b"POST", end=False)
    assert talk.broken(octets) is code


def test_nothing_comes_before_settings() -> None:
    assert Talk(begun=False).broken(frame(PING, payload=b"12345678")) is PROTOCOL
    assert Talk(begun=False).broken(frame(SETTINGS, ACK)) is PROTOCOL


def test_more_is_forgiven_than_to_a_client_but_not_everything() -> None:
    talk = Talk()
    pings = int(MORE_CHORES) - 20
    assert talk.hear(frame(PING, payload=b"12345678") * pings) == []
    talk.say()
    assert talk.broken(frame(PING, payload=b"12345678") * 100) is CALM


def test_a_peer_that_answers_may_ping_for_each_message() -> None:
    talk = Talk()
    number = talk.ask(b"POST", end=False)
    talk.hear(head(number, OK, end=False))
    each = frame(DATA, 0, number, b"message") + window(0, 7) + frame(PING, payload=b"12345678")
    for _ in range(20000):
        assert talk.hear(each) == [Body(number, b"message", 7), WindowOpened(0)]
        talk.codec.taken(number, 7)
        talk.codec.output()


def told(late: bool, crumbs: int = 0) -> tuple[Talk, int]:
    """A peer that has sent so many bytes one by one and is not at the end; `late` if that was given up."""
    talk = Talk()
    number = talk.ask()
    talk.hear(head(number, OK, end=False))
    if late:
        talk.codec.reset(number, ErrorCode.CANCEL)
    for _ in range(crumbs):
        talk.codec._gate.piece(1)
    return talk, number


@pytest.mark.parametrize("late", [False, True])
def test_a_body_in_crumbs_is_not_forgiven_for_ever(late: bool) -> None:
    talk, number = told(late, int(MORE_CRUMBS))  # what they bring has paid for a thousandth of them
    assert not [event for event in talk.hear(frame(DATA, 0, number, b"x") * 100) if isinstance(event, Broken)]
    talk.say()
    assert talk.broken(frame(DATA, 0, number, b"x") * 400) is CALM


@pytest.mark.parametrize("late", [False, True])
def test_a_body_of_padding_is_not_forgiven_for_ever(late: bool) -> None:
    talk, number = told(late)
    assert talk.broken(frame(DATA, PADDED, number, b"\x10" + bytes(16)) * 4000) is CALM


def test_tokens_are_no_crumbs() -> None:
    """A hundred clients that are each told a few hundred words a second, in frames of their own."""
    talk, number = told(late=False)
    for _ in range(10):
        talk.now += 1
        for _ in range(STREAM_WINDOW // 20):
            talk.codec._gate.turn(talk.now)
            talk.codec._gate.piece(20)
    assert talk.hear(frame(DATA, 0, number, b"x")) == [Body(number, b"x", 1)]


@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_are_events_or_a_breach(octets: bytes, begun: bool) -> None:
    talk = Talk(begun=begun)
    talk.ask()
    events = talk.hear(octets)
    assert all(not isinstance(event, Broken) for event in events[:-1])


@given(
    st.lists(
        st.tuples(st.integers(0, 10), st.integers(0, 255), st.integers(0, 5), st.binary(max_size=40)),
        max_size=12,
    )
)
def test_any_frames_are_events_or_a_breach(frames: list[tuple[int, int, int, bytes]]) -> None:
    talk = Talk()
    for _ in range(2):
        talk.ask(b"POST", end=False)
    events = talk.hear(*[frame(*one) for one in frames])
    assert all(not isinstance(event, Broken) for event in events[:-1])


@given(st.lists(st.tuples(st.binary(max_size=20), st.binary(max_size=20)), max_size=6))
def test_any_fields_are_a_response_or_malformed(pairs: list[Pair]) -> None:
    talk = Talk()
    number = talk.ask()
    (event,) = talk.hear(frame(HEADERS, END_HEADERS, number, block([*OK, *pairs])))
    if isinstance(event, ResponseHead):
        assert list(event.response.headers.pairs) == pairs
    else:
        assert isinstance(event, Reset)


@pytest.mark.parametrize(
    "octets",
    [
        pytest.param(head(1, [(b":status", b"20")], end=False), id="status"),
        pytest.param(head(1, [*OK, LENGTH], end=True), id="length without a body"),
        pytest.param(head(1, [*OK, LENGTH], end=False) + frame(DATA, END_STREAM, 1, b"hell"), id="too short"),
        pytest.param(head(1, [*OK, LENGTH], end=False) + frame(DATA, 0, 1, b"hello!"), id="too long"),
        pytest.param(
            head(1, [*OK, LENGTH], end=False) + head(1, [(b"x", b"y")]), id="trailers before the length"
        ),
        pytest.param(head(1, OK, end=False) + head(1, [(b":status", b"200")]), id="status in trailers"),
        pytest.param(head(1, OK, end=False) + head(1, [(b"content-length", b"1")]), id="length in trailers"),
        pytest.param(
            head(1, [(b":status", b"204")], end=False) + frame(DATA, 0, 1, b"x"), id="204 with body"
        ),
    ],
)
def test_a_malformed_response_ends_its_stream_only(octets: bytes) -> None:
    talk = Talk()
    talk.ask()
    other = talk.ask()
    event = talk.hear(octets)[-1]
    assert isinstance(event, Reset)
    assert event.refusal is not None
    resets = [one for one in talk.say() if one.kind == RST]
    assert resets == [Said(RST, 0, 1, b"\0\0\0\1")]
    assert isinstance(talk.hear(head(other, OK))[0], ResponseHead)
