"""HTTP/2 to clients: one connection and its streams. Built by `http_factory`.

`Http2Server` reads with `wire.http2`, makes a `Stream` of each request, and shares the connection out: what
the streams have to send goes out in turns of one frame, so that none holds up another. Time limits of the
connection are in `http2_watch`, those of a request in `http2_stream`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, assert_never

from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer
from twisted.python.failure import Failure
from zope.interface import classImplements

from rproxy.downstream.http2_stream import Stream
from rproxy.downstream.http2_turns import Turns
from rproxy.downstream.http2_watch import Watch
from rproxy.interfaces import Arrival, Receiver
from rproxy.parting import is_twisteds_tls
from rproxy.wire.http2 import Http2Codec
from rproxy.wire.http2_events import (
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

if TYPE_CHECKING:
    from rproxy.downstream.http_factory import HttpFactory

BATCH: Final = 65536
"""Bytes of bodies written in one go: what Twisted's transports hold before they say that it is enough."""
MOST_ANSWERED: Final = 65536
"""Bytes that were written although the transport is full, answers to PING and the like: then a client that
takes nothing is not read either."""
MOST_DISCARDED: Final = 1 << 20
"""Bytes dropped of what a client still sends while we close; one that sends on and on is cut off."""


class Http2Server(Receiver):
    """One client connection: a Twisted protocol. What is public is for its streams and its watch."""

    def __init__(self, factory: HttpFactory, arrival: Arrival) -> None:
        self._factory, self.arrival = factory, arrival
        self.reactor, self.watcher = factory.reactor, factory.watcher
        self.secure, self.pipes = factory.secure, factory.pipes
        self.sites, self.limits = factory.serving.sites, factory.serving.limits
        self.answers: Any = factory.answers
        self.random = factory.random
        self.transport: Any = None
        self.connected = 0
        self.codec = Http2Codec(self.limits.streams, factory.watcher.seconds())
        self.streams: dict[int, Stream] = {}
        self._turns = Turns()
        self.closing = self.full = False
        self._paused = self._in_turn = self.input_ended = self._put_off = False
        self._draining = self._last_called = self._leaving = False
        self._answered = self._discarded = 0
        self.written = 0
        """Bytes given to the transport."""
        self._watch = Watch(self, factory.deadlines)

    @property
    def tls_version(self) -> str:
        """As in "TLSv1.3"; empty in clear text."""
        return str(getattr(self.transport, "version", "")) if self.secure else ""

    def makeConnection(self, transport: Any) -> None:
        """Twisted's call. A server may speak first, and the client gets our SETTINGS sooner for it."""
        self.transport, self.connected = transport, 1
        self.facts = self._factory.serving.facts(self.arrival, self.secure, transport)
        transport.registerProducer(self, True)
        self.codec.start()
        self._write_out()
        self._watch.begin()

    def dataReceived(self, data: bytes) -> None:
        """Twisted's call."""
        if self.closing:
            self._discard(len(data))
            return
        self._watch.heard()
        self._read(data)

    def _read(self, octets: bytes) -> None:
        self._in_turn = True
        try:
            for event in self.codec.receive(octets, self.watcher.seconds()):
                self._take(event)
        finally:
            self._in_turn = False
        if self.codec.unread and not self._put_off:
            self._put_off = True
            self.reactor.callLater(0, self._read_on)
        self.go_on()
        self._hold_input()

    def _read_on(self) -> None:
        """The rest of a read, after others had their turn."""
        self._put_off = False
        if not self.closing:
            self._read(b"")

    def _hold_input(self) -> None:
        """Stop reading while there is more to look at than can be, or while nothing of ours is taken."""
        pause = not self.closing and (self._put_off or self._answered >= MOST_ANSWERED)
        if pause != self._paused:
            self._paused = pause
            if pause:
                self.transport.pauseProducing()
            else:
                self.transport.resumeProducing()

    def _discard(self, size: int) -> None:
        self._discarded += size
        if self._discarded > MOST_DISCARDED:
            self.abort()

    def _take(self, event: Event) -> None:
        match event:
            case RequestHead(number, request, ended):
                stream = self.streams[number] = Stream(self, number, request, ended)
                stream.begin(request)
            case Body(number, piece, credit):
                if (known := self.streams.get(number)) is not None:
                    known.body(piece, credit)
                else:
                    self.codec.credit(number, credit)
            case End(number, trailers):
                if (known := self.streams.get(number)) is not None:
                    known.body_end(trailers)
            case WindowOpened(number):
                self._open_window(number)
            case Reset(number, refusal):
                if (known := self.streams.get(number)) is not None:
                    known.gone(refusal)
                elif refusal is not None:
                    self._refuse(RefusedHead(number, refusal, True, True))
            case RefusedHead():
                self._refuse(event)
            case Pong():
                self._watch.ponged(event.payload)
            case Leaving():
                self._leaving = True
            case Broken():
                self._cancel_all()
                self.close()
            case _:
                assert_never(event)

    def _refuse(self, head: RefusedHead) -> None:
        """What never became a request: answered, or only written down."""
        stream = self.streams[head.stream] = Stream(self, head.stream, None, head.ended)
        if head.was_reset:
            stream.gone(None)
        stream.refuse_unread(head.refusal)

    def _open_window(self, number: int) -> None:
        if not number:
            self._turns.go_on(self.streams.values())
        elif (stream := self.streams.get(number)) is not None and stream.wants_turn:
            self._turns.stand(stream)

    def stand_in_line(self, stream: Stream) -> None:
        """A stream has something to send; `go_on` follows."""
        self._turns.stand(stream)

    def go_on(self) -> None:
        """Write what can be written now; close if that was all."""
        if self._in_turn or self.closing:
            return
        self._in_turn = True
        try:
            self._take_turns()
        finally:
            self._in_turn = False
        if not self.streams and (self._last_called or self._leaving or self.input_ended):
            self.close()

    def _take_turns(self) -> None:
        while self._turns and not self.full:
            self._turns.give(BATCH)
            self._write_out()
        self._write_out()

    def _write_out(self) -> None:
        out = self.codec.output()
        if not out:
            return
        self.written += len(out)
        if self.full:
            self._answered += len(out)
        self.transport.write(out)

    def discard(self, stream: Stream) -> None:
        """A stream is over."""
        self._turns.discard(stream)
        if self.streams.pop(stream.number, None) is not None and not self.streams:
            self._watch.idle()

    def _cancel_all(self) -> None:
        for stream in list(self.streams.values()):
            stream.gone(None)

    def drain(self) -> None:
        """The proxy stops: no request after those that are served (RFC 9113 §6.8).

        What is on its way to us is still served: the number of the last request is said when the client has
        answered a PING, or after a second.
        """
        if self.closing or self._draining:
            return
        self._draining = True
        self.codec.goaway(ErrorCode.NO_ERROR, soon=True)
        self._watch.ask_for_last()
        self._write_out()

    def call_last(self) -> None:
        """The client has heard that we stop, or had the time to."""
        if not self._last_called:
            self._last_called = True
            self.codec.goaway(ErrorCode.NO_ERROR)
            self.go_on()

    def leave(self, code: ErrorCode) -> None:
        """Say why and close; requests that are served are cut off."""
        if not self.closing:
            self.codec.goaway(code)
            self._cancel_all()
            self.close()

    def close(self) -> None:
        """Write what is waiting, then close; the client is listened to for a moment, see `http_server`."""
        if self.closing:
            return
        self.closing = True
        self._turns.clear()
        self._write_out()
        self.transport.unregisterProducer()
        transport = self.transport
        half_close = None if is_twisteds_tls(transport) else getattr(transport, "loseWriteConnection", None)
        if self.input_ended or half_close is None:
            self.transport.loseConnection()
            return
        half_close()
        if self._paused:
            self._paused = False
            self.transport.resumeProducing()
        self._watch.linger()

    def abort(self) -> None:
        """Cut the connection off."""
        self.transport.abortConnection()

    def readConnectionLost(self) -> None:
        """Twisted's call: the client sends no more; what it has asked for completely is still answered."""
        self.input_ended = True
        if self.closing:
            self.transport.loseConnection()
            return
        for stream in list(self.streams.values()):
            if not stream.input_ended:
                stream.gone(None)
        self.go_on()

    def writeConnectionLost(self) -> None:
        """Twisted's call once our half is shut."""

    def connectionLost(self, reason: Failure) -> None:
        """Twisted's call."""
        self.closing, self.connected = True, 0
        self._watch.stop()
        self._turns.clear()
        self._cancel_all()

    def pauseProducing(self) -> None:
        """The transport's call: its buffer is full."""
        self.full = True

    def resumeProducing(self) -> None:
        """The transport's call: its buffer is empty again."""
        self.full, self._answered = False, 0
        self.go_on()
        if not self.closing:
            self._hold_input()

    def stopProducing(self) -> None:
        """The transport's call when it is lost; `connectionLost` follows."""


classImplements(Http2Server, IPushProducer, IHalfCloseableProtocol)
