"""HTTP/2 frames as bytes (RFC 9113 §4, §6): cut out of what comes, and the few that are built here.

Called by `wire.http2`. Nothing here knows about streams; a frame is held until it is complete, and none is
larger than the least that every HTTP/2 server has to take.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from .http2_events import ErrorCode

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What a client says first (RFC 9113 §3.4)."""
MAX_FRAME: Final = 16384
"""Bytes of a frame's payload: the least that is allowed. Larger ones would only be held longer."""
LAST_STREAM: Final = (1 << 31) - 1
"""The highest number of a stream."""

DATA: Final = 0
HEADERS: Final = 1
PRIORITY: Final = 2
RST_STREAM: Final = 3
SETTINGS: Final = 4
PUSH_PROMISE: Final = 5
PING: Final = 6
GOAWAY: Final = 7
WINDOW_UPDATE: Final = 8
CONTINUATION: Final = 9
"""Types of frames; those above are to be ignored."""

END_STREAM: Final = 1
ACK: Final = 1
END_HEADERS: Final = 4
PADDED: Final = 8
PRIORITISED: Final = 32
"""Flags of frames."""

_HEAD: Final = Struct(">HBBBL")
_GOAWAY: Final = Struct(">HBBBLLL")
_WORD: Final = Struct(">HBBBLL")
_TWO_WORDS: Final = Struct(">LL")


class Breach(Exception):
    """The other side has broken the protocol, or our patience: the connection ends."""

    def __init__(self, code: ErrorCode, why: str) -> None:
        super().__init__(why)
        self.code, self.why = code, why


class Frame:
    """One frame, without its 9 bytes of head."""

    __slots__ = ("flags", "kind", "payload", "stream")

    def __init__(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        self.kind, self.flags, self.stream, self.payload = kind, flags, stream, payload

    @property
    def size(self) -> int:
        """Bytes of payload."""
        return len(self.payload)


class FrameReader:
    """Cuts what the other side sends into frames, after the preface if it is a client."""

    __slots__ = ("_at", "_buffer", "_preface")

    def __init__(self, preface: bytes = PREFACE) -> None:
        self._buffer, self._at = b"", 0
        self._preface = preface

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
        stream = (buffer[at + 5] & 127) << 24 | buffer[at + 6] << 16 | buffer[at + 7] << 8 | buffer[at + 8]
        return Frame(buffer[at + 3], buffer[at + 4], stream, buffer[at + 9 : end])

    def stop(self) -> None:
        """Forget what is left; it will not be asked for."""
        self._buffer, self._at = b"", 0

    def _size(self) -> int:
        buffer, at = self._buffer, self._at
        return buffer[at] << 16 | buffer[at + 1] << 8 | buffer[at + 2]


def frame_head(size: int, kind: int, flags: int, stream: int) -> bytes:
    """The 9 bytes before a payload of this size, 16 MiB - 1 at most."""
    return _HEAD.pack(size >> 8, size & 255, kind, flags, stream)


def ping(payload: bytes, *, ack: bool) -> bytes:
    """A PING, or the answer to one, of 8 bytes."""
    return frame_head(8, PING, ACK if ack else 0, 0) + payload


def goaway(last: int, code: ErrorCode) -> bytes:
    """GOAWAY: streams above `last` are not served."""
    return _GOAWAY.pack(0, 8, GOAWAY, 0, 0, last, code)


def reset(stream: int, code: ErrorCode) -> bytes:
    """RST_STREAM."""
    return _WORD.pack(0, 4, RST_STREAM, 0, stream, code)


def window_update(stream: int, increment: int) -> bytes:
    """WINDOW_UPDATE, of the connection with stream 0."""
    return _WORD.pack(0, 4, WINDOW_UPDATE, 0, stream, increment)


def unpadded(frame: Frame) -> bytes:
    """What is in a DATA or HEADERS frame (RFC 9113 §6.1, §6.2). Raises `Breach`."""
    payload = frame.payload
    if not frame.flags & PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise Breach(ErrorCode.PROTOCOL_ERROR, "more padding than frame")
    return payload[1 : len(payload) - payload[0]]


def field_block(frame: Frame) -> bytes:
    """The part of a header section that is in a HEADERS frame. Raises `Breach`."""
    payload = unpadded(frame)
    if not frame.flags & PRIORITISED:
        return payload
    _check_dependency(frame.stream, payload[:5])
    return payload[5:]


def word(payload: bytes) -> int:
    """The number in a frame of four bytes. Raises `Breach` for one of another size."""
    if len(payload) != 4:
        raise Breach(ErrorCode.FRAME_SIZE_ERROR, "frame of a wrong size")
    return int.from_bytes(payload, "big")


def increment_of(frame: Frame) -> int:
    """By how much a WINDOW_UPDATE opens a window (RFC 9113 §6.9). Raises `Breach`."""
    increment = word(frame.payload) & LAST_STREAM
    if not increment:
        raise Breach(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE of nothing")
    return increment


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
    _check_dependency(frame.stream, frame.payload)


def _check_dependency(stream: int, octets: bytes) -> None:
    if len(octets) != 5:
        raise Breach(ErrorCode.FRAME_SIZE_ERROR, "priority of a wrong size")
    if int.from_bytes(octets[:4], "big") & LAST_STREAM == stream:
        raise Breach(ErrorCode.PROTOCOL_ERROR, "stream that depends on itself")


def last_of(frame: Frame) -> tuple[int, int]:
    """The last stream that is served and the code in a GOAWAY (RFC 9113 §6.8). Raises `Breach`."""
    if frame.stream:
        raise Breach(ErrorCode.PROTOCOL_ERROR, "GOAWAY on a stream")
    if frame.size < 8:
        raise Breach(ErrorCode.FRAME_SIZE_ERROR, "GOAWAY of a wrong size")
    last, code = _TWO_WORDS.unpack_from(frame.payload)
    return last & LAST_STREAM, code
