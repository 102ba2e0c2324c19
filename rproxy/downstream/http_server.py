"""HTTP/1.1 to clients: a connection's requests one after another. Built by `peek` or `terminate`.

`HttpServer` reads with `wire.http1`, gives each request to an `Exchange`, and writes what that
says; `http_watch` looks now and then whether something takes too long. Nothing is timed per
request, and nothing created but the request and its exchange.
"""

from __future__ import annotations

from collections.abc import Callable
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, Final, Protocol, cast

from twisted.internet.interfaces import IHalfCloseableProtocol, IProtocol, IProtocolFactory, IPushProducer
from twisted.python.failure import Failure
from zope.interface import classImplements

from rproxy.deadlines import Deadlines
from rproxy.downstream.http_watch import HttpLimits, Watch
from rproxy.errors import LastHop, Redirect, Refusal
from rproxy.exchange import Client, Exchange
from rproxy.interfaces import Arrival, arrival_of
from rproxy.policy.forwarding import ClientFacts
from rproxy.relay import End, join_ends
from rproxy.sites import Site, Sites
from rproxy.splice import Pipes, Pump, is_plain
from rproxy.upstream.http_client import HttpClient
from rproxy.wire.http1 import RequestReader
from rproxy.wire.http1_write import chunk, framing_pairs, last_chunk, response_head
from rproxy.wire.message import BadRequest, Fields, Framing, Headers, Pair, Piece, Request

MOST_PIPELINED = 65536
"""Bytes of further requests kept while one is served: more than any browser sends, then we stop reading."""
REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}
SPLICE_FROM = 1 << 18
"""Bytes of a body still to come from which the kernel moves it; below, setting that up costs more."""
PREFACE: Final = b"PRI * HTTP/2.0\r\n"
"""What an HTTP/2 connection begins with, and no HTTP/1 request."""
CLOSE: Pair = (b"Connection", b"close")
KEEP: Pair = (b"Connection", b"keep-alive")

_LENGTH: Final = Framing.LENGTH
_CHUNKED: Final = Framing.CHUNKED
_UNTIL_CLOSE: Final = Framing.UNTIL_CLOSE


class Answers(Protocol):
    """Error pages and the access log, see `services.answers`; `server` is this or a stream of HTTP/2."""

    def next_id(self) -> str:
        """A number for a request."""

    def page(
        self, server: Any, refusal: Refusal, request: Request | None, site: Site | None
    ) -> tuple[bytes, bytes]:
        """Content type and body of the answer to a refusal."""

    def served(self, server: Any, request: Request | None, exchange: Exchange | None) -> None:
        """Write a finished exchange down."""


class HttpFactory:
    """Serves HTTP/1 on each connection: in clear text, or inside TLS with `secure`."""

    def __init__(
        self,
        reactor: Any,
        sites: Callable[[], Sites],
        answers: Answers,
        deadlines: Deadlines,
        pipes: Pipes,
        limits: Callable[[], HttpLimits],
        facts: Callable[[Arrival, bool, Any], ClientFacts],
        *,
        secure: bool = False,
        http2: Any = None,
    ) -> None:
        """`http2` is the factory that takes over a connection which begins with the preface of HTTP/2."""
        self.reactor, self.sites, self.answers = reactor, sites, answers
        self.deadlines, self.pipes, self.limits, self.facts = deadlines, pipes, limits, facts
        self.secure, self.http2 = secure, http2

    def doStart(self) -> None:
        """Nothing to prepare; Twisted's ports call it."""

    def doStop(self) -> None:
        """Nothing to tear down; Twisted's ports call it."""

    def buildProtocol(self, addr: Any) -> IProtocol:
        """A server for this arrival."""
        server: Any = HttpServer(self, arrival_of(addr))
        return cast(IProtocol, server)


