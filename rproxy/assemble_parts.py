"""The parts of `assemble` that routes share and that outlive a reload: peers, names, certificates, probes."""

from __future__ import annotations

import socket
from collections.abc import Callable, Hashable
from random import Random
from typing import Any, assert_never, cast

from twisted.application.service import MultiService
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.endpoints import clientFromString
from twisted.internet.interfaces import IProtocolFactory, IStreamClientEndpoint

from rproxy.assemble_http import Ending
from rproxy.config.apps import App, HealthCheck, ReverseProxy, StreamUpstream, Upstream
from rproxy.config.http import Tuned
from rproxy.config.location import Kind, Location
from rproxy.config.schema import Configuration
from rproxy.deadlines import Deadlines
from rproxy.errors import StartError
from rproxy.interfaces import Arrival
from rproxy.services.access import ConnectionLog
from rproxy.services.demo import Demo
from rproxy.splice import Pipes
from rproxy.upstream.health import Health, Probing
from rproxy.upstream.http2_pool import Http2Pool
from rproxy.upstream.http_client import HttpPeer
from rproxy.upstream.peer import Peer, Target, target_of
from rproxy.upstream.resolve import Names


class Parts:
    """What routes share, and what outlives a reload: peers keep their counts, names their addresses."""

    def __init__(self, reactor: Any, journal: ConnectionLog, parent: MultiService) -> None:
        self.reactor, self.journal, self._parent = reactor, journal, parent
        self.pipes = Pipes()
        self.deadlines = Deadlines(reactor)
        self.rng = Random()
        self.names = Names(reactor, reactor.nameResolver)
        self._peers: dict[Hashable, Peer] = {}
        self._used: set[Hashable] = set()
        self._probed: dict[HttpPeer, Probing] = {}
        self.health = Health(reactor, self.rng)
        self.health.setServiceParent(parent)
        self._demo: Demo | None = None
        self._endings: Any = None

    def peer(self, app: str, upstream: StreamUpstream) -> Peer:
        """The peer at this location for this app, the same one as before the reload if there was one."""
        where, weight = upstream.location, upstream.weight
        key = stream_key(app, upstream)
        return self._kept(key, lambda: Peer(where.text, weight=weight, **self._place(app, where)))

    def http_peer(self, app: str, entry: ReverseProxy, upstream: Upstream, tuned: Tuned) -> HttpPeer:
        """The same for a peer that requests are sent to; a change of its settings makes another peer."""
        key = http_key(app, entry, upstream, tuned)
        peer = cast(HttpPeer, self._kept(key, lambda: self._make_http_peer(app, entry, upstream, tuned)))
        if entry.health_check is not None:
            self._probed[peer] = probing(entry.health_check)
        return peer

    def known(self, key: Hashable) -> Peer | None:
        """The peer of this `stream_key` or `http_key`, if there is one."""
        return self._peers.get(key)

    def in_use(self, name: str) -> tuple[tuple[Any, ...], str] | None:
        """The certificates that clients of an app or `l4.<name>` are shown, see `Certificates.in_use`."""
        return None if self._endings is None else self._endings.certificates.in_use(name)

    def ending(self, config: Configuration, key: str, app: App) -> Ending:
        """The TLS of an app that has certificates."""
        from rproxy import assemble_tls

        if self._endings is None:
            self._endings = assemble_tls.Endings(self.reactor, self._parent, self.deadlines, self.rng)
        return cast(Ending, self._endings.ending(config, key, app, self.journal))

    def challenge(self, arrival: Arrival) -> IProtocolFactory | None:
        """What answers a certificate authority that wants to know whether a name is ours."""
        if self._endings is None:
            return None
        return cast("IProtocolFactory | None", self._endings.challenge(arrival))

    def _kept(self, key: Hashable, make: Callable[[], Peer]) -> Peer:
        if key not in self._peers:
            self._peers[key] = make()  # may raise: then it is not used either
        self._used.add(key)
        return self._peers[key]

    def _make_http_peer(self, app: str, entry: ReverseProxy, upstream: Upstream, tuned: Tuned) -> HttpPeer:
        where, tls, http2 = upstream.location, None, _is_http2(entry)
        if upstream.tls:
            from rproxy.assemble_tls import client_tls

            tls = client_tls(app, upstream, self.deadlines)
            tls = tls.offering(b"h2") if http2 else tls
        usual = 443 if upstream.tls else 80
        host = f"[{where.host}]" if ":" in where.host else where.host
        authority = (host if where.port in (usual, 0) else f"{host}:{where.port}") or "localhost"
        return HttpPeer(
            where.text,
            authority=authority.encode("ascii"),
            tls=tls,
            keep=tuned.keepalive,
            keep_idle=tuned.upstream_keepalive_timeout,
            max_fails=entry.max_fails,
            fail_timeout=entry.fail_timeout,
            weight=upstream.weight,
            http2=Http2Pool if http2 else None,
            **self._place(app, where),
        )

    def begin(self) -> None:
        """Called before new tables are built, perhaps after others that came to nothing."""
        self._used, self._probed = set(), {}
        if self._endings is not None:
            self._endings.begin()

    def close(self) -> None:
        """At the end: nobody waits for the idle connections to peers."""
        for peer in self._peers.values():
            if isinstance(peer, HttpPeer):
                peer.forget()
        self.pipes.close()

    def forget_unused(self) -> None:
        """Called when new tables are in use: peers and names that no route has any more go."""
        used, self._used = self._used, set()
        for key in self._peers.keys() - used:
            peer = self._peers.pop(key)
            if isinstance(peer, HttpPeer):
                peer.forget()
        probed, self._probed = self._probed, {}
        self.health.use({peer: how for peer, how in probed.items() if peer in self._peers.values()})
        self.names.forget({peer.host for peer in self._peers.values()})
        if self._endings is not None:
            self._endings.forget_unused()

    def stop_renewing(self) -> None:
        """The proxy stops: an authority that asked now would find nobody."""
        if self._endings is not None:
            self._endings.stop_renewing()

    def look_up(self) -> None:
        """Ask for the addresses of all peers now, so that no client waits for the first answer."""
        for peer in self._peers.values():
            peer.targets()

    def _place(self, app: str, where: Location) -> dict[str, Any]:
        """Where a peer is, as `Peer` takes it."""
        match where.kind:
            case Kind.UNIX:
                return {"fixed": [(socket.AF_UNIX, where.path)]}
            case Kind.DEMO:
                return {"fixed": [self._demo_target()]}
            case Kind.ENDPOINT:
                return {"endpoint": self._endpoint(app, where)}
            case Kind.INET if isIPAddress(where.host) or isIPv6Address(where.host):
                return {"fixed": [_fixed(app, where)]}
            case Kind.INET:
                return {"host": where.host, "port": where.port, "names": self.names}
            case _:
                assert_never(where.kind)

    def _endpoint(self, app: str, where: Location) -> IStreamClientEndpoint:
        try:
            endpoint: IStreamClientEndpoint = clientFromString(self.reactor, where.endpoint)
            return endpoint
        except Exception as problem:  # endpoints are plugins: what they raise for a mistake is theirs
            why = str(getattr(problem, "originalException", problem)) or type(problem).__name__
            raise StartError(f'app {app}: Twisted cannot use the endpoint "{where.text}": {why}')

    def _demo_target(self) -> Target:
        if self._demo is None:
            self._demo = Demo(self.reactor)
            self._demo.setServiceParent(self._parent)
        return self._demo.target


def stream_key(app: str, upstream: StreamUpstream | Upstream) -> Hashable:
    """What makes a peer the same one after a reload."""
    return app, upstream.location.text, upstream.weight


def http_key(app: str, entry: ReverseProxy, upstream: Upstream, tuned: Tuned) -> Hashable:
    """The same for a peer that requests are sent to."""
    http2 = _is_http2(entry)
    return app, upstream, tuned, entry.max_fails, entry.fail_timeout, entry.health_check, http2


def probing(check: HealthCheck) -> Probing:
    """A health check as `upstream.health` takes it."""
    path = check.path.encode("ascii") if check.type == "http" and check.path is not None else None
    return Probing(
        path,
        check.expected_status,
        check.interval,
        check.timeout,
        check.unhealthy_threshold,
        check.healthy_threshold,
    )


def _is_http2(entry: ReverseProxy) -> bool:
    """Whether the peers of an entry are spoken to in HTTP/2."""
    return "force_http2_upstream" in entry.upstream_options


def _fixed(app: str, where: Location) -> Target:
    try:
        return target_of(where.host, where.port)
    except OSError:  # only a zone is looked up: fe80::1%eth0
        raise StartError(f'app {app}: "{where.text}": this machine has no such network interface')
