"""Heads as they go on: a client's to a peer, a peer's to a client (RFC 9110 §7.6). Called by `exchange`.

Once per request in both directions, so what stays the same on a connection, or for a client, is worked out
once: the readers of `wire.http1` give the same `Headers` object for the same fields, and that is compared.

What frames the body is left out: the caller appends `http1_write.framing_pairs`.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Sequence
from typing import Final

from rproxy.policy.forwarded import UNKNOWN, Claims, Hop, believe, write_forwarded
from rproxy.policy.networks import NetworkSet
from rproxy.policy.rules import HeaderRules
from rproxy.policy.sticky import remove_cookie
from rproxy.wire.address import Address, Inet
from rproxy.wire.http1_fields import is_claim
from rproxy.wire.message import EMPTY, Block, Fields, Framing, Headers, Pair, Request, Response

MAX_REMEMBERED: Final = 4096
"""Bytes of field values kept per connection: as for the reader, browsers send 600 to 1500 and we add 200."""
MOST_ORIGINS: Final = 256
"""Clients of late, each on one port, of which is kept what their connections have in common: 3 MB at most."""


class Memory:
    """The fields that went on last from one connection or client, to be used again if the next message has
    the same.
    """

    __slots__ = ("_authority", "_block", "_headers", "_rewriter")

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Free it, when the connection goes idle for long."""
        self._headers: Headers | None = None
        self._rewriter: object = None
        self._authority = b""
        self._block = EMPTY

    def recall(self, rewriter: object, headers: Headers, authority: bytes) -> Block | None:
        """What `keep` was given for the same three."""
        if self._headers is headers and self._rewriter is rewriter and self._authority == authority:
            return self._block
        return None

    def keep(self, rewriter: object, headers: Headers, authority: bytes, block: Block) -> None:
        """Remember `block`, unless it is large."""
        size = 0
        for _, value in block.pairs:
            size += len(value)
        if size > MAX_REMEMBERED:
            self.forget()
        else:
            self._headers, self._rewriter, self._authority = headers, rewriter, authority
            self._block = block


class Origin:
    """What one client's connections to one port have in common; never changes, but for its memory."""

    __slots__ = ("forwarded_for", "is_trusted", "memory", "node", "pairs")

    def __init__(self, client: Address, https: bool, port: int, trusted: NetworkSet) -> None:
        """As `ClientFacts`."""
        if isinstance(client, Inet):
            self.node, self.is_trusted = client.host.partition("%")[0], client.host in trusted
        else:
            self.node, self.is_trusted = UNKNOWN, trusted.unix
        self.forwarded_for = b"" if self.node == UNKNOWN else self.node.encode("ascii")
        known = (self.forwarded_for,) if self.forwarded_for else ()
        self.pairs = _forwarding_pairs(known, https, port)
        self.memory = Memory()
        """Of heads that several connections have sent, see `http1_fields.Known`."""


class Origins:
    """The clients of late; `trusted` are the networks whose forwarding fields are believed."""

    __slots__ = ("_known", "trusted")

    def __init__(self, trusted: NetworkSet) -> None:
        self.trusted = trusted
        self._known: dict[tuple[str, bool, int], Origin] = {}

    def of(self, client: Address, https: bool, port: int) -> Origin:
        """What is known about a client on one of our ports."""
        key = client.host if isinstance(client, Inet) else "", https, port
        origin = self._known.get(key)
        if origin is None:
            origin = Origin(client, https, port, self.trusted)
            if len(self._known) >= MOST_ORIGINS:
                self._known.clear()
            self._known[key] = origin
        return origin


