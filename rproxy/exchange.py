"""One request and its response: route, peer, retry, deadlines. Made by `downstream.http_server`.

The straight line: `start` finds the route and a peer, `_ask` sends the rewritten head, and what
the peer answers goes to the client as it comes. The client's side is behind `Client`, the peer's
behind `upstream.asking`; neither knows the other, so that their HTTP versions may differ.
Here, and in `downstream.peek`, every `Refusal` ends.
"""

from __future__ import annotations

from typing import Any, Final, cast

from mypy_extensions import mypyc_attr

from rproxy.errors import BodyTooLarge, NoPeer, PeerTimeout, Redirect, Refusal
from rproxy.interfaces import Arrival
from rproxy.policy.forwarding import ClientFacts, agrees, upgrade_of
from rproxy.policy.grpc import is_grpc, status_of
from rproxy.sites import Route, Site, Sites
from rproxy.upstream.asking import Asking, HttpClient, Pool, Waiting
from rproxy.upstream.connect import Dial
from rproxy.upstream.http_client import HttpPeer
from rproxy.upstream.peer import Peer
from rproxy.watcher import Watcher
from rproxy.wire.message import BadRequest, BadResponse, Fields, Framing, Headers, Piece, Request, Response

IDEMPOTENT: Final = frozenset((b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"))
"""Methods that may be asked twice when the first time nothing came back (RFC 9110 §9.2.2)."""
CLIENT_LEFT: Final = 499
"""nginx's status for a client that left before it was answered; only in the log."""
MOST_HELD: Final = 65536
"""Bytes of a request's body that wait for a peer; then the client is not read."""
MOST_REPEATS: Final = 3
"""Times that a request is asked again at a peer that is not to blame. A connection that was idle breaks once;
a shared one may be renewed by others in between, and the request itself may be what breaks it."""

_CHUNKED: Final = Framing.CHUNKED


class NoTunnel(Refusal):
    """An upgrade, or a CONNECT, for a peer that cannot be asked for one (RFC 9110 §15.6.2)."""

    reason = "no_tunnel"
    status = 501


@mypyc_attr(allow_interpreted_subclasses=True)
class Client:
    """The client's side of an exchange: one request of a connection, or one stream.

    A class to inherit from, so that calls into it are cheap when this is compiled.
    """

    reactor: Any
    watcher: Watcher
    sites: Sites
    arrival: Arrival
    facts: ClientFacts
    secure: bool
    sent: int
    """Bytes of the response's body."""
    status: int
    reason: str
    """What a request was refused with that never became one."""

    @property
    def tls_version(self) -> str:
        """As in "TLSv1.3"; empty in clear text."""
        return ""

    def request_id(self) -> str:
        """The number of the request that is served, the same in its error page and in the log."""
        return ""

    def respond(self, status: int, reason: bytes, fields: Fields, framing: Framing, length: int) -> None:
        """The head of the final response; `fields` are the client's to add to."""

    def interim(self, status: int, reason: bytes, fields: Fields) -> None:
        """A 1xx head."""

    def piece(self, piece: Piece) -> None:
        """A piece of the response's body."""

    def end(self, trailers: Headers | None) -> None:
        """The response is complete."""

    def flush(self) -> None:
        """Everything since the last flush may leave now."""

    def refuse(self, refusal: Refusal, site: Site | None) -> None:
        """Answer with an error page (or a redirect) and end the response."""

    def cut(self) -> None:
        """The response cannot be completed: the client has to notice."""

    def switch(self, status: int, reason: bytes, fields: Fields, upstream: HttpClient) -> None:
        """The peer agreed to an upgrade or a CONNECT: from now on both connections are one tunnel."""

    def hold_body(self, held: bool) -> None:
        """Read no more of the request's body for now, or go on."""

    def finished(self, exchange: Exchange) -> None:
        """Everything has been said; called once."""


class Exchange(Asking):
    """One request, from its head to the end of its response."""

    __slots__ = (
        "_body_done",
        "_client",
        "_dial",
        "_forced",
        "_held",
        "_held_size",
        "_is_call",
        "_over",
        "_peer",
        "_repeats",
        "_route",
        "_sent_body",
        "_trailers",
        "_tried",
        "_upstream",
        "_waiting",
        "_waits_since",
        "answered_at",
        "asked_at",
        "reason",
        "request",
        "responded",
        "site",
        "status",
        "switched",
        "target",
    )

    def __init__(self, client: Client, request: Request) -> None:
        self._client, self.request = client, request
        self.site: Site | None = None
        self._route: Route | None = None
        self._forced: bytes | None = None
        self._peer: HttpPeer | None = None
        self._upstream: HttpClient | None = None
        self._dial: Dial | None = None
        self._waiting: Waiting | None = None
        self._tried: list[Peer] = []
        self._held: list[Piece] | None = None
        self._held_size = 0
        self._trailers: Headers | None = None
        self._body_done = request.framing is not _CHUNKED and not request.length
        self._sent_body = self._repeats = 0
        self.asked_at = 0.0
        self.answered_at = 0.0
        self._waits_since = 0.0
        self._over = False
        self.responded = False
        self._is_call = False
        self.switched = False
        """Whether both connections are a tunnel now."""
        self.status, self.reason, self.target = 0, "ok", b""

    @property
    def peer_name(self) -> str:
        """The peer that was asked last, for the log; empty when none was."""
        return cast(HttpPeer, self._tried[-1]).origin if self._tried else ""

    @property
    def route(self) -> Route | None:
        """What serves the request, once that is known."""
        return self._route

    @property
    def upstream(self) -> HttpClient | None:
        """The connection that is asked, while it is."""
        return self._upstream

    @property
    def waiting_for_peer(self) -> bool:
        """Whether it is the peer's turn: the request has been sent, no response has begun."""
        return self._body_done and not self.responded

    def start(self, now: float) -> None:
        """Find the route and ask a peer; may end the exchange before it returns."""
        client = self._client
        try:
            self.site, self._route, self._forced = client.sites.route(
                self.request, client.arrival, client.secure, client.facts
            )
        except Refusal as refusal:
            self.site = refusal.site
            self._refuse(refusal)
            return
        self._find_peer(None, now)

    def _find_peer(self, last: Refusal | None, now: float) -> None:
        """A connection to a peer, kept or new; `last` is what the client is told when no peer is left."""
        route, client = self._route, self._client
        assert route is not None
        peer = route.sticky.peer(self.request, now) if route.sticky is not None and not self._tried else None
        if peer is None:
            peer = route.group.pick(client.facts.node, self._tried, now)
        if peer is None or len(self._tried) > route.retries:
            self._refuse(NoPeer("all peers are down") if last is None else self._verdict(last, now))
            return
        http_peer = cast(HttpPeer, peer)
        upstream = http_peer.take_idle()
        if upstream is not None:
            self._enter(http_peer)
            self._ask(upstream, now)
        elif http_peer.pool is not None:
            self._enter(http_peer)
            self._wait_for(http_peer.pool, route)
        else:
            self._dial_from(peer, route)

    def _enter(self, peer: HttpPeer) -> None:
        self._tried.append(peer)
        self._peer = peer
        peer.open += 1

    def _wait_for(self, pool: Pool, route: Route) -> None:
        """Its connections are all in use, or are still to be made."""
        self._waiting = pool.wait(
            self._client.reactor, route.connect_timeout, self._has_room, self._has_no_room
        )

    def _has_room(self, upstream: HttpClient) -> None:
        self._waiting = None
        self._ask(upstream, self._client.watcher.seconds())

    def _has_no_room(self, refusal: Refusal) -> None:
        self._waiting = None
        self._leave_peer()
        self._find_peer(refusal, self._client.watcher.seconds())

    def _dial_from(self, peer: Peer, route: Route) -> None:
        client = self._client
        self._dial = Dial(
            client.reactor,
            route.group,
            client.facts.node,
            route.connect_timeout,
            self._made,
            self._no_peer,
            tried=self._tried,
            most=route.retries + 1,
        )
        self._dial.start(peer)

    def _verdict(self, last: Refusal, now: float) -> Refusal:
        """What the client is told: why the last peer failed, or that none is left."""
        assert self._route is not None
        return self._route.group.verdict(last, self._tried, now)

    def _made(self, peer: Peer) -> Any:
        """A peer has accepted: what its transport is given to."""
        self._dial, self._peer = None, cast(HttpPeer, peer)
        return self._peer.protocol(self._client.reactor, self._connected)

    def _no_peer(self, refusal: Refusal) -> None:
        self._dial = None
        self._refuse(refusal)

    def _connected(self, upstream: HttpClient) -> None:
        if self._over:  # an endpoint may take its time between accepting and handing over
            upstream.close()
        else:
            self._ask(upstream, self._client.watcher.seconds())

    def _ask(self, upstream: HttpClient, now: float) -> None:
        """Send the request's head; its body follows as it comes."""
        request, route, client = self.request, self._route, self._client
        assert route is not None
        self._upstream = upstream
        upgrade = bool(request.upgrade) and bool(upgrade_of(request))
        if (upgrade or not request.path) and not upstream.can_tunnel(request):
            self._refuse(NoTunnel("the peer is spoken to in HTTP/2, and does not take that there"))
            return
        fields = route.requests.fields(request, client.facts, upstream.peer.authority, self._forced, upgrade)
        self.target = route.target(request.path) if request.path else request.target
        self.asked_at = self._waits_since = now
        bodyless = self._body_done and request.framing is not _CHUNKED and self._trailers is None
        if bodyless and self._held is None:
            upstream.ask(self, request, self.target, fields, upgrade, False)
            return
        upstream.ask(self, request, self.target, fields, upgrade, True)
        held, self._held, self._held_size = self._held, None, 0
        for piece in held or ():
            upstream.send_piece(piece)
        if self._body_done:
            upstream.send_end(self._trailers)
        client.hold_body(False)

    def request_piece(self, piece: Piece) -> None:
        """A piece of the request's body came."""
        if self._over:
            return
        self._sent_body += len(piece)
        limit = self.site.max_body if self.site is not None else 0
        if 0 < limit < self._sent_body:
            self._refuse(BodyTooLarge("more than the limit"))
        elif self._upstream is not None:
            self._upstream.send_piece(piece)
        else:
            self._hold(piece)

    def _hold(self, piece: Piece) -> None:
        held = self._held
        if held is None:
            held = self._held = []
        held.append(piece)
        self._held_size += len(piece)
        if self._held_size >= MOST_HELD:
            self._client.hold_body(True)

    def request_end(self, trailers: Headers | None) -> None:
        """The request's body is complete."""
        self._body_done, self._trailers = True, trailers
        if self._over:
            return
        self._waits_since = self._client.watcher.seconds()
        if self._upstream is not None:
            self._upstream.send_end(trailers)

    def interim(self, response: Response) -> None:
        """The connection's call: a 1xx on the way to the response."""
        upstream, route = self._upstream, self._route
        if self.request.version == 10 or upstream is None or route is None:
            return
        self._client.interim(
            response.status, response.reason, route.responses.fields(response, upstream.memory, False)
        )

    def response(self, response: Response) -> None:
        """The connection's call: the response's head."""
        upstream, route = self._upstream, self._route
        assert upstream is not None
        assert route is not None
        self.answered_at = now = self._client.watcher.seconds()
        upstream.peer.answered(now)
        if response.status == 101 and not (agrees(self.request, response) and self._body_done):
            self._refuse(BadResponse("an upgrade to something that was not asked for"))
            return
        self.responded, self.status = True, response.status
        self._is_call = self.request.version >= 20 and is_grpc(response.headers)
        fields = route.responses.fields(response, upstream.memory, response.status == 101)
        if response.status == 101 or self.request.method == b"CONNECT":
            self._switch_or_not(response, fields, upstream)
            return
        if route.sticky is not None:
            https = self._client.facts.claims(self.request.headers).https
            renewal = route.sticky.renewal(self.request, upstream.peer, now, https)
            fields.own += [(b"Set-Cookie", renewal)] if renewal is not None else []
        self._client.respond(response.status, response.reason, fields, response.framing, response.length)

    def _switch_or_not(self, response: Response, fields: Fields, upstream: HttpClient) -> None:
        if response.status >= 300:  # a CONNECT that the peer refuses
            self._client.respond(response.status, response.reason, fields, response.framing, response.length)
            return
        if response.status != 101:
            fields.own.clear()  # the answer to a CONNECT has no length (RFC 9110 §9.3.6)
        self._upstream, self.switched = None, True
        self._client.switch(response.status, response.reason, fields, upstream)

    def piece(self, piece: Piece) -> None:
        """The connection's call: a piece of the response's body."""
        self._client.piece(piece)

    def response_end(self, trailers: Headers | None) -> None:
        """The connection's call: the response is complete, and the connection is no longer ours."""
        self._upstream = None
        self._client.end(trailers)
        self._finish()

    def flush(self) -> None:
        """The connection's call: that was all of one read."""
        self._client.flush()

    def upstream_full(self) -> None:
        """The connection's call: the peer is slower than the client."""
        self._client.hold_body(True)

    def upstream_ready(self) -> None:
        """The connection's call: the peer takes more."""
        self._client.hold_body(False)

    def broken(self, refusal: Refusal, silent: bool) -> None:
        """The connection's call: it ended too early. Ask again if that cannot ask twice for one thing."""
        upstream, self._upstream = self._upstream, None
        assert upstream is not None
        if self.responded:
            self._break_off(refusal)
            return
        if isinstance(refusal, BadRequest):  # what is asked is no good, and nobody else is asked for it
            self._refuse(refusal)
            return
        unsent = refusal.other_peer  # TLS did not come about
        now = self._client.watcher.seconds()
        if not (upstream.used and silent):
            upstream.peer.failed(now, str(refusal))
        again = unsent or (silent and self.request.method in IDEMPOTENT)
        if again and not self._sent_body and self._body_done:
            self._leave_peer()
            if upstream.used and self._repeats < MOST_REPEATS:
                # It was closed for having been idle: that says nothing about the peer.
                self._repeats += 1
                self._tried.remove(upstream.peer)
                upstream.peer.close_idle(upstream.since)
            self._find_peer(refusal, now)
            return
        self._refuse(refusal)

    def client_full(self) -> None:
        """The client's call: it is slower than the peer."""
        if self._upstream is not None:
            self._upstream.pause()

    def client_ready(self) -> None:
        """The client's call: it takes more."""
        if self._upstream is not None:
            self._upstream.resume()

    def overdue(self, now: float) -> bool:
        """Whether the peer has taken too long to begin its response; then the client is told, here."""
        route, peer = self._route, self._peer
        if self._upstream is None or self.responded or not self._body_done or route is None or peer is None:
            return False
        if now - self._waits_since < route.response_timeout:
            return False
        peer.failed(now, "it did not answer in time")
        self._refuse(PeerTimeout("no response in time"))
        return True

    def cancel(self) -> None:
        """The client's call: it is gone, or has misbehaved. Nothing more is said to it."""
        if self._over:
            return
        if not self.switched:  # that is how tunnels end
            self.status, self.reason = self.status or CLIENT_LEFT, "client_left"
        self._finish()

    def refuse(self, refusal: Refusal) -> None:
        """The client's call: its body is malformed or too slow."""
        if not self._over:
            self._refuse(refusal)

    def _refuse(self, refusal: Refusal) -> None:
        if self.responded:
            self._cut(refusal.reason)
            return
        if self._route is not None and self._route.refusal is not None:
            refusal = self._route.refusal(refusal)
        moved = refusal.moved if isinstance(refusal, Redirect) else 0
        self.responded, self.status, self.reason = True, moved or refusal.status or 500, refusal.reason
        self._client.refuse(refusal, self.site)
        self._finish()

    def _cut(self, reason: str) -> None:
        self.reason = reason
        self._client.cut()
        self._finish()

    def _break_off(self, refusal: Refusal) -> None:
        """The response cannot be completed. In gRPC its end can say so, and why."""
        client = self._client
        if self.request.version < 20 or not self._is_call:
            self._cut(refusal.reason)
            return
        self.reason = refusal.reason
        client.end(status_of(refusal))
        client.flush()
        self._finish()

    def _leave_peer(self) -> None:
        peer, self._peer = self._peer, None
        if peer is not None:
            peer.open -= 1

    def _finish(self) -> None:
        """Let go of everything; called once."""
        self._over = True
        self._held = None
        self._leave_peer()
        dial, self._dial = self._dial, None
        if dial is not None:
            dial.cancel()
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.cancel()
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.close()
        self._client.finished(self)
