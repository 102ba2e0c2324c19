"""Twisted's epoll reactor with a shorter way from event to transport. Chosen by `tap` when nobody chose.

Twisted gives every event a logging context: seven calls before the transport's own. Here an
event is one look-up and one call, made in C (see `native.events`); what goes wrong is logged with the
transport's name all the same. The main loop looks once in a turn for calls that are due, Twisted's
twice. Everything else is `EPollReactor`'s. `twistd -r epoll rproxy …` leaves it out: that is the slow
twin. Measured by `sni_conn` and `h1` in bench/.
"""

from __future__ import annotations

from collections.abc import Callable
from select import EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT
from typing import Any, Final

from mypy_extensions import mypyc_attr
from twisted.internet import main
from twisted.internet.epollreactor import EPollReactor
from twisted.internet.error import ConnectionFdescWentAway
from twisted.logger import Logger
from twisted.python.failure import Failure

from rproxy.dialling import Connector, UnixConnector
from rproxy.native import events
from rproxy.ports import Port, UnixPort, adopted_connection, adopted_port
from rproxy.transports import DONE, Stream
from rproxy.transports import END as ENDED
from rproxy.transports import LOST as BROKEN
from rproxy.watcher import Watcher

log: Final = Logger(__name__)

LOST: Final = Failure(main.CONNECTION_LOST)
GONE: Final = ConnectionFdescWentAway("Filedescriptor went away")
IN: Final[int] = EPOLLIN
OUT: Final[int] = EPOLLOUT
BOTH: Final[int] = EPOLLIN | EPOLLOUT
HUNG_UP: Final[int] = EPOLLHUP | EPOLLERR
LONGEST: Final = 86400.0
"""Seconds of a wait, at most; epoll's own limit is further away."""
CANCELLED: Final = 50
"""Cancelled calls that Twisted keeps in its queue before it looks whether they are half of it."""
_forget: Final = events.forget
_now: Final[Callable[[], float]] = events.now


