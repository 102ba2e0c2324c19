"""A peer that speaks HTTP; and HTTP/1.1 to it: connections, their requests one after another, the idle ones.

`exchange` takes a connection from `HttpPeer.idle` or has one made by `connect.Dial`, asks, and is
told what comes back. Nothing is created per request here. A connection is kept only when its
last response was read to the end and nothing else came; whatever arrives while nobody asked
closes it. Where HTTP/2 is spoken the peer has a `Pool` (see `http2_pool`), and nothing is idle here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, cast

from mypy_extensions import mypyc_attr
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import (
    IHalfCloseableProtocol,
    IProtocol,
    IPushProducer,
    IStreamClientEndpoint,
)
from twisted.python.failure import Failure
from zope.interface import classImplements

from rproxy.errors import Refusal
from rproxy.interfaces import Receiver
from rproxy.policy.forwarding import Memory
from rproxy.transports import unsent_of, write
from rproxy.upstream.asking import Asking as Asking
from rproxy.upstream.asking import HttpClient as HttpClient
from rproxy.upstream.asking import Pool
from rproxy.upstream.peer import DOWN_FOR, NEVER, Peer, Target
from rproxy.upstream.resolve import Names
from rproxy.watcher import watcher_of
from rproxy.wire.http1 import ResponseReader
from rproxy.wire.http1_write import chunk, framing_pairs, last_chunk, request_head
from rproxy.wire.message import BadResponse, Fields, Framing, Headers, Piece, Request

KEEP_IDLE: Final = 20.0
"""Seconds an idle connection is kept: less than by most servers, 60 to 75, so that we close first."""
_NONE: Final = Framing.NONE
_CHUNKED: Final = Framing.CHUNKED

BODILESS: Final = frozenset((b"GET", b"HEAD"))
"""Methods whose content means nothing (RFC 9110 §9.3.1, §9.3.2), so that servers may leave it unread."""
NO_HTTP1: Final = 'the peer speaks HTTP/2; upstream_options = ["force_http2_upstream"] lets us do so, too'
# The type, flags and stream of the frame that every HTTP/2 server begins with (RFC 9113 §3.4).
_SETTINGS: Final = b"\4\0\0\0\0\0"
SWEEPS: Final = 4
"""Looks at the idle connections per that time: they are kept for up to a quarter longer."""


@mypyc_attr(allow_interpreted_subclasses=True)
class HttpPeer(Peer):
    """A peer that speaks HTTP, with its idle connections; `authority` is the Host it may be called by."""

    __slots__ = ("_sweeping", "authority", "http2", "idle", "keep", "keep_idle", "origin", "pool", "tls")

    def __init__(
        self,
        name: str,
        *,
        authority: bytes,
        tls: Any = None,
        keep: int = 256,
        keep_idle: float = KEEP_IDLE,
        fixed: Sequence[Target] = (),
        host: str = "",
        port: int = 0,
        names: Names | None = None,
        weight: int = 1,
        endpoint: IStreamClientEndpoint | None = None,
        max_fails: int = 1,
        fail_timeout: float = DOWN_FOR,
        http2: Callable[[HttpPeer], Pool] | None = None,
    ) -> None:
        """`http2` makes the pool of a peer that is spoken to in HTTP/2."""
        super().__init__(
            name,
            fixed=fixed,
            host=host,
            port=port,
            names=names,
            endpoint=endpoint,
            weight=weight,
            max_fails=max_fails,
            fail_timeout=fail_timeout,
        )
        self.origin = f"{'http' if tls is None else 'https'}://{name}"
        self.authority, self.tls = authority, tls
        self.keep, self.keep_idle = keep, keep_idle
        self.idle: list[Http1Client] = []
        self._sweeping = False
        self.http2 = http2
        self.pool: Pool | None = http2(self) if http2 is not None else None

    def protocol(self, clock: Any, ready: Callable[[HttpClient], object]) -> IProtocol:
        """What a new transport to this peer is given to; `ready` is called with what may be asked then."""
        if self.pool is not None:
            return self.pool.protocol(clock, ready)
        client: Any = Http1Client(self, clock, ready)
        return cast(IProtocol, client if self.tls is None else self.tls.wrap(client))

    def take_idle(self) -> HttpClient | None:
        """A kept connection, the one used last, that the others grow old; or a place on a shared one."""
        if self.idle:
            return self.idle.pop()
        return self.pool.take() if self.pool is not None else None

    def succeeded(self) -> None:
        """That it accepts connections says little of a server that fails to answer; see `answered`."""

    def answered(self, now: float) -> None:
        """Note a response; once the peer's time of being left out is over it is trusted again."""
        if NEVER < self.down_until <= now:
            super().succeeded()

    def put_idle(self, connection: Http1Client, clock: Any) -> bool:
        """Keep a connection for the next request; False when there are enough of them."""
        if len(self.idle) >= self.keep:
            return False
        connection.since = connection.watcher.seconds()
        self.idle.append(connection)
        if not self._sweeping:
            self._sweep_later(clock)
        return True

    def close_idle(self, unused_since: float) -> None:
        """Close what nobody has asked since then."""
        for connection in [one for one in self.idle if one.since <= unused_since]:
            connection.close()
        if self.pool is not None:
            self.pool.close_idle(unused_since)

    def forget(self) -> None:
        """No route leads here any more: nothing is kept from now on."""
        self.keep = 0
        self.close_idle(float("inf"))
        if self.pool is not None:
            self.pool.forget()

    def _sweep_later(self, clock: Any) -> None:
        self._sweeping = True
        clock.callLater(self.keep_idle / SWEEPS, self._sweep, clock)

    def _sweep(self, clock: Any) -> None:
        self._sweeping = False
        self.close_idle(clock.seconds() - self.keep_idle)
        if self.idle:
            self._sweep_later(clock)


