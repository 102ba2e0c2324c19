"""First lines and whole heads of HTTP/1.1, for `wire.http1` and `wire.http1_write`; see `native`.

Reading takes plain heads only, as nearly all are, and gives None for every other: the caller's own reading
says then what is wrong with it, or that it is good after all. Measured by `h1` in bench/.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

MAX_HEAD: Final = 65536
"""Bytes of a head with its empty line, see `wire.http1`."""
MAX_METHOD: Final = 64
"""Bytes of a method, see `wire.http1_head`."""
MAX_TARGET: Final = 8192
"""Bytes of a request-target, see `wire.http1_head`."""

_REQUEST = re.compile(
    rb"([!#$%%&'*+\-.^_`|~0-9A-Za-z]{1,%d}+) ([\x21\x22\x24-\x7e]{1,%d}+) HTTP/1\.1\r\n"
    % (MAX_METHOD, MAX_TARGET)
)
_GOOD: Final = b"HTTP/1.1 200 OK\r\n"
_USUAL = frozenset((b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"PATCH", b"OPTIONS"))
_IS_METHOD = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++").fullmatch
_IS_TARGET = re.compile(rb"[\x21\x22\x24-\x7e]++").fullmatch
_STATUS = {status: b"%d " % status for status in range(100, 1000)}


def plain_request(buffer: bytes, at: int, known: bytes) -> tuple[bytes, bytes, bytes | None, int] | None:
    """Method, target and field section of the HTTP/1.1 request at `at`, and the offset behind its head.

    In place of a field section that equals `known`, the one of an earlier head, there is None. None for a
    head that is not plain or not all there.
    """
    end = buffer.find(b"\r\n\r\n", at, at + MAX_HEAD)
    match = _REQUEST.match(buffer, at) if end >= 0 else None
    if match is None:
        return None
    method, target = match.groups()
    block = buffer[match.end() : end + 2]
    return method, target, None if block == known else block, end + 4


def plain_response(buffer: bytes, at: int, known: bytes) -> tuple[bytes | None, int] | None:
    """As `plain_request` for a `200 OK` of HTTP/1.1: its field section, and the offset behind its head."""
    end = buffer.find(b"\r\n\r\n", at, at + MAX_HEAD)
    if end < 0 or not buffer.startswith(_GOOD, at):
        return None
    block = buffer[at + len(_GOOD) : end + 2]
    return None if block == known else block, end + 4


def request_head(method: bytes, target: bytes, pairs: Sequence[tuple[bytes, bytes]], lines: bytes) -> bytes:
    """A request's head, always as HTTP/1.1: a line for each pair, then `lines`, which were written before.

    Raises `ValueError` for what is no method or target, and for a line break or NUL in a field.
    """
    if not (method in _USUAL or _IS_METHOD(method)) or not _IS_TARGET(target):
        raise ValueError("malformed method or target")
    return _lines([method, b" ", target, b" HTTP/1.1\r\n"], pairs) + lines + b"\r\n"


def response_head(status: int, reason: bytes, pairs: Sequence[tuple[bytes, bytes]], lines: bytes) -> bytes:
    """A response's head, interim or final, in the same way; `ValueError` for a status out of range, too."""
    if not 100 <= status <= 999:
        raise ValueError("status out of range")
    return _lines([b"HTTP/1.1 ", _STATUS[status], reason, b"\r\n"], pairs) + lines + b"\r\n"


def _lines(first: list[bytes], pairs: Sequence[tuple[bytes, bytes]]) -> bytes:
    """The parts of the first line, and a line for each pair."""
    for name, value in pairs:
        first += (name, b": ", value, b"\r\n")
    lines = b"".join(first)
    if len(lines) - len(lines.translate(None, b"\r\n\0")) != 2 * (1 + len(pairs)):  # one look at all bytes
        raise ValueError("line break or NUL in a head")
    return lines
