"""Whether an HTTP/2 client takes too long over anything. One `Watch` for each `http2_server.Http2Server`.

As in `http_watch` one lazily set timer looks at a connection now and then; it looks at the streams as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rproxy.deadlines import Deadline, Deadlines
from rproxy.downstream.http_watch import LINGER
from rproxy.errors import PeerTimeout, Refusal, TooSlow
from rproxy.exchange import Exchange
from rproxy.transports import unacknowledged
from rproxy.wire.http2_events import ErrorCode

if TYPE_CHECKING:
    from rproxy.downstream.http2_server import Http2Server
    from rproxy.downstream.http2_stream import Stream

PING_AFTER: Final = 30.0
"""Seconds without a byte from a client with open streams after which it is asked whether it is there: below
the minute or more after which NATs and firewalls forget connections."""
PONG_WITHIN: Final = 20.0
"""Seconds within which it has to answer; grpc waits as long."""
LAST_CALL: Final = 1.0
"""Seconds between the two GOAWAY of a drain, at most: several round trips."""
_ALIVE, _LAST = b"rproxy-a", b"rproxy-l"


class Watch:
    """The time limits of one connection."""

    def __init__(self, server: Http2Server, deadlines: Deadlines) -> None:
        self._server, self._limits, self._deadlines = server, server.limits, deadlines
        self._timer: Deadline | None = None
        self._last: Deadline | None = None
        now = server.watcher.seconds()
        self._heard_at = self._idle_since = self._partial_since = self._seen_at = now
        self._pinged_at: float | None = None
        # By stream: the bytes it had moved at the last look, and since when that is so.
        self._moved: dict[int, tuple[int, float]] = {}
        self._heads = self._seen = -1

    def begin(self) -> None:
        """Look again after a while."""
        self._timer = self._deadlines.after(self._limits.look_every, self._look)

    def stop(self) -> None:
        """Never look again."""
        for deadline in (self._timer, self._last):
            if deadline is not None:
                deadline.drop()
        self._timer = self._last = None

    def heard(self) -> None:
        """Bytes came from the client."""
        self._heard_at, self._pinged_at = self._server.watcher.seconds(), None

    def idle(self) -> None:
        """The last stream is over."""
        self._idle_since = self._server.watcher.seconds()

    def ask_for_last(self) -> None:
        """Call `Http2Server.call_last` once the client has answered, or after a second."""
        self._server.codec.ping(_LAST)
        self._last = self._deadlines.after(LAST_CALL, self._server.call_last)

    def ponged(self, payload: bytes) -> None:
        """The client has answered a PING."""
        if payload == _LAST:
            self._server.call_last()

    def linger(self) -> None:
        """The last word is written: wait a moment for a client that still sends, then cut it off."""
        self.stop()
        self._timer = self._deadlines.after(LINGER, self._stop_lingering)

    def _stop_lingering(self) -> None:
        """Enough, unless something is still on its way to a slow client."""
        self._timer = None
        server = self._server
        if not unacknowledged(server.transport) or self._is_stuck(server.watcher.seconds()):
            server.abort()
        else:
            self._timer = self._deadlines.after(LINGER, self._stop_lingering)

    def _look(self) -> None:
        """Now and then: is this connection taking too long over anything?"""
        self._forget_timer()
        server = self._server
        now = server.watcher.seconds()
        self._look_at_streams(now)
        server.go_on()
        if not server.closing:
            self._look_at_connection(now)
        elif self._is_stuck(now):
            server.abort()
        if self._timer is None and server.connected:
            self.begin()

    def _forget_timer(self) -> None:  # in a call, see `http_watch`
        self._timer = None

    def _look_at_streams(self, now: float) -> None:
        before, self._moved = self._moved, {}
        for stream in list(self._server.streams.values()):
            # What comes behind an answer is dropped: a client that takes none of it does not live by that.
            moved = stream.sent if stream.over else stream.received + stream.sent
            known = before.get(stream.number)
            since = known[1] if known is not None and known[0] == moved else now
            self._moved[stream.number] = moved, since
            self._look_at_stream(stream, now, now - since)

    def _look_at_stream(self, stream: Stream, now: float, still: float) -> None:
        """Does it take too long over anything? Nothing has moved for `still` seconds. As in `http_watch`."""
        exchange = stream.exchange
        route = exchange.route if exchange is not None else None
        patience = route.body_timeout if route is not None else self._limits.body
        if stream.is_late:
            if now - stream.ended >= LINGER:
                stream.stop_client()
        elif stream.tunnel is not None:
            if route is not None and 0 < route.tunnel_idle <= still:
                stream.end_tunnel(ErrorCode.CANCEL)
        elif exchange is None or stream.over:
            if 0 < patience <= still:
                stream.give_up()
        elif not exchange.overdue(now):
            if 0 < patience <= still and not exchange.waiting_for_peer:
                exchange.refuse(_who_is_stuck(stream, exchange))
            elif self._is_too_slow(stream, now):
                exchange.refuse(TooSlow("the body came too slowly"))

    def _is_too_slow(self, stream: Stream, now: float) -> bool:
        limits, spent, request = self._limits, now - stream.since, stream.request
        if stream.input_ended or stream.held or stream.awaits_tunnel:
            return False
        if stream.exchange is not None and stream.exchange.responded:
            return False  # they talk with each other, as slowly as they like: `body_timeout` sees to silence
        if request is not None and request.expects_continue and not stream.received:
            return False  # the peer has not asked for it
        return limits.min_rate > 0 and limits.rate_grace < spent and stream.received < limits.min_rate * spent

    def _look_at_connection(self, now: float) -> None:
        server = self._server
        if self._is_stuck(now):
            server.abort()
        elif self._is_in_head(now):
            server.leave(ErrorCode.ENHANCE_YOUR_CALM)
        elif server.streams:
            if not server.input_ended:  # else it cannot answer
                self._ask_whether_alive(now)
        elif now - self._idle_since >= self._limits.keep_alive:
            server.leave(ErrorCode.NO_ERROR)

    def _is_stuck(self, now: float) -> bool:
        """Whether there are bytes for the client, and none has arrived there for too long."""
        left = unacknowledged(self._server.transport)
        arrived = self._server.written - left
        if arrived != self._seen or not left:
            self._seen, self._seen_at = arrived, now
        return bool(0 < self._limits.body <= now - self._seen_at)

    def _is_in_head(self, now: float) -> bool:
        """Whether a preface or a header section, which holds up everything behind it, takes too long."""
        codec = self._server.codec
        if not codec.partial or codec.heads != self._heads:
            self._heads, self._partial_since = codec.heads, now
        return bool(now - self._partial_since >= self._limits.head)

    def _ask_whether_alive(self, now: float) -> None:
        """For a client that is gone without a word: its requests may wait for hours."""
        if self._pinged_at is not None:
            if now - self._pinged_at >= PONG_WITHIN:
                self._server.abort()
        elif now - self._heard_at >= PING_AFTER:
            self._pinged_at = now
            self._server.codec.ping(_ALIVE)
            self._server.go_on()


def _who_is_stuck(stream: Stream, exchange: Exchange) -> Refusal:
    """Of the two: a client that sends nothing or takes nothing, or a peer that does so."""
    if stream.wants_turn if exchange.responded else not stream.held:
        return TooSlow("the client neither sent nor took a byte")
    return PeerTimeout("the peer neither sent nor took a byte")
