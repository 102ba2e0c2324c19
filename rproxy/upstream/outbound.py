"""The transport of a connection that we make. Made by `connect.Dial`, one for each address that is tried.

It connects a non-blocking socket to an address that is already known, without a connector, a
Deferred or a timer: whoever waits has the deadline. Once connected it is a `transports.Stream`
like any other. Measured by `sni_conn` and `h1` in bench/. Why: docs/adr/0005-own-transports.md
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from typing import Any, Final

from twisted.python.failure import Failure

from rproxy.native import sockets
from rproxy.transports import Stream

PENDING: Final = frozenset((errno.EINPROGRESS, errno.EALREADY, errno.EINTR))
CONNECTED: Final = frozenset((0, errno.EISCONN))
# Names of this module, which cost a compiled caller nothing to find.
_KIND: Final[int] = socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
_UNIX: Final[int] = socket.AF_UNIX
_prepare: Final = sockets.prepare
_connect: Final = sockets.connect

Settled = Callable[["Outbound", int], None]


class Outbound(Stream):
    """The transport of a connection that we make: `start`, then `settled(self, errno)` once.

    `settled` is called with 0 when connected, with the reason as an errno when not. It may be
    called before `start` returns. Until then `abandon` gives up silently.
    """

    def __init__(self, reactor: Any, family: int, target: Any, settled: Settled) -> None:
        super().__init__(reactor, socket.SocketType(family, _KIND), target)
        self.family = family
        self._settled: Settled | None = settled

    def start(self) -> None:
        """Begin to connect; over loopback and unix sockets this mostly finishes here."""
        if self.family != _UNIX:
            _prepare(self.socket, self.number)
        code = self._connect()
        if code in PENDING:
            code = self._connect()  # asks: a neighbour on this machine has accepted by now
        if code in PENDING:
            self.startWriting()
        else:
            self._settle(code)

    def _connect(self) -> int:
        try:
            code: int = _connect(self.socket, self.number, self.place)
        except OSError:  # Python's own: a unix path that does not fit into sun_path
            return errno.ENAMETOOLONG
        return code

    def serve(self, protocol: Any) -> None:
        """Hand the connected transport to its protocol."""
        self.protocol = protocol
        self.connected = 1
        self.startReading()
        protocol.makeConnection(self)

    def abandon(self) -> None:
        """Give up while not connected; nothing is called any more."""
        self._settled = None
        self._drop()

    def _drop(self) -> None:
        self.stopWriting()
        self._close_socket(False)

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
            self._drop()
        if settled is not None:
            settled(self, code)
