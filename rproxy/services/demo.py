"""The embedded backend behind `location = "demo:"`: it answers with what it received. Made by `assemble`.

It lets a new user see a connection arrive before there is any real backend: it takes clear
text and TLS (with a certificate made at start), a PROXY header or none, and answers the first
HTTP request with the name, the addresses and the protocol it saw. Only reachable on loopback.
"""

from __future__ import annotations

import datetime
import socket
from typing import Any

from twisted.application.service import Service
from twisted.internet.interfaces import IProtocol
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure

from rproxy.errors import BadProxyHeader
from rproxy.interfaces import address_of
from rproxy.upstream.peer import Target
from rproxy.wire.proxyheader import ProxyHeader, ProxyHeaderReader, begins_header

PATIENCE = 30.0
"""Seconds a connection may take in all: it is a demonstration, not a server."""
MOST_HEAD = 16384
"""Bytes of a request head; the usual limit of servers."""


class Demo(Service):
    """Listens on a free loopback port from the moment it is made, and serves it while it runs."""

    name = "demo backend"

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.setblocking(False)
        self.target: Target = (socket.AF_INET, self._socket.getsockname())
        self._port: Any = None

    def startService(self) -> None:
        """Twisted's call: begin to answer."""
        super().startService()
        factory = DemoFactory(self._reactor)
        self._port = self._reactor.adoptStreamPort(self._socket.fileno(), socket.AF_INET, factory)
        self._socket.close()

    def stopService(self) -> Any:
        """Twisted's call: stop answering."""
        super().stopService()
        port, self._port = self._port, None
        return port.stopListening() if port is not None else None


class DemoFactory(Factory):
    """Builds the demo's connections; they share one TLS context."""

    noisy = False

    def __init__(self, reactor: Any) -> None:
        self.reactor = reactor
        self._tls: Any = None

    def buildProtocol(self, addr: Any) -> Any:
        """A connection that has yet to say whether it is TLS."""
        return _Opening(self, str(address_of(addr)))

    def tls(self, answering: IProtocol) -> Any:
        """A TLS server protocol around `answering`; the context is made for the first."""
        from twisted.protocols.tls import TLSMemoryBIOFactory

        if self._tls is None:
            inner = Factory()
            inner.noisy = False
            self._tls = TLSMemoryBIOFactory(_certificate(), False, inner)
        self._tls.wrappedFactory.buildProtocol = lambda addr: answering
        return self._tls.buildProtocol(None)


class _Opening(Protocol):
    """The first bytes: a PROXY header or not, TLS or not."""

    transport: Any

    def __init__(self, factory: DemoFactory, client: str) -> None:
        self._factory, self._client = factory, client
        self._first = b""
        self._header: ProxyHeader | None = None
        self._become: Any = None
        self._timer: Any = None

    def connectionMade(self) -> None:
        self._timer = self._factory.reactor.callLater(PATIENCE, self.transport.abortConnection)

    def dataReceived(self, data: bytes) -> None:
        if self._become is not None:
            self._become.dataReceived(data)
            return
        self._first += data
        begins = begins_header(self._first)
        if begins is None:
            return
        if begins and self._header is None:
            self._read_header()
        if self._first and (not begins or self._header is not None):
            self._open()

    def _read_header(self) -> None:
        reader = ProxyHeaderReader()
        try:
            self._header = reader.feed(self._first)
        except BadProxyHeader:
            self.transport.loseConnection()
            return
        if self._header is not None:
            self._first = reader.rest

    def _open(self) -> None:
        answering = _Answering(self._client, self._header)
        self._become = self._factory.tls(answering) if self._first[:1] == b"\x16" else answering
        self._become.makeConnection(self.transport)
        self._become.dataReceived(self._first)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        if self._timer.active():
            self._timer.cancel()
        if self._become is not None:
            self._become.connectionLost(reason)


class _Answering(Protocol):
    """One request, one answer, then the end."""

    transport: Any

    def __init__(self, client: str, header: ProxyHeader | None) -> None:
        self._client, self._header = client, header
        self._head = b""

    def dataReceived(self, data: bytes) -> None:
        self._head += data
        if b"\r\n\r\n" in self._head or b"\n\n" in self._head:
            self.transport.write(self._answer())
            self.transport.loseConnection()
        elif len(self._head) > MOST_HEAD:
            self.transport.loseConnection()

    def _answer(self) -> bytes:
        request = self._head.split(b"\n", 1)[0].strip().decode("ascii", "backslashreplace")
        name, protocol = self._seen()
        body = (
            "This is the demo backend of rproxy. What arrived here:\n"
            f"  name      {name}\n"
            f"  client    {self._seen_client()}\n"
            f"  protocol  {protocol}\n"
            f"  request   {request}\n"
        ).encode()
        head = (
            "HTTP/1.1 200 OK\r\nServer: rproxy-demo\r\nContent-Type: text/plain; charset=utf-8\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        return head.encode() + body

    def _seen_client(self) -> str:
        header, forwarded = self._header, self._field("x-forwarded-for")
        if header is None and forwarded:
            return f"{forwarded} (X-Forwarded-For)"
        if header is None:
            return f"{self._client} (no PROXY header)"
        if header.source is None:
            return f"{self._client} (PROXY v{header.version} header without addresses)"
        return f"{header.source}, which connected to {header.destination} (PROXY v{header.version} header)"

    def _seen(self) -> tuple[str, str]:
        connection = getattr(self.transport, "_tlsConnection", None)
        if connection is None:
            asked = self._field("x-forwarded-proto")
            return self._field("host") or "-", f"clear text, after {asked}" if asked else "clear text"
        name = connection.get_servername() or b"-"
        return name.decode(
            "ascii", "backslashreplace"
        ), f"{connection.get_protocol_version_name()} from end to end"

    def _field(self, name: str) -> str:
        """The first header field of that name, in lower case; empty without one."""
        for line in self._head.split(b"\n")[1:]:
            field, _, value = line.partition(b":")
            if field.strip().lower() == name.encode():
                return value.strip().decode("ascii", "backslashreplace")
        return ""


def _certificate() -> Any:
    """Server options with a key and a self-signed certificate for *.localhost, made now and kept nowhere."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from OpenSSL.crypto import X509, PKey
    from twisted.internet.ssl import CertificateOptions

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "rproxy demo backend")])
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.DNSName("*.localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(issuer_name=name, subject_name=name, public_key=key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(names, critical=False)
        .sign(key, hashes.SHA256())
    )
    return CertificateOptions(
        privateKey=PKey.from_cryptography_key(key),
        certificate=X509.from_cryptography(certificate),
        acceptableProtocols=[b"http/1.1"],
    )
