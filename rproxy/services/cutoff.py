"""Closes the connections of clients that are banned while they are connected. Called by `bans`.

The live connections themselves are the index: they are asked for their clients when somebody is banned, which
is seldom, so that nothing has to be kept up to date when they come and go, which is often.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any, Final, Protocol

from twisted.logger import Logger

from rproxy.errors import Banned

log = Logger()

SLICE: Final = 500
"""Connections that are asked in one turn of the event loop: half a millisecond."""


class Held(Protocol):
    """An accepted connection, see `downstream.peek`."""

    @property
    def client_host(self) -> str:
        """The client's address as text, once it is known; empty where there is none."""

    def abort(self, reason: str) -> None:
        """Cut it off, and write this down."""


class CutOff:
    """Goes through the live connections. `alive` gives them, `banned` tells of an address."""

    def __init__(
        self, reactor: Any, alive: Callable[[], Iterable[Held]], banned: Callable[[str], bool]
    ) -> None:
        self._reactor, self._alive, self._banned = reactor, alive, banned
        self._waiting: list[Held] = []
        self._again = self._going = False

    def soon(self) -> None:
        """Somebody may be banned now who was not: look, from the next turn on; once for many bans."""
        self._again = True
        if not self._going:
            self._going = True
            self._reactor.callLater(0, self._look)

    def _look(self) -> None:
        if not self._waiting:
            self._again, self._waiting = False, list(self._alive())
        asked, self._waiting = self._waiting[-SLICE:], self._waiting[:-SLICE]
        cut = self._cut(asked)
        if cut:
            log.info("{n} connections of banned clients were closed", n=cut)
        self._going = bool(self._waiting) or self._again
        if self._going:
            self._reactor.callLater(0, self._look)

    def _cut(self, asked: Collection[Held]) -> int:
        cut = 0
        for connection in asked:
            host = connection.client_host
            if host and self._banned(host):
                connection.abort(Banned.reason)
                cut += 1
        return cut
