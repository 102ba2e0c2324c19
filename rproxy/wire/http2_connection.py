"""An HTTP/2 connection without I/O, as both ends of it have it: frames, windows, states of streams.

The server's end is `wire.http2`, the client's `wire.http2_client`; they say which streams may begin and what
a header section on one means. Before a frame is looked at it is measured and paid for (see `http2_gate`).
Every breach of the protocol ends the connection: that it may only end a stream is what CVE-2025-8671 lives
on. Malformed messages end their stream, and cost the other side.

Of a stream that is over nothing is kept but, for a while, that we have reset it: what was on its way then is
no breach (RFC 9113 §5.1).
"""

from __future__ import annotations

from typing import Final

from . import http2_frames as frames
from .http2_decode import Decoder
from .http2_events import Body, Broken, End, ErrorCode, Event, Pong, Reset, WindowOpened
from .http2_frames import END_HEADERS, END_STREAM, LAST_STREAM, MAX_FRAME, Breach, Frame, FrameReader
from .http2_gate import MOST_FRAMES, Gate
from .http2_head import Malformed, trailers_of
from .http2_settings import ACKNOWLEDGED, DEFAULT_WINDOW, INITIAL_WINDOW_SIZE, read_settings
from .http2_speaker import Speaker, StreamState
from .message import Pair

JOIN_BELOW: Final = 2048
"""Bytes below which a piece of a body is joined to the one before it."""


