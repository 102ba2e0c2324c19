"""Whose requests a connection may carry: names that share it in HTTP/2, and names that do not.

RFC 9113 §9.1.1 lets browsers use a connection for every name that its certificate is good for.
"""

from __future__ import annotations

import signal
import socket
import ssl
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.attackers import Origin, Stage, ask, keys_of
from tests.e2e.http2_right import answered
from tests.e2e.http2_wire import Wire, dial, trusting
from tests.e2e.peers import Certificate
from tests.e2e.programs import Programs
from tests.e2e.streams import connect
from tests.wire.http2_talk import GOAWAY, HEADERS, RST, block, frame


@pytest.fixture(scope="module")
def third() -> Iterator[Origin]:
    made = Origin("c.test")
    yield made
    made.backend.end()


@pytest.fixture(scope="module")
def stage(lasting_programs: Programs, certificate: Certificate, third: Origin) -> Iterator[Stage]:
    """The certificate is good for all names but for those of two labels before `wild` and for bare.test."""
    app = (
        f'[apps.c]\nserver_name = ["c.test", "*.wild.test", "bare.test"]\n{keys_of(certificate)}'
        f"https_redirection = false\nreverse_proxy = [{{ upstream = [{third.backend.location}] }}]\n"
    )
    made = Stage(lasting_programs, certificate, more=app)
    yield made
    made.end()


