"""Limits per client: a token bucket on connections or requests, and a cap on open connections.

One `RateLimiter` stands behind each `rate_limit` and `request_limit` of the configuration; made by
`assemble`, asked by gates and by whoever knows a client by another name than its address. They
know `admit` and `request` and nothing else, and both answer at once. So another class can take
its place that shares its counts with other processes, if it does so behind the clients' backs.

Buckets are in bounded memory, see `buckets`; open connections are counted exactly, and are as many
as there are connections.
"""

from __future__ import annotations

from heapq import nlargest
from operator import itemgetter
from typing import Any, Final

from twisted.logger import Logger

from rproxy.errors import RateLimited, TooMany
from rproxy.interfaces import Lease
from rproxy.policy.bucket import TICKS, Allowance, Bucket, Key, ticks
from rproxy.services.buckets import Buckets
from rproxy.services.counts import Counts
from rproxy.watcher import watcher_of

log: Final = Logger(__name__)

QUIET: Final = 10.0
"""Seconds between two log lines about refusals: a flood must not become a flood of lines."""


class RateLimiter:
    """The counts behind one limit; `name` says which in the log."""

    def __init__(self, clock: Any, name: str, allowance: Allowance) -> None:
        self._watcher = watcher_of(clock)
        self.name = name
        self._counts = Counts()
        self._buckets: Buckets | None = None
        self._said_at, self._unsaid = float("-inf"), 0
        self.refused = 0
        """Connections and requests refused since the start."""
        self.change(allowance)

    def change(self, allowance: Allowance) -> None:
        """Go by this from now on; what was taken stays taken."""
        self.allowance = allowance
        self._most_open = allowance.max_connections
        bucket = Bucket(allowance.capacity, allowance.fill_rate)
        if not allowance.capacity:
            self._buckets = None
        elif self._buckets is None:
            self._buckets = Buckets(bucket)
        else:
            self._buckets.bucket = bucket

    @property
    def clients(self) -> int:
        """Clients that are remembered for the tokens they took."""
        return len(self._buckets) if self._buckets is not None else 0

    @property
    def open(self) -> int:
        """Connections that are open now."""
        return sum(self._counts.open.values())

    def busiest(self, most: int) -> list[tuple[Key, int]]:
        """Who has connections open, and how many; at most so many clients, those with the most first."""
        return nlargest(most, self._counts.open.items(), key=itemgetter(1))

    def admit(self, key: Key, lease: Lease) -> None:
        """Let a connection in, and count it until the lease ends, once; who is refused loses no token.

        Raises `TooMany` where the client has too many open, then `RateLimited` where it has no token.
        """
        count = self._counts.open.get(key, 0)  # counted without a cap too: a reload may set one
        if 0 < self._most_open <= count:
            self._note()
            raise TooMany(f"{self.name}: max_connections")
        wait = self.request(key)
        if wait:
            raise RateLimited(self.name, wait)
        self._counts.add(key, count, lease)

    def request(self, key: Key) -> float:
        """Take a token; 0.0, or where there is none the seconds until there is one."""
        if self._buckets is None:
            return 0.0
        wait = self._buckets.take(key, ticks(self._watcher.seconds()))
        if not wait:
            return 0.0
        self._note()
        return wait / TICKS

    def _note(self) -> None:
        self.refused += 1
        self._unsaid += 1
        now = self._watcher.seconds()
        if not 0 <= now - self._said_at < QUIET:
            self._said_at = now
            log.warn("{limit}: {n} refused", limit=self.name, n=self._unsaid)
            self._unsaid = 0
