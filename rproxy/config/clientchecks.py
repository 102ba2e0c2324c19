"""What has to go together about client certificates, in apps and in services. Called by `checks`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from rproxy.config.apps import App, Tls
from rproxy.config.mistakes import Mistake, Path
from rproxy.config.schema import Configuration

Finding = tuple[Mistake, tuple[Path, ...]]


def client_mistakes(config: Configuration) -> Iterator[Finding]:
    """Each mistake, and the paths that it rests on."""
    for key, app in config.apps.items():
        path: Path = ("apps", key)
        yield from _authorized(app, path)
        if app.tls is not None:
            yield from _without_authority(app.tls, (*path, "tls"))
            yield from _in_the_clear(config, app, path)
    for key, service in config.l4.items():
        at: Path = ("l4", key, "tls")
        if service.tls is not None:
            yield from _without_authority(service.tls, at)
            yield from _not_at_l4(service.tls, at)


def _authorized(app: App, path: Path) -> Iterator[Finding]:
    for key in ("authorized_groups", "authorized_names"):
        if getattr(app, key) and (app.tls is None or app.tls.client_ca_cert_path is None):
            message = f"{key} needs client certificates, and this app has no client_ca_cert_path"
            yield _finding((*path, key), message, "add tls.client_ca_cert_path", (*path, "tls"))


def _without_authority(tls: Tls, path: Path) -> Iterator[Finding]:
    for key in sorted(_FOR_CLIENTS & tls.model_fields_set) if tls.client_ca_cert_path is None else ():
        message = f"{key} is about client certificates, and there is no client_ca_cert_path"
        yield _finding((*path, key), message, "add it, or remove this", (*path, "client_ca_cert_path"))


def _in_the_clear(config: Configuration, app: App, path: Path) -> Iterator[Finding]:
    """A second door without a lock."""
    assert app.tls is not None
    given = [app.https_redirection, app.tls.https_redirection]
    clear = config.listen_port is not None or bool(config.listen)
    asks = app.tls.client_ca_cert_path is not None
    if not (clear and asks and False in given and app.tls.client_auth == "required" and app.reverse_proxy):
        return
    at: Path = ("https_redirection",) if given[0] is False else ("tls", "https_redirection")
    message = "requests in clear text would be served without the client certificates that TLS requires"
    hint = 'remove it, or say client_auth = "optional" if that is meant'
    yield _finding((*path, *at), message, hint, (*path, "tls"), ("listen_port",), ("listen",))


def _not_at_l4(tls: Tls, path: Path) -> Iterator[Finding]:
    if tls.client_auth == "optional" and tls.client_ca_cert_path is not None:
        message = "a TCP service has nothing to offer to clients without a certificate"
        yield _finding((*path, "client_auth"), message, "remove it")
    if tls.client_cert_header:
        message = "client_cert_header is about HTTP, and this is a TCP service"
        yield _finding((*path, "client_cert_header"), message, "remove it")


def _finding(path: Path, message: str, hint: str, *about: Path) -> Finding:
    return Mistake(path, message, hint, at_key=True), (path, *about)


_FOR_CLIENTS: Final = {"client_auth", "client_crl_path", "client_cert_header"}
