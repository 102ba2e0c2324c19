"""A TCP service: each connection is joined to a peer. The route of `[l4.<name>]`, built by `assemble_l4`.

It is `relay` with what a service may have besides: a rate limit per client, TLS to its peers, and,
where `downstream.mutual` has ended the client's TLS, a PROXY header that tells of it. No byte of the
client's is sent to a peer before that has been verified, so until then another one may be asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, cast

from twisted.internet.interfaces import IHandshakeListener
from twisted.python.failure import Failure
from zope.interface import implementer

from rproxy.deadlines import Deadlines
from rproxy.errors import PeerUnreachable, Refusal
from rproxy.interfaces import Arrival, Journal, Lease, arrival_of, local_of
from rproxy.policy.bucket import Key, client_key
from rproxy.relay import Downstream, RelayFactory, Upstream
from rproxy.splice import Pipes
from rproxy.upstream.connect import Dial
from rproxy.upstream.peer import Group, Peer
from rproxy.wire.address import Inet
from rproxy.wire.proxyheader import encode_v1, encode_v2
from rproxy.wire.tlstlv import passed_on, tls_tlvs

if TYPE_CHECKING:  # they import OpenSSL and cryptography, which a service without TLS can do without
    from rproxy.policy.identity import Identity
    from rproxy.upstream.tls import ClientTLS


class Limiter(Protocol):
    """See `services.ratelimits.RateLimiter`."""

    def admit(self, key: Key, lease: Lease) -> None: ...  # noqa: D102


class ServiceFactory(RelayFactory):
    """Serves each connection by joining it to a peer; `tls` says how peers are spoken to, by their names.

    `limiter` counts by identity, or by address where there is none. The rest is as in `RelayFactory`.
    """

    def __init__(
        self,
        reactor: Any,
        app: str,
        group: Group,
        journal: Journal,
        pipes: Pipes,
        deadlines: Deadlines,
        *,
        limiter: Limiter | None = None,
        tls: Mapping[str, ClientTLS] = {},
        proxy_protocol: str = "none",
        connect_timeout: float = 5.0,
        idle_timeout: float = 600.0,
    ) -> None:
        super().__init__(
            reactor,
            app,
            group,
            journal,
            pipes,
            deadlines,
            proxy_protocol=proxy_protocol,
            connect_timeout=connect_timeout,
            idle_timeout=idle_timeout,
        )
        self.limiter, self.tls = limiter, tls

    def buildProtocol(self, addr: Any) -> Any:
        """The downstream end for this arrival. Raises `TooMany` for a client that has had its share."""
        arrival = arrival_of(addr)
        if self.limiter is not None:
            self.limiter.admit(limited_as(arrival), arrival.lease)
        return ServiceEnd(self, arrival)

    def preamble(self, arrival: Arrival, transport: Any) -> bytes:
        """Nothing: the peer's end has sent it already, ahead of the peer's TLS."""
        return b""

    def header(self, arrival: Arrival, transport: Any) -> bytes:
        """The PROXY header of one client, whose transport that is; empty if peers get none."""
        if self.proxy_protocol == "none":
            return b""
        local = arrival.local or local_of(transport)
        if self.proxy_protocol == "v1":
            return encode_v1(arrival.client, local)
        tlvs = arrival.header.tlvs if arrival.header else ()
        if version := getattr(transport, "version", ""):
            known = identity_in(arrival)
            name = known.common_name if known is not None else None
            about = tls_tlvs(version, transport.cipher, name, arrival.alpn, arrival.server_name)
            tlvs = about + passed_on(tlvs)
        return encode_v2(arrival.client, local, tlvs)


class ServiceEnd(Downstream):
    """The client's end; looks further for a peer where one accepted and then did not come up to its TLS."""

    _factory: ServiceFactory

    def __init__(self, factory: ServiceFactory, arrival: Arrival) -> None:
        super().__init__(factory, arrival)
        self._tried: list[Peer] = []
        self._unverified: VerifiedEnd | None = None
        if factory.tls:
            self._dial = self._search()

    def header(self) -> bytes:
        """What the peer is sent ahead of everything else."""
        return self._factory.header(self._arrival, self.transport)

    def _search(self) -> Dial:
        client, factory = self._arrival.client, self._factory
        return Dial(
            factory.reactor,
            factory.group,
            client.host if isinstance(client, Inet) else "",
            factory.connect_timeout,
            self._accepted_by,
            self._refuse,
            tried=self._tried,
        )

    def _accepted_by(self, peer: Peer) -> Any:
        self._dial = None
        how = self._factory.tls.get(peer.name)
        if how is None:
            self._peer = peer
            return PeerEnd(self)
        self._unverified = VerifiedEnd(self, peer)
        return how.wrap(cast(Any, self._unverified), by_halves=True)

    def verified(self, upstream: VerifiedEnd) -> None:
        """The peer is who it should be: join it."""
        self._unverified, self._peer = None, upstream.peer
        self.join(upstream)

    def unverified(self, peer: Peer, reason: BaseException | None) -> None:
        """It is not, or has gone: ask the next one, unless the client has gone too."""
        peer.open -= 1
        if self._unverified is None:
            return
        self._unverified = None
        problem = reason if isinstance(reason, PeerUnreachable) else PeerUnreachable(f"TLS: {reason}")
        now = self._factory.reactor.seconds()
        peer.failed(now, str(problem))
        client = self._arrival.client
        following = self._factory.group.pick(
            client.host if isinstance(client, Inet) else "", self._tried, now
        )
        if following is None:
            self._refuse(self._factory.group.verdict(problem, self._tried, now))
        else:
            self._dial = self._search()
            self._dial.start(following)

    def _refuse(self, refusal: Refusal) -> None:
        ends_without = getattr(self.transport, "end_without_goodbye", None)
        if ends_without is None:
            super()._refuse(refusal)
            return
        self._dial, self._reason = None, refusal.reason
        self.received += sum(map(len, self._early))
        ends_without()

    def readConnectionLost(self) -> None:
        """Twisted's call: while the peer is being verified it is only noted, too."""
        if self._unverified is not None:
            self.ended = True
        else:
            super().readConnectionLost()

    def left(self) -> None:
        """The client has gone without TLS's goodbye: its last bytes may be missing, so the peer is reset."""
        self._reason = self._reason or "client_left"

    def connectionLost(self, reason: Failure) -> None:
        """Twisted's call: the client is gone."""
        unverified, self._unverified = self._unverified, None
        if unverified is not None:
            unverified.transport.abortConnection()
        super().connectionLost(reason)


