"""The HTTP half of `assemble`: from config models to sites, routes, logs and pages.

Imported with it; OpenSSL comes in only with the first app that terminates TLS.
"""

from __future__ import annotations

import os
from base64 import urlsafe_b64decode
from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random, SystemRandom
from typing import Any, NamedTuple, Protocol

from twisted.internet.interfaces import IProtocolFactory
from twisted.logger import Logger

from rproxy.config.apps import App, ReverseProxy, Upstream
from rproxy.config.http import AccessLog, Tuned
from rproxy.config.http import HeaderRules as RuleTables
from rproxy.config.schema import Configuration
from rproxy.deadlines import Deadlines
from rproxy.downstream.http_factory import HttpFactory, Serving
from rproxy.downstream.http_watch import HttpLimits
from rproxy.errors import StartError
from rproxy.policy.balance import BALANCERS
from rproxy.policy.clouds import without_names
from rproxy.policy.forwarding import RequestRewriter, ResponseRewriter
from rproxy.policy.networks import NetworkSet
from rproxy.policy.paths import PathTable
from rproxy.policy.rules import HeaderRules, Side
from rproxy.policy.sticky import StickyCookie, server_id
from rproxy.services.answers import Answers
from rproxy.services.hosts_http import HttpHosts
from rproxy.services.lines import LineBatch, LogFiles, Sink
from rproxy.services.pages import Pages, read_page
from rproxy.services.requestlog import RequestLog
from rproxy.sites import Route, Site, Sites, Sticky
from rproxy.splice import Pipes
from rproxy.upstream.http_client import HttpPeer
from rproxy.upstream.peer import Group

log = Logger()


class HttpTables(NamedTuple):
    """What decides where requests go."""

    sites: Sites
    terminating: dict[str, IProtocolFactory]
    """By server name pattern: the routes of TLS connections that end here."""


class HttpParts:
    """What all HTTP connections share; outlives a reload."""

    def __init__(self, reactor: Any, deadlines: Deadlines, pipes: Pipes, sink: Sink) -> None:
        self.reactor, self.deadlines, self.pipes = reactor, deadlines, pipes
        self.serving = Serving(Sites({}, {}), HttpLimits(), NetworkSet())
        self.answers = Answers(Random(SystemRandom().getrandbits(64)))
        self.files = LogFiles(reactor)
        self._secret, self._warned = os.urandom(32), False
        self._standard = LineBatch(reactor, sink, "the access log", log)

    def factory(self, *, secure: bool) -> IProtocolFactory:
        """HTTP on connections; tables and limits are those of the moment a connection comes."""
        return HttpFactory(
            self.reactor,
            self.serving,
            self.answers,
            self.deadlines,
            self.pipes,
            secure=secure,
        )

    def use(self, config: Configuration, built: HttpTables) -> None:
        """Serve from these tables from now on; connections that live keep theirs."""
        self.serving.sites = built.sites
        self.answers.log = self.log_of(config, config.access_log)
        logs = [config.access_log, *(app.access_log for app in config.apps.values())]
        self.files.keep(log.path for log in logs if log.path is not None)
        self.serving.trusted = NetworkSet(without_names(config.trusted_forwarded_proxies))
        self.serving.limits = HttpLimits(
            head=config.header_timeout,
            keep_alive=config.keepalive_timeout,
            body=config.body_timeout,
            min_rate=config.min_body_rate,
            shortest=_shortest(config),
            streams=config.max_concurrent_streams,
        )

    def secret(self, config: Configuration) -> bytes:
        """What sticky cookies are sealed with; one made now is as good until the next start."""
        if config.sticky_cookie_secret is not None:
            return urlsafe_b64decode(config.sticky_cookie_secret + "=")
        if not self._warned:
            log.warn("sticky_cookie_secret is not set: a restart gives sticky clients new peers")
        self._warned = True
        return self._secret

    def log_of(self, config: Configuration, wanted: AccessLog) -> RequestLog:
        """Where requests are written down."""
        lines = self._standard if wanted.path is None else self.files.at(wanted.path).lines
        return RequestLog(lines, wanted.format, redact=config.redact_query_in_access_log)

    def reopen_logs(self) -> None:
        """Go on in new files where logrotate has moved the old ones."""
        self.files.reopen()

    def close_logs(self) -> None:
        """Write what is waiting, at the end."""
        self._standard.flush()
        self.files.keep(())


class MakePeer(Protocol):
    """Gives the peer of an upstream of an app's entry; see `assemble.Parts.http_peer`."""

    def __call__(self, app: str, entry: ReverseProxy, upstream: Upstream, tuned: Tuned) -> HttpPeer: ...  # noqa: D102


class Ending(Protocol):
    """TLS that ends here, for one app; made by `assemble_tls`, so that OpenSSL is only there when needed."""

    clients: Any

    def covers(self, name: str) -> bool: ...  # noqa: D102
    def around(self, inner: IProtocolFactory) -> IProtocolFactory: ...  # noqa: D102


