"""What is kept of a request so that it can be asked again (RFC 9113 §8.7), and what is said where it cannot.

Used by `http2_upload`, `http2_stream` and `http2_requests`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rproxy.errors import PeerUnreachable
from rproxy.wire.message import BadRequest, Piece

MOST_KEPT: Final = 65536
"""Bytes of a request's body that are kept: most calls of gRPC have less."""
MOST_MOVES: Final = 3
"""Times that a request moves; a peer that looks at none of them would keep it moving."""


class Unserved(PeerUnreachable):
    """The peer has said that it will not look at a request: nothing of it was done."""

    reason = "peer_refused"


class NoTunnels(BadRequest):
    """What was to become a WebSocket has moved to a connection where the peer takes none (RFC 8441 §3)."""

    reason = "no_tunnel"
    status = 501


class Kept:
    """The beginning of a body, as long as it is all of it."""

    __slots__ = ("_moves", "_pieces", "_size")

    def __init__(self) -> None:
        self._pieces: list[Piece] | None = []
        self._size = self._moves = 0

    def add(self, piece: Piece) -> None:
        """A piece is sent; above `MOST_KEPT` nothing is kept."""
        pieces = self._pieces
        if pieces is not None:
            self._size += len(piece)
            pieces.append(piece)
            if self._size > MOST_KEPT:
                self.drop()

    def drop(self) -> None:
        """The request will not be asked again."""
        self._pieces = None

    def take(self) -> Sequence[Piece] | None:
        """All that was sent, to be sent again; None if that is not there any more, or was sent too often."""
        self._moves += 1
        return self._pieces if self._moves <= MOST_MOVES else None
