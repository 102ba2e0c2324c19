"""The requests that share an HTTP/2 connection to a peer. Inherited by `http2_client`.

Each stream is told what is for it, and what the streams have to send goes out in turns of one frame, so that
none holds up another. What is to be sent waits for the end of the reactor's turn, so that requests which come
together leave together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from twisted.logger import Logger

from rproxy.errors import Refusal
from rproxy.policy.forwarding import Memory
from rproxy.upstream.asking import Asking
from rproxy.upstream.http2_again import NoTunnels
from rproxy.upstream.http2_alive import Silence
from rproxy.upstream.http2_line import Line
from rproxy.upstream.http2_stream import Http2Stream
from rproxy.upstream.http2_upload import Upload
from rproxy.wire.http2_client import Answer, Draining, Http2ClientCodec, ResponseHead, Settled
from rproxy.wire.http2_events import Body, Broken, End, ErrorCode, Pong, Reset, WindowOpened
from rproxy.wire.message import BadResponse, HeadTooLarge

if TYPE_CHECKING:
    from rproxy.upstream.http2_pool import Http2Pool
    from rproxy.upstream.http_client import HttpPeer

log: Final = Logger(__name__)

STREAMS: Final = 100
"""Requests at a time on one connection: what RFC 9113 §6.5.2 recommends servers to allow at least, and what
makes us hold 25 MiB for a connection when all clients stall."""
MOST_SHARED: Final = 4096
"""Bytes of a head that goes out on a shared connection. Servers that take no larger ones may end all of it
for one, as nginx does from 8 KiB on, and clients would be able to end the requests of others. The few heads
that have more get a connection of their own."""
MOST_CANCELLED: Final = 100
"""Requests given up in excess of those that were answered, after which a connection gets no more: servers
that look for rapid resets (CVE-2023-44487) would end it, with all that is on it."""
TOO_LARGE: Final = "the peer takes no head that is as large"
BATCH: Final = 65536
"""Bytes that are not written before the end of a turn: what transports hold before they say it is enough."""


class Requests:
    """Those of one connection. What is public is for its streams and its pool."""

    def __init__(self, peer: HttpPeer, clock: Any, pool: Http2Pool, alone: bool) -> None:
        """With `alone` it is for one request only."""
        self.peer, self.clock, self.pool, self.alone = peer, clock, pool, alone
        self.codec = Http2ClientCodec(clock.seconds())
        self.memory = Memory()
        self.streams: dict[int, Http2Stream] = {}
        self.settled = self.draining = self.closed = self.used = self.full = False
        self.since = 0.0
        """When the last stream was over."""
        self._limit, self._patience = STREAMS, MOST_CANCELLED
        self._early: list[Http2Stream] = []
        self._line = Line(self.codec)
        self._woken: list[Http2Stream] = []
        self._touched: list[tuple[Http2Stream, Asking]] = []
        self._in_turn = self._put_off = False
        self._silence = Silence(clock.seconds())

    @property
    def takes_tunnels(self) -> bool:
        """Whether the peer knows extended CONNECT (RFC 8441)."""
        return self.codec.takes_tunnels

    @property
    def room(self) -> int:
        """How many more streams may begin; 0 or less for none."""
        if not self.settled or self.draining or self.closed:
            return 0
        return min(self._limit, self.codec.most) - len(self.streams)

    def write_out(self) -> None:
        """Write what the codec has to say."""
        raise NotImplementedError

    def leave(self) -> None:
        """Close what nobody uses."""
        raise NotImplementedError

    def lose(self, refusal: Refusal) -> None:
        """The connection is of no use any more."""
        raise NotImplementedError

    def begin(self, stream: Http2Stream) -> None:
        """A stream's call: send the head of its request, as soon as that can be done."""
        if not self.settled:
            self._early.append(stream)
            return
        if stream.protocol and not self.takes_tunnels:
            stream.lost(NoTunnels("the peer does not take WebSockets in HTTP/2, at least not any more"))
            self._became_free()
            return
        scheme = b"http" if self.peer.tls is None else b"https"
        head = self.codec.head(stream.method, scheme, stream.target, stream.fields, stream.protocol)
        if len(head) > MOST_SHARED and not self.alone:
            stream.leave_others()
            return
        self._silence.asked(self.clock.seconds())
        method = b"CONNECT" if stream.protocol else stream.method
        stream.number = number = self.codec.begin(method, head, stream.said_all)
        self.streams[number] = stream
        self.draining = self.draining or self.codec.used_up
        self._soon()

    def give_turn(self, stream: Upload) -> None:
        """A stream's call: it has something to send, now if nobody else waits."""
        if stream.number:
            self._line.stand(stream)
            if len(self._line) == 1:
                self._take_turns()
            self._soon()

    def step_out(self, stream: Upload) -> None:
        """A stream's call: it sends nothing more here."""
        self._line.leave(stream)

    def wake_later(self, stream: Http2Stream) -> None:
        """A stream's call: its client takes more, and something is there."""
        self._woken.append(stream)
        self._soon()

    def touch(self, stream: Http2Stream, asking: Asking) -> None:
        """A stream's call: it has told something that has to be flushed."""
        if not stream.touched:
            stream.touched = True
            self._touched.append((stream, asking))

    def answered(self) -> None:
        """A stream's call: the peer has responded."""
        self.used = True

    def finished(self, stream: Http2Stream, code: ErrorCode) -> None:
        """A stream's call: it is over; with a code for the peer if that does not know."""
        if not stream.number:
            if stream in self._early:
                self._early.remove(stream)
            self._became_free()
        elif self.streams.pop(stream.number, None) is not None:
            self.codec.reset(stream.number, code)
            self._note_end(code)
            self._became_free()

    def _note_end(self, code: ErrorCode) -> None:
        if code == ErrorCode.NO_ERROR:
            self._limit = min(self._limit + 1, STREAMS)
            self._patience = min(self._patience + 1, MOST_CANCELLED)
        else:
            self._patience -= 1
            self.draining = self.draining or not self._patience

    def _became_free(self) -> None:
        if not self.streams:
            self.since = self.clock.seconds()
        self._soon()
        if not self.alone:
            self.pool.changed(self)
        elif not self.streams and not self._early:
            self.leave()

    def take(self, octets: bytes) -> None:
        """These have come from the peer; all that follows from it is done."""
        self._in_turn = True
        try:
            self._read(octets)
        finally:
            self._in_turn = False
        self._go_on()

    def _read(self, octets: bytes) -> None:
        now = self.clock.seconds()
        self._silence.heard(now)
        while True:
            for answer in self.codec.hear(octets, now):
                self._take(answer)
            if self.closed or not self.codec.unread:
                return
            octets = b""

    def _take(self, answer: Answer) -> None:
        if isinstance(answer, Pong):
            return
        self._silence.has_news()
        if isinstance(answer, Body):
            if (stream := self.streams.get(answer.stream)) is not None:
                stream.body(answer.piece)
            if answer.credit > len(answer.piece):  # nobody takes padding, and nobody gives it back
                self.codec.taken(answer.stream, answer.credit - len(answer.piece))
        elif isinstance(answer, ResponseHead):
            if (stream := self.streams.get(answer.stream)) is not None:
                stream.head(answer.response, answer.ended)
        elif isinstance(answer, End):
            if (stream := self.streams.get(answer.stream)) is not None:
                stream.end(answer.trailers)
        elif isinstance(answer, WindowOpened):
            self._open_window(answer.stream)
        elif isinstance(answer, Reset):
            self._take_reset(answer)
        elif isinstance(answer, Settled):
            self._settle()
        elif isinstance(answer, Draining):
            self._drain(answer)
        elif isinstance(answer, Broken):
            self.lose(BadResponse(f"the peer has broken HTTP/2: {answer.why}"))

    def _open_window(self, number: int) -> None:
        if not number:
            self._line.stand_all(self.streams.values())
        elif (stream := self.streams.get(number)) is not None:
            self._line.stand(stream)

    def _take_reset(self, reset: Reset) -> None:
        stream = self.streams.pop(reset.stream, None)
        if stream is None:
            return
        if reset.refusal is not None:
            stream.lost(BadResponse(*reset.refusal.args))
        else:
            if reset.code == ErrorCode.REFUSED_STREAM:
                self._limit = len(self.streams)  # who refuses has no room; and who never has any is left
                self.draining = self.draining or not self._limit
            calm = reset.code == ErrorCode.ENHANCE_YOUR_CALM
            if self.alone and calm and not self.used:
                stream.lost(HeadTooLarge(TOO_LARGE))
            else:
                stream.was_reset(reset.code)
        self._became_free()

    def _settle(self) -> None:
        """The peer's SETTINGS are there, so it speaks HTTP/2; how many streams it takes may have changed."""
        first, self.settled, self._limit = not self.settled, True, STREAMS
        if first:
            self.since = self.clock.seconds()
            early, self._early = self._early, []
            for stream in early:
                self.begin(stream)
                self.give_turn(stream)
            self.pool.settled(self)
        elif not self.alone:
            self.pool.changed(self)

    def _drain(self, going: Draining) -> None:
        """RFC 9113 §6.8: what the peer has not looked at goes elsewhere, what it has is still answered."""
        if self.alone and going.code == ErrorCode.ENHANCE_YOUR_CALM and not self.used:
            self.lose(HeadTooLarge(TOO_LARGE))
            return
        if going.code and not self.draining:
            log.info(
                "peer {peer} ends an HTTP/2 connection with code {code}", peer=self.peer.name, code=going.code
            )
        self.draining = True
        for number in [each for each in self.streams if each > going.last]:
            stream = self.streams.pop(number)
            self.codec.reset(number, ErrorCode.CANCEL)
            stream.unserved()
        self._became_free()

    def _soon(self) -> None:
        """Write what there is at the end of the reactor's turn."""
        if not self._put_off and not self._in_turn and not self.closed:
            self._put_off = True
            self.clock.callLater(0, self._put_on)

    def _put_on(self) -> None:
        self._put_off = False
        if not self.closed:
            self._go_on()

    def _go_on(self) -> None:
        """All that can be done now for those who wait, and to be written."""
        self._in_turn = True
        try:
            self._wake()
            self._flush()
            self._take_turns()
        finally:
            self._in_turn = False
        if not self.closed:
            self.write_out()
            if self._woken or self._touched:
                self._soon()

    def _wake(self) -> None:
        woken, self._woken = self._woken, []
        for stream in woken:
            stream.wake()

    def _flush(self) -> None:
        while self._touched:
            touched, self._touched = self._touched, []
            for stream, asking in touched:
                stream.touched = False
                if stream.asked_by(asking):
                    asking.flush()

    def _take_turns(self) -> None:
        while not self.full and not self.closed and self._line.give(BATCH):
            self.write_out()
        if self._line.sent >= BATCH:
            self.write_out()

    def _lose_all(self, refusal: Refusal) -> None:
        """Everybody here has to know, also those who still wait for it to begin."""
        streams, early = list(self.streams.values()), self._early
        self.streams, self._early = {}, []
        self._line.clear()
        for stream in (*streams, *early):
            stream.lost(refusal)
        if not self.settled:
            self.pool.failed(self, refusal)
