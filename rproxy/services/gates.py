"""Who may come in: address lists, bans and limits, asked about connections and about requests.

Made by `assemble`, only where something is configured. A listener's gate is asked by
`downstream.peek`, an app's stands before its route as `Gated`, and that of requests is asked by
`sites`. All of them know the client's real address: who a trusted PROXY header names, and for
requests who the forwarding headers of a trusted proxy name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, cast

from twisted.internet.interfaces import IProtocol, IProtocolFactory
from zope.interface import classImplements

from rproxy.downstream.admission import Gate as ConnectionGate
from rproxy.errors import Denied, RateLimited, Refusal
from rproxy.interfaces import Lease, arrival_of
from rproxy.policy.bucket import client_key
from rproxy.policy.forwarded import UNKNOWN
from rproxy.policy.forwarding import ClientFacts
from rproxy.policy.networks import NetworkSet
from rproxy.services.bancheck import BanCheck
from rproxy.services.ratelimits import RateLimiter
from rproxy.sites import Gate as SitesGate
from rproxy.sites import Route, Site
from rproxy.wire.address import Address, Inet
from rproxy.wire.message import Headers

MOST_KNOWN: Final = 4096
"""Addresses whose place in the lists of an app is remembered: a request costs less than looking it up."""


class Lists:
    """An allow list and a deny list. `also` may come although `allow` does not name them."""

    def __init__(
        self, allow: NetworkSet | None, deny: NetworkSet | None, also: NetworkSet | None = None
    ) -> None:
        self._allow, self._deny, self._also = allow, deny, also
        self._known: dict[str, bool] = {}

    def check(self, host: str) -> None:
        """Raises `Denied`; an empty host is a client on a unix socket."""
        passes = self._known.get(host)
        if passes is None:
            if len(self._known) >= MOST_KNOWN:
                self._known.clear()
            passes = self._known[host] = self._passes(host)
        if not passes:
            raise Denied("allow and deny")

    def _passes(self, host: str) -> bool:
        if self._deny is not None and _has(self._deny, host):
            return False
        if self._allow is None or _has(self._allow, host):
            return True
        return self._also is not None and _has(self._also, host)


class Gate(ConnectionGate):
    """What is asked about a connection once its client is known."""

    def __init__(
        self,
        bans: BanCheck | None = None,
        lists: Lists | None = None,
        limiter: RateLimiter | None = None,
        hears: Callable[[Address, Refusal], object] | None = None,
    ) -> None:
        """`hears` is told of connections that are closed before they are anything."""
        self._bans, self._lists, self._limiter, self._hears = bans, lists, limiter, hears

    def check(self, client: Address) -> None:
        """Whether its address may come at all; raises `Banned`, `Denied`."""
        host = client.host if isinstance(client, Inet) else ""
        if self._bans is not None and host:
            self._bans.check(host)
        if self._lists is not None:
            self._lists.check(host)

    def count(self, client: Address, lease: Lease) -> None:
        """Count it among its client's; raises `TooMany`. A client on a unix socket is not counted."""
        if self._limiter is not None and isinstance(client, Inet):
            self._limiter.admit(client_key(client.host), lease)

    def turned_away(self, client: Address, refusal: Refusal) -> None:
        """A connection was closed that will stand in no log."""
        if self._hears is not None:
            self._hears(client, refusal)


class Gated:
    """A route behind a gate."""

    def __init__(self, route: IProtocolFactory, gate: Gate) -> None:
        self._route: Any = route
        self._gate = gate

    def doStart(self) -> None:
        """Nothing to prepare; Twisted's ports call it."""

    def doStop(self) -> None:
        """Nothing to tear down; Twisted's ports call it."""

    def buildProtocol(self, addr: Any) -> IProtocol | None:
        """As the route's; raises what the gate does."""
        arrival = arrival_of(addr)
        self._gate.check(arrival.client)
        self._gate.count(arrival.client, arrival.lease)
        return cast("IProtocol | None", self._route.buildProtocol(addr))


class AppGate:
    """What is asked about requests for one app; `paths` are the limits of its entries, by prefix."""

    def __init__(
        self, lists: Lists | None, limiter: RateLimiter | None, paths: Mapping[bytes, RateLimiter]
    ) -> None:
        self.lists, self.limiter, self.paths = lists, limiter, dict(paths)


class RequestGate(SitesGate):
    """What is asked about requests. `apps` are those that have rules of their own."""

    def __init__(self, bans: BanCheck | None, everyone: Lists | None, apps: Mapping[str, AppGate]) -> None:
        self._bans, self._everyone, self._apps = bans, everyone, dict(apps)

    def client(self, facts: ClientFacts, headers: Headers) -> str:
        """Whose request it is, for `admit`; empty where nobody knows. Raises `Banned`, `Denied`.

        Who is connected was asked about as a connection; here it is whom a trusted proxy speaks for.
        """
        if not facts.is_trusted:
            return "" if facts.node == UNKNOWN else facts.node
        node = facts.claims(headers).hops[0].node
        if node == UNKNOWN:  # a proxy on a unix socket that does not say whom it speaks for
            if self._everyone is not None:
                self._everyone.check("")
            return ""
        if self._bans is not None:
            self._bans.check(node)
        if self._everyone is not None:
            self._everyone.check(node)
        return node

    def admit(self, client: str, site: Site, route: Route | None) -> None:
        """Whether this client may have this, now. Raises `Denied`, `RateLimited`, which know the site."""
        gate = self._apps.get(site.app)
        if gate is None:
            return
        try:
            if gate.lists is not None:
                gate.lists.check(client)
            if client:
                self._count(gate, client, route)
        except Refusal as refusal:
            refusal.site = site
            raise

    def _count(self, gate: AppGate, client: str, route: Route | None) -> None:
        limiter = gate.paths.get(route.prefix) if route is not None and gate.paths else None
        if limiter is None and gate.limiter is None:
            return
        key = client_key(client)
        wait = limiter.request(key) if limiter is not None else 0.0
        if not wait and gate.limiter is not None:
            wait = gate.limiter.request(key)
        if wait:
            raise RateLimited("request_limit", wait)


def _has(networks: NetworkSet, host: str) -> bool:
    return host in networks if host else networks.unix


classImplements(Gated, IProtocolFactory)
