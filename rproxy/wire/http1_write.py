"""HTTP/1.1 heads and chunks as bytes, for `downstream` and `upstream`.

What we add (a Location, a cookie, a forwarded address) is built from what strangers sent: every function
raises `ValueError` rather than write a line break that is not its own. That costs one look at what is
written, so fields that were read and fields that were added are checked alike; a `Block` is written and
checked once, however many messages it stands in.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from .message import EMPTY, Block, Framing, Pair, Piece

_USUAL = frozenset((b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"PATCH", b"OPTIONS"))
_IS_METHOD = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++").fullmatch
_IS_TARGET = re.compile(rb"[\x21\x22\x24-\x7e]++").fullmatch
_STATUS = {status: b"%d " % status for status in range(100, 1000)}


def request_head(method: bytes, target: bytes, pairs: Iterable[Pair], block: Block = EMPTY) -> bytes:
    """A request's head, always as HTTP/1.1; the fields include Host and what frames the body."""
    if not (method in _USUAL or _IS_METHOD(method)) or not _IS_TARGET(target):
        raise ValueError("malformed method or target")
    return _head([method, b" ", target, b" HTTP/1.1"], pairs, block)


def response_head(status: int, reason: bytes, pairs: Iterable[Pair], block: Block = EMPTY) -> bytes:
    """A response's head, interim or final, always as HTTP/1.1 (our version, RFC 9110 §2.5)."""
    if not 100 <= status <= 999:
        raise ValueError("status out of range")
    return _head([b"HTTP/1.1 ", _STATUS[status], reason], pairs, block)


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
    return _head([b"0"], trailers)


def _head(parts: list[bytes], pairs: Iterable[Pair], block: Block = EMPTY) -> bytes:
    """`parts` are those of the first line."""
    lines = block.lines
    if lines is None:
        lines = block.lines = _checked(*_written([], block.pairs))
    return _checked(*_written(parts, pairs)) + lines + b"\r\n"


def _written(parts: list[bytes], pairs: Iterable[Pair]) -> tuple[bytes, int]:
    """The parts as one line, a line for each field, and how many lines that makes."""
    ends = 0
    if parts:
        parts.append(b"\r\n")
        ends = 1
    for name, value in pairs:
        parts += (name, b": ", value, b"\r\n")
        ends += 1
    return b"".join(parts), ends


def _checked(lines: bytes, ends: int) -> bytes:
    if len(lines) - len(lines.translate(None, b"\r\n\0")) != 2 * ends:  # one look at all bytes
        raise ValueError("line break or NUL in a head")
    return lines
