"""Whose turn it is to send on an HTTP/2 connection. One `Turns` for each `http2_server.Http2Server`.

Streams that have something to send stand in one line. Who is at the front sends a frame and goes to the end;
who has no window of its own steps out until it has. When the window of the connection is used up everybody
stays where they are, so a client that opens it a little at a time serves all streams alike.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from rproxy.downstream.http2_stream import Stream

PER_TURN: Final = 64
"""Bytes that a turn counts for in any case: it costs something, also when nothing can be sent."""


class Turns:
    """The line of one connection."""

    __slots__ = ("_blocked", "_line")

    def __init__(self) -> None:
        self._line: deque[Stream] = deque()
        self._blocked: dict[Stream, None] = {}

    def __bool__(self) -> bool:
        return bool(self._line)

    def stand(self, stream: Stream) -> None:
        """A stream has something to send."""
        if not stream.in_line:
            stream.in_line = True
            self._line.append(stream)

    def go_on(self, streams: Iterable[Stream]) -> None:
        """The connection's window is open again, or that of all `streams`."""
        self._line.extendleft(reversed(list(self._blocked)))  # in their order, before those who came later
        self._blocked.clear()
        for stream in streams:
            if stream.wants_turn:
                self.stand(stream)

    def give(self, most: int) -> None:
        """Let streams send until about `most` bytes are in the codec, or the line is empty."""
        line = self._line
        while line and most > 0:
            most -= PER_TURN + self._give_one(line.popleft())

    def _give_one(self, stream: Stream) -> int:
        if stream.is_blocked:
            self._blocked[stream] = None
            return 0
        stream.in_line = False
        sent = stream.send()
        if sent and stream.wants_turn:
            self.stand(stream)
        return sent

    def discard(self, stream: Stream) -> None:
        """A stream is over: it does not wait any more, for that may be long."""
        self._blocked.pop(stream, None)

    def clear(self) -> None:
        """Nobody sends any more."""
        self._line.clear()
        self._blocked.clear()
