"""TLS that begins on a connection in use, as `ITLSTransport` has it. Called by the transports in `streams`.

TLS is a protocol between the transport and the application's protocol, whose transport stays what it is.
So the transport changes its class: `Secured` stands before its own, and sends what is written through that
protocol. A connection without TLS is asked nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from twisted.internet.interfaces import ISSLTransport
from twisted.protocols.tls import TLSMemoryBIOFactory
from zope.interface import implementer

from rproxy.transports import Stream

if TYPE_CHECKING:
    OverStream = Stream
else:
    OverStream = object  # what stands before a compiled class must not bring it along a second time


def start_tls(transport: Any, contexts: Any, client: bool) -> None:
    """Begin the handshake on a connected transport, in the role of the client or the server.

    `contexts` is what Twisted takes for `startTLS`: a context factory or a creator of connections.
    """
    producer, streaming = transport.producer, transport.streamingProducer
    if producer is not None:
        transport.unregisterProducer()
    nobody: Any = None
    factory = TLSMemoryBIOFactory(contexts, client, nobody, transport.reactor)  # it builds no protocol
    layer = factory.protocol(factory, transport.protocol, False)  # which has a transport already
    below = Below(transport, type(transport))
    transport.protocol, transport.under_tls = layer, True
    transport.__class__ = transport.secured
    layer.makeConnection(below)
    if producer is not None:
        transport.registerProducer(producer, streaming)


class Below:
    """What the TLS protocol has for a transport: the connection with the methods that it had before."""

    def __init__(self, transport: Any, kind: Any) -> None:
        self._transport, self._kind = transport, kind

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Records, to be sent as they are."""
        self._kind.write(self._transport, data)

    def writeSequence(self, iovec: Iterable[bytes]) -> None:
        """As `ITransport.writeSequence`."""
        self._kind.writeSequence(self._transport, iovec)

    def loseConnection(self) -> None:
        """Close; the goodbyes of TLS are said."""
        self._kind.loseConnection(self._transport)

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Of records."""
        self._kind.registerProducer(self._transport, producer, streaming)

    def unregisterProducer(self) -> None:
        """Of records."""
        self._kind.unregisterProducer(self._transport)


@implementer(ISSLTransport)
class Secured(OverStream):
    """Stands before the class that a transport had; its protocol is the one that speaks TLS."""

    TLS = True

    def write(self, data: bytes) -> None:
        """As `ITransport.write`; waits for the handshake."""
        if self.connected:
            self.protocol.write(data)

    def writeSequence(self, iovec: Iterable[bytes]) -> None:
        """As `ITransport.writeSequence`."""
        if self.connected:
            self.protocol.writeSequence(iovec)

    def loseConnection(self) -> None:
        """As `ITransport.loseConnection`: once everything is sent, and both sides have said goodbye."""
        if self.connected and not self.disconnecting:
            self.protocol.loseConnection()

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """As `IConsumer.registerProducer`."""
        self.protocol.registerProducer(producer, streaming)

    def unregisterProducer(self) -> None:
        """As `IConsumer.unregisterProducer`."""
        if self.connected:
            self.protocol.unregisterProducer()

    def getHandle(self) -> Any:
        """The `OpenSSL.SSL.Connection`."""
        return self.protocol.getHandle()

    def getPeerCertificate(self) -> Any:
        """As `ISSLTransport.getPeerCertificate`: what the other side has shown, None if nothing."""
        return self.protocol.getPeerCertificate()
