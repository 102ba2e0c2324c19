"""The TLS half of `assemble`: apps whose TLS ends here, peers that are spoken to in TLS.

Imported with the first of them, for it imports OpenSSL.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.internet.interfaces import IProtocolFactory

from rproxy.config.apps import App, Upstream
from rproxy.config.schema import Configuration
from rproxy.deadlines import Deadlines
from rproxy.downstream.terminate import HTTP1, Terminate
from rproxy.errors import StartError
from rproxy.services.certificates import Certificates, Files, Site, Source
from rproxy.services.localca import LocalCA
from rproxy.upstream.tls import ClientTLS, client_options


class Ends:
    """One app's TLS; implements `assemble_http.Ending`."""

    def __init__(self, site: Site, deadlines: Deadlines) -> None:
        self._site, self._deadlines = site, deadlines
        self.covers = site.covers

    def around(self, inner: IProtocolFactory) -> IProtocolFactory:
        """A route that ends TLS and hands what is inside to `inner`."""
        return Terminate(self._site, inner, (HTTP1,), self._deadlines)


def certificates(reactor: Any) -> Certificates:
    """The service that watches all certificate files."""
    return Certificates(reactor)


def ending(
    config: Configuration, certificates: Certificates, deadlines: Deadlines, key: str, app: App
) -> Ends:
    """The app's certificates, loaded. Raises `StartError`."""
    try:
        return Ends(certificates.site(key, _source(config, app), app.server_name), deadlines)
    except (ValueError, OSError) as problem:
        raise StartError(f"app {key}: {problem}")


def _source(config: Configuration, app: App) -> Source:
    tls: Any = app.tls
    if tls.self_signed:
        return LocalCA(Path(config.state_directory)).source(app.server_name)
    return Files(((tls.tls_cert_path, tls.tls_cert_key_path),))


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