def http_tables(
    config: Configuration,
    parts: HttpParts,
    peer: MakePeer,
    ending: Callable[[str, App], Ending],
    rng: Random,
) -> HttpTables:
    """The sites of a configuration. Raises `StartError` for what only shows when it is built."""
    secure: dict[str, Site] = {}
    clear: dict[str, Site] = {}
    terminating: dict[str, IProtocolFactory] = {}
    by_app: dict[str, Site] = {}
    inside = parts.factory(secure=True)
    for key, app in config.apps.items():
        site = _site(config, key, app, parts, peer, rng)
        if app.tls is not None:
            ends = ending(key, app)
            site = replace(site, covers=ends.covers, clients=ends.clients)
            secure.update(dict.fromkeys(app.server_name, site))
            terminating.update(dict.fromkeys(app.server_name, ends.around(inside)))
        if app.reverse_proxy or site.redirect_to:
            clear.update(dict.fromkeys(app.server_name, site))
        by_app[key] = site
    default = by_app[config.default_app] if config.default_app is not None else None
    check_sni = not config.ignore_sni_consistency
    sites = Sites(secure, clear, default, check_sni=check_sni, folder=_hosts(config, parts))
    return HttpTables(sites, terminating)


def _hosts(config: Configuration, parts: HttpParts) -> HttpHosts | None:
    """The hosts folder, as requests see it; that it exists has been looked at."""
    if config.hosts is None:
        return None
    site = Site(
        "hosts",
        PathTable({}),
        max_body=config.request_max_body_size,
        log=parts.log_of(config, config.access_log),
    )
    return HttpHosts(
        config.hosts.directory,
        site,
        hash_names=config.hosts.hashed,
        connect_timeout=config.connect_timeout,
        response_timeout=config.response_timeout,
        body_timeout=config.body_timeout,
        tunnel_idle=config.upgrade_idle_timeout,
    )


def _site(
    config: Configuration,
    key: str,
    app: App,
    parts: HttpParts,
    peer: MakePeer,
    rng: Random,
) -> Site:
    named = next((name for name in app.server_name if not name.startswith("*.")), "")
    routes = {
        entry.path.encode("ascii"): _route(config, key, app, entry, parts, peer, rng)
        for entry in app.reverse_proxy
    }
    pages = {status: read_page(path) for status, path in app.error_pages.items()}
    return Site(
        key,
        PathTable(routes),
        redirect_to=_https_port(config) if app.redirects else 0,
        forced_host=named.encode("ascii"),
        max_body=_first_set(app.request_max_body_size, config.request_max_body_size),
        log=parts.log_of(config, app.access_log),
        pages=Pages(pages) if pages else None,
        allow_connect=app.allow_connect,
    )


def _https_port(config: Configuration) -> int:
    """Where clear-text requests are redirected to; 0 where nothing listens for TLS."""
    port = config.public_https_port or config.listen_port_tls
    return port or (443 if config.listen_tls else 0)


def _route(
    config: Configuration,
    key: str,
    app: App,
    entry: ReverseProxy,
    parts: HttpParts,
    peer: MakePeer,
    rng: Random,
) -> Route:
    tuned = config.tuned(entry)
    peers = [peer(key, entry, upstream, tuned) for upstream in entry.upstream]
    balance = "round_robin" if entry.load_balance == "sticky" else entry.load_balance
    sticky = _sticky(parts.secret(config), entry, peers) if entry.load_balance == "sticky" else None
    rules = _rules(Side.REQUEST, app.request_headers).then(_rules(Side.REQUEST, entry.request_headers))
    answers = _rules(Side.RESPONSE, app.response_headers).then(_rules(Side.RESPONSE, entry.response_headers))
    return Route(
        entry.path.encode("ascii"),
        entry.replace_path.encode("ascii") if entry.replace_path is not None else None,
        Group(peers, BALANCERS[balance](rng)),
        RequestRewriter(frozenset(entry.upstream_options), rules, sticky.cookie.name if sticky else b""),
        ResponseRewriter(answers),
        connect_timeout=tuned.connect_timeout,
        response_timeout=tuned.response_timeout,
        body_timeout=tuned.body_timeout,
        tunnel_idle=tuned.upgrade_idle_timeout,
        retries=tuned.retries,
        sticky=sticky,
    )


def _shortest(config: Configuration) -> float:
    """The shortest time limit of all routes, so that connections are looked at often enough for it."""
    tuned = [config.tuned(entry) for app in config.apps.values() for entry in app.reverse_proxy]
    times = [config.response_timeout, config.body_timeout, config.upgrade_idle_timeout]
    for each in tuned:
        times += [each.response_timeout, each.body_timeout, each.upgrade_idle_timeout]
    return min(time for time in times if time)


def _first_set(special: int | None, general: int) -> int:
    return general if special is None else special


def _rules(side: Side, tables: RuleTables) -> HeaderRules:
    try:
        return HeaderRules(side, set=tables.set, add=tables.add, remove=tables.remove)
    except ValueError as problem:
        raise StartError(f"{side.value}_headers: {problem}")


def _sticky(secret: bytes, entry: ReverseProxy, peers: Sequence[HttpPeer]) -> Sticky:
    cookie = StickyCookie(
        secret, os.urandom, path=entry.path, name=entry.sticky_cookie.name, age=entry.sticky_cookie.max_age
    )
    uris = [f"{'https' if peer.tls is not None else 'http'}://{peer.name}/" for peer in peers]
    return Sticky(cookie, {server_id(uri, index): peers[index] for index, uri in enumerate(uris)})
