"""TLS ends here, and who the client is decides: the route of `[l4.<name>]` with `tls`, made by `assemble_l4`.

`Mutual` makes a TLS transport for each connection, and behind it a `Gate`: once the handshake is done
and the client's certificate verified, it asks whether this client may, and gives its place to the
service's end. Until then no peer knows of the client. What speaks against it is told in TLS and in one
line of the journal. Imports OpenSSL.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast
from weakref import WeakSet

from OpenSSL import SSL
from twisted.internet.interfaces import IHandshakeListener, IProtocol, IProtocolFactory
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import classImplements

from rproxy.deadlines import Deadlines
from rproxy.downstream.handshake import log_failed_handshake, reason_of
from rproxy.downstream.peek import LINGER
from rproxy.downstream.service import ServiceFactory
from rproxy.downstream.terminate import Site
from rproxy.errors import NotAuthorised, Refusal
from rproxy.interfaces import Arrival, arrival_of
from rproxy.openssl import Scratch
from rproxy.policy.identity import ClientPolicy, Identity
from rproxy.tls import HANDSHAKE, ByHalves
from rproxy.wire.sealedalert import sealed_alert

log: Final = Logger(__name__)

INTERNAL_ERROR: Final = 80
"""The alert for what TLS has no word for, such as too many connections (RFC 8446 §6.2)."""


class Facts:
    """What OpenSSL has found out about a connection: its app data, filled by `services.clientca` and here.

    Once the handshake is over it is the `shown` of the arrival.
    """

    __slots__ = ("identity", "problem", "secret")

    def __init__(self) -> None:
        self.identity: Identity | None = None
        self.problem = ""
        """What is wrong with a certificate, and whose that is."""
        self.secret = b""
        """The server's first traffic secret in hexadecimal, until it is known that the client may."""


class Mutual:
    """Serves each connection by TLS around the service's end; `protocols` are ALPN names of what it speaks.

    With `clients` they have to show a certificate, in TLS 1.3 or newer, and `site` has to ask for it.
    `prepared` are the contexts of all that serve the same sites, now and before a reload; `policies` are
    those of now, by the names of services: a handshake may have begun before a reload.
    """

    def __init__(
        self,
        site: Site,
        service: ServiceFactory,
        clients: ClientPolicy | None,
        protocols: tuple[bytes, ...],
        deadlines: Deadlines,
        prepared: WeakSet[SSL.Context],
        *,
        policies: Mapping[str, ClientPolicy | None] | None = None,
        handshake_timeout: float = HANDSHAKE,
    ) -> None:
        self.policies = policies
        self.site, self.service, self.clients, self.protocols = site, service, clients, protocols
        self.deadlines, self.handshake_timeout = deadlines, handshake_timeout
        self.prepared, self.scratch = prepared, Scratch()

    def doStart(self) -> None:
        """Nothing to prepare; Twisted's ports call it."""

    def doStop(self) -> None:
        """Nothing to tear down; Twisted's ports call it."""

    def buildProtocol(self, addr: Any) -> IProtocol:
        """TLS for this arrival. Raises `NoCertificate` where the first one has not been issued yet."""
        facts = Facts()
        connection = SSL.Connection(self._context())
        connection.set_app_data(facts)
        connection.set_accept_state()
        secured: Any = Secured(self, Gate(self, arrival_of(addr), facts), connection, facts)
        return cast(IProtocol, secured)

    def authorise(self, identity: Identity | None) -> None:
        """Raises `NotAuthorised` for who is known and may not, or not any more."""
        clients, before, app = self.clients, self.clients, self.service.app
        if self.policies is not None:
            if app not in self.policies:
                raise NotAuthorised("the service is gone")
            clients = self.policies[app]
        if clients is None:
            return
        if before is not None and before.authorities != clients.authorities:
            raise NotAuthorised("verified by authorities of before a reload")
        if not clients.allows(identity):
            raise NotAuthorised("in no group and of no name that may")

    def _context(self) -> SSL.Context:
        """The site's, prepared before its first connection, after which it cannot be changed."""
        context = self.site.context(self.protocols)
        if context not in self.prepared:
            self.prepared.add(context)
            if self.clients is not None:
                context.set_min_proto_version(SSL.TLS1_3_VERSION)
            context.set_keylog_callback(_keep_secret)
        return context


def _keep_secret(connection: SSL.Connection, line: bytes) -> None:
    """OpenSSL's call for each secret of a handshake; an alert of our own is sealed with one of them."""
    if line.startswith(b"SERVER_TRAFFIC_SECRET_0 "):
        connection.get_app_data().secret = line.rpartition(b" ")[2]


