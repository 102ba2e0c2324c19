"""TCP and unix transports with a straight way from the socket to the protocol.

`Accepted` is made by `services.accepting`; `upstream.outbound` has the one that connects. They keep Twisted's
contract (`ITCPTransport`, producers, half-close, the order of calls into the protocol) without
inheriting from its transports, so that they can be compiled. What is spared: `write` tries the
socket before it queues, where Twisted's waits for the next turn of the loop and pays two
`epoll_ctl` calls for it; a `Mover` may take bytes past the protocol (see `splice`). Measured by
`sni_conn` and `h1` in bench/; the slow twin in the tests is Twisted's own transport.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable
from functools import lru_cache
from termios import TIOCOUTQ
from typing import Any, ClassVar, Final

from mypy_extensions import mypyc_attr
from twisted.internet import address, main
from twisted.internet.error import ConnectionAborted
from twisted.internet.interfaces import (
    IConsumer,
    IHalfCloseableDescriptor,
    IHalfCloseableProtocol,
    ILoggingContext,
    IPushProducer,
    IReadWriteDescriptor,
    ISystemHandle,
    ITCPTransport,
)
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import classImplements

from rproxy.interfaces import Receiver, pass_on
from rproxy.native import sockets
from rproxy.watcher import watcher_of

log: Final = Logger(__name__)

MOST_QUEUED: Final = 65536
"""Bytes of a queue above which a producer is paused; Twisted's, too."""
DONE: Final = Failure(main.CONNECTION_DONE)
ABORTED: Final = Failure(ConnectionAborted())
LOST: Final[Any] = main.CONNECTION_LOST
END: Final[Any] = main.CONNECTION_DONE
HALF_CLOSEABLE: Final[Any] = IHalfCloseableProtocol
# Names of this module, which cost a compiled caller nothing to find.
receive: Final = sockets.receive
send: Final = sockets.send
_shut: Final = sockets.shut
_reset: Final = sockets.reset
_queued: Final = sockets.queued
_SEND: Final = sockets.SEND
_TIOCOUTQ: Final[int] = TIOCOUTQ


@mypyc_attr(allow_interpreted_subclasses=True)
class Mover:
    """Reads or writes a transport's socket in its place, see `splice.Pump`."""

    def readable(self) -> Any:
        """As `doRead` of the transport it is set as `reads` of."""

    def writable(self) -> Any:
        """As `doWrite` of the transport it is set as `writes` of."""


