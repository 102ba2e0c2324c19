"""TLS ends here: the route of an app with a certificate. Built by `assemble`, chosen by `services.routing`.

Peek has read the ClientHello, so everything is decided before OpenSSL sees the first byte: the
site by the routing, the protocol here. The context that goes with both is made once and shared.
Where an app wants client certificates, what is inside begins once the client's is verified.
Imports OpenSSL, so `assemble` imports it only for configurations that terminate TLS.
"""

from __future__ import annotations

from typing import Any, Protocol, cast

from OpenSSL import SSL
from twisted.internet.interfaces import IHandshakeListener, IProtocol, IProtocolFactory
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from rproxy.deadlines import Deadlines
from rproxy.downstream.handshake import log_failed_handshake, reason_of
from rproxy.downstream.peek import LINGER, LINGER_BYTES
from rproxy.errors import NoCommonProtocol, Refusal
from rproxy.interfaces import Arrival, Journal, arrival_of
from rproxy.openssl import Scratch
from rproxy.policy.identity import ClientPolicy, Shown
from rproxy.tls import HANDSHAKE, TLSTransport
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
    """Serves each connection by TLS around what `inner` builds. `offered` is in our order of preference.

    `clients` says whom an app serves whose `site` asks for certificates. Handshakes that fail are written
    into `journal`, if there is one, with their time by `clock`.
    """

    def __init__(
        self,
        site: Site,
        inner: IProtocolFactory,
        offered: tuple[bytes, ...],
        deadlines: Deadlines,
        *,
        handshake_timeout: float = HANDSHAKE,
        clients: ClientPolicy | None = None,
        journal: Journal | None = None,
        clock: Any = None,
    ) -> None:
        self.site, self.inner, self.offered, self.clients = site, inner, offered, clients
        self._journal, self._clock = journal, clock
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
        if self.clients is not None:
            return self._verified(arrival, context, self.clients)
        protocol: Any = self.inner.buildProtocol(arrival)
        if protocol is None:
            return None
        connection = SSL.Connection(context)
        connection.set_accept_state()
        secured: Any = Secured(self, arrival, protocol, connection)
        return cast(IProtocol, secured)

    def now(self) -> float:
        """The moment, where it will be asked for."""
        return 0.0 if self._journal is None else float(self._clock.seconds())

    def write_down(self, arrival: Arrival, reason: str, since: float) -> None:
        """Write down that a handshake which began at `since` came to nothing."""
        if self._journal is not None:
            seconds = self.now() - since
            self._journal.ended(
                arrival, app=self.site.name, peer="-", received=0, sent=0, seconds=seconds, reason=reason
            )

    def _verified(self, known: Arrival, context: SSL.Context, clients: ClientPolicy) -> IProtocol | None:
        """The same for a client that is asked for a certificate; the context is one that does."""
        shown = Shown(clients)
        arrival = known.with_shown(shown)
        protocol: Any = self.inner.buildProtocol(arrival)
        if protocol is None:
            return None
        connection = SSL.Connection(context)
        connection.set_app_data(shown)
        connection.set_accept_state()
        secured: Any = Verified(self, arrival, cast(Any, Unidentified(protocol)), connection)
        return cast(IProtocol, secured)


class Secured(TLSTransport):
    """A client's connection, decrypted for the inner protocol."""

    def __init__(
        self, factory: Terminate, arrival: Arrival, protocol: IProtocol, connection: SSL.Connection
    ) -> None:
        super().__init__(protocol, connection, factory.deadlines, factory.handshake_timeout, factory.scratch)
        self._factory, self._arrival, self._since = factory, arrival, factory.now()

    def handshake_failed(self, words: str, error: BaseException | None) -> None:
        """TLS's call."""
        log_failed_handshake(log, self._arrival, self._factory.site.name, self._explained(words))
        self._factory.write_down(self._arrival, reason_of(words, error, self._tlsConnection), self._since)

    def _explained(self, words: str) -> str:
        return words


class Verified(Secured):
    """The same where the client has to show a certificate, and is told what is wrong with it."""

    _gone = False
    _dropped = 0

    def dataReceived(self, data: bytes) -> None:
        """The transport's call: records, cut anywhere."""
        if self._lost:
            self._drop(len(data))
        else:
            super().dataReceived(data)

    def connectionLost(self, reason: Failure) -> None:
        """The transport's call, once."""
        self._gone = True
        super().connectionLost(reason)

    def _explained(self, words: str) -> str:
        """With what is wrong with the certificate, and whose it is."""
        problem = self._arrival.shown.problem
        return f"{words}: {problem}" if problem else words

    def _close_below(self) -> None:
        if self._done or self._gone:
            super()._close_below()
        else:
            # In TLS 1.3 the client believes the handshake done and sends its request.
            self.transport.loseWriteConnection()
            self._wait(LINGER, self.transport.abortConnection)

    def _drop(self, size: int) -> None:
        self._dropped += size
        if self._dropped > LINGER_BYTES:
            self.transport.abortConnection()


@implementer(IHandshakeListener)
class Unidentified:
    """Stands where a connection's protocol will be once its client is known; else that never begins."""

    def __init__(self, protocol: Any) -> None:
        self._protocol = protocol
        self._transport: Any = None

    def makeConnection(self, transport: Any) -> None:
        """TLS's call before the handshake."""
        self._transport = transport

    def handshakeCompleted(self) -> None:
        """TLS's call: the client's certificate is verified, or it has none and needs none."""
        self._transport.wrappedProtocol = self._protocol
        self._protocol.makeConnection(self._transport)

    def dataReceived(self, data: bytes) -> None:
        """Never called: nothing is decrypted before."""

    def drain(self) -> None:
        """The proxy stops; a handshake is not waited for."""
        self._transport.abortConnection()

    def connectionLost(self, reason: Failure) -> None:
        """TLS's call: it came to nothing."""


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
