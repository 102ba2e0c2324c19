"""What one end of an HTTP/2 connection says: heads, bodies, window, resets. Inherited by `http2_connection`.

Whatever is said to a stream that is over is dropped, for whoever says it may not know yet.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

from . import http2_frames as frames
from .http2_encode import Encoder
from .http2_events import ErrorCode
from .http2_frames import END_HEADERS, END_STREAM, MAX_FRAME
from .http2_gate import Gate
from .http2_settings import (
    CONNECTION_WINDOW,
    DEFAULT_WINDOW,
    INITIAL_WINDOW_SIZE,
    STREAM_WINDOW,
    settings,
)
from .message import Pair, Piece

MOST_REMEMBERED: Final = 128
"""Streams that we have reset and still know of; as many as can be under way with two round trips."""
NO_TABLE: Final = b"\x20"
"""The first thing in HPACK that we say: a table of no size (RFC 7541 §6.3). That holds whatever a client's
SETTINGS_HEADER_TABLE_SIZE allows or, with less than the default, demands to be told."""
ANY: Final = -1
"""In place of the bytes that a body still has to bring."""


class StreamState:
    """A stream that is not over."""

    __slots__ = ("input_ended", "left", "number", "output_ended", "owed", "room", "window")

    def __init__(self, number: int, room: int) -> None:
        self.number = number
        self.room = room
        """Bytes of body that the other side takes; may be negative (RFC 9113 §6.9.2)."""
        self.window, self.owed = STREAM_WINDOW, 0
        """Bytes that it may send; and those we have to give back but have not said so."""
        self.left = ANY
        """Bytes of body that are still to come, if its head has said so."""
        self.input_ended = self.output_ended = False


class Speaker:
    """The half of a connection that speaks."""

    def __init__(self, gate: Gate) -> None:
        self._gate, self._encoder = gate, Encoder()
        self._streams: dict[int, StreamState] = {}
        self._reset: dict[int, None] = {}
        self._room, self._window, self._owed = DEFAULT_WINDOW, CONNECTION_WINDOW, 0
        self._broken = self._said_table = False
        self._out: list[bytes | memoryview] = []

    @property
    def streams(self) -> int:
        """How many are open."""
        return len(self._streams)

    def say_settings(self, pairs: Iterable[tuple[int, int]]) -> None:
        """Our SETTINGS, with the windows that we always have."""
        self._out.append(settings([*pairs, (INITIAL_WINDOW_SIZE, STREAM_WINDOW)]))
        self._out.append(frames.window_update(0, CONNECTION_WINDOW - DEFAULT_WINDOW))

    def send_block(self, stream: int, block: bytes, end: bool) -> None:
        """A header section that is encoded already, in as many frames as it needs."""
        kind, flags = frames.HEADERS, END_STREAM if end else 0
        if not self._said_table:
            self._said_table, block = True, NO_TABLE + block
        while len(block) > MAX_FRAME:
            self._out += (frames.frame_head(MAX_FRAME, kind, flags, stream), block[:MAX_FRAME])
            kind, flags, block = frames.CONTINUATION, 0, block[MAX_FRAME:]
        self._out += (frames.frame_head(len(block), kind, flags | END_HEADERS, stream), block)

    def send_body(self, stream: int, piece: Piece, end: bool) -> None:
        """A piece of a body: `room(stream)` and `MAX_FRAME` bytes at most, see `cut`; or none with `end`."""
        state = self._streams.get(stream)
        if state is None:
            return
        size = len(piece)
        self._gate.sent(size, forced=not end and size == min(state.room, self._room))
        state.room -= size
        self._room -= size
        self._out.append(frames.frame_head(size, frames.DATA, END_STREAM if end else 0, stream))
        if size:
            self._out.append(piece)
        if end:
            self._end_output(state)

    def send_trailers(self, stream: int, trailers: Iterable[Pair]) -> None:
        """The end of a body, with fields behind it."""
        state = self._streams.get(stream)
        if state is not None:
            self.send_block(stream, self._encoder.fields(trailers), True)
            self._end_output(state)

    def _end_output(self, state: StreamState) -> None:
        """With nothing to come from there either the stream is over; else the caller may `reset` it."""
        self._gate.served()
        state.output_ended = True
        if state.input_ended:
            self._streams.pop(state.number, None)

    def room(self, stream: int) -> int:
        """Bytes of body that the other side takes now on this stream; 0 or less for none."""
        state = self._streams.get(stream)
        return 0 if state is None else min(state.room, self._room)

    def cut(self, stream: int, queue: deque[Piece]) -> Piece | None:
        """What of a body fits into the next frame, taken out of its queue; None if nothing does now."""
        room = min(self.room(stream), MAX_FRAME)
        if room <= 0:
            return None
        piece = queue.popleft()
        if len(piece) <= room:
            return piece
        whole = memoryview(piece)
        queue.appendleft(whole[room:])
        return whole[:room]

    @property
    def room_in_all(self) -> int:
        """Bytes of body that the other side takes now on all streams together."""
        return self._room

    def credit(self, stream: int, count: int) -> None:
        """Give back window: these bytes of a body are no longer ours.

        That is said when it is half of the window, or as much as there is left: the rest may be of bytes that
        somebody stalls on.
        """
        if count and not self._broken:
            self._give_back(count)
            self.taken(stream, count)

    def taken(self, stream: int, count: int) -> None:
        """The same for the window of the stream alone."""
        state = self._streams.get(stream)
        if state is None or state.input_ended:
            return
        state.owed += count
        if state.owed >= STREAM_WINDOW // 2 or state.owed >= state.window:
            self._out.append(frames.window_update(stream, state.owed))
            state.window, state.owed = state.window + state.owed, 0

    def _give_back(self, count: int) -> None:
        self._owed += count
        if self._owed >= CONNECTION_WINDOW // 2 or self._owed >= self._window:
            self._out.append(frames.window_update(0, self._owed))
            self._window, self._owed = self._window + self._owed, 0

    def reset(self, stream: int, code: ErrorCode) -> None:
        """End a stream that is not over."""
        if self._streams.pop(stream, None) is not None:
            self.refuse_stream(stream, code)

    def refuse_stream(self, stream: int, code: ErrorCode) -> None:
        """End one that is not to begin."""
        self._out.append(frames.reset(stream, code))
        self._reset[stream] = None
        if len(self._reset) > MOST_REMEMBERED:
            del self._reset[next(iter(self._reset))]

    def ping(self, payload: bytes) -> None:
        """Ask for a `Pong` with the same 8 bytes."""
        self._out.append(frames.ping(payload, ack=False))

    def say_goaway(self, last: int, code: ErrorCode) -> None:
        """Say that no stream above `last` is served."""
        self._out.append(frames.goaway(last, code))

    def output(self) -> bytes:
        """What has to be written; empty if nothing has."""
        out = self._out
        if not out:
            return b""
        self._out = []
        return b"".join(out)
