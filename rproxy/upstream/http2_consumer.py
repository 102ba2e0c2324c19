"""The half of a tunnel's stand-in for a transport that holds a producer back; inherited by both of them.

Whoever inherits is `http2_tunnel.StreamTransport`, of the client's side or of the peer's: a stream in the
place of a transport. The stream says `full` and `ready`; who writes is the producer.
"""

from __future__ import annotations

from typing import Any

from mypy_extensions import mypyc_attr


@mypyc_attr(allow_interpreted_subclasses=True)
class Consumer:
    """As `IConsumer` has it, of one push producer."""

    _tempDataLen = 0  # as Twisted's transports have it: what waits in the stream is not asked for

    def __init__(self) -> None:
        self._producer: Any = None
        self._is_full = False

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """As `IConsumer.registerProducer`; one that comes while the stream is full waits from the start."""
        self._producer = producer
        if self._is_full:
            producer.pauseProducing()

    def unregisterProducer(self) -> None:
        """As `IConsumer.unregisterProducer`."""
        self._producer = None

    def full(self) -> None:
        """The stream's call: it holds as much as it may, its other end is slower than this one."""
        self._is_full = True
        if self._producer is not None:
            self._producer.pauseProducing()

    def ready(self) -> None:
        """The stream's call: it takes more."""
        self._is_full = False
        if self._producer is not None:
            self._producer.resumeProducing()
