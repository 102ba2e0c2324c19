"""What has to go together in `[l4.<name>]`, and from one to the next. Called by `checks`; stands upon it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from rproxy.config.checks import Found, _certificate, _found, _group
from rproxy.config.l4 import L4
from rproxy.config.mistakes import Path
from rproxy.config.schema import Configuration
from rproxy.config.values import quoted


def services(config: Configuration) -> Iterator[Found]:
    """Everything that does not go together in the services of a file."""
    for key, service in config.l4.items():
        path: Path = ("l4", key)
        if service.tls is None:
            yield from _without_tls(service, path)
        else:
            yield from _with_tls(config, service, path)
        yield from _group(service.upstream, (*path, "upstream"))
        yield from _taken(config, service, path)
    yield from _shared(config)


def _without_tls(service: L4, path: Path) -> Iterator[Found]:
    for key in sorted(_NEED_TLS.keys() & service.model_fields_set):
        message = f"{key} {_NEED_TLS[key]}, and this service has no tls"
        yield _found((*path, key), message, "add tls, or remove it", about=[(*path, "tls")], at_key=True)


def _with_tls(config: Configuration, service: L4, path: Path) -> Iterator[Found]:
    tls, at = service.tls, (*path, "tls")
    assert tls is not None
    yield from _certificate(config, tls, at)
    if tls.https_redirection is not None:
        message = "https_redirection is about HTTP, and this is a TCP service"
        yield _found((*at, "https_redirection"), message, "remove it", at_key=True)
    for key in ("acme", "self_signed"):
        if getattr(tls, key) and not service.server_name:
            message = f"{key} = true needs a server_name to make a certificate for"
            yield _found((*at, key), message, "add server_name", about=[(*path, "server_name")], at_key=True)
    for key in ("authorized_groups", "authorized_names"):
        if getattr(service, key) and tls.client_ca_cert_path is None:
            message = f"{key} needs client certificates, and tls has no client_ca_cert_path"
            yield _found((*path, key), message, "add tls.client_ca_cert_path", about=[at], at_key=True)


def _taken(config: Configuration, service: L4, path: Path) -> Iterator[Found]:
    """Listeners that are somebody else's."""
    for index, text in enumerate(service.listen):
        for key in ("listen", "listen_tls"):
            written: tuple[str, ...] = getattr(config, key)
            if text in written:
                other: Path = (key, written.index(text))
                yield _found((*path, "listen", index), f"{quoted(text)} is already in {key}", other=other)
        for key in ("listen_port", "listen_port_tls"):
            if getattr(config, key) is not None and text == f"tcp:{getattr(config, key)}":
                message, hint = f"port {getattr(config, key)} is already {key}", "give each a port of its own"
                yield _found((*path, "listen", index), message, hint, other=(key,))


def _shared(config: Configuration) -> Iterator[Found]:
    """Services on one listener are told apart by the name that TLS says."""
    first: dict[str, tuple[str, Path]] = {}
    for key, service in config.l4.items():
        for index, text in enumerate(service.listen):
            path: Path = ("l4", key, "listen", index)
            owner, other = first.setdefault(text, (key, path))
            if other == path:
                continue
            if owner == key:
                yield _found(path, f"{quoted(text)} is listed twice", "once is enough", other=other)
            elif service.tls is None or config.l4[owner].tls is None:
                message = f"{quoted(text)} is the listener of l4.{owner} too, and not both have tls"
                hint = "only TLS says a name by which services on one listener can be told apart"
                about = (("l4", key, "tls"), ("l4", owner, "tls"))
                yield _found(path, message, hint, about=about, other=other)
    for text in first:
        if all(service.tls is not None for service in config.l4.values() if text in service.listen):
            yield from _names(config, text)


def _names(config: Configuration, listener: str) -> Iterator[Found]:
    """On one listener each name leads to one service, and one at most takes the rest."""
    seen: dict[str, tuple[str, Path]] = {}
    for key, service in config.l4.items():
        if listener not in service.listen:
            continue
        for index, name in enumerate(service.server_name or ("",)):
            path: Path = ("l4", key, "server_name", index) if name else ("l4", key)
            owner, other = seen.setdefault(name, (key, path))
            if other == path:
                continue
            what = f"{quoted(name)} is" if name else "what has no other name is"
            whose = "listed twice" if owner == key else f"already for l4.{owner} at {quoted(listener)}"
            hint = "a name leads to one service" if name else "give all but one a server_name"
            yield _found(path, f"{what} {whose}", hint, other=other, at_key=not name)


_NEED_TLS: Final = {
    "alpn": "is said inside TLS",
    "server_name": "is compared with what TLS says",
    "authorized_groups": "needs client certificates",
    "authorized_names": "needs client certificates",
}
