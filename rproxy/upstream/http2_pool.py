"""The HTTP/2 connections to one peer, and those who wait for room on one. Made by `http_client.HttpPeer`.

Whoever asks takes a place on the first connection that has one. When none has, another connection is made,
one at a time and `MOST_CONNECTIONS` at most; it counts when the peer has said its SETTINGS, so that whoever
waits for it knows that nothing was sent when it fails.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, cast

from twisted.internet.interfaces import IProtocol

from rproxy.errors import NoPeer, Refusal
from rproxy.policy.balance import InOrder
from rproxy.upstream.asking import HttpClient, Pool, Waiting
from rproxy.upstream.connect import SEARCH, Dial
from rproxy.upstream.http2_client import Http2Client
from rproxy.upstream.http2_requests import Requests
from rproxy.upstream.http2_stream import Http2Stream
from rproxy.upstream.http_client import HttpPeer
from rproxy.upstream.peer import Group, Peer

MOST_CONNECTIONS: Final = 64
"""To one peer; with 100 requests on each that is several times as many as there are clients by default."""
DRAINING: Final = 4
"""Times as many that only end what they have begun, as tunnels do for hours; they take no place."""
LOOKS: Final = 4
"""Looks at the connections per the time that idle ones are kept."""
LOOK_EVERY: Final = 5.0
"""Seconds between two of them at most, so that peers which are gone are noticed."""


class Http2Pool(Pool):
    """The pool of one peer."""

    def __init__(self, peer: HttpPeer) -> None:
        self._peer = peer
        self.most = MOST_CONNECTIONS
        self.connections: list[Http2Client] = []
        self._alone = 0
        self._queue: dict[Waiting, None] = {}
        self._dial: Dial | None = None
        self._making: Http2Client | None = None
        self.clock: Any = None
        self._timeout = 0.0
        self._looking = self._serving = False

    def take(self) -> HttpClient | None:
        """See `asking.Pool`."""
        for connection in self.connections:
            if connection.room > 0:
                return Http2Stream(connection)
        return None

    def wait(
        self,
        clock: Any,
        timeout: float,
        ready: Callable[[HttpClient], object],
        failed: Callable[[Refusal], object],
    ) -> Waiting:
        """See `asking.Pool`."""
        self.clock, self._timeout = clock, timeout
        return self.wait_again(ready, failed)

    def wait_again(
        self, ready: Callable[[HttpClient], object], failed: Callable[[Refusal], object]
    ) -> Waiting:
        """The same for one that has been here; a search may last as long as in `connect`."""
        waiting = _Waiting(self, ready, failed)
        self._queue[waiting] = None
        waiting.timer = self.clock.callLater(SEARCH * self._timeout, self._late, waiting)
        self._serve_later()
        return waiting

    def _late(self, waiting: Waiting) -> None:
        waiting.cancel()
        waiting.failed(NoPeer("all connections to the peer are in use, or none came about in time"))

    def forget_waiting(self, waiting: Waiting) -> None:
        """Somebody waits no more."""
        self._queue.pop(waiting, None)

    def _serve_later(self) -> None:
        """Not now: whoever asks is not ready to be answered."""
        self.clock.callLater(0, self._serve)

    def _serve(self) -> None:
        """Give places to those who wait, the first one first; where there is none, have one made."""
        if self._serving:
            return
        self._serving = True
        try:
            self._give_places()
        finally:
            self._serving = False

    def _give_places(self) -> None:
        while self._queue:
            place = self.take()
            if place is None:
                self._connect()
                return
            waiting = next(iter(self._queue))
            waiting.cancel()
            waiting.ready(place)

    def _connect(self) -> None:
        if self._dial is not None or self._making is not None or self._has_enough():
            return
        self._dial = dial = Dial(
            self.clock, Group([self._peer], InOrder()), "", self._timeout, self._made, self._refused, most=1
        )
        dial.start()

    def _has_enough(self) -> bool:
        """Whether another connection is one too many, or would have no room either."""
        if len(self.connections) >= DRAINING * self.most:
            return True
        if sum(not client.draining for client in self.connections) >= self.most:
            return True
        return any(not client.streams and not client.draining for client in self.connections)

    def _made(self, peer: Peer) -> IProtocol:
        """The peer has accepted. A connection is nobody's request, which is what is counted."""
        self._dial = None
        peer.open -= 1
        self._making = client = Http2Client(self._peer, self.clock, self)
        return self._wrapped(client)

    def _wrapped(self, client: Any) -> IProtocol:
        tls = self._peer.tls
        return cast(IProtocol, client if tls is None else tls.wrap(client))

    def _refused(self, refusal: Refusal) -> None:
        """The peer did not accept; that has been noted."""
        self._dial = None
        self._fail(refusal)

    def _fail(self, refusal: Refusal) -> None:
        """Those who wait need not wait any longer, unless places on other connections may become free."""
        if any(not client.draining for client in self.connections):
            return
        for waiting in list(self._queue):
            if not waiting.over:  # or one that failed before has ended this one, too
                waiting.cancel()
                waiting.failed(refusal)

    def settled(self, client: Requests) -> None:
        """The client's call: it may be asked."""
        made = self._making
        if made is None or made is not client:
            return  # it is for one stream, which knows
        self._making = None
        self.connections.append(made)
        self._look_later()
        self.changed(client)

    def failed(self, client: Requests, refusal: Refusal) -> None:
        """The client's call: it was lost before it could be asked."""
        if self._making is client:
            self._making = None
            self._peer.failed(self.clock.seconds(), str(refusal))
            self._fail(refusal)

    def changed(self, client: Requests) -> None:
        """The client's call: it may have room, or be of no use any more."""
        self._serve()
        if not client.streams and client.settled and (client.draining or not self._peer.keep):
            client.leave()

    def remove(self, client: Requests) -> None:
        """The client's call: it is closed."""
        if client.alone:
            self.count_alone(-1)
            return
        self.connections = [each for each in self.connections if each is not client]
        if self._queue:
            self._serve_later()

    def protocol(self, clock: Any, ready: Callable[[HttpClient], object]) -> IProtocol:
        """See `asking.Pool`."""
        self.count_alone(1)
        return self._wrapped(Http2Client(self._peer, clock, self, ready))

    def search(self, ready: Callable[[HttpClient], object], failed: Callable[[Refusal], object]) -> Waiting:
        """Have a connection made that is not to be shared; one of both is called later.

        Those that are looked for count as well: they may come in any number before the first one is there.
        """
        search = _Search(self, self._peer, self._timeout, ready, failed)
        if self._alone < self.most:
            search.take_place()
            search.timer = self.clock.callLater(0, search.start)
        else:
            search.timer = self.clock.callLater(0, search.give_up)
        return search

    def count_alone(self, change: int) -> None:
        """So many more, or less, connections are there or looked for that are not to be shared."""
        self._alone += change

    def close_idle(self, unused_since: float) -> None:
        """See `asking.Pool`."""
        for client in list(self.connections):
            if not client.streams and client.since <= unused_since:
                client.leave()

    def forget(self) -> None:
        """See `asking.Pool`."""
        dial = self._dial
        if dial is not None and not self._queue:
            self._dial = None
            dial.cancel()

    def _look_later(self) -> None:
        if not self._looking:
            self._looking = True
            self.clock.callLater(min(LOOK_EVERY, self._peer.keep_idle / LOOKS), self._look)

    def _look(self) -> None:
        self._looking = False
        now = self.clock.seconds()
        for client in list(self.connections):
            client.look(now)
        if self.connections:
            self._look_later()


