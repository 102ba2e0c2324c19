"""Tunnels through a stream to a peer: CONNECT (RFC 9113 §8.5), WebSockets (RFC 8441). For `http2_stream`.

To the client's side a WebSocket is an HTTP/1.1 upgrade, so the peer's 200 is told as the 101 that answers the
client's key. Once both have agreed the stream stands in for a transport.
"""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha1
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.python.failure import Failure

from rproxy.errors import Refusal
from rproxy.wire.message import Framing, Headers, Request, Response

if TYPE_CHECKING:
    from rproxy.upstream.http2_stream import Http2Stream

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_UPGRADES: Final = frozenset((b"upgrade",))


def switched(response: Response, request: Request) -> Response:
    """The 101 that a server would send (RFC 6455 §4.2.2) in place of the 200 that agrees to a WebSocket."""
    key = request.headers.get(b"sec-websocket-key") or b""
    accept = b64encode(sha1(key + _GUID, usedforsecurity=False).digest())
    kept = response.headers.without((b"sec-websocket-accept", b"content-length"))
    headers = Headers([*kept, (b"Sec-WebSocket-Accept", accept)])
    reason = b"Switching Protocols"
    return Response(20, 101, reason, headers, Framing.NONE, 0, True, _UPGRADES, b"websocket")


class StreamTransport:
    """A stream in the place of a transport, for the far end of a relay."""

    _tempDataLen = 0  # as Twisted's transports have it: what waits in the stream is not asked for

    def __init__(self, stream: Http2Stream) -> None:
        self._stream = stream
        self._producer: Any = None
        self._is_full = self._losing = self._is_lost = False

    def write(self, octets: bytes) -> None:
        """As `ITransport.write`."""
        if octets and not self._is_lost:
            self._stream.send_piece(octets)

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """As `IConsumer.registerProducer`, of a push producer."""
        self._producer = producer
        if self._is_full:
            producer.pauseProducing()

    def unregisterProducer(self) -> None:
        """As `IConsumer.unregisterProducer`."""
        self._producer = None

    def full(self) -> None:
        """The stream's call: the peer is slower than the client."""
        self._is_full = True
        if self._producer is not None:
            self._producer.pauseProducing()

    def ready(self) -> None:
        """The stream's call: the peer takes more."""
        self._is_full = False
        if self._producer is not None:
            self._producer.resumeProducing()

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
        """The stream's call: it was reset, or its connection is gone."""
        self._end(Failure(ConnectionLost()))

    def _end(self, reason: Failure) -> None:
        if self._is_lost:
            return
        self._is_lost, self._producer = True, None
        self._stream.close()
        tunnel, self._stream.tunnel = self._stream.tunnel, None
        if tunnel is not None:
            tunnel.connectionLost(reason)