class HttpServer(Client):
    """One client connection: a Twisted protocol, without the base class so that it can be compiled.

    What the exchange calls is documented at `exchange.Client`.
    """

    def __init__(self, factory: HttpFactory, arrival: Arrival) -> None:
        self._factory, self.arrival = factory, arrival
        self.reactor, self.secure = factory.reactor, factory.secure
        self.sites = factory.sites()
        self.transport: Any = None
        self.connected = 0
        self.reader = RequestReader()
        self.exchange: Exchange | None = None
        self.request: Request | None = None
        self.tunnel: End | None = None
        self._instead: Any = None
        self.pump: Pump | None = None
        self._out: list[Piece] = []
        self.closing = self.full = self.held = self.partial = False
        self._chunked = self._keep = self._paused = False
        self._input_ended = self._draining = self._in_turn = False
        self.since = self.ended = factory.reactor.seconds()
        """When the request began, or the wait for it; and when the last one ended."""
        self.progress = 0
        """Bytes that have come from the client or were written to it; the kernel's are the pump's."""
        self.sent = self.body_bytes = self.status = 0
        self.reason = self._id = ""
        self.noted: object = None
        """What `Answers` wants to remember with this connection."""
        self._watch: Watch | None = Watch(self, factory.limits(), factory.deadlines)

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
        self.facts = self._factory.facts(self.arrival, self.secure, transport)
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
        if not self.progress and data.startswith(PREFACE) and self._factory.http2 is not None:
            self._be_http2(data)
            return
        self.progress += len(data)
        self.reader.receive(data)
        self._read()

    def _be_http2(self, data: bytes) -> None:
        """Prior knowledge (RFC 9113 §3.3): whoever has it sends the preface at once and in one piece."""
        if self._watch is not None:
            self._watch.stop()
        self.transport.unregisterProducer()
        self._instead = become = self._factory.http2.buildProtocol(self.arrival)
        become.makeConnection(self.transport)
        become.dataReceived(data)

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
                self.since = self.reactor.seconds()
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
            self.partial, self.since = True, self.reactor.seconds()
        return False

    def refuse_unread(self, refusal: Refusal) -> None:
        """Answer what never became a request."""
        self.request, self._id, self.sent = None, "", 0
        self.refuse(refusal, None)
        self.ended = self.reactor.seconds()
        self._factory.answers.served(self, None, None)

    def _begin(self, request: Request) -> None:
        now = self.reactor.seconds()
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

    def interim(self, status: int, reason: bytes, fields: Fields) -> None:
        """See `exchange.Client`."""
        self._write(response_head(status, reason, fields.own, fields.block))

    def respond(self, status: int, reason: bytes, fields: Fields, framing: Framing, length: int) -> None:
        """See `exchange.Client`."""
        request, own = self.request, fields.own
        old = request is not None and request.version == 10
        self._chunked = framing is _CHUNKED or framing is _UNTIL_CLOSE
        if self._chunked and old:
            self._chunked = self._keep = False
        elif self._chunked:
            own += framing_pairs(_CHUNKED, 0)
        elif framing is _LENGTH:
            own += framing_pairs(framing, length)
        last = self._draining or (self._input_ended and not self.reader.unread)
        asked_for_tunnel = request is not None and request.method == b"CONNECT"
        if last or asked_for_tunnel or not self.reader.complete:
            self._keep = False  # what comes is no request, or not surely one
        if not self._keep:
            own.append(CLOSE)
        elif old:
            own.append(KEEP)
        self._out.append(response_head(status, reason, own, fields.block))

    def piece(self, piece: Piece) -> None:
        """See `exchange.Client`."""
        self.sent += len(piece)
        if self._chunked:
            self._out += chunk(piece)
        else:
            self._out.append(piece)

    def end(self, trailers: Headers | None) -> None:
        """See `exchange.Client`."""
        if self._chunked:
            self._out.append(last_chunk(trailers.pairs if trailers is not None else ()))

    def flush(self) -> None:
        """See `exchange.Client`."""
        if self._out:
            self._write_out()
        if self.exchange is not None and not self._chunked:
            self._splice_rest(self.exchange)

    def _write_out(self) -> None:
        out = self._out
        if out:
            self._out = []
            self._write(b"".join(out))

    def _write(self, data: bytes) -> None:
        self.progress += len(data)
        self.transport.write(data)

    def _splice_rest(self, exchange: Exchange) -> None:
        """Let the kernel move the rest of a large response (see `splice`)."""
        upstream = exchange.upstream
        if self.pump is not None or upstream is None or upstream.body_left < SPLICE_FROM:
            return
        if is_plain(self.transport) and is_plain(upstream.transport):
            pipes, left = self._factory.pipes, upstream.body_left
            self.pump = Pump(upstream.transport, self.transport, pipes, left, self._spliced)

    def _spliced(self) -> None:
        upstream = self.exchange.upstream if self.exchange is not None else None
        moved = self._stop_pump()
        if upstream is not None:
            upstream.skip(moved)

    def _stop_pump(self) -> int:
        pump, self.pump = self.pump, None
        if pump is None:
            return 0
        pump.stop()
        self.sent += pump.moved
        self.progress += pump.moved
        return pump.moved

    def finished(self, exchange: Exchange) -> None:
        """See `exchange.Client`. The client gets what is left before the log its line."""
        self._stop_pump()
        self.exchange, self.held = None, False
        self.ended = self.reactor.seconds()
        goes_on = self.tunnel is None and not self.closing
        if goes_on:
            self._write_out()
        self._factory.answers.served(self, exchange.request, exchange)
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
        request = self.request
        kind, body = self._factory.answers.page(self, refusal, request, site)
        date = formatdate(self.reactor.seconds(), usegmt=True).encode("ascii")
        pairs: list[Pair] = [(b"Content-Type", kind), (b"Server", b"rproxy"), (b"Date", date)]
        status = refusal.status or 500
        self.status, self.reason = status, refusal.reason
        if isinstance(refusal, Redirect):
            status = refusal.moved
            pairs.append((b"Location", refusal.location))
        else:  # what one client has earned is not for a cache to give to others
            pairs.append((b"Cache-Control", b"no-store"))
        if status == 405 or isinstance(refusal, LastHop):
            pairs.append((b"Allow", b"GET, HEAD, POST, PUT, DELETE, PATCH, OPTIONS"))
        if request is None or isinstance(refusal, BadRequest):
            self._keep = False
        self.respond(status, REASONS.get(status, b""), Fields(pairs), _LENGTH, len(body))
        if request is None or request.method != b"HEAD":
            self.piece(body)
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
        tunnel, far = End(), End()
        self.tunnel = tunnel
        tunnel.transport, far.transport = self.transport, upstream.transport
        self.transport.unregisterProducer()
        from_peer, from_client = upstream.detach(), self.reader.take_rest()
        upstream.tunnel = far
        if from_peer:
            self.transport.write(from_peer)
        if from_client:
            upstream.transport.write(from_client)
        join_ends(tunnel, far, self._factory.pipes)
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
        if not self._input_ended and (self.reader.unread or not self.reader.complete):
            self._linger()
        else:
            self.transport.loseConnection()

    def _linger(self) -> None:
        """Half-close: closing on unread bytes is a reset, which would overtake the answer (RFC 9112 §9.6)."""
        half_close = getattr(self.transport, "loseWriteConnection", None)
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
            self.transport.unregisterProducer()
            self.transport.loseConnection()
        elif self.exchange is None and not self.full:
            self.close()

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


classImplements(HttpFactory, IProtocolFactory)
classImplements(HttpServer, IPushProducer, IHalfCloseableProtocol)