@mypyc_attr(allow_interpreted_subclasses=True)
class Stream:
    """A connected stream socket as a Twisted transport."""

    TLS: ClassVar[bool] = False
    """Whether `startTLS` was called, see `starttls`; Twisted's transports have the same."""

    def __init__(self, reactor: Any, sock: Any, place: Any) -> None:
        """`sock` is a socket, or the C class that one inherits from; `place` is the other end's name."""
        self.reactor, self.socket, self.place = reactor, sock, place
        self._watcher = watcher_of(reactor)
        self.protocol: Any = None
        self.number: int = sock.fileno()
        """The descriptor; -1 once it is closed."""
        self.connected = self.disconnected = self.disconnecting = 0
        self.reads: Mover | None = None
        self.writes: Mover | None = None
        # What waits to be sent: the bytes at work, how many of them are gone, and what came behind them.
        self.dataBuffer: bytes = b""
        self.offset = 0
        self._tempDataBuffer: list[bytes] = []
        self._tempDataLen = 0
        self.producer: Any = None
        self.streamingProducer = self.producerPaused = False
        self._half_closing = self._half_closed = self._aborting = self._broken = False
        self.under_tls = False
        """Whether `startTLS` was called, as `TLS` says: the protocol's bytes are not the socket's."""

    def fileno(self) -> int:
        """The reactor's call."""
        return self.number

    def getHandle(self) -> Any:
        """The socket."""
        return self.socket

    def getHost(self) -> Any:
        """Our end, as a Twisted address."""
        return twisted_address(self.socket.getsockname())

    def getPeer(self) -> Any:
        """The other end, as a Twisted address."""
        return twisted_address(self.place)

    @property
    def unsent(self) -> int:
        """Bytes that wait here for the socket to take them."""
        return len(self.dataBuffer) - self.offset + self._tempDataLen

    def doRead(self) -> Any:
        """The reactor's call: read once; gives the reason if the connection is lost."""
        if self._aborting:
            return None
        if self.reads is not None:
            return self.reads.readable()
        try:
            data = receive(self.socket, self.number)
        except OSError:
            return LOST
        if data is False:
            return LOST
        if data:
            pass_on(self.protocol, data)
        elif data is not None:
            return LOST if self._broken else END  # the kernel tells of a reset once, and writing has heard it
        return None

    def write(self, data: bytes) -> None:
        """As `ITransport.write`; what the socket does not take now is queued."""
        if not self.connected or self._half_closed or not data:
            return
        if self.dataBuffer or self._tempDataLen or self._half_closing or self.disconnecting or self._aborting:
            self._queue(data)
            return
        try:
            sent = send(self.socket, self.number, data, 0)
        except OSError:  # reading or the next attempt reports the loss in its turn
            sent, self._broken = 0, True
        if sent < len(data):
            self._queue(data[sent:] if sent else data)
        elif self.producer is not None and not self.streamingProducer:
            self.startWriting()  # it is asked for more in the next turn

    def writeSequence(self, iovec: Iterable[bytes]) -> None:
        """As `ITransport.writeSequence`."""
        self.write(b"".join(iovec))

    def _queue(self, data: bytes) -> None:
        self._tempDataBuffer.append(data)
        self._tempDataLen += len(data)
        if self.producer is not None and self.streamingProducer and self.unsent > MOST_QUEUED:
            self.producerPaused = True
            self.producer.pauseProducing()
        self.startWriting()

    def doWrite(self) -> Any:
        """The reactor's call: send of the queue what the socket takes."""
        if self._aborting:
            return None
        if self.writes is not None:
            return self.writes.writable()
        if len(self.dataBuffer) - self.offset < _SEND:
            rest = [self.dataBuffer[self.offset :], *self._tempDataBuffer]
            self.dataBuffer, self.offset = b"".join(rest), 0
            self._tempDataBuffer, self._tempDataLen = [], 0
        try:
            self.offset += send(self.socket, self.number, self.dataBuffer, self.offset)
        except OSError:
            return LOST
        if self.offset == len(self.dataBuffer) and not self._tempDataLen:
            return self._all_sent()
        return None

    def _all_sent(self) -> Any:
        self.dataBuffer, self.offset = b"", 0
        self.stopWriting()
        if self.producer is not None and (not self.streamingProducer or self.producerPaused):
            self.producerPaused = False
            self.producer.resumeProducing()
        elif self.disconnecting:
            return END
        elif self._half_closing and not self._half_closed:
            self._half_closed = True
            self._shut_write_side()
        return None

    def loseConnection(self) -> None:
        """As `ITransport.loseConnection`: once everything is sent, and a producer has unregistered."""
        if not self.connected or self.disconnecting:
            return
        self.stopReading()
        if self._half_closed:
            self.stopWriting()
            self.connectionLost(DONE)
        else:
            self.startWriting()
            self.disconnecting = 1

    def loseWriteConnection(self) -> None:
        """As `ITCPTransport.loseWriteConnection`; at once when nothing is waiting to be sent."""
        waits = self.dataBuffer or self._tempDataLen or not self.connected or self.disconnecting
        pulled = self.producer is not None and not self.streamingProducer
        if waits or pulled or self._aborting:
            self._half_closing = True
            self.startWriting()
        elif not self._half_closing:
            self._half_closing = self._half_closed = True
            self._shut_write_side()

    def _shut_write_side(self) -> None:
        _shut(self.socket, self.number)  # if the other side has gone, reading will tell
        protocol = half_closer(self.protocol)
        if protocol is not None:
            self._tell(protocol.writeConnectionLost)

    def readConnectionLost(self, reason: Failure) -> None:
        """The reactor's call: the other side has shut its half."""
        protocol = half_closer(self.protocol)
        if protocol is None:
            self.connectionLost(reason)
        else:
            self._tell(protocol.readConnectionLost)

    def writeConnectionLost(self, reason: Failure) -> None:
        """Of `IHalfCloseableDescriptor`: no reactor calls it."""
        self.connectionLost(reason)

    def _tell(self, call: Callable[[], object]) -> None:
        try:
            call()
        except Exception:
            failure = Failure()
            log.failure("in {protocol}", failure, protocol=repr(self.protocol))
            self.connectionLost(failure)

    def connectionLost(self, reason: Failure) -> None:
        """The reactor's call: the end, once."""
        if self.number < 0:  # a second call: aborted while it was being lost
            return
        self.disconnected, self.connected = 1, 0
        producer, self.producer = self.producer, None
        if producer is not None:
            producer.stopProducing()
        self._leave_reactor()
        self._close_socket(reason.type is ConnectionAborted)
        protocol, self.protocol = self.protocol, None
        protocol.connectionLost(reason)

    def _leave_reactor(self) -> None:
        """Closing takes a socket out of epoll anyway; our reactor only has to know."""
        self._watcher.forget(self.number, self)

    def _close_socket(self, reset: bool) -> None:
        if reset:
            _reset(self.socket, self.number)
        self.number = -1
        try:
            self.socket.close()
        except OSError:
            pass  # it is closed all the same (close(2))

    def close(self) -> None:
        """Close now, calling `connectionLost` before returning, if nothing is waiting to be sent; else soon.

        `loseConnection` waits for the next turn of the loop, which Twisted promises to protocols.
        Only for callers that are done with the transport and ready to be called.
        """
        if self.dataBuffer or self._tempDataLen or self.disconnecting or not self.connected:
            self.loseConnection()
        else:
            self.connectionLost(DONE)

    def cut(self) -> None:
        """`abortConnection`, but now: resets the other side, calls `connectionLost` before it returns."""
        self.connectionLost(ABORTED)

    def abortConnection(self) -> None:
        """As `ITCPTransport.abortConnection`: in the next turn, dropping what is queued."""
        if self.disconnected or self._aborting:
            return
        self._aborting = True
        self.stopReading()
        self.stopWriting()
        self.reactor.callLater(0, self.connectionLost, ABORTED)

    def registerProducer(self, producer: Any, streaming: Any) -> None:
        """As `IConsumer.registerProducer`."""
        if self.producer is not None:
            raise RuntimeError(f"{producer!r} cannot be registered, {self.producer!r} still is")
        if self.disconnected:
            producer.stopProducing()
            return
        self.producer, self.streamingProducer = producer, bool(streaming)
        if not streaming:
            producer.resumeProducing()

    def unregisterProducer(self) -> None:
        """As `IConsumer.unregisterProducer`."""
        self.producer = None
        if self.connected and (self.disconnecting or (self._half_closing and not self._half_closed)):
            self.startWriting()

    def stopConsuming(self) -> None:
        """Twisted's call when a producer has lost its connection."""
        self.unregisterProducer()
        self.loseConnection()

    def pauseProducing(self) -> None:
        """As `IPushProducer`: read no more for now."""
        self.stopReading()

    def resumeProducing(self) -> None:
        """As `IPushProducer`: go on reading."""
        if self.connected and not self.disconnecting:
            self.startReading()

    def stopProducing(self) -> None:
        """As `IPushProducer`."""
        self.loseConnection()

    def startReading(self) -> None:
        """Be told when there is something to read."""
        self._watcher.add_reader(self.number, self)

    def stopReading(self) -> None:
        """Be told no more."""
        self._watcher.remove_reader(self.number, self)

    def startWriting(self) -> None:
        """Be told when the socket takes more."""
        self._watcher.add_writer(self.number, self)

    def stopWriting(self) -> None:
        """Be told no more."""
        self._watcher.remove_writer(self.number, self)

    def getTcpNoDelay(self) -> bool:
        """As `ITCPTransport`."""
        return bool(self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    def setTcpNoDelay(self, enabled: int) -> None:
        """As `ITCPTransport`."""
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, enabled)

    def getTcpKeepAlive(self) -> bool:
        """As `ITCPTransport`."""
        return bool(self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))

    def setTcpKeepAlive(self, enabled: int) -> None:
        """As `ITCPTransport`."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, enabled)

    def logPrefix(self) -> str:
        """Twisted's tag for what is logged on this connection's behalf."""
        return type(self).__name__

    def __repr__(self) -> str:
        return type(self).__name__


@mypyc_attr(allow_interpreted_subclasses=True)
class Accepted(Stream):
    """The transport of an accepted connection."""

    def __init__(self, sock: Any, protocol: Any, client: Any, server: Any, number: int, reactor: Any) -> None:
        """As `twisted.internet.tcp.Server` is made, of a socket that does not block.

        `client` is the name that accept(2) gave.
        """
        super().__init__(reactor, sock, client)
        self.protocol = protocol
        port = getattr(server, "_realPortNumber", None)
        self.port: int = -1 if port is None else port
        """The port that it was accepted on, which spares a call; -1 where that is not known."""
        self.startReading()
        self.connected = 1


def half_closer(protocol: Any) -> Any:
    """The protocol as one that is told of half-closes, or None."""
    if isinstance(protocol, Receiver):
        return protocol if protocol.half_closes() else None
    return protocol if _half_closes(type(protocol)) else HALF_CLOSEABLE(protocol, None)


# Asking takes ten times as long as looking up, and programs have few classes of protocols.
_half_closes: Final[Callable[[Any], Any]] = lru_cache(256)(HALF_CLOSEABLE.implementedBy)


def is_plain(transport: Any) -> bool:
    """Whether a transport is one of ours: a socket that may be read and written beside its protocol."""
    return isinstance(transport, Stream) and not transport.under_tls


def write(transport: Any, data: bytes) -> None:
    """Call `write` of any transport; see `pass_on` for why there are two ways."""
    if isinstance(transport, Stream):
        transport.write(data)
    else:
        transport.write(data)


def close(transport: Any) -> None:
    """`Stream.close`, of a transport that may be another's, or one on which `startTLS` was called."""
    if isinstance(transport, Stream) and not transport.under_tls:
        transport.close()
    else:
        _own_method(transport, "close", "loseConnection")()


