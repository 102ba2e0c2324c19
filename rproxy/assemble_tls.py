"""The TLS half of `assemble`: apps whose TLS ends here, peers that are spoken to in TLS.

Imported with the first of them, for it imports OpenSSL. What renews certificates is imported with
the first app that asks for it.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

from twisted.application.service import MultiService
from twisted.internet.interfaces import IProtocolFactory
from twisted.internet.threads import deferToThreadPool

from rproxy.config.acme import Acme, Fallback
from rproxy.config.apps import App, Tls, Upstream
from rproxy.config.l4 import L4
from rproxy.config.schema import Configuration
from rproxy.deadlines import Deadlines
from rproxy.downstream.terminate import HTTP1, HTTP2, OLD_HTTP, Terminate
from rproxy.errors import StartError
from rproxy.interfaces import Arrival, Journal
from rproxy.policy.identity import Authorized, ClientPolicy
from rproxy.services.certificates import Certificates, Files, Issued, Site, Source
from rproxy.services.certreport import Place
from rproxy.services.clientca import ClientFiles
from rproxy.services.localca import LocalCA
from rproxy.upstream.tls import ClientTLS, client_options


class Ends:
    """One app's TLS; implements `assemble_http.Ending`."""

    def __init__(
        self,
        reactor: Any,
        site: Site,
        deadlines: Deadlines,
        clients: ClientPolicy | None,
        journal: Journal | None,
    ) -> None:
        self._reactor, self._deadlines, self._journal = reactor, deadlines, journal
        self.site, self.clients = site, clients
        self.covers = site.covers

    def around(self, inner: IProtocolFactory) -> IProtocolFactory:
        """A route that ends TLS and hands what is inside to `inner`."""
        offered = (HTTP2, HTTP1, OLD_HTTP)
        return Terminate(
            self.site,
            inner,
            offered,
            self._deadlines,
            clients=self.clients,
            journal=self._journal,
            clock=self._reactor,
        )


class Endings:
    """The TLS of all apps; outlives a reload. Its services become children of `parent`."""

    def __init__(self, reactor: Any, parent: MultiService, deadlines: Deadlines, rng: Random) -> None:
        self._reactor, self._deadlines = reactor, deadlines
        self.certificates = Certificates(reactor)
        self.certificates.setServiceParent(parent)
        self._renewal = Renewal(reactor, parent, self.certificates, deadlines, rng)

    def ending(self, config: Configuration, key: str, app: App, journal: Journal | None = None) -> Ends:
        """The app's certificates, and the authorities of its clients, loaded. Raises `StartError`."""
        try:
            source, clients = self._source(config, app), client_policy(key, app)
            files = clients.authorities if clients is not None else None
            site = self.certificates.site(key, source, app.server_name, files)
            return Ends(self._reactor, site, self._deadlines, clients, journal)
        except (ValueError, OSError) as problem:
            raise StartError(f"app {key}: {problem}")

    def challenge(self, arrival: Arrival) -> IProtocolFactory | None:
        """What answers an authority's question about one of our names; None: it is no such question."""
        return self._renewal.challenge(arrival)

    def begin(self) -> None:
        """Called before new tables are built."""
        self._renewal.begin()

    def forget_unused(self) -> None:
        """Called when new tables are in use."""
        self.certificates.forget_unused()
        self._renewal.use()

    def stop_renewing(self) -> None:
        """Called before the ports are closed."""
        self._renewal.stop()

    def _source(self, config: Configuration, app: App) -> Source:
        tls: Any = app.tls
        if tls.acme:
            return self._renewal.source(config, app)
        if tls.self_signed:
            return LocalCA(Path(config.state_directory)).source(app.server_name)
        return Files(((tls.tls_cert_path, tls.tls_cert_key_path),))


