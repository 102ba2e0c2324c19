"""Header sections out of HPACK (RFC 7541). Called by `wire.http2_connection` for each complete section.

One pass without copies, for a section may have thousands of references of one byte each. What is above our
limits is not kept: of too many fields the first are given, so that the request can be refused by name, and
too many bytes end the connection, since nobody could tell what the table is after them.
"""

from __future__ import annotations

from typing import Final

from .http1_fields import MAX_FIELDS
from .http2_events import ErrorCode
from .http2_frames import Breach
from .http2_gate import MAX_HEAD
from .http2_tables import HUFFMAN, STATIC
from .message import Pair

TABLE: Final = 4096
"""Bytes of the table that a client may fill: the default, which need not be announced."""
OVERHEAD: Final = 32
"""Bytes that a field counts on top of its own, RFC 7541 §4.1."""
MOST_KEPT: Final = MAX_FIELDS + 6
"""Fields given of a section: one more than a request may have, with its five pseudo-header fields."""
MOST_CRUMBS: Final = 256
"""Pieces of a cookie that count as one field: browsers keep 180 for a name, each a piece."""
MAX_INTEGER: Final = 1 << 24
"""Above any length or number that can be meant."""

_KNOWN: Final = len(STATIC)


class Decoder:
    """The decoder of one connection."""

    __slots__ = ("_entries", "_most", "_size")

    def __init__(self) -> None:
        self._entries: list[Pair] = []
        """The table, the latest field last."""
        self._size, self._most = 0, TABLE

    def decode(self, block: bytes) -> list[Pair]:
        """The fields of a section. Raises `Breach`."""
        try:
            return self._decode(block)
        except IndexError:
            raise Breach(ErrorCode.COMPRESSION_ERROR, "header section that is cut short")

    def _decode(self, block: bytes) -> list[Pair]:
        fields: list[Pair] = []
        crumbs: list[bytes] = []
        at, end, size, updates, cookie = 0, len(block), 0, 0, 0
        while at < end:
            first = block[at]
            if first >= 0x80:
                number, at = (first & 0x7F, at + 1) if first < 0xFF else _integer(block, at, 0x7F)
                pair = self._entry(number)
            elif first & 0xE0 == 0x20:
                updates += 1
                if size or updates > 2:  # §4.2: at the beginning, and never more than two are needed
                    raise Breach(ErrorCode.COMPRESSION_ERROR, "table size where it may not be")
                at = self._resize(block, at)
                continue
            else:
                indexed = first >= 0x40
                pair, at = self._literal(block, at, 0x3F if indexed else 0x0F)
                if indexed:
                    self._add(pair)
            size += len(pair[0]) + len(pair[1]) + OVERHEAD
            if size > MAX_HEAD:
                raise Breach(ErrorCode.ENHANCE_YOUR_CALM, "header section too large")
            if pair[0] == b"cookie" and len(crumbs) < MOST_CRUMBS:
                crumbs.append(pair[1])
                if len(crumbs) > 1:
                    continue
                cookie = len(fields)
            if len(fields) < MOST_KEPT:
                fields.append(pair)
        if len(crumbs) > 1 and cookie < MOST_KEPT:  # RFC 9113 §8.2.3: they are one field, however many
            fields[cookie] = (b"cookie", b"; ".join(crumbs))
        return fields

    def _entry(self, number: int) -> Pair:
        """The field with this number (§2.3.3)."""
        if 0 < number <= _KNOWN:
            return STATIC[number - 1]
        if not 0 < number - _KNOWN <= len(self._entries):
            raise Breach(ErrorCode.COMPRESSION_ERROR, "reference to nothing")
        return self._entries[_KNOWN - number]

    def _literal(self, block: bytes, at: int, most: int) -> tuple[Pair, int]:
        """A field with its value, and perhaps its name, spelled out (§6.2)."""
        number = block[at] & most
        if number == most:
            number, at = _integer(block, at, most)
        else:
            at += 1
        if number:
            name = self._entry(number)[0]
        else:
            name, at = _string(block, at)
        value, at = _string(block, at)
        return (name, value), at

    def _add(self, pair: Pair) -> None:
        """§4.4: the oldest go; one that is larger than the table empties it."""
        size = len(pair[0]) + len(pair[1]) + OVERHEAD
        self._shrink(self._most - size)
        if size <= self._most:
            self._entries.append(pair)
            self._size += size

    def _resize(self, block: bytes, at: int) -> int:
        most, at = _integer(block, at, 0x1F)
        if most > TABLE:
            raise Breach(ErrorCode.COMPRESSION_ERROR, "table above what we take")
        self._most = most
        self._shrink(most)
        return at

    def _shrink(self, most: int) -> None:
        entries = self._entries
        gone = 0
        while self._size > most and gone < len(entries):
            name, value = entries[gone]
            self._size -= len(name) + len(value) + OVERHEAD
            gone += 1
        if gone:
            del entries[:gone]


def _integer(block: bytes, at: int, most: int) -> tuple[int, int]:
    """§5.1: the number whose prefix, of the bits in `most`, is at `at`; and the place behind it."""
    value = block[at] & most
    at += 1
    if value < most:
        return value, at
    shift = 0
    while True:
        octet = block[at]
        at += 1
        value += (octet & 0x7F) << shift
        if octet < 0x80:
            return value, at
        shift += 7
        if shift > 21 or value > MAX_INTEGER:
            raise Breach(ErrorCode.COMPRESSION_ERROR, "number out of range")


def _string(block: bytes, at: int) -> tuple[bytes, int]:
    """§5.2: the string at `at`, and the place behind it."""
    first = block[at]
    size, at = (first & 0x7F, at + 1) if first & 0x7F < 0x7F else _integer(block, at, 0x7F)
    octets = block[at : at + size]
    if len(octets) != size:
        raise Breach(ErrorCode.COMPRESSION_ERROR, "string that is cut short")
    return (_unpacked(octets) if first >= 0x80 else octets), at + size


def _unpacked(octets: bytes) -> bytes:
    """What Huffman's code says."""
    states, symbols, ends = HUFFMAN
    out, state = bytearray(), 0
    for octet in octets:
        at = state << 4 | octet >> 4
        symbol = symbols[at]
        if symbol >= 0:
            out.append(symbol)
        state = states[at]
        if state < 0:
            break
        at = state << 4 | octet & 15
        symbol = symbols[at]
        if symbol >= 0:
            out.append(symbol)
        state = states[at]
        if state < 0:
            break
    if state not in ends:
        raise Breach(ErrorCode.COMPRESSION_ERROR, "string in no code")
    return bytes(out)
