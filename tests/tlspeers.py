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
from rproxy.wire.sealedalert import CIPHERS, _expand
from tests.fakes import Wire

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


class MemoryServer(MemoryClient):
    """The same for the other side; `closed` says that the client's goodbye has come."""

    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__()
        self.tls = context.wrap_bio(self._in, self._out, server_side=True)


class Sealing:
    """Seals records in the place of a TLS 1.3 client that has sent none since its handshake.

    Clients that one can have ask for no new keys (RFC 8446 §4.6.3) when they are told to.
    """

    def __init__(self, client: MemoryClient, keys: Path) -> None:
        """`keys` is where its context writes secrets to, see `ssl.SSLContext.keylog_filename`."""
        (line,) = [
            each for each in keys.read_text().splitlines() if each.startswith("CLIENT_TRAFFIC_SECRET_0")
        ]
        self._seals, self._size, self._digest = CIPHERS[client.tls.cipher()[0]]
        self._use(bytes.fromhex(line.split()[2]))

    def _use(self, secret: bytes) -> None:
        self._secret, self._number = secret, 0
        self._key = self._seals(_expand(secret, b"key", self._size, self._digest()))
        self._iv = int.from_bytes(_expand(secret, b"iv", 12, self._digest()), "big")

    def said(self, octets: bytes) -> bytes:
        """A record with application data."""
        return self._record(octets + b"\x17")

    def new_keys(self) -> bytes:
        """A record that says that the next one has new keys, and asks the other side for the same."""
        record = self._record(b"\x18\0\0\1\1\x16")
        size = self._digest().digest_size
        self._use(_expand(self._secret, b"traffic upd", size, self._digest()))
        return record

    def _record(self, inner: bytes) -> bytes:
        head = b"\x17\x03\x03" + (len(inner) + 16).to_bytes(2, "big")
        nonce = (self._iv ^ self._number).to_bytes(12, "big")
        self._number += 1
        return head + self._key.encrypt(nonce, inner, head)


class TLSWire:
    """A server that speaks TLS over a `Wire` by hand, so that it can close by halves."""

    def __init__(self, wire: Wire, context: ssl.SSLContext) -> None:
        self.wire, self.server = wire, MemoryServer(context)

    def look(self) -> bytes:
        """Take what has come, answer what TLS itself has to; everything received up to now."""
        octets = self.wire.read()
        self.wire.got.clear()
        self.server.take(octets)
        self.flush(self.server.out())
        self.server.take(b"")
        return self.server.got

    def flush(self, octets: bytes) -> None:
        if octets:
            self.wire.socket.sendall(octets)


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
