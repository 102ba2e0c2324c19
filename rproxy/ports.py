"""The reactor's listening ports for any Twisted program: Twisted's, with our transports. Called by `reactor`.

The listeners of a proxy are `services.listeners.PatientPort`s with the barest transports instead.
Compiled, as `PatientPort` is: its compiled methods take no other class for theirs.
"""

from __future__ import annotations

import socket
from typing import Any

from mypy_extensions import mypyc_attr
from twisted.internet import unix
from twisted.internet.error import UnsupportedAddressFamily

from rproxy.descriptors import UnixServer
from rproxy.services.accepting import Accepting
from rproxy.services.listeners import PatientPort
from rproxy.streams import Server, zoned
from rproxy.transports import twisted_address


class All(Accepting):
    """Connections for programs that expect everything that Twisted's have.

    The port's `factory` may be another for each of them, and its `sessionno` counts them.
    """

    def _serve(self, accepted: Any, name: Any) -> None:
        """With a socket of Python's class, which is what programs expect `getHandle` to give."""
        self._serve_by(self._port.factory)
        super()._serve(socket.socket(self._family, self._type, self._proto, accepted.detach()), name)

    def _transport(self, accepted: Any, protocol: Any, name: Any) -> Any:
        port = self._port
        number, port.sessionno = port.sessionno, port.sessionno + 1
        return port.transport(accepted, protocol, name, port, number, self._reactor)

    def _address(self, name: Any) -> Any:
        return twisted_address(zoned(name))


@mypyc_attr(native_class=False)
class Port(PatientPort):
    """What `listenTCP` gives."""

    transport = Server  # type: ignore[assignment]  # any ITransport will do
    _accepts = All

    def startListening(self) -> None:
        """As Twisted's; whether accepted sockets are watched for dead clients is the program's to say."""
        adopted = self._preexistingSocket
        asked = adopted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) if adopted is not None else 0
        super().startListening()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, asked)


@mypyc_attr(native_class=False)
class UnixPort(unix.Port):
    """What `listenUNIX` gives."""

    transport = UnixServer  # type: ignore[assignment]


def adopted_port(number: int, family: int, factory: Any, reactor: Any) -> Any:
    """A port, listening, on a copy of a listening socket; raises `UnsupportedAddressFamily`."""
    port: Any
    if family == socket.AF_UNIX:
        port = UnixPort._fromListeningDescriptor(reactor, number, factory)
    elif family in (socket.AF_INET, socket.AF_INET6):
        port = Port._fromListeningDescriptor(reactor, number, family, factory)
    else:
        raise UnsupportedAddressFamily(family)
    port.startListening()
    return port


def adopted_connection(number: int, family: int, factory: Any, reactor: Any) -> Any:
    """A transport on a copy of a connected socket, with its protocol; None if the factory wants none."""
    if family not in (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6):
        raise UnsupportedAddressFamily(family)
    copy = socket.fromfd(number, family, socket.SOCK_STREAM)
    name = copy.getpeername()
    protocol = factory.buildProtocol(twisted_address(zoned(name)))
    if protocol is None:
        copy.close()
        return None
    kind, session = (UnixServer, 0) if family == socket.AF_UNIX else (Server, name[1])
    transport = kind(copy, protocol, name, None, session, reactor)
    protocol.makeConnection(transport)
    return transport
