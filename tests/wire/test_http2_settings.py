"""SETTINGS as bytes: what we write, what may be read, and what is a breach."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rproxy.wire.http2_events import ErrorCode
from rproxy.wire.http2_frames import ACK, SETTINGS, Breach, Frame
from rproxy.wire.http2_settings import (
    ACKNOWLEDGED,
    ENABLE_CONNECT_PROTOCOL,
    ENABLE_PUSH,
    HEADER_TABLE_SIZE,
    INITIAL_WINDOW_SIZE,
    MAX_CONCURRENT_STREAMS,
    MAX_FRAME_SIZE,
    MAX_HEADER_LIST_SIZE,
    read_settings,
    settings,
)
from tests.wire.http2_talk import frame, said
from tests.wire.http2_talk import settings as raw

PROTOCOL, SIZE, FLOW = ErrorCode.PROTOCOL_ERROR, ErrorCode.FRAME_SIZE_ERROR, ErrorCode.FLOW_CONTROL_ERROR


def read(octets: bytes) -> dict[int, int]:
    """What a frame says."""
    (one,) = said(octets)
    return read_settings(Frame(one.kind, one.flags, one.stream, one.payload))


def test_what_is_written_can_be_read() -> None:
    pairs = {MAX_CONCURRENT_STREAMS: 100, INITIAL_WINDOW_SIZE: (1 << 31) - 1, MAX_FRAME_SIZE: (1 << 24) - 1}
    assert settings(pairs.items()) == raw(streams=100, window=(1 << 31) - 1, frame=(1 << 24) - 1)
    assert read(settings(pairs.items())) == pairs


def test_settings_that_say_nothing_are_settings() -> None:
    assert settings(()) == frame(SETTINGS)
    assert read(frame(SETTINGS)) == {}


def test_the_last_of_several_values_counts() -> None:
    """RFC 9113 §6.5.3: they are taken in their order."""
    assert read(settings([(HEADER_TABLE_SIZE, 1), (HEADER_TABLE_SIZE, 2)])) == {HEADER_TABLE_SIZE: 2}


def test_an_acknowledgement_is_empty_and_says_nothing() -> None:
    assert frame(SETTINGS, ACK) == ACKNOWLEDGED
    assert read(ACKNOWLEDGED) == {}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (HEADER_TABLE_SIZE, (1 << 32) - 1),
        (ENABLE_PUSH, 0),
        (ENABLE_PUSH, 1),
        (MAX_CONCURRENT_STREAMS, 0),
        (INITIAL_WINDOW_SIZE, 0),
        (INITIAL_WINDOW_SIZE, (1 << 31) - 1),
        (MAX_FRAME_SIZE, 16384),
        (MAX_FRAME_SIZE, (1 << 24) - 1),
        (MAX_HEADER_LIST_SIZE, 0),
        (ENABLE_CONNECT_PROTOCOL, 1),
        (9, (1 << 32) - 1),
        (0xFFFF, 7),
    ],
)
def test_values_up_to_their_limits_are_taken(name: int, value: int) -> None:
    assert read(settings([(name, value)])) == {name: value}


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        (ENABLE_PUSH, 2, PROTOCOL),
        (INITIAL_WINDOW_SIZE, 1 << 31, FLOW),
        (MAX_FRAME_SIZE, 16383, PROTOCOL),
        (MAX_FRAME_SIZE, 1 << 24, PROTOCOL),
        (ENABLE_CONNECT_PROTOCOL, 2, PROTOCOL),
    ],
)
def test_values_beyond_them_are_breaches_whatever_follows(name: int, value: int, code: ErrorCode) -> None:
    with pytest.raises(Breach) as breach:
        read(settings([(name, value), (name, 1 if name != MAX_FRAME_SIZE else 16384)]))
    assert breach.value.code is code


@pytest.mark.parametrize(
    ("octets", "code"),
    [
        (frame(SETTINGS, 0, 1), PROTOCOL),
        (frame(SETTINGS, ACK, 1), PROTOCOL),
        (frame(SETTINGS, 0, 0, bytes(5)), SIZE),
        (frame(SETTINGS, 0, 0, bytes(7)), SIZE),
        (frame(SETTINGS, ACK, 0, bytes(6)), SIZE),
    ],
    ids=["of a stream", "acknowledgement of a stream", "short", "long", "acknowledgement of something"],
)
def test_frames_of_another_shape_are_breaches(octets: bytes, code: ErrorCode) -> None:
    with pytest.raises(Breach) as breach:
        read(octets)
    assert breach.value.code is code


@given(st.binary(max_size=60))
def test_any_payload_says_something_or_is_a_breach(payload: bytes) -> None:
    try:
        found = read_settings(Frame(SETTINGS, 0, 0, payload))
    except Breach:
        return
    assert len(found) <= len(payload) // 6
