"""The part of `assemble` that answers on the admin socket: what is asked, what it does, what it tells.

Everything is read when it is asked for; nothing is counted for it.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Final, Protocol, cast

from rproxy import described
from rproxy.assemble_l4 import Services
from rproxy.assemble_limits import Guards
from rproxy.assemble_parts import Parts
from rproxy.config.apps import App
from rproxy.config.schema import Configuration
from rproxy.policy.bantable import EVER
from rproxy.services.admin import Answer
from rproxy.services.banfile import LONGEST, read_line, stamp
from rproxy.services.connections import Connections
from rproxy.upstream.peer import Peer

MOST_LISTED: Final = 1000
"""Bans in an answer, the latest: more than anybody reads, in five milliseconds."""


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

    def try_reload(self) -> str:
        """Read the file again; why that is not done, or nothing."""


def answers(service: Served, clock: Any) -> dict[str, Answer]:
    """What the admin socket is asked for."""
    bans = service.guards.bans

    def ban(asked: Mapping[str, Any]) -> Mapping[str, Any]:
        address, seconds = _address(asked, "seconds"), asked.get("seconds")
        if seconds is not None and (
            isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= LONGEST
        ):
            raise ValueError(f"seconds is a number from 1 to {LONGEST}, which is a year")
        return _said({"banned": bans.ban(address, seconds)}, bans.save())

    def unban(asked: Mapping[str, Any]) -> Mapping[str, Any]:
        address = _address(asked)
        return _said({"unbanned": address, "was_banned": bans.unban(address)}, bans.save())

    def listed(asked: Mapping[str, Any]) -> Mapping[str, Any]:
        _nothing_else(asked)
        lines = bans.listed(MOST_LISTED)
        return {"count": len(bans), "bans": [_ban(line, clock.seconds()) for line in lines]}

    def status(asked: Mapping[str, Any]) -> Mapping[str, Any]:
        _nothing_else(asked)
        return _status(service, clock.seconds())

    def reload(asked: Mapping[str, Any]) -> Mapping[str, Any]:
        _nothing_else(asked)
        mistakes = service.try_reload()
        return {"error": mistakes} if mistakes else {"reloaded": True}

    return {"ban": ban, "unban": unban, "bans": listed, "status": status, "reload": reload}


def _address(asked: Mapping[str, Any], *others: str) -> str:
    address = asked.get("address")
    if not isinstance(address, str):
        raise ValueError('address is a text: "192.0.2.7", "10.0.0.0/8"')
    _nothing_else(asked, "address", *others)
    return address


def _nothing_else(asked: Mapping[str, Any], *known: str) -> None:
    for key in asked.keys() - set(known):
        raise ValueError(f"{key[:40]!r} is nothing that can be said here")


def _said(answer: dict[str, Any], trouble: str) -> Mapping[str, Any]:
    return answer | {"warning": trouble} if trouble else answer


def _ban(line: str, now: float) -> dict[str, Any]:
    found = read_line(line, now)
    assert found is not None
    until = None if found.until == EVER else stamp(found.until)
    return {"address": found.network.text, "until": until, "note": found.note.lstrip("# ")}


def _status(service: Served, now: float) -> dict[str, Any]:
    config, guards, peers = service.config, service.guards, _peers_by_app(service.parts)
    limiters = [*guards.limiters.values(), *service.l4.limiters.values()]
    return {
        "version": described(),
        "pid": os.getpid(),
        "connections": {"open": len(service.connections), "most": config.max_clients},
        "listeners": [{"name": name, "speaks": kind} for name, kind in service.listener_kinds().items()],
        "apps": [_app(key, app, peers.get(key, []), now) for key, app in config.apps.items()],
        "l4": [
            {"name": key, "listen": list(each.listen), "peers": _peers(peers.get(f"l4.{key}", []), now)}
            for key, each in config.l4.items()
        ],
        "limits": [
            {"name": each.name, **each.allowance._asdict(), "clients": each.clients, "open": each.open}
            | {"refused": each.refused}
            for each in limiters
        ],
        "bans": {
            "count": len(guards.bans),
            "refused": guards.bans.refused,
            "file": str(config.ban_list) if config.ban_list is not None else None,
        },
    }


def _peers_by_app(parts: Parts) -> Mapping[str, list[Peer]]:
    """The peers of every app; of services by `l4.<name>`."""
    found: defaultdict[str, list[Peer]] = defaultdict(list)
    for key, peer in parts._peers.items():
        found[cast("tuple[str, object]", key)[0]].append(peer)
    return found


def _app(key: str, app: App, peers: list[Peer], now: float) -> dict[str, Any]:
    kinds: Mapping[str, bool] = {
        "tls": app.tls is not None,
        "passthrough": app.passthrough is not None,
        "http": bool(app.reverse_proxy),
    }
    serves = [kind for kind, is_so in kinds.items() if is_so]
    return {"name": key, "names": list(app.server_name), "serves": serves, "peers": _peers(peers, now)}


def _peers(peers: list[Peer], now: float) -> list[dict[str, Any]]:
    return [
        {
            "location": peer.name,
            "state": "up"
            if peer.healthy and peer.down_until <= now
            else "down"
            if peer.healthy
            else "unhealthy",
            "open": peer.open,
            "weight": peer.weight,
        }
        for peer in peers
    ]