class Loop(Watcher):
    """The work of a reactor, on its own tables: a compiled class finds what it needs at once."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self.poller: Any = reactor._poller
        self._number: int = reactor._poller.fileno()
        self._selectables: dict[int, Any] = reactor._selectables
        self._reads: set[int] = reactor._reads
        self._writes: set[int] = reactor._writes
        self._state: dict[str, Any] = reactor.__dict__
        self._serves = _read, self._serve, self._disown, self._failed
        # Of `native.events`; what stands for an epoll object in a test is asked by others.
        self.turns: Callable[..., None] = events.turn
        self.adds: Callable[..., bool] = events.add
        self.removes: Callable[..., bool] = events.remove

    def run(self) -> None:
        """Turns, for as long as the reactor runs; what raises is raised."""
        reactor = self._reactor
        while reactor._started:
            self.turn(self._wait())

    def _wait(self) -> float:
        """Do what is due by now and is no event, and give the seconds until there is more.

        Twisted's own methods look for it twice in every turn, which costs as much as half a request; they are
        asked when there is something.
        """
        state, wait = self._state, LONGEST
        if not (state["threadCallQueue"] or state["_newTimedCalls"] or state["_justStopped"]):
            calls: list[Any] = state["_pendingTimedCalls"]
            cancelled: int = state["_cancellations"]
            if cancelled <= CANCELLED or cancelled <= len(calls) >> 1:
                if calls:
                    wait = min(wait, calls[0].time - _now())
                if wait > 0:
                    return wait if state["running"] else 0.0
        reactor = self._reactor
        reactor.runUntilCurrent()
        until = reactor.timeout()
        if not reactor.running:
            return 0.0
        return LONGEST if until is None else min(until, LONGEST)

    def turn(self, wait: float) -> None:
        """Wait for events, at most so many seconds (below 0: for ever), and deliver them."""
        read, serve, disown, failed = self._serves
        self.turns(self.poller, self._number, wait, self._selectables, Stream, read, serve, disown, failed)

    def _disown(self, descriptor: int) -> None:
        """An event of nobody's: a copy of what was closed is open somewhere, and would tell for ever."""
        try:
            self.poller.unregister(descriptor)
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
            self._disconnect(selectable, why, reading)

    def _tell(self, selectable: Any, descriptor: int, event: int) -> tuple[bool, Any]:
        """Whether it was about reading, and why the connection is lost, if it is."""
        if event & HUNG_UP and not event & IN:
            reading = descriptor in self._reads
            return reading, ENDED if reading else BROKEN
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
        self._disconnect(selectable, why, not raised)

    def _disconnect(self, selectable: Any, why: Any, reading: bool) -> None:
        """As Twisted's, which asks each connection whether it knows half-closes: ours do."""
        if not isinstance(selectable, Stream) or (why is not ENDED and why is not BROKEN):
            self._reactor._disconnectSelectable(selectable, why, reading)
        elif why is ENDED and reading:
            selectable.stopReading()
            selectable.readConnectionLost(DONE)
        else:
            selectable.connectionLost(LOST if why is BROKEN else DONE)  # which takes it out of everything

    def seconds(self) -> float:
        """See `Watcher`; so for the others."""
        return _now()

    def add_reader(self, number: int, reader: Any) -> bool:  # noqa: D102
        return self.adds(
            self.poller,
            self._number,
            self._reads,
            self._writes,
            self._selectables,
            number,
            reader,
            IN,
            BOTH,
        )

    def add_writer(self, number: int, writer: Any) -> bool:  # noqa: D102
        return self.adds(
            self.poller,
            self._number,
            self._writes,
            self._reads,
            self._selectables,
            number,
            writer,
            OUT,
            BOTH,
        )

    def remove_reader(self, number: int, reader: Any) -> bool:  # noqa: D102
        return self.removes(
            self.poller, self._number, self._reads, self._writes, self._selectables, number, OUT
        )

    def remove_writer(self, number: int, writer: Any) -> bool:  # noqa: D102
        return self.removes(
            self.poller, self._number, self._writes, self._reads, self._selectables, number, IN
        )

    def forget(self, number: int, selectable: Any) -> None:
        """See `Watcher`; closing it is all that epoll has to know."""
        _forget(self._reads, self._writes, self._selectables, number)


def _read(stream: Stream) -> Any:
    """`doRead`, found at once."""
    return stream.doRead()


@mypyc_attr(native_class=False)
class ProxyReactor(EPollReactor):
    """An epoll reactor for many short events."""

    watcher: Loop
    """For streams, which spare the way through the methods below."""

    def installWaker(self) -> None:
        """Twisted's call, before anything else is watched, and once its own tables are there."""
        self.watcher = Loop(self)
        super().installWaker()

    def mainLoop(self) -> None:
        """Twisted's call, from `run`: returns when the reactor has stopped."""
        while self._started:
            try:
                self.watcher.run()
            except BaseException:  # as Twisted's
                log.failure("Unexpected error in main loop")
        log.info("Main loop terminated.")

    def doPoll(self, timeout: float | None) -> None:
        """As `doIteration`, under the name that Twisted's epoll reactor has for it."""
        self.doIteration(timeout)

    def doIteration(self, timeout: float | None) -> None:
        """One turn: wait for events, at most `timeout` seconds, and deliver them."""
        self.watcher.turn(-1.0 if timeout is None else timeout)

    def addReader(self, reader: Any) -> None:
        """As `IReactorFDSet.addReader`."""
        if not self.watcher.add_reader(reader.fileno(), reader):
            super().addReader(reader)

    def addWriter(self, writer: Any) -> None:
        """As `IReactorFDSet.addWriter`."""
        if not self.watcher.add_writer(writer.fileno(), writer):
            super().addWriter(writer)

    def removeReader(self, reader: Any) -> None:
        """As `IReactorFDSet.removeReader`."""
        if not self.watcher.remove_reader(reader.fileno(), reader):
            super().removeReader(reader)

    def removeWriter(self, writer: Any) -> None:
        """As `IReactorFDSet.removeWriter`."""
        if not self.watcher.remove_writer(writer.fileno(), writer):
            super().removeWriter(writer)

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
