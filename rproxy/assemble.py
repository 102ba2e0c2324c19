"""From a configuration to a running proxy: the one place where the parts are put together.

`ProxyService` is what `tap` hands to Twisted. The first half of this file is the service and
its life (start, reload, drain); the second builds routes from config models. Nothing below
this file knows that a configuration exists.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Hashable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, NamedTuple, assert_never, cast

from twisted.application.service import MultiService
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.defer import inlineCallbacks
from twisted.internet.endpoints import clientFromString
from twisted.internet.interfaces import IProtocolFactory, IStreamClientEndpoint
from twisted.internet.task import deferLater
from twisted.logger import Logger

from rproxy.assemble_http import Ending, HttpParts, HttpTables, http_tables
from rproxy.config.apps import App, Passthrough, StreamUpstream, Upstream
from rproxy.config.http import Tuned
from rproxy.config.load import load
from rproxy.config.location import Kind, Location
from rproxy.config.schema import Configuration
from rproxy.deadlines import Deadlines
from rproxy.downstream.peek import PeekFactory, PeekOptions, ProxyPolicy
from rproxy.errors import ConfigError, StartError
from rproxy.policy.balance import BALANCERS
from rproxy.policy.networks import NetworkSet
from rproxy.policy.routes import NameTable
from rproxy.relay import RelayFactory
from rproxy.services.access import ConnectionLog, Sink
from rproxy.services.connections import Connections
from rproxy.services.demo import Demo
from rproxy.services.hosts import HostsFolder
from rproxy.services.limits import Limits
from rproxy.services.listeners import Listeners, Wanted
from rproxy.services.reload import Watch
from rproxy.services.routing import Routing
from rproxy.services.signals import Signals
from rproxy.splice import Pipes
from rproxy.upstream.http_client import HttpPeer
from rproxy.upstream.peer import Group, Peer, Target, target_of
from rproxy.upstream.resolve import Names

log = Logger()


class ProxyService(MultiService):
    """One proxy. `file` is what a reload reads again; None for a configuration that has no file.

    `drained` is called at the end of a stop with whether every connection ended by itself.
    """

    def __init__(
        self,
        reactor: Any,
        config: Configuration,
        sink: Sink,
        *,
        file: Path | None = None,
        watch: bool = True,
        drained: Callable[[bool], object] = lambda clean: None,
    ) -> None:
        super().__init__()
        self._reactor, self._config, self._file, self._drained = reactor, config, file, drained
        self.limits = Limits(reactor, config.max_clients, config.max_clients_per_ip)
        self.connections = Connections()
        self.routing = Routing()
        self.parts = Parts(reactor, ConnectionLog(reactor, sink), self)
        self.http = HttpParts(reactor, self.parts.deadlines, self.parts.pipes, sink)
        self._factories: dict[str, PeekFactory] = {}
        self._stopping = False
        self._peek_options = peek_options(config)
        self._use(config, tables(config, self.parts, self.http))
        self.listeners = Listeners(reactor, wanted(config), self._factory)
        hangup = self.reload if file is not None else self._stop
        self._signals = Signals(reactor, hangup, self.http.reopen_logs)
        self._watch = Watch(reactor, file, self.reload) if file is not None and watch else None
        for child in (self.listeners, self._signals, self._watch):
            if child is not None:
                child.setServiceParent(self)

    def _factory(self, listener: str) -> IProtocolFactory:
        factory = PeekFactory(
            self._reactor,
            listener,
            self.routing.choose,
            self.limits,
            self.connections,
            self.parts.journal,
            self.parts.deadlines,
            self._peek_options,
            clear=self.http.factory(secure=False) if listener in clear_names(self._config) else None,
        )
        self._factories[listener] = factory
        return factory

    def _use(self, config: Configuration, built: Tables) -> None:
        """Put new tables in the place of the old; connections that live keep what they were given."""
        self.routing.table, self.routing.default, self.routing.hosts = built.names, built.default, built.hosts
        self.http.use(config, built.http)
        self.limits.max_clients = config.max_clients
        self.limits.max_clients_per_ip = config.max_clients_per_ip
        self._peek_options = peek_options(config)
        for factory in self._factories.values():
            factory.options = self._peek_options
        self.parts.forget_unused()
        self._config = config
        names = {listener.name for listener in wanted(config)}
        self._factories = {name: kept for name, kept in self._factories.items() if name in names}

    def reload(self) -> None:
        """Read the file again. Whatever is wrong with it is logged and changes nothing."""
        assert self._file is not None
        if self._stopping:  # the ports may belong to a successor by now
            return
        if self._watch is not None:
            self._watch.noted()
        try:
            config = load(self._file)
            built = tables(config, self.parts, self.http)
            self._config, before = config, self._config
            try:
                self.listeners.change(wanted(config))
            except StartError:
                self._config = before
                raise
        except (ConfigError, StartError) as mistakes:
            log.error("reload refused, the configuration stays as it was:\n{why}", why=str(mistakes))
            return
        self._use(config, built)
        self.parts.look_up()
        log.info("reloaded {file}", file=str(self._file))

    def startService(self) -> None:
        """Twisted's call: listeners are open already, everything else begins."""
        super().startService()
        self._reactor.callWhenRunning(self.parts.look_up)
        names = ", ".join(self.listeners.ports) or "nothing"
        log.info("rproxy listens on {names}", names=names)

    @inlineCallbacks
    def stopService(self) -> Any:
        """Twisted's call: free the ports, let connections end, cut off what is left at the deadline."""
        self._stopping = True
        if self._watch is not None:
            self._watch.disownServiceParent()
            self._watch = None
        yield self.listeners.stopService()
        self._signals.hurry_on_second_stop(self.connections.abort_all)
        if self.connections:
            log.info("waiting for {n} connections", n=len(self.connections))
        clean = yield self.connections.drain(self._reactor, self._config.drain_timeout)
        if not clean:
            log.warn("the drain timeout has passed; the connections left were cut off")
        yield deferLater(self._reactor, 0)  # the last connection's peer ends, and its line is written
        self.parts.journal.flush()
        self.http.close_logs()
        self.parts.pipes.close()
        yield super().stopService()
        self._drained(clean)

    def _stop(self) -> None:
        """SIGHUP where there is no file: drain and end, as sniproxy does (S-5)."""
        if not self._stopping:
            self._reactor.stop()


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
        self._demo: Demo | None = None
        self._certificates: Any = None

    def peer(self, app: str, upstream: StreamUpstream) -> Peer:
        """The peer at this location for this app, the same one as before the reload if there was one."""
        where, weight = upstream.location, upstream.weight
        key = app, where.text, weight
        return self._kept(key, lambda: Peer(where.text, weight=weight, **self._place(app, where)))

    def http_peer(self, app: str, upstream: Upstream, tuned: Tuned) -> HttpPeer:
        """The same for a peer that requests are sent to."""
        return cast(
            HttpPeer, self._kept((app, upstream, tuned), lambda: self._make_http_peer(app, upstream, tuned))
        )

    def ending(self, config: Configuration, key: str, app: App) -> Ending:
        """The TLS of an app that has certificates."""
        from rproxy import assemble_tls

        if self._certificates is None:
            self._certificates = assemble_tls.certificates(self.reactor)
            self._certificates.setServiceParent(self._parent)
        return assemble_tls.ending(config, self._certificates, self.deadlines, key, app)

    def _kept(self, key: Hashable, make: Callable[[], Peer]) -> Peer:
        if key not in self._peers:
            self._peers[key] = make()  # may raise: then it is not used either
        self._used.add(key)
        return self._peers[key]

    def _make_http_peer(self, app: str, upstream: Upstream, tuned: Tuned) -> HttpPeer:
        where, tls = upstream.location, None
        if upstream.tls:
            from rproxy.assemble_tls import client_tls

            tls = client_tls(app, upstream, self.deadlines)
        usual = 443 if upstream.tls else 80
        host = f"[{where.host}]" if ":" in where.host else where.host
        authority = (host if where.port in (usual, 0) else f"{host}:{where.port}") or "localhost"
        return HttpPeer(
            where.text,
            authority=authority.encode("ascii"),
            tls=tls,
            keep=tuned.keepalive,
            weight=upstream.weight,
            **self._place(app, where),
        )

    def forget_unused(self) -> None:
        """Called when new tables are in use: peers and names that no route has any more go."""
        used, self._used = self._used, set()
        self._peers = {key: self._peers[key] for key in used}
        self.names.forget({peer.host for peer in self._peers.values()})
        if self._certificates is not None:
            self._certificates.forget_unused()

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
        except (ValueError, TypeError, LookupError, ImportError) as problem:
            raise StartError(f'app {app}: Twisted cannot use the endpoint "{where.text}": {problem}')

    def _demo_target(self) -> Target:
        if self._demo is None:
            self._demo = Demo(self.reactor)
            self._demo.setServiceParent(self._parent)
        return self._demo.target