class _Waiting(Waiting):
    """One that the pool forgets when it is over."""

    __slots__ = ("_pool",)

    def __init__(
        self, pool: Http2Pool, ready: Callable[[HttpClient], object], failed: Callable[[Refusal], object]
    ) -> None:
        super().__init__(ready, failed)
        self._pool = pool

    def cancel(self) -> None:
        """See `asking.Waiting`."""
        super().cancel()
        self._pool.forget_waiting(self)


class _Search(Waiting):
    """One that waits for a connection of its own."""

    __slots__ = ("_dial", "_has_place", "_pool")

    def __init__(
        self,
        pool: Http2Pool,
        peer: HttpPeer,
        timeout: float,
        ready: Callable[[HttpClient], object],
        failed: Callable[[Refusal], object],
    ) -> None:
        super().__init__(ready, failed)
        self._pool, self._has_place = pool, False
        group = Group([peer], InOrder())
        self._dial: Dial | None = Dial(pool.clock, group, "", timeout, self._made, self._refused, most=1)

    def take_place(self) -> None:
        """It is one of those that there may be."""
        self._has_place = True
        self._pool.count_alone(1)

    def _leave_place(self) -> None:
        """It is over, or the connection counts in its place."""
        if self._has_place:
            self._has_place = False
            self._pool.count_alone(-1)

    def start(self) -> None:
        """Begin to look for it."""
        if self._dial is not None:
            self._dial.start()

    def give_up(self) -> None:
        """There are too many such connections."""
        self.failed(NoPeer("too many connections to the peer"))

    def cancel(self) -> None:
        """See `asking.Waiting`."""
        super().cancel()
        self._leave_place()
        dial, self._dial = self._dial, None
        if dial is not None:
            dial.cancel()

    def _made(self, peer: Peer) -> IProtocol:
        self._dial = None
        peer.open -= 1
        self._leave_place()
        return self._pool.protocol(self._pool.clock, self._hand_over)

    def _hand_over(self, place: HttpClient) -> None:
        """The connection is there, perhaps too late."""
        if self.over:
            place.close()
        else:
            self.ready(place)

    def _refused(self, refusal: Refusal) -> None:
        self._dial = None
        self._leave_place()
        self.failed(refusal)
