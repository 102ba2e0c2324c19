"""TLS ends here: the route of an app with a certificate. Built by `assemble`, chosen by `services.routing`.

Peek has read the ClientHello, so everything is decided before OpenSSL sees the first byte: the
site by the routing, the protocol here. The context that goes with both is made once and shared.
Imports OpenSSL, so `assemble` imports it only for configurations that terminate TLS.
"""

from __future__ import annotations

from typing import Any, Protocol, cast

from OpenSSL import SSL
from twisted.internet.interfaces import IProtocol, IProtocolFactory
from twisted.logger import Logger
from zope.interface import implementer

from rproxy.deadlines import Deadlines
from rproxy.errors import NoCommonProtocol, Refusal
from rproxy.interfaces import Arrival, arrival_of
from rproxy.tls import HANDSHAKE, Scratch, TLSTransport
from rproxy.wire.clienthello import ClientHello

log = Logger()

HTTP1 = b"http/1.1"
"""What a client that sends no ALPN is served with, RFC 9112 §9."""
HTTP2 = b"h2"
OLD_HTTP = b"http/1.0"
"""What `curl --http1.0` lists alone; the same protocol to us, since requests say their version."""


class NoCertificate(Refusal):
    """The app's first certificate has not been issued yet: internal_error."""

    reason, alert = "no_certificate", 80


class Site(Protocol):
    """The certificates of an app, see `services.certificates`; `context` may raise `NoCertificate`."""

    name: str

    def context(self, protocols: tuple[bytes, ...]) -> SSL.Context: ...  # noqa: D102


@implementer(IProtocolFactory)
class Terminate:
    """Serves each connection by TLS around what `inner` builds. `offered` is in our order of preference."""

    def __init__(
        self,
        site: Site,
        inner: IProtocolFactory,
        offered: tuple[bytes, ...],
        deadlines: Deadlines,
        *,
        handshake_timeout: float = HANDSHAKE,
    ) -> None:
        self.site, self.inner, self.offered = site, inner, offered
        self.deadlines, self.handshake_timeout = deadlines, handshake_timeout
        self.scratch = Scratch()

    def doStart(self) -> None:
        """Nothing to prepare; Twisted's ports call it."""

    def doStop(self) -> None:
        """Nothing to tear down; Twisted's ports call it."""

    def buildProtocol(self, addr: Any) -> IProtocol | None:
        """TLS for this arrival; None if `inner` takes no more. Raises `NoCommonProtocol`, `NoCertificate`.

        Given the plain address of an endpoint there is no hello yet; OpenSSL then picks the protocol.
        """
        arrival, choices = arrival_of(addr), self.offered
        if arrival.hello is not None:
            choices = (choose(arrival.hello, self.offered),)
            arrival = arrival.with_alpn(choices[0])
        context = self.site.context(choices)
        protocol: Any = self.inner.buildProtocol(arrival)
        if protocol is None:
            return None
        connection = SSL.Connection(context)
        connection.set_accept_state()
        secured: Any = Secured(self, arrival, protocol, connection)
        return cast(IProtocol, secured)


class Secured(TLSTransport):
    """A client's connection, decrypted for the inner protocol."""

    def __init__(
        self, factory: Terminate, arrival: Arrival, protocol: IProtocol, connection: SSL.Connection
    ) -> None:
        super().__init__(protocol, connection, factory.deadlines, factory.handshake_timeout, factory.scratch)
        self._app, self._arrival = factory.site.name, arrival

    def handshake_failed(self, words: str, error: BaseException | None) -> None:
        """One line, at a level that a busy port can bear: most of it is scanners."""
        log.info(
            "TLS handshake of {client} with {app} failed: {why} (name {name}, listener {listener})",
            client=str(self._arrival.client),
            app=self._app,
            why=words,
            name=self._arrival.server_name or "-",
            listener=self._arrival.listener or "-",
        )


def choose(hello: ClientHello, offered: tuple[bytes, ...]) -> bytes:
    """The first of `offered` that the client lists; HTTP/1.1 for one that lists nothing.

    Raises `NoCommonProtocol` (RFC 7301 §3.2).
    """
    if not hello.alpn:
        return HTTP1
    for protocol in offered:
        if protocol in hello.alpn:
            return protocol
    raise NoCommonProtocol("the client lists other protocols only")
