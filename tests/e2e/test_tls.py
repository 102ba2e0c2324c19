"""TLS over sockets with peers that are not ours: OpenSSL's s_client and the stdlib's client."""

from __future__ import annotations

import hashlib
import re
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from pytest_twisted import ensureDeferred
from twisted.internet import reactor
from twisted.internet.interfaces import IProtocolFactory
from twisted.internet.protocol import Protocol
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from rproxy.deadlines import Deadlines
from rproxy.downstream.admission import Admission
from rproxy.downstream.peek import PeekFactory
from rproxy.downstream.terminate import HTTP1, Terminate
from rproxy.interfaces import Arrival, Lease
from rproxy.services import certificates
from rproxy.services.certificates import Certificates, Files, Site
from rproxy.upstream.tls import client_options
from rproxy.wire.address import Address
from tests.fakes import Journal, turn, until
from tests.tlspeers import Inner, Inners, listening, make, s_client, trusting_nobody

EC, RSA, OTHER = make("example.org"), make("example.org", key="rsa"), make("other.example", number=1)


DER = Encoding.DER


class NoLimits(Admission):
    def admit(self, lease: Lease) -> None:
        pass

    def admit_client(self, client: Address, lease: Lease) -> None:
        pass


@dataclass
class Served:
    """A TLS port on this machine with two apps."""

    port: int
    inners: Inners
    watch: Certificates
    sites: dict[str, Site]
    directory: Path

    def socket(self, name: str = "example.org", context: ssl.SSLContext | None = None) -> ssl.SSLSocket:
        """Connects and shakes hands; for threads, it blocks."""
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        return (context or trusting_nobody("http/1.1")).wrap_socket(plain, server_hostname=name)


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setattr(certificates, "LOOK_EVERY", 0.01)
    watch, inners, deadlines = Certificates(reactor), Inners(), Deadlines(reactor)
    files = {
        "example.org": Files((EC.write(tmp_path, "ec"), RSA.write(tmp_path, "rsa"))),
        "other.example": Files((OTHER.write(tmp_path, "other"),)),
    }
    sites = {name: watch.site(name, source, [name]) for name, source in files.items()}
    routes = {name: Terminate(site, inners, (HTTP1,), deadlines) for name, site in sites.items()}

    def route(arrival: Arrival) -> IProtocolFactory:
        return routes[arrival.server_name or ""]

    register: Any = set()
    factory = PeekFactory(reactor, "tls", route, NoLimits(), register, Journal(), deadlines)
    watch.startService()
    with listening(factory) as port:
        yield Served(port, inners, watch, sites, tmp_path)
    watch.stopService()


NAME = ("-servername", "example.org")


@ensureDeferred
async def test_tls_1_2_and_1_3_are_spoken_without_compression(served: Served) -> None:
    for version, words in (
        ("-tls1_2", "New, TLSv1.2, Cipher is ECDHE-"),
        ("-tls1_3", "New, TLSv1.3, Cipher"),
    ):
        said = await s_client(served.port, *NAME, version, "-alpn", "http/1.1")
        assert words in said
        assert "ALPN protocol: http/1.1" in said
        assert "Compression: NONE" in said


@ensureDeferred
async def test_older_versions_and_fallbacks_are_not(served: Served) -> None:
    old = ("-cipher", "ALL:@SECLEVEL=0")
    for version in ("-tls1", "-tls1_1"):
        assert "alert protocol version" in await s_client(served.port, *NAME, version, *old)
    assert "inappropriate fallback" in await s_client(served.port, *NAME, "-tls1_2", "-fallback_scsv")


@ensureDeferred
async def test_only_intermediate_ciphers_and_groups_are_spoken(served: Served) -> None:
    for cipher in ("AES128-GCM-SHA256", "DHE-RSA-AES128-GCM-SHA256", "ECDHE-RSA-AES128-SHA", "NULL"):
        said = await s_client(served.port, *NAME, "-tls1_2", "-cipher", f"{cipher}:@SECLEVEL=0")
        assert "Cipher is (NONE)" in said, cipher
    for group, spoken in (
        ("X25519", True),
        ("P-256", True),
        ("P-384", True),
        ("P-521", False),
        ("X448", False),
    ):
        said = await s_client(served.port, *NAME, "-tls1_3", "-groups", group)
        assert ("Cipher is TLS_" in said) is spoken, group


@ensureDeferred
async def test_the_clients_signature_algorithms_choose_the_certificate(served: Served) -> None:
    for algorithm, words in (("ecdsa_secp256r1_sha256", "ECDSA"), ("rsa_pss_rsae_sha256", "RSA-PSS")):
        said = await s_client(served.port, *NAME, "-sigalgs", algorithm)
        assert f"Peer signature type: {words}" in said


@ensureDeferred
async def test_renegotiation_is_refused(served: Served) -> None:
    said = await s_client(served.port, *NAME, "-tls1_2", stdin="R\n")
    assert "RENEGOTIATING" in said
    assert "no renegotiation" in said


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
@ensureDeferred
async def test_a_ticket_resumes_its_own_name_and_no_other(served: Served, version: str) -> None:
    ticket = str(served.directory / "ticket")
    # -ign_eof waits for the tickets, which in TLS 1.3 come behind the handshake; the peer then closes.
    served.inners.build = Closing
    said = await s_client(served.port, *NAME, version, "-ign_eof", "-sess_out", ticket, stdin="x")
    assert "New, " in said
    again = await s_client(served.port, *NAME, version, "-sess_in", ticket)
    assert "Reused, " in again
    elsewhere = await s_client(served.port, "-servername", "other.example", version, "-sess_in", ticket)
    assert "New, " in elsewhere
    assert "CN = other.example" in elsewhere or "CN=other.example" in elsewhere


