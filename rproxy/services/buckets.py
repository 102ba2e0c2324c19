"""The token buckets of many clients, in bounded memory whoever comes. Used by `ratelimits` and `jails`.

A client whose bucket is full needs no memory and is forgotten. Where more clients than `MOST` have
buckets that are not full, the rest share buckets by a salted hash of their key: whoever shares has
less than his due, and nobody, however many come, gets back a token that was taken.
"""

from __future__ import annotations

from array import array
from typing import Any, Final

from rproxy.policy.bucket import EMPTY, TICKS, Bucket, Key

MOST: Final = 65536
"""Clients that have buckets of their own: 12 MB at worst, and more than come at once to one machine."""
SHARED: Final = 65536
"""Buckets for all others together, a power of 2: half a megabyte, and of a million clients 15 share one."""
FEWEST: Final = 1024
"""Clients below which nobody looks for buckets that are full again."""
SWEEP_EVERY: Final = TICKS
"""Ticks between two looks through a table that stays full: each costs ten milliseconds."""


class Buckets:
    """Buckets of one size, by client."""

    def __init__(self, bucket: Bucket, *, most: int = MOST, shared: int = SHARED) -> None:
        self.bucket = bucket
        """May be replaced; what was taken stays taken."""
        self._most, self._places = most, shared
        self._full_at: dict[Key, int] = {}
        self._shared: Any = None
        self._sweep_at, self._swept = min(most, FEWEST), 0

    def __len__(self) -> int:
        """Clients that are remembered."""
        return len(self._full_at)

    def take(self, key: Key, now: int) -> int:
        """Take a token; 0, or where there is none the ticks until there is one."""
        bucket = self.bucket
        full_at = self._full_at.get(key)
        if full_at is None:
            return self._first(bucket, key, now)
        after = bucket.take(full_at, now)
        if after == EMPTY:
            self._full_at[key] = full_at = bucket.forgiven(full_at, now)
            return bucket.wait(full_at, now)
        self._full_at[key] = after
        return 0

    def _first(self, bucket: Bucket, key: Key, now: int) -> int:
        """The same for who has no bucket: a new one, and no fuller than the one that may have been shared."""
        place = hash(key) & (self._places - 1)
        full_at: int = self._shared[place] if self._shared is not None else 0
        after = bucket.take(full_at, now)
        if after == EMPTY:
            self._shared[place] = full_at = bucket.forgiven(full_at, now)
            return bucket.wait(full_at, now)
        if len(self._full_at) >= self._sweep_at:
            self._sweep(now)
        if len(self._full_at) < self._most:
            self._full_at[key] = after
            return 0
        if self._shared is None:
            self._shared = array("q", bytes(8 * self._places))
        self._shared[place] = after
        return 0

    def _sweep(self, now: int) -> None:
        """Forget whose bucket is full again; the next look waits until the table has doubled."""
        if self._sweep_at == self._most and 0 <= now - self._swept < SWEEP_EVERY:
            return
        self._swept, most = now, now + self.bucket.depth  # more only where the clock was set back
        self._full_at = {key: min(full_at, most) for key, full_at in self._full_at.items() if full_at > now}
        self._sweep_at = min(self._most, max(FEWEST, 2 * len(self._full_at)))
