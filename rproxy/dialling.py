"""What `connectTCP` and `connectUNIX` of the reactor give any Twisted program. Called by `reactor`.

The connectors are Twisted's (`IConnector`: deadlines, states, the calls of the factory); the transports are
ours. A proxy, which knows its addresses and has its own deadlines, takes `upstream.outbound` instead.
"""

from __future__ import annotations

import os
import socket
from typing import Any

from twisted.internet import tcp, unix
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.address import UNIXAddress
from twisted.internet.error import BadFileError, ConnectBindError, ConnectError, UserError, getConnectError
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from twisted.python.lockfile import isLocked

from rproxy.descriptors import CarriesFiles
from rproxy.starttls import Secured
from rproxy.streams import Complete, prefix_of, zoned
from rproxy.transports import Stream
from rproxy.upstream.outbound import CONNECTED, PENDING

NUMERIC = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
KIND = socket.SOCK_STREAM | socket.SOCK_NONBLOCK


class Client(Complete, Stream):
    """A connection to be made, beginning in the next turn of the loop; a transport once it is."""

    calls = True

    def __init__(self, sock: Any, addr: Any, problem: Exception | None, connector: Any) -> None:
        """`addr` is what connect(2) takes, but for a name of TCP's. `problem` is why it cannot even begin."""
        super().__init__(connector.reactor, sock, addr)
        self.addr, self.connector, self._trying = addr, connector, True
        if problem is None:
            self.reactor.callLater(0, self._begin)
        else:
            self.reactor.callLater(0, self.failIfNotConnected, problem)

    def _begin(self) -> None:
        host = self.addr[0]
        if not self._trying:
            return
        if isIPAddress(host) or isIPv6Address(host):
            self._dial(self.addr)
        else:
            found = self.reactor.resolve(host)
            found.addCallbacks(lambda known: self._dial((known, self.addr[1])), self.failIfNotConnected)

    def _dial(self, target: Any) -> None:
        """Connect; where somebody has given up by now the socket is closed, and nothing fails twice."""
        try:
            self.place = zoned(target)
            code = self.socket.connect_ex(target)
        except (OSError, OverflowError) as problem:  # no such port, or a path that is too long
            self.failIfNotConnected(problem)
            return
        if code in CONNECTED or code in PENDING:
            self.startWriting()
        else:
            self.failIfNotConnected(_error(code))

    def doWrite(self) -> Any:
        """The reactor's call: while connecting it asks how it went, later it flushes the queue."""
        if not self._trying:
            return super().doWrite()
        code = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self.failIfNotConnected(_error(code))
        else:
            self.stopWriting()
            self._serve(self.connector.buildProtocol(self.getPeer()))
        return None

    def _serve(self, protocol: Any) -> None:
        self._trying, self.connected = False, 1
        self.protocol = Protocol() if protocol is None else protocol
        self.logstr = f"{prefix_of(self.protocol)},client"
        if protocol is None:
            self.loseConnection()
        else:
            self.startReading()
            protocol.makeConnection(self)

    def failIfNotConnected(self, err: Any) -> None:
        """Give up for this reason, unless it is connected or has failed; Twisted's call at the deadline."""
        if not self._trying:
            return
        self._trying = False
        if self.number >= 0:
            self._leave_reactor()
        self._close_socket(False)
        self.connector.connectionFailed(Failure(err))

    def stopConnecting(self) -> None:
        """Give up, unless it is connected."""
        self.failIfNotConnected(UserError())

    def connectionLost(self, reason: Failure) -> None:
        """The reactor's call; a hang-up while connecting is a failed attempt."""
        if self._trying:
            code = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            self.failIfNotConnected(_error(code) if code else ConnectError(string=str(reason.value)))
        elif self.number >= 0:
            super().connectionLost(reason)
            self.connector.connectionLost(reason)

    def __repr__(self) -> str:
        return f"<{type(self)} to {self.addr} at {id(self):x}>"


def _error(code: int) -> Exception:
    error: Exception = getConnectError((code, os.strerror(code)))
    return error


class SecureClient(Secured, Client):
    """The same after `startTLS`."""


Client.secured = SecureClient


class UnixClient(CarriesFiles, Client):
    """A connection to a unix socket."""

    def _begin(self) -> None:
        self._dial(self.addr)


class SecureUnixClient(Secured, UnixClient):
    """The same after `startTLS`."""


UnixClient.secured = SecureUnixClient


class Connector(tcp.Connector):
    """What `connectTCP` gives."""

    def _makeTransport(self) -> Any:
        """Twisted's call for each attempt."""
        family, addr = _numbered(self.host, self.port)
        sock, problem = _opened(family, self.bindAddress)
        return Client(sock, addr, problem, self)


class UnixConnector(unix.Connector):
    """What `connectUNIX` gives."""

    def _makeTransport(self) -> Any:
        """Twisted's call for each attempt."""
        path: Any = UNIXAddress(self.address).name
        sock, problem = _opened(socket.AF_UNIX, None)
        if self.checkPID and not isLocked(path + b".lock"):
            problem = BadFileError(path)
        return UnixClient(sock, path, problem, self)


def _numbered(host: str, port: int) -> tuple[socket.AddressFamily, Any]:
    """The family of an address, and what connect(2) and bind(2) take; names are IPv4, as with Twisted."""
    if not isIPv6Address(host):
        return socket.AF_INET, (host, port)
    place: Any = socket.getaddrinfo(host, 1, flags=NUMERIC)[0][4]  # any port: a wrong one would be mended
    return socket.AF_INET6, (place[0], port, *place[2:])


def _opened(family: int, binding: Any) -> tuple[Any, Exception | None]:
    """A socket bound to what the caller of `connectTCP` wants, and what has gone wrong."""
    made: Any = socket.SocketType.__new__(socket.SocketType)  # one that is closed
    try:
        made = socket.socket(family, KIND)
        if family != socket.AF_UNIX:  # writes go out one by one: waiting for the next would stall every other
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if binding is not None:
            _bind(made, tcp.makeBinding(*binding) if isinstance(binding, tuple) else binding)
    except OSError as problem:
        return made, ConnectBindError(problem.errno, problem.strerror)
    return made, None


def _bind(sock: socket.socket, binding: Any) -> None:
    """`binding` is what `twisted.internet.tcp.makeBinding` gives."""
    if binding._reuseAddress:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if binding._reusePort:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind(_numbered(binding._address, binding._port)[1])
