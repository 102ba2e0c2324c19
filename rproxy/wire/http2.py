"""HTTP/2 without I/O, the server's side: bytes in, events out; calls in, bytes out. Owned by `downstream`.

    codec.start()                    once; our SETTINGS are then in the output
    codec.receive(bytes, now)        events, whenever bytes came; again with none while `codec.unread`
    codec.send_head(...), send_body, send_trailers, reset, credit, ping, goaway
    codec.output()                   what has to be written now

Here the library `h2` ends (see `http2_library`), which keeps states and windows. Before it sees a frame the
frame is measured and paid for (see `http2_gate`), and what needs no state is answered here. Every breach of
the protocol by the client ends the connection: that it may only end a stream is what CVE-2025-8671 lives on.
Malformed messages end their stream, and cost the client.
"""

from __future__ import annotations

from collections.abc import Iterable

from h2 import events as told
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes

from . import http2_frames as frames
from .http2_encode import Encoder
from .http2_events import (
    Body,
    Broken,
    End,
    ErrorCode,
    Event,
    Leaving,
    Pong,
    RefusedHead,
    RequestHead,
    Reset,
    WindowOpened,
)
from .http2_frames import LAST_STREAM, Breach, Frame, FrameReader
from .http2_gate import BEFORE_SETTINGS, MOST_FRAMES, Gate
from .http2_head import Malformed, RequestFields, trailers_of
from .http2_library import Library, code_of
from .message import BadRequest, Fields, Framing, Pair, Piece

JOIN_BELOW = 2048
"""Bytes below which a piece of a body is joined to the one before it."""

_ANY, _ENDED = -1, -2
"""In place of the bytes that a request still has to bring: any number, none."""