def request(stream: int, authority: bytes, path: bytes = b"/x") -> bytes:
    pairs = [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", authority), (b":path", path)]
    return frame(HEADERS, 5, stream, block(pairs))


def statuses(wire: Wire, count: int) -> dict[int, int]:
    """The status on each stream, 0 for one that was reset."""
    found: dict[int, int] = {}
    while len(found) < count:
        one = wire.want()
        assert one.kind != GOAWAY, one
        if one.kind == HEADERS:
            found[one.stream] = int(dict(wire.fields(one))[b":status"])
        elif one.kind == RST:
            found.setdefault(one.stream, 0)
    return found


def ask_for(wire: Wire, *authorities: bytes) -> list[int]:
    """The statuses of requests for these names, all asked for at once."""
    wire.send(b"".join(request(2 * number + 1, name) for number, name in enumerate(authorities)))
    found = statuses(wire, len(authorities))
    return [found[stream] for stream in sorted(found)]


# -- names


def test_the_names_of_one_app_share_a_connection_as_far_as_its_certificate_goes(stage: Stage) -> None:
    wire = dial(stage.tls.port, "c.test").greet()
    with wire.socket:
        names = [
            b"c.test",
            b"x.wild.test",
            b"C.Test",
            b"c.test:8443",
            b"y.x.wild.test",
            b"bare.test",
            b"Y.wild.test",
        ]
        assert ask_for(wire, *names) == [200, 200, 200, 200, 421, 421, 200]


def test_another_apps_name_is_misdirected_and_the_connection_goes_on(stage: Stage) -> None:
    """Although the certificate is good for it: the other app's origin hears nothing."""
    stage.forget()
    wire = dial(stage.tls.port, "a.test").greet()
    with wire.socket:
        assert ask_for(wire, b"a.test", b"b.test", b"c.test", b"a.test", b"unknown.test") == [
            200,
            421,
            421,
            200,
            421,
        ]
        wire.send(request(21, b"a.test"))
        answered(wire, 21)
    assert (len(stage.a.asked), stage.b.raw) == (3, b"")


def test_in_clear_text_any_name_may_be_asked_for(stage: Stage) -> None:
    wire = dial(stage.clear.port).greet()
    with wire.socket:
        assert ask_for(wire, b"a.test", b"b.test", b"unknown.test", b"bare.test") == [200, 200, 404, 200]


def test_the_check_can_be_turned_off(programs: Programs, certificate: Certificate) -> None:
    made = Stage(programs, certificate, general="experimental = { ignore_sni_consistency = true }")
    try:
        wire = dial(made.tls.port, "a.test").greet()
        with wire.socket:
            assert ask_for(wire, b"a.test", b"b.test", b"unknown.test") == [200, 200, 404]
        assert made.b.targets == [b"/x"]
    finally:
        made.end()


SPELLINGS = [
    b"a.test",
    b"A.TEST",
    b"a.test.",
    b"a.test:443",
    b"a.test:0",
    b"a.test:",
    b"a.test:x",
    b"a",
    b"b.test",
    b"x.wild.test",
    b"*.wild.test",
    b"xn--.test",
    b"%61.test",
    b"a..test",
    b".a.test",
    b"127.0.0.1",
    b"[::1]",
    b"a.test,b.test",
    b"b.test@a.test",
    b"a.test/",
    b"\xe4.test",
]


@pytest.mark.parametrize("front", ["clear", "tls"])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_both_versions_find_the_same_app_by_any_spelling(stage: Stage, front: str, spelling: bytes) -> None:
    wire = dial(stage.fronts[front].port, "a.test" if front == "tls" else "").greet()
    with wire.socket:
        (two,) = ask_for(wire, spelling)
    (one,) = stage.fronts[front].say(ask(b"/x", b"Connection: close", host=spelling))
    assert one.status == (two or 400)


# -- handshakes


class Records:
    """A connection inside TLS, in the place of a socket, whose hello goes out in records of this size."""

    def __init__(self, port: int, name: str, size: int) -> None:
        self._got, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = trusting("h2", "http/1.1").wrap_bio(self._got, self._out, server_hostname=name)
        self._plain, self._size = connect(port), size
        self._until(self.tls.do_handshake)

    def _until(self, step: Any, *arguments: Any) -> Any:
        while True:
            try:
                return step(*arguments)
            except ssl.SSLWantReadError:
                self._flush()
                self._got.write(self._plain.recv(1 << 16))

    def _flush(self) -> None:
        out = self._out.read()
        if self._size and out[:1] == b"\x16":
            parts = [out[5:][at : at + self._size] for at in range(0, len(out) - 5, self._size)]
            out, self._size = b"".join(out[:3] + len(part).to_bytes(2, "big") + part for part in parts), 0
        self._plain.sendall(out)

    def sendall(self, octets: bytes) -> None:
        self.tls.write(octets)
        self._flush()

    def recv(self, size: int) -> bytes:
        return bytes(self._until(self.tls.read, size))

    def settimeout(self, seconds: float) -> None:
        self._plain.settimeout(seconds)

    def setsockopt(self, *options: int) -> None:
        self._plain.setsockopt(*options)

    def close(self) -> None:
        self._plain.close()


@pytest.mark.parametrize("size", [1, 4, 7, 100, 5000])
def test_a_hello_in_pieces_agrees_on_http_2_and_on_its_own_app(stage: Stage, size: int) -> None:
    records: Any = Records(stage.tls.port, "b.test", size)
    assert records.tls.selected_alpn_protocol() == "h2"
    assert ask_for(Wire(records).greet(), b"b.test", b"a.test") == [200, 421]
    records.close()


def test_who_offers_a_challenge_beside_http_2_gets_http_2(stage: Stage) -> None:
    for offered, agreed in (
        (["acme-tls/1", "h2"], "h2"),
        (["http/1.1", "h2"], "h2"),
        (["http/1.1"], "http/1.1"),
    ):
        with trusting(*offered).wrap_socket(connect(stage.tls.port), server_hostname="a.test") as client:
            assert client.selected_alpn_protocol() == agreed
    for offered in (["acme-tls/1"], ["h3"], ["h2c"]):
        with pytest.raises(ssl.SSLError, match=r"(?i)no.application.protocol"):
            trusting(*offered).wrap_socket(connect(stage.tls.port), server_hostname="a.test")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_ticket_of_one_app_opens_no_other(stage: Stage, version: ssl.TLSVersion) -> None:
    """Nor after a reload (CVE-2025-23419 is that it did in nginx)."""
    context = trusting("h2")
    context.minimum_version = context.maximum_version = version

    def visit(name: str, ticket: ssl.SSLSession | None = None) -> tuple[bool, ssl.SSLSession | None]:
        plain: socket.socket = connect(stage.tls.port)
        client = context.wrap_socket(plain, server_hostname=name, session=ticket)
        with client:
            assert ask_for(Wire(client).greet(), name.encode(), b"c.test") == [200, 421]
            return bool(client.session_reused), client.session

    _, ticket = visit("a.test")
    assert ticket is not None
    assert visit("a.test", ticket)[0]
    assert not visit("b.test", ticket)[0]
    times = stage.proxy.log.count("reloaded ") + 1
    stage.proxy.signal(signal.SIGHUP)
    stage.proxy.says("reloaded ", times)
    assert not visit("b.test", ticket)[0]
    assert visit("a.test", visit("a.test")[1])[0]
