"""Token buckets: how often somebody may do something. Asked by `services.ratelimits`; `now` is an argument.

A bucket is one number, the moment at which it will be full again, so that a client who has not been
seen for long is the same as one who was never seen. Moments are whole microseconds: sums of them are
exact, which those of seconds as float are not, and a bucket that is used for years does not drift.
"""

from __future__ import annotations

import socket
from typing import Final, NamedTuple

TICKS: Final = 1_000_000
"""Units per second; finer than the clocks that are read."""
EMPTY: Final = -1
"""What `Bucket.take` gives when there is no token."""
Key = str | bytes
"""Whom a limit counts: an identity, IPv4 text, or the first eight bytes of an IPv6 address."""


class Allowance(NamedTuple):
    """What one client may do: a burst of `capacity`, then one per `fill_rate` seconds; so many at once."""

    capacity: int = 0
    """Tokens of a full bucket; 0: there is no bucket, nothing is counted over time."""
    fill_rate: float = 1.0
    """Seconds until one token is added, a microsecond at least."""
    max_connections: int = 0
    """Connections that may be open; 0: any number."""


class Bucket:
    """A size and a speed. `full_at` is a client's state: 0, or any moment in the past, is a full bucket."""

    __slots__ = ("depth", "interval")

    def __init__(self, capacity: int, fill_rate: float) -> None:
        self.interval = max(1, round(fill_rate * TICKS))
        """Ticks until one token is added."""
        self.depth = capacity * self.interval
        """Ticks until an empty bucket is full."""

    def take(self, full_at: int, now: int) -> int:
        """`full_at` once a token was taken; `EMPTY` if there is none, and then nothing has changed."""
        after = (full_at if full_at > now else now) + self.interval
        return after if after - now <= self.depth else EMPTY

    def wait(self, full_at: int, now: int) -> int:
        """Ticks until there is a token; 0 if there is one."""
        return max(0, full_at - now + self.interval - self.depth)

    def forgiven(self, full_at: int, now: int) -> int:
        """`full_at`, and not more than an empty bucket: a clock that was set back must lock nobody out."""
        return min(full_at, now + self.depth)


def ticks(seconds: float) -> int:
    """A moment as buckets count, rounded: 0.3 seconds in steps of 0.1 are 0.3 seconds."""
    return int(seconds * TICKS + 0.5)


def client_key(host: str) -> Key:
    """Whom an address stands for: itself, or the /64 of an IPv6 address, which is what one client gets.

    Raises OSError for IPv6 that is malformed; a zone does not matter.
    """
    if ":" not in host:
        return host
    return socket.inet_pton(socket.AF_INET6, host.partition("%")[0])[:8]
