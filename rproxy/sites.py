"""What HTTP requests are routed by: sites by name, routes by path. Asked by `exchange`, built by `assemble`.

Like all tables it never changes; a reload makes a new one. The order of the checks decides which
status a client gets, and is that of rpxy (R-RT, §1.6); before all of them stands the gate, if there is one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from mypy_extensions import mypyc_attr

from rproxy.errors import (
    BodyTooLarge,
    LastHop,
    MethodNotAllowed,
    Misdirected,
    NoRoute,
    NotAuthorised,
    Redirect,
    Refusal,
    UnknownHost,
)
from rproxy.interfaces import Arrival
from rproxy.policy.forwarding import ClientFacts, RequestRewriter, ResponseRewriter
from rproxy.policy.paths import PathTable, replaced, unambiguous
from rproxy.policy.routes import NameTable
from rproxy.policy.sticky import StickyCookie
from rproxy.upstream.peer import Group, Peer
from rproxy.wire.hostname import from_wire
from rproxy.wire.message import BadRequest, Framing, Headers, Request

MOST_NAMES: Final = 1024
"""Host fields whose canonical names are kept: the same few come again and again."""
LONGEST: Final = 262
"""Bytes of those: a name in full length and a port."""
SAFE: Final = frozenset((b"GET", b"HEAD"))


class Sticky:
    """Keeps clients of a route at the peers they began with, by a sealed cookie."""

    def __init__(self, cookie: StickyCookie, peers: Mapping[str, Peer]) -> None:
        self.cookie, self._peers = cookie, dict(peers)
        self._ids = {peer.name: server for server, peer in peers.items()}

    def peer(self, request: Request, now: float) -> Peer | None:
        """The peer that the request's cookie names, unless it is known to be down."""
        token = self.cookie.read(request.headers.all(b"cookie"), now)
        peer = self._peers.get(token.server) if token is not None else None
        return peer if peer is not None and peer.healthy and peer.down_until <= now else None

    def renewal(self, request: Request, served_by: Peer, now: float, https: bool) -> bytes | None:
        """The Set-Cookie that the response needs: a new peer, or a cookie that gets old."""
        token, server = self.cookie.read(request.headers.all(b"cookie"), now), self._ids[served_by.name]
        if token is not None and token.server == server and not self.cookie.is_due(token, now):
            return None
        return self.cookie.set_cookie(server, now, https=https)


@dataclass(frozen=True, slots=True)
class Route:
    """What serves the paths below a prefix."""

    prefix: bytes
    replacement: bytes | None
    group: Group
    requests: RequestRewriter
    responses: ResponseRewriter
    connect_timeout: float = 5.0
    response_timeout: float = 60.0
    body_timeout: float = 60.0
    tunnel_idle: float = 3600.0
    """Seconds without a byte once a connection was upgraded; 0: any."""
    retries: int = 2
    sticky: Sticky | None = None
    refusal: Callable[[Refusal], Refusal] | None = None
    """What a client is told instead of a refusal, where that is not the same."""

    def target(self, path: bytes) -> bytes:
        """The path and query that the peer is asked for."""
        return path if self.replacement is None else replaced(path, self.prefix, self.replacement)


@dataclass(frozen=True, slots=True)
class Site:
    """One app as HTTP sees it."""

    app: str
    routes: PathTable[Route]
    redirect_to: int = 0
    """The https port that clear-text requests are sent to; 0: they are served."""
    forced_host: bytes = b""
    """The name that a request for an unknown host is given when this is the default app."""
    max_body: int = 0
    """Bytes of a request's body; 0: any."""
    covers: Any = None
    """Tells whether the site's certificate is good for a name; None without a certificate."""
    clients: Any = None
    """The `policy.identity.ClientPolicy` of a site that wants client certificates."""
    log: Any = None
    pages: Any = None
    allow_connect: bool = False


class Folder(Protocol):
    """Names that no app has, see `services.hosts_http`."""

    def find(self, name: str) -> tuple[Site, Route] | None: ...  # noqa: D102


@mypyc_attr(allow_interpreted_subclasses=True)
class Gate:
    """Bans, address lists and limits per client, see `services.gates`; both may raise a `Refusal`."""

    def client(self, facts: ClientFacts, headers: Headers) -> str:
        """Whose request it is, for `admit`."""
        raise NotImplementedError

    def admit(self, client: str, site: Site, route: Route | None) -> None:
        """Whether this client may have this, now."""
        raise NotImplementedError


