"""HTTP/1.1 heads and chunks as bytes, for `downstream` and `upstream`.

What we add (a Location, a cookie, a forwarded address) is built from what strangers sent: every function
raises `ValueError` rather than write a line break that is not its own. That costs one look at what is
written, so fields that were read and fields that were added are checked alike; a `Block` is written and
checked once, however many messages it stands in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rproxy.native import heads
from rproxy.native.fields import lines as field_lines

from .message import EMPTY, Block, Framing, Pair, Piece

# Looked up once: in 3.11 a member of an Enum costs as much as a call.
_LENGTH: Final = Framing.LENGTH
_CHUNKED: Final = Framing.CHUNKED
_request_head: Final = heads.request_head
_response_head: Final = heads.response_head


def request_head(method: bytes, target: bytes, pairs: Sequence[Pair], block: Block = EMPTY) -> bytes:
    """A request's head, always as HTTP/1.1; the fields include Host and what frames the body."""
    lines = block.lines
    return _request_head(method, target, pairs, _lines_of(block) if lines is None else lines)


def response_head(status: int, reason: bytes, pairs: Sequence[Pair], block: Block = EMPTY) -> bytes:
    """A response's head, interim or final, always as HTTP/1.1 (our version, RFC 9110 §2.5)."""
    lines = block.lines
    return _response_head(status, reason, pairs, _lines_of(block) if lines is None else lines)


def framing_pairs(framing: Framing, length: int) -> list[Pair]:
    """The field that announces a body of this framing; none for NONE and UNTIL_CLOSE."""
    if framing is _LENGTH:
        return [(b"Content-Length", str(length).encode("ascii"))]
    return [(b"Transfer-Encoding", b"chunked")] if framing is _CHUNKED else []


def chunk(piece: Piece) -> tuple[bytes, Piece, bytes]:
    """One chunk as three buffers to be written in order, so that the piece is not copied.

    Raises `ValueError` for an empty piece, which would end the body.
    """
    if not piece:
        raise ValueError("empty chunk")
    return b"%x\r\n" % len(piece), piece, b"\r\n"


def last_chunk(trailers: Sequence[Pair] = ()) -> bytes:
    """The end of a chunked body, with trailers if there are any."""
    return b"0\r\n" + field_lines(trailers) + b"\r\n" if trailers else b"0\r\n\r\n"


def _lines_of(block: Block) -> bytes:
    lines = block.lines = field_lines(block.pairs)
    return lines
