"""`transports.Stream` with the rest of what Twisted's transports have: those of `reactor`. Made by `ports`.

They are for any Twisted program. Reading and writing are the compiled class's; what is here is asked for
once per connection, or by programs that do what a proxy does not. Slow twin: Twisted's own transports.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import Any, ClassVar

from twisted.internet.interfaces import ILoggingContext, ITLSTransport
from zope.interface import implementer

from rproxy.starttls import OverStream, Secured, start_tls
from rproxy.transports import Accepted, twisted_address


@implementer(ITLSTransport)
class Complete(OverStream):
    """Stands before `Stream`, or what inherits from it, among the bases of a transport."""

    logstr = "Uninitialized"
    """What `logPrefix` gives: the protocol's name, and which connection it is."""
    calls: ClassVar[bool]
    """Whether it is the side that calls, which is TLS's client unless `startTLS` is told otherwise."""
    secured: ClassVar[type]
    """The class that `startTLS` turns it into."""

    def startTLS(self, ctx: Any, normal: bool = True) -> None:
        """As `ITLSTransport.startTLS`."""
        start_tls(self, ctx, self.calls is bool(normal))

    def writeSequence(self, iovec: Iterable[bytes]) -> None:
        """As `ITransport.writeSequence`; raises `TypeError` for what are no bytes."""
        parts = list(iovec)
        if not all(isinstance(part, bytes) for part in parts):
            raise TypeError("Data must be bytes")
        self.write(b"".join(parts))

    def loseWriteConnection(self) -> None:
        """As `ITCPTransport.loseWriteConnection`: in the next turn, as programs may count on."""
        self._half_closing = True
        self.startWriting()

    def getHost(self) -> Any:
        """Our end, as a Twisted address."""
        return twisted_address(zoned(self.socket.getsockname()))

    def getPeer(self) -> Any:
        """The other end, as a Twisted address."""
        return twisted_address(zoned(self.place))

    def logPrefix(self) -> str:
        """Twisted's tag for what is logged on this connection's behalf."""
        return self.logstr

    def _leave_reactor(self) -> None:
        """Closing takes a socket out of epoll only if nobody has a copy, and programs do pass copies on."""
        self.stopReading()
        self.stopWriting()


class Server(Complete, Accepted):
    """The transport of a connection that a port of the reactor has accepted, or that it has adopted."""

    calls = False

    def __init__(
        self, sock: Any, protocol: Any, client: Any, server: Any, sessionno: int, reactor: Any
    ) -> None:
        """As `twisted.internet.tcp.Server`; `server` is the port, None for an adopted connection."""
        sock.setblocking(False)
        super().__init__(sock, protocol, client, server, sessionno, reactor)
        self.client, self.server, self.sessionno = zoned(client), server, sessionno
        self.hostname = self.client[0] if isinstance(client, tuple) else self.client
        place = self.port if self.port >= 0 else _place(sock.getsockname())
        self.logstr = f"{prefix_of(protocol)},{sessionno},{self.hostname or place}"
        self.repstr = f"<{type(protocol).__name__} #{sessionno} on {place}>"

    def __repr__(self) -> str:
        return self.repstr


class SecureServer(Secured, Server):
    """The same after `startTLS`."""


Server.secured = SecureServer


def prefix_of(protocol: Any) -> str:
    """Twisted's name for a protocol in its log: what the protocol says, or its class."""
    if ILoggingContext.providedBy(protocol):
        return str(protocol.logPrefix())
    return type(protocol).__name__


def _place(name: Any) -> Any:
    """The port in a socket's name; or the name itself, a unix socket's."""
    return name[1] if isinstance(name, tuple) else name


def zoned(name: Any) -> Any:
    """A socket's name as Twisted writes it: a link-local IPv6 address has its interface behind it."""
    if isinstance(name, tuple) and len(name) == 4:
        host = socket.getnameinfo(name, socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)[0]
        return (host, *name[1:])
    return name