class Closing(Inner):
    def dataReceived(self, data: bytes) -> None:
        super().dataReceived(data)
        self.transport.loseConnection()


@ensureDeferred
async def test_early_data_is_not_allowed(served: Served) -> None:
    served.inners.build = Closing
    said = await s_client(served.port, *NAME, "-tls1_3", "-ign_eof", stdin="x")
    assert set(re.findall(r"Max Early Data: (\d+)", said)) == {"0"}


SHAKE_200_TIMES = """
import socket, ssl, sys
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
context.maximum_version = ssl.TLSVersion.TLSv1_2
context.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256")
for _ in range(200):
    plain = socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=10)
    with context.wrap_socket(plain, server_hostname="example.org") as one:
        one.sendall(b"x")
        assert one.recv(1) == b"X"
        print(one.getpeercert(binary_form=True).hex())
"""


@ensureDeferred
async def test_certificates_are_swapped_under_200_handshakes(served: Served) -> None:
    """None fails, old and new are seen, and a connection that lives goes on."""
    kept = await deferToThread(served.socket)
    replacement = make("example.org", number=8)
    argv = [sys.executable, "-c", SHAKE_200_TIMES, str(served.port)]
    outcome: list[subprocess.CompletedProcess[str]] = []
    deferToThread(subprocess.run, argv, capture_output=True, text=True, timeout=60).addCallback(
        outcome.append
    )
    swaps = 0
    while not outcome:
        before = served.sites["example.org"].pairs
        (replacement, EC)[swaps % 2].write(served.directory, "ec")
        while not outcome and served.sites["example.org"].pairs == before:
            await deferLater(reactor, 0.002)
        swaps += 1
    (ended,) = outcome
    assert ended.stderr == ""
    seen = ended.stdout.split()
    assert len(seen) == 200
    assert set(seen) == {made.certificate.public_bytes(DER).hex() for made in (EC, replacement)}
    assert swaps > 4

    def still_works() -> bytes:
        kept.sendall(b"still here")
        return kept.recv(100)

    assert await deferToThread(still_works) == b"STILL HERE"
    await deferToThread(kept.close)


@ensureDeferred
async def test_a_client_that_does_not_read_holds_the_producer_up(served: Served) -> None:
    """64 MiB reach it whole, and what is kept for it meanwhile is bounded."""
    served.inners.build = Pouring
    slow = await deferToThread(served.socket)
    await deferToThread(slow.sendall, b"x")
    pouring: Pouring = await until(lambda: served.inners.built and served.inners.built[0])
    await until(lambda: pouring.paused)
    for _ in range(20):
        await turn()
    below: Any = pouring.transport.transport  # type: ignore[union-attr]
    assert pouring.left > Pouring.whole / 2
    assert len(below.dataBuffer) + below._tempDataLen < 1 << 20
    got = await deferToThread(_read_all, slow)
    assert got == Pouring.digest()
    assert pouring.left == 0


def _read_all(sock: ssl.SSLSocket) -> str:
    digest = hashlib.sha256()
    while octets := sock.recv(1 << 16):
        digest.update(octets)
    sock.close()
    return digest.hexdigest()


class Pouring(Protocol):
    """Writes 64 MiB as fast as it may, then closes."""

    whole = 64 << 20
    left = whole
    paused = running = False
    piece = bytes(range(256)) * 256

    def __init__(self, arrival: Any) -> None:
        pass

    @classmethod
    def digest(cls) -> str:
        return hashlib.sha256(cls.piece * (cls.whole // len(cls.piece))).hexdigest()

    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.registerProducer(self, True)  # type: ignore[attr-defined]
        self.resumeProducing()

    def resumeProducing(self) -> None:
        assert self.transport is not None
        self.paused = False
        if self.running:
            return
        self.running = True
        while self.left and not self.paused:
            self.left -= len(self.piece)
            self.transport.write(self.piece)
        self.running = False
        if not self.left:
            self.transport.loseConnection()

    def pauseProducing(self) -> None:
        self.paused = True

    def stopProducing(self) -> None:
        self.left = 0


@ensureDeferred
async def test_our_client_and_our_server_understand_each_other(served: Served) -> None:
    from twisted.internet.endpoints import TCP4ClientEndpoint

    options = client_options("example.org", ca_path=served.directory / "ec.pem")
    asking = Asking()

    class Building(Inners):
        def buildProtocol(self, addr: Any) -> Any:
            return options.wrap(asking)

    await TCP4ClientEndpoint(reactor, "127.0.0.1", served.port).connect(Building())
    await until(lambda: asking.octets == b"HELLO")
    asking.transport.loseConnection()  # type: ignore[union-attr]
    await until(lambda: asking.lost)


class Asking(Inner):
    def connectionMade(self) -> None:
        self.transport.write(b"hello")

    def dataReceived(self, data: bytes) -> None:
        self.octets += data
