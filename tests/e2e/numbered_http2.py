"""Requests with numbers (see `numbered`) in HTTP/2, many at a time, by a codec that is not ours."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    ResponseReceived,
    StreamEnded,
    StreamReset,
)
from h2.exceptions import StreamClosedError
from h2.settings import SettingCodes

from tests.e2e.numbered import Ask, Fields, Lost, check, content

PIECE = 1 << 16
WINDOW = 1 << 20


@dataclass
class Stream:
    """One request: what is left to send, and what has come."""

    asked: Ask
    rest: bytes
    cut: int
    """Bytes of the answer after which it is reset; -1 for never."""
    fields: Fields = field(default_factory=dict)
    body: bytes = b""


class Http2Asker:
    """A client's connection, on which HTTP/2 was agreed."""

    def __init__(self, stream: Any, host: bytes = b"a.test") -> None:
        self._stream, self._host = stream, host
        self._h2 = H2Connection(H2Configuration(header_encoding=None))
        self._h2.initiate_connection()
        self._h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: WINDOW})
        self._h2.increment_flow_control_window(WINDOW)
        self._open: dict[int, Stream] = {}
        self.answered = 0

    def __enter__(self) -> Http2Asker:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stream.close()

    def ask(self, asked: list[Ask], rng: random.Random, cuts: float = 0.0) -> None:
        """Requests all at once, of which that part is reset while it is answered; raises as `Asker.ask`."""
        try:
            for one in asked:
                self._begin(one, rng.randrange(one.down + 1) if rng.random() < cuts else -1)
            while self._open:
                self._send()
                octets = self._stream.recv(PIECE)
                if not octets:
                    raise Lost("the connection ended")
                for event in self._h2.receive_data(octets):
                    self._take(event)
            self._stream.sendall(self._h2.data_to_send())
        except OSError as problem:
            raise Lost(repr(problem)) from problem

    def _begin(self, asked: Ask, cut: int) -> None:
        number = self._h2.get_next_available_stream_id()
        path = b"/answer/%d" % asked.down
        pairs = [(b":method", b"POST"), (b":scheme", b"https"), (b":authority", self._host), (b":path", path)]
        pairs += [(b"x-number", b"%d" % asked.number), (b"x-size", b"%d" % asked.up)]
        self._h2.send_headers(number, pairs)
        self._open[number] = Stream(asked, content(asked.number, b"up", asked.up), cut)
        if not asked.up:
            self._h2.end_stream(number)

    def _send(self) -> None:
        """As much of all bodies as the windows have room for."""
        for number, stream in self._open.items():
            while stream.rest and (room := self._h2.local_flow_control_window(number)):
                size = min(room, self._h2.max_outbound_frame_size, len(stream.rest))
                self._h2.send_data(number, stream.rest[:size], end_stream=size == len(stream.rest))
                stream.rest = stream.rest[size:]
        self._stream.sendall(self._h2.data_to_send())

    def _take(self, event: Event) -> None:
        if isinstance(event, ConnectionTerminated):
            raise Lost(f"the connection was ended with {event.error_code!r}")
        stream = self._open.get(getattr(event, "stream_id", 0) or 0)
        if isinstance(
            event, DataReceived
        ):  # also of what was reset: its bytes have used the connection's window
            self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        if stream is None:
            return
        if isinstance(event, StreamReset):
            raise Lost(f"the stream was reset with {event.error_code!r}")
        if isinstance(event, ResponseReceived):
            stream.fields = dict(event.headers)
        elif isinstance(event, DataReceived):
            stream.body += event.data
            self._cut(event.stream_id, stream)
        elif isinstance(event, StreamEnded):
            self._end(self._open.pop(event.stream_id))

    def _cut(self, number: int, stream: Stream) -> None:
        if 0 <= stream.cut < len(stream.body):
            try:
                self._h2.reset_stream(number, ErrorCodes.CANCEL)
            except StreamClosedError:
                return  # its end has come, too, and is told next
            del self._open[number]

    def _end(self, stream: Stream) -> None:
        if stream.fields[b":status"] != b"200":
            raise Lost(f"status {stream.fields[b':status']!r}")
        check(stream.asked, stream.fields, stream.body, True)
        self.answered += 1
