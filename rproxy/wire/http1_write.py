"""HTTP/1.1 heads and chunks as bytes, for `downstream` and `upstream`.

What we add (a Location, a cookie, a forwarded address) is built from what strangers sent: every function
raises `ValueError` rather than write a line break that is not its own. That costs two counts over what is
written, so fields that were read and fields that were added are checked alike; a `Block` is written and
checked once, however many messages it stands in.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from .message import EMPTY, Block, Framing, Pair, Piece

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
"""The interim response a client with `expects_continue` waits for."""

_REQUEST_LINE = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++ [\x21\x22\x24-\x7e]++ HTTP/1\.1").fullmatch


def request_head(method: bytes, target: bytes, pairs: Iterable[Pair], block: Block = EMPTY) -> bytes:
    """A request's head, always as HTTP/1.1; the fields include Host and what frames the body."""
    line = b"%b %b HTTP/1.1" % (method, target)
    if not _REQUEST_LINE(line):
        raise ValueError("malformed method or target")
    return _head(line, pairs, block)


def response_head(status: int, reason: bytes, pairs: Iterable[Pair], block: Block = EMPTY) -> bytes:
    """A response's head, interim or final, always as HTTP/1.1 (our version, RFC 9110 §2.5)."""
    if not 100 <= status <= 999:
        raise ValueError("status out of range")
    return _head(b"HTTP/1.1 %d %b" % (status, reason), pairs, block)


def framing_pairs(framing: Framing, length: int) -> list[Pair]:
    """The field that announces a body of this framing; none for NONE and UNTIL_CLOSE."""
    if framing is Framing.LENGTH:
        return [(b"Content-Length", b"%d" % length)]
    return [(b"Transfer-Encoding", b"chunked")] if framing is Framing.CHUNKED else []


def chunk(piece: Piece) -> tuple[bytes, Piece, bytes]:
    """One chunk as three buffers to be written in order, so that the piece is not copied.

    Raises `ValueError` for an empty piece, which would end the body.
    """
    if not piece:
        raise ValueError("empty chunk")
    return b"%x\r\n" % len(piece), piece, b"\r\n"


def last_chunk(trailers: Iterable[Pair] = ()) -> bytes:
    """The end of a chunked body, with trailers if there are any."""
    return _head(b"0", trailers)


def _head(first: bytes, pairs: Iterable[Pair], block: Block = EMPTY) -> bytes:
    own = _lines([first, *[name + b": " + value for name, value in pairs]])
    if block.lines is None:
        block.lines = _lines([name + b": " + value for name, value in block.pairs])
    return own + block.lines + b"\r\n"


def _lines(lines: list[bytes]) -> bytes:
    """Each with its CRLF."""
    ends = len(lines)
    lines.append(b"")
    written = b"\r\n".join(lines)
    if not written.count(b"\n") == written.count(b"\r") == ends or b"\0" in written:
        raise ValueError("line break or NUL in a head")
    return written
