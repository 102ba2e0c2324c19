"""What the tests of TLS stand on: certificates of every kind, and clients in memory and over sockets."""

from __future__ import annotations

import os
import ssl
import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import StringTransport
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure

from rproxy.keypair import KeyPair, load_pair

PEM, PKCS8, OLD = (
    serialization.Encoding.PEM,
    serialization.PrivateFormat.PKCS8,
    serialization.PrivateFormat.TraditionalOpenSSL,
)


@cache
def key_of(kind: str, number: int = 0) -> Any:
    """A private key; keys of different numbers differ."""
    match kind:
        case "ec":
            return ec.generate_private_key(ec.SECP256R1())
        case "p384":
            return ec.generate_private_key(ec.SECP384R1())
        case "koblitz":
            return ec.generate_private_key(ec.SECP256K1())
        case "rsa":
            return rsa.generate_private_key(65537, 2048)
        case "rsa1024":
            return rsa.generate_private_key(65537, 1024)
        case "rsa4096":
            return rsa.generate_private_key(65537, 4096)
        case "ed25519":
            return ed25519.Ed25519PrivateKey.generate()
        case "ed448":
            return ed448.Ed448PrivateKey.generate()
        case "dsa":
            return dsa.generate_private_key(2048)
    raise LookupError(kind)


def key_pem(key: Any, form: Any = PKCS8, password: bytes | None = None) -> bytes:
    how = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    pem: bytes = key.private_bytes(PEM, form, how)
    return pem


def days(number: float) -> datetime:
    return datetime.now(UTC) + timedelta(days=number)


@dataclass(frozen=True)
class Made:
    """A certificate with its key; signs others when it was made with `ca`."""

    certificate: x509.Certificate
    key: Any

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(PEM)

    @property
    def key_pem(self) -> bytes:
        return key_pem(self.key)

    def write(self, directory: Path, name: str, *chain: Made) -> tuple[Path, Path]:
        """The two files: chain and key."""
        certificate, key = directory / f"{name}.pem", directory / f"{name}.key"
        certificate.write_bytes(b"".join(each.pem for each in (self, *chain)))
        key.touch(mode=0o600)
        key.write_bytes(self.key_pem)
        return certificate, key

    def pair(self, directory: Path, name: str, *chain: Made) -> KeyPair:
        return load_pair(*self.write(directory, name, *chain))


def make(
    *names: str,
    key: Any = "ec",
    number: int = 0,
    issuer: Made | None = None,
    ca: bool = False,
    begins: datetime | None = None,
    ends: datetime | None = None,
    usage: Any = None,
    digest: Any = None,
) -> Made:
    """A certificate for these names and addresses, self-signed unless there is an issuer."""
    private = key_of(key, number)
    called = x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, names[0] if names else f"authority {number}")]
    )
    signer = issuer.key if issuer else private
    builder = (
        x509.CertificateBuilder(
            issuer.certificate.subject if issuer else called, called, private.public_key()
        )
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins or days(-1))
        .not_valid_after(ends or days(30))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([_san(n) for n in names]), critical=False)
    if usage is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    no_digest = isinstance(signer, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey)
    return Made(builder.sign(signer, None if no_digest else digest or hashes.SHA256()), private)


CLIENT_ONLY = ExtendedKeyUsageOID.CLIENT_AUTH


def _san(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


class Inner(Protocol):
    """Remembers what it gets; answers with the same in capitals."""

    transport: Any

    def __init__(self, arrival: Any = None) -> None:
        self.arrival = arrival
        self.octets = b""
        self.lost: Failure | None = None

    def dataReceived(self, data: bytes) -> None:
        self.octets += data
        self.transport.write(data.upper())

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        assert self.lost is None, "connectionLost was called twice"
        self.lost = reason


class Inners(Factory):
    """Builds `Inner` and keeps them all."""

    noisy = False

    def __init__(self, build: Callable[[Any], Any] = Inner) -> None:
        self.build, self.built = build, []  # type: ignore[var-annotated]

    def buildProtocol(self, addr: Any) -> Any:
        self.built.append(self.build(addr))
        return self.built[-1]


class Pipe(StringTransport):
    """A transport that can be asked how it was closed."""

    aborted = False

    def loseWriteConnection(self) -> None:
        self.disconnecting = True

    def abortConnection(self) -> None:
        self.aborted = True
        super().abortConnection()


def trusting_nobody(*alpn: str) -> ssl.SSLContext:
    """A client context that takes any certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


class MemoryClient:
    """The stdlib's TLS client, by hand: `out` gives what it would send, `take` what it receives."""

    def __init__(self, name: str | None = "example.org", *alpn: str, context: Any = None) -> None:
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = context or trusting_nobody(*alpn)
        self.tls = context.wrap_bio(self._in, self._out, server_hostname=name)
        self.done = False
        self.got = b""
        self.closed = False

    def out(self) -> bytes:
        if not self.done:
            try:
                self.tls.do_handshake()
                self.done = True
            except ssl.SSLWantReadError:
                pass
        return self._out.read()

    def take(self, octets: bytes) -> None:
        self._in.write(octets)
        if not self.done:
            return
        try:
            while octets := self.tls.read(65536):
                self.got += octets
            self.closed = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.closed = True

    def send(self, octets: bytes) -> bytes:
        self.tls.write(octets)
        return self._out.read()

    def goodbye(self) -> bytes:
        try:
            self.tls.unwrap()
        except ssl.SSLWantReadError:
            pass
        return self._out.read()


def converse(client: MemoryClient, server: Any, pipe: Pipe, cut: Callable[[bytes], Iterable[bytes]]) -> None:
    """Carry bytes until both are silent; `cut` says in which pieces the client's arrive."""
    while True:
        sent = client.out()
        for piece in cut(sent) if sent else ():
            server.dataReceived(piece)
        answer = pipe.value()
        pipe.clear()
        client.take(answer)
        if not sent and not answer:
            return


def whole(octets: bytes) -> Iterable[bytes]:
    return [octets]


@contextmanager
def listening(factory: Any) -> Iterator[int]:
    """The port on which this factory serves."""
    from rproxy.services.listeners import PatientReactor

    port = PatientReactor(reactor).listenTCP(0, factory, 1024, "127.0.0.1")
    try:
        yield port.getHost().port
    finally:
        port.stopListening()


def s_client(port: int, *options: str, stdin: str = "") -> Deferred[str]:
    """What `openssl s_client` says; it ends with its input."""
    argv = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", *options]

    def run() -> str:
        ended = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=20, check=False)
        return ended.stdout + ended.stderr

    answer: Deferred[str] = deferToThread(run)
    return answer


def age(path: Path, seconds: float) -> None:
    """Make a file look older, which is a change."""
    state = os.stat(path)
    os.utime(path, (state.st_atime - seconds, state.st_mtime - seconds))
