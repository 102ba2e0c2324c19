"""The connections that are alive, so that a stop can wait for them. Filled by `downstream.peek`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from twisted.internet.defer import Deferred


class Alive(Protocol):
    """An accepted connection."""

    @property
    def client_host(self) -> str:
        """The client's address as text, once it is known; empty where there is none."""

    def drain(self) -> None:
        """Begin nothing new; end as soon as what is under way is over."""

    def abort(self, reason: str = "") -> None:
        """Cut it off; its `connectionLost` follows, and a line with this reason if it is a better one."""


class Connections:
    """All live downstream connections of one proxy."""

    def __init__(self) -> None:
        self._alive: set[Alive] = set()
        self._empty: Deferred[bool] | None = None
        self._cut_off = False

    def __len__(self) -> int:
        return len(self._alive)

    def __iter__(self) -> Iterator[Alive]:
        """Those of this moment."""
        return iter(list(self._alive))

    def add(self, connection: Alive) -> None:
        """A connection begins."""
        self._alive.add(connection)

    def discard(self, connection: Alive) -> None:
        """A connection has ended."""
        self._alive.discard(connection)
        if self._empty is not None and not self._alive:
            empty, self._empty = self._empty, None
            empty.callback(True)

    def drain(self, clock: Any, seconds: float) -> Deferred[bool]:
        """Fires when none is left, after `seconds` at the latest; False if some were cut off for it."""
        if not self._alive:
            empty: Deferred[bool] = Deferred()
            empty.callback(True)
            return empty
        drained: Deferred[bool] = Deferred()
        self._empty = drained
        for connection in list(self._alive):
            connection.drain()
        timer: Any = clock.callLater(seconds, self.abort_all)

        def done(clean: bool) -> bool:
            if timer.active():
                timer.cancel()
            return clean and not self._cut_off

        return drained.addCallback(done)

    def abort_all(self) -> None:
        """Cut off every connection."""
        self._cut_off = bool(self._alive)
        for connection in list(self._alive):
            connection.abort()
