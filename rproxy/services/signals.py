"""What signals mean to the running proxy. Owned by `assemble`; does nothing outside the main thread.

A handler only passes the word to the reactor's own turn: a signal may arrive between any two
instructions. SIGTERM and SIGINT are the reactor's: it stops the services, which drain; here only
the second one is added, which ends the drain at once.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Any

from twisted.application.service import Service


class Signals(Service):
    """SIGHUP calls `hangup`; `hurry_on_second_stop` makes the next SIGTERM or SIGINT call its argument."""

    name = "signals"

    def __init__(self, reactor: Any, hangup: Callable[[], object]) -> None:
        self._reactor, self._hangup = reactor, hangup
        self._before: dict[int, Any] = {}

    def startService(self) -> None:
        """Twisted's call: take SIGHUP."""
        super().startService()
        self._take(signal.SIGHUP, self._hangup)

    def stopService(self) -> None:
        """Twisted's call: give every signal back."""
        super().stopService()
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, handler)

    def hurry_on_second_stop(self, hurry: Callable[[], object]) -> None:
        """The stop has begun: whoever asks again does not want to wait."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._take(number, hurry)

    def _take(self, number: int, then: Callable[[], object]) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        before = signal.signal(number, lambda *_: self._reactor.callFromThread(then))
        self._before.setdefault(number, before if before is not None else signal.SIG_DFL)
