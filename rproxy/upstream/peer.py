"""Peers and the groups they form. Made by `assemble`, asked by `upstream.connect`.

A peer outlives a reload when its location stays, and with it what is known about it: open
connections, whether it was reachable, its addresses.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any, Final

from mypy_extensions import mypyc_attr
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.logger import Logger

from rproxy.errors import NoPeer, PeerUnreachable, Refusal
from rproxy.policy.balance import Balancer
from rproxy.upstream.resolve import Names

log: Final = Logger(__name__)

DOWN_FOR: Final = 10.0
"""Seconds for which a peer that refused is only tried when no other is left; nginx's fail_timeout."""
NEVER: Final = float("-inf")

Target = tuple[int, Any]
"""An address family and what `connect` takes for it."""


@mypyc_attr(allow_interpreted_subclasses=True)
class Peer:
    """One upstream server. `name` is its location as configured, unique in its group."""

    __slots__ = (
        "_cached",
        "_fails",
        "_fails_since",
        "_fixed",
        "_host",
        "_names",
        "_port",
        "down_until",
        "endpoint",
        "fail_timeout",
        "healthy",
        "max_fails",
        "name",
        "open",
        "weight",
    )

    def __init__(
        self,
        name: str,
        *,
        fixed: Sequence[Target] = (),
        host: str = "",
        port: int = 0,
        names: Names | None = None,
        endpoint: IStreamClientEndpoint | None = None,
        weight: int = 1,
        max_fails: int = 1,
        fail_timeout: float = DOWN_FOR,
    ) -> None:
        """After `max_fails` failures within `fail_timeout` seconds it is down for so long; 0: never."""
        self.name, self.weight, self.endpoint = name, weight, endpoint
        self.max_fails, self.fail_timeout = max_fails, fail_timeout
        self.open = 0
        self.healthy = True
        """What `upstream.health` knows; True where nobody looks."""
        self.down_until = NEVER
        self._fails, self._fails_since = 0, NEVER
        self._fixed = tuple(fixed)
        self._host, self._port, self._names = host, port, names
        self._cached: tuple[tuple[str, ...], tuple[Target, ...]] = ((), ())

    @property
    def host(self) -> str:
        """The name that has to be resolved, or empty."""
        return self._host

    def targets(self) -> tuple[Target, ...]:
        """Where to connect, in order; empty while the name has no known address."""
        if self._names is None:
            return self._fixed
        addresses = self._names.known(self._host)
        if addresses is not self._cached[0]:
            self._cached = (addresses, tuple(target_of(host, self._port) for host in addresses))
        return self._cached[1]

    def resolved(self) -> Deferred[tuple[str, ...]]:
        """Fires when `targets` has something to say; fails when the name does not resolve."""
        assert self._names is not None
        return self._names.first(self._host)

    def failed(self, now: float, why: str) -> None:
        """Note that it did not accept, or gave no proper answer; logged when that takes it down."""
        if now - self._fails_since > self.fail_timeout:
            self._fails, self._fails_since = 0, now
        self._fails += 1
        if 0 < self.max_fails <= self._fails:
            if self.down_until == NEVER:
                log.warn("peer {peer} is down: {why}", peer=self.name, why=why)
            self.down_until = now + self.fail_timeout

    def succeeded(self) -> None:
        """Note that a connection was made; logged when it is news."""
        if self.down_until != NEVER:
            log.info("peer {peer} is up again", peer=self.name)
            self.down_until = NEVER
            self._fails, self._fails_since = 0, NEVER


class Group:
    """The peers that serve one route, and the balancer that picks among them."""

    def __init__(self, peers: Sequence[Peer], balancer: Balancer) -> None:
        if not peers:
            raise ValueError("a group needs at least one peer")
        self.peers = tuple(peers)
        self._balancer = balancer

    def pick(self, client: str, tried: Sequence[Peer], now: float) -> Peer | None:
        """The next peer to try, or None when all have been; one known to be down only as a last resort.

        Where all are unhealthy, they are picked from as if all were healthy.
        """
        if len(self.peers) == 1:
            return None if tried else self.peers[0]
        if not tried:
            for peer in self.peers:
                if not peer.healthy or peer.down_until > now:
                    break
            else:  # mostly so, and always the same tuple, which balancers know again
                return self._balancer.pick(self.peers, client)
        untried = [peer for peer in self.peers if peer not in tried]
        candidates = [peer for peer in untried if peer.healthy and peer.down_until <= now]
        if not candidates:
            well = [peer for peer in untried if peer.healthy] or untried
            candidates = [peer for peer in well if peer.down_until <= now] or well
        return self._balancer.pick(candidates, client) if candidates else None

    def verdict(self, last: Refusal, tried: Sequence[Peer], now: float) -> Refusal:
        """What the client is told when a search has ended with `last`: that, or `NoPeer`.

        `NoPeer` where there are several peers and none is left to hope for: each was tried or is known to
        be down or unhealthy. Not where a peer was reached and gave no proper answer.
        """
        if len(self.peers) == 1 or not isinstance(last, PeerUnreachable):
            return last
        for peer in self.peers:
            if peer not in tried and peer.healthy and peer.down_until <= now:
                return last
        return NoPeer(str(last), last.code)


def target_of(host: str, port: int) -> Target:
    """The target of an IP address as text (a zone, `fe80::1%eth0`, is resolved here)."""
    if ":" not in host:
        return socket.AF_INET, (host, port)
    address, _, zone = host.partition("%")
    is_number = zone.isascii() and zone.isdigit()
    scope = int(zone) if is_number else socket.if_nametoindex(zone) if zone else 0
    return socket.AF_INET6, (address, port, 0, scope)
