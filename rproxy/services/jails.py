"""Bans whoever does something too often: the `[[jail]]`s of the configuration. Made by `assemble`.

Fed with finished requests by `answers`, with connections by `Watched`, which stands before the
connection log, and by gates with the connections that they close without a line. Who is counted is
the real client; proxies in front of us, who speak for many, are never banned.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from twisted.logger import Logger

from rproxy.errors import Banned, Refusal
from rproxy.interfaces import Arrival
from rproxy.policy.bantable import client_network, read_network
from rproxy.policy.bucket import Allowance, Bucket, client_key, ticks
from rproxy.policy.forwarded import UNKNOWN
from rproxy.policy.forwarding import ClientFacts
from rproxy.policy.networks import NetworkSet
from rproxy.services.bans import Bans
from rproxy.services.buckets import Buckets
from rproxy.wire.address import Address, Inet
from rproxy.wire.message import Headers

log = Logger()

BANNED: Final = Banned.reason
"""What a banned client is told is no new offence."""


class Terms(NamedTuple):
    """One jail."""

    name: str
    """As it stands in the log and beside the bans, `status 401,403`."""
    statuses: frozenset[int]
    reasons: frozenset[str]
    apps: frozenset[str]
    """Where it has to happen; empty: anywhere."""
    allowance: Allowance
    seconds: float
    """How long a ban lasts."""
    ignore: NetworkSet


class Jails:
    """All jails. `never` are the proxies that may stand in front of us."""

    def __init__(
        self,
        clock: Any,
        bans: Bans,
        terms: Sequence[Terms],
        never: Sequence[NetworkSet] = (),
        before: Jails | None = None,
    ) -> None:
        """What was counted `before` counts on, in jails that stay as they were."""
        self._clock, self._bans, self._never = clock, bans, tuple(never)
        known = before._buckets if before is not None else {}
        self._buckets: dict[Terms, Buckets] = {each: known.get(each, _buckets(each)) for each in terms}
        self._statuses = frozenset().union(*(each.statuses for each in terms))
        self._reasons = frozenset().union(*(each.reasons for each in terms))

    def request(
        self, facts: ClientFacts, headers: Headers | None, status: int, reason: str, app: str
    ) -> None:
        """A request was answered; `headers` is None for what never became one."""
        if status not in self._statuses and reason not in self._reasons:
            return
        if not facts.is_trusted:
            self._saw(facts.node, status, reason, app)
        elif headers is not None:
            self._saw(facts.claims(headers).hops[0].node, status, reason, app)

    def connection(self, client: Address, reason: str, app: str) -> None:
        """A connection has ended, or was refused."""
        if reason in self._reasons and isinstance(client, Inet):
            self._saw(client.host.partition("%")[0], 0, reason, app)

    def told(self) -> list[dict[str, Any]]:
        """What each jail is for, and how many clients it has an eye on."""
        return [
            {
                "name": terms.name,
                "apps": sorted(terms.apps),
                "most": terms.allowance.capacity,
                "within": terms.allowance.capacity * terms.allowance.fill_rate,
                "seconds": terms.seconds,
                "clients": len(buckets),
            }
            for terms, buckets in self._buckets.items()
        ]

    def turned_away(self, client: Address, refusal: Refusal) -> None:
        """A connection was closed at once."""
        self.connection(client, refusal.reason, "-")

    def _saw(self, host: str, status: int, reason: str, app: str) -> None:
        if host == UNKNOWN or reason == BANNED or any(host in networks for networks in self._never):
            return
        key, now = client_key(host), ticks(self._clock.seconds())
        for terms, buckets in self._buckets.items():
            matches = status in terms.statuses or reason in terms.reasons
            counts = matches and (not terms.apps or app in terms.apps) and host not in terms.ignore
            if counts and buckets.take(key, now):
                self._ban(host, terms)

    def _ban(self, host: str, terms: Terms) -> None:
        if self._bans.banned(host):  # what was under way when it was banned
            return
        network = self._whom(host.partition("%")[0], terms)
        log.warn(
            "{client} is banned for {seconds:g} s, by the jail for {name}",
            client=network,
            seconds=terms.seconds,
            name=terms.name,
        )
        self._bans.ban_client(network, terms.seconds, terms.name)

    def _whom(self, host: str, terms: Terms) -> str:
        """The client, in IPv6 with its /64, unless that has an address that may not be banned."""
        network = client_network(host)
        _, bits, first, last = read_network(network)
        spared = any(each.overlaps(bits, first, last) for each in (*self._never, terms.ignore))
        return host if spared else network


class Watched:
    """Implements `interfaces.Journal`: the connection log, with jails that look at what goes into it."""

    def __init__(self, journal: Any, jails: Jails) -> None:
        self._journal, self._jails = journal, jails

    def ended(
        self,
        arrival: Arrival,
        *,
        app: str,
        peer: str,
        received: int,
        sent: int,
        seconds: float,
        reason: str,
    ) -> None:
        """See `interfaces.Journal`."""
        self._journal.ended(
            arrival, app=app, peer=peer, received=received, sent=sent, seconds=seconds, reason=reason
        )
        self._jails.connection(arrival.client, reason, app)

    def flush(self) -> None:
        """Hand the waiting lines to the sink."""
        self._journal.flush()


def _buckets(terms: Terms) -> Buckets:
    return Buckets(Bucket(terms.allowance.capacity, terms.allowance.fill_rate))
