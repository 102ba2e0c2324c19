"""HTTP/2 to a peer: one connection, from its making to its end. Made by `http2_pool`.

`Http2Client` is its protocol; what is asked on it is in `http2_requests`. Nothing is asked before the peer
has said its SETTINGS: then it is sure that it speaks HTTP/2, and how many requests it takes at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.interfaces import IHalfCloseableProtocol, IHandshakeListener, IPushProducer
from twisted.python.failure import Failure
from zope.interface import classImplements

from rproxy.errors import PeerTimeout, PeerUnreachable, Refusal
from rproxy.interfaces import Receiver
from rproxy.transports import unsent_of
from rproxy.upstream.asking import HttpClient
from rproxy.upstream.http2_requests import Requests
from rproxy.upstream.http2_stream import Http2Stream
from rproxy.wire.http2_events import ErrorCode
from rproxy.wire.message import BadResponse

if TYPE_CHECKING:
    from rproxy.upstream.http2_pool import Http2Pool
    from rproxy.upstream.http_client import HttpPeer

SETTLE: Final = 10.0
"""Seconds from TCP's connection to the peer's SETTINGS: a TLS handshake and a round trip."""
MOST_WAITING: Final = 1 << 20
"""Bytes that wait although the transport is full: heads of requests, answers to a peer that takes none."""

NO_ALPN: Final = (
    "the peer does not speak HTTP/2 (TLS has not agreed on h2);"
    ' without "force_http2_upstream" in upstream_options it is spoken to in HTTP/1.1'
)
NO_HTTP2: Final = (
    "the peer answers in HTTP/1.1 to HTTP/2;"
    ' without "force_http2_upstream" in upstream_options it is spoken to in that'
)
_H2: Final = b"h2"
_ALIVE: Final = b"rproxy-a"


class Http2Client(Requests, Receiver):
    """A Twisted protocol, without the base class so that it can be compiled."""

    def __init__(
        self,
        peer: HttpPeer,
        clock: Any,
        pool: Http2Pool,
        ready: Callable[[HttpClient], object] | None = None,
    ) -> None:
        """`pool` is told what becomes of it. With `ready` it is for the stream alone that this is given."""
        super().__init__(peer, clock, pool, ready is not None)
        self._ready = ready
        self.transport: Any = None
        self._unsent = 0
        self._settling: Any = None

    def makeConnection(self, transport: Any) -> None:
        """Twisted's call."""
        self.transport = transport
        self._settling = self.clock.callLater(SETTLE, self._too_slow)
        transport.registerProducer(self, True)
        if self.peer.tls is None:
            self._introduce()
        ready, self._ready = self._ready, None
        if ready is not None:
            ready(Http2Stream(self))

    def handshakeCompleted(self) -> None:
        """The call of TLS: nothing was said before, and to whom speaks no HTTP/2 nothing will be."""
        if self.transport.negotiatedProtocol == _H2:
            self._introduce()
        else:
            self.lose(PeerUnreachable(NO_ALPN))

    def _introduce(self) -> None:
        self.codec.start()
        self.write_out()

    def _too_slow(self) -> None:
        self._settling = None
        if not self.settled:
            self.lose(PeerTimeout("HTTP/2 did not begin in time"))

    def dataReceived(self, data: bytes) -> None:
        """Twisted's call."""
        if self.closed:
            return
        if not self.settled and data.startswith(b"HTTP/"):
            self.lose(PeerUnreachable(NO_HTTP2))
        else:
            self.take(data)

    def write_out(self) -> None:
        """See `Requests`."""
        out, self._line.sent = self.codec.output(), 0
        if not out:
            return
        self.transport.write(out)
        if self.full:
            self._unsent += len(out)
            if self._unsent > MOST_WAITING:
                self.lose(BadResponse("the peer does not take what it is sent"))

    def look(self, now: float) -> None:
        """The pool's call, now and then: is it of use, is the peer still there?"""
        if not self.streams:
            if now - self.since >= self.peer.keep_idle:
                self.leave()
        elif self._silence.is_final(now):
            self.lose(BadResponse("the peer does not answer"))
        elif self._silence.wants_ping(now):
            self.codec.ping(_ALIVE)
            self.write_out()

    def leave(self) -> None:
        """See `Requests`."""
        if not self.closed:
            self.codec.goaway(ErrorCode.NO_ERROR)
            self.write_out()
            if self._close():
                self.transport.loseConnection()

    def lose(self, refusal: Refusal) -> None:
        """See `Requests`. Why may still be on its way to the peer."""
        if self.closed:
            return
        self.write_out()
        if not self._close():
            return
        if unsent_of(self.transport):
            self.transport.abortConnection()
        else:
            self.transport.loseConnection()
        self._lose_all(refusal)

    def _close(self) -> bool:
        """Whether it was open."""
        if self.closed:
            return False
        self.closed = True
        settling, self._settling = self._settling, None
        if settling is not None and settling.active():
            settling.cancel()
        self.transport.unregisterProducer()
        self.pool.remove(self)
        return True

    def readConnectionLost(self) -> None:
        """Twisted's call: the peer sends no more, so nothing can be answered."""
        self.lose(self._closed())

    def _closed(self) -> Refusal:
        """The peer has closed the connection; before its SETTINGS nothing was asked."""
        if self.settled:
            return BadResponse("connection closed")
        return PeerUnreachable("the peer closes the connection before HTTP/2 has begun")

    def writeConnectionLost(self) -> None:
        """Twisted's call; nothing here shuts half of a connection."""

    def connectionLost(self, reason: Failure) -> None:
        """Twisted's call."""
        why = reason.value
        if self._close():
            self._lose_all(why if isinstance(why, Refusal) else self._closed())

    def pauseProducing(self) -> None:
        """The transport's call: its buffer is full."""
        self.full = True

    def resumeProducing(self) -> None:
        """The transport's call: its buffer is empty again."""
        self.full, self._unsent = False, 0
        self._soon()

    def stopProducing(self) -> None:
        """The transport's call when it is lost; `connectionLost` follows."""


classImplements(Http2Client, IPushProducer, IHalfCloseableProtocol, IHandshakeListener)
