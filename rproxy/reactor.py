"""Twisted's epoll reactor with a shorter way from event to transport. Chosen by `tap` when nobody chose.

Twisted gives every event a logging context: seven calls before the transport's own. Here an
event is one look-up and one call, made in C (see `native.events`); what goes wrong is logged with the
transport's name all the same. Everything else is `EPollReactor`'s. `twistd -r epoll rproxy …` leaves
it out: that is the slow twin. Measured by `sni_conn` and `h1` in bench/.
"""

from __future__ import annotations

from select import EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT
from typing import Any, Final

from mypy_extensions import mypyc_attr
from twisted.internet import main
from twisted.internet.epollreactor import EPollReactor
from twisted.internet.error import ConnectionFdescWentAway
from twisted.logger import Logger
from twisted.python.failure import Failure

from rproxy.dialling import Connector, UnixConnector
from rproxy.native.events import turn, watch
from rproxy.ports import Port, UnixPort, adopted_connection, adopted_port
from rproxy.transports import DONE, Stream
from rproxy.transports import END as ENDED
from rproxy.transports import LOST as BROKEN

log: Final = Logger(__name__)

LOST: Final = Failure(main.CONNECTION_LOST)
GONE: Final = ConnectionFdescWentAway("Filedescriptor went away")
IN: Final[int] = EPOLLIN
OUT: Final[int] = EPOLLOUT
HUNG_UP: Final[int] = EPOLLHUP | EPOLLERR


