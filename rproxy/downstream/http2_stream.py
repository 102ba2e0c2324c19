"""One request of an HTTP/2 connection, as its `Exchange` sees it. Made by `http2_server`.

Both directions are held back by whoever is slower. What the client sends is given back to its window when
the peer has taken it; what the peer sends waits here, at most `MOST_QUEUED` bytes and one read, until it is
this stream's turn, the client's window has room and the transport takes more.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from mypy_extensions import mypyc_attr

from rproxy.downstream.http2_tunnel import StreamTransport, WebSocketKey
from rproxy.downstream.refusals import page_of
from rproxy.downstream.tunnel import open_tunnel
from rproxy.errors import Refusal
from rproxy.exchange import Client, Exchange
from rproxy.relay import End
from rproxy.sites import Site
from rproxy.upstream.http_client import HttpClient
from rproxy.wire.http2_connection import JOIN_BELOW
from rproxy.wire.http2_events import ErrorCode
from rproxy.wire.message import BadResponse, Fields, Framing, Headers, Piece, Request

if TYPE_CHECKING:
    from rproxy.downstream.http2_server import Http2Server

MOST_QUEUED: Final = 65536
"""Bytes of a response that wait for the client; then the peer is not read. One read of it may come on top."""
MOST_DISCARDED: Final = 1 << 20
"""Bytes of a request that are dropped after its response; then the client is told to stop."""
FEW_QUEUED: Final = 16384
"""Bytes below which the peer is read again: one frame, so that the next is there when its turn comes."""

_LENGTH: Final = Framing.LENGTH


@mypyc_attr(allow_interpreted_subclasses=True)
class Stream(Client):
    """One request. What the exchange calls is documented at `exchange.Client`."""

    def __init__(self, server: Http2Server, number: int, request: Request | None, ended: bool) -> None:
        """`request` is None for one that was refused before it was one; `ended` if it has no body."""
        self._server, self._codec, self.number = server, server.codec, number
        self.reactor, self.watcher = server.reactor, server.watcher
        self.sites, self.arrival = server.sites, server.arrival
        self.facts, self.secure = server.facts, server.secure
        self.exchange: Exchange | None = None
        self._key: WebSocketKey | None = None
        self.since = self.ended = server.watcher.seconds()
        self.sent = self.received = self.status = self._queued = 0
        self.reason = self._id = ""
        self.in_line = False
        """Whether it waits for its turn, see `http2_turns`."""
        self._queue: deque[Piece] = deque()
        self._waiting: deque[tuple[Piece, int]] = deque()
        self._trailers: Headers | None = None
        self._client_trailers: Headers | None = None
        self.input_ended = ended
        """Whether the client has said all it will say."""
        self.held = self._full = self._done = self.closed = self.over = self._gone = False
        self.is_late = False
        """Whether the request was answered and written down; what still comes is dropped."""
        self._enough = self._answer = 0
        self.tunnel: End | None = None
        self._transport: StreamTransport | None = None
        self.request = request
        # Nothing of a tunnel's is a body: it waits until there is one.
        self.awaits_tunnel = request is not None and (bool(request.upgrade) or request.method == b"CONNECT")

    def request_id(self) -> str:
        """The number of the request, the same in its error page and in the log."""
        self._id = self._id or self._server.answers.next_id()
        return self._id

    @property
    def tls_version(self) -> str:
        """As in "TLSv1.3"; empty in clear text."""
        return self._server.tls_version

    @property
    def wants_turn(self) -> bool:
        """Whether something waits here to be sent."""
        return bool(self._queue) or (self._done and not self.closed)

    @property
    def is_blocked(self) -> bool:
        """Whether that is bytes of body, for which the connection's window has no room."""
        return bool(self._queue) and self._codec.room_in_all <= 0

    def begin(self, request: Request) -> None:
        """Have it served."""
        if request.upgrade:
            self._key = WebSocketKey(self._server.random(16))
            request = self.request = self._key.put_into(request)
        exchange = self.exchange = Exchange(self, request)
        exchange.start(self.since)

    def refuse_unread(self, refusal: Refusal) -> None:
        """It never became a request: answer, if that can be done."""
        self.over = True
        self.refuse(refusal, None)
        self._settle()

    def body(self, piece: Piece, credit: int) -> None:
        """A piece of the request's body came; `credit` bytes of window are given back for it."""
        if self.held or self.awaits_tunnel:
            self._keep_waiting(piece, credit)
        else:
            self._pass_on(piece, credit)

    def _keep_waiting(self, piece: Piece, credit: int) -> None:
        """Small pieces become one: a client may send a byte at a time, of two streams in turns."""
        waiting = self._waiting
        if waiting and len(piece) < JOIN_BELOW and len(waiting[-1][0]) < JOIN_BELOW:
            last, owed = waiting.pop()
            piece, credit = b"".join((last, piece)), owed + credit
        waiting.append((piece, credit))

    def _pass_on(self, piece: Piece, credit: int) -> None:
        self.received += len(piece)
        if self.is_late and self.received > self._enough:
            self.stop_client()
        elif self.tunnel is not None:
            self.tunnel.dataReceived(bytes(piece))
        elif self.exchange is not None and not self.over:
            self.exchange.request_piece(piece)
        self._codec.credit(self.number, credit)

    def stop_client(self) -> None:
        """What the client still has to say here is of no use (RFC 9113 §8.1)."""
        self._codec.reset(self.number, ErrorCode.NO_ERROR)
        self._server.discard(self)

    def body_end(self, trailers: Headers | None) -> None:
        """The request's body is complete."""
        self.input_ended, self._client_trailers = True, trailers
        if self.is_late:
            self._server.discard(self)
        elif not self._waiting and not self.awaits_tunnel:
            self._end_body()

    def _end_body(self) -> None:
        if self.tunnel is not None:
            self.tunnel.readConnectionLost()
        elif self.exchange is not None:
            self.exchange.request_end(self._client_trailers)

    def hold_body(self, held: bool) -> None:
        """See `exchange.Client`."""
        self.held = held
        if held or not self._waiting or self.awaits_tunnel:
            return
        while self._waiting and not self.held:
            self._pass_on(*self._waiting.popleft())
        if self.input_ended and not self._waiting:
            self._end_body()
        self._server.go_on()

    def interim(self, status: int, reason: bytes, fields: Fields) -> None:
        """See `exchange.Client`."""
        self._codec.send_head(self.number, status, fields, False)
        self._server.go_on()

    def respond(self, status: int, reason: bytes, fields: Fields, framing: Framing, length: int) -> None:
        """See `exchange.Client`."""
        if self._key is not None and 200 <= status < 300:
            self._refuse_again(BadResponse("an answer that would look like a tunnel"))
            return
        if framing is _LENGTH:
            fields.own.append((b"content-length", b"%d" % length))
        self._send_head(status, fields, framing is Framing.NONE or (framing is _LENGTH and not length))

    def _send_head(self, status: int, fields: Fields, ends: bool) -> None:
        self._codec.send_head(self.number, status, fields, ends)
        self._answer, self.closed = status, self.closed or ends

    def _refuse_again(self, refusal: Refusal) -> None:
        """The peer seems to have responded; but nothing of it has been told to the client."""
        exchange = self.exchange
        assert exchange is not None
        self._key, exchange.responded, exchange.switched = None, False, False
        exchange.refuse(refusal)

    def piece(self, piece: Piece) -> None:
        """See `exchange.Client`."""
        if self.closed:
            return
        self._queue.append(piece)
        self._queued += len(piece)
        if self._queued >= MOST_QUEUED and not self._full:
            self._full = True
            if self._transport is not None:
                self._transport.full()
            elif self.exchange is not None:
                self.exchange.client_full()

    def end(self, trailers: Headers | None) -> None:
        """See `exchange.Client`."""
        self._done, self._trailers = True, trailers

    def flush(self) -> None:
        """See `exchange.Client`."""
        self._server.stand_in_line(self)
        self._server.go_on()

    def send(self) -> int:
        """Use a turn: send a frame if the client's window has room; how many bytes of body that was."""
        queue, codec = self._queue, self._codec
        if not queue:
            if self._done and not self.closed:
                self._send_end()
            return 0
        piece = codec.cut(self.number, queue)
        if piece is None:
            return 0
        self._queued -= len(piece)
        self.sent += len(piece)
        is_last = self._done and not queue
        codec.send_body(self.number, piece, is_last and self._trailers is None)
        if not is_last:
            self._take_more()
        elif self._trailers is None:
            self._sent_all()
        else:
            self._send_end()
        return len(piece)

    def _take_more(self) -> None:
        if not self._full or self._queued >= FEW_QUEUED:
            return
        self._full = False
        if self._transport is not None:
            self._transport.ready()
        elif self.exchange is not None:
            self.exchange.client_ready()

    def _send_end(self) -> None:
        """What comes behind the last byte of a body."""
        if self._trailers is not None:
            self._codec.send_trailers(self.number, self._trailers.pairs)
        else:
            self._codec.send_body(self.number, b"", True)
        self._sent_all()

    def _sent_all(self) -> None:
        self.closed = True
        if self._transport is not None and self._transport.losing:
            self.end_tunnel(ErrorCode.NO_ERROR)
        self._settle()

    def finished(self, exchange: Exchange) -> None:
        """See `exchange.Client`."""
        self.over, self.held, self.awaits_tunnel = True, False, False
        waiting, self._waiting = self._waiting, deque()
        for _, credit in waiting:  # the peer has no use for them any more
            self._codec.credit(self.number, credit)
        self._settle()
        if self.wants_turn:
            self._server.stand_in_line(self)
        self._server.go_on()

    def refuse(self, refusal: Refusal, site: Site | None) -> None:
        """See `exchange.Client`; also for a request that never became an exchange."""
        self.status, self.reason = refusal.status or 500, refusal.reason
        page = page_of(self, self._server.answers, refusal, self.request, site)
        page.fields.own.append((b"content-length", b"%d" % page.length))
        self._send_head(page.status, page.fields, not page.body)
        if page.body:
            self.piece(page.body)
            self.end(None)
            self._server.stand_in_line(self)

    def cut(self) -> None:
        """See `exchange.Client`: a response that ends here must not look complete."""
        self._codec.reset(self.number, ErrorCode.INTERNAL_ERROR)
        self._drop_output()

    def gone(self, refusal: Refusal | None) -> None:
        """The client has left this stream, or with `refusal` has made a mistake in it and it was reset."""
        self._drop_output()
        exchange = self.exchange
        if self.is_late:
            self._server.discard(self)
        elif self.tunnel is not None:
            self.end_tunnel(None)
        elif exchange is None or self.over:
            if exchange is not None:
                exchange.reason = "client_left"
            self._settle()
        elif refusal is not None:
            exchange.refuse(refusal)
        else:
            exchange.cancel()

    def give_up(self) -> None:
        """The client does not take the rest of a response that is complete."""
        self._codec.reset(self.number, ErrorCode.CANCEL)
        self.gone(None)

    def _drop_output(self) -> None:
        self.closed, self._gone, self._queued = True, True, 0
        self._queue.clear()

    def _settle(self) -> None:
        """Once all was sent and all was said: write it down, and let go.

        Who still sends is told to stop; who was refused gets a moment, or curl 7.88 loses the answer.
        """
        if self.closed and self.over and not self.is_late:
            self.is_late, self.ended = True, self.watcher.seconds()
            self._enough = self.received + MOST_DISCARDED
            self._server.answers.served(self, self.request, self.exchange, self.since, self.ended)
            if self.input_ended or self._gone:
                self._server.discard(self)
            elif self._answer < 400:
                self.stop_client()

    def switch(self, status: int, reason: bytes, fields: Fields, upstream: HttpClient) -> None:
        """See `exchange.Client`. To the client it is a 200 either way (RFC 8441 §5, RFC 9113 §8.5)."""
        if self._key is not None and not self._key.is_proven_by(fields):
            upstream.close()
            self._refuse_again(BadResponse("Sec-WebSocket-Accept is wrong"))
            return
        answer = fields if self._key is None else self._key.taken_from(fields)
        self._codec.send_head(self.number, 200, answer, False)
        if self.exchange is not None:
            self.exchange.status = 200
        transport = self._transport = StreamTransport(self)
        self.tunnel = open_tunnel(transport, upstream, self._server.pipes)
        self.awaits_tunnel = False
        if not self._waiting and self.input_ended:
            self._end_body()
        self.hold_body(self.held)
        self._server.go_on()

    def end_tunnel(self, code: ErrorCode | None) -> None:
        """Both directions are over; with a code the stream is reset, too."""
        if code is not None:
            self._codec.reset(self.number, code)
        tunnel, self.tunnel = self.tunnel, None
        exchange = self.exchange
        if tunnel is not None and exchange is not None and self._transport is not None:
            self._drop_output()
            self._transport.lost(tunnel, code is ErrorCode.NO_ERROR)
            exchange.cancel()
