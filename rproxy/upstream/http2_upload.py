"""The half of a stream to a peer that speaks: a request's body on its way. Inherited by `http2_stream`.

What the client sends waits here, at most `MOST_QUEUED` bytes and one read, until the peer's windows have room
and it is this stream's turn; see `http2_line`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from rproxy.upstream.asking import Asking, HttpClient, Waiting
from rproxy.upstream.http2_again import Kept
from rproxy.upstream.http2_tunnel import StreamTransport
from rproxy.wire.message import Framing, Headers, Piece, Request

if TYPE_CHECKING:
    from rproxy.upstream.http2_requests import Requests

MOST_QUEUED: Final = 65536
"""Bytes of a request that wait for the peer; then the client is not read. One read of it may come on top."""
FEW_QUEUED: Final = 16384
"""Bytes below which the client is read again: one frame, so that the next is there when its turn comes."""

_LENGTH: Final = Framing.LENGTH
_ANY: Final = -1


class Upload(HttpClient):
    """What a stream has to send, and who is held back by it. What is public is for its connection."""

    def __init__(self, client: Requests) -> None:
        super().__init__(client.peer, client.memory)
        self._client = client
        self.number = 0
        """Of the stream, once it has begun."""
        self.in_line = False
        """Whether it waits for its turn to send."""
        self._asking: Asking | None = None
        self._request: Request | None = None
        self._pipe: StreamTransport | None = None
        self._moving: Waiting | None = None
        self._kept, self._queued, self._left = Kept(), 0, _ANY
        self._queue: deque[Piece] = deque()
        self._trailers: Headers | None = None
        self._ended = self._sent_end = self._full = self._outlives = False

    @property
    def wants_turn(self) -> bool:
        """Whether there is something to send."""
        return bool(self._queue) or (self._ended and not self._sent_end)

    @property
    def wants_room(self) -> bool:
        """Whether that is bytes of body, which the peer's windows count."""
        return bool(self._queue)

    @property
    def said_all(self) -> bool:
        """Whether the peer has been sent all there will be, perhaps with the head."""
        return self._sent_end

    @property
    def queued(self) -> int:
        """Bytes that wait to be sent."""
        return self._queued

    def later(self, seconds: float, call: Callable[[], object]) -> Any:
        """Have something called; gives the timer."""
        return self._client.clock.callLater(seconds, call)

    def send_piece(self, piece: Piece) -> None:
        """See `asking.HttpClient`."""
        if self._outlives or (self._asking is None and self._pipe is None):
            return
        self._kept.add(piece)
        self._queue.append(piece)
        self._queued += len(piece)
        if self._moving is None:
            self._client.give_turn(self)
        if self._queued >= MOST_QUEUED:
            self._full = True
            if self._pipe is not None:
                self._pipe.full()
            elif self._asking is not None:
                self._asking.upstream_full()

    def send_end(self, trailers: Headers | None) -> None:
        """See `asking.HttpClient`."""
        self._ended, self._trailers = True, trailers
        if self.wants_turn and self._moving is None:
            self._client.give_turn(self)

    def send(self) -> int:
        """Use a turn: send a frame if there is room; how many bytes of body that was."""
        queue, codec = self._queue, self._client.codec
        if not queue:
            if self._ended and not self._sent_end:
                self._send_end()
            return 0
        piece = codec.cut(self.number, queue)
        if piece is None:
            return 0
        size = len(piece)
        self._queued -= size
        if self._left > 0:
            self._left -= size
        last = not queue and (self._left == 0 or (self._ended and self._trailers is None))
        codec.send_body(self.number, piece, last)
        if last:
            self._sent_all()
        elif not queue and self._ended:
            self._send_end()
        if self._queued < FEW_QUEUED:
            self._take_more()
        return size

    def _send_end(self) -> None:
        """What comes behind the last byte of a body."""
        if self._trailers is not None:
            self._client.codec.send_trailers(self.number, self._trailers.pairs)
        else:
            self._client.codec.send_body(self.number, b"", True)
        self._sent_all()

    def _sent_all(self) -> None:
        self._sent_end = True
        if self._pipe is not None:
            self._pipe.check_over()

    def _take_more(self) -> None:
        """Whoever was held back for what waited here may go on."""
        if not self._full:
            return
        self._full = False
        if self._pipe is not None:
            self._pipe.ready()
        elif self._asking is not None:
            self._asking.upstream_ready()

    def _expect_length(self) -> None:
        """HTTP/1 has no trailers behind a length, so that its last byte ends the request."""
        request = self._request
        assert request is not None
        known = request.framing is _LENGTH and request.version < 20
        self._left = request.length if known else _ANY

    def _rewind(self, kept: Sequence[Piece]) -> None:
        """Nothing has been sent: all of that is to be sent again, elsewhere."""
        self._client.step_out(self)
        self.number = self._queued = 0
        self._queue.clear()
        self._queue.extend(kept)
        for piece in kept:
            self._queued += len(piece)
        self._sent_end = self._ended and not kept and self._trailers is None
        self._expect_length()

    def _stop_sending(self) -> None:
        """Nobody takes the rest of it."""
        self._client.step_out(self)
        self._queue.clear()
        self._queued, self._sent_end = 0, True
