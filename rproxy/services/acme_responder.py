"""The answer to an authority that asks whether a name is ours: TLS-ALPN-01, RFC 8737, on the port of users.

`acme_order` starts and stops it per name; `assemble` asks it for a route before any other. An
authority connects with nothing but `acme-tls/1` in its ALPN list, so it is told apart from users
before OpenSSL sees a byte, and users keep their certificate while a challenge is pending. There
is an answer only while an order of ours waits for it: else the hello goes where its name leads,
to a backend's own ACME client for instance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IHandshakeListener, IProtocolFactory
from twisted.internet.protocol import Protocol
from txacme.interfaces import IResponder  # type: ignore[import-untyped]
from zope.interface import implementer

from rproxy.deadlines import Deadlines
from rproxy.downstream.terminate import Terminate
from rproxy.interfaces import Arrival
from rproxy.keypair import KeyPair
from rproxy.services.certificates import Site

ACME_TLS_1: Final = b"acme-tls/1"
ALONE: Final = (ACME_TLS_1,)
"""What an authority offers. Whoever offers more gets what users get (RFC 8737 §3)."""
PROOF: Final = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.31")
"""id-pe-acmeIdentifier, RFC 8737 §6.1."""
GOOD_FOR: Final = timedelta(days=1)
"""On either side of now; an authority does not look at it, and clocks differ."""


@implementer(IResponder)
class AlpnResponder:
    """All challenges that are pending."""

    challenge_type = "tls-alpn-01"

    def __init__(self, deadlines: Deadlines, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._deadlines, self._now = deadlines, now
        self._pending: dict[str, _Pending] = {}

    def start_responding(self, server_name: str, challenge: Any, response: Any) -> Deferred[None]:
        """txacme's call: answer for this name from now on; a newer challenge takes the place of an older."""
        self._pending[server_name] = _Pending(response.key_authorization)
        return succeed(None)

    def stop_responding(self, server_name: str, challenge: Any, response: Any) -> Deferred[None]:
        """txacme's call: this challenge is over."""
        pending = self._pending.get(server_name)
        if pending is not None and pending.key_authorization == response.key_authorization:
            del self._pending[server_name]
        return succeed(None)

    def route(self, arrival: Arrival) -> IProtocolFactory | None:
        """What answers this arrival; None when it is nobody's challenge here."""
        if arrival.hello is None or arrival.hello.alpn != ALONE or arrival.server_name is None:
            return None
        pending = self._pending.get(arrival.server_name)
        if pending is None:
            return None
        if pending.route is None:  # made now: most orders of known names have no challenge that is asked for
            pair = proof(arrival.server_name, pending.key_authorization, self._now())
            site = Site(f"ACME challenge of {arrival.server_name}", (pair,))
            pending.route = Terminate(site, _Nothing(), ALONE, self._deadlines)
        return pending.route

    def __len__(self) -> int:
        return len(self._pending)


def proof(name: str, key_authorization: str, now: datetime) -> KeyPair:
    """The certificate that shows that this name's server belongs to an account (RFC 8737 §3)."""
    key = ec.generate_private_key(ec.SECP256R1())
    called = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ACME challenge")])
    octet_string = b"\x04\x20" + sha256(key_authorization.encode("ascii")).digest()
    certificate = (
        x509.CertificateBuilder(called, called, key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - GOOD_FOR)
        .not_valid_after(now + GOOD_FOR)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.UnrecognizedExtension(PROOF, octet_string), critical=True)
        .sign(key, hashes.SHA256())
    )
    chain = certificate.public_bytes(serialization.Encoding.PEM)
    return KeyPair("the challenge certificate", "its key", chain, certificate, key, 0o600, (name,))


@dataclass(slots=True)
class _Pending:
    key_authorization: str
    route: IProtocolFactory | None = None


@implementer(IProtocolFactory)
class _Nothing:
    """Inside of a challenge's TLS."""

    def doStart(self) -> None:
        """Nothing to prepare."""

    def doStop(self) -> None:
        """Nothing to tear down."""

    def buildProtocol(self, addr: Any) -> Protocol:
        return _Silence()


@implementer(IHandshakeListener)
class _Silence(Protocol):
    """The handshake is all there is to it; then the connection is closed (RFC 8737 §4)."""

    transport: Any

    def handshakeCompleted(self) -> None:
        """The transport's call."""
        self.transport.loseConnection()

    def dataReceived(self, data: bytes) -> None:
        """Nobody has anything to say here."""
        self.transport.abortConnection()
