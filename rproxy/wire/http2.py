"""HTTP/2 without I/O, the server's end: bytes in, events out; calls in, bytes out. Owned by `downstream`.

    codec.start()                    once; our SETTINGS are then in the output
    codec.receive(bytes, now)        events, whenever bytes came; again with none while `codec.unread`
    codec.send_head(...), send_body, send_trailers, reset, credit, ping, goaway
    codec.output()                   what has to be written now

What both ends have in common is in `http2_connection`; here are the requests.
"""

from __future__ import annotations

from typing import Final

from . import http2_settings as names
from .http2_connection import Connection
from .http2_events import Body, ErrorCode, Leaving, RefusedHead, RequestHead
from .http2_frames import LAST_STREAM, MAX_FRAME, PREFACE, Breach, FrameReader
from .http2_gate import BEFORE_SETTINGS, MAX_HEAD, Gate
from .http2_head import Malformed, RequestFields
from .http2_speaker import StreamState
from .message import BadRequest, Fields, Framing, Pair

_LENGTH: Final = Framing.LENGTH


class Http2Codec(Connection):
    """One connection. `streams` may be open at a time; `now` is in seconds, from any clock."""

    def __init__(self, streams: int, now: float) -> None:
        super().__init__(Gate(streams, now), FrameReader(PREFACE))
        self._offered, self._most = streams, max(streams, BEFORE_SETTINGS)
        self._fields = RequestFields()
        self._highest, self._last = 0, LAST_STREAM
        self._skips = False
        self.heads = 0
        """How many header sections have been read: tells whether `partial` is still about the same one."""

    def start(self) -> None:
        """Say our SETTINGS (RFC 9113 §3.4)."""
        self.say_settings(
            (
                (names.MAX_CONCURRENT_STREAMS, self._offered),
                (names.MAX_FRAME_SIZE, MAX_FRAME),
                (names.MAX_HEADER_LIST_SIZE, MAX_HEAD),
                (names.ENABLE_CONNECT_PROTOCOL, 1),
            )
        )

    def is_idle(self, stream: int) -> bool:
        """Also those with an even number, which only we could begin."""
        return stream > self._highest or not stream & 1

    def acknowledged(self) -> None:
        """The client knows how many streams it may open."""
        self._most = self._offered

    def leaving(self, last: int, code: int) -> None:
        """It has begun its last stream."""
        self._events.append(Leaving())

    def head_of_none(self, stream: int, fields: list[Pair], ends: bool) -> None:
        """A request begins, or the trailers of one come that we have reset."""
        if not stream & 1:
            raise Breach(ErrorCode.PROTOCOL_ERROR, "a client's stream has an odd number")
        if stream <= self._highest:
            self._check_again(stream)
            return
        self._skips = self._skips or stream > self._highest + 2
        self._highest = stream
        if len(self._streams) >= self._most or stream > self._last:
            self._gate.reset()
            self.refuse_stream(stream, ErrorCode.REFUSED_STREAM)
        else:
            self._begin(stream, fields, ends)

    def _check_again(self, stream: int) -> None:
        """It is over, or was left out, which RFC 9113 §5.1.1 calls by another name."""
        if self._skips and stream < self._highest and stream not in self._reset:
            raise Breach(ErrorCode.PROTOCOL_ERROR, "streams in no order")
        self.check_late(stream)
        self._gate.stray()

    def _begin(self, stream: int, fields: list[Pair], ends: bool) -> None:
        self.heads += 1
        self._begun.add(stream)
        state = self._streams[stream] = StreamState(stream, self._first_room)
        state.input_ended = ends
        try:
            request = self._fields.request(fields, ends)
        except Malformed as malformed:
            self._gate.reset()
            self.reset(stream, ErrorCode.PROTOCOL_ERROR)
            self._events.append(RefusedHead(stream, malformed, True, ends))
        except BadRequest as refusal:
            self._gate.refusal()
            self._events.append(RefusedHead(stream, refusal, False, ends))
        else:
            if not ends and request.framing is _LENGTH:
                state.left = request.length
            self._events.append(RequestHead(stream, request, ends))

    def head_of_open(self, state: StreamState, fields: list[Pair], ends: bool) -> None:
        """What comes behind a request's head are its trailers."""
        self.take_trailers(state, fields, ends)

    def tell_reset(self, stream: int, refusal: Malformed | None, code: int) -> None:
        """Whoever asks and takes it back in one go has not asked."""
        if stream in self._begun:
            self._take_back(stream)
            if refusal is None:
                return
        super().tell_reset(stream, refusal, code)

    def _take_back(self, stream: int) -> None:
        """Forget what was told of a stream; nobody will give back the window of its bytes."""
        events, self._events = self._events, []
        for event in events:
            if getattr(event, "stream", 0) != stream:
                self._events.append(event)
            elif isinstance(event, Body):
                self._give_back(event.credit)

    def send_head(self, stream: int, status: int, fields: Fields, end: bool) -> None:
        """A response's head, interim or final; with `end` that is all of it."""
        state = self._streams.get(stream)
        if state is not None:
            self.send_block(stream, self._encoder.head(status, fields), end)
            if end:
                self._end_output(state)

    def goaway(self, code: ErrorCode, *, soon: bool = False) -> None:
        """Say that no stream is served but those that have begun; with `soon`, that this will be said."""
        if not soon:
            self._last = self._highest
        self.say_goaway(self._last, code)

    def last_begun(self) -> int:
        """The client's streams up to this one have been looked at."""
        return self._highest
