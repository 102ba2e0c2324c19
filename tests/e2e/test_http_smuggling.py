"""Ambiguous requests through a running proxy: a backend sees one well-formed request for each, or none."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator

import pytest

from rproxy.wire.http1_fields import is_claim
from tests.e2e.programs import Programs, Proxy, free_port, until
from tests.e2e.streams import Backend, all_of, connect
from tests.wire.ambiguous_bodies import CHUNKS, CODINGS, LENGTHS
from tests.wire.ambiguous_heads import FIELDS, HOSTS, LINES
from tests.wire.reading import requests

ALL = [(row[1], row[-1]) for rows in (LENGTHS, CODINGS, CHUNKS, FIELDS, HOSTS, LINES) for row in rows]
ROWS = [row for row in ALL if not row[0].startswith(b"PRI * HTTP/2.0")]
"""But for what begins an HTTP/2 connection, and is tested as one."""
NEXT = b"GET /next-request HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
LAST = NEXT.replace(b"next-request", b"last")
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
FIELD = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+: [\t\x20-\x7e\x80-\xff]*")


class Recorder:
    """A backend that keeps every byte of each connection, and answers what is a complete request."""

    def __init__(self) -> None:
        self.connections: list[bytearray] = []
        self.lock, self.open = threading.Lock(), 0

    def serve(self, stream: socket.socket) -> None:
        seen = bytearray()
        with self.lock:
            self.connections.append(seen)
            self.open += 1
        try:
            self._record(stream, seen)
        finally:
            with self.lock:
                self.open -= 1

    def _record(self, stream: socket.socket, seen: bytearray) -> None:
        answered = 0
        while data := stream.recv(1 << 16):
            seen += data
            complete = sum(message.complete for message in requests([bytes(seen)]).messages)
            stream.sendall(OK * (complete - answered))
            answered = complete

    def take(self, port: int) -> list[bytes]:
        """What has come since the last time, a connection each; one more request shows that all has come."""
        with connect(port) as client:
            client.sendall(LAST)
            assert all_of(client).startswith(b"HTTP/1.1 200")
        until(lambda: not self.open, "the end of all connections")
        with self.lock:
            taken, self.connections = [bytes(seen) for seen in self.connections], []
        (last,) = [seen for seen in taken if seen.startswith(LAST[:10])]
        return [seen for seen in taken if seen and seen is not last]


@pytest.fixture(scope="module")
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture(scope="module")
def proxy(lasting_programs: Programs, recorder: Recorder) -> Iterator[Proxy]:
    backend = Backend(recorder.serve)
    apps = "".join(
        f'[apps.n{number}]\nserver_name = "{name}"\nreverse_proxy = [{{ upstream = [{backend.location}] }}]\n'
        for number, name in enumerate(("a", "b"))
    )
    text = f'listen_port = {(port := free_port())}\ndefault_app = "n0"\nkeepalive = 0\n{apps}'
    running = lasting_programs.rproxy(text)
    running.port = port
    yield running
    backend.end()


@pytest.mark.parametrize("followed", [True, False], ids=["and another", "alone"])
@pytest.mark.parametrize(("data", "verdict"), ROWS)
def test_a_backend_sees_well_formed_requests_or_none(
    proxy: Proxy, recorder: Recorder, data: bytes, verdict: object, followed: bool
) -> None:
    with connect(proxy.port) as client:
        client.sendall(data + (NEXT if followed else b""))
        client.shutdown(socket.SHUT_WR)
        answer = all_of(client)
    seen = recorder.take(proxy.port)
    for stream in seen:
        assert_well_formed(stream, data)
    statuses = [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:]]
    arrived = b"".join(seen).count(b"/next-request HTTP/1.1")
    if isinstance(verdict, int):
        assert (statuses[-1], arrived) == (verdict, 0)
    elif isinstance(verdict, bytes):
        assert arrived == (followed and b" HTTP/1.0\r\n" not in data)
        assert not {400, 502} & set(statuses)
    else:
        assert arrived == 0, "what is waited for is not the next request"


def assert_well_formed(stream: bytes, data: bytes) -> None:
    """One request; only a cut connection may end it early, and never in its head."""
    transcript = requests([stream])
    assert transcript.refused is None
    assert transcript.rest == b""
    (message,) = transcript.messages
    head = stream.partition(b"\r\n\r\n")[0]
    line, *fields = head.split(b"\r\n")
    assert line.endswith(b" HTTP/1.1")
    names = [field.partition(b":")[0].lower() for field in fields]
    assert all(map(FIELD.fullmatch, fields))
    assert names.count(b"host") == 1
    assert names.count(b"content-length") + names.count(b"transfer-encoding") <= 1
    assert b"next-request" not in message.body
    assert not [name for name in names if b"_" in name and is_claim(name)]
    assert message.complete or len(stream) <= len(data) + 400