class Tables(NamedTuple):
    """What decides where connections go, built whole before any of it is used."""

    names: NameTable[IProtocolFactory]
    default: IProtocolFactory | None
    hosts: HostsFolder | None
    http: HttpTables


def tables(config: Configuration, parts: Parts, http: HttpParts) -> Tables:
    """The routes of a configuration. Raises `StartError` for what only shows when it is built."""
    by_app = {
        key: passthrough(config, key, app.passthrough, parts)
        for key, app in config.apps.items()
        if app.passthrough is not None
    }
    names = {
        name: by_app[key] for key, app in config.apps.items() if key in by_app for name in app.server_name
    }
    default = by_app[config.default_passthrough] if config.default_passthrough is not None else None
    requests = http_tables(config, http, parts.http_peer, partial(parts.ending, config), parts.rng)
    return Tables(NameTable(names | requests.terminating), default, hosts(config, parts), requests)


def passthrough(config: Configuration, key: str, stream: Passthrough, parts: Parts) -> IProtocolFactory:
    """The route of an app whose connections stay encrypted."""
    peers = [parts.peer(key, upstream) for upstream in stream.upstream]
    return RelayFactory(
        parts.reactor,
        key,
        Group(peers, BALANCERS[stream.load_balance](parts.rng)),
        parts.journal,
        parts.pipes,
        parts.deadlines,
        proxy_protocol=stream.proxy_protocol,
        connect_timeout=_first_set(stream.connect_timeout, config.connect_timeout),
        idle_timeout=_first_set(stream.idle_timeout, config.idle_timeout),
    )


