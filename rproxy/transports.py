"""Twisted's TCP transport with two costs taken out; made by `upstream.connect` and `services.listeners`.

`write` tries the socket before it queues: Twisted's own waits for the next turn of the loop and
pays two `epoll_ctl` calls for it. `Outbound` connects without a connector, a Deferred or a timer.
What is left is Twisted's `Connection`: buffering, producers, half-close and the order of calls
into the protocol are inherited. Measured by `sni_conn` in bench/; the slow twin in the tests is
Twisted's own transport.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from typing import Any

from twisted.internet import address, main, tcp
from twisted.internet.abstract import FileDescriptor
from twisted.internet.error import ConnectionAborted
from twisted.internet.interfaces import IProtocol
from twisted.python.failure import Failure

PENDING = {errno.EINPROGRESS, errno.EALREADY, errno.EINTR}
DONE = Failure(main.CONNECTION_DONE)
ABORTED = Failure(ConnectionAborted())
CONNECTED = {0, errno.EISCONN}


class EagerWrite(tcp.Connection):
    """A `tcp.Connection` whose `write` sends at once when nothing is waiting to be sent."""

    _shouldShutdown = False  # before close(2) it does nothing: no other process has the socket

    def write(self, data: bytes) -> None:
        """As `ITransport.write`; what the socket does not take now is queued as ever."""
        if self.dataBuffer or self._tempDataLen or self.TLS or self.disconnecting or not self.connected:
            super().write(data)
            return
        if self._writeDisconnecting or not data:
            return
        try:
            sent = self.socket.send(data)
        except OSError:  # would block, or broken: then Twisted's own attempt reports the loss in its turn
            sent = 0
        if sent < len(data):
            super().write(data[sent:] if sent else data)

    def connectionLost(self, reason: Failure) -> None:
        """As Twisted's, without asking the reason for the names of all its classes."""
        if "socket" not in self.__dict__:  # a second call: aborted while it was being lost
            return
        FileDescriptor.connectionLost(self, reason)
        self._closeSocket(reason.type is not ConnectionAborted)
        protocol = self.protocol
        del self.protocol, self.socket, self.fileno
        protocol.connectionLost(reason)

    def loseWriteConnection(self) -> None:
        """As `ITCPTransport.loseWriteConnection`; at once when nothing is waiting to be sent."""
        if self.dataBuffer or self._tempDataLen or self.TLS or not self.connected or self.disconnecting:
            super().loseWriteConnection()
        elif not self._writeDisconnecting:
            self._writeDisconnecting = self._writeDisconnected = True
            self._closeWriteConnection()

    def close(self) -> None:
        """Close now, calling `connectionLost` before returning, if nothing is waiting to be sent; else soon.

        `loseConnection` waits for the next turn of the loop, which Twisted promises to protocols.
        Only for callers that are done with the transport and ready to be called.
        """
        if self.dataBuffer or self._tempDataLen or self.TLS or self.disconnecting or not self.connected:
            self.loseConnection()
        else:
            self.connectionLost(DONE)

    def cut(self) -> None:
        """`abortConnection`, but now: resets the other side, calls `connectionLost` before it returns."""
        if "socket" in self.__dict__:
            self.connectionLost(ABORTED)


class Accepted(EagerWrite, tcp.Server):
    """The transport of an accepted connection."""

    logstr = repstr = "Accepted"

    def __init__(
        self, sock: socket.socket, protocol: IProtocol, client: Any, server: Any, number: int, reactor: Any
    ) -> None:
        """As Twisted's, without the log prefix, which it makes anew for each connection."""
        FileDescriptor.__init__(self, reactor)
        sock.setblocking(False)
        self.socket, self.fileno, self.protocol = sock, sock.fileno, protocol
        self.client, self.server, self.sessionno, self.hostname = client, server, number, client[0]
        if len(client) == 4:
            self._addressType = address.IPv6Address
        self.startReading()
        self.connected = 1


Settled = Callable[["Outbound", int], None]


class Outbound(EagerWrite):
    """The transport of a connection that we make: `start`, then `settled(self, errno)` once.

    `settled` is called with 0 when connected, with the reason as an errno when not. It may be
    called before `start` returns. Until then `abandon` gives up silently.
    """

    def __init__(self, reactor: Any, family: int, target: Any, settled: Settled) -> None:
        FileDescriptor.__init__(self, reactor)
        kind = socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        self.socket = socket.socket(family, kind)
        self.fileno = self.socket.fileno
        self.family, self.target = family, target
        self._settled: Settled | None = settled

    def start(self) -> None:
        """Begin to connect; over loopback and unix sockets this mostly finishes here."""
        if self.family != socket.AF_UNIX:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # word of dead peers
        code = self._connect()
        if code in PENDING:
            code = self._connect()  # asks: a neighbour on this machine has accepted by now
        if code in PENDING:
            self.startWriting()
        else:
            self._settle(code)

    def _connect(self) -> int:
        try:
            return self.socket.connect_ex(self.target)
        except OSError:  # Python's own: a unix path that does not fit into sun_path
            return errno.ENAMETOOLONG

    def serve(self, protocol: IProtocol) -> None:
        """Hand the connected transport to its protocol."""
        self.protocol = protocol
        self.connected = 1
        protocol.makeConnection(self)
        if self.connected and not self.disconnecting:
            self.startReading()

    def abandon(self) -> None:
        """Give up while not connected; nothing is called any more."""
        self._settled = None
        self.stopWriting()
        self.socket.close()

    def doWrite(self) -> Any:
        """The reactor's call: while connecting it asks how it went, later it flushes the queue."""
        if self._settled is None:
            return super().doWrite()
        self.stopWriting()
        self._settle(self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
        return None

    def connectionLost(self, reason: Failure) -> None:
        """The reactor's call; a hang-up while connecting is a failed attempt."""
        if self._settled is None:
            super().connectionLost(reason)
        else:
            self._settle(self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) or errno.ECONNABORTED)

    def _settle(self, code: int) -> None:
        settled, self._settled = self._settled, None
        code = 0 if code in CONNECTED else code
        if code:
            self.stopWriting()
            self.socket.close()
        if settled is not None:
            settled(self, code)

    def logPrefix(self) -> str:
        """Twisted's tag for what is logged on this connection's behalf."""
        return "Outbound"

    def getHost(self) -> Any:
        """Our end, as a Twisted address."""
        return self._twisted_address(self.socket.getsockname())

    def getPeer(self) -> Any:
        """The peer's end, as a Twisted address."""
        return self._twisted_address(self.target)

    def _twisted_address(self, name: Any) -> Any:
        if self.family == socket.AF_UNIX:
            return address.UNIXAddress(os.fsencode(name) if name else None)
        kind = address.IPv6Address if self.family == socket.AF_INET6 else address.IPv4Address
        return kind("TCP", *name)
