"""Renewals while the proxy is busy: nobody notices one."""

from __future__ import annotations

import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.e2e.conftest import Peer
from tests.e2e.pebble import Pebble, app, await_served, get, is_served
from tests.e2e.programs import PATIENCE, Programs, free_port, until

LIFE = 40
"""Seconds that a certificate is good; it is renewed after half of them."""
REQUEST = b"GET / HTTP/1.1\r\nHost: one.example\r\n\r\n"


class Visitors:
    """Threads that shake hands and ask, over and over; any failure is kept."""

    def __init__(self, port: int, trusting: ssl.SSLContext) -> None:
        self._port, self._trusting = port, trusting
        self._over = threading.Event()
        self.handshakes = self.requests = 0
        self.serials: list[str] = []
        self.failures: list[BaseException] = []
        self._threads = [
            threading.Thread(target=self._run, args=(work,)) for work in (self._come, self._stay)
        ]

    def __enter__(self) -> Visitors:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(PATIENCE)

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as failure:
            self.failures.append(failure)

    def _come(self) -> None:
        while not self._over.wait(0.01):
            shown, response = get(self._port, "one.example", self._trusting)
            assert response.startswith(b"HTTP/1.1 200 ")
            self.handshakes += 1
            if shown["serialNumber"] not in self.serials:
                self.serials.append(shown["serialNumber"])

    def _stay(self) -> None:
        with (
            socket.create_connection(("127.0.0.1", self._port), PATIENCE) as plain,
            self._trusting.wrap_socket(plain, server_hostname="one.example") as stream,
        ):
            while not self._over.wait(0.05):
                stream.sendall(REQUEST)
                _read_response(stream)
                self.requests += 1


def _read_response(stream: ssl.SSLSocket) -> None:
    received = b""
    while b"\r\n\r\n" not in received:
        received += stream.recv(65536) or _ended()
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    size = int(head.lower().partition(b"content-length:")[2].split()[0])
    while len(body) < size:
        body += stream.recv(65536) or _ended()


def _ended() -> bytes:
    raise EOFError("the kept-alive connection ended")


@contextmanager
def taking(seconds: int) -> Iterator[None]:
    """This test takes longer than others may."""
    signal.alarm(seconds)
    yield


def test_three_renewals_under_load_disturb_nobody(programs: Programs, peer: Peer) -> None:
    port = free_port()
    authority = Pebble(programs, peer("pebble"), port, certificateValidityPeriod=LIFE).start()
    proxy = programs.rproxy(app("one") + authority.table(), port=port)
    trusting = authority.root()
    await_served(proxy, port, "one.example", trusting)
    with taking(150), Visitors(port, trusting) as visitors:
        began = time.monotonic()
        until(
            lambda: (len(visitors.serials) >= 4 and visitors.handshakes >= 2000) or visitors.failures,
            f"three renewals: {proxy.log[-3000:]}",
            120,
        )
    print(
        f"{visitors.handshakes} handshakes, {visitors.requests} requests kept alive, "
        f"{len(visitors.serials)} certificates, {time.monotonic() - began:.0f} s"
    )
    assert visitors.failures == []
    assert len(visitors.serials) >= 4


NAMES = 20
SHORT_LIFE = 20
PACE = 0.004
"""Seconds between two requests that feel how long the proxy attends to nothing else."""
STALL = 0.1
"""Seconds that 99 of 100 of them may take where an authority, other tests and the proxy share two cores."""
SOON = 1.0
"""Seconds from the authority's signature to the first handshake that shows it."""


def test_twenty_renewals_at_a_time_stall_nobody(programs: Programs, peer: Peer) -> None:
    port, clear = free_port(), free_port()
    authority = Pebble(programs, peer("pebble"), port, certificateValidityPeriod=SHORT_LIFE).start()
    apps = "".join(app(f"n{number}") for number in range(NAMES))
    programs.rproxy(f"listen_port = {clear}\n{apps}{authority.table()}", port=port)
    took: list[float] = []
    with taking(60), socket.create_connection(("127.0.0.1", clear), PATIENCE) as stream:
        end = time.monotonic() + SHORT_LIFE
        while time.monotonic() < end:
            asked = time.monotonic()
            stream.sendall(b"GET / HTTP/1.1\r\nHost: nobody.test\r\n\r\n")
            assert stream.recv(65536).startswith(b"HTTP/1.1 404 ")
            took.append(time.monotonic() - asked)
            time.sleep(PACE)
    took.sort()
    usual, slow, most = (1e3 * took[int(len(took) * part)] for part in (0.5, 0.99, 0.99999))
    print(f"{len(took)} requests: p50 {usual:.2f} ms, p99 {slow:.2f} ms, at most {most:.2f} ms")
    assert authority.log.count("Issued certificate") >= 2 * NAMES
    assert slow < 1e3 * STALL


def test_a_certificate_is_served_as_soon_as_it_is_signed(programs: Programs, peer: Peer) -> None:
    port = free_port()
    authority = Pebble(programs, peer("pebble"), port).start()
    programs.rproxy(app("one") + authority.table(), port=port)
    trusting = authority.root()
    until(lambda: "Issued certificate" in authority.log, "a signature")
    signed = time.monotonic()
    until(lambda: is_served(port, "one.example", trusting), "a handshake")
    print(f"{1e3 * (time.monotonic() - signed):.0f} ms")
    assert time.monotonic() - signed < SOON
