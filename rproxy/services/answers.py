"""What all HTTP connections say beside the backends' words: error pages, and a line for each request.

Made by `assemble_http`; called by `downstream.http_server`.
"""

from __future__ import annotations

from random import Random
from typing import Any

from rproxy.downstream import http_factory
from rproxy.errors import Refusal
from rproxy.exchange import Client, Exchange
from rproxy.policy.forwarding import ClientFacts, forwarded
from rproxy.services.pages import Pages, request_ids
from rproxy.services.requestlog import Client as Shown
from rproxy.services.requestlog import RequestLog, Served
from rproxy.sites import Site
from rproxy.wire.message import Headers, Request


class Answers(http_factory.Answers):
    """Error pages and the access log for the connections."""

    def __init__(self, rng: Random) -> None:
        self._ids = request_ids(rng)
        self._pages = Pages()
        self.log: RequestLog | None = None
        """For requests that reached no app."""
        self.jails: Any = None
        """Who counts what was answered, see `services.jails`."""

    def next_id(self) -> str:
        """See `http_factory.Answers`; so for the others."""
        return self._ids()

    def page(
        self, server: Any, refusal: Refusal, request: Request | None, site: Site | None
    ) -> tuple[bytes, bytes]:
        """The page of the app, or ours, as the client prefers it."""
        pages: Pages = site.pages if site is not None and site.pages is not None else self._pages
        accept = b",".join(request.headers.all(b"accept")) if request is not None else None
        status = getattr(refusal, "moved", 0) or refusal.status or 500
        return pages.render(status, refusal.reason, server.request_id(), accept)

    def served(
        self, server: Client, request: Request | None, exchange: Exchange | None, since: float, ended: float
    ) -> None:
        """One line, if anybody wants it, about what began at `since` and ended just now."""
        site = exchange.site if exchange is not None else None
        if self.jails is not None:
            self._count(server, request, exchange)
        line: RequestLog | None = site.log if site is not None else self.log
        if line is None:
            return
        if request is None or exchange is None:
            line.served(_unread(server, ended - since), ended)
            return
        facts = server.facts
        visitor = _visitor(server)
        visitor.read(request.headers, facts)
        route = exchange.route
        named = route is not None and (route.requests.writes_forwarded or visitor.sends_forwarded)
        if not named and line.plain(
            ended,
            visitor.client,
            request.authority,
            request.scheme,
            request.method,
            request.path,
            request.version,
            exchange.status,
            visitor.agent,
            visitor.forwarded_for,
            exchange.peer_name,
            exchange.target,
        ):
            return
        line.served(
            Served(
                server.request_id() if line.shows_id else "",
                visitor.client,
                request.authority,
                request.scheme,
                request.method,
                request.path,
                request.version,
                exchange.status,
                server.sent,
                ended - since,
                site.app if site is not None else "-",
                exchange.reason,
                exchange.peer_name,
                exchange.target,
                exchange.answered_at - exchange.asked_at if exchange.answered_at else None,
                visitor.tls,
                visitor.agent,
                visitor.referer,
                visitor.forwarded_for,
                forwarded(facts.claims(request.headers), request.authority) if named else b"",
                facts.subject,
            ),
            ended,
        )

    def _count(self, server: Client, request: Request | None, exchange: Exchange | None) -> None:
        if request is None or exchange is None:
            self.jails.request(server.facts, None, server.status, server.reason, "-")
            return
        app = exchange.site.app if exchange.site is not None else "-"
        self.jails.request(server.facts, request.headers, exchange.status, exchange.reason, app)


class Visitor:
    """What the lines of one connection have in common, while its requests have the same fields."""

    __slots__ = ("_headers", "agent", "client", "forwarded_for", "referer", "sends_forwarded", "tls")

    def __init__(self, client: Shown, tls: str) -> None:
        self.client, self.tls = client, tls
        self._headers: Headers | None = None
        self.agent = self.referer = self.forwarded_for = b""
        self.sends_forwarded = False

    def read(self, headers: Headers, facts: ClientFacts) -> None:
        """Look at a request's fields, unless they are the last ones (see `http1.HeadReader`)."""
        if headers is not self._headers:
            self._headers = headers
            self.agent, self.referer = headers.get(b"user-agent") or b"", headers.get(b"referer") or b""
            self.forwarded_for = facts.forwarded_for(headers)
            self.sends_forwarded = b"forwarded" in headers.names


def _visitor(server: Client) -> Visitor:
    known = server.facts.noted
    if isinstance(known, Visitor):
        return known
    server.facts.noted = visitor = Visitor(Shown(server.arrival.client), server.tls_version)
    return visitor


def _unread(server: Client, seconds: float) -> Served:
    """The line of something that never became a request."""
    return Served(
        server.request_id(),
        _visitor(server).client,
        b"",
        b"",
        b"",
        b"",
        0,
        server.status,
        server.sent,
        seconds,
        "-",
        server.reason,
        tls=server.tls_version,
    )
