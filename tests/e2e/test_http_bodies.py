"""Bodies of any size: they pass whole in both directions, and neither speed nor size costs memory."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from io import BufferedReader

import pytest

from tests.e2e.bulk_server import BLOCK, PATTERN, body_of, framing, read_head, send_body
from tests.e2e.conftest import Serving
from tests.e2e.fronts import SCHEMES, Front, Growth, backend, location
from tests.e2e.peers import Certificate
from tests.e2e.programs import PATIENCE, Programs, until

LARGE, MIDDLING, PIECE = 2 << 30, 64 << 20, 1 << 16
MOST_UNDER_WAY = 32 << 20
"""Bytes that are on the way at the most: in our buffers, those of the kernel for two connections, a pipe."""
STILL = 0.5
"""Seconds without a byte after which nobody sends any more."""
UNLIMITED = 'request_max_body_size = "unlimited"'


@pytest.fixture(scope="module")
def front(lasting_programs: Programs) -> Front:
    """A proxy before the program that makes and takes bodies; it has answered on both ports."""
    port = backend(lasting_programs, "bulk_server").port
    front = Front(lasting_programs, location(port), more=UNLIMITED)
    for scheme in SCHEMES:
        download(front, scheme, "length", BLOCK)
    return front


def download(front: Front, scheme: str, kind: str, size: int, version: bytes = b"1.1") -> str:
    """What a client that reads as fast as it can makes of `size` bytes."""
    with front.connect(scheme) as client, client.makefile("rb") as reader:
        client.sendall(b"GET /%b/%d HTTP/%b\r\nHost: a.test\r\n\r\n" % (kind.encode(), size, version))
        return str(body_of(reader, read_head(reader)[1]))


def upload(front: Front, scheme: str, kind: str, size: int) -> str:
    """What the backend makes of `size` bytes."""
    with front.connect(scheme) as client, client.makefile("rb") as reader:
        client.sendall(b"POST / HTTP/1.1\r\nHost: a.test\r\n%b\r\n" % framing(kind, size))
        send_body(client, size, kind == "chunked")
        return text_of(reader)


def text_of(reader: BufferedReader) -> str:
    """The body of a small response."""
    return reader.read(int(read_head(reader)[1][b"content-length"])).decode()


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("move", [download, upload])
def test_two_gibibytes_pass_whole_and_are_not_held(
    front: Front, move: Callable[..., str], scheme: str
) -> None:
    with Growth(front.proxy) as growth:
        assert move(front, scheme, "length", LARGE) == f"{LARGE} bytes, whole"
    assert growth.by < Growth.MOST


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("move", [download, upload])
def test_chunks_pass_whole_and_are_not_held(front: Front, move: Callable[..., str], scheme: str) -> None:
    size = MIDDLING + 12345
    with Growth(front.proxy) as growth:
        assert move(front, scheme, "chunked", size) == f"{size} bytes, whole"
    assert growth.by < Growth.MOST


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(("kind", "version"), [("close", b"1.1"), ("close", b"1.0"), ("chunked", b"1.0")])
def test_a_body_without_length_passes_whole_and_is_not_held(
    front: Front, scheme: str, kind: str, version: bytes
) -> None:
    size = MIDDLING + 12345
    with Growth(front.proxy) as growth:
        assert download(front, scheme, kind, size, version) == f"{size} bytes, whole"
    assert growth.by < Growth.MOST


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_peer_behind_tls_makes_no_difference(
    programs: Programs, certificate: Certificate, scheme: str
) -> None:
    port = backend(programs, "bulk_server", certificate.certificate, certificate.key).port
    secret = f', tls = true, tls_server_name = "a.test", tls_ca_path = "{certificate.certificate}"'
    front = Front(programs, location(port, secret), more=UNLIMITED)
    download(front, scheme, "length", BLOCK)
    with Growth(front.proxy) as growth:
        for move in (download, upload):
            for kind in ("length", "chunked"):
                assert move(front, scheme, kind, MIDDLING) == f"{MIDDLING} bytes, whole"
    assert growth.by < Growth.MOST


class Sending:
    """`MIDDLING` bytes of the pattern on their way into a socket, in small pieces that are counted."""

    def __init__(self) -> None:
        self.sent = 0

    def send(self, stream: socket.socket, kind: str) -> None:
        """All of them, as fast as they are taken."""
        for start in range(0, MIDDLING, PIECE):
            piece = PATTERN[start % BLOCK :][:PIECE]
            stream.sendall(b"%x\r\n%b\r\n" % (PIECE, piece) if kind == "chunked" else piece)
            self.sent += PIECE
        stream.sendall(b"0\r\n\r\n" if kind == "chunked" else b"")

    def stopped_at(self) -> int:
        """How many had been sent when no more were taken."""
        until(lambda: self.sent, "the first bytes are taken")
        seen, since = 0, time.monotonic()
        while time.monotonic() - since < STILL:
            if self.sent != seen:
                seen, since = self.sent, time.monotonic()
            time.sleep(0.02)
        return seen


@pytest.mark.parametrize("kind", ["length", "chunked"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_client_that_stalls_holds_the_backend_up_not_the_memory(
    programs: Programs, serving: Serving, scheme: str, kind: str
) -> None:
    sending = Sending()

    def serve(stream: socket.socket) -> None:
        with stream.makefile("rb") as reader:
            read_head(reader)
        stream.sendall(b"HTTP/1.1 200 OK\r\n%b\r\n" % framing(kind, MIDDLING))
        sending.send(stream, kind)

    front = Front(programs, serving(serve).location)
    with Growth(front.proxy) as growth, front.connect(scheme) as client, client.makefile("rb") as reader:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
        fields = read_head(reader)[1]
        assert 0 < sending.stopped_at() < MOST_UNDER_WAY
        assert str(body_of(reader, fields)) == f"{MIDDLING} bytes, whole"
    assert growth.by < Growth.MOST


@pytest.mark.parametrize("kind", ["length", "chunked"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_backend_that_stalls_holds_the_client_up_not_the_memory(
    programs: Programs, serving: Serving, scheme: str, kind: str
) -> None:
    sending, goes_on = Sending(), threading.Event()

    def serve(stream: socket.socket) -> None:
        with stream.makefile("rb") as reader:
            fields = read_head(reader)[1]
            goes_on.wait(PATIENCE)
            said = str(body_of(reader, fields)).encode()
        stream.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(said), said))

    front = Front(programs, serving(serve).location)
    with Growth(front.proxy) as growth, front.connect(scheme) as client, client.makefile("rb") as reader:
        client.sendall(b"POST / HTTP/1.1\r\nHost: a.test\r\n%b\r\n" % framing(kind, MIDDLING))
        sender = threading.Thread(target=sending.send, args=(client, kind), daemon=True)
        sender.start()
        assert 0 < sending.stopped_at() < MOST_UNDER_WAY
        goes_on.set()
        sender.join(PATIENCE)  # before we read: OpenSSL allows one thread at a time
        assert text_of(reader) == f"{MIDDLING} bytes, whole"
    assert growth.by < Growth.MOST
