"""Tunnels through an HTTP/2 stream: WebSockets (RFC 8441), CONNECT (RFC 9113 §8.5). For `http2_stream`.

To the peer a WebSocket is an HTTP/1.1 upgrade, whose handshake is made here: HTTP/2 has none of it. Once the
peer has agreed, the stream stands in for a transport, and the tunnel is a `relay` like any other.
"""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING

from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.python.failure import Failure

from rproxy.relay import End
from rproxy.upstream.http2_consumer import Consumer
from rproxy.wire.http2_events import ErrorCode
from rproxy.wire.message import Fields, Headers, Request
from rproxy.wire.websocket import accept_of

if TYPE_CHECKING:
    from rproxy.downstream.http2_stream import Stream

_KEY, _ACCEPT = b"sec-websocket-key", b"sec-websocket-accept"
_HANDSHAKE = frozenset((_KEY, _ACCEPT))


class WebSocketKey:
    """The handshake of one WebSocket, RFC 6455 §4.1; `nonce` is 16 bytes of chance."""

    __slots__ = ("_accept", "_key")

    def __init__(self, nonce: bytes) -> None:
        self._key = b64encode(nonce)
        self._accept = accept_of(self._key)

    def put_into(self, request: Request) -> Request:
        """The request with the key in place of whatever the client has sent as one."""
        request.headers = Headers([*request.headers.without(_HANDSHAKE), (_KEY, self._key)])
        return request

    def is_proven_by(self, fields: Fields) -> bool:
        """Whether a peer that agrees has read the key: who has not is no WebSocket server."""
        return [value for name, value in fields.pairs if name.lower() == _ACCEPT] == [self._accept]

    def taken_from(self, fields: Fields) -> Fields:
        """The fields without what is of the handshake."""
        return Fields([pair for pair in fields.pairs if pair[0].lower() != _ACCEPT])


class StreamTransport(Consumer):
    """A stream in the place of a transport, for an `End` of a relay."""

    def __init__(self, stream: Stream) -> None:
        super().__init__()
        self._stream = stream
        self.losing = False
        """Whether both directions are to end once everything is sent."""

    def write(self, octets: bytes) -> None:
        """As `ITransport.write`."""
        if octets:
            self._stream.piece(octets)
            self._stream.flush()

    def pauseProducing(self) -> None:
        """As `IPushProducer.pauseProducing`: the peer is slower than the client."""
        self._stream.hold_body(True)

    def resumeProducing(self) -> None:
        """As `IPushProducer.resumeProducing`."""
        self._stream.hold_body(False)

    def stopProducing(self) -> None:
        """As `IProducer.stopProducing`; the other end tells its loss by itself."""

    def loseWriteConnection(self) -> None:
        """As `ITCPTransport.loseWriteConnection`."""
        self._stream.end(None)
        self._stream.flush()

    def loseConnection(self) -> None:
        """As `ITransport.loseConnection`."""
        self.losing = True
        if self._stream.closed:
            self._stream.end_tunnel(ErrorCode.NO_ERROR)
        else:
            self.loseWriteConnection()

    def abortConnection(self) -> None:
        """As `ITCPTransport.abortConnection`; RFC 8441 §5: a reset is a CANCEL."""
        self._stream.end_tunnel(ErrorCode.CANCEL)

    def lost(self, end: End, clean: bool) -> None:
        """The stream's call: it is over; the peer is reset unless that is `clean` (RFC 9113 §8.5)."""
        self._producer = None
        end.connectionLost(Failure(ConnectionDone() if clean else ConnectionLost()))
