"""The part of an HTTP/1 reader that both roles share: the buffer, bodies, chunks and trailers.

`http1.RequestReader` and `http1.ResponseReader` add the heads. A body is handed on in the slices in which it
arrived: a piece is never copied when it is large, and nothing here grows with the length of a body.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Final

from rproxy.errors import Refusal

from .http1_fields import read_trailers
from .message import BadRequest, Framing, Headers, HeadTooLarge, Piece

MAX_CHUNK_LINE: Final = 276
"""Bytes of a chunk-size line with its CRLF: 16 digits, 256 bytes of extensions (which are dropped), 2 to
spare. AWS's signed uploads use 85; without a bound extensions are a body that no limit counts."""
MAX_TRAILER_SECTION: Final = 8192
"""Bytes of a trailer section: held until complete, after the head's 64 KiB have been paid for already."""
COPY_BELOW: Final = 2048
"""Bytes below which a slice is copied: cheaper than a memoryview (0.1 µs), and a small piece that waits
somewhere does not keep the whole read alive."""

_HEX: Final = b"0123456789abcdefABCDEF"
_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_QUOTED: Final = rb'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t \x21-\x7e\x80-\xff])*+"'
_EXTENDED: Final = re.compile(rb"([0-9A-Fa-f]{1,16}+)(?:;%b(?:=(?:%b|%b))?+)++" % (_TOKEN, _TOKEN, _QUOTED))
_BARE_LF: Final = re.compile(rb"(?<!\r)\n")


class Phase(Enum):
    """Where in a message the next byte belongs."""

    HEAD = 1
    LENGTH = 2
    CHUNK_LINE = 3
    CHUNK = 4
    CHUNK_END = 5
    TRAILERS = 6
    UNTIL_CLOSE = 7
    IDLE = 8
    """Responses only: nothing was asked."""
    TUNNEL = 9
    """No longer HTTP/1: everything is for `take_rest`."""
    REFUSED = 10


HEAD: Final = Phase.HEAD
IDLE: Final = Phase.IDLE
TUNNEL: Final = Phase.TUNNEL
REFUSED: Final = Phase.REFUSED
_LENGTH: Final = Phase.LENGTH
_CHUNK_LINE: Final = Phase.CHUNK_LINE
_CHUNK: Final = Phase.CHUNK
_CHUNK_END: Final = Phase.CHUNK_END
_TRAILERS: Final = Phase.TRAILERS
_UNTIL_CLOSE: Final = Phase.UNTIL_CLOSE
_BY_LENGTH: Final = Framing.LENGTH
_BY_CHUNKS: Final = Framing.CHUNKED


