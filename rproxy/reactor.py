"""Twisted's epoll reactor with a shorter way from event to transport. Chosen by `tap` when nobody chose.

Twisted gives every event a logging context: seven calls before the transport's own. Here an
event is one look-up and one call; what goes wrong is logged with the transport's name all the
same. Everything else is `EPollReactor`'s. `twistd -r epoll rproxy …` leaves it out: that is
the slow twin. Measured by `sni_conn` in bench/, up to a tenth of a short connection.
"""

from __future__ import annotations

import errno
from select import EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT
from typing import Any, Final

from mypy_extensions import mypyc_attr
from twisted.internet import main
from twisted.internet.epollreactor import EPollReactor
from twisted.logger import Logger

from rproxy.transports import Stream

log = Logger(__name__)

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

    def doPoll(self, timeout: float | None) -> None:
        """As `doIteration`, under the name that Twisted's epoll reactor has for it."""
        self.doIteration(timeout)

    def doIteration(self, timeout: float | None) -> None:
        """One turn: wait for events, at most `timeout` seconds, and deliver them."""
        selectables = self._selectables
        try:
            events = self._poller.poll(-1 if timeout is None else timeout, len(selectables) or 1)
        except OSError as problem:
            if problem.errno == errno.EINTR:
                return
            raise
        due = [(selectables.get(descriptor), descriptor, event) for descriptor, event in events]
        for selectable, descriptor, event in due:
            # What an event before this one closed is gone, and its number may be a new connection's by now.
            if selectable is None:
                self._disown(descriptor)
            elif selectables.get(descriptor) is selectable:
                self._deliver(selectable, descriptor, event)

    def _disown(self, descriptor: int) -> None:
        """An event of nobody's: a copy of what was closed is open somewhere, and would tell for ever."""
        try:
            self._poller.unregister(descriptor)
        except OSError:
            log.warn("epoll tells of descriptor {number}, which is closed", number=descriptor)

    def _deliver(self, selectable: Any, descriptor: int, event: int) -> None:
        try:
            if event == IN and isinstance(selectable, Stream):  # nearly all; compiled, it is a C call
                reading, why = True, selectable.doRead()
                if why is None:
                    return
            else:
                reading, why = self._serve(selectable, descriptor, event)
            if why is None or selectable.fileno() != descriptor:
                return  # or it closed itself, and the number may be another's
        except BaseException as mistake:
            log.failure("in {selectable}", selectable=selectable.logPrefix())
            reading, why = False, mistake
        if why:
            self._disconnectSelectable(selectable, why, reading)

    def _serve(self, selectable: Any, descriptor: int, event: int) -> tuple[bool, Any]:
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

    def addReader(self, reader: Any) -> None:
        """As `IReactorFDSet.addReader`."""
        descriptor = reader.fileno()
        if descriptor in self._reads:
            return
        if descriptor in self._writes:
            self._poller.modify(descriptor, IN | OUT)
        elif not self._register(descriptor, IN):
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
        elif not self._register(descriptor, OUT):
            super().addWriter(writer)
            return
        self._writes.add(descriptor)
        self._selectables[descriptor] = writer

    def _register(self, descriptor: int, event: int) -> bool:
        """False for files that epoll cannot watch; those are Twisted's to look at in each turn."""
        try:
            self._poller.register(descriptor, event)
        except PermissionError:
            return False
        return True

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


def install() -> None:
    """Make this the global reactor; before anything imports `twisted.internet.reactor`."""
    main.installReactor(ProxyReactor())
