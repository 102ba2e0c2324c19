"""HTTP/2 frames as bytes (RFC 9113 §4, §6): cut out of what comes, and the few that are built here.

Called by `wire.http2`. Nothing here knows about streams; a frame is held until it is complete, and none is
larger than the least that every HTTP/2 server has to take.
"""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

from .http2_events import ErrorCode

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What a client says first (RFC 9113 §3.4)."""
MAX_FRAME = 16384
"""Bytes of a frame's payload: the least that is allowed. Larger ones would only be held longer."""
LAST_STREAM = (1 << 31) - 1
"""The highest number of a stream."""

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    range(10)
)
END_STREAM, END_HEADERS, ACK = 1, 4, 1

_HEAD = Struct(">HBBBL")
_GOAWAY = Struct(">HBBBLLL")


class Breach(Exception):
    """The client has broken the protocol, or our patience: the connection ends."""

    def __init__(self, code: ErrorCode, why: str) -> None:
        super().__init__(why)
        self.code, self.why = code, why


class Frame(NamedTuple):
    """One frame. `octets` is all of it, its 9 bytes of head too."""

    kind: int
    flags: int
    stream: int
    octets: bytes

    @property
    def size(self) -> int:
        """Bytes of payload."""
        return len(self.octets) - 9


class FrameReader:
    """Cuts what a client sends into frames, after its preface."""

    __slots__ = ("_at", "_buffer", "_preface")

    def __init__(self) -> None:
        self._buffer, self._at = b"", 0
        self._preface = PREFACE

    @property
    def in_head(self) -> bool:
        """Whether part of a preface has come, or of a frame that may be of a header section."""
        left = len(self._buffer) - self._at
        if self._preface:
            return len(self._preface) < len(PREFACE)
        return 0 < left < 4 or (left >= 4 and self._buffer[self._at + 3] in (HEADERS, CONTINUATION))

    @property
    def ready(self) -> bool:
        """Whether `next` has a frame, or a breach."""
        left = len(self._buffer) - self._at
        return left >= 9 and (self._size() > MAX_FRAME or left >= 9 + self._size())

    def receive(self, octets: bytes) -> None:
        """Take what a read gave. Raises `Breach` if it is no HTTP/2."""
        if self._preface:
            size = min(len(self._preface), len(octets))
            if octets[:size] != self._preface[:size]:
                raise Breach(ErrorCode.PROTOCOL_ERROR, "no HTTP/2 preface")
            self._preface, octets = self._preface[size:], octets[size:]
        left = self._buffer[self._at :]  # of one frame, but for the rest of a read that was put off
        self._buffer, self._at = left + octets if left else octets, 0

    def next(self) -> Frame | None:
        """The next complete frame. Raises `Breach` for one that is too large."""
        buffer, at = self._buffer, self._at
        if len(buffer) - at < 9:
            return None
        size = self._size()
        if size > MAX_FRAME:
            raise Breach(ErrorCode.FRAME_SIZE_ERROR, "frame above the limit")
        end = at + 9 + size
        if len(buffer) < end:
            return None
        self._at = end
        _, _, kind, flags, stream = _HEAD.unpack_from(buffer, at)
        return Frame(kind, flags, stream & LAST_STREAM, buffer[at:end])

    def stop(self) -> None:
        """Forget what is left; it will not be asked for."""
        self._buffer, self._at = b"", 0

    def _size(self) -> int:
        buffer, at = self._buffer, self._at
        return buffer[at] << 16 | buffer[at + 1] << 8 | buffer[at + 2]


def ping(payload: bytes, *, ack: bool) -> bytes:
    """A PING, or the answer to one, of 8 bytes."""
    return _HEAD.pack(0, 8, PING, ACK if ack else 0, 0) + payload


def goaway(last: int, code: ErrorCode) -> bytes:
    """GOAWAY: streams above `last` are not served."""
    return _GOAWAY.pack(0, 8, GOAWAY, 0, 0, last, code)


def check_ping(frame: Frame) -> None:
    """RFC 9113 §6.7. Raises `Breach`."""
    if frame.stream:
        raise Breach(ErrorCode.PROTOCOL_ERROR, "PING on a stream")
    if frame.size != 8:
        raise Breach(ErrorCode.FRAME_SIZE_ERROR, "PING of a wrong size")


def check_priority(frame: Frame) -> None:
    """RFC 9113 §6.3; what it says is obsolete, and ignored. Raises `Breach`."""
    if not frame.stream:
        raise Breach(ErrorCode.PROTOCOL_ERROR, "PRIORITY for no stream")
    if frame.size != 5:
        raise Breach(ErrorCode.FRAME_SIZE_ERROR, "PRIORITY of a wrong size")
    if int.from_bytes(frame.octets[9:13], "big") & LAST_STREAM == frame.stream:
        raise Breach(ErrorCode.PROTOCOL_ERROR, "stream that depends on itself")


def check_settings(frame: Frame) -> None:
    """RFC 9113 §6.5, as far as the library does not. Raises `Breach`."""
    if frame.flags & ACK and frame.size:
        raise Breach(ErrorCode.FRAME_SIZE_ERROR, "acknowledgement with something in it")


def check_goaway(frame: Frame) -> None:
    """RFC 9113 §6.8. Raises `Breach`."""
    if frame.stream:
        raise Breach(ErrorCode.PROTOCOL_ERROR, "GOAWAY on a stream")
    if frame.size < 8:
        raise Breach(ErrorCode.FRAME_SIZE_ERROR, "GOAWAY of a wrong size")
