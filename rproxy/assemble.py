"""From a configuration to a running proxy: the one place where the parts are put together.

`ProxyService` is what `tap` hands to Twisted. The first half of this file is the service and
its life (start, reload, drain); the second builds routes from config models. Nothing below
this file knows that a configuration exists.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from twisted.application.service import MultiService
from twisted.internet.defer import inlineCallbacks
from twisted.internet.interfaces import IProtocolFactory
from twisted.internet.task import deferLater
from twisted.logger import Logger

from rproxy.assemble_admin import answers
from rproxy.assemble_http import HttpParts, HttpTables, http_tables
from rproxy.assemble_l4 import Built, Services, listener_names
from rproxy.assemble_limits import Guarding, Guards
from rproxy.assemble_parts import Parts
from rproxy.config.apps import Passthrough
from rproxy.config.load import load
from rproxy.config.schema import Configuration
from rproxy.downstream.peek import PeekFactory, PeekOptions, ProxyPolicy
from rproxy.errors import ConfigError, StartError
from rproxy.interfaces import Arrival
from rproxy.policy.balance import BALANCERS
from rproxy.policy.networks import NetworkSet
from rproxy.policy.routes import NameTable
from rproxy.relay import RelayFactory
from rproxy.services.access import Sink
from rproxy.services.admin import AdminSocket
from rproxy.services.connections import Connections
from rproxy.services.hosts import HostsFolder
from rproxy.services.limits import Limits
from rproxy.services.listeners import Listeners, Wanted
from rproxy.services.reload import Fingerprint, Watch
from rproxy.services.routing import Routing
from rproxy.services.signals import Signals
from rproxy.services.userlog import UserLog
from rproxy.upstream.peer import Group

log = Logger()

ACME_ALONE = (b"acme-tls/1",)
"""The protocols that a certificate authority offers when it verifies a name (RFC 8737 §3)."""


class ProxyService(MultiService):
    """One proxy. `file` is what a reload reads again; None for a configuration that has no file.

    `seen` is the file's fingerprint from before it was read. `signals` says whether the process is
    ours to take SIGHUP and the like in. `drained` is called at the end of a stop with whether every
    connection ended by itself.
    """

    def __init__(
        self,
        reactor: Any,
        config: Configuration,
        sink: Sink,
        *,
        file: Path | None = None,
        seen: Fingerprint | None = None,
        watch: bool = True,
        signals: bool = True,
        drained: Callable[[bool], object] = lambda clean: None,
    ) -> None:
        super().__init__()
        self._reactor, self._config, self._file, self._drained = reactor, config, file, drained
        self.limits = Limits(reactor, config.max_clients, config.max_clients_per_ip)
        self.connections = Connections()
        self.routing = Routing()
        journal = UserLog(reactor, sink)
        self.parts = Parts(reactor, journal, self)
        self.guards = Guards(reactor, journal, lambda: self.connections, self)
        self.http = HttpParts(reactor, self.parts.deadlines, self.parts.pipes, sink)
        self.l4 = Services(self.parts)
        self._factories: dict[str, PeekFactory] = {}
        self._stopping = False
        self._peek_options: dict[str, PeekOptions] = {}
        try:
            self._use(config, tables(config, self.parts, self.http, self.l4, self.guards))
        except BaseException:
            self.http.close_logs()  # of a program that goes on without this proxy
            raise
        self.listeners = Listeners(reactor, wanted(config), self._factory)
        hangup = self.reload if file is not None else self._stop
        self._signals = Signals(reactor, hangup, self.http.reopen_logs) if signals else None
        self._watch = Watch(reactor, file, self.reload, seen) if file is not None and watch else None
        self._admin = AdminSocket(reactor, answers(self, reactor), config.admin_socket)
        for child in (self.listeners, self._admin, self._signals, self._watch):
            if child is not None:
                child.setServiceParent(self)

    def _factory(self, listener: str) -> IProtocolFactory:
        factory = PeekFactory(
            self._reactor,
            listener,
            self._choose,
            self.limits,
            self.connections,
            self.parts.journal,
            self.parts.deadlines,
            self._peek_options[listener],
            clear=self._clear(listener, clear_names(self._config)),
        )
        self._factories[listener] = factory
        return factory

    def _clear(self, listener: str, http: set[str]) -> IProtocolFactory | None:
        """The one route of a listener without TLS; `http` are the names of those that speak HTTP."""
        if self.l4.serves(listener):
            return self.l4.clear(listener)
        return self.http.factory(secure=False) if listener in http else None

    def _choose(self, arrival: Arrival) -> IProtocolFactory:
        """The route of a TLS connection."""
        if arrival.hello is not None and arrival.hello.alpn == ACME_ALONE:
            answer = self.parts.challenge(arrival)
            if answer is not None:
                return answer
        if self.l4.serves(arrival.listener):
            return self.l4.choose(arrival)
        return self.routing.choose(arrival)

    def _use(self, config: Configuration, built: Tables) -> None:
        """Put new tables in the place of the old; connections that live keep what they were given."""
        self.routing.table, self.routing.default, self.routing.hosts = built.names, built.default, built.hosts
        self.http.use(config, built.http)
        self.l4.use(built.services)
        self.guards.use(built.guarding)
        self.http.answers.jails = built.guarding.jails
        self.limits.max_clients = config.max_clients
        self.limits.max_clients_per_ip = config.max_clients_per_ip
        self._peek_options = peek_options_of(config, built.guarding)
        clear = clear_names(config)
        for name, factory in self._factories.items():
            factory.options = self._peek_options.get(name, factory.options)
            factory.journal = self.parts.journal
            factory.clear = self._clear(name, clear)
        self.parts.forget_unused()
        self._config = config
        names = {listener.name for listener in wanted(config)}
        self._factories = {name: kept for name, kept in self._factories.items() if name in names}

    def reload(self) -> None:
        """Read the file again. Whatever is wrong with it is logged and changes nothing."""
        self.try_reload()

    def try_reload(self) -> str:
        """The same; says why it was not done, or nothing."""
        if self._file is None:
            return "there is no config file to read again"
        if self._stopping:  # the ports may belong to a successor by now
            return "the proxy stops"
        if self._watch is not None:
            self._watch.noted()
        before = self._config, self._peek_options, self.parts.journal
        try:
            config = load(self._file)
            built = tables(config, self.parts, self.http, self.l4, self.guards)
            self._config, self._peek_options = config, peek_options_of(config, built.guarding)
            admin = self._admin.open(config.admin_socket)
            try:
                self.listeners.change(wanted(config))
            except BaseException:
                self._admin.give_up(admin)
                raise
        except BaseException as problem:
            self._config, self._peek_options, self.parts.journal = before
            if not isinstance(problem, ConfigError | StartError):
                raise
            log.error("reload refused, the configuration stays as it was:\n{why}", why=str(problem))
            return str(problem)
        self._admin.use(admin)
        self._use(config, built)
        self.parts.look_up()
        log.info("reloaded {file}", file=str(self._file))
        return ""

    @property
    def config(self) -> Configuration:
        """What is in use."""
        return self._config

    def listener_kinds(self) -> dict[str, str]:
        """Every open listener, and what is spoken there."""
        http = clear_names(self._config)
        return {
            name: "l4" if self.l4.serves(name) else "http" if name in http else "tls"
            for name in self.listeners.ports
        }

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
        self.parts.stop_renewing()
        yield self.listeners.stopService()
        yield self._admin.stopService()  # now, too: a successor needs it
        if self._signals is not None:
            self._signals.hurry_on_second_stop(self.connections.abort_all)
        if self.connections:
            log.info("waiting for {n} connections", n=len(self.connections))
        clean = yield self.connections.drain(self._reactor, self._config.drain_timeout)
        if not clean:
            log.warn("the drain timeout has passed; the connections left were cut off")
        yield deferLater(self._reactor, 0)  # the last connection's peer ends, and its line is written
        self.parts.journal.flush()
        self.http.close_logs()
        self.parts.close()
        yield super().stopService()
        self._drained(clean)

    def _stop(self) -> None:
        """SIGHUP where there is no file: drain and end, as sniproxy does (S-5)."""
        if not self._stopping:
            self._reactor.stop()


class Tables(NamedTuple):
    """What decides where connections go, built whole before any of it is used."""

    names: NameTable[IProtocolFactory]
    default: IProtocolFactory | None
    hosts: HostsFolder | None
    http: HttpTables
    services: Built
    guarding: Guarding


def tables(
    config: Configuration, parts: Parts, http: HttpParts, services: Services, guards: Guards
) -> Tables:
    """The routes of a configuration. Raises `StartError` for what only shows when it is built."""
    guarding = guards.build(config, [listener.name for listener in wanted(config)])
    parts.begin()
    parts.journal = guarding.journal
    by_app = {
        key: passthrough(config, key, app.passthrough, parts)
        for key, app in config.apps.items()
        if app.passthrough is not None
    }
    names = {
        name: by_app[key] for key, app in config.apps.items() if key in by_app for name in app.server_name
    }
    rest = config.default_passthrough
    default = guarding.route(rest, by_app[rest]) if rest is not None else None
    requests = http_tables(config, http, parts.http_peer, partial(parts.ending, config), parts.rng)
    requests.sites.gate = guarding.requests
    routes = NameTable(guarding.routes(config, names | requests.terminating))
    return Tables(routes, default, hosts(config, parts), requests, services.build(config), guarding)


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
    names = [*tls_names(config), *sorted(clear_names(config)), *listener_names(config)]
    written = {*config.listen, *config.listen_tls, *listener_names(config)}
    return [Wanted(name, config.tcp_listen_backlog, name not in written) for name in dict.fromkeys(names)]


def tls_names(config: Configuration) -> list[str]:
    """The listeners that speak TLS, but for those of services."""
    port, addresses = config.listen_port_tls, config.listen_addresses
    return [*config.listen_tls, *([] if port is None else [_tcp(port, address) for address in addresses])]


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


def peek_options_of(config: Configuration, guarding: Guarding) -> dict[str, PeekOptions]:
    """The same for each listener, with its gate."""
    options, names = peek_options(config), [listener.name for listener in wanted(config)]
    return {name: replace(options, gate=guarding.listeners.get(name)) for name in names}


def _tcp(port: int, host: str) -> str:
    if ":" in host:
        return f"tcp6:{port}:interface=" + host.replace(":", "\\:")
    return f"tcp:{port}:interface={host}"


def _first_set(special: float | None, general: float) -> float:
    return general if special is None else special
