"""How many connections each client has open: exactly, and no more clients than connections.

Used by `limits`, for clients of the whole proxy, and by `ratelimits`, for those behind one limit.
"""

from __future__ import annotations

from rproxy.interfaces import Lease, Ticket
from rproxy.policy.bucket import Key


class Counts:
    """Open connections by client."""

    def __init__(self) -> None:
        self.open: dict[Key, int] = {}

    def add(self, key: Key, count: int, lease: Lease) -> None:
        """One more than `count`, which the client has open now, until the lease ends."""
        self.open[key] = count + 1
        lease.add(_Place(self, key))

    def leave(self, key: Key) -> None:
        """One less."""
        count = self.open[key] - 1
        if count:
            self.open[key] = count
        else:
            del self.open[key]


class _Place(Ticket):
    def __init__(self, counts: Counts, key: Key) -> None:
        self._counts, self._key = counts, key

    def give_back(self) -> None:
        self._counts.leave(self._key)
