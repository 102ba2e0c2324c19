"""Writes responses to an HTTP/1 client: framed for its version, a large rest moved by the kernel.

`ResponseWriter` is the half of an `HttpServer` that speaks, and inherited by it so that calls of the
exchange come straight here.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

from rproxy.exchange import Client, Exchange
from rproxy.splice import Pipes, Pump
from rproxy.transports import is_plain, write
from rproxy.wire.http1_write import chunk, framing_pairs, last_chunk, response_head
from rproxy.wire.message import Fields, Framing, Headers, Pair, Piece, Request

SPLICE_FROM: Final = 1 << 18
"""Bytes of a body still to come from which the kernel moves it; below, setting that up costs more."""
REASONS: Final = {status.value: status.phrase.encode() for status in HTTPStatus}
CLOSE: Final[Pair] = (b"Connection", b"close")
KEEP: Final[Pair] = (b"Connection", b"keep-alive")

_LENGTH: Final = Framing.LENGTH
_CHUNKED: Final = Framing.CHUNKED
_UNTIL_CLOSE: Final = Framing.UNTIL_CLOSE


class ResponseWriter(Client):
    """What is written on one connection, one response after another; see `exchange.Client`."""

    def __init__(self, pipes: Pipes) -> None:
        self.pipes = pipes
        self.transport: Any = None
        self.exchange: Exchange | None = None
        self.request: Request | None = None
        self.pump: Pump | None = None
        self.progress = 0
        """Bytes that have come from the client or were written to it; the kernel's are the pump's."""
        self.sent = 0
        """Bytes of the response's body."""
        self._out: list[Piece] = []
        self._chunked = self._keep = False

    def interim(self, status: int, reason: bytes, fields: Fields) -> None:
        """See `exchange.Client`."""
        self._write(response_head(status, reason, fields.own, fields.block))

    def respond(self, status: int, reason: bytes, fields: Fields, framing: Framing, length: int) -> None:
        """See `exchange.Client`."""
        request, own = self.request, fields.own
        old = request is not None and request.version == 10
        self._chunked = framing is _CHUNKED or framing is _UNTIL_CLOSE
        if self._chunked and old:
            self._chunked = self._keep = False
        elif self._chunked:
            own += framing_pairs(_CHUNKED, 0)
        elif framing is _LENGTH:
            own += framing_pairs(framing, length)
        if self._is_last():
            self._keep = False
        if not self._keep:
            own.append(CLOSE)
        elif old:
            own.append(KEEP)
        self._out.append(response_head(status, reason, own, fields.block))

    def _is_last(self) -> bool:
        """Whether no request will be read after the one that is answered."""
        raise NotImplementedError

    def piece(self, piece: Piece) -> None:
        """See `exchange.Client`."""
        self.sent += len(piece)
        if self._chunked:
            self._out += chunk(piece)
        else:
            self._out.append(piece)

    def end(self, trailers: Headers | None) -> None:
        """See `exchange.Client`."""
        if self._chunked:
            self._out.append(last_chunk(trailers.pairs if trailers is not None else ()))

    def flush(self) -> None:
        """See `exchange.Client`."""
        if self._out:
            self._write_out()
        if self.exchange is not None and not self._chunked:
            self._splice_rest(self.exchange)

    def _write_out(self) -> None:
        out = self._out
        if out:
            data = b"".join(out)
            out.clear()
            self._write(data)

    def _write(self, data: bytes) -> None:
        self.progress += len(data)
        write(self.transport, data)

    def _splice_rest(self, exchange: Exchange) -> None:
        """Let the kernel move the rest of a large response (see `splice`)."""
        upstream = exchange.upstream
        if self.pump is not None or upstream is None or upstream.body_left < SPLICE_FROM:
            return
        if is_plain(self.transport) and is_plain(upstream.transport):
            left = upstream.body_left
            self.pump = Pump(upstream.transport, self.transport, self.pipes, left, self._spliced)

    def _spliced(self) -> None:
        upstream = self.exchange.upstream if self.exchange is not None else None
        moved = self._stop_pump()
        if upstream is not None:
            upstream.skip(moved)

    def _stop_pump(self) -> int:
        """Read and write ourselves again; gives how many bytes the kernel has moved."""
        pump, self.pump = self.pump, None
        if pump is None:
            return 0
        pump.stop()
        self.sent += pump.moved
        self.progress += pump.moved
        return pump.moved