class Connection(Speaker):
    """One end. `now` is in seconds, from any clock."""

    def __init__(self, gate: Gate, reader: FrameReader) -> None:
        super().__init__(gate)
        self._frames, self._decoder = reader, Decoder()
        self._first_room = DEFAULT_WINDOW
        self._begun: set[int] = set()
        self._parts: list[bytes] = []
        self._head_stream, self._head_ends = 0, False
        self._events: list[Event] = []

    @property
    def unread(self) -> bool:
        """Whether `receive` has to be called again although nothing more has come."""
        return self._frames.ready

    @property
    def partial(self) -> bool:
        """Whether a preface or a header section has begun and is not complete."""
        return self._gate.in_head or self._frames.in_head

    def receive(self, octets: bytes, now: float) -> list[Event]:
        """What these bytes, and those before, say. `Broken` comes alone, and nothing follows it.

        A request that begins and is reset in one go is not told.
        """
        if self._broken:
            return []
        self._gate.turn(now)
        try:
            self._frames.receive(octets)
            self._read_frames()
        except Breach as breach:
            self._break(breach.code, breach.why)
        events, self._events = self._events, []
        if self._begun:
            self._begun.clear()
        return events

    def _read_frames(self) -> None:
        reader, gate = self._frames, self._gate
        for _ in range(MOST_FRAMES):
            frame = reader.next()
            if frame is None:
                return
            gate.measure(frame, self._streams)
            self._take(frame)

    def _take(self, frame: Frame) -> None:
        kind = frame.kind
        if kind == frames.DATA:
            self._take_data(frame)
        elif kind == frames.HEADERS:
            self._take_head(frame)
        elif kind == frames.CONTINUATION:
            self._take_continuation(frame)
        elif kind == frames.WINDOW_UPDATE:
            self._take_window(frame)
        elif kind == frames.RST_STREAM:
            self._take_reset(frame)
        elif kind == frames.SETTINGS:
            self._take_settings(frame)
        elif kind == frames.PING:
            self._take_ping(frame)
        elif kind == frames.PRIORITY:
            frames.check_priority(frame)
        elif kind == frames.GOAWAY:
            last, code = frames.last_of(frame)
            self.leaving(last, code)
        elif kind == frames.PUSH_PROMISE:
            raise Breach(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE")

    def _take_head(self, frame: Frame) -> None:
        if not frame.stream:
            raise Breach(ErrorCode.PROTOCOL_ERROR, "HEADERS for no stream")
        block, ends = frames.field_block(frame), bool(frame.flags & END_STREAM)
        if frame.flags & END_HEADERS:
            self._take_section(frame.stream, block, ends)
        else:
            self._parts, self._head_stream, self._head_ends = [block], frame.stream, ends

    def _take_continuation(self, frame: Frame) -> None:
        """That it belongs to the section that has begun, and how long that gets, is the gate's business."""
        self._parts.append(frame.payload)
        if frame.flags & END_HEADERS:
            parts, self._parts = self._parts, []
            self._take_section(self._head_stream, b"".join(parts), self._head_ends)

    def _take_section(self, stream: int, block: bytes, ends: bool) -> None:
        """Decoded whatever becomes of it, for the next one may refer to it."""
        fields = self._decoder.decode(block)
        state = self._streams.get(stream)
        if state is None:
            self.head_of_none(stream, fields, ends)
        elif state.input_ended:
            raise Breach(ErrorCode.STREAM_CLOSED, "HEADERS on a stream that has ended")
        else:
            self.head_of_open(state, fields, ends)

    def head_of_none(self, stream: int, fields: list[Pair], ends: bool) -> None:
        """A header section came for a stream that is not open. May raise `Breach`."""

    def head_of_open(self, state: StreamState, fields: list[Pair], ends: bool) -> None:
        """A header section came for one that is. May raise `Breach`."""

    def is_idle(self, stream: int) -> bool:
        """Whether this stream has never begun."""
        raise NotImplementedError

    def check_late(self, stream: int) -> None:
        """A frame came for a stream that is not open: at most, it may be late (RFC 9113 §5.1)."""
        if self.is_idle(stream):
            raise Breach(ErrorCode.PROTOCOL_ERROR, "frame for a stream that never was")
        if stream not in self._reset:
            raise Breach(ErrorCode.STREAM_CLOSED, "frame for a stream that is over")

    def _take_data(self, frame: Frame) -> None:
        size, number = len(frame.payload), frame.stream
        if not number:
            raise Breach(ErrorCode.PROTOCOL_ERROR, "DATA for no stream")
        self._window -= size
        state = self._streams.get(number)
        if self._window < 0 or (state is not None and state.window < size):
            raise Breach(ErrorCode.FLOW_CONTROL_ERROR, "more than the window")
        piece = frames.unpadded(frame)
        if piece:
            self._gate.piece(len(piece))
        elif size:
            self._gate.padding()
        if state is None:
            self.check_late(number)
            self._give_back(size)
            return
        if state.input_ended:
            raise Breach(ErrorCode.STREAM_CLOSED, "DATA on a stream that has ended")
        state.window -= size
        self._tell_data(state, piece, size, bool(frame.flags & END_STREAM))

    def _tell_data(self, state: StreamState, piece: bytes, credit: int, ended: bool) -> None:
        left = state.left
        if left >= 0:
            left -= len(piece)
            if left < 0 or (ended and left):
                self.fail(state, Malformed("body of another length than Content-Length"))
                self._give_back(credit)
                return
            state.left = left
        if piece:
            self._tell_piece(Body(state.number, piece, credit))
        elif credit:
            self.credit(state.number, credit)
        if ended:
            self.end_input(state)
            self._events.append(End(state.number, None))

    def _tell_piece(self, body: Body) -> None:
        """Many small ones, one after the other, are worth one to those behind us.

        Up to the size of a frame: what is joined is copied each time.
        """
        last = self._events[-1] if self._events else None
        if not isinstance(last, Body) or last.stream != body.stream:
            self._events.append(body)
        elif len(body.piece) < JOIN_BELOW and len(last.piece) < MAX_FRAME:
            joined = b"".join((last.piece, body.piece))
            self._events[-1] = Body(body.stream, joined, last.credit + body.credit)
        else:
            self._events.append(body)

    def take_trailers(self, state: StreamState, fields: list[Pair], ends: bool) -> None:
        """A header section behind a body; it has to be the end (RFC 9113 §8.1)."""
        if not ends:
            raise Breach(ErrorCode.PROTOCOL_ERROR, "a head where only trailers may be")
        try:
            if state.left > 0:
                raise Malformed("body shorter than Content-Length")
            trailers = trailers_of(fields)
        except Malformed as refusal:
            self.fail(state, refusal)
            return
        self.end_input(state)
        self._events.append(End(state.number, trailers if trailers.names else None))

    def end_input(self, state: StreamState) -> None:
        """Nothing more comes; with nothing left in both directions a stream is over."""
        state.input_ended = True
        if state.output_ended:
            self._streams.pop(state.number, None)

    def fail(self, state: StreamState, refusal: Malformed) -> None:
        """A message turned out to be malformed while it came (RFC 9113 §8.1.1)."""
        self._gate.reset()
        self.reset(state.number, ErrorCode.PROTOCOL_ERROR)
        self.tell_reset(state.number, refusal, ErrorCode.PROTOCOL_ERROR)

    def tell_reset(self, stream: int, refusal: Malformed | None, code: int) -> None:
        """A stream is gone, by the other side or by us with a `refusal`."""
        self._events.append(Reset(stream, refusal, code))

    def _take_reset(self, frame: Frame) -> None:
        code, number = frames.word(frame.payload), frame.stream
        if not number or self.is_idle(number):
            raise Breach(ErrorCode.PROTOCOL_ERROR, "RST_STREAM for a stream that never was")
        if self._streams.pop(number, None) is None:
            self._gate.stray()
        else:
            self._gate.reset()
            self.tell_reset(number, None, code)

    def _take_window(self, frame: Frame) -> None:
        increment, number = frames.increment_of(frame), frame.stream
        if not number:
            room = self._room = self._room + increment
        else:
            state = self._streams.get(number)
            if state is None:
                if self.is_idle(number):
                    raise Breach(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE for a stream that never was")
                return
            room = state.room = state.room + increment
        if room > LAST_STREAM:
            if number:  # RFC 9113 §6.9.1 wants this one said, too
                self.reset(number, ErrorCode.FLOW_CONTROL_ERROR)
            raise Breach(ErrorCode.FLOW_CONTROL_ERROR, "window above the largest there is")
        self._events.append(WindowOpened(number))

    def _take_settings(self, frame: Frame) -> None:
        said = read_settings(frame)
        if frame.flags & frames.ACK:
            self.acknowledged()
            return
        self.settings_are(said)
        first = said.get(INITIAL_WINDOW_SIZE, -1)
        if first >= 0:
            self._resize(first)
        self._out.append(ACKNOWLEDGED)

    def _resize(self, first: int) -> None:
        """RFC 9113 §6.9.2: also of the streams that are open."""
        change, self._first_room = first - self._first_room, first
        for state in self._streams.values():
            state.room += change
            if state.room > LAST_STREAM:
                raise Breach(ErrorCode.FLOW_CONTROL_ERROR, "window above the largest there is")
        self._events.append(WindowOpened(0))

    def acknowledged(self) -> None:
        """The other side has taken our SETTINGS."""

    def settings_are(self, said: dict[int, int]) -> None:
        """The other side's SETTINGS, but for the window."""

    def leaving(self, last: int, code: int) -> None:
        """The other side's GOAWAY."""

    def _take_ping(self, frame: Frame) -> None:
        frames.check_ping(frame)
        if frame.flags & frames.ACK:
            self._events.append(Pong(frame.payload))
        else:
            self._out.append(frames.ping(frame.payload, ack=True))

    def last_begun(self) -> int:
        """The highest stream of the other side's that has begun."""
        raise NotImplementedError

    def _break(self, code: ErrorCode, why: str) -> None:
        self._broken = True
        self._frames.stop()
        self._streams.clear()
        self.say_goaway(self.last_begun(), code)
        self._events = [Broken(code, why)]  # nobody will read an answer to what came before
