"""The connection log: one line per connection, written in batches.

Lines do not go through `twisted.logger`, which would cost a tenth of a short connection. They
go to a `sink`: a function that takes bytes and may not block for long. Everything a client
can choose is escaped, so that a line stays one line.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from twisted.logger import Logger

from rproxy.interfaces import Arrival
from rproxy.wire.address import Address, Inet

log = Logger()

FLUSH_EVERY = 0.1
"""Seconds that a line waits for company: a write for each costs more than the line."""
BATCH = 500
"""Lines that do not wait any longer: about 64 KiB."""

Sink = Callable[[bytes], object]

_UNSAFE = re.compile(r"[^!#-\[\]-~]")


class ConnectionLog:
    """Implements `interfaces.Journal`."""

    def __init__(self, reactor: Any, sink: Sink) -> None:
        self._reactor, self._sink = reactor, sink
        self._lines: list[str] = []
        self._timer: Any = None
        self._lost = 0
        self._second, self._stamp = -1, ""

    def ended(
        self,
        arrival: Arrival,
        *,
        app: str,
        peer: str,
        received: int,
        sent: int,
        seconds: float,
        reason: str,
    ) -> None:
        """Write a connection down; the line leaves with others, soon."""
        lines = self._lines
        lines.append(
            f"{self._now()} client={_client(arrival.client)} name={_name(arrival)} app={app} peer={peer}"
            f" received={received} sent={sent} seconds={seconds:.3f} reason={reason}\n"
        )

        if len(lines) >= BATCH:
            self.flush()
        elif self._timer is None:
            self._timer = self._reactor.callLater(FLUSH_EVERY, self.flush)

    def flush(self) -> None:
        """Hand the waiting lines to the sink."""
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()
        lines, self._lines = self._lines, []
        if not lines:
            return
        try:
            self._sink("".join(lines).encode("ascii", "backslashreplace"))
        except OSError as problem:  # a full disk must not cost a connection, nor a log line for each
            if not self._lost:
                log.error("the connection log cannot be written: {why}", why=problem.strerror)
            self._lost += len(lines)
        else:
            if self._lost:
                log.info("the connection log is written again; {n} lines are lost", n=self._lost)
            self._lost = 0

    def _now(self) -> str:
        second = int(self._reactor.seconds())
        if second != self._second:
            self._second = second
            self._stamp = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return self._stamp


def _client(client: Address) -> str:
    return str(client) if isinstance(client, Inet) else escaped(str(client))


def _name(arrival: Arrival) -> str:
    hello = arrival.hello
    if hello is None:
        return "-"
    return hello.server_name or escaped(hello.unusable_name.decode("latin-1")) or "-"


def escaped(text: str) -> str:
    """Text that a client chose as one printable ASCII word: no space, quote, backslash, control byte."""
    return _UNSAFE.sub(lambda found: f"\\x{ord(found.group()):02x}", text)


def to_descriptor(number: int) -> Sink:
    """A sink that writes to an open file descriptor."""

    def write(lines: bytes) -> None:
        while lines:
            lines = lines[os.write(number, lines) :]

    return write
