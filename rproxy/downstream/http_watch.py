"""Whether an HTTP/1 client takes too long over anything. One `Watch` for each `http_server.HttpServer`.

A connection is looked at now and then by one lazily set timer; all of a client's time limits are here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rproxy.deadlines import Deadline, Deadlines
from rproxy.errors import PeerTimeout, Refusal, TooSlow
from rproxy.exchange import Exchange
from rproxy.transports import unacknowledged

if TYPE_CHECKING:
    from rproxy.downstream.http_server import HttpServer

LINGER: Final = 2.0
"""Seconds for which a client that still sends is listened to after the last answer."""
STREAMS: Final = 64
"""Requests at a time on one HTTP/2 connection, as rpxy: browsers ask for 100 and are content with less."""
LOOKS: Final = 4
"""Looks at a connection per shortest time limit: a limit is exceeded by at most a quarter."""


class HttpLimits:
    """A client's time, in seconds; `min_rate` is bytes per second, asked after `rate_grace`; 0: none.

    `shortest` is the shortest time limit of any route. Each route has its own for bodies and tunnels.
    `streams` is how many requests at a time an HTTP/2 connection may have. Never changed once made.
    """

    def __init__(
        self,
        head: float = 20.0,
        keep_alive: float = 75.0,
        body: float = 60.0,
        min_rate: float = 100.0,
        rate_grace: float = 10.0,
        shortest: float = 60.0,
        streams: int = STREAMS,
    ) -> None:
        self.head, self.keep_alive, self.body = head, keep_alive, body
        self.min_rate, self.rate_grace, self.shortest, self.streams = min_rate, rate_grace, shortest, streams
        self.look_every = max(0.05, min(20.0, head, keep_alive, body, shortest) / LOOKS)
        """Seconds after which a connection has to be looked at again."""


class Watch:
    """The time limits of one connection."""

    __slots__ = ("_deadlines", "_limits", "_seen", "_seen_at", "_server", "_timer")

    def __init__(self, server: HttpServer, limits: HttpLimits, deadlines: Deadlines) -> None:
        self._server, self._limits, self._deadlines = server, limits, deadlines
        self._timer: Deadline | None = None
        self._seen = -1
        self._seen_at = 0.0

    def begin(self) -> None:
        """Look again after a while."""
        self._timer = self._deadlines.after(self._limits.look_every, self._look)

    def stop(self) -> None:
        """Never look again."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.drop()

    def forget(self) -> None:
        """Something else moves bytes from now on."""
        self._seen = -1

    def linger(self) -> None:
        """The last answer is written: wait a moment for a client that still sends, then cut it off."""
        self.stop()
        self._timer = self._deadlines.after(LINGER, self._stop_lingering)

    def _stop_lingering(self) -> None:
        """Enough, unless the answer is still on its way to a slow client."""
        self._forget_timer()
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
        if server.tunnel is not None:
            self._look_at_tunnel(now)
        elif server.exchange is not None:
            self._look_at_exchange(server.exchange, now)
        elif server.closing or server.full:
            if self._is_stuck(now):
                server.abort()
        elif server.partial:
            if now - server.since >= self._limits.head:
                server.refuse_unread(TooSlow("the request's head took too long"))
        elif now - server.since >= (self._limits.head if server.request is None else self._limits.keep_alive):
            server.close()
        if self._timer is None and server.connected:
            self.begin()

    def _forget_timer(self) -> None:  # in a call, or the compiler would know that it is None from here on
        self._timer = None

    def _look_at_tunnel(self, now: float) -> None:
        server = self._server
        tunnel, exchange = server.tunnel, server.exchange
        assert tunnel is not None
        assert exchange is not None  # a tunnel stays the exchange that it began as
        assert exchange.route is not None
        moved = tunnel.moved + (tunnel.far.moved if tunnel.far is not None else 0)
        if self._stalled(moved, now, exchange.route.tunnel_idle):
            server.abort()

    def _look_at_exchange(self, exchange: Exchange, now: float) -> None:
        if exchange.overdue(now):
            return
        waiting = exchange.waiting_for_peer
        if self._is_stuck(now) and not waiting:
            exchange.refuse(self._who_is_stuck(exchange))
        elif not self._server.reader.complete and not self._server.held and self._too_slow_body(now):
            exchange.refuse(TooSlow("the body came too slowly"))

    def _who_is_stuck(self, exchange: Exchange) -> Refusal:
        """Of the two: a client that sends nothing or takes nothing, or a peer that does so."""
        if unacknowledged(self._server.transport) if exchange.responded else not self._server.held:
            return TooSlow("the client neither sent nor took a byte")
        return PeerTimeout("the peer neither sent nor took a byte")

    def _is_stuck(self, now: float) -> bool:
        """Whether no byte has come from the client, or arrived at it, for too long."""
        server = self._server
        pump = server.pump
        moved = pump.moved - pump.held if pump is not None else 0
        route = server.exchange.route if server.exchange is not None else None
        patience = route.body_timeout if route is not None else self._limits.body
        return self._stalled(server.progress + moved - unacknowledged(server.transport), now, patience)

    def _stalled(self, progress: int, now: float, limit: float) -> bool:
        if progress != self._seen:
            self._seen, self._seen_at = progress, now
        return limit > 0 and now - self._seen_at >= limit

    def _too_slow_body(self, now: float) -> bool:
        server, limits = self._server, self._limits
        spent, request = now - server.since, server.request
        if request is not None and request.expects_continue and not server.body_bytes:
            return False  # the peer has not asked for it
        return (
            limits.min_rate > 0 and spent > limits.rate_grace and server.body_bytes < limits.min_rate * spent
        )
