"""HTTP on connections: the factory that `assemble_http` makes, behind `peek` in clear text or in `terminate`.

Inside TLS the ALPN that was agreed on says the version. Where none was, `http_server` looks at the first
bytes: HTTP/2 by prior knowledge (RFC 9113 §3.3) begins with a preface that is no HTTP/1 request.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final, cast

from mypy_extensions import mypyc_attr
from twisted.internet.interfaces import IProtocol, IProtocolFactory
from zope.interface import classImplements

from rproxy.deadlines import Deadlines
from rproxy.downstream.http2_server import Http2Server
from rproxy.downstream.http_server import HttpServer
from rproxy.downstream.http_watch import HttpLimits
from rproxy.errors import Refusal
from rproxy.exchange import Client, Exchange
from rproxy.interfaces import Arrival, arrival_of, local_of
from rproxy.policy.forwarding import ClientFacts, Origins
from rproxy.policy.networks import NetworkSet
from rproxy.sites import Site, Sites
from rproxy.splice import Pipes
from rproxy.transports import local_port
from rproxy.watcher import watcher_of
from rproxy.wire.address import Inet
from rproxy.wire.http1_fields import Known
from rproxy.wire.message import Request

HTTP2: Final = b"h2"


@mypyc_attr(allow_interpreted_subclasses=True)
class Answers:
    """Error pages and the access log, see `services.answers`; `server` is a connection or a stream."""

    def next_id(self) -> str:
        """A number for a request."""
        raise NotImplementedError

    def page(
        self, server: Any, refusal: Refusal, request: Request | None, site: Site | None
    ) -> tuple[bytes, bytes]:
        """Content type and body of the answer to a refusal."""
        raise NotImplementedError

    def served(
        self, server: Client, request: Request | None, exchange: Exchange | None, since: float, ended: float
    ) -> None:
        """Write a finished exchange down."""
        raise NotImplementedError


class Serving:
    """How connections are served that come from now on: a reload sets all of it anew.

    `trusted` are the networks whose forwarding fields are believed.
    """

    def __init__(self, sites: Sites, limits: HttpLimits, trusted: NetworkSet) -> None:
        self.sites, self.limits, self.trusted = sites, limits, trusted
        self._origins = Origins(trusted)
        self.known = Known()
        """What requests have said of late, whoever has sent them."""

    def facts(self, arrival: Arrival, secure: bool, transport: Any) -> ClientFacts:
        """What a connection's requests say about their client."""
        port = local_port(transport) if arrival.local is None else -1
        if port < 0:
            local = arrival.local or local_of(transport)
            port = local.port if isinstance(local, Inet) else 0
        trusted = self.trusted
        if self._origins.trusted is not trusted:
            self._origins = Origins(trusted)
        client, shown = arrival.client, arrival.shown
        origin = self._origins.of(client, secure, port)
        if shown is None:
            return ClientFacts(client, https=secure, port=port, trusted=trusted, origin=origin)
        subject, certificate = shown.told
        return ClientFacts(
            client,
            https=secure,
            port=port,
            trusted=trusted,
            subject=subject,
            certificate=certificate,
            origin=origin,
        )


class HttpFactory:
    """Serves HTTP/1 or HTTP/2 on each connection: in clear text, or inside TLS with `secure`.

    `serving` is asked once per connection; `random` gives as many bytes of chance as it is asked.
    """

    def __init__(
        self,
        reactor: Any,
        serving: Serving,
        answers: Answers,
        deadlines: Deadlines,
        pipes: Pipes,
        *,
        secure: bool = False,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self.reactor, self.serving, self.answers = reactor, serving, answers
        self.watcher = watcher_of(reactor)
        self.deadlines, self.pipes = deadlines, pipes
        self.secure, self.random = secure, random

    def doStart(self) -> None:
        """Nothing to prepare; Twisted's ports call it."""

    def doStop(self) -> None:
        """Nothing to tear down; Twisted's ports call it."""

    def buildProtocol(self, addr: Any) -> IProtocol:
        """A server for this arrival."""
        arrival = arrival_of(addr)
        server: Any = self.http2(arrival) if arrival.alpn == HTTP2 else HttpServer(self, arrival)
        return cast(IProtocol, server)

    def http2(self, arrival: Arrival) -> Http2Server:
        """A server for a client that has agreed on HTTP/2, or simply speaks it."""
        return Http2Server(self, arrival)


classImplements(HttpFactory, IProtocolFactory)
