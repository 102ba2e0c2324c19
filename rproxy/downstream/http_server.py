"""HTTP/1.1 to clients: a connection's requests one after another. Built by `peek` or `terminate`.

`HttpServer` reads with `wire.http1`, gives each request to an `Exchange`, and writes what that
says. All limits on the client's time and on what it may make us hold are here. A connection is
looked at now and then by one lazily set timer; nothing is created or timed per request.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass
from fcntl import ioctl
from http import HTTPStatus
from termios import TIOCOUTQ
from typing import Any, Protocol

from twisted.internet.interfaces import IHalfCloseableProtocol, IProtocolFactory, IPushProducer
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from rproxy.deadlines import Deadline, Deadlines
from rproxy.errors import PeerTimeout, Redirect, Refusal, TooSlow
from rproxy.exchange import Exchange
from rproxy.interfaces import Arrival, arrival_of
from rproxy.policy.forwarding import ClientFacts
from rproxy.relay import End, join_ends
from rproxy.sites import Site, Sites
from rproxy.splice import Pipes, Pump, is_plain_tcp
from rproxy.upstream.http_client import HttpClient
from rproxy.wire.http1 import RequestReader
from rproxy.wire.http1_write import chunk, framing_pairs, last_chunk, response_head
from rproxy.wire.message import BadRequest, Framing, Headers, Pair, Piece, Request

MOST_PIPELINED = 65536
"""Bytes of further requests kept while one is served: more than any browser sends, then we stop reading."""
LINGER = 2.0
"""Seconds for which a client that still sends is listened to after the last answer."""
REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}
LOOKS = 4
"""Looks at a connection per shortest time limit: a limit is exceeded by at most a quarter."""
SPLICE_FROM = 1 << 18
"""Bytes of a body still to come from which the kernel moves it; below, setting that up costs more."""
CLOSE: Pair = (b"Connection", b"close")
KEEP: Pair = (b"Connection", b"keep-alive")


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """A client's time, in seconds; `min_rate` is bytes per second, asked after `rate_grace`; 0: none.

    `shortest` is the shortest time limit of any route. Each route has its own for bodies and tunnels.
    """

    head: float = 20.0
    keep_alive: float = 75.0
    body: float = 60.0
    min_rate: float = 100.0
    rate_grace: float = 10.0
    shortest: float = 60.0

    @property
    def look_every(self) -> float:
        """How often a connection has to be looked at."""
        return max(0.05, min(self.head, self.keep_alive, self.body, self.shortest, 20.0) / LOOKS)


class Answers(Protocol):
    """Error pages and the access log, see `services.pages` and `services.requestlog`."""

    def next_id(self) -> str:
        """A number for a request."""

    def page(
        self, server: HttpServer, refusal: Refusal, request: Request | None, site: Site | None
    ) -> tuple[bytes, bytes]:
        """Content type and body of the answer to a refusal."""

    def served(self, server: HttpServer, request: Request | None, exchange: Exchange | None) -> None:
        """Write a finished exchange down."""


@implementer(IProtocolFactory)
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
    ) -> None:
        self.reactor, self.sites, self.answers = reactor, sites, answers
        self.deadlines, self.pipes, self.limits, self.facts = deadlines, pipes, limits, facts
        self.secure = secure

    def doStart(self) -> None:
        """Nothing to prepare; Twisted's ports call it."""

    def doStop(self) -> None:
        """Nothing to tear down; Twisted's ports call it."""

    def buildProtocol(self, addr: Any) -> HttpServer:
        """A server for this arrival."""
        return HttpServer(self, arrival_of(addr))