class Sites:
    """The routes of all requests, clear-text or behind TLS."""

    def __init__(
        self,
        secure: Mapping[str, Site],
        clear: Mapping[str, Site],
        default: Site | None = None,
        *,
        check_sni: bool = True,
        folder: Folder | None = None,
    ) -> None:
        """`folder` serves clear-text requests for names that are not in `clear`, before `default` does."""
        self._secure, self._clear = NameTable(secure), NameTable(clear)
        self._default, self._check_sni, self._folder = default, check_sni, folder
        self._names: dict[bytes, str] = {}
        self.gate: Gate | None = None
        """Who may ask, where that is limited; set before the first request."""

    def route(
        self, request: Request, arrival: Arrival, secure: bool, facts: ClientFacts | None = None
    ) -> tuple[Site, Route, bytes | None]:
        """The site, the route, and the Host that is forced on the request if any. `facts` are for the gate.

        Raises the `Refusal` that answers the request otherwise; it knows the site, once that is found.
        """
        gate = self.gate if facts is not None else None
        client = gate.client(facts, request.headers) if gate is not None and facts is not None else ""
        name = self._name_in(request.authority)
        site = (self._secure if secure else self._clear).find(name) if name else None
        if secure and self._check_sni and name != arrival.server_name:
            _check_names(site, name, arrival, self._secure)
        forced: bytes | None = None
        if site is None:
            found = self._in_folder(request) if not secure and self._folder is not None else None
            if found is not None:
                return *found, None
            if secure or self._default is None:
                raise UnknownHost(name or "no name")
            site, forced, name = self._default, self._default.forced_host or None, None
        if site.clients is not None or arrival.shown is not None:
            _check_client(site, arrival, secure)
        _check_request(site, request)
        if site.redirect_to and not secure:
            raise _by(site, _redirect(site, request, name))
        route = site.routes.find(request.path or b"/")  # a CONNECT has no path
        if gate is not None:
            gate.admit(client, site, route)
        if route is None:
            raise _by(site, NoRoute(site.app))
        return site, route, forced

    def _name_in(self, authority: bytes) -> str | None:
        """`host_name`, which most requests share with earlier ones."""
        name = self._names.get(authority)
        if name is None:
            name = host_name(authority)
            if name is not None and len(authority) <= LONGEST:
                if len(self._names) >= MOST_NAMES:
                    self._names.clear()
                self._names[authority] = name
        return name

    def _in_folder(self, request: Request) -> tuple[Site, Route] | None:
        """One trailing dot is as good as none here (D-2): the folder has no names that differ in it.

        What is no name is a bad request, unless the default app takes whatever comes.
        """
        assert self._folder is not None
        name = host_name(request.authority.partition(b":")[0].removesuffix(b"."))
        if name is None and self._default is None:
            raise BadRequest("a Host that cannot be a name")
        found = self._folder.find(name) if name is not None else None
        if found is not None:
            _check_request(found[0], request)
        return found


def host_name(authority: bytes) -> str | None:
    """The canonical name in a Host field or an authority; None for an IP literal or an impossible name."""
    if authority[:1] == b"[":
        return None
    return from_wire(authority.partition(b":")[0])


def _check_names(site: Site | None, name: str | None, arrival: Arrival, sites: NameTable[Site]) -> None:
    """A connection is for one name, or for all of its app that the certificate covers (RFC 9110 §7.4)."""
    hello = arrival.server_name
    same_app = site is not None and hello is not None and sites.find(hello) is site
    if not (
        same_app and site is not None and name is not None and (site.covers is None or site.covers(name))
    ):
        raise Misdirected("Host is not the name this connection was made for")


def _check_client(site: Site, arrival: Arrival, secure: bool) -> None:
    """A certificate counts for the app that asked for it, and neither way for another one, whatever its name.

    In clear text nobody shows one, and an app that wants them only redirects.
    """
    shown, clients = arrival.shown, site.clients
    if not secure:
        allowed = bool(site.redirect_to) or clients.allows(None)
    elif shown is None or (shown.asked_by is not clients and shown.asked_by != clients):
        raise Misdirected("this connection was made for another app's clients")
    else:
        allowed = shown.allowed
    if not allowed:
        raise _by(site, NotAuthorised("in no group and of no name that may"))


def _check_request(site: Site, request: Request) -> None:
    if request.framing is _LENGTH and 0 < site.max_body < request.length:
        raise _by(site, BodyTooLarge(f"{request.length} bytes"))
    if request.method == b"TRACE" or (request.method == b"CONNECT" and not site.allow_connect):
        raise _by(site, MethodNotAllowed(request.method.decode("ascii")))
    if request.method == b"OPTIONS" and request.headers.get(b"max-forwards") == b"0":
        raise _by(site, LastHop("Max-Forwards"))
    if not unambiguous(request.path):
        raise _by(site, BadRequest("a path that servers disagree about"))


def _by(site: Site, refusal: Refusal) -> Refusal:
    refusal.site = site
    return refusal


def _redirect(site: Site, request: Request, name: str | None) -> Redirect | UnknownHost:
    """To the same place in https; `name` is the requested one if it is the site's."""
    host = (name or "").encode("ascii") or site.forced_host
    if not host:  # the default app, and it only has wildcards
        return UnknownHost("no name to redirect to")
    port = b"" if site.redirect_to == 443 else b":%d" % site.redirect_to
    path = request.path if request.path[:1] == b"/" else b"/"
    return Redirect(301 if request.method in SAFE else 308, b"https://" + host + port + path)


# Looked up once: in 3.11 a member of an Enum costs as much as a call.
_LENGTH: Final = Framing.LENGTH
