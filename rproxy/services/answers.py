"""What all HTTP connections say beside the backends' words: error pages, and a line for each request.

Made by `assemble_http`; called by `downstream.http_server`.
"""

from __future__ import annotations

from random import Random

from rproxy.downstream.http_server import HttpServer
from rproxy.errors import Refusal
from rproxy.exchange import Exchange
from rproxy.services.pages import Pages, request_ids
from rproxy.services.requestlog import RequestLog, Served
from rproxy.sites import Site
from rproxy.wire.message import Request


class Answers:
    """Error pages and the access log for the connections; see `http_server.Answers`."""

    def __init__(self, rng: Random) -> None:
        self.next_id = request_ids(rng)
        self._pages = Pages()
        self.log: RequestLog | None = None
        """For requests that reached no app."""

    def page(
        self, server: HttpServer, refusal: Refusal, request: Request | None, site: Site | None
    ) -> tuple[bytes, bytes]:
        """The page of the app, or ours, as the client prefers it."""
        pages: Pages = site.pages if site is not None and site.pages is not None else self._pages
        accept = b",".join(request.headers.all(b"accept")) if request is not None else None
        status = getattr(refusal, "moved", 0) or refusal.status or 500
        return pages.render(status, refusal.reason, server.request_id(), accept)

    def served(self, server: HttpServer, request: Request | None, exchange: Exchange | None) -> None:
        """One line, if anybody wants it."""
        site = exchange.site if exchange is not None else None
        line: RequestLog | None = site.log if site is not None else self.log
        if line is None:
            return
        if request is None or exchange is None:
            line.served(_unread(server))
            return
        headers, asked = request.headers, exchange.asked_at
        line.served(
            Served(
                id=server.request_id() if line.shows_id else "",
                client=server.arrival.client,
                host=request.authority,
                scheme=request.scheme,
                method=request.method,
                path=request.path,
                version=request.version,
                status=exchange.status,
                size=server.sent,
                seconds=server.ended - server.since,
                app=site.app if site is not None else "-",
                reason=exchange.reason,
                upstream=exchange.peer_name,
                forwarded_for=server.facts.forwarded_for(headers),
                upstream_path=exchange.target,
                upstream_seconds=exchange.answered_at - asked if exchange.answered_at else None,
                tls=server.tls_version,
                user_agent=headers.get(b"user-agent") or b"",
                referer=headers.get(b"referer") or b"",
            )
        )


def _unread(server: HttpServer) -> Served:
    """The line of something that never became a request."""
    return Served(
        id=server.request_id(),
        client=server.arrival.client,
        host=b"",
        scheme=b"",
        method=b"",
        path=b"",
        version=0,
        status=server.status,
        size=server.sent,
        seconds=server.ended - server.since,
        app="-",
        reason=server.reason,
        tls=server.tls_version,
    )
