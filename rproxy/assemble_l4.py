"""The part of `assemble` for `[l4.<name>]`: which listener serves which services, and what each is made of.

OpenSSL is imported with the first service that has `tls`, here or to its peers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, cast
from weakref import WeakSet

from twisted.internet.interfaces import IProtocolFactory

from rproxy.assemble_parts import Parts
from rproxy.config.l4 import L4, ServiceUpstream
from rproxy.config.schema import Configuration
from rproxy.downstream.service import ServiceFactory
from rproxy.errors import StartError, UnknownName
from rproxy.interfaces import Arrival
from rproxy.policy.balance import BALANCERS
from rproxy.policy.bucket import Allowance
from rproxy.policy.clouds import without_names
from rproxy.policy.networks import NetworkSet
from rproxy.policy.routes import NameTable
from rproxy.services.gates import Gate, Gated, Lists
from rproxy.services.ratelimits import RateLimiter
from rproxy.upstream.peer import Group

if TYPE_CHECKING:
    from rproxy.policy.identity import ClientPolicy
    from rproxy.upstream.tls import ClientTLS


class Shared(NamedTuple):
    """The services of one listener; either `clear` or the others."""

    clear: IProtocolFactory | None
    """The one service without TLS."""
    names: NameTable[IProtocolFactory]
    rest: IProtocolFactory | None
    """What serves all other names and no name at all."""


class Built(NamedTuple):
    """What a configuration comes to, before any of it is used."""

    listeners: Mapping[str, Shared]
    policies: Mapping[str, ClientPolicy | None]
    """Who may, of every service with TLS; None: everybody."""
    limiters: Mapping[str, RateLimiter]
    """Of every service: the status tells who is connected, and a reload may bring a limit."""
    allowances: Mapping[str, Allowance]


class Services:
    """All TCP services of one proxy. Outlives a reload, and with it what limits know about clients."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._used = Built({}, {}, {}, {})
        self._policies: dict[str, ClientPolicy | None] = {}
        self._prepared: WeakSet[Any] = WeakSet()

    def build(self, config: Configuration) -> Built:
        """The services of a configuration. Raises `StartError` for what only shows when they are built."""
        allowances = {
            key: Allowance() if service.rate_limit is None else service.rate_limit.allowance
            for key, service in config.l4.items()
        }
        limiters = {key: self._limiter(key, allowance) for key, allowance in allowances.items()}
        routes = {
            key: route(config, key, service, self._parts, limiters[key], self._prepared, self._policies)
            for key, service in config.l4.items()
        }
        listeners = {name: _shared(config, name, routes) for name in listener_names(config)}
        return Built(listeners, _policies(config), limiters, allowances)

    def use(self, built: Built) -> None:
        """From now on these."""
        self._used = built
        self._policies.clear()  # in place: handshakes that began before are judged by it, too
        self._policies.update(built.policies)
        for key, limiter in built.limiters.items():
            limiter.change(built.allowances[key])

    @property
    def limiters(self) -> Mapping[str, RateLimiter]:
        """What counts the clients of each service, and limits them where it says so."""
        return self._used.limiters

    def serves(self, listener: str) -> bool:
        """Whether this listener belongs to services."""
        return listener in self._used.listeners

    def clear(self, listener: str) -> IProtocolFactory | None:
        """The service of a listener without TLS."""
        return self._used.listeners[listener].clear

    def choose(self, arrival: Arrival) -> IProtocolFactory:
        """The service that this arrival's server name means. Raises `UnknownName`."""
        shared, name = self._used.listeners[arrival.listener], arrival.server_name
        found = shared.names.find(name) if name is not None else None
        found = shared.rest if found is None else found
        if found is None:
            raise UnknownName(name or "no name")
        return found

    def _limiter(self, key: str, allowance: Allowance) -> RateLimiter:
        known = self._used.limiters.get(key)
        return RateLimiter(self._parts.reactor, f"l4.{key}", allowance) if known is None else known


def listener_names(config: Configuration) -> list[str]:
    """The listeners that services name, as endpoint strings, each once."""
    return list(dict.fromkeys(name for service in config.l4.values() for name in service.listen))


