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
    """SIGHUP calls `hangup`, SIGUSR1 `reopen`, SIGTERM and SIGINT what `hurry_on_second_stop` is given."""

    name = "signals"

    def __init__(
        self, reactor: Any, hangup: Callable[[], object], reopen: Callable[[], object] = lambda: None
    ) -> None:
        self._reactor, self._hangup, self._reopen = reactor, hangup, reopen
        self._before: dict[int, Any] = {}

    def startService(self) -> None:
        """Twisted's call: take SIGHUP."""
        super().startService()
        self._take(signal.SIGHUP, self._hangup)
        if signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL:  # else twistd rotates its own log with it
            self._take(signal.SIGUSR1, self._reopen)

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
