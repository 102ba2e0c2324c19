"""Whose turn it is to send on an HTTP/2 connection to a peer, as `http2_turns` has it for clients.

Streams that have something to send stand in one line. Who is at the front sends a frame and goes to the end;
who has no window of its own steps out until it has. When the window of the connection is used up whoever has
bytes to send steps aside and keeps its place; what needs no window, as the end of a request, goes on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

from rproxy.wire.http2_client import Http2ClientCodec

if TYPE_CHECKING:
    from rproxy.upstream.http2_upload import Upload


class Line:
    """The line of one connection."""

    __slots__ = ("_blocked", "_codec", "_line", "sent")

    def __init__(self, codec: Http2ClientCodec) -> None:
        self._codec = codec
        self._line: deque[Upload] = deque()
        self._blocked: dict[Upload, None] = {}
        self.sent = 0
        """Bytes of bodies that were sent; whoever writes them out sets it back."""

    def __len__(self) -> int:
        return len(self._line) + len(self._blocked)

    def stand(self, stream: Upload) -> None:
        """A stream has something to send, perhaps; it may stand there already."""
        if not stream.in_line and stream.wants_turn:
            stream.in_line = True
            self._line.append(stream)

    def stand_all(self, streams: Iterable[Upload]) -> None:
        """The windows of all streams may be open again."""
        for stream in streams:
            self.stand(stream)

    def give(self, most: int) -> bool:
        """Let streams send until `sent` is about `most`; False if there is nothing left to be sent now."""
        line, codec = self._line, self._codec
        if self._blocked and codec.room_in_all > 0:
            line.extendleft(reversed(list(self._blocked)))  # in their order, before those who came later
            self._blocked.clear()
        while line and self.sent < most:
            stream = line.popleft()
            if stream.wants_room and codec.room_in_all <= 0:
                self._blocked[stream] = None
                continue
            count = stream.send()
            self.sent += count
            if count and stream.wants_turn:
                line.append(stream)
            else:
                stream.in_line = False
        return bool(line)

    def leave(self, stream: Upload) -> None:
        """A stream sends no more here; it would wait in vain, and that may be long."""
        if stream.in_line:
            stream.in_line = False
            self._blocked.pop(stream, None)
            if stream in self._line:
                self._line.remove(stream)

    def clear(self) -> None:
        """Nobody sends any more."""
        self._line.clear()
        self._blocked.clear()
