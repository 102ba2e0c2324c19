"""Response heads as HPACK (RFC 7541) without a dynamic table. Called by `wire.http2`.

Names that the static table has are sent by number, everything else as it is. That costs a few hundred bytes
per response and saves a search through a table per field, as in nginx and HAProxy; nothing that a client
sets in its SETTINGS can make it hold memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from .http2_tables import STATIC
from .message import EMPTY, Fields, Pair

_STATUS: Final = {value: number for number, (name, value) in enumerate(STATIC, 1) if name == b":status"}
# Nobody on the way may keep them in a table, where a guess can be measured (RFC 7541 §7.1.3).
_SECRET: Final = frozenset((b"set-cookie", b"authorization", b"proxy-authenticate", b"www-authenticate"))
# RFC 9113 §8.2.2: a client has to refuse a response with one of them.
_OF_CONNECTIONS: Final = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade")
)
MOST_NAMES: Final = 256
"""Names remembered for one connection: peers use some dozens, and each is a few bytes long."""


class Encoder:
    """Encodes the heads of one connection; keeps how names are written, and the last block of fields."""

    def __init__(self) -> None:
        self._names: dict[bytes, bytes] = {}
        self._statuses: dict[int, bytes] = {}
        self._block, self._common = EMPTY, b""

    def head(self, status: int, fields: Fields) -> bytes:
        """The header block of a response."""
        line = self._statuses.get(status)
        if line is None:
            line = self._statuses[status] = _status(b"%d" % status)
        if fields.block is not self._block:
            self._block, self._common = fields.block, self.fields(fields.block.pairs)
        return line + self.fields(fields.own) + self._common

    def fields(self, pairs: Iterable[Pair]) -> bytes:
        """The header block of trailers; names may be in any case, those of connections are left out.

        Raises `ValueError` for a value that would be two lines in HTTP/1.1, as its writer does.
        """
        names = self._names
        out: list[bytes] = []
        for name, value in pairs:
            prefix = names.get(name)
            if prefix is None:
                prefix = self._learn(name)
            if prefix:
                size = len(value)
                out += (prefix, _SIZES[size] if size < 127 else _integer(size, 127, 0), value)
        if _BREAKS(b"".join(out[2::3])):
            raise ValueError("line break or NUL in a field")
        return b"".join(out)

    def _learn(self, name: bytes) -> bytes:
        """How a name begins its field; empty for one that may not be sent."""
        lower = name.lower()
        prefix = b"" if lower in _OF_CONNECTIONS else _name(lower)
        if len(self._names) < MOST_NAMES:
            self._names[name] = prefix
        return prefix


_BREAKS: Final = re.compile(rb"[\0\r\n]").search
_SIZES: Final = tuple(bytes([size]) for size in range(127))
_NUMBERS: Final = {name: number for number, (name, _) in reversed(list(enumerate(STATIC, 1)))}


def _integer(value: int, most: int, first: int) -> bytes:
    """RFC 7541 §5.1, with the bits `first` before the prefix that holds up to `most`."""
    if value < most:
        return bytes([first | value])
    out, value = bytearray([first | most]), value - most
    while value >= 128:
        out.append(128 | value & 127)
        value >>= 7
    out.append(value)
    return bytes(out)


def _name(lower: bytes) -> bytes:
    first = 0x10 if lower in _SECRET else 0
    number = _NUMBERS.get(lower, 0)
    if number:
        return _integer(number, 15, first)
    return bytes([first]) + _integer(len(lower), 127, 0) + lower


def _status(value: bytes) -> bytes:
    number = _STATUS.get(value)
    return bytes([0x80 | number]) if number else b"\x08\x03" + value
