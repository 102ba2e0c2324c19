"""A client that sends requests at a fixed rate and says how long each took to be answered.

One process, plain sockets, a few hundred requests per second. Time counts from the moment at which
a request was meant to leave, not from when it could: what stands behind a stalled answer waits in
the measurement as it would in life. (A client that sends the next request only after an answer
leaves those out, and a proxy that stops for a second then shows one slow request instead of
hundreds.) cases.py runs it.
"""

from __future__ import annotations

import gc
import re
import selectors
import socket
import time
from collections import deque
from typing import NamedTuple

from figures import Trouble

RATE = 500
"""Requests per second: what this client keeps with a few per cent of a core, so that it hardly disturbs
what it measures; for the proxies it is a light load, far from where requests queue."""

LANES = 32
"""Kept-alive connections: at this rate one is free unless answers take longer than 64 ms."""

PATIENCE = 5.0
"""Seconds that the last answers may take."""

LARGEST = 1 << 20
"""Bytes of an answer, head and body: the backend sends some two hundred."""


class Outcome(NamedTuple):
    """Seconds from meant to be sent until answered, and how late the client itself was in sending."""

    latencies: list[float]
    lateness: list[float]


class Plan:
    """When requests are meant to leave: `count` of them from `start` on, `rate` in a second."""

    def __init__(self, start: float, rate: float, count: int) -> None:
        self._start, self._rate, self._count, self._next = start, rate, count, 0

    @property
    def next(self) -> float | None:
        """When the next one is meant to leave; None after the last."""
        return self._start + self._next / self._rate if self._next < self._count else None

    def due(self, now: float) -> list[float]:
        """The times that have come since the last call. None is left out, however late the call is."""
        found = []
        while (meant := self.next) is not None and meant <= now:
            found.append(meant)
            self._next += 1
        return found


class Lane:
    """A kept-alive connection with at most one request under way."""

    def __init__(self, connection: socket.socket, request: bytes) -> None:
        self.connection, self._request = connection, request
        self._meant, self._answer = 0.0, b""

    def send(self, meant: float) -> None:
        """Send the request that was meant to leave at `meant`."""
        self._meant, self._answer = meant, b""
        self.connection.sendall(self._request)

    def receive(self, now: float) -> float | None:
        """Read what has come. The seconds since the request was meant to leave, once all is here."""
        came = self.connection.recv(65536)
        if not came:
            raise Trouble("a kept-alive connection was closed")
        self._answer += came
        return now - self._meant if whole(self._answer) else None


def whole(answer: bytes) -> bool:
    """Whether this is all of a 200 with a Content-Length. Raises `Trouble` for another answer."""
    if len(answer) > LARGEST:
        raise Trouble("an answer without end")
    head, end, body = answer.partition(b"\r\n\r\n")
    if not end:
        return False
    length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.I)
    if not re.match(rb"HTTP/1\.1 200 ", head) or length is None:
        raise Trouble(f"answered {head.splitlines()[0].decode('latin-1')!r}")
    return len(body) >= int(length[1])


def paced(port: int, seconds: float, rate: float = RATE) -> Outcome:
    """`rate` x `seconds` requests to localhost at that port. Raises `Trouble` if one is not answered well."""
    request = f"GET / HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n".encode()
    lanes: list[Lane] = []
    gc.collect()
    gc.disable()  # a pause of ours must not look like one of the proxy's
    try:
        for _ in range(LANES):
            lanes.append(_opened(port, request))
        return _Pacer(lanes, rate, int(rate * seconds)).run()
    except OSError as problem:
        raise Trouble(f"the client's connection: {problem}")
    finally:
        gc.enable()
        for lane in lanes:
            lane.connection.close()


def _opened(port: int, request: bytes) -> Lane:
    """A connection that has been used once, so that no measured request pays for opening it."""
    lane = Lane(socket.create_connection(("127.0.0.1", port), PATIENCE), request)
    lane.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    lane.send(0.0)
    while lane.receive(0.0) is None:
        pass
    return lane


class _Pacer:
    """One run: sends by the plan, on the lane that has been free longest; waits for a lane where none is."""

    def __init__(self, lanes: list[Lane], rate: float, count: int) -> None:
        self._plan, self._count = Plan(time.perf_counter() + 0.01, rate, count), count
        self._latest = time.perf_counter() + count / rate + PATIENCE
        self._free, self._waiting = deque(lanes), deque[float]()
        self._latencies: list[float] = []
        self._lateness: list[float] = []
        # Not the default selector: the time-outs of epoll are whole milliseconds, those of select are not.
        self._selector = selectors.SelectSelector()
        for lane in lanes:
            self._selector.register(lane.connection, selectors.EVENT_READ, lane)

    def run(self) -> Outcome:
        """Until all are answered."""
        with self._selector:
            while (missing := self._count - len(self._latencies)) > 0:
                if (now := time.perf_counter()) > self._latest:
                    raise Trouble(f"{missing} of {self._count} requests were not answered")
                self._send(now)
                self._collect()
        return Outcome(self._latencies, self._lateness)

    def _send(self, now: float) -> None:
        """What is due. Late for want of a lane is the proxy's doing, late with a free lane is ours."""
        due = self._plan.due(now)
        self._lateness += [now - meant for meant in due[: max(0, len(self._free) - len(self._waiting))]]
        self._waiting.extend(due)
        while self._waiting and self._free:
            lane = self._free.popleft()
            lane.send(self._waiting.popleft())

    def _collect(self) -> None:
        """The answers that come until the next request is due."""
        following = self._plan.next
        pause = PATIENCE if following is None else max(0.0, following - time.perf_counter())
        for key, _ in self._selector.select(pause):
            lane: Lane = key.data
            latency = lane.receive(time.perf_counter())
            if latency is not None:
                self._latencies.append(latency)
                self._free.append(lane)