class ClientFacts:
    """What the requests of one downstream connection say about their client; made once per connection."""

    __slots__ = (
        "_believed",
        "_headers",
        "_origin",
        "_own",
        "_pairs",
        "_shown",
        "_trusted",
        "https",
        "memory",
        "node",
        "noted",
        "port",
        "shared",
        "subject",
    )

    def __init__(
        self,
        client: Address,
        *,
        https: bool,
        port: int,
        trusted: NetworkSet,
        subject: str | None = None,
        certificate: bytes = b"",
        origin: Origin | None = None,
    ) -> None:
        """`client` is who connected, or whom a PROXY header names; `https` and `port` are what it used here.

        `trusted` are the networks whose forwarding fields are believed; `port` is 0 on a unix socket.
        `subject` is that of the client's verified certificate, in printable ASCII, None without one;
        `certificate` is that in DER, where peers are to get it. `origin` says the same about all the client's
        connections, if there is one.
        """
        self._origin = Origin(client, https, port, trusted) if origin is None else origin
        self.node, self.https, self.port = self._origin.node, https, port
        self.memory = Memory()
        self.noted: object = None
        """What the log keeps for all requests of the connection, see `services.answers`."""
        self._own: Claims | None = None
        # What was believed last, and for which fields.
        self._believed: Claims | None = None
        self._headers: Headers | None = None
        self.subject = subject
        self._shown = _shown_pairs(subject, certificate)
        self._pairs = [*self._origin.pairs, *self._shown] if self._shown else self._origin.pairs
        self.shared = None if self._shown else self._origin.memory
        """For heads that the client's other connections have sent, too; None if they go on differently."""
        self._trusted = trusted if self._origin.is_trusted else None

    @property
    def is_trusted(self) -> bool:
        """Whether what it says about others is believed."""
        return self._trusted is not None

    def claims(self, headers: Headers) -> Claims:
        """Who is behind a request, as far as it can be believed, and what they speak."""
        own = self._own
        if own is None:
            hop = Hop(self.node, b"https" if self.https else b"http")
            own = self._own = Claims((hop,), self.https, self.port)
        if self._trusted is None:
            return own
        believed = self._believed
        if believed is None or self._headers is not headers:
            believed = self._believed = believe(headers, own.hops[0], self.port, self._trusted)
            self._headers = headers
        return believed

    def pairs(self, headers: Headers) -> Sequence[Pair]:
        """The X-Forwarded fields and X-Real-IP that say this, and those about the client's certificate."""
        if self._trusted is None:
            return self._pairs
        claims = self.claims(headers)
        return [*_forwarding_pairs(_nodes(claims), claims.https, claims.port), *self._shown]

    def forwarded_for(self, headers: Headers) -> bytes:
        """X-Forwarded-For as the peer was told it, for the log; empty if only unix sockets are known."""
        if self._trusted is None:
            return self._origin.forwarded_for
        return b", ".join(_nodes(self.claims(headers)))


class RequestRewriter:
    """The request heads of one route; never changes."""

    __slots__ = ("_insecure", "_late", "_peer_host", "_rules", "_sticky", "writes_forwarded")

    def __init__(self, options: frozenset[str], rules: HeaderRules, sticky: bytes = b"") -> None:
        """`options` are `upstream_options`, of which those about versions mean nothing here.

        `sticky` is the name of the cookie that stays with us, if there is one.
        """
        self._peer_host = "set_upstream_host" in options and "keep_original_host" not in options
        self._insecure = "upgrade_insecure_requests" in options
        self.writes_forwarded = "forwarded_header" in options
        """Whether peers get the field even where the client has not sent one."""
        self._rules = rules if rules else None
        # Rules about what differs from request to request cannot be applied once per connection.
        self._late = not rules.names.isdisjoint((b"host", b"x-original-uri"))
        self._sticky = sticky

    def fields(
        self,
        request: Request,
        client: ClientFacts,
        peer_host: bytes,
        forced_host: bytes | None = None,
        upgrade: bool = False,
    ) -> Fields:
        """The fields for the peer that is called `peer_host`.

        Host is `forced_host` if given, else the client's, else `peer_host`; by option `peer_host` comes
        before the client's. With `upgrade` the protocols of `upgrade_of` are asked for.
        """
        headers, authority = request.headers, request.authority
        if upgrade:
            block = Block(self._lasting(request, client, upgrade_of(request)))
        else:
            known = client.memory.recall(self, headers, authority)
            block = self._first(request, client) if known is None else known
        host = forced_host or (not self._peer_host and authority) or peer_host
        own = [(b"Host", host), (b"X-Original-URI", request.target)]
        if request.expects_continue:
            own.append((b"Expect", b"100-continue"))
        if b"max-forwards" in headers.names:
            own += _max_forwards(request)
        if self._late and self._rules is not None:
            return Fields(self._rules.apply([*own, *block.pairs]))
        return Fields(own, block)

    def _first(self, request: Request, client: ClientFacts) -> Block:
        """What the connection has not sent last; another one of the client's may have."""
        headers, authority = request.headers, request.authority
        shared = client.shared if headers.shared else None
        block = None if shared is None else shared.recall(self, headers, authority)
        if block is None:
            block = Block(self._lasting(request, client, b""))
            if shared is not None:
                shared.keep(self, headers, authority, block)
        client.memory.keep(self, headers, authority, block)
        return block

    def _lasting(self, request: Request, client: ClientFacts, upgrade: bytes) -> list[Pair]:
        """All but Host, X-Original-URI and Expect: what depends on the fields, the authority and us alone."""
        headers = request.headers
        names = headers.names
        dropped = _dropped(_NOT_TO_PEERS, request.connection)
        if not _USUAL.issuperset(names):
            dropped |= {name for name in names if name not in _USUAL and is_claim(name)}
        pairs = headers.without(dropped)
        if b"cookie" in names and (self._sticky or names.count(b"cookie") > 1):
            pairs = self._with_one_cookie(headers, pairs)
        pairs += _connection(headers, upgrade)
        if self._insecure and b"upgrade-insecure-requests" not in names:
            pairs.append((b"Upgrade-Insecure-Requests", b"1"))
        pairs += client.pairs(headers)
        if request.authority:
            pairs.append((b"X-Forwarded-Host", request.authority))
        if self.writes_forwarded or b"forwarded" in names:
            pairs.append((b"Forwarded", forwarded(client.claims(headers), request.authority)))
        return pairs if self._late or self._rules is None else self._rules.apply(pairs)

    def _with_one_cookie(self, headers: Headers, pairs: list[Pair]) -> list[Pair]:
        """All lines in one (RFC 9113 §8.2.3: a client may split them, HTTP/1.1 has one), without ours."""
        cookie: bytes | None = b"; ".join(headers.all(b"cookie"))
        if cookie and self._sticky:
            cookie = remove_cookie(cookie, self._sticky)
        kept = [pair for pair in pairs if pair[0].lower() != b"cookie"]
        return [*kept, (b"Cookie", cookie)] if cookie else kept


