"""The connection log: one line per connection, written in batches.

Everything a client can choose is escaped, so that a line stays one line; so are the names in the
configuration, in which there may be spaces, so that a line can be taken apart.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

from twisted.logger import Logger

from rproxy.interfaces import Arrival
from rproxy.native.lines import connection_line
from rproxy.services.lines import BATCH as BATCH
from rproxy.services.lines import FLUSH_EVERY as FLUSH_EVERY
from rproxy.services.lines import LineBatch
from rproxy.services.lines import Sink as Sink
from rproxy.services.lines import to_descriptor as to_descriptor
from rproxy.watcher import watcher_of
from rproxy.wire.address import Inet

log: Final = Logger(__name__)

MOST_SHOWN: Final = 256
"""Bytes of an unusable name that are written: a real one has 253, a hello has room for 60,000."""

MOST_KEPT: Final = 1024
"""Names of apps and peers kept as they are written."""

_fast: Final = connection_line
_UNSAFE: Final = re.compile(r"[^!#-\[\]-~]")


class ConnectionLog:
    """Implements `interfaces.Journal`."""

    def __init__(self, reactor: Any, sink: Sink) -> None:
        self._watcher = watcher_of(reactor)
        self._batch = LineBatch(reactor, sink, "the connection log", log)
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
        self.write(arrival, "", app, peer, received, sent, seconds, reason)

    def write(
        self,
        arrival: Arrival,
        user: str,
        app: str,
        peer: str,
        received: int,
        sent: int,
        seconds: float,
        reason: str,
    ) -> None:
        """The line of a connection; `user` stands behind the client, escaped and with its name."""
        client, stamp, name = arrival.client, self._now(), _name(arrival)
        if isinstance(client, Inet):
            host, port = client[0], client[1]
        else:
            host, port = escaped(str(client)), -1
        app, peer = kept(app), kept(peer)
        line = _fast(stamp, host, port, user, name, app, peer, received, sent, seconds, reason)
        if line is None:
            line = _line(stamp, host, port, user, name, app, peer, received, sent, seconds, reason)
        self._batch.add(line)

    def flush(self) -> None:
        """Hand the waiting lines to the sink."""
        self._batch.flush()

    def _now(self) -> str:
        second = int(self._watcher.seconds())
        if second != self._second:
            self._second = second
            self._stamp = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return self._stamp


def _line(
    stamp: str,
    host: str,
    port: int,
    user: str,
    name: str,
    app: str,
    peer: str,
    received: int,
    sent: int,
    seconds: float,
    reason: str,
) -> str:
    """What `native.lines` writes where it is compiled; a clock that was set back makes `seconds` nothing."""
    client = host if port < 0 else str(Inet(host, port))
    count = int(max(0.0, seconds) * 1000.0 + 0.5)
    return (
        f"{stamp} client={client}{user} name={name} app={app} peer={peer} received={received} sent={sent} "
        f"seconds={count // 1000}.{count % 1000:03d} reason={reason}\n"
    )


def _name(arrival: Arrival) -> str:
    hello = arrival.hello
    if hello is None:
        return "-"
    return hello.server_name or escaped(hello.unusable_name[:MOST_SHOWN].decode("latin-1")) or "-"


def escaped(text: str) -> str:
    """Text that a client chose as one printable ASCII word: no space, quote, backslash, control byte."""
    return _UNSAFE.sub(_hex, text)


def _hex(found: re.Match[str]) -> str:
    return f"\\x{ord(found.group()):02x}"


kept: Final[Callable[[str], str]] = lru_cache(MOST_KEPT)(escaped)
"""The same for names that come again and again."""
