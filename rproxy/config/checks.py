"""What only shows when the parts of a file are held against each other. Called by `load`.

A check sees the models; its paths are the models', `load` finds them in the file. A file with
other mistakes is checked too, without the parts that they spoil: `Found.about` names the paths
that a finding rests on, and a finding that rests on something spoilt is dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path as FilePath
from typing import Final

from rproxy.config.apps import App, ReverseProxy, StreamUpstream, Tls, Upstream
from rproxy.config.clientchecks import client_mistakes
from rproxy.config.http import Tuned
from rproxy.config.limitchecks import limit_mistakes
from rproxy.config.location import Location
from rproxy.config.mistakes import Mistake, Path
from rproxy.config.schema import Configuration
from rproxy.config.values import did_you_mean, quoted


@dataclass(frozen=True, slots=True)
class Found:
    """A mistake, and the paths besides its own that have to be sound for it to be one."""

    mistake: Mistake
    about: tuple[Path, ...] = ()


def check(config: Configuration) -> Iterator[Found]:
    """Everything that does not go together in a file whose single values are sound."""
    for rule in CHECKS:
        yield from rule(config)


def _no_listener(config: Configuration) -> Iterator[Found]:
    if not (_clear(config) or _encrypted(config) or config.l4):
        message = "nothing to listen on: no listen_port_tls, listen_port, listen_tls or listen"
        yield Found(Mistake((), message, "add listen_port_tls = 443"), (*_CLEAR, *_ENCRYPTED, ("l4",)))


def _same_port(config: Configuration) -> Iterator[Found]:
    if config.listen_port is not None and config.listen_port == config.listen_port_tls:
        message = f"port {config.listen_port} is already listen_port"
        yield _found(("listen_port_tls",), message, "give each a port of its own", other=("listen_port",))
    for index, text in enumerate(config.listen_tls):
        if text in config.listen:
            other: Path = ("listen", config.listen.index(text))
            yield _found(("listen_tls", index), f"{quoted(text)} is already in listen", other=other)


def _addresses_for_nothing(config: Configuration) -> Iterator[Found]:
    if config.listen_port is not None or config.listen_port_tls is not None:
        return
    for key in ("listen_address_v4", "listen_address_v6", "listen_ipv6"):
        if key in config.model_fields_set:
            message = f"{key} is for listen_port and listen_port_tls, and neither is given"
            hint = 'an endpoint has its own: "tcp:8443:interface=127.0.0.1"'
            yield _found((key,), message, hint, about=(("listen_port",), ("listen_port_tls",)))


def _redirect_port(config: Configuration) -> Iterator[Found]:
    if config.public_https_port is not None and not _encrypted(config):
        message = "public_https_port is given, but there is no TLS port to redirect to"
        yield _found(("public_https_port",), message, "add listen_port_tls", about=_ENCRYPTED)


def _nothing_served(config: Configuration) -> Iterator[Found]:
    if not (config.apps or config.l4 or config.hosts):
        about: tuple[Path, ...] = (("apps",), ("l4",), ("hosts",))
        message = "nothing to serve: no [apps.<name>], no [hosts], no [l4.<name>]"
        yield Found(Mistake((), message, "add an app with server_name and passthrough"), about)


def _names(config: Configuration) -> Iterator[Found]:
    seen: dict[str, tuple[str, Path]] = {}
    for key, app in config.apps.items():
        for index, name in enumerate(app.server_name):
            path: Path = ("apps", key, "server_name", index)
            owner, other = seen.setdefault(name, (key, path))
            if other != path:
                whose = "listed twice" if owner == key else f"already a name of apps.{owner}"
                yield _found(
                    path, f"{quoted(name)} is {whose}", "a name belongs to one app, once", other=other
                )


def _apps(config: Configuration) -> Iterator[Found]:
    for key, app in config.apps.items():
        path: Path = ("apps", key)
        yield from _purpose(app, path)
        yield from _reachable(config, app, path)
        yield from _redirects(config, app, path)
        yield from _cookie(app, path)
        yield from _no_requests(app, path)
        if app.tls:
            yield from _certificate(config, app.tls, (*path, "tls"))
        if app.passthrough:
            yield from _once(app.passthrough.upstream, (*path, "passthrough", "upstream"))
        yield from _entries(app.reverse_proxy, (*path, "reverse_proxy"))


def _purpose(app: App, path: Path) -> Iterator[Found]:
    passthrough: Path = (*path, "passthrough")
    if app.passthrough is None and not app.reverse_proxy:
        message = "this app serves nothing: it has neither passthrough nor reverse_proxy"
        hint = 'add passthrough = { upstream = [{ location = "10.0.0.5:443" }] }'
        yield _found(path, message, hint, about=(passthrough, (*path, "reverse_proxy")), at_key=True)
    if app.passthrough and app.tls:
        message = "TLS is either terminated here (tls) or passed on undecrypted (passthrough), not both"
        yield _found((*path, "tls"), message, "keep one of them", at_key=True)
    own = app.passthrough and "load_balance" in app.passthrough.model_fields_set
    if app.load_balance == "sticky" and app.passthrough and not own:
        message = "sticky needs a cookie, and there is none in the passthrough stream of this app"
        yield _found((*path, "load_balance"), message, "give passthrough a load_balance of its own")


def _reachable(config: Configuration, app: App, path: Path) -> Iterator[Found]:
    for key, part in (("passthrough", app.passthrough), ("tls", app.tls)):
        if part and not _encrypted(config):
            message = f"this app has {key}, but there is no TLS port"
            yield _found((*path, key), message, "add listen_port_tls", about=_ENCRYPTED, at_key=True)
    if app.reverse_proxy and not app.tls and not _clear(config):
        message = "this app serves clear-text HTTP only, and there is no port for it"
        about: tuple[Path, ...] = (*_CLEAR, (*path, "tls"))
        yield _found(
            (*path, "reverse_proxy"), message, "add listen_port, or tls to the app", about=about, at_key=True
        )


def _redirects(config: Configuration, app: App, path: Path) -> Iterator[Found]:
    own, old = (*path, "https_redirection"), (*path, "tls", "https_redirection")
    given = {own: app.https_redirection, old: app.tls and app.tls.https_redirection}
    for at in (at for at, value in given.items() if value is not None):
        if not _encrypted(config):
            message = "https_redirection needs a TLS port to redirect to"
            yield _found(at, message, "add listen_port_tls, or remove it", about=_ENCRYPTED, at_key=True)
        elif at == old and given[own] is not None:
            message = "https_redirection of the app says the same"
            yield _found(old, message, "keep one", other=own, at_key=True)
    parts = tuple((*path, part) for part in ("tls", "passthrough", "reverse_proxy"))
    if app.https_redirection and not (app.tls or app.passthrough):
        message = "this app has neither tls nor passthrough, so there is no https to redirect to"
        yield _found(own, message, "remove it", about=parts, at_key=True)
    if app.https_redirection and app.passthrough and app.reverse_proxy:
        message = "clear-text requests go to reverse_proxy or to https, not both"
        yield _found(own, message, "remove it, or reverse_proxy", about=parts, at_key=True)


def _cookie(app: App, path: Path) -> Iterator[Found]:
    message, hint = "sticky_cookie is given, but load_balance is not sticky", 'add load_balance = "sticky"'
    balanced = (*path, "load_balance")
    if app.sticky_cookie and not any(entry.load_balance == "sticky" for entry in app.reverse_proxy):
        about = (balanced, (*path, "reverse_proxy"))
        yield _found((*path, "sticky_cookie"), message, hint, about=about, at_key=True)
    for index, entry in enumerate(app.reverse_proxy):
        here: Path = (*path, "reverse_proxy", index)
        if entry.load_balance != "sticky" and "sticky_cookie" in entry.model_fields_set:
            about = (balanced, (*here, "load_balance"))
            yield _found((*here, "sticky_cookie"), message, hint, about=about, at_key=True)


def _no_requests(app: App, path: Path) -> Iterator[Found]:
    entries = (*path, "reverse_proxy")
    for key in () if app.reverse_proxy else _FOR_REQUESTS & app.model_fields_set:
        message = f"{key} is about requests, and this app has no reverse_proxy"
        yield _found((*path, key), message, "remove it", about=[entries], at_key=True)


def _logs(config: Configuration) -> Iterator[Found]:
    general: Path = ("access_log",)
    logs = {
        ("apps", key, *general): app.access_log.over(config.access_log) for key, app in config.apps.items()
    }
    written: dict[FilePath, tuple[str, Path]] = {}
    for path, found in {general: config.access_log, **logs}.items():
        if found.path is None:
            continue
        style, other = written.setdefault(found.path, (found.format, path))
        if style != found.format:
            message = f"this file is written in the format {style} already"
            yield _found(path, message, "one file has one format", about=[other], other=other)


def _certificate(config: Configuration, tls: Tls, path: Path) -> Iterator[Found]:
    files: tuple[Path, ...] = ((*path, "tls_cert_path"), (*path, "tls_cert_key_path"))
    about = (*files, (*path, "acme"), (*path, "self_signed"))
    given = [tls.tls_cert_path is not None, tls.tls_cert_key_path is not None]
    sources = [
        name for name, chosen in zip(_SOURCES, (any(given), tls.acme, tls.self_signed), strict=True) if chosen
    ]
    if len(sources) != 1:
        message = f"tls needs one source of certificates, it has {' and '.join(sources) or 'none'}"
        hint = "give tls_cert_path and tls_cert_key_path, or acme = true, or self_signed = true"
        yield _found(path, message, hint, about=about, at_key=True)
    elif any(given) and not all(given):
        message = f'missing key "{files[given.index(False)][-1]}"'
        yield _found(path, message, "a certificate is of no use without its key", about=files)
    if tls.acme and not (config.acme or config.experimental.acme):
        message = "acme = true needs a table [acme] with an email address"
        yield _found((*path, "acme"), message, about=(("acme",), ("experimental", "acme")))


def _entries(entries: tuple[ReverseProxy, ...], path: Path) -> Iterator[Found]:
    seen: dict[str, int] = {}
    for index, entry in enumerate(entries):
        here: Path = (*path, index)
        first = seen.setdefault(entry.path, index)
        if first != index:
            what = f"the path {quoted(entry.path)} has an entry already"
            hint = 'each path has one entry with all of its upstream; without a path it is "/"'
            yield _found((*here, "path"), what, hint, other=(*path, first, "path"), about=[here])
        yield from _group(entry.upstream, (*here, "upstream"))
        yield from _probe(entry, (*here, "health_check"))


def _group(upstreams: Sequence[Upstream], path: Path) -> Iterator[Found]:
    yield from _once(upstreams, path)
    for index, upstream in enumerate(upstreams):
        for key in () if upstream.tls else sorted(upstream.model_fields_set):
            if key.startswith("tls_"):
                message = f"{key} is given, but this upstream is spoken to in clear text"
                at, about = (*path, index, key), [(*path, index, "tls")]
                yield _found(at, message, "add tls = true", about=about, at_key=True)
        pair = (upstream.tls_client_cert_path, upstream.tls_client_key_path)
        if (pair[0] is None) != (pair[1] is None):
            message = "tls_client_cert_path and tls_client_key_path only work together"
            yield _found((*path, index), message, "give both", about=((*path, index),))


def _once(upstreams: Sequence[Upstream | StreamUpstream], path: Path) -> Iterator[Found]:
    seen: dict[Location, int] = {}
    for index, upstream in enumerate(upstreams):
        first = seen.setdefault(upstream.location.place, index)
        if first != index:
            message = f"{quoted(str(upstream.location))} is in this group already"
            at, other = (*path, index, "location"), (*path, first, "location")
            yield _found(at, message, "weight = 2 gives a peer twice its share", other=other)


def _probe(entry: ReverseProxy, path: Path) -> Iterator[Found]:
    probe = entry.health_check
    if probe is None:
        return
    if probe.timeout >= probe.interval:
        message = f"timeout ({probe.timeout:g} s) is not shorter than interval ({probe.interval:g} s)"
        yield _found((*path, "timeout"), message, about=((*path, "interval"),))
    if probe.type == "http" and probe.path is None:
        hint = 'type = "http" needs the path to ask for'
        yield _found(path, 'missing key "path"', hint, about=[(*path, "path")])
    for key in sorted(_FOR_ANSWERS & probe.model_fields_set) if probe.type == "tcp" else ():
        message = f'{key} is given, but a check of the type "tcp" connects and asks for nothing'
        hint, about = 'add type = "http", or remove it', [(*path, "type")]
        yield _found((*path, key), message, hint, about=about, at_key=True)


def _defaults(config: Configuration) -> Iterator[Found]:
    yield from _default(config, "default_app", config.default_app, "reverse_proxy")
    yield from _default(config, "default_application", config.default_application, "reverse_proxy")
    yield from _default(config, "default_passthrough", config.default_passthrough, "passthrough")
    if config.default_app is not None and config.default_application is not None:
        message, at = "default_app and default_application are the same thing", ("default_application",)
        yield _found(at, message, "keep default_app", other=("default_app",), at_key=True)


def _default(config: Configuration, key: str, name: str | None, part: str) -> Iterator[Found]:
    found = config.app_named(name)
    if name is not None and found is None:
        hint = did_you_mean(name, config.apps) or "write the <name> of an [apps.<name>]"
        yield _found((key,), f"there is no app {quoted(name)}", hint, about=(("apps", name),))
    if found is not None and not getattr(config.apps[found], part):
        about: tuple[Path, ...] = (("apps", found, part),)
        message = f"apps.{found} has no {part}, so it cannot be the {key}"
        yield _found((key,), message, f"choose an app with {part}", about=about)


def _twice(config: Configuration) -> Iterator[Found]:
    old = config.experimental
    if config.acme and old.acme:
        at: Path = ("experimental", "acme")
        yield _found(at, "[acme] says the same", "keep one", other=("acme",), at_key=True)
    sni = "ignore_sni_consistency"
    if sni in config.model_fields_set and sni in old.model_fields_set:
        at = ("experimental", sni)
        yield _found(at, f"{sni} says the same", "keep one", other=(sni,), at_key=True)
    if config.accept_proxy_protocol and old.tcp_recv_proxy_protocol:
        at = ("experimental", "tcp_recv_proxy_protocol")
        message, other = "accept_proxy_protocol says the same", ("accept_proxy_protocol",)
        yield _found(at, message, "keep accept_proxy_protocol", other=other, at_key=True)


def _services(config: Configuration) -> Iterator[Found]:
    from rproxy.config.l4checks import services  # it stands upon this file

    yield from services(config)


def _elsewhere(config: Configuration) -> Iterator[Found]:
    return (Found(*each) for each in chain(limit_mistakes(config), client_mistakes(config)))


def _found(
    path: Path,
    message: str,
    hint: str = "",
    *,
    about: Iterable[Path] = (),
    other: Path | None = None,
    at_key: bool = False,
) -> Found:
    return Found(Mistake(path, message, hint, at_key=at_key, other=other), tuple(chain([path], about)))


def _clear(config: Configuration) -> bool:
    return config.listen_port is not None or bool(config.listen)


def _encrypted(config: Configuration) -> bool:
    return config.listen_port_tls is not None or bool(config.listen_tls)


_CLEAR: Final[tuple[Path, ...]] = (("listen_port",), ("listen",))
_ENCRYPTED: Final[tuple[Path, ...]] = (("listen_port_tls",), ("listen_tls",))
_FOR_REQUESTS: Final = {*Tuned._fields, "request_headers", "response_headers", "request_limit"} - {
    "connect_timeout"
}
_FOR_ANSWERS: Final = {"path", "expected_status"}
_SOURCES: Final = ("certificate files", "acme", "self_signed")

CHECKS: Final[tuple[Callable[[Configuration], Iterator[Found]], ...]] = (
    _no_listener,
    _same_port,
    _addresses_for_nothing,
    _redirect_port,
    _nothing_served,
    _names,
    _apps,
    _logs,
    _defaults,
    _twice,
    _services,
    _elsewhere,
)