def route(
    config: Configuration,
    key: str,
    service: L4,
    parts: Parts,
    limiter: RateLimiter,
    prepared: WeakSet[Any],
    policies: Mapping[str, ClientPolicy | None],
) -> IProtocolFactory:
    """What serves the connections of one service."""
    relay: Any = _relay(config, key, service, parts, limiter)
    if service.tls is None:
        return _gated(service, relay)
    return _gated(service, _ending(config, key, service, parts, relay, prepared, policies))


def _relay(
    config: Configuration, key: str, service: L4, parts: Parts, limiter: RateLimiter
) -> ServiceFactory:
    peers = [parts.peer(_label(key), cast(Any, upstream)) for upstream in service.upstream]
    timeout = config.connect_timeout if service.connect_timeout is None else service.connect_timeout
    secured = {
        str(upstream.location): _client_tls(key, service, upstream, parts, timeout)
        for upstream in service.upstream
        if upstream.tls
    }
    return ServiceFactory(
        parts.reactor,
        key,
        Group(peers, BALANCERS[service.load_balance](parts.rng)),
        parts.journal,
        parts.pipes,
        parts.deadlines,
        limiter=limiter,
        tls=secured,
        proxy_protocol=service.proxy_protocol,
        connect_timeout=timeout,
        idle_timeout=service.timeout,
    )


def _ending(
    config: Configuration,
    key: str,
    service: L4,
    parts: Parts,
    relay: ServiceFactory,
    prepared: WeakSet[Any],
    policies: Mapping[str, ClientPolicy | None],
) -> IProtocolFactory:
    """TLS in front of it, and with client certificates the question who may."""
    from rproxy.downstream.mutual import Mutual

    ends: Any = parts.ending(config, _label(key), cast(Any, service))  # it asks for what apps have, too
    return Mutual(
        ends.site, relay, ends.clients, _alpn(service), parts.deadlines, prepared, policies=policies
    )


def _policies(config: Configuration) -> dict[str, ClientPolicy | None]:
    secured = [key for key, service in config.l4.items() if service.tls is not None]
    if not secured:
        return {}
    from rproxy.assemble_tls import client_policy

    return {key: client_policy(_label(key), cast(Any, config.l4[key])) for key in secured}


def _client_tls(key: str, service: L4, upstream: ServiceUpstream, parts: Parts, timeout: float) -> ClientTLS:
    from rproxy.upstream.tls import client_options

    try:
        return client_options(
            upstream.location.host,
            ca_path=upstream.tls_ca_path,
            server_name=upstream.tls_server_name,
            insecure=upstream.tls_insecure,
            client_cert=upstream.tls_client_cert_path,
            client_key=upstream.tls_client_key_path,
            protocols=_alpn(service),
            deadlines=parts.deadlines,
            handshake=timeout,
        )
    except (ValueError, OSError) as problem:
        raise StartError(f"{_label(key)}: upstream {upstream.location}: {problem}")


def _gated(service: L4, route: IProtocolFactory) -> IProtocolFactory:
    """The same behind the address lists of the service, if it has some."""
    allow, deny = (NetworkSet(without_names(networks)) for networks in (service.allow, service.deny))
    if not service.allow and not service.deny:
        return route
    lists = Lists(allow if service.allow else None, deny if service.deny else None)
    return cast(IProtocolFactory, Gated(route, Gate(lists=lists)))


def _shared(config: Configuration, listener: str, routes: Mapping[str, IProtocolFactory]) -> Shared:
    here = {key: service for key, service in config.l4.items() if listener in service.listen}
    for key, service in here.items():
        if service.tls is None:  # then it is the only one, see `config.l4checks`
            return Shared(routes[key], NameTable({}), None)
    names = {name: routes[key] for key, service in here.items() for name in service.server_name}
    rest = next((routes[key] for key, service in here.items() if not service.server_name), None)
    return Shared(None, NameTable(names), rest)


def _label(key: str) -> str:
    """As the service is called where apps have names, too."""
    return f"l4.{key}"


def _alpn(service: L4) -> tuple[bytes, ...]:
    return tuple(name.encode("ascii") for name in service.alpn)
