"""Clients and backends made of plain sockets, for what real programs cannot be made to show."""

from __future__ import annotations

import hashlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path

from tests.e2e.programs import PATIENCE

CHUNK = 1 << 16
UNRECOGNIZED_NAME = b"\x15\x03\x03\x00\x02\x02\x70"
USER_CANCELED = b"\x15\x03\x03\x00\x02\x02\x5a"
UNEXPECTED_MESSAGE = b"\x15\x03\x03\x00\x02\x02\x0a"
INTERNAL_ERROR = b"\x15\x03\x03\x00\x02\x02\x50"


@cache
def client_hello(name: str | None) -> bytes:
    """The first flight of OpenSSL's client, which is one record."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    sent = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname=name)
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return sent.read()


def connect(port: int, source: str = "", *, to: str = "127.0.0.1", receive_buffer: int = 0) -> socket.socket:
    """A connection whose every call has a deadline."""
    client = socket.socket()
    client.settimeout(PATIENCE)
    if receive_buffer:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    if source:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        client.bind((source, 0))
    client.connect((to, port))
    return client


def call(port: int, name: str | None, payload: bytes = b"", source: str = "") -> socket.socket:
    """A connection that has sent a ClientHello for `name`, and `payload`."""
    client = connect(port, source)
    client.sendall(client_hello(name) + payload)
    return client


def ask(port: int, name: str | None, payload: bytes = b"", source: str = "") -> bytes:
    """All that comes back for a hello and `payload`; a reset is as good as an end."""
    with call(port, name, payload, source) as client:
        return all_of(client)


def all_of(stream: socket.socket) -> bytes:
    """Everything until the end of the stream."""
    received = bytearray()
    try:
        while chunk := stream.recv(CHUNK):
            received += chunk
    except ConnectionResetError:
        pass
    return bytes(received)


def exactly(stream: socket.socket, count: int) -> bytes:
    """`count` bytes, or fewer if the stream ends before."""
    received = bytearray()
    while len(received) < count and (chunk := stream.recv(count - len(received))):
        received += chunk
    return bytes(received)


def read_hello(stream: socket.socket) -> bytes:
    """The record with the ClientHello; a backend's first step."""
    head = exactly(stream, 5)
    return head + exactly(stream, int.from_bytes(head[3:5], "big"))


def send_pattern(stream: socket.socket, size: int, seed: int) -> str:
    """Send `size` bytes that depend on `seed`; returns their hash."""
    block = hashlib.shake_128(bytes([seed])).digest(CHUNK + 13)
    summary, left = hashlib.sha256(), size
    while left:
        chunk = block[:left]
        stream.sendall(chunk)
        summary.update(chunk)
        left -= len(chunk)
    return summary.hexdigest()


def receive_all(stream: socket.socket) -> tuple[int, str]:
    """The number of bytes until the end, and their hash."""
    summary, count = hashlib.sha256(), 0
    while chunk := stream.recv(CHUNK * 4):
        summary.update(chunk)
        count += len(chunk)
    return count, summary.hexdigest()


def reset(stream: socket.socket) -> None:
    """Close with RST instead of FIN."""
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.close()


class Backend:
    """A listening socket; `serve` runs in a thread for each connection, which is closed after it."""

    def __init__(self, serve: Callable[[socket.socket], None], path: Path | None = None) -> None:
        self._serve, self._stopping = serve, False
        self.connections: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        if path is None:
            self._listening = socket.create_server(("127.0.0.1", 0), backlog=512)
            self.port: int = self._listening.getsockname()[1]
        else:
            self._listening = socket.socket(socket.AF_UNIX)
            self._listening.bind(str(path))
            self._listening.listen(512)
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    @property
    def location(self) -> str:
        return f'{{ location = "127.0.0.1:{self.port}" }}'

    @property
    def served(self) -> int:
        return len(self.connections)

    def _accept(self) -> None:
        while not self._stopping:
            try:
                stream, _ = self._listening.accept()
            except OSError:
                return
            stream.settimeout(PATIENCE)
            self.connections.append(stream)
            thread = threading.Thread(target=self._run, args=(stream,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _run(self, stream: socket.socket) -> None:
        try:
            self._serve(stream)
        except OSError:
            pass  # what a connection's loss means is for the client's side of the test to say
        finally:
            stream.close()

    def end(self) -> None:
        """Close everything and wait for the threads; once."""
        if self._stopping:
            return
        self._stopping = True
        self._listening.shutdown(socket.SHUT_RDWR)
        self._accepting.join(PATIENCE)
        self._listening.close()
        for stream in self.connections:
            try:
                stream.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        for thread in self._threads:
            thread.join(PATIENCE)


def echo(stream: socket.socket) -> None:
    """Everything after the hello comes back, until the client has sent all."""
    read_hello(stream)
    while chunk := stream.recv(CHUNK):
        stream.sendall(chunk)


def saying(text: bytes) -> Callable[[socket.socket], None]:
    """A backend that answers every hello with `text` and closes."""

    def serve(stream: socket.socket) -> None:
        read_hello(stream)
        stream.sendall(text)

    return serve
