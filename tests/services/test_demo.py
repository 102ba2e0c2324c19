"""The demo backend says what arrived: clear or TLS, with a PROXY header or without."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from pytest_twisted import async_yield_fixture, ensureDeferred
from twisted.internet import reactor
from twisted.internet.address import IPv4Address
from twisted.internet.defer import maybeDeferred
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from rproxy.services.demo import MOST_HEAD, PATIENCE, Demo, DemoFactory
from rproxy.wire.address import Inet
from rproxy.wire.proxyheader import encode_v1, encode_v2
from tests.fakes import Wire, open_files, turn, until

PLACE = IPv4Address("TCP", "127.0.0.1", 40000)
CLIENT, TARGET = Inet("192.0.2.7", 1234), Inet("198.51.100.1", 443)
REQUEST = b"GET /x HTTP/1.1\r\nHost: app.localhost\r\n\r\n"


class Visit:
    """One connection to the demo, in memory."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.transport = StringTransport(peerAddress=PLACE)
        self.protocol: Any = DemoFactory(self.clock).buildProtocol(PLACE)
        self.protocol.makeConnection(self.transport)

    def send(self, *pieces: bytes) -> str:
        for piece in pieces:
            self.protocol.dataReceived(piece)
        return self.transport.value().decode()

    def close(self) -> None:
        self.protocol.connectionLost(None)
        assert self.clock.getDelayedCalls() == []


@pytest.fixture
def visit() -> Iterator[Visit]:
    visit = Visit()
    yield visit
    visit.close()


def shown(answer: str, field: str) -> str:
    (line,) = [line for line in answer.splitlines() if line.strip().startswith(field)]
    return line.split(maxsplit=1)[1]


def test_behind_http_it_shows_what_the_forwarding_fields_say(visit: Visit) -> None:
    fields = b"Host: a.localhost\r\nX-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: https\r\n\r\n"
    answer = visit.send(b"GET / HTTP/1.1\r\n" + fields)
    assert shown(answer, "client") == "192.0.2.7 (X-Forwarded-For)"
    assert shown(answer, "protocol") == "clear text, after https"


def test_it_answers_what_it_saw(visit: Visit) -> None:
    answer = visit.send(REQUEST)
    head, body = answer.split("\r\n\r\n")
    assert head.startswith("HTTP/1.1 200 OK\r\n")
    assert f"Content-Length: {len(body)}" in head
    assert visit.transport.disconnecting
    assert [shown(body, field) for field in ("name", "client", "protocol", "request")] == [
        "app.localhost",
        "127.0.0.1:40000 (no PROXY header)",
        "clear text",
        "GET /x HTTP/1.1",
    ]


@pytest.mark.parametrize(
    ("header", "seen"),
    [
        (encode_v1(CLIENT, TARGET), "192.0.2.7:1234, which connected to 198.51.100.1:443 (PROXY v1 header)"),
        (encode_v2(CLIENT, TARGET), "192.0.2.7:1234, which connected to 198.51.100.1:443 (PROXY v2 header)"),
        (b"PROXY UNKNOWN\r\n", "127.0.0.1:40000 (PROXY v1 header without addresses)"),
    ],
)
def test_it_shows_the_header_however_it_is_cut(header: bytes, seen: str) -> None:
    octets = header + REQUEST
    for at in range(1, len(octets)):
        visit = Visit()
        assert shown(visit.send(octets[:at], octets[at:]), "client") == seen
        visit.close()


def test_a_malformed_header_is_closed(visit: Visit) -> None:
    assert visit.send(b"PROXY nonsense\r\n") == ""
    assert visit.transport.disconnecting


def test_a_head_that_does_not_end_is_closed(visit: Visit) -> None:
    visit.send(b"GET / HTTP/1.1\r\n" + b"x" * MOST_HEAD)
    assert visit.transport.disconnecting


def test_a_visitor_that_says_nothing_is_sent_away(visit: Visit) -> None:
    visit.clock.advance(PATIENCE)
    assert visit.transport.disconnected


def test_what_is_not_ascii_is_escaped(visit: Visit) -> None:
    assert shown(visit.send(b"GET /\xff HTTP/1.1\r\n\r\n"), "request") == "GET /\\xff HTTP/1.1"


@async_yield_fixture()  # type: ignore[untyped-decorator]
async def demo() -> AsyncIterator[Demo]:
    files = open_files()
    demo = Demo(reactor)
    demo.startService()
    yield demo
    await maybeDeferred(demo.stopService)
    await until(lambda: open_files() <= files)


@ensureDeferred
async def test_it_listens_on_loopback_from_the_moment_it_is_made(demo: Demo) -> None:
    family, place = demo.target
    assert (family, place[0]) == (socket.AF_INET, "127.0.0.1")
    wire = Wire.to(place)
    await wire.send(REQUEST)
    assert await wire.ends() == "eof"
    assert b"app.localhost" in wire.got
    wire.close()


@ensureDeferred
@pytest.mark.parametrize("header", [b"", encode_v2(CLIENT, TARGET)])
async def test_it_speaks_tls_under_any_name(demo: Demo, header: bytes) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2", "http/1.1"])
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname="a.localhost")
    wire = Wire.to(demo.target[1])
    await wire.send(header)

    async def exchange(step: Any) -> Any:
        while True:
            try:
                done = step()
            except ssl.SSLWantReadError:
                done = None
            await wire.send(outgoing.read())
            if done is not None:
                return done
            wire.read()
            incoming.write(bytes(wire.got))
            wire.got.clear()
            await turn()

    await exchange(lambda: tls.do_handshake() or True)
    assert tls.selected_alpn_protocol() == "http/1.1"
    await exchange(lambda: tls.write(REQUEST))
    answer = (await exchange(lambda: tls.read(5000))).decode()
    assert shown(answer, "name") == "a.localhost"
    assert shown(answer, "protocol").startswith("TLSv1.")
    wire.close()


def test_stopping_one_that_never_started_is_nothing() -> None:
    demo = Demo(reactor)
    assert demo.stopService() is None
    demo._socket.close()
