"""Time-outs by the thousand: kept by `downstream.peek` and `relay` for every connection.

A connection's time-outs are long and almost never expire, so what matters is the price of
setting and dropping one: a dictionary entry here, a heap entry and half a kilobyte in the
reactor. They are kept in buckets of a quarter of a second, with one reactor timer for all;
a time-out is late by up to two buckets, never early. Measured by `sni_conn` in bench/.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.logger import Logger

from rproxy.watcher import watcher_of

log: Final = Logger(__name__)

TICK: Final = 0.25
"""Seconds per bucket."""
PRECISE: Final = 2.0
"""Seconds below which lateness would matter: those get a reactor timer of their own."""

Expire = Callable[[], object]


class Deadline:
    """A time-out that was set."""

    def drop(self) -> None:
        """It is not wanted any more; once it has expired this does nothing."""
        raise NotImplementedError


class Deadlines:
    """All time-outs of one proxy. `clock` is the reactor, or a `task.Clock`."""

    def __init__(self, clock: Any) -> None:
        self._clock, self._watcher = clock, watcher_of(clock)
        self._buckets: dict[int, dict[int, Expire]] = {}
        self._number = 0
        self._ticking = False

    def after(self, seconds: float, expire: Expire) -> Deadline:
        """Call `expire` when `seconds` have passed, unless what this returns is dropped first."""
        if seconds < PRECISE:
            return _Timer(self._clock.callLater(seconds, expire))
        due = int((self._watcher.seconds() + seconds) / TICK) + 1
        bucket = self._buckets.get(due)
        if bucket is None:
            bucket = self._buckets[due] = {}
            self._keep_ticking()
        self._number = number = self._number + 1
        bucket[number] = expire
        return _Entry(bucket, number)

    def _keep_ticking(self) -> None:
        if self._buckets and not self._ticking:
            self._ticking = True
            self._clock.callLater(TICK, self._tick)

    def _tick(self) -> None:
        self._ticking = False
        now = int(self._watcher.seconds() / TICK)
        for due in sorted(self._buckets):
            if due <= now:
                self._expire(self._buckets.pop(due))
            elif not self._buckets[due]:
                del self._buckets[due]
        self._keep_ticking()

    def _expire(self, bucket: dict[int, Expire]) -> None:
        for number in list(bucket):
            expire = bucket.pop(number, None)
            if expire is None:  # one before it has dropped it
                continue
            try:
                expire()
            except Exception:  # a mistake in one connection must not keep the others for ever
                log.failure("a time-out failed")


class _Entry(Deadline):
    def __init__(self, bucket: dict[int, Expire], number: int) -> None:
        self._bucket, self._number = bucket, number

    def drop(self) -> None:
        bucket, number = self._bucket, self._number
        if number in bucket:
            del bucket[number]


class _Timer(Deadline):
    def __init__(self, call: Any) -> None:
        self._call = call

    def drop(self) -> None:
        if self._call.active():
            self._call.cancel()
