"""HTTP/1.1 to clients: a connection's requests one after another. Built by `http_factory`.

`HttpServer` reads with `wire.http1`, gives each request to an `Exchange`, and is what that writes to
(`http_writer`); `http_watch` looks now and then whether something takes too long. Nothing is timed per
request, and nothing created but the request and its exchange.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer
from twisted.python.failure import Failure
from zope.interface import classImplements

from rproxy.downstream.http_watch import Watch
from rproxy.downstream.http_writer import REASONS, ResponseWriter
from rproxy.downstream.refusals import page_of
from rproxy.downstream.tunnel import open_tunnel
from rproxy.errors import Refusal
from rproxy.exchange import Exchange
from rproxy.interfaces import Arrival, Receiver
from rproxy.parting import is_twisteds_tls
from rproxy.relay import End
from rproxy.sites import Site
from rproxy.transports import close, unacknowledged
from rproxy.upstream.http_client import HttpClient
from rproxy.wire.http1 import RequestReader
from rproxy.wire.http1_write import response_head
from rproxy.wire.message import BadRequest, Fields, Framing, Request

if TYPE_CHECKING:
    from rproxy.downstream.http2_server import Http2Server
    from rproxy.downstream.http_factory import HttpFactory

MOST_PIPELINED: Final = 65536
"""Bytes of further requests kept while one is served: more than any browser sends, then we stop reading."""
PREFACE: Final = b"PRI * HTTP/2.0\r\n"
"""What an HTTP/2 connection begins with, and no HTTP/1 request."""
_LENGTH: Final = Framing.LENGTH


class HttpServer(ResponseWriter, Receiver):
    """One client connection: a Twisted protocol, without the base class so that it can be compiled.

    What the exchange calls is documented at `exchange.Client`.
    """

    def __init__(self, factory: HttpFactory, arrival: Arrival) -> None:
        super().__init__(factory.pipes)
        self._factory, self.arrival = factory, arrival
        self.reactor, self.watcher, self.secure = factory.reactor, factory.watcher, factory.secure
        self.sites = factory.serving.sites
        self.connected = 0
        self.reader = RequestReader(factory.serving.known)
        self.tunnel: End | None = None
        # What has come while it may be the preface of HTTP/2; None once that is settled.
        self._first: bytes | None = None if arrival.alpn else b""
        self._instead: Http2Server | None = None
        self.closing = self.full = self.held = self.partial = False
        self._paused = self._input_ended = self._draining = self._in_turn = False
        self.since = self.ended = factory.watcher.seconds()
        """When the request began, or the wait for it; and when the last one ended."""
        self.body_bytes = self.status = 0
        self.reason = self._id = ""
        self._watch: Watch | None = Watch(self, factory.serving.limits, factory.deadlines)

    def request_id(self) -> str:
        """The number of the request that is served, the same in its error page and in the log."""
        self._id = self._id or self._factory.answers.next_id()
        return self._id

    @property
    def tls_version(self) -> str:
        """As in "TLSv1.3"; empty in clear text."""
        return str(getattr(self.transport, "version", "")) if self.secure else ""

    def makeConnection(self, transport: Any) -> None:
        """Twisted's call."""
        self.transport, self.connected = transport, 1
        self.facts = self._factory.serving.facts(self.arrival, self.secure, transport)
        transport.registerProducer(self, True)
        if self._watch is not None:
            self._watch.begin()

    def dataReceived(self, data: bytes) -> None:
        """Twisted's call."""
        if self._instead is not None:
            self._instead.dataReceived(data)
            return
        if self.closing:
            return
        if self.tunnel is not None:
            self.tunnel.dataReceived(data)
            return
        if self._first is not None and self._is_http2(self._first + data):
            return
        self.progress += len(data)
        self.reader.receive(data)
        self._read()

    def _is_http2(self, first: bytes) -> bool:
        """Whether a client speaks HTTP/2 unasked (RFC 9113 §3.3): then it is served so, from here on.

        While that cannot be told, HTTP/1 reads along: what comes too slowly is too slow for either.
        """
        if first.startswith(PREFACE):
            self._be_http2(first)
            return True
        self._first = first if PREFACE.startswith(first) else None
        return False

    def _be_http2(self, first: bytes) -> None:
        if self._watch is not None:
            self._watch.stop()
        self.transport.unregisterProducer()
        self._instead = become = self._factory.http2(self.arrival)
        become.makeConnection(self.transport)
        become.dataReceived(first)
        if self._draining:
            become.drain()

    def _read(self) -> None:
        """As much of what has come as can be used now."""
        if self._in_turn:  # an exchange that ended at once is looked after by the loop below us
            return
        self._in_turn = True
        try:
            while not self.closing and not self.full and self._read_one():
                pass
        finally:
            self._in_turn = False
        self._hold_input()

    def _read_one(self) -> bool:
        """The body of the request that is served, or the next request; False when nothing is left to do."""
        reader = self.reader
        exchange = self.exchange
        if exchange is not None:
            return not reader.complete and self._read_body(exchange)
        try:
            if not reader.complete:  # the response was quicker than the request's body
                self.close()
                return False
            request = reader.read_head()
        except BadRequest as refusal:
            if not self.partial:
                self.since = self.watcher.seconds()
            self.refuse_unread(refusal)
            return False
        if request is None:
            return self._nothing_more()
        self._begin(request)
        return True

    def _nothing_more(self) -> bool:
        """No request is waiting; the time for its head begins with the head."""
        idle = self.reader.idle
        if self._input_ended or (self._draining and idle):
            self.close()
        elif not idle and not self.partial:
            self.partial, self.since = True, self.watcher.seconds()
        return False

    def refuse_unread(self, refusal: Refusal) -> None:
        """Answer what never became a request."""
        self.request, self._id, self.sent = None, "", 0
        self.refuse(refusal, None)
        self.ended = self.watcher.seconds()
        self._factory.answers.served(self, None, None, self.since, self.ended)

    def _begin(self, request: Request) -> None:
        now = self.watcher.seconds()
        self.request, self.since = request, now
        self.partial = False
        self._keep = request.keep_alive and not self._draining
        self.sent = self.body_bytes = 0
        self._id = ""
        exchange = self.exchange = Exchange(self, request)
        exchange.start(now)

    def _read_body(self, exchange: Exchange) -> bool:
        """What there is of the body; whether that has ended the exchange."""
        reader = self.reader
        try:
            while not self.held and (piece := reader.read_body()):
                self.body_bytes += len(piece)
                exchange.request_piece(piece)
                if self.exchange is not exchange:
                    return self.exchange is None
        except BadRequest as refusal:
            exchange.refuse(refusal)
            return self.exchange is None
        if reader.complete:
            exchange.request_end(reader.trailers)
        return self.exchange is None

    def _hold_input(self) -> None:
        """Stop reading the socket while nobody has use for more, go on when somebody has."""
        waiting = self.exchange is not None and self.reader.unread >= MOST_PIPELINED
        pause = not self.closing and (self.held or self.full or waiting)
        if pause != self._paused and self.tunnel is None:
            self._paused = pause
            if pause:
                self.transport.pauseProducing()
            else:
                self.transport.resumeProducing()

    def hold_body(self, held: bool) -> None:
        """See `exchange.Client`."""
        self.held = held
        if held:
            self._hold_input()
        else:
            self._read()

    def _is_last(self) -> bool:
        request = self.request
        if request is not None and request.method == b"CONNECT":
            return True  # what comes behind it is no request, or not surely one
        if self._draining or (self._input_ended and not self.reader.unread):
            return True
        return not self.reader.complete

    def finished(self, exchange: Exchange) -> None:
        """See `exchange.Client`. The client gets what is left before the log its line."""
        self._stop_pump()
        self.exchange, self.held = None, False
        self.ended = self.watcher.seconds()
        goes_on = self.tunnel is None and not self.closing
        if goes_on:
            self._write_out()
        self._factory.answers.served(self, exchange.request, exchange, self.since, self.ended)
        if goes_on:
            self._next()

    def _next(self) -> None:
        self.since = self.ended
        if not self._keep or self._draining:
            self.close()
        elif self._paused or self._input_ended or not self.reader.idle:
            self._read()

    def refuse(self, refusal: Refusal, site: Site | None) -> None:
        """See `exchange.Client`; also for a request that never became an exchange."""
        self.status, self.reason = refusal.status or 500, refusal.reason
        request = self.request
        page = page_of(self, self._factory.answers, refusal, request, site)
        if request is None or isinstance(refusal, BadRequest):
            self._keep = False
        self.respond(page.status, REASONS.get(page.status, b""), page.fields, _LENGTH, page.length)
        if page.body:
            self.piece(page.body)
        if request is None:
            self.close()

    def cut(self) -> None:
        """See `exchange.Client`: a response that ends here must not look complete."""
        self._stop_pump()
        self.closing = True
        if self._watch is not None:
            self._watch.stop()
        out, self._out = self._out, []
        if out:
            self.transport.write(b"".join(out))
        self.transport.unregisterProducer()
        self.transport.abortConnection()

    def switch(self, status: int, reason: bytes, fields: Fields, upstream: HttpClient) -> None:
        """See `exchange.Client`."""
        self._write(response_head(status, reason, fields.own, fields.block))
        self.transport.unregisterProducer()
        rest = self.reader.take_rest()
        tunnel = self.tunnel = open_tunnel(self.transport, upstream, self.pipes, rest)
        if self._watch is not None:
            self._watch.forget()
        if self._paused:
            self.transport.resumeProducing()
        if self._input_ended:
            tunnel.readConnectionLost()

    def close(self) -> None:
        """Send what is waiting, then close; a client that still sends is listened to for a moment."""
        if self.closing:
            return
        self.closing = True
        self._write_out()
        self.transport.unregisterProducer()
        if not self._input_ended and (self.reader.unread or not self.reader.complete or self._is_early()):
            self._linger()
        else:
            close(self.transport)

    def _is_early(self) -> bool:
        """Whether the client wants to go on, and may have asked again before it has our answer."""
        request = self.request
        return request is not None and request.keep_alive and unacknowledged(self.transport) > 0

    def _linger(self) -> None:
        """Half-close: closing on unread bytes is a reset, which would overtake the answer (RFC 9112 §9.6)."""
        transport = self.transport
        half_close = None if is_twisteds_tls(transport) else getattr(transport, "loseWriteConnection", None)
        if half_close is None:
            self.transport.loseConnection()
            return
        half_close()
        if self._paused:
            self._paused = False
            self.transport.resumeProducing()
        if self._watch is not None:
            self._watch.linger()

    def abort(self) -> None:
        """Cut the connection off."""
        self.transport.abortConnection()

    def drain(self) -> None:
        """The proxy stops: no request after the one that is served."""
        if self._instead is not None:
            self._instead.drain()
            return
        self._draining = True
        if self.exchange is None and self.tunnel is None and self.reader.idle:
            self.close()

    def readConnectionLost(self) -> None:
        """Twisted's call: the client sends no more; what it has asked for is still answered."""
        self._input_ended = True
        if self._instead is not None:
            self._instead.readConnectionLost()
        elif self.tunnel is not None:
            self.tunnel.readConnectionLost()
        elif self.closing or (self.exchange is not None and not self.reader.complete):
            self._lose()
        elif self.exchange is None and not self.full:
            self.close()

    def _lose(self) -> None:
        """The request was cut off: nothing follows what waits here, and part of a response looks like one."""
        if self.pump is not None:
            self.cut()
        else:
            self.transport.unregisterProducer()
            self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """Twisted's call once our half is shut."""

    def connectionLost(self, reason: Failure) -> None:
        """Twisted's call."""
        self.closing, self.connected = True, 0
        watch, self._watch = self._watch, None  # they know each other, and would wait for the collector
        if watch is not None:
            watch.stop()
        instead, self._instead = self._instead, None
        if instead is not None:
            instead.connectionLost(reason)
        self._stop_pump()
        if self.tunnel is not None:
            self.tunnel.connectionLost(reason)
        if self.exchange is not None:
            self.exchange.cancel()

    def pauseProducing(self) -> None:
        """The transport's call: its buffer is full."""
        self.full = True
        if self.exchange is not None:
            self.exchange.client_full()

    def resumeProducing(self) -> None:
        """The transport's call: its buffer is empty again."""
        self.full = False
        if self.exchange is not None:
            self.exchange.client_ready()
        self._read()

    def stopProducing(self) -> None:
        """The transport's call when it is lost; `connectionLost` follows."""


classImplements(HttpServer, IPushProducer, IHalfCloseableProtocol)
