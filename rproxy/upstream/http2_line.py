"""Whose turn it is to send on an HTTP/2 connection to a peer, as `http2_turns` has it for clients.

Streams that have something to send stand in one line. Who is at the front sends a frame and goes to the end;
who has no window of its own steps out until it has. When the window of the connection is used up everybody
stays where they are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

from rproxy.wire.http2_client import Http2ClientCodec

if TYPE_CHECKING:
    from rproxy.upstream.http2_stream import Http2Stream


class Line:
    """The line of one connection."""

    __slots__ = ("_codec", "_line", "sent")

    def __init__(self, codec: Http2ClientCodec) -> None:
        self._codec = codec
        self._line: deque[Http2Stream] = deque()
        self.sent = 0
        """Bytes of bodies that were sent; whoever writes them out sets it back."""

    def __len__(self) -> int:
        return len(self._line)

    def stand(self, stream: Http2Stream) -> None:
        """A stream has something to send, perhaps; it may stand there already."""
        if not stream.in_line and stream.wants_turn:
            stream.in_line = True
            self._line.append(stream)

    def stand_all(self, streams: Iterable[Http2Stream]) -> None:
        """The windows of all streams may be open again."""
        for stream in streams:
            self.stand(stream)

    def give(self, most: int) -> bool:
        """Let streams send until `sent` is about `most`; False if there is nothing left to be sent now."""
        line, codec = self._line, self._codec
        while line and self.sent < most:
            stream = line.popleft()
            if stream.wants_room and codec.room_in_all <= 0:
                line.appendleft(stream)
                return False
            count = stream.send()
            self.sent += count
            if count and stream.wants_turn:
                line.append(stream)
            else:
                stream.in_line = False
        return bool(line)

    def leave(self, stream: Http2Stream) -> None:
        """A stream goes to another connection."""
        if stream.in_line:
            stream.in_line = False
            self._line.remove(stream)

    def clear(self) -> None:
        """Nobody sends any more."""
        self._line.clear()