def hosts(config: Configuration, parts: Parts) -> HostsFolder | None:
    """The hosts folder, if there is one. Raises `StartError` when it is not a directory."""
    if config.hosts is None:
        return None
    if not os.path.isdir(config.hosts.directory):  # unlike Path.is_dir also False where we may not look
        raise StartError(f"hosts.directory: {config.hosts.directory} is not a directory")
    return HostsFolder(
        parts.reactor,
        config.hosts.directory,
        parts.journal,
        parts.pipes,
        parts.deadlines,
        hash_names=config.hosts.hashed,
        connect_timeout=config.connect_timeout,
        idle_timeout=config.idle_timeout,
    )


def wanted(config: Configuration) -> list[Wanted]:
    """The listeners that a configuration names, as endpoint strings."""
    names = list(config.listen_tls)
    if config.listen_port_tls is not None:
        names += [_tcp(config.listen_port_tls, address) for address in config.listen_addresses]
    names += sorted(clear_names(config))
    return [Wanted(name, config.tcp_listen_backlog) for name in dict.fromkeys(names)]


def clear_names(config: Configuration) -> set[str]:
    """The listeners that speak HTTP in clear text."""
    names = set(config.listen)
    if config.listen_port is not None:
        names |= {_tcp(config.listen_port, address) for address in config.listen_addresses}
    return names


def peek_options(config: Configuration) -> PeekOptions:
    """What listeners are told about the beginning of a connection."""
    accept = config.accept_proxy_protocol
    policy = ProxyPolicy(NetworkSet(accept.from_), accept.required, accept.timeout) if accept else None
    return PeekOptions(hello_timeout=config.hello_timeout, proxy=policy)


def _fixed(app: str, where: Location) -> Target:
    try:
        return target_of(where.host, where.port)
    except OSError:  # only a zone is looked up: fe80::1%eth0
        raise StartError(f'app {app}: "{where.text}": this machine has no such network interface')


def _tcp(port: int, host: str) -> str:
    if ":" in host:
        return f"tcp6:{port}:interface=" + host.replace(":", "\\:")
    return f"tcp:{port}:interface={host}"


def _first_set(special: float | None, general: float) -> float:
    return general if special is None else special
