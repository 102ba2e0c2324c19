"""Tunnels through a stream to a peer: CONNECT (RFC 9113 §8.5), WebSockets (RFC 8441). For `http2_stream`.

To the client's side a WebSocket is an HTTP/1.1 upgrade, so the peer's 200 is told as the 101 that answers the
client's key. Once both have agreed the stream stands in for a transport.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.python.failure import Failure

from rproxy.errors import Refusal
from rproxy.upstream.http2_consumer import Consumer
from rproxy.wire.message import Framing, Headers, Request, Response
from rproxy.wire.websocket import accept_of

if TYPE_CHECKING:
    from rproxy.upstream.http2_stream import Http2Stream

PATIENCE: Final = 60.0
"""Seconds in which a peer takes something of what a client has left behind, or never gets it: as long as it
has by default while the client is there. Else such streams would use up the connection."""

_UPGRADES: Final = frozenset((b"upgrade",))
_REPLACED: Final = frozenset((b"sec-websocket-accept", b"content-length"))


def switched(response: Response, request: Request) -> Response:
    """The 101 that a server would send (RFC 6455 §4.2.2) in place of the 200 that agrees to a WebSocket."""
    key = request.headers.get(b"sec-websocket-key") or b""
    kept = response.headers.without(_REPLACED)
    headers = Headers([*kept, (b"Sec-WebSocket-Accept", accept_of(key))])
    reason = b"Switching Protocols"
    return Response(20, 101, reason, headers, Framing.NONE, 0, True, _UPGRADES, b"websocket")


class StreamTransport(Consumer):
    """A stream in the place of a transport, for the far end of a relay."""

    def __init__(self, stream: Http2Stream) -> None:
        super().__init__()
        self._stream = stream
        self._losing = self._is_lost = False
        self._timer: Any = None
        self._left = 0

    def write(self, octets: bytes) -> None:
        """As `ITransport.write`."""
        if octets and not self._is_lost:
            self._stream.send_piece(octets)

    def pauseProducing(self) -> None:
        """As `IPushProducer.pauseProducing`: the client is slower than the peer."""
        self._stream.pause()

    def resumeProducing(self) -> None:
        """As `IPushProducer.resumeProducing`."""
        self._stream.resume()

    def stopProducing(self) -> None:
        """As `IProducer.stopProducing`; the other end tells its loss by itself."""

    def loseWriteConnection(self) -> None:
        """As `ITCPTransport.loseWriteConnection`."""
        if not self._is_lost:
            self._stream.send_end(None)
            self.check_over()

    def loseConnection(self) -> None:
        """As `ITransport.loseConnection`."""
        self._losing = True
        self.loseWriteConnection()
        if self._timer is None and not self._is_lost:
            self._wait()

    def _wait(self) -> None:
        self._left = self._stream.queued
        self._timer = self._stream.later(PATIENCE, self._look)

    def _look(self) -> None:
        """Nobody is there any more who would notice that the peer takes nothing of what was left behind."""
        self._timer = None
        if self._stream.queued < self._left:
            self._wait()
        else:
            self.abortConnection()

    def abortConnection(self) -> None:
        """As `ITCPTransport.abortConnection`; RFC 8441 §5: a reset is a CANCEL."""
        self._end(Failure(ConnectionDone()))

    def heard_end(self) -> None:
        """The stream's call: the peer sends no more."""
        tunnel = self._stream.tunnel
        if tunnel is not None and not self._is_lost:
            tunnel.readConnectionLost()
        self.check_over()

    def check_over(self) -> None:
        """Whether everything has been said: then it is as if a connection had closed."""
        stream = self._stream
        if stream.said_all and (self._losing or stream.heard_all):
            self._end(Failure(ConnectionDone()))

    def lost(self, refusal: Refusal) -> None:
        """The stream's call: it was reset, or its connection is gone.

        A peer that has said all before has cut nothing off: Go's servers reset a stream, with NO_ERROR, once
        they have ended their half (RFC 9113 §8.1).
        """
        self._end(Failure(ConnectionDone() if self._stream.heard_all else ConnectionLost()))

    def _end(self, reason: Failure) -> None:
        if self._is_lost:
            return
        self._is_lost, self._producer = True, None
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()
        self._stream.close()
        tunnel, self._stream.tunnel = self._stream.tunnel, None
        if tunnel is not None:
            tunnel.connectionLost(reason)