class MessageReader:
    """Holds what arrived and was not yet read; gives it out as body pieces.

    Bytes stay in the order they came, and what follows a message stays until it is asked for. The owner stops
    feeding while `unread` is large: only heads, chunk lines and trailers are limited here.
    """

    __slots__ = ("_after", "_at", "_buffer", "_left", "_phase", "_refusal", "_seen", "trailers")

    def __init__(self, after: Phase) -> None:
        """`after` is the phase when a message is complete."""
        self._after = after
        # A bytearray while something is incomplete, so that trickled bytes cost linear time; then `_at` is 0.
        # Plain bytes otherwise, so that slices outlive it.
        self._buffer: bytes | bytearray = b""
        self._at = 0
        self._seen = 0
        self._left = 0
        self._phase = self._after
        self._refusal: Refusal | None = None
        self.trailers: Headers | None = None
        """The trailers of the body just read, if it had any."""

    @property
    def unread(self) -> int:
        """Bytes received and not yet given out."""
        return len(self._buffer) - self._at

    @property
    def complete(self) -> bool:
        """Whether the last message has been read to its end."""
        return self._phase is self._after

    @property
    def left(self) -> int:
        """Bytes that a body of known length still lacks, buffered ones included; 0 for any other body."""
        return self._left if self._phase is _LENGTH else 0

    def receive(self, data: bytes) -> None:
        """Take what a read gave, at any time."""
        if self._at == len(self._buffer):
            self._buffer, self._at, self._seen = data, 0, 0
        else:
            self._append(data)

    def read_body(self) -> Piece:
        """The next piece of the body; empty if nothing can be given now, which `complete` explains.

        Raises the refusal for a malformed body, after the pieces before the fault have been given.
        """
        phase = self._phase
        if phase is _LENGTH:
            return self._read_length()
        if phase is self._after or phase is TUNNEL or phase is HEAD:
            return b""
        if phase is _UNTIL_CLOSE:
            return self._take(self.unread)
        if phase is REFUSED:
            raise self._wrong_phase()
        return self._read_chunks()

    def skip(self, count: int) -> None:
        """Note that `count` bytes of a body of known length went by without us, in the kernel.

        Only while nothing is `unread`, and never more than `left`.
        """
        if self.unread or not 0 <= count <= self.left:
            raise RuntimeError("bytes cannot be skipped here")
        self._left -= count
        if self._left == 0 and self._phase is _LENGTH:
            self._phase = self._after

    def take_rest(self) -> bytes:
        """Everything unread; from now on the connection is a tunnel and not read as HTTP."""
        rest = bytes(memoryview(self._buffer)[self._at :])
        self._buffer, self._at, self._phase = b"", 0, TUNNEL
        return rest

    def _start_body(self, framing: Framing, length: int) -> None:
        self._left = length
        if framing is _BY_LENGTH:
            self._phase = _LENGTH if length else self._after
        else:
            self._phase = _CHUNK_LINE if framing is _BY_CHUNKS else _UNTIL_CLOSE

    def _refuse(self, refusal: Refusal) -> Refusal:
        """End the reading for good; whatever follows a fault is not to be trusted."""
        self._phase, self._refusal = REFUSED, refusal
        self._buffer, self._at = b"", 0
        return refusal

    def _translate(self, refusal: BadRequest) -> Refusal:
        """The refusal in this reader's role."""
        return refusal

    def _wrong_phase(self) -> Exception:
        return self._refusal or RuntimeError(f"not possible in phase {self._phase.name}")

    def _append(self, data: bytes) -> None:
        if self._phase is REFUSED:
            return
        buffer = self._buffer
        if isinstance(buffer, bytes):
            buffer = self._buffer = bytearray(memoryview(buffer)[self._at :])
            self._seen = max(0, self._seen - self._at)
            self._at = 0
        buffer += data

    def _look_again_from(self, offset: int) -> None:
        """Remember where to search on when more came: what was searched once is not searched again."""
        self._seen = max(self._at, offset)

    def _settled(self) -> bytes:
        """The buffer as bytes, before something is taken from it."""
        buffer = self._buffer
        if isinstance(buffer, bytearray):
            buffer = self._buffer = bytes(buffer)
        return buffer

    def _advance(self, offset: int) -> None:
        """Move on to `offset`; a buffer that is used up is let go, for the connection may now be idle."""
        if offset == len(self._buffer):
            self._buffer, offset = b"", 0
        else:
            self._settled()
        self._at = self._seen = offset

    def _take(self, count: int) -> Piece:
        """The next `count` bytes, all of which are there."""
        buffer, at = self._settled(), self._at
        self._advance(at + count)
        if count == len(buffer):
            return buffer
        if count < COPY_BELOW:
            return buffer[at : at + count]
        return memoryview(buffer)[at : at + count]

    def _read_length(self) -> Piece:
        piece = self._take(min(self._left, self.unread))
        self._left -= len(piece)
        if self._left == 0:
            self._phase = self._after
        return piece

    def _read_chunks(self) -> Piece:
        """All the chunk data there is: one slice for one chunk, joined for several."""
        pieces: list[Piece] = []
        try:
            while self._step(pieces):
                pass
        except BadRequest as fault:
            refusal = self._refuse(self._translate(fault))
            if not pieces:
                raise refusal
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _step(self, pieces: list[Piece]) -> bool:
        """Read one element of a chunked body; False if it is not all there or was the last."""
        phase = self._phase
        if phase is _CHUNK:
            return self._read_chunk(pieces)
        if phase is _CHUNK_END:
            return self._read_chunk_end()
        if phase is _CHUNK_LINE:
            return self._read_chunk_line()
        return phase is _TRAILERS and self._read_trailers()

    def _read_chunk_line(self) -> bool:
        buffer, at = self._buffer, self._at
        end = buffer.find(b"\n", self._seen, at + MAX_CHUNK_LINE)
        if end < 0:
            if len(buffer) - at >= MAX_CHUNK_LINE:
                raise BadRequest("chunk line too long")
            self._look_again_from(len(buffer))
            return False
        self._left = _chunk_size(bytes(buffer[at : end + 1]))
        self._advance(end + 1)
        self._phase = _CHUNK if self._left else _TRAILERS
        return True

    def _read_chunk(self, pieces: list[Piece]) -> bool:
        count = min(self._left, self.unread)
        if count:
            pieces.append(self._take(count))
            self._left -= count
        if self._left == 0:
            self._phase = _CHUNK_END
        return self._left == 0

    def _read_chunk_end(self) -> bool:
        ending = self._buffer[self._at : self._at + 2]
        if not b"\r\n".startswith(ending):
            raise BadRequest("chunk longer than its size")
        if len(ending) < 2:
            return False
        self._advance(self._at + 2)
        self._phase = _CHUNK_LINE
        return True

    def _read_trailers(self) -> bool:
        """The trailer section with the empty line that ends it. Always False: nothing comes after."""
        at = self._at
        if self._buffer.startswith(b"\r\n", at):
            end = at
        else:
            end = self._find_section_end(at)
            if end < 0:
                return False
            self.trailers = read_trailers(bytes(self._buffer[at:end]))
        self._advance(end + 2)
        self._phase = self._after
        return False

    def _find_section_end(self, at: int) -> int:
        """The offset of the empty line behind the trailers at `at`, or -1 if it did not come yet."""
        buffer, limit = self._buffer, at + MAX_TRAILER_SECTION
        end = buffer.find(b"\r\n\r\n", self._seen, limit)
        if end < 0:
            self._check_partial_lines(at, limit)
            if len(buffer) >= limit:
                raise HeadTooLarge("trailer section too long")
            return -1
        return end + 2

    def _check_partial_lines(self, start: int, limit: int) -> None:
        """Refuse a bare LF in lines that have no end yet: meant as one, it may be the last."""
        if _BARE_LF.search(self._buffer, max(start, self._seen), limit):
            raise BadRequest("bare LF")
        self._look_again_from(len(self._buffer) - 3)


def _chunk_size(line: bytes) -> int:
    """The size in a chunk-size line with its line end (RFC 9112 §7.1); extensions are checked and dropped."""
    if not line.endswith(b"\r\n"):
        raise BadRequest("bare LF in chunk line")
    size = line[:-2]
    # What `int` would take besides digits (sign, `0x`, `_`, spaces) is left over by strip.
    if not size or size.strip(_HEX) or len(size) > 16:
        match = _EXTENDED.fullmatch(size)
        if match is None:
            raise BadRequest("malformed chunk line")
        size = match[1]
    return int(size, 16)
