"""Twisted's epoll reactor with a shorter way from event to transport. Chosen by `tap` when nobody chose.

Twisted gives every event a logging context: seven calls before the transport's own. Here an
event is one look-up and one call; what goes wrong is logged with the transport's name all the
same. Everything else is `EPollReactor`'s. `twistd -r epoll rproxy …` leaves it out: that is
the slow twin. Measured by `sni_conn` in bench/, up to a tenth of a short connection.
"""

from __future__ import annotations

import errno
from select import EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT
from typing import Any

from twisted.internet import main
from twisted.internet.epollreactor import EPollReactor
from twisted.logger import Logger

log = Logger()

HUNG_UP = EPOLLHUP | EPOLLERR


class ProxyReactor(EPollReactor):
    """An epoll reactor for many short events."""

    _poller: Any
    _selectables: dict[int, Any]
    _reads: set[int]

    def doPoll(self, timeout: float | None) -> None:
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
            if selectable is not None and selectables.get(descriptor) is selectable:
                self._deliver(selectable, descriptor, event)

    doIteration = doPoll

    def _deliver(self, selectable: Any, descriptor: int, event: int) -> None:
        reading = False
        try:
            if event & HUNG_UP and not event & EPOLLIN:
                reading = descriptor in self._reads
                why: Any = main.CONNECTION_DONE if reading else main.CONNECTION_LOST
            else:
                why = None
                if event & EPOLLIN:
                    why, reading = selectable.doRead(), True
                if event & EPOLLOUT and not why and selectable.fileno() == descriptor:
                    why, reading = selectable.doWrite(), False
                if why is None:
                    return
                if selectable.fileno() != descriptor:  # closed itself, and the number may be another's
                    return
        except BaseException as mistake:
            log.failure("in {selectable}", selectable=selectable.logPrefix())
            why = mistake
        if why:
            self._disconnectSelectable(selectable, why, reading)


def install() -> None:
    """Make this the global reactor; before anything imports `twisted.internet.reactor`."""
    main.installReactor(ProxyReactor())