@mypyc_attr(native_class=False)
class ProxyReactor(EPollReactor):
    """An epoll reactor for many short events."""

    _poller: Any
    _selectables: dict[int, Any]
    _reads: set[int]
    _writes: set[int]

    def __init__(self) -> None:
        super().__init__()
        self._number: int = self._poller.fileno()

    def doPoll(self, timeout: float | None) -> None:
        """As `doIteration`, under the name that Twisted's epoll reactor has for it."""
        self.doIteration(timeout)

    def doIteration(self, timeout: float | None) -> None:
        """One turn: wait for events, at most `timeout` seconds, and deliver them."""
        wait = -1.0 if timeout is None else timeout
        turn(
            self._poller,
            self._number,
            wait,
            self._selectables,
            Stream,
            self._serve,
            self._disown,
            self._failed,
        )

    def _disown(self, descriptor: int) -> None:
        """An event of nobody's: a copy of what was closed is open somewhere, and would tell for ever."""
        try:
            self._poller.unregister(descriptor)
        except OSError:
            log.warn("epoll tells of descriptor {number}, which is closed", number=descriptor)

    def _serve(self, selectable: Any, descriptor: int, event: int) -> None:
        """An event that is about more than reading."""
        try:
            reading, why = self._tell(selectable, descriptor, event)
            stays = self._selectables.get(descriptor) is selectable
            if stays:
                if selectable.fileno() != descriptor:
                    reading, why = False, GONE
            elif why is not None and selectable.fileno() != descriptor:
                return  # it closed itself, and the number may be another's
            if why is None:
                return
        except BaseException as mistake:
            log.failure("in {selectable}", selectable=selectable.logPrefix())
            reading, why = False, mistake
        if why:
            self._disconnectSelectable(selectable, why, reading)

    def _tell(self, selectable: Any, descriptor: int, event: int) -> tuple[bool, Any]:
        """Whether it was about reading, and why the connection is lost, if it is."""
        if event & HUNG_UP and not event & IN:
            reading = descriptor in self._reads
            return reading, main.CONNECTION_DONE if reading else main.CONNECTION_LOST
        reading, why = False, None
        if event & IN:
            reading, why = True, selectable.doRead()
        if event & OUT and not why and selectable.fileno() == descriptor:
            reading, why = False, selectable.doWrite()
        return reading, why

    def _failed(self, selectable: Any, descriptor: int, why: Any, raised: bool) -> None:
        """Reading has given, or raised, a reason to disconnect."""
        if raised:
            log.failure("in {selectable}", Failure(why), selectable=selectable.logPrefix())
        elif not why or selectable.fileno() != descriptor:
            return
        self._disconnectSelectable(selectable, why, not raised)

    def _disconnectSelectable(self, selectable: Any, why: Any, isRead: Any, *more: Any) -> None:
        """As Twisted's, which asks each connection whether it knows half-closes: ours do."""
        if not isinstance(selectable, Stream) or (why is not ENDED and why is not BROKEN):
            super()._disconnectSelectable(selectable, why, isRead, *more)
        elif why is ENDED and isRead:
            self.removeReader(selectable)
            selectable.readConnectionLost(DONE)
        else:
            selectable.connectionLost(LOST if why is BROKEN else DONE)  # which takes it out of everything

    def addReader(self, reader: Any) -> None:
        """As `IReactorFDSet.addReader`."""
        descriptor = reader.fileno()
        if descriptor in self._reads:
            return
        if descriptor in self._writes:
            self._poller.modify(descriptor, IN | OUT)
        elif not watch(self._poller, descriptor, IN):
            super().addReader(reader)
            return
        self._reads.add(descriptor)
        self._selectables[descriptor] = reader

    def addWriter(self, writer: Any) -> None:
        """As `IReactorFDSet.addWriter`."""
        descriptor = writer.fileno()
        if descriptor in self._writes:
            return
        if descriptor in self._reads:
            self._poller.modify(descriptor, IN | OUT)
        elif not watch(self._poller, descriptor, OUT):
            super().addWriter(writer)
            return
        self._writes.add(descriptor)
        self._selectables[descriptor] = writer

    def removeReader(self, reader: Any) -> None:
        """As `IReactorFDSet.removeReader`."""
        descriptor = reader.fileno()
        if descriptor not in self._reads:
            if descriptor not in self._writes:
                super().removeReader(reader)
            return
        if descriptor in self._writes:
            self._poller.modify(descriptor, OUT)
        else:
            del self._selectables[descriptor]
            self._poller.unregister(descriptor)
        self._reads.remove(descriptor)

    def removeWriter(self, writer: Any) -> None:
        """As `IReactorFDSet.removeWriter`."""
        descriptor = writer.fileno()
        if descriptor not in self._writes:
            if descriptor not in self._reads:
                super().removeWriter(writer)
            return
        if descriptor in self._reads:
            self._poller.modify(descriptor, IN)
        else:
            del self._selectables[descriptor]
            self._poller.unregister(descriptor)
        self._writes.remove(descriptor)

    def forget(self, descriptor: int) -> None:
        """A socket of which there is no copy is about to be closed: that is all that epoll has to know."""
        self._reads.discard(descriptor)
        self._writes.discard(descriptor)
        self._selectables.pop(descriptor, None)

    def listenTCP(self, port: Any, factory: Any, backlog: Any = 50, interface: Any = "") -> Any:
        """As `IReactorTCP.listenTCP`; `listenSSL` comes here, too."""
        listening = Port(port, factory, backlog, interface, self)
        listening.startListening()
        return listening

    def connectTCP(
        self, host: Any, port: Any, factory: Any, timeout: Any = 30, bindAddress: Any = None
    ) -> Any:
        """As `IReactorTCP.connectTCP`; `connectSSL` comes here, too."""
        connector = Connector(host, port, factory, timeout, bindAddress, self)
        connector.connect()
        return connector

    def listenUNIX(
        self, address: Any, factory: Any, backlog: Any = 50, mode: Any = 0o666, wantPID: Any = 0
    ) -> Any:
        """As `IReactorUNIX.listenUNIX`."""
        listening = UnixPort(address, factory, backlog, mode, self, wantPID)
        listening.startListening()
        return listening

    def connectUNIX(self, address: Any, factory: Any, timeout: Any = 30, checkPID: Any = 0) -> Any:
        """As `IReactorUNIX.connectUNIX`."""
        connector = UnixConnector(address, factory, timeout, self, checkPID)
        connector.connect()
        return connector

    def adoptStreamPort(self, fileDescriptor: Any, addressFamily: Any, factory: Any) -> Any:
        """As `IReactorSocket.adoptStreamPort`."""
        return adopted_port(fileDescriptor, addressFamily, factory, self)

    def adoptStreamConnection(self, fileDescriptor: Any, addressFamily: Any, factory: Any) -> Any:
        """As `IReactorSocket.adoptStreamConnection`."""
        return adopted_connection(fileDescriptor, addressFamily, factory, self)


def install() -> None:
    """Make this the global reactor; before anything imports `twisted.internet.reactor`."""
    main.installReactor(ProxyReactor())
