"""The part of `assemble` for who may come and how often: gates, limits, bans and jails, from config models.

Where nothing is configured there is no gate, and nobody is asked anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from twisted.application.service import MultiService
from twisted.internet.interfaces import IProtocolFactory

from rproxy.config.apps import App
from rproxy.config.limits import Jail
from rproxy.config.schema import Configuration
from rproxy.policy.bucket import Allowance
from rproxy.policy.clouds import without_names
from rproxy.policy.networks import NetworkSet
from rproxy.services.access import ConnectionLog
from rproxy.services.bancheck import BanCheck
from rproxy.services.bans import Bans, Loaded
from rproxy.services.cutoff import CutOff, Held
from rproxy.services.gates import AppGate, Gate, Gated, Lists, RequestGate
from rproxy.services.jails import Jails, Terms, Watched
from rproxy.services.ratelimits import RateLimiter


@dataclass(frozen=True, slots=True)
class Guarding:
    """What a configuration comes to, before any of it is used."""

    loaded: Loaded
    jails: Jails | None
    limiters: Mapping[str, tuple[RateLimiter, Allowance]]
    journal: ConnectionLog
    """The connection log, with jails before it if there are any."""
    listeners: Mapping[str, Gate]
    apps: Mapping[str, Gate]
    """What is asked about connections to an app."""
    requests: RequestGate | None

    def routes(
        self, config: Configuration, names: Mapping[str, IProtocolFactory]
    ) -> dict[str, IProtocolFactory]:
        """The routes of all names, with gates before those of apps that have one."""
        routes = dict(names)
        for key in self.apps:
            routes |= {name: self.route(key, routes[name]) for name in config.apps[key].server_name}
        return routes

    def route(self, key: str, route: IProtocolFactory) -> IProtocolFactory:
        """The route of one app."""
        gate = self.apps.get(key)
        return route if gate is None else cast(IProtocolFactory, Gated(route, gate))


class Guards:
    """Bans and counts of one proxy; outlives a reload. `alive` gives the connections there are."""

    def __init__(
        self,
        reactor: Any,
        journal: ConnectionLog,
        alive: Callable[[], Iterable[Held]],
        parent: MultiService,
    ) -> None:
        self._reactor, self._journal = reactor, journal
        self.bans = Bans(reactor)
        self.bans.enforce = CutOff(reactor, alive, self.bans.banned).soon
        self.bans.setServiceParent(parent)
        self.limiters: dict[str, RateLimiter] = {}
        self.jails: Jails | None = None

    def build(self, config: Configuration, listeners: Iterable[str]) -> Guarding:
        """Everything for a configuration. Raises `ConfigError` for a ban list with mistakes."""
        loaded = self.bans.load(config.ban_list)
        allowances = dict(_allowances(config, listeners))
        limiters = {name: self._limiter(name, what) for name, what in allowances.items()}
        trusted = NetworkSet(without_names(config.trusted_forwarded_proxies))
        jails = Jails(self._reactor, self.bans, _terms(config), _never(config), self.jails)
        watched = cast(ConnectionLog, Watched(self._journal, jails))
        return Guarding(
            loaded,
            jails if config.jail else None,
            {name: (limiter, allowances[name]) for name, limiter in limiters.items()},
            watched if config.jail else self._journal,
            _listeners(config, listeners, limiters, self._bans_of(config), jails, trusted),
            _apps(config, limiters, trusted),
            _requests(config, limiters, self._bans_of(config)),
        )

    def use(self, built: Guarding) -> None:
        """From now on this."""
        self.bans.use(built.loaded)
        self.jails = built.jails
        for limiter, allowance in built.limiters.values():
            limiter.change(allowance)
        self.limiters = {name: limiter for name, (limiter, _) in built.limiters.items()}

    def _limiter(self, name: str, allowance: Allowance) -> RateLimiter:
        return self.limiters.get(name) or RateLimiter(self._reactor, name, allowance)

    def _bans_of(self, config: Configuration) -> BanCheck | None:
        """None where nobody can be banned."""
        return self.bans.check if config.ban_list or config.admin_socket or config.jail else None


def _allowances(config: Configuration, listeners: Iterable[str]) -> Iterator[tuple[str, Allowance]]:
    """Every limit by its name in the log and the status, but for those of L4 services."""
    if config.rate_limit is not None:
        yield from ((_of_listener(name), config.rate_limit.allowance) for name in listeners)
    for key, app in config.apps.items():
        if app.rate_limit is not None:
            yield f"apps.{key}.rate_limit", app.rate_limit.allowance
        if app.request_limit is not None:
            yield f"apps.{key}.request_limit", app.request_limit.allowance
        for entry in app.reverse_proxy:
            if entry.request_limit is not None:
                yield _of_path(key, entry.path), entry.request_limit.allowance


def _listeners(
    config: Configuration,
    listeners: Iterable[str],
    limiters: Mapping[str, RateLimiter],
    bans: BanCheck | None,
    jails: Jails,
    trusted: NetworkSet,
) -> dict[str, Gate]:
    lists = _lists(config.allow, config.deny, trusted)
    if bans is None and lists is None and config.rate_limit is None:
        return {}
    hears = jails.turned_away if config.jail else None
    return {name: Gate(bans, lists, limiters.get(_of_listener(name)), hears) for name in listeners}


def _apps(config: Configuration, limiters: Mapping[str, RateLimiter], trusted: NetworkSet) -> dict[str, Gate]:
    gates = {}
    for key, app in config.apps.items():
        lists, limiter = _lists(app.allow, app.deny, trusted), limiters.get(f"apps.{key}.rate_limit")
        if (app.tls or app.passthrough) and (lists is not None or limiter is not None):
            gates[key] = Gate(None, lists, limiter)
    return gates


def _requests(
    config: Configuration, limiters: Mapping[str, RateLimiter], bans: BanCheck | None
) -> RequestGate | None:
    gates = {key: gate for key, app in config.apps.items() if (gate := _app_gate(key, app, limiters))}
    everyone = _lists(config.allow, config.deny)
    spoken_for = bool(config.trusted_forwarded_proxies) and (bans is not None or everyone is not None)
    return RequestGate(bans, everyone, gates) if gates or spoken_for else None


def _app_gate(key: str, app: App, limiters: Mapping[str, RateLimiter]) -> AppGate | None:
    lists, limiter = _lists(app.allow, app.deny), limiters.get(f"apps.{key}.request_limit")
    paths = {
        entry.path.encode("ascii"): limiters[_of_path(key, entry.path)]
        for entry in app.reverse_proxy
        if entry.request_limit is not None
    }
    return AppGate(lists, limiter, paths) if lists is not None or limiter is not None or paths else None


def _lists(allow: Iterable[str], deny: Iterable[str], also: NetworkSet | None = None) -> Lists | None:
    """`also` are the proxies that speak for others: their connections may come, their requests are asked."""
    allowed, denied = tuple(without_names(allow)), tuple(without_names(deny))
    if not allowed and not denied:
        return None
    return Lists(NetworkSet(allowed) if allowed else None, NetworkSet(denied) if denied else None, also)


def _terms(config: Configuration) -> list[Terms]:
    return [
        Terms(
            _said(jail),
            jail.match.statuses,
            jail.match.reasons,
            frozenset(jail.app),
            jail.allowance,
            jail.ban,
            NetworkSet(without_names(jail.ignore)),
        )
        for jail in config.jail
    ]


def _said(jail: Jail) -> str:
    parts = []
    if jail.match.statuses:
        parts.append("status " + ",".join(map(str, sorted(jail.match.statuses))))
    if jail.match.reasons:
        parts.append("reason " + ",".join(sorted(jail.match.reasons)))
    return " or ".join(parts)


def _never(config: Configuration) -> list[NetworkSet]:
    """The proxies in front of us: who bans one of them bans everybody behind it."""
    front = NetworkSet(config.accept_proxy_protocol.from_) if config.accept_proxy_protocol else NetworkSet()
    return [front, NetworkSet(without_names(config.trusted_forwarded_proxies))]


def _of_listener(name: str) -> str:
    return f"rate_limit on {name}"


def _of_path(key: str, path: str) -> str:
    return f"apps.{key} {path} request_limit"