class Http2Codec:
    """One connection. `streams` may be open at a time; `now` is in seconds, from any clock."""

    def __init__(self, streams: int, now: float) -> None:
        self._gate = Gate(streams, now)
        self._offered, self._most = streams, max(streams, BEFORE_SETTINGS)
        self._library, self._encoder = Library(), Encoder()
        self._fields = RequestFields()
        self._frames = FrameReader()
        self._streams: dict[int, int] = {}
        # Those of them in which we have said everything.
        self._sent: set[int] = set()
        self._begun: set[int] = set()
        self._last, self._broken = LAST_STREAM, False
        self.heads = 0
        """How many header sections have been read: tells whether `partial` is still about the same one."""
        self._out: list[bytes] = []
        self._events: list[Event] = []

    @property
    def streams(self) -> int:
        """How many are open."""
        return len(self._streams)

    @property
    def unread(self) -> bool:
        """Whether `receive` has to be called again although nothing more has come."""
        return self._frames.ready

    @property
    def partial(self) -> bool:
        """Whether a preface or a header section has begun and is not complete."""
        return self._gate.in_head or self._frames.in_head

    def start(self) -> None:
        """Say our SETTINGS (RFC 9113 §3.4)."""
        self._library.start(self._offered)

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
        except ProtocolError as error:
            self._break(code_of(error), "breach of the protocol")
        events, self._events = self._events, []
        self._begun.clear()
        return events

    def _read_frames(self) -> None:
        reader, gate = self._frames, self._gate
        for _ in range(MOST_FRAMES):
            frame = reader.next()
            if frame is None:
                return
            gate.measure(frame, self._streams)
            if not self._answers_itself(frame):
                for event in self._library.receive_data(frame.octets):
                    self._tell(event)
                self._take_output()

    def _answers_itself(self, frame: Frame) -> bool:
        """Whether a frame was dealt with here, for no stream's state depends on it."""
        kind = frame.kind
        if kind == frames.PING:
            frames.check_ping(frame)
            if frame.flags & frames.ACK:
                self._events.append(Pong(frame.octets[9:]))
            else:
                self._out.append(frames.ping(frame.octets[9:], ack=True))
        elif kind == frames.PRIORITY:
            frames.check_priority(frame)
        elif kind == frames.GOAWAY:  # the library would send nothing any more
            frames.check_goaway(frame)
            self._events.append(Leaving())
        else:
            if kind == frames.RST_STREAM:
                self._check_reset(frame.stream)
            elif kind == frames.SETTINGS:
                frames.check_settings(frame)
            return kind > frames.CONTINUATION
        return True

    def _check_reset(self, stream: int) -> None:
        if stream > self._library.highest_inbound_stream_id:
            raise Breach(ErrorCode.PROTOCOL_ERROR, "RST_STREAM for a stream that never was")
        if stream and stream not in self._streams:
            self._gate.stray()

    def _tell(self, event: told.Event) -> None:
        """An event of the library's as ours."""
        match event:
            case told.RequestReceived(stream_id=int(stream)):
                self._tell_head(stream, event.stream_ended is not None)
            case told.DataReceived(stream_id=int(stream)):
                self._tell_data(stream, event)
            case told.TrailersReceived(stream_id=int(stream)):
                self._tell_trailers(stream)
            case told.StreamReset(stream_id=int(stream)):
                if not event.remote_reset:  # by the library, for a frame that the stream's state forbids
                    raise Breach(ErrorCode(event.error_code or 0), "frame against the state of its stream")
                if self._forget(stream):
                    self._gate.reset()
                    self._tell_reset(stream, None)
            case told.WindowUpdated(stream_id=int(stream)):
                if not stream or stream in self._streams:
                    self._events.append(WindowOpened(stream))
            case told.SettingsAcknowledged():
                self._most = self._offered
            case told.RemoteSettingsChanged():
                if SettingCodes.INITIAL_WINDOW_SIZE in event.changed_settings:
                    self._events.append(WindowOpened(0))

    def _tell_head(self, stream: int, ended: bool) -> None:
        if len(self._streams) >= self._most or stream > self._last:
            self._gate.reset()
            self._library.reset_stream(stream, ErrorCode.REFUSED_STREAM)
            return
        self.heads += 1
        self._begun.add(stream)
        self._streams[stream] = _ENDED if ended else _ANY
        try:
            request = self._fields.request(self._library.fields, ended)
        except Malformed as malformed:
            self._drop(stream)
            self._events.append(RefusedHead(stream, malformed, True, ended))
        except BadRequest as refusal:
            self._gate.refusal()
            self._events.append(RefusedHead(stream, refusal, False, ended))
        else:
            if not ended and request.framing is Framing.LENGTH:
                self._streams[stream] = request.length
            self._events.append(RequestHead(stream, request, ended))

    def _tell_data(self, stream: int, event: told.DataReceived) -> None:
        piece, credit = event.data or b"", event.flow_controlled_length or 0
        left, ended = self._streams[stream], event.stream_ended is not None
        if left >= 0:
            left -= len(piece)
            if left < 0 or (ended and left):
                self._fail(stream, Malformed("body of another length than Content-Length"))
                self.credit(stream, credit)
                return
        self._note(stream, left, ended)
        if piece:
            self._tell_piece(Body(stream, piece, credit))
        elif credit:
            self._gate.padding()
            self.credit(stream, credit)
        if ended:
            self._events.append(End(stream, None))

    def _note(self, stream: int, left: int, ended: bool) -> None:
        """What is still to come from the client; with nothing left in both directions a stream is over."""
        self._streams[stream] = _ENDED if ended else left
        if ended and stream in self._sent:
            self._forget(stream)

    def _forget(self, stream: int) -> bool:
        """Whether it was open."""
        self._sent.discard(stream)
        return self._streams.pop(stream, None) is not None

    def _tell_piece(self, body: Body) -> None:
        """Many small ones, one after the other, are worth one to those behind us."""
        last = self._events[-1] if self._events else None
        if isinstance(last, Body) and last.stream == body.stream and len(body.piece) < JOIN_BELOW:
            joined = b"".join((last.piece, body.piece))
            self._events[-1] = Body(body.stream, joined, last.credit + body.credit)
        else:
            self._events.append(body)

    def _tell_trailers(self, stream: int) -> None:
        left = self._streams[stream]
        try:
            if left > 0:
                raise Malformed("body shorter than Content-Length")
            trailers = trailers_of(self._library.fields)
        except Malformed as refusal:
            self._fail(stream, refusal)
            return
        self._note(stream, left, True)
        self._events.append(End(stream, trailers if trailers.names else None))

    def _fail(self, stream: int, refusal: Malformed) -> None:
        """A message turned out to be malformed while it came (RFC 9113 §8.1.1)."""
        self._drop(stream)
        self._tell_reset(stream, refusal)

    def _drop(self, stream: int) -> None:
        self._gate.reset()
        self.reset(stream, ErrorCode.PROTOCOL_ERROR)

    def _tell_reset(self, stream: int, refusal: Malformed | None) -> None:
        if stream in self._begun:  # whoever asks and takes it back has not asked
            self._events = [event for event in self._events if getattr(event, "stream", 0) != stream]
        if refusal is not None or stream not in self._begun:
            self._events.append(Reset(stream, refusal))

    def send_head(self, stream: int, status: int, fields: Fields, end: bool) -> None:
        """A response's head, interim or final; with `end` that is all of it."""
        if stream in self._streams:
            octets = self._encoder.head(status, fields)
            self._library.send_block(stream, octets, interim=status < 200, end=end)
            self._end_sending(stream, end)

    def send_body(self, stream: int, piece: Piece, end: bool) -> None:
        """A piece of a response's body: `room(stream)` and `MAX_FRAME` bytes at most, or none with `end`."""
        if stream in self._streams:
            self._gate.sent(len(piece), forced=not end and len(piece) == self.room(stream))
            self._library.send_data(stream, piece, end)
            self._end_sending(stream, end)

    def send_trailers(self, stream: int, trailers: Iterable[Pair]) -> None:
        """The end of a response's body, with fields behind it."""
        if stream in self._streams:
            octets = self._encoder.fields(trailers)
            self._library.send_block(stream, octets, interim=False, end=True)
            self._end_sending(stream, True)

    def _end_sending(self, stream: int, end: bool) -> None:
        """With nothing to come from the client either the stream is over; else the caller may `reset` it."""
        if end:
            self._gate.served()
            if self._streams[stream] == _ENDED:
                self._forget(stream)
            else:
                self._sent.add(stream)

    def room(self, stream: int) -> int:
        """Bytes of body that the client takes now on this stream; 0 or less for none."""
        return self._library.local_flow_control_window(stream) if stream in self._streams else 0

    @property
    def room_in_all(self) -> int:
        """Bytes of body that the client takes now on all streams together."""
        return int(self._library.outbound_flow_control_window)

    def credit(self, stream: int, count: int) -> None:
        """Give back window: these bytes of the request's body are no longer ours."""
        if count and not self._broken:
            self._library.acknowledge_received_data(count, stream)

    def reset(self, stream: int, code: ErrorCode) -> None:
        """End a stream that is not over."""
        if self._forget(stream):
            self._library.reset_stream(stream, code)

    def ping(self, payload: bytes) -> None:
        """Ask for a `Pong` with the same 8 bytes."""
        self._take_output()
        self._out.append(frames.ping(payload, ack=False))

    def goaway(self, code: ErrorCode, *, soon: bool = False) -> None:
        """Say that no stream is served but those that have begun; with `soon`, that this will be said."""
        if not soon:
            self._last = self._library.highest_inbound_stream_id
        self._take_output()
        self._out.append(frames.goaway(self._last, code))

    def output(self) -> bytes:
        """What has to be written; empty if nothing has."""
        self._take_output()
        out, self._out = self._out, []
        return out[0] if len(out) == 1 else b"".join(out)

    def _take_output(self) -> None:
        """The library's, in the order of the calls."""
        out = self._library.data_to_send()
        if out:
            self._out.append(out)

    def _break(self, code: ErrorCode, why: str) -> None:
        self._library.clear_outbound_data_buffer()
        self._broken = True
        self._frames.stop()
        self._streams.clear()
        self.goaway(code)
        self._events = [Broken(code, why)]  # nobody will read an answer to what came before
