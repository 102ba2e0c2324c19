"""Connections taken from a listening socket. Each port of `listeners` has one, and tells it when to look.

It is apart from the port because that inherits from Twisted's, which no compiled class can. Measured by
`h1_newconn` and `sni_conn` in bench/.
"""

from __future__ import annotations

import errno
import socket
from typing import Any, Final

from twisted.internet import address
from twisted.logger import Logger
from twisted.python.failure import Failure

from rproxy.native import sockets
from rproxy.transports import Accepted
from rproxy.wire.address import inet

log: Final = Logger(__name__)

ACCEPTS: Final = 64
"""Connections accepted in one turn of the loop at most, so that a burst does not starve the old ones."""
NO_ROOM: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_accept: Final = sockets.accept
_Socket: Final[Any] = socket.SocketType  # of the C class: Python's own inherits from it, at twice the cost


class Accepting:
    """What a port does with those who connect; `batch` is how many it accepts the next time at most."""

    def __init__(self, port: Any) -> None:
        """`port` has the listening socket, and knows how to `sit_out`."""
        self._port, self._reactor, sock = port, port.reactor, port.socket
        self._family, self._type, self._proto = int(sock.family), int(sock.type), int(sock.proto)
        self._serve_by(port.factory)
        self._short = False
        self.batch: int = ACCEPTS

    def _serve_by(self, factory: Any) -> None:
        self._factory: Any = factory
        self._takes_inet: bool = getattr(factory, "takes_inet", False)

    def accept(self) -> None:
        """Serve those who are there."""
        asked = served = 0
        sock: Any = self._port.socket
        number: int = sock.fileno()
        while asked < self.batch:
            asked += 1
            try:
                accepted = _accept(sock, number)
            except OSError as problem:
                if problem.errno in NO_ROOM:
                    self._sit_out(problem)
                    return
                continue  # this one connection died in the queue (accept(2), "Error handling")
            if accepted is None:
                break
            served += 1
            self._short = False
            try:
                self._serve(_Socket(self._family, self._type, self._proto, accepted[0]), accepted[1])
            except Exception:  # a mistake in one connection must not close the port
                log.failure("{port} could not serve {name}", port=self._port, name=accepted[1])
        # As many as there were, or more if all were there: asking an empty queue each time is a waste.
        self.batch = max(1, served) if served < asked else min(2 * asked, ACCEPTS)

    def _serve(self, accepted: Any, name: Any) -> None:
        place = inet(_host(name), name[1]) if self._takes_inet else self._address(name)
        protocol = self._factory.buildProtocol(place)
        if protocol is None:
            accepted.close()
            return
        try:
            transport = self._transport(accepted, protocol, name)
        except BaseException:
            accepted.close()
            protocol.connectionLost(Failure())  # it has been counted, and nobody else would end it
            raise
        try:
            protocol.makeConnection(transport)
        except BaseException:
            transport.cut()
            raise

    def _transport(self, accepted: Any, protocol: Any, name: Any) -> Any:
        return Accepted(accepted, protocol, name, self._port, 0, self._reactor)

    def _address(self, name: Any) -> Any:
        kind = address.IPv4Address if len(name) == 2 else address.IPv6Address
        return kind("TCP", _host(name), name[1])

    def _sit_out(self, problem: OSError) -> None:
        if not self._short:
            log.error("{port} cannot accept: {why}; trying again", port=self._port, why=problem.strerror)
        self._short = True
        self._port.sit_out()


def _host(name: Any) -> str:
    """The address in a socket's name, with its zone if it has one."""
    return f"{name[0]}%{name[3]}" if len(name) == 4 and name[3] else str(name[0])
