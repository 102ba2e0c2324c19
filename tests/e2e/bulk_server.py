"""A backend for bodies of any size, in a process of its own; it neither keeps nor writes a byte of them.

Run with `fronts.backend`, which gives it its listening socket's descriptor; with a certificate and a key
it speaks TLS. A call moves a mebibyte, so that the proxy is what a test waits for. `GET /length/N`,
`/chunked/N` and `/close/N` send N bytes of `PATTERN`, over and over. Any other request is answered
once its body is complete, with the body's size in bytes and whether it was that pattern.
"""

from __future__ import annotations

import hashlib
import socket
import ssl
import sys
import threading
from io import BufferedReader

BLOCK = 1 << 20
PATTERN = hashlib.shake_128(b"rproxy").digest(BLOCK)
"""What every body is made of; no part of it looks like another, so that nothing is lost unnoticed."""


class Inspected:
    """What has been read of a body: how much, and whether it is the pattern. One block of it is kept."""

    def __init__(self) -> None:
        self.size, self._same = 0, True
        self._block = bytearray(BLOCK)

    def __str__(self) -> str:
        rest = self.size % BLOCK
        same = self._same and self._block[:rest] == PATTERN[:rest]
        return f"{self.size} bytes, {'whole' if same else 'broken'}"

    def read(self, stream: BufferedReader, count: int | None = None) -> Inspected:
        """`count` bytes, or all there are."""
        view = memoryview(self._block)
        while count is None or count:
            begin = self.size % BLOCK
            got = stream.readinto(view[begin : BLOCK if count is None else begin + count])
            if not got:
                break
            self.size += got
            count = None if count is None else count - got
            if not self.size % BLOCK:
                self._same = self._same and self._block == PATTERN
        return self

    def read_chunks(self, stream: BufferedReader) -> Inspected:
        """A chunked body without trailers."""
        while count := int(stream.readline(), 16):
            self.read(stream, count)
            stream.readline()
        stream.readline()
        return self


def send_body(stream: socket.socket, size: int, chunked: bool) -> None:
    """`size` bytes of the pattern."""
    view = memoryview(PATTERN)
    for left in range(size, 0, -BLOCK):
        count = min(left, BLOCK)
        if chunked:
            stream.sendall(b"%x\r\n" % count)
        stream.sendall(view[:count])
        if chunked:
            stream.sendall(b"\r\n")
    if chunked:
        stream.sendall(b"0\r\n\r\n")


def framing(kind: str, size: int) -> bytes:
    """The field that says where a body ends; none for one that ends with the connection."""
    known = {"length": b"Content-Length: %d\r\n" % size, "chunked": b"Transfer-Encoding: chunked\r\n"}
    return known.get(kind, b"")


def read_head(stream: BufferedReader) -> tuple[bytes, dict[bytes, bytes]]:
    """The first line, and the fields by their names in lower case; nothing at the end of the stream."""
    first, fields = stream.readline().rstrip(), {}
    while line := stream.readline().rstrip():
        name, _, value = line.partition(b": ")
        fields[name.lower()] = value
    return first, fields


def main() -> None:
    listening, secret = socket.socket(fileno=int(sys.argv[1])), None
    if len(sys.argv) > 2:
        secret = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        secret.load_cert_chain(*sys.argv[2:])
    while True:
        stream, _ = listening.accept()
        threading.Thread(target=serve, args=(stream, secret), daemon=True).start()


def serve(plain: socket.socket, secret: ssl.SSLContext | None) -> None:
    try:
        stream = secret.wrap_socket(plain, server_side=True) if secret else plain
        with stream, stream.makefile("rb") as reader:
            while answer(stream, reader):
                pass
    except OSError:
        pass  # what a connection's loss means is for the client to say


def answer(stream: socket.socket, reader: BufferedReader) -> bool:
    """One request; False when the connection is over."""
    line, fields = read_head(reader)
    if not line:
        return False
    kind, _, size = line.split()[1].decode().strip("/").partition("/")
    if size:
        stream.sendall(b"HTTP/1.1 200 OK\r\n%b\r\n" % framing(kind, int(size)))
        send_body(stream, int(size), kind == "chunked")
        return kind != "close"
    if fields.get(b"expect"):
        stream.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    fields.setdefault(b"content-length", b"0")
    said = str(body_of(reader, fields)).encode()
    stream.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(said), said))
    return True


def body_of(reader: BufferedReader, fields: dict[bytes, bytes]) -> Inspected:
    """A response's body, whichever way it is framed."""
    if fields.get(b"transfer-encoding") == b"chunked":
        return Inspected().read_chunks(reader)
    length = fields.get(b"content-length")
    return Inspected().read(reader, None if length is None else int(length))


if __name__ == "__main__":
    main()