def cut(transport: Any) -> None:
    """`Stream.cut`, in the same way."""
    if isinstance(transport, Stream) and not transport.under_tls:
        transport.cut()
    else:
        _own_method(transport, "cut", "abortConnection")()


def _own_method(transport: Any, name: str, otherwise: str) -> Callable[[], object]:
    """A method that the transport itself has, or one that all have.

    Twisted's wrappers pass on what they do not know, so that the connection below TLS would be meant.
    """
    known = hasattr(type(transport), name) and not getattr(transport, "TLS", False)
    method: Callable[[], object] = getattr(transport, name if known else otherwise)
    return method


def twisted_address(name: Any) -> Any:
    """What Twisted calls a socket's name: of TCP over IPv4 or IPv6, or of a unix socket."""
    if not isinstance(name, tuple):
        return address.UNIXAddress(os.fsencode(name) if name else None)
    kind = address.IPv6Address if len(name) == 4 else address.IPv4Address
    return kind("TCP", *name)


def local_port(transport: Any) -> int:
    """The port that a client has connected to, if its transport knows it, here or below TLS; else -1."""
    below = transport
    while not isinstance(below, Accepted):
        if getattr(below, "proxy_header", None) is not None or isinstance(below, Stream):
            return -1
        below = getattr(below, "transport", None)
        if below is None:
            return -1
    return below.port