class ResponseRewriter:
    """The response heads of one route; never changes."""

    __slots__ = ("_rules",)

    def __init__(self, rules: HeaderRules) -> None:
        self._rules = rules if rules else None

    def fields(self, response: Response, memory: Memory, upgrade: bool = False) -> Fields:
        """The fields for the client. `memory` is that of the peer's connection.

        With `upgrade` the protocol that a 101 agreed to is announced. The length that the answer to a HEAD,
        or a 304, speaks of is kept, since no body will say it.
        """
        headers = response.headers
        block = memory.recall(self, headers, b"")
        if block is None:
            kept = headers.without(_dropped(_NOT_TO_CLIENTS, response.connection))
            block = Block(kept if self._rules is None else self._rules.apply(kept))
            memory.keep(self, headers, b"", block)
        if upgrade:
            return Fields([(b"Connection", b"upgrade"), (b"Upgrade", response.upgrade)], block)
        if response.framing is _NO_BODY and response.status >= 200 and response.status != 204:
            return Fields([(b"Content-Length", value) for value in headers.all(b"content-length")], block)
        return Fields([], block)


def upgrade_of(request: Request) -> bytes:
    """The protocols a client asks for that may go on, as the value of an Upgrade field; empty for none.

    Not those that are HTTP or carry it, `h2c` (RFC 9113 §3.1) and `TLS/1.2` (RFC 2817): what came through
    the tunnel would be requests that nobody has routed.
    """
    if not request.upgrade:
        return b""
    offers = [offer.strip(b" \t") for offer in request.upgrade.split(b",")]
    return b", ".join(offer for offer in offers if not _CARRIES_HTTP(offer))


def agrees(request: Request, response: Response) -> bool:
    """Whether a 101 switches to one protocol that was asked for; case does not matter (R-HR-3)."""
    offers = [offer.lower() for offer in upgrade_of(request).split(b", ")]
    return bool(response.upgrade) and response.upgrade.lower() in offers


def forwarded(claims: Claims, authority: bytes) -> bytes:
    """The value of the Forwarded field (RFC 7239) that says what `claims` says."""
    *others, peer = claims.hops
    return write_forwarded([*others, peer._replace(host=authority)])


_NO_BODY: Final = Framing.NONE