class Gate:
    """What is behind TLS until the client is let in; the journal's line of those who are not."""

    def __init__(self, factory: Mutual, arrival: Arrival, facts: Facts) -> None:
        self._factory, self._arrival, self._facts = factory, arrival, facts
        self._started: float = factory.service.reactor.seconds()
        self.transport: Any = None
        self._reason = ""

    def makeConnection(self, transport: Any) -> None:
        """TLS's call: it begins."""
        self.transport = transport

    def handshakeCompleted(self) -> None:
        """TLS's call: the certificate is verified. Whose is it, and may it come in?"""
        known = self._arrival.with_alpn(self.transport.negotiatedProtocol or b"")
        self._arrival = known.with_shown(self._facts)
        try:
            self._factory.authorise(self._facts.identity)
            end: Any = self._factory.service.buildProtocol(self._arrival)
        except Refusal as refusal:
            self.transport.deny(INTERNAL_ERROR if refusal.alert is None else refusal.alert)
            self.journal(refusal.reason)
            return
        self._facts.secret = b""
        self.transport.wrappedProtocol = end
        end.makeConnection(self.transport)

    def dataReceived(self, data: bytes) -> None:
        """Never called: what comes is either for the service's end or dropped."""

    def readConnectionLost(self) -> None:
        """TLS's call, which needs no answer either."""

    def left(self) -> None:
        """Nor does this."""

    def ends_as(self, reason: str) -> None:
        """Peek's call before it cuts the client off: why."""
        self._reason = reason

    def drain(self) -> None:
        """The proxy stops; a handshake is not waited for."""
        self.transport.abortConnection()

    def connectionLost(self, reason: Failure) -> None:
        """TLS's call: the journal has it already."""
        self._facts.secret = b""

    def journal(self, reason: str) -> None:
        """Write down why the client was not let in."""
        service = self._factory.service
        seconds = service.reactor.seconds() - self._started
        service.journal.ended(
            self._arrival,
            app=service.app,
            peer="-",
            received=0,
            sent=0,
            seconds=seconds,
            reason=self._reason or reason,
        )

    def failed(self, words: str) -> None:
        """The handshake has: tell why in detail."""
        log_failed_handshake(log, self._arrival, self._factory.site.name, self._facts.problem or words)


class Secured(ByHalves):
    """A client's connection, decrypted for the end of a service."""

    def __init__(self, factory: Mutual, gate: Gate, connection: SSL.Connection, facts: Facts) -> None:
        super().__init__(gate, connection, factory.deadlines, factory.handshake_timeout, factory.scratch)
        self._gate, self._facts = gate, facts
        self._refused = self._gone = False

    @property
    def cipher(self) -> str:
        """As in "TLS_AES_256_GCM_SHA384"."""
        return str(self._tlsConnection.get_cipher_name() or "")

    def handshake_failed(self, words: str, error: BaseException | None) -> BaseException | None:
        """TLS's call."""
        if error is not None:
            self._gate.failed(words)
        self._gate.journal(reason_of(words, error, self._tlsConnection))
        return None

    def deny(self, description: int) -> None:
        """Refuse with this alert, right after the handshake: nothing else has been sent since."""
        secret, self._facts.secret = self._facts.secret, b""
        if secret:  # of TLS 1.3; an older version has no such thing
            self._forget_tickets()
            self.transport.write(
                sealed_alert(self.cipher, bytes.fromhex(secret.decode("ascii")), description)
            )
        self.end_without_goodbye()

    def end_without_goodbye(self) -> None:
        """Shut our half and drop what still comes; the client is to know that this is no regular end."""
        self._stop_clock()
        self._lost = self._refused = True
        if not self._gone:
            self.transport.loseWriteConnection()
            self._wait(LINGER, self.transport.abortConnection)

    def dataReceived(self, data: bytes) -> None:
        """The transport's call: records, cut anywhere."""
        if self._refused:
            self._drop(data)
        else:
            super().dataReceived(data)

    def connectionLost(self, reason: Failure) -> None:
        """The transport's call, once."""
        self._gone = True
        super().connectionLost(reason)

    def _close_below(self) -> None:
        if self._done:
            super()._close_below()
        else:
            self.end_without_goodbye()

    def _forget_tickets(self) -> None:
        """Whoever is refused gets no session either, and the alert is the first record of its kind."""
        try:
            while self._tlsConnection.bio_read(4096):
                pass
        except SSL.WantReadError:
            pass


classImplements(Mutual, IProtocolFactory)
classImplements(Gate, IHandshakeListener)
