"""SETTINGS of HTTP/2 (RFC 9113 §6.5): ours, and what may be in the other side's. For `http2_connection`."""

from __future__ import annotations

from collections.abc import Iterable
from struct import Struct
from typing import Final

from .http2_events import ErrorCode
from .http2_frames import ACK, LAST_STREAM, SETTINGS, Breach, Frame, frame_head

HEADER_TABLE_SIZE: Final = 1
ENABLE_PUSH: Final = 2
MAX_CONCURRENT_STREAMS: Final = 3
INITIAL_WINDOW_SIZE: Final = 4
MAX_FRAME_SIZE: Final = 5
MAX_HEADER_LIST_SIZE: Final = 6
ENABLE_CONNECT_PROTOCOL: Final = 8
"""RFC 8441 §3."""

STREAM_WINDOW: Final = 262144
"""Bytes of a body that may be under way to us: 5 MB/s over 50 ms. It is also what a stalled receiver makes us
hold for one stream."""
CONNECTION_WINDOW: Final = 2097152
"""The same for all streams of a connection, so the most of it that we hold: eight of them may stall before
the ninth notices."""
DEFAULT_WINDOW: Final = 65535
"""RFC 9113 §6.9.2."""

_PAIR: Final = Struct(">HL")
ACKNOWLEDGED: Final = frame_head(0, SETTINGS, ACK, 0)


def settings(pairs: Iterable[tuple[int, int]]) -> bytes:
    """A SETTINGS frame."""
    payload = b"".join([_PAIR.pack(name, value) for name, value in pairs])
    return frame_head(len(payload), SETTINGS, 0, 0) + payload


def read_settings(frame: Frame) -> dict[int, int]:
    """What a SETTINGS frame says last of each; empty for an acknowledgement. Raises `Breach`."""
    payload = frame.payload
    if frame.stream:
        raise Breach(ErrorCode.PROTOCOL_ERROR, "SETTINGS on a stream")
    if len(payload) % 6 or (frame.flags & ACK and payload):
        raise Breach(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS of a wrong size")
    found: dict[int, int] = {}
    for name, value in _PAIR.iter_unpack(payload):
        _check(name, value)
        found[name] = value
    return found


def _check(name: int, value: int) -> None:
    """RFC 9113 §6.5.2, RFC 8441 §3; unknown ones mean nothing."""
    if name == INITIAL_WINDOW_SIZE:
        if value > LAST_STREAM:
            raise Breach(ErrorCode.FLOW_CONTROL_ERROR, "window above the largest there is")
    elif name == MAX_FRAME_SIZE:
        if not 16384 <= value < 1 << 24:
            raise Breach(ErrorCode.PROTOCOL_ERROR, "frame size out of range")
    elif name in (ENABLE_PUSH, ENABLE_CONNECT_PROTOCOL) and value > 1:
        raise Breach(ErrorCode.PROTOCOL_ERROR, "neither 0 nor 1")