# RFC 9110 §7.6.1, RFC 9113 §8.2.2: they speak of one connection. Content-Length is ours as well, since it is
# written from what the reader understood. `Close` is no field, and reserved (RFC 9110 §18.4); it is what
# Connection names most often, and spares a set for each connection.
_HOP_BY_HOP: Final = frozenset(
    b"close connection keep-alive proxy-connection proxy-authenticate proxy-authorization te trailer"
    b" transfer-encoding content-length upgrade http2-settings".split()
)
# `Proxy` becomes HTTP_PROXY behind CGI (httpoxy, CVE-2016-5385).
_NOT_TO_PEERS: Final = _HOP_BY_HOP | frozenset((b"host", b"proxy", b"expect", b"max-forwards"))
# Alt-Svc names ports of the peer as if they were ours.
_NOT_TO_CLIENTS: Final = _HOP_BY_HOP | frozenset((b"alt-svc",))
# Whatever Connection names, these go on: a client must not be able to make a peer see a request without the
# fields that say who asks for what, nor a peer a client without those that say what it got.
_END_TO_END: Final = frozenset(
    b"host cookie set-cookie authorization www-authenticate content-type content-encoding content-range range"
    b" cache-control date etag expires location origin vary".split()
)
# Names of browsers that are no claims: most requests have no others and are spared 0.3 µs a name.
_USUAL: Final = frozenset(
    b"host user-agent accept accept-language accept-encoding accept-charset connection keep-alive cookie"
    b" referer origin authorization cache-control pragma content-type content-length transfer-encoding te"
    b" upgrade dnt upgrade-insecure-requests priority range if-none-match if-modified-since if-match if-range"
    b" x-requested-with sec-ch-ua sec-ch-ua-mobile sec-ch-ua-platform sec-fetch-dest sec-fetch-mode"
    b" sec-fetch-site sec-fetch-user sec-gpc sec-websocket-key sec-websocket-version"
    b" sec-websocket-extensions sec-websocket-protocol".split()
)
_CARRIES_HTTP: Final = re.compile(rb"(?i)(?:h2c?|h3|http(?:/.*)?|tls(?:/.*)?|)").fullmatch


def _dropped(always: frozenset[bytes], named: frozenset[bytes]) -> frozenset[bytes]:
    """The names that do not go on, given those that Connection names."""
    return always if named <= always else always | (named - _END_TO_END)


def _connection(headers: Headers, upgrade: bytes) -> list[Pair]:
    """What we say about our connection to the peer: nothing, but for an upgrade and trailers.

    A client that takes trailers (gRPC does) says so with `TE: trailers`; RFC 9110 §10.1.4 wants it named.
    """
    if upgrade:
        return [(b"Connection", b"upgrade"), (b"Upgrade", upgrade)]
    if b"te" in headers.names and _wants_trailers(headers.all(b"te")):
        return [(b"Connection", b"TE"), (b"TE", b"trailers")]
    return []


def _max_forwards(request: Request) -> list[Pair]:
    """One hop less for OPTIONS; it means nothing for other methods (RFC 9110 §7.6.2)."""
    values = request.headers.all(b"max-forwards")
    if request.method == b"OPTIONS" and len(values) == 1 and values[0].isdigit():
        return [(b"Max-Forwards", b"%d" % max(0, int(values[0][:9]) - 1))]
    return [(b"Max-Forwards", value) for value in values]


def _wants_trailers(values: Sequence[bytes]) -> bool:
    return b"trailers" in [item.strip(b" \t") for item in b",".join(values).lower().split(b",")]


def _forwarding_pairs(nodes: Sequence[bytes], https: bool, port: int) -> list[Pair]:
    """The fields that say this; without addresses if only unix sockets are known."""
    pairs = [
        (b"X-Forwarded-Proto", b"https" if https else b"http"),
        (b"X-Forwarded-Port", b"%d" % (port or (443 if https else 80))),
        (b"X-Forwarded-Ssl", b"on" if https else b"off"),
    ]
    return [(b"X-Forwarded-For", b", ".join(nodes)), (b"X-Real-IP", nodes[0]), *pairs] if nodes else pairs


def _shown_pairs(subject: str | None, certificate: bytes) -> list[Pair]:
    """What a verified certificate says, and all of it as a byte sequence (RFC 9440 §2.2, RFC 8941 §3.3.5)."""
    pairs = [] if subject is None else [(b"X-Client-Cert-Subject", subject.encode("ascii"))]
    return [*pairs, (b"Client-Cert", b":%b:" % b64encode(certificate))] if certificate else pairs


def _nodes(claims: Claims) -> list[bytes]:
    return [hop.node.encode("ascii") for hop in claims.hops if hop.is_address]