@implementer(IPushProducer, IHalfCloseableProtocol)
class HttpServer(TwistedProtocol):
    """One client connection. What the exchange calls is documented at `exchange.Client`."""

    transport: Any
    facts: ClientFacts
    tunnel: End | None = None

    def __init__(self, factory: HttpFactory, arrival: Arrival) -> None:
        self._factory, self.arrival = factory, arrival
        self.reactor, self.secure = factory.reactor, factory.secure
        self.sites, self._limits = factory.sites(), factory.limits()
        self._reader = RequestReader()
        self._exchange: Exchange | None = None
        self._request: Request | None = None
        self._out: list[Piece] = []
        self._chunked = self._keep = self._closing = self._full = False
        self._held = self._paused = self._input_ended = self._draining = self._in_turn = False
        self._partial = False
        self._pump: Pump | None = None
        self._timer: Deadline | None = None
        self.since = factory.reactor.seconds()
        self._progress = 0
        self._seen = -1
        self._seen_at = 0.0
        self.sent = self._body_bytes = self.status = 0
        self.reason = self._id = ""

    def request_id(self) -> str:
        """The number of the request that is served, the same in its error page and in the log."""
        self._id = self._id or self._factory.answers.next_id()
        return self._id

    @property
    def tls_version(self) -> str:
        """As in "TLSv1.3"; empty in clear text."""
        return str(getattr(self.transport, "version", "")) if self.secure else ""

    def connectionMade(self) -> None:
        """Twisted's call."""
        self.facts = self._factory.facts(self.arrival, self.secure, self.transport)
        self.transport.registerProducer(self, True)
        self._look_later()

    def dataReceived(self, data: bytes) -> None:
        """Twisted's call."""
        if self._closing:
            return
        if self.tunnel is not None:
            self.tunnel.dataReceived(data)
            return
        self._progress += len(data)
        self._reader.receive(data)
        self._read()

    def _read(self) -> None:
        """As much of what has come as can be used now."""
        if self._in_turn:  # an exchange that ended at once is looked after by the loop below us
            return
        self._in_turn = True
        try:
            while not self._closing and not self._full and self._read_one():
                pass
        finally:
            self._in_turn = False
        self._hold_input()

    def _read_one(self) -> bool:
        """The body of the request that is served, or the next request; False when nothing is left to do."""
        if self._exchange is not None:
            if not self._reader.complete:
                self._read_body(self._exchange)
            return self._exchange is None
        try:
            if not self._reader.complete:  # the response was quicker than the request's body
                self._close()
                return False
            request = self._reader.read_head()
        except BadRequest as refusal:
            if not self._partial:
                self.since = self.reactor.seconds()
            self._refuse_unread(refusal)
            return False
        if request is None:
            return self._nothing_more()
        self._begin(request)
        return True

    def _nothing_more(self) -> bool:
        """No request is waiting; the time for its head begins with the head."""
        idle = self._reader.idle
        if self._input_ended or (self._draining and idle):
            self._close()
        elif not idle and not self._partial:
            self._partial, self.since = True, self.reactor.seconds()
        return False

    def _refuse_unread(self, refusal: Refusal) -> None:
        """Answer what never became a request."""
        self._request, self._id, self.sent = None, "", 0
        self.refuse(refusal, None)
        self._factory.answers.served(self, None, None)

    def _begin(self, request: Request) -> None:
        self._request, self.since = request, self.reactor.seconds()
        self._partial = False
        self._keep = request.keep_alive and not self._draining
        self.sent = self._body_bytes = 0
        self._id = ""
        exchange = self._exchange = Exchange(self, request)
        exchange.start()

    def _read_body(self, exchange: Exchange) -> None:
        reader = self._reader
        try:
            while not self._held and (piece := reader.read_body()):
                self._body_bytes += len(piece)
                exchange.request_piece(piece)
                if self._exchange is not exchange:
                    return
        except BadRequest as refusal:
            exchange.refuse(refusal)
            return
        if reader.complete:
            exchange.request_end(reader.trailers)

    def _hold_input(self) -> None:
        """Stop reading the socket while nobody has use for more, go on when somebody has."""
        waiting = self._reader.unread >= MOST_PIPELINED if self._exchange is not None else False
        pause = not self._closing and (self._held or self._full or waiting)
        if pause != self._paused and self.tunnel is None:
            self._paused = pause
            if pause:
                self.transport.pauseProducing()
            else:
                self.transport.resumeProducing()

    def hold_body(self, held: bool) -> None:
        """See `exchange.Client`."""
        self._held = held
        if held:
            self._hold_input()
        else:
            self._read()

    def interim(self, status: int, reason: bytes, pairs: list[Pair]) -> None:
        """See `exchange.Client`."""
        self._write(response_head(status, reason, pairs))

    def respond(self, status: int, reason: bytes, pairs: list[Pair], framing: Framing, length: int) -> None:
        """See `exchange.Client`."""
        request = self._request
        old = request is not None and request.version == 10
        self._chunked = framing is Framing.CHUNKED or framing is Framing.UNTIL_CLOSE
        if self._chunked and old:
            self._chunked = self._keep = False
        elif self._chunked:
            pairs = [*pairs, *framing_pairs(Framing.CHUNKED, 0)]
        elif framing is Framing.LENGTH:
            pairs = [*pairs, *framing_pairs(framing, length)]
        last = self._draining or (self._input_ended and not self._reader.unread)
        if last or not self._reader.complete:
            self._keep = False
        if not self._keep:
            pairs = [*pairs, CLOSE]
        elif old:
            pairs = [*pairs, KEEP]
        self._out.append(response_head(status, reason, pairs))

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
        out = self._out
        if out:
            self._out = []
            self._write(b"".join(out))
        if self._exchange is not None and not self._chunked:
            self._splice_rest(self._exchange)

    def _write(self, data: bytes) -> None:
        self._progress += len(data)
        self.transport.write(data)

    def _splice_rest(self, exchange: Exchange) -> None:
        """Let the kernel move the rest of a large response (see `splice`)."""
        upstream = exchange.upstream
        if self._pump is not None or upstream is None or upstream.body_left < SPLICE_FROM:
            return
        if is_plain_tcp(self.transport) and is_plain_tcp(upstream.transport):
            pipes, left = self._factory.pipes, upstream.body_left
            self._pump = Pump(upstream.transport, self.transport, pipes, left, self._spliced)

    def _spliced(self) -> None:
        upstream = self._exchange.upstream if self._exchange is not None else None
        moved = self._stop_pump()
        if upstream is not None:
            upstream.skip(moved)

    def _stop_pump(self) -> int:
        pump, self._pump = self._pump, None
        if pump is None:
            return 0
        pump.stop()
        self.sent += pump.moved
        self._progress += pump.moved
        return pump.moved

    def finished(self, exchange: Exchange) -> None:
        """See `exchange.Client`."""
        self._stop_pump()
        self._exchange, self._held = None, False
        self._factory.answers.served(self, exchange.request, exchange)
        if self.tunnel is not None or self._closing:
            return
        self.since = self.reactor.seconds()
        if self._keep and not self._draining:
            self._out_and_on()
        else:
            self._close()

    def _out_and_on(self) -> None:
        out, self._out = self._out, []
        if out:
            self._write(b"".join(out))
        self._read()

    def refuse(self, refusal: Refusal, site: Site | None) -> None:
        """See `exchange.Client`; also for a request that never became an exchange."""
        request = self._request
        kind, body = self._factory.answers.page(self, refusal, request, site)
        pairs: list[Pair] = [(b"Content-Type", kind), (b"Server", b"rproxy")]
        status = refusal.status or 500
        self.status, self.reason = status, refusal.reason
        if isinstance(refusal, Redirect):
            status = refusal.moved
            pairs.append((b"Location", refusal.location))
        if status == 405:
            pairs.append((b"Allow", b"GET, HEAD, POST, PUT, DELETE, PATCH, OPTIONS"))
        if request is None or isinstance(refusal, BadRequest):
            self._keep = False
        self.respond(status, REASONS.get(status, b""), pairs, Framing.LENGTH, len(body))
        if request is None or request.method != b"HEAD":
            self.piece(body)
        if request is None:
            self._close()

    def cut(self) -> None:
        """See `exchange.Client`: a response that ends here must not look complete."""
        self._stop_pump()
        self._closing = True
        self._stop_looking()
        out, self._out = self._out, []
        if out:
            self.transport.write(b"".join(out))
        self.transport.unregisterProducer()
        self.transport.abortConnection()

    def switch(self, status: int, reason: bytes, pairs: list[Pair], upstream: HttpClient) -> None:
        """See `exchange.Client`."""
        self._write(response_head(status, reason, pairs))
        self.tunnel, far = End(), End()
        self.tunnel.transport, far.transport = self.transport, upstream.transport
        self.transport.unregisterProducer()
        from_peer, from_client = upstream.detach(), self._reader.take_rest()
        upstream.tunnel = far
        if from_peer:
            self.transport.write(from_peer)
        if from_client:
            upstream.transport.write(from_client)
        join_ends(self.tunnel, far, self._factory.pipes)
        self._seen = -1
        if self._paused:
            self.transport.resumeProducing()
        if self._input_ended:
            self.tunnel.readConnectionLost()

    def _close(self) -> None:
        """Send what is waiting, then close; a client that still sends is listened to for a moment."""
        if self._closing:
            return
        self._closing = True
        out, self._out = self._out, []
        if out:
            self._write(b"".join(out))
        self.transport.unregisterProducer()
        if not self._input_ended and (self._reader.unread or not self._reader.complete):
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
        self._stop_looking()
        self._timer = self._factory.deadlines.after(LINGER, self._stop_lingering)

    def _stop_lingering(self) -> None:
        """Enough, unless the answer is still on its way to a slow client."""
        self._timer = None
        if not _unsent(self.transport) or self._is_stuck(self.reactor.seconds()):
            self.abort()
        else:
            self._timer = self._factory.deadlines.after(LINGER, self._stop_lingering)

    def abort(self) -> None:
        """Cut the connection off."""
        self.transport.abortConnection()

    def drain(self) -> None:
        """The proxy stops: no request after the one that is served."""
        self._draining = True
        if self._exchange is None and self.tunnel is None and self._reader.idle:
            self._close()

    def _look_later(self) -> None:
        self._timer = self._factory.deadlines.after(self._limits.look_every, self._look)

    def _stop_looking(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer()

    def _look(self) -> None:
        """Now and then: is this connection taking too long over anything?"""
        self._timer = None
        now = self.reactor.seconds()
        if self.tunnel is not None:
            self._look_at_tunnel(now)
        elif self._exchange is not None:
            self._look_at_exchange(self._exchange, now)
        elif self._closing or self._full:
            if self._is_stuck(now):
                self.abort()
        elif self._partial:
            if now - self.since >= self._limits.head:
                self._refuse_unread(TooSlow("the request's head took too long"))
        elif now - self.since >= self._limits.keep_alive:
            self._close()
        if self._timer is None and self.connected:
            self._look_later()

    def _look_at_tunnel(self, now: float) -> None:
        tunnel, route = self.tunnel, self._exchange.route if self._exchange is not None else None
        assert tunnel is not None
        assert route is not None  # a tunnel stays the exchange that it began as
        if self._stalled(tunnel.moved + (tunnel.far.moved if tunnel.far else 0), now, route.tunnel_idle):
            self.abort()

    def _look_at_exchange(self, exchange: Exchange, now: float) -> None:
        if exchange.overdue(now):
            return
        waiting = exchange.waiting_for_peer
        if self._is_stuck(now) and not waiting:
            exchange.refuse(self._who_is_stuck(exchange))
        elif not self._reader.complete and not self._held and self._too_slow_body(now):
            exchange.refuse(TooSlow("the body came too slowly"))

    def _who_is_stuck(self, exchange: Exchange) -> Refusal:
        """Of the two: a client that sends nothing or takes nothing, or a peer that does so."""
        if _unsent(self.transport) if exchange.responded else not self._held:
            return TooSlow("the client neither sent nor took a byte")
        return PeerTimeout("the peer neither sent nor took a byte")

    def _is_stuck(self, now: float) -> bool:
        """Whether no byte has come from the client, or arrived at it, for too long."""
        pump = self._pump
        moved = pump.moved - pump.held if pump is not None else 0
        route = self._exchange.route if self._exchange is not None else None
        patience = route.body_timeout if route is not None else self._limits.body
        return self._stalled(self._progress + moved - _unsent(self.transport), now, patience)

    def _stalled(self, progress: int, now: float, limit: float) -> bool:
        if progress != self._seen:
            self._seen, self._seen_at = progress, now
        return limit > 0 and now - self._seen_at >= limit

    def _too_slow_body(self, now: float) -> bool:
        limits, spent, request = self._limits, now - self.since, self._request
        if request is not None and request.expects_continue and not self._body_bytes:
            return False  # the peer has not asked for it
        return (
            limits.min_rate > 0 and spent > limits.rate_grace and self._body_bytes < limits.min_rate * spent
        )

    def readConnectionLost(self) -> None:
        """Twisted's call: the client sends no more; what it has asked for is still answered."""
        self._input_ended = True
        if self.tunnel is not None:
            self.tunnel.readConnectionLost()
        elif self._closing or (self._exchange is not None and not self._reader.complete):
            self.transport.unregisterProducer()
            self.transport.loseConnection()
        elif self._exchange is None and not self._full:
            self._close()

    def writeConnectionLost(self) -> None:
        """Twisted's call once our half is shut."""

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        """Twisted's call."""
        self._closing, self.connected = True, 0
        self._stop_looking()
        self._stop_pump()
        if self.tunnel is not None:
            self.tunnel.connectionLost(reason)
        exchange = self._exchange
        if exchange is not None:
            exchange.cancel()

    def pauseProducing(self) -> None:
        """The transport's call: its buffer is full."""
        self._full = True
        if self._exchange is not None:
            self._exchange.client_full()

    def resumeProducing(self) -> None:
        """The transport's call: its buffer is empty again."""
        self._full = False
        if self._exchange is not None:
            self._exchange.client_ready()
        self._read()

    def stopProducing(self) -> None:
        """The transport's call when it is lost; `connectionLost` follows."""


def _unsent(transport: Any) -> int:
    """Bytes that the client has not acknowledged, in our queue and in the kernel's."""
    below = getattr(transport, "transport", transport)  # TLS's own transport
    queued = len(getattr(below, "dataBuffer", b"")) - getattr(below, "offset", 0)
    in_kernel = array("i", [0])
    try:
        ioctl(below.getHandle(), TIOCOUTQ, in_kernel)
    except (AttributeError, OSError, ValueError):  # not a socket, or closed
        in_kernel[0] = 0
    return queued + int(getattr(below, "_tempDataLen", 0)) + in_kernel[0]
