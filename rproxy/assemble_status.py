"""The part of `assemble` that tells what the proxy does, for `rproxy status`. Called by `assemble_admin`.

Everything is read when it is asked for; nothing is counted for it. What the fields mean stands in
docs/operations.md.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from typing import Any, Final, Protocol

from rproxy import described
from rproxy.assemble_l4 import Services
from rproxy.assemble_limits import Guards
from rproxy.assemble_parts import Parts, http_key, stream_key
from rproxy.config.apps import App
from rproxy.config.l4 import L4
from rproxy.config.schema import Configuration
from rproxy.policy.bucket import Key
from rproxy.services.connections import Connections
from rproxy.services.ratelimits import RateLimiter
from rproxy.upstream.http_client import HttpPeer
from rproxy.upstream.peer import Peer

MOST_CLIENTS: Final = 1000
"""Clients of a service that are listed, those with the most connections: more than anybody reads."""


class Served(Protocol):
    """What `assemble.ProxyService` tells about itself."""

    guards: Guards
    parts: Parts
    connections: Connections
    l4: Services

    @property
    def config(self) -> Configuration:
        """What is in use."""

    def listener_kinds(self) -> Mapping[str, str]:
        """Every open listener, and what is spoken there."""


def status(service: Served, now: float) -> dict[str, Any]:
    """Everything; `now` as peers have it."""
    config, parts = service.config, service.parts
    return {
        "version": described(),
        "pid": os.getpid(),
        "connections": {
            "open": len(service.connections),
            "most": config.max_clients,
            "most_per_client": config.max_clients_per_ip or None,
        },
        "listeners": [{"name": name, "speaks": kind} for name, kind in service.listener_kinds().items()],
        "apps": [_app(config, key, app, parts, now) for key, app in config.apps.items()],
        "hosts": _hosts(config),
        "l4": [_l4(service, key, each, now) for key, each in config.l4.items()],
        "limits": [_limit(each) for each in _limiters(service)],
        "jails": _jails(service.guards),
        "bans": _bans(config, service.guards),
    }


def _app(config: Configuration, key: str, app: App, parts: Parts, now: float) -> dict[str, Any]:
    kinds: Mapping[str, bool] = {
        "tls": app.tls is not None,
        "passthrough": app.passthrough is not None,
        "http": bool(app.reverse_proxy),
    }
    serves = [kind for kind, is_so in kinds.items() if is_so]
    peers = [*_streamed(key, app, parts, now), *_asked(config, key, app, parts, now)]
    return {"name": key, "names": list(app.server_name), "serves": serves, "peers": peers}


def _streamed(key: str, app: App, parts: Parts, now: float) -> Iterator[dict[str, Any]]:
    """The peers that TLS is passed through to."""
    for upstream in app.passthrough.upstream if app.passthrough is not None else ():
        peer = parts.known(stream_key(key, upstream))
        if peer is not None:
            yield {"for": "passthrough", **_peer(peer, now)}


def _asked(config: Configuration, key: str, app: App, parts: Parts, now: float) -> Iterator[dict[str, Any]]:
    """Those that requests are sent to, by the path of their entry."""
    for entry in app.reverse_proxy:
        tuned = config.tuned(entry)
        for upstream in entry.upstream:
            peer = parts.known(http_key(key, entry, upstream, tuned))
            if isinstance(peer, HttpPeer):
                checked = entry.health_check is not None
                yield {"for": entry.path, **_peer(peer, now, checked), "idle": len(peer.idle)}


def _peer(peer: Peer, now: float, checked: bool = False) -> dict[str, Any]:
    is_down = peer.down_until > now
    return {
        "location": peer.name,
        "state": "unhealthy" if not peer.healthy else "down" if is_down else "up",
        "checked": checked,
        "open": peer.open,
        "weight": peer.weight,
    }


def _hosts(config: Configuration) -> dict[str, Any] | None:
    """Its hosts are looked at when they are asked for; nothing is known about them."""
    if config.hosts is None:
        return None
    return {"directory": str(config.hosts.directory), "hashed": config.hosts.hashed}


def _l4(service: Served, key: str, each: L4, now: float) -> dict[str, Any]:
    found = (service.parts.known(stream_key(f"l4.{key}", upstream)) for upstream in each.upstream)
    limiter = service.l4.limiters.get(key)
    return {
        "name": key,
        "listen": list(each.listen),
        "names": list(each.server_name),
        "tls": each.tls is not None,
        "client_certificates": each.tls is not None and each.tls.client_ca_cert_path is not None,
        "groups": list(each.authorized_groups),
        "open": limiter.open if limiter is not None else 0,
        "clients": _clients(limiter) if limiter is not None else [],
        "peers": [{"for": "tcp", **_peer(peer, now)} for peer in found if peer is not None],
    }


def _clients(limiter: RateLimiter) -> list[dict[str, Any]]:
    return [{"client": _client(key), "open": count} for key, count in limiter.busiest(MOST_CLIENTS)]


def _client(key: Key) -> str:
    """A name in a certificate, an address, or the /64 of one."""
    return key if isinstance(key, str) else socket.inet_ntop(socket.AF_INET6, key + bytes(8)) + "/64"


def _limiters(service: Served) -> Iterator[RateLimiter]:
    """Those that limit something."""
    yield from service.guards.limiters.values()
    for key, limiter in service.l4.limiters.items():
        if key in service.config.l4 and service.config.l4[key].rate_limit is not None:
            yield limiter


def _limit(limiter: RateLimiter) -> dict[str, Any]:
    return {
        "name": limiter.name,
        **limiter.allowance._asdict(),
        "clients": limiter.clients,
        "open": limiter.open,
        "refused": limiter.refused,
    }


def _jails(guards: Guards) -> list[dict[str, Any]]:
    """What they count; whom they have banned is among the bans."""
    return [] if guards.jails is None else guards.jails.told()


def _bans(config: Configuration, guards: Guards) -> dict[str, Any]:
    return {
        "count": len(guards.bans),
        "by_jails": guards.bans.jailed,
        "refused": guards.bans.check.refused,
        "file": str(config.ban_list) if config.ban_list is not None else None,
    }