class Renewal:
    """Certificates by ACME: collects what apps want while tables are built, begins when these are used."""

    def __init__(
        self,
        reactor: Any,
        parent: MultiService,
        certificates: Certificates,
        deadlines: Deadlines,
        rng: Random,
    ) -> None:
        self._reactor, self._parent, self._certificates = reactor, parent, certificates
        self._deadlines, self._rng = deadlines, rng
        self._asked: Acme | None = None
        self._wanted: dict[str, tuple[str, ...]] = {}
        self._settings: Acme | None = None
        self._service: Any = None
        self._responder: Any = None

    def source(self, config: Configuration, app: App) -> Issued:
        """Where the app's certificate will be. Raises `ValueError` for a root that cannot be read."""
        from rproxy.services.acme_registry import label_of

        assert config.acme is not None
        if not self._wanted:
            _import_acme()
            for authority in config.acme.authorities:
                self._agent(authority)
        self._asked, self._wanted[label_of(app.server_name)] = config.acme, app.server_name
        return issued(config.acme, app)

    def begin(self) -> None:
        """New tables are being built; what was wanted for others came to nothing."""
        self._asked, self._wanted = None, {}

    def use(self) -> None:
        """The tables that wanted all this are in use now."""
        settings = self._asked
        if settings != self._settings:
            self.stop()
            self._settings = settings
        if settings is None:
            return
        if self._service is None:
            service = self._make(settings)
            service.want(self._wanted)
            service.setServiceParent(self._parent)
            self._service = service
        else:
            self._service.want(self._wanted)

    def challenge(self, arrival: Arrival) -> IProtocolFactory | None:
        """The responder's route, if it has one for this arrival."""
        route: IProtocolFactory | None = None if self._responder is None else self._responder.route(arrival)
        return route

    def stop(self) -> None:
        """Give up what is under way."""
        service, self._service = self._service, None
        if service is not None:
            service.disownServiceParent()

    def _make(self, settings: Acme) -> Any:
        from rproxy.services.acme_item import Authority
        from rproxy.services.acme_registry import Registry
        from rproxy.services.acme_responder import AlpnResponder
        from rproxy.services.acme_service import IssuingService

        if self._responder is None:
            self._responder = AlpnResponder(self._deadlines)
        in_thread = partial(deferToThreadPool, self._reactor, self._reactor.getThreadPool())
        registry = Registry(settings.registry_path, in_thread)
        return IssuingService(
            self._reactor,
            _now,
            self._rng,
            registry,
            in_thread,
            [self._responder],
            [
                Authority(each.dir_url, self._connector(settings, each), each.profile)
                for each in settings.authorities
            ],
            lambda label: self._certificates.look_at(Issued(registry.path(label))),
            email=settings.email,
            key_type=settings.key_type,
            settings=_digest(settings),
        )

    def _connector(self, settings: Acme, authority: Fallback) -> Any:
        from rproxy.services.acme_client import Client, Eab
        from rproxy.services.acme_http import Web

        bound = authority.eab
        eab = None if bound is None else Eab(bound.kid, _octets(bound.hmac_key))

        def connect(key: Any) -> Client:
            return Client(
                Web(self._reactor, self._agent(authority)),
                self._reactor,
                _now,
                self._rng,
                authority.dir_url,
                key,
                email=settings.email,
                eab=eab,
            )

        return connect

    def _agent(self, authority: Fallback) -> Any:
        from rproxy.services.acme_http import agent

        return agent(self._reactor, authority.ca_file)


def client_policy(key: str, app: App) -> ClientPolicy | None:
    """Which clients an app serves, if it wants certificates of them."""
    tls: Any = app.tls
    if tls.client_ca_cert_path is None:
        return None
    required = tls.client_auth == "required"
    return ClientPolicy(
        key,
        ClientFiles(tls.client_ca_cert_path, tls.client_crl_path, required),
        required,
        Authorized(frozenset(app.authorized_groups), frozenset(app.authorized_names)),
        tls.client_cert_header,
    )


def issued(settings: Acme, app: App | L4) -> Issued:
    """Where the certificate of an app is kept."""
    from rproxy.services.acme_registry import label_of

    return Issued(settings.registry_path / "certificates" / f"{label_of(app.server_name)}.pem")


def certificate_places(config: Configuration, listeners: Sequence[str]) -> list[Place]:
    """Where all certificates are, for `rproxy certs`; nothing is made or loaded.

    `listeners` are those that speak TLS for apps; services have listeners of their own.
    """
    apps = [
        _place(config, key, app, app.tls, tuple(listeners))
        for key, app in config.apps.items()
        if app.tls is not None
    ]
    services = [
        _place(config, f"l4.{key}", service, service.tls, service.listen)
        for key, service in config.l4.items()
        if service.tls is not None
    ]
    return [*apps, *services]


def _place(config: Configuration, key: str, app: App | L4, tls: Tls, listeners: tuple[str, ...]) -> Place:
    if tls.acme and config.acme is not None:
        path = issued(config.acme, app).path
        record, budget = path.with_suffix(".json"), config.acme.registry_path / "budget.json"
        return Place(key, app.server_name, "acme", path, path, record, budget, listeners)
    if tls.self_signed:
        path = LocalCA(Path(config.state_directory)).source(app.server_name)._path()
        return Place(key, app.server_name, "self-signed", path, path, listeners=listeners)
    certificate, private = tls.tls_cert_path, tls.tls_cert_key_path
    assert certificate is not None
    assert private is not None
    return Place(key, app.server_name, "files", certificate, private, listeners=listeners)


def client_tls(app: str, upstream: Upstream, deadlines: Deadlines) -> ClientTLS:
    """How TLS is spoken to a peer. Raises `StartError`."""
    try:
        return client_options(
            upstream.location.host,
            ca_path=upstream.tls_ca_path,
            server_name=upstream.tls_server_name,
            insecure=upstream.tls_insecure,
            client_cert=upstream.tls_client_cert_path,
            client_key=upstream.tls_client_key_path,
            deadlines=deadlines,
        )
    except (ValueError, OSError) as problem:
        raise StartError(f"app {app}: upstream {upstream.location}: {problem}")


def _import_acme() -> None:
    """txacme and what it needs may be missing, or too new; only a proxy that uses them minds."""
    try:
        import rproxy.services.acme_service  # noqa: F401
    except ImportError as problem:
        raise ValueError(
            f"tls.acme needs txacme, which cannot be imported ({problem}); `pip install txacme==0.9.3`"
        )


def _digest(settings: Acme) -> str:
    """What an order depends on."""
    facts = settings.model_dump(mode="json", exclude={"registry_path"})
    return sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _octets(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _now() -> float:
    return datetime.now(UTC).timestamp()
