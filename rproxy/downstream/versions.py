"""Which HTTP a connection speaks: by ALPN inside TLS, else by its first bytes. Built by `assemble`.

HTTP/2 in clear text is by prior knowledge only (RFC 9113 §3.3): its preface is all that is looked for.
"""

from __future__ import annotations

from typing import Any, cast

from twisted.internet.interfaces import IHalfCloseableProtocol, IProtocol, IProtocolFactory
from twisted.python.failure import Failure
from zope.interface import classImplements, implementer

from rproxy.deadlines import Deadline, Deadlines
from rproxy.interfaces import Arrival, arrival_of

HTTP2 = b"h2"
_FIRST = b"PRI * HTTP/2.0\r\n"
"""As much of the preface as no HTTP/1 request can begin with."""
FIRST_BYTE = 75.0
"""Seconds for a client to say anything: as long as an HTTP/1 connection may be idle before a request."""


@implementer(IProtocolFactory)
class HttpVersions:
    """Serves each connection by the factory for its version."""

    def __init__(
        self,
        http1: IProtocolFactory,
        http2: IProtocolFactory,
        deadlines: Deadlines,
        *,
        first_byte: float = FIRST_BYTE,
    ) -> None:
        self.http1, self.http2, self.deadlines, self.first_byte = http1, http2, deadlines, first_byte

    def doStart(self) -> None:
        """Nothing to prepare; Twisted's ports call it."""

    def doStop(self) -> None:
        """Nothing to tear down; Twisted's ports call it."""

    def buildProtocol(self, addr: Any) -> IProtocol | None:
        """The server for the version that was agreed on, or one that waits for the first bytes."""
        arrival = arrival_of(addr)
        if arrival.alpn == HTTP2:
            return self.http2.buildProtocol(cast(Any, arrival))
        if arrival.alpn:
            return self.http1.buildProtocol(cast(Any, arrival))
        first: Any = FirstBytes(self, arrival)
        return cast(IProtocol, first)


class FirstBytes:
    """Waits for as many bytes as tell the versions apart, then passes everything on."""

    def __init__(self, factory: HttpVersions, arrival: Arrival) -> None:
        self._factory, self._arrival = factory, arrival
        self._transport: Any = None
        self._first = b""
        self._become: Any = None
        self._deadline: Deadline | None = None

    def makeConnection(self, transport: Any) -> None:
        """Twisted's call."""
        self._transport = transport
        self._deadline = self._factory.deadlines.after(self._factory.first_byte, self._too_slow)

    def dataReceived(self, octets: bytes) -> None:
        """Twisted's call."""
        if self._become is not None:
            self._become.dataReceived(octets)
            return
        first = self._first = self._first + octets
        if first.startswith(_FIRST):
            self._be(self._factory.http2, first)
        elif not _FIRST.startswith(first):
            self._be(self._factory.http1, first)

    def _be(self, factory: IProtocolFactory, first: bytes) -> None:
        self._stop_clock()
        become: Any = factory.buildProtocol(cast(Any, self._arrival))
        if become is None:
            self._transport.loseConnection()
            return
        self._become, self._first = become, b""
        become.makeConnection(self._transport)
        become.dataReceived(first)

    def _too_slow(self) -> None:
        self._deadline = None
        self._transport.loseConnection()

    def _stop_clock(self) -> None:
        deadline, self._deadline = self._deadline, None
        if deadline is not None:
            deadline()

    def drain(self) -> None:
        """The proxy stops."""
        if self._become is not None:
            self._become.drain()
        else:
            self._transport.loseConnection()

    def readConnectionLost(self) -> None:
        """Twisted's call: nothing more comes."""
        half: Any = IHalfCloseableProtocol(self._become, None)
        if half is not None:
            half.readConnectionLost()
        else:
            self._transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """Twisted's call once our half is shut."""
        half: Any = IHalfCloseableProtocol(self._become, None)
        if half is not None:
            half.writeConnectionLost()

    def connectionLost(self, reason: Failure) -> None:
        """Twisted's call."""
        self._stop_clock()
        if self._become is not None:
            self._become.connectionLost(reason)


classImplements(FirstBytes, IHalfCloseableProtocol)
