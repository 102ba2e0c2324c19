"""What one HTTP/2 connection may do that brings nobody anything. Asked by `wire.http2` before each frame.

Frames that do no work cost us more than the client: 20 to 100 µs each, for 9 to 17 bytes. So each has a
price, paid from an account that fills up slowly, and at once by what is worth something. Header sections,
which have to be held until they are complete, are bounded here as well.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Final

from .http2_events import ErrorCode
from .http2_frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PING,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Breach,
    Frame,
)

BEFORE_SETTINGS: Final = 100
"""Streams that a client may open before it has read how many it may: what RFC 9113 §6.5.2 recommends as the
least, and what browsers begin with."""
MOST_FRAMES: Final = 256
"""Frames that are looked at in one go, about 20 ms of work; other connections have their turn in between."""
MAX_HEAD: Final = 65536
"""Bytes of a header section, packed and unpacked (a field counts 32 more, RFC 9113 §6.5.2): as in HTTP/1."""
MAX_CONTINUATIONS: Final = 16
"""CONTINUATION frames of a header section: 64 KiB need four (VU#421644: each is held until the last)."""
CHORES: Final = 500.0
"""Units of account for frames that do no work. Browsers open with a SETTINGS, a WINDOW_UPDATE and up to six
PRIORITY frames; gRPC may ping once per round trip. A flood is over after 50 to 500 frames: 10 to 50 ms."""
CHORES_PER_SECOND: Final = 100.0
"""Units that come back: a client that stays just below costs us 1 % of a core at most."""
RESETS_PER_SECOND: Final = 10.0
"""Resets that come back. The account holds as many as streams may be open, for a browser that leaves a page
cancels all of them; each one that was served to its end brings one back (CVE-2023-44487: a reset costs a
client 13 bytes and us a request to a peer, and the stream is free again at once)."""
TINY: Final = 1024
"""Bytes of a DATA frame below which a window that allows no more is a way of keeping us busy: clients give
back what they have read, at least when it is some kilobytes."""

CRUMBS: Final = 20000.0
"""Units of account for bodies that come in crumbs: a DATA frame of n bytes costs 1/n, and brings n/1024. So
from 32 bytes on frames are free, and others are weighed with them. The account holds what all of the window
of a connection (2 MiB) costs in gRPC messages of 10 bytes, for they may have waited, and come at once when it
opens; who sends one byte at a time has sent 20,000 frames by then."""
CRUMBS_PER_SECOND: Final = 2000.0
"""Units that come back: 10,000 of gRPC's smallest messages (5 bytes) a second for ever, twice as many as a
chatty stream has; or 2000 frames of one byte, each of them some microseconds of work."""

# Units of `CHORES`: a PING, which is the cheapest, is one.
_PRICES: Final = {PRIORITY: 1, SETTINGS: 10, PING: 1, GOAWAY: 10, WINDOW_UPDATE: 2, RST_STREAM: 0, HEADERS: 0}
_PRICE_OF_UNKNOWN: Final = 1
_PRICE_OF_EMPTY: Final = 4
_PRICE_OF_STRAY: Final = 4
_PRICE_OF_TINY: Final = 4
_PRICE_OF_REFUSAL: Final = 20
_EARNED_BY_REQUEST: Final = 8
_EARNED_BY_DATA: Final = 4
# A unit of `CRUMBS`, in bytes; who is served to the end has earned one, for bodies of requests may be tiny.
_PAID_BY: Final = 1024


class Account:
    """Units that are spent and come back, `per_second` of them, never more than `most`; full at `now`.

    A price may be below nothing; what it brings in excess of `most` is lost with the next one.
    """

    __slots__ = ("_at", "_left", "_most", "_per_second")

    def __init__(self, most: float, per_second: float, now: float) -> None:
        self._most = self._left = most
        self._per_second, self._at = per_second, now

    def spend(self, price: float, now: float) -> bool:
        """Whether there was enough; `now` in seconds."""
        self._left = min(self._most, self._left + (now - self._at) * self._per_second) - price
        self._at = now
        return self._left >= 0

    def earn(self, units: float) -> None:
        """Something useful was done."""
        self._left = min(self._most, self._left + units)


class Gate:
    """The accounts of one connection; `streams` may be open at a time."""

    __slots__ = ("_block", "_chores", "_continuations", "_crumbs", "_now", "_resets", "_settled", "_size")

    def __init__(self, streams: int, now: float) -> None:
        self._chores = Account(CHORES, CHORES_PER_SECOND, now)
        self._crumbs = Account(CRUMBS, CRUMBS_PER_SECOND, now)
        self._resets = Account(streams, RESETS_PER_SECOND, now)
        self._now = now
        self._settled = False
        self._block = self._size = self._continuations = 0

    @property
    def in_head(self) -> bool:
        """Whether a header section has begun and not ended."""
        return bool(self._block)

    def turn(self, now: float) -> None:
        """Bytes have come at this time."""
        self._now = now

    def measure(self, frame: Frame, opened: Container[int]) -> None:
        """Let a frame pass, or raise `Breach`; `opened` are the streams that are open."""
        kind = frame.kind
        if not self._settled:
            if kind != SETTINGS or frame.flags & ACK:
                raise Breach(ErrorCode.PROTOCOL_ERROR, "the preface lacks SETTINGS")
            self._settled = True
        if self._block or kind == CONTINUATION:
            self._measure_continuation(frame)
        elif kind == DATA:
            self._measure_data(frame, opened)
        else:
            if kind == HEADERS and not frame.flags & END_HEADERS:
                self._block, self._size, self._continuations = frame.stream, frame.size, 0
            self._pay(_PRICES.get(kind, _PRICE_OF_UNKNOWN))

    def _measure_continuation(self, frame: Frame) -> None:
        """A header section in several frames: bounded in bytes and in frames, nothing between them."""
        if not self._block or frame.kind != CONTINUATION or frame.stream != self._block:
            raise Breach(ErrorCode.PROTOCOL_ERROR, "CONTINUATION expected, or not")
        self._size += frame.size
        self._continuations += 1
        if self._size > MAX_HEAD or self._continuations > MAX_CONTINUATIONS:
            raise Breach(ErrorCode.ENHANCE_YOUR_CALM, "header section too long")
        if not frame.size:
            self._pay(_PRICE_OF_EMPTY)
        if frame.flags & END_HEADERS:
            self._block = 0

    def _measure_data(self, frame: Frame, opened: Container[int]) -> None:
        if frame.stream not in opened:
            self.stray()
        elif not frame.size and not frame.flags & END_STREAM:
            self._pay(_PRICE_OF_EMPTY)

    def _pay(self, price: float) -> None:
        if price and not self._chores.spend(price, self._now):
            raise Breach(ErrorCode.ENHANCE_YOUR_CALM, "too many frames that do no work")

    def padding(self) -> None:
        """A DATA frame turned out to have nothing in it but padding."""
        self._pay(_PRICE_OF_EMPTY)

    def piece(self, size: int) -> None:
        """A DATA frame has brought so many bytes of a body, one at least."""
        if not self._crumbs.spend(1 / size - size / _PAID_BY, self._now):
            raise Breach(ErrorCode.ENHANCE_YOUR_CALM, "bodies in too many too small pieces")

    def stray(self) -> None:
        """A frame was for a stream that is over."""
        self._pay(_PRICE_OF_STRAY)

    def refusal(self) -> None:
        """A request was no good: two thousand references to a table are 2000 bytes and 5 ms."""
        self._pay(_PRICE_OF_REFUSAL)

    def reset(self) -> None:
        """A stream was reset before its response was complete, by either side for what the client did."""
        if not self._resets.spend(1, self._now):
            raise Breach(ErrorCode.ENHANCE_YOUR_CALM, "too many resets")

    def served(self) -> None:
        """A response has been sent to its end."""
        self._chores.earn(_EARNED_BY_REQUEST)
        self._crumbs.earn(1)
        self._resets.earn(1)

    def sent(self, size: int, *, forced: bool) -> None:
        """A piece of body has been sent; `forced` to be that small, for the window allowed no more.

        What it costs is asked for with the next frame: what we do is no breach of the client's.
        """
        if forced and size < TINY:
            self._chores.spend(_PRICE_OF_TINY, self._now)
        else:
            self._chores.earn(_EARNED_BY_DATA + (size >> 10))
