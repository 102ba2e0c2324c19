"""Whether an HTTP/2 peer that says nothing is still there. One `Silence` per `http2_client.Http2Client`."""

from __future__ import annotations

from typing import Final

PING_AFTER: Final = 20.0
"""Seconds without a byte from a peer that is waited for, after which it is asked whether it is there: many
clients would wait for one that has gone without a word, each until its own time is over."""
PONG_WITHIN: Final = 10.0
"""Seconds within which it has to answer."""
PING_AGAIN: Final = 310.0
"""Seconds between such questions while nothing else comes from the peer: servers of gRPC forgive one or two
that follow sooner than after five minutes, then they end the connection."""
MOST_PINGS: Final = 2
"""Questions that may follow sooner, the second one only if something was asked since."""


class Silence:
    """What has been heard from a peer and when. All times are in seconds, from one clock."""

    __slots__ = ("_asked_at", "_heard_at", "_pinged_at", "_pings")

    def __init__(self, now: float) -> None:
        self._heard_at = self._asked_at = now
        self._pinged_at = -1.0
        self._pings = 0

    def asked(self, now: float) -> None:
        """A request was sent."""
        if self._asked_at <= self._heard_at:
            self._asked_at = now

    def heard(self, now: float) -> None:
        """Bytes have come."""
        self._heard_at, self._pinged_at = now, -1.0

    def has_news(self) -> None:
        """They were more than the answer to our question."""
        self._pings = 0

    def is_final(self, now: float) -> bool:
        """Whether the peer was asked whether it is there, and has had the time to answer."""
        return 0 <= self._pinged_at <= now - PONG_WITHIN

    def wants_ping(self, now: float) -> bool:
        """Whether it is time to ask; then that is what has been done."""
        if self._pinged_at >= 0 or now - max(self._heard_at, self._asked_at) < PING_AFTER:
            return False
        asked_since = self._asked_at > self._heard_at and self._pings < MOST_PINGS
        if self._pings and not asked_since and now - self._heard_at < PING_AGAIN:
            return False
        self._pinged_at, self._pings = now, self._pings + 1
        return True