class Http1Client(HttpClient, Receiver):
    """One connection to a peer: a Twisted protocol, without the base class so that it can be compiled."""

    def __init__(self, peer: HttpPeer, clock: Any, ready: Callable[[HttpClient], object]) -> None:
        super().__init__(peer, Memory())
        self._clock, self._ready = clock, ready
        self.watcher = watcher_of(clock)
        self._reader = ResponseReader()
        self._asking: Asking | None = None
        self._answered = self._more = self._paused = self._chunked = self._spent = False

    def makeConnection(self, transport: Any) -> None:
        """Twisted's call; the transport pauses us, which is to say the client, when its buffer is full."""
        self.transport = transport
        transport.registerProducer(self, True)
        ready, self._ready = self._ready, _nothing
        ready(self)

    def can_tunnel(self, request: Request) -> bool:
        """See `asking.HttpClient`: it is what HTTP/1.1 has them for."""
        return True

    def ask(
        self, asking: Asking, request: Request, target: bytes, fields: Fields, upgrade: bool, more: bool
    ) -> None:
        """See `asking.HttpClient`."""
        self._reader.expect(request.method, upgrade)
        self._asking, self._answered, self._more = asking, False, more
        framing = request.framing
        self._chunked = framing is _CHUNKED
        # A server may ignore the body of a GET and read it as the next request, which is somebody else's.
        self._spent = (self._chunked or request.length > 0) and request.method in BODILESS
        if framing is not _NONE:
            fields.own += framing_pairs(framing, request.length)
        write(self.transport, request_head(request.method, target, fields.own, fields.block))

    def send_piece(self, piece: Piece) -> None:
        """See `asking.HttpClient`."""
        self.transport.write(b"".join(chunk(piece)) if self._chunked else bytes(piece))

    def send_end(self, trailers: Headers | None) -> None:
        """See `asking.HttpClient`."""
        self._more = False
        if self._chunked:
            self.transport.write(last_chunk(trailers.pairs if trailers is not None else ()))

    @property
    def body_left(self) -> int:
        """See `asking.HttpClient`."""
        return self._reader.left

    def skip(self, count: int) -> None:
        """See `asking.HttpClient`."""
        self._reader.skip(count)
        asking = self._asking
        if self._reader.complete and asking is not None:
            self._finish(asking)
            asking.flush()

    def pause(self) -> None:
        """See `asking.HttpClient`."""
        self._paused = True
        self.transport.pauseProducing()

    def resume(self) -> None:
        """Read on after `pause`; nothing otherwise, for then the kernel may be at it (see `splice`)."""
        if self._paused:
            self._paused = False
            self.transport.resumeProducing()

    def detach(self) -> bytes:
        """See `asking.HttpClient`."""
        self._asking = None
        self.transport.unregisterProducer()
        self.resume()
        return self._reader.take_rest()

    def close(self) -> None:
        """Close, asked or not; nothing more is told. What nobody waits for ends without a reset."""
        busy = self._asking is not None or self._more or unsent_of(self.transport) > 0
        self._asking = None
        if self in self.peer.idle:
            self.peer.idle.remove(self)
        self.transport.unregisterProducer()
        if busy:
            self.transport.abortConnection()
        else:
            self.transport.loseConnection()

    def dataReceived(self, data: bytes) -> None:
        """Twisted's call."""
        if self.tunnel is not None:
            self.tunnel.dataReceived(data)
            return
        asking = self._asking
        if asking is None:  # a peer that speaks unasked is confused, or says why it closes
            self.close()
            return
        self._reader.receive(data)
        try:
            self._read(asking)
        except BadResponse as refusal:
            self._break(BadResponse(NO_HTTP1) if data[3:9] == _SETTINGS else refusal)

    def _read(self, asking: Asking) -> None:
        reader = self._reader
        if not self._answered and not self._read_heads(asking):
            return
        while piece := reader.read_body():
            asking.piece(piece)
            if self._asking is None:  # given up meanwhile
                return
        if reader.complete:
            self._finish(asking)
        asking.flush()

    def _read_heads(self, asking: Asking) -> bool:
        while (response := self._reader.read_head()) is not None:
            if not response.interim:
                self._answered = True
                asking.response(response)
                return self._asking is not None
            asking.interim(response)
        return False

    def _finish(self, asking: Asking) -> None:
        self._asking, self.used = None, True
        reusable = self._reader.reusable and not self._more and not self._spent
        if reusable and self.peer.put_idle(self, self._clock):
            if self._paused:
                self.resume()
        else:
            self.close()
        asking.response_end(self._reader.trailers)

    def _break(self, refusal: Refusal) -> None:
        asking, silent = self._asking, self._reader.silent
        self.close()
        if asking is not None:
            asking.broken(refusal, silent)

    def readConnectionLost(self) -> None:
        """Twisted's call: the peer sends no more; for a body without length that is its end."""
        if self.tunnel is not None:
            self.tunnel.readConnectionLost()
            return
        self._end_of_input()

    def _end_of_input(self) -> None:
        asking = self._asking
        if asking is None:
            self.close()
            return
        silent = self._reader.silent
        try:
            self._reader.close()
        except BadResponse as refusal:
            self.close()
            asking.broken(refusal, silent)
            return
        self._finish(asking)
        asking.flush()

    def writeConnectionLost(self) -> None:
        """Twisted's call; only a tunnel shuts half of the connection."""

    def connectionLost(self, reason: Failure) -> None:
        """Twisted's call."""
        if self.tunnel is not None:
            self.tunnel.connectionLost(reason)
        elif self._asking is not None and reason.type is ConnectionDone:  # TLS knows no half-close
            self._end_of_input()
        elif self._asking is not None:
            asking, silent, why = self._asking, self._reader.silent, reason.value
            self._asking = None
            asking.broken(why if isinstance(why, Refusal) else BadResponse("connection reset"), silent)
        elif self in self.peer.idle:
            self.peer.idle.remove(self)

    def pauseProducing(self) -> None:
        """The transport's call: its buffer is full."""
        if self._asking is not None:
            self._asking.upstream_full()

    def resumeProducing(self) -> None:
        """The transport's call: its buffer is empty again."""
        if self._asking is not None:
            self._asking.upstream_ready()

    def stopProducing(self) -> None:
        """The transport's call when it is lost; `connectionLost` follows."""


def _nothing(client: HttpClient) -> None:
    """Stands where a callback was that has been called."""


classImplements(Http1Client, IPushProducer, IHalfCloseableProtocol)
