"""Certificates replaced in their files while clients come and go: no handshake fails, nobody is cut off."""

from __future__ import annotations

import socket
import ssl
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import TracebackType

import pytest

from tests.e2e.fronts import backend, location
from tests.e2e.programs import PATIENCE, Program, Programs, free_port, until, write_config
from tests.e2e.streams import connect
from tests.tlspeers import Made, make

HASTY = (
    "import sys; from rproxy.services import certificates; certificates.LOOK_EVERY = 0.05;"
    " from rproxy.command import main; sys.exit(main())"
)
"""The program as it is, but for the five seconds between two looks at the files."""
LEAST_SWAPS, LEAST_HANDSHAKES = 8, 600
NAME = "a.test"
REQUEST = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"
ANSWER = b"\r\n\r\n0 bytes, whole"
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


def serial(client: ssl.SSLSocket) -> int:
    """Of the certificate that the client has been shown."""
    shown = client.getpeercert()
    assert shown is not None
    return int(str(shown["serialNumber"]), 16)


def ask(client: socket.socket) -> bool:
    """Whether a request is answered as it should be."""
    client.sendall(REQUEST)
    answer = b""
    while not answer.endswith(ANSWER) and (data := client.recv(1 << 16)):
        answer += data
    return answer.startswith(b"HTTP/1.1 200 OK\r\n") and answer.endswith(ANSWER)


class Shop:
    """rproxy with a certificate in two files, and what has been in them."""

    def __init__(self, programs: Programs, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.authority = make(ca=True)
        self.certificates = [make(NAME, key=kind, issuer=self.authority) for kind in ("ec", "rsa", "p384")]
        self.place(self.certificates[0])
        peer = location(backend(programs, "bulk_server").port)
        write_config(
            folder / "rproxy.toml",
            self.port,
            f'[apps.shop]\nserver_name = "{NAME}"\nreverse_proxy = {{ upstream = [{peer}] }}\n'
            'tls = { tls_cert_path = "site.pem", tls_cert_key_path = "site.key" }\n',
        )
        words = [sys.executable, "-c", HASTY, "run", "--config", folder / "rproxy.toml"]
        self.proxy: Program = programs.start(words, "rproxy")
        self.proxy.says("rproxy listens on")

    def place(self, made: Made) -> None:
        """Write the certificate and then its key, as tools do; in between they do not fit."""
        made.write(self.folder, "site")


class Visitors:
    """Clients that come, check the certificate, ask and leave, over and over while entered.

    Two speak TLS 1.2 and two 1.3; one of each goes on with the session of its last visit.
    """

    def __init__(self, shop: Shop) -> None:
        self._port, self._over = shop.port, threading.Event()
        self._authority = shop.authority.pem.decode()
        self.handshakes: Counter[str] = Counter()
        self.shown: Counter[int] = Counter()
        self.failures: list[str] = []
        self._threads = [
            threading.Thread(target=self._come, args=(version, resumes), daemon=True)
            for version in VERSIONS
            for resumes in (False, True)
        ]

    @property
    def count(self) -> int:
        return sum(self.handshakes.values())

    def context(self, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
        """One that believes the authority of the certificates and no other."""
        context = ssl.create_default_context(cadata=self._authority)
        context.minimum_version = context.maximum_version = version
        return context

    def __enter__(self) -> Visitors:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(PATIENCE)

    def _come(self, version: ssl.TLSVersion, resumes: bool) -> None:
        context, session = self.context(version), None
        while not self._over.is_set():
            try:
                session = self._visit(context, session) if resumes else self._visit(context, None) and None
            except OSError as problem:  # an SSLError is one
                self.failures.append(f"{version.name}, resumes={resumes}: {problem!r}")

    def _visit(self, context: ssl.SSLContext, session: ssl.SSLSession | None) -> ssl.SSLSession | None:
        plain = connect(self._port)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # as of every browser
        with context.wrap_socket(plain, server_hostname=NAME, session=session) as client:
            self.handshakes[f"{client.version()} {'resumed' if client.session_reused else 'full'}"] += 1
            if not client.session_reused:  # else it is the one of the visit before
                self.shown[serial(client)] += 1
            if not ask(client):
                self.failures.append("a request failed")
            return client.session


@pytest.fixture
def shop(programs: Programs, tmp_path: Path) -> Shop:
    return Shop(programs, tmp_path)


def test_no_handshake_fails_while_certificates_are_swapped(shop: Shop) -> None:
    """Every one of them is shown, and who was there before the first swap stays until after the last."""
    visitors, swaps = Visitors(shop), 0
    plain = connect(shop.port)
    with visitors.context().wrap_socket(plain, server_hostname=NAME) as kept, visitors:
        while swaps < LEAST_SWAPS or visitors.count < LEAST_HANDSHAKES:
            time.sleep(0.1)  # for visits between two swaps
            swaps += 1
            made = shop.certificates[swaps % len(shop.certificates)]
            number, before = made.certificate.serial_number, visitors.shown.copy()
            shop.place(made)
            until(lambda: visitors.shown[number] > before[number], "the new one is shown")  # noqa: B023
            assert ask(kept), "the connection that was there first"
        assert serial(kept) == shop.certificates[0].certificate.serial_number
    print(f"{swaps} swaps, {dict(visitors.handshakes)}")
    assert visitors.failures == []
    assert set(visitors.shown) == {made.certificate.serial_number for made in shop.certificates}
    assert len(visitors.handshakes) == 4, "full and resumed ones of both versions"
    assert shop.proxy.log.count("shop has a new certificate") == swaps


def test_no_handshake_fails_while_the_files_are_broken(shop: Shop) -> None:
    """A key that does not fit, half a file, none: the old certificate stays, and the log says why."""
    first, second = (made.certificate.serial_number for made in shop.certificates[:2])
    with Visitors(shop) as visitors:
        for times, breaking in enumerate((shop.certificates[1].pem, shop.certificates[0].pem[:100], b""), 1):
            (shop.folder / "site.pem").write_bytes(breaking)
            shop.proxy.says("the new certificate of shop is not used", times)
        (shop.folder / "site.pem").unlink()
        before = visitors.count
        until(lambda: visitors.count > before + 50, "visits without a file")
        assert set(visitors.shown) == {first}
        shop.place(shop.certificates[1])
        until(lambda: visitors.shown[second], "the new one is shown")
    assert visitors.failures == []