class PeerEnd(Upstream):
    """The end of a peer that is spoken to in clear text."""

    _downstream: ServiceEnd

    def connectionMade(self) -> None:
        """Twisted's call: the peer has accepted."""
        if header := self._downstream.header():
            self.transport.write(header)
        super().connectionMade()


@implementer(IHandshakeListener)
class VerifiedEnd(Upstream):
    """The end of a peer behind TLS: joined once that has verified it."""

    _downstream: ServiceEnd

    def __init__(self, downstream: ServiceEnd, peer: Peer) -> None:
        super().__init__(downstream)
        self.peer = peer
        self._joined = False

    def connectionMade(self) -> None:
        """TLS's call before it says anything: the header goes ahead of it, below."""
        if header := self._downstream.header():
            self.transport.transport.write(header)

    def handshakeCompleted(self) -> None:
        """TLS's call: the peer is verified."""
        self._joined = True
        self._downstream.verified(self)

    def left(self) -> None:
        """TLS's call: without goodbye; that it is lost is told next."""

    def connectionLost(self, reason: Failure) -> None:
        """TLS's call: the peer is gone, or never was the one."""
        if self._joined:
            super().connectionLost(reason)
        else:
            self._downstream.unverified(self.peer, reason.value)


def identity_in(arrival: Arrival) -> Identity | None:
    """Who the client is, where its certificate was verified."""
    identity: Identity | None = None if arrival.shown is None else arrival.shown.identity
    return identity


def limited_as(arrival: Arrival) -> Key:
    """As whom a client is counted: by its identity, its address, or (a unix socket) as this machine."""
    identity = identity_in(arrival)
    if identity is not None:
        return identity.key
    return client_key(arrival.client.host) if isinstance(arrival.client, Inet) else "unix"