def unsent_of(transport: Any) -> int:
    """Bytes that wait for a transport's socket: ours, Twisted's, or one below TLS; 0 if there is no queue."""
    below = transport
    while not isinstance(below, Stream) and (lower := getattr(below, "transport", None)) is not None:
        below = lower
    if isinstance(below, Stream):
        return below.unsent
    queued = len(getattr(below, "dataBuffer", b"")) - int(getattr(below, "offset", 0))
    return queued + int(getattr(below, "_tempDataLen", 0))


def unacknowledged(transport: Any) -> int:
    """Bytes that the other side has not acknowledged, in our queue and in the kernel's (tcp(7), SIOCOUTQ)."""
    return unsent_of(transport) + in_kernel(transport, _TIOCOUTQ)


def in_kernel(transport: Any, *questions: int) -> int:
    """Bytes in the kernel's queue, by the first of these ioctls (tcp(7)) that the socket knows; else 0."""
    if isinstance(transport, Stream):
        return int(_queued(transport.number, *questions))
    try:
        return int(_queued(transport.getHandle().fileno(), *questions))
    except (AttributeError, TypeError, ValueError):  # closed, or no socket
        return 0


classImplements(
    Stream,
    IConsumer,
    IHalfCloseableDescriptor,
    ILoggingContext,
    IPushProducer,
    IReadWriteDescriptor,
    ISystemHandle,
    ITCPTransport,
)
