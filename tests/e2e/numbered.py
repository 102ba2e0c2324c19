"""Requests with a number, of which both sides know every byte: what is lost, changed or crossed is seen.

`POST /answer/SIZE` with `X-Number` has a body of `X-Size` bytes that are a function of the number, and so has
its answer. `Asker` is a client for any stream; the backend is this file as a program, run with
`fronts.backend`. With `hello` as an argument it takes a ClientHello for granted before the first request,
as where a proxy passes TLS on; nothing of that is encrypted. SIGUSR1 makes it close all connections.
"""

from __future__ import annotations

import hashlib
import random
import signal
import socket
import sys
import threading
from collections.abc import Callable
from io import BufferedReader
from typing import Any, NamedTuple

from tests.e2e.streams import read_hello

PIECE = 1 << 16
WRONG = "WRONG"
"""Stands in the backend's log when a request was not what it ought to be."""

Fields = dict[bytes, bytes]


def content(number: int, way: bytes, size: int) -> bytes:
    """The body of a request or an answer; no part of it is like any other's."""
    return hashlib.shake_128(b"%b %d" % (way, number)).digest(size)


def framed(body: bytes, chunked: bool) -> bytes:
    """The last field of a head, the empty line, and the body."""
    if not chunked:
        return b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    pieces = (body[at : at + PIECE] for at in range(0, len(body), PIECE))
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return b"Transfer-Encoding: chunked\r\n\r\n%b0\r\n\r\n" % chunks


class Lost(Exception):
    """A request was not answered, and it could be seen: by a status, an error or an early end."""


class Mistaken(AssertionError):
    """Something came that is not what was sent."""


def read_line(reader: BufferedReader) -> bytes:
    line = reader.readline(PIECE)
    if not line.endswith(b"\r\n"):
        raise Lost("the stream ended in a head" if line else "the stream ended")
    return line[:-2]


def read_head(reader: BufferedReader) -> tuple[bytes, Fields]:
    """The first line, and the fields by their names in lower case."""
    first, fields = read_line(reader), Fields()
    while line := read_line(reader):
        name, _, value = line.partition(b":")
        fields[name.lower()] = value.strip()
    return first, fields


def read_body(reader: BufferedReader, fields: Fields) -> tuple[bytes, bool]:
    """The body, and whether it is whole."""
    if fields.get(b"transfer-encoding") != b"chunked":
        size = int(fields.get(b"content-length", b"0"))
        body = reader.read(size)
        return body, len(body) == size
    body = b""
    try:
        while size := int(read_line(reader), 16):
            piece = reader.read(size)
            body += piece
            if len(piece) < size or read_line(reader):
                return body, False
        return body, read_line(reader) == b""
    except Lost:
        return body, False


class Ask(NamedTuple):
    """A request to come: its number, and the bytes on both ways."""

    number: int
    up: int
    down: int

    def text(self, host: bytes) -> bytes:
        head = b"POST /answer/%d HTTP/1.1\r\nHost: %b\r\nX-Number: %d\r\nX-Size: %d\r\n"
        body = framed(content(self.number, b"up", self.up), self.number % 3 == 0)
        return head % (self.down, host, self.number, self.up) + body


class Asker:
    """A client's connection."""

    def __init__(self, stream: Any, host: bytes = b"a.test") -> None:
        self.stream, self._host = stream, host
        self._reader: BufferedReader = stream.makefile("rb")

    def __enter__(self) -> Asker:
        return self

    def __exit__(self, *exc: object) -> None:
        self._reader.close()
        self.stream.close()

    def ask(self, *asked: Ask) -> None:
        """Send requests, all at once, and read the answers; raises `Lost`, or `Mistaken` for wrong bytes."""
        self.say(*asked)
        self.hear(*asked)

    def say(self, *asked: Ask) -> None:
        """Send requests; raises `Lost`."""
        try:
            self.stream.sendall(b"".join(one.text(self._host) for one in asked))
        except OSError as problem:
            raise Lost(repr(problem)) from problem

    def hear(self, *asked: Ask) -> None:
        """Read the answers, as `ask` does."""
        try:
            for one in asked:
                self._read(one)
        except OSError as problem:
            raise Lost(repr(problem)) from problem

    def _read(self, asked: Ask) -> None:
        line, fields = read_head(self._reader)
        if line.split()[1] != b"200":
            read_body(self._reader, fields)
            raise Lost(line.decode())
        check(asked, fields, *read_body(self._reader, fields))


def check(asked: Ask, fields: Fields, body: bytes, whole: bool) -> None:
    """An answer with the status 200; raises `Lost` if it was cut short, `Mistaken` if it is not right."""
    if fields[b"x-number"] != b"%d" % asked.number:
        raise Mistaken(f"{asked} was given the answer to {fields[b'x-number']!r}")
    if fields[b"x-seen"] != b"%d" % asked.up:
        raise Mistaken(f"of {asked} the backend saw {fields[b'x-seen']!r} good bytes")
    if not content(asked.number, b"down", asked.down).startswith(body):
        raise Mistaken(f"the answer to {asked} is not what was sent")
    if not whole:
        raise Lost(f"{len(body)} bytes of {asked}")
    if len(body) != asked.down:
        raise Mistaken(f"{len(body)} bytes as the whole answer to {asked}")


def sizes(rng: random.Random, most: int) -> int:
    """Many small bodies, some around the limits of what is copied, some large."""
    return rng.choice((0, 1, rng.randrange(2000), rng.randrange(60_000, 70_000), rng.randrange(most)))


# -- the backend


class Connections:
    """Those that are open, to be closed on demand."""

    def __init__(self) -> None:
        self._lock, self._open = threading.Lock(), set[socket.socket]()

    def serve(self, stream: socket.socket, greet: Callable[[socket.socket], object]) -> None:
        with self._lock:
            self._open.add(stream)
        try:
            with stream, stream.makefile("rb") as reader:
                greet(stream)
                while answer(stream, reader):
                    pass
        except (OSError, Lost):
            pass  # what a connection's loss means is for the client to say
        finally:
            with self._lock:
                self._open.discard(stream)

    def close(self) -> None:
        with self._lock:
            for stream in self._open:
                try:
                    stream.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass


def answer(stream: socket.socket, reader: BufferedReader) -> bool:
    """One request; False when the connection is over."""
    line, fields = read_head(reader)
    number, size = int(fields[b"x-number"]), int(fields[b"x-size"])
    body, whole = read_body(reader, fields)
    wanted = content(number, b"up", size)
    if not wanted.startswith(body) or (whole and len(body) != size):
        print(WRONG, line, fields, len(body), whole, flush=True)
        return False
    if whole:
        back = content(number, b"down", int(line.split()[1].rpartition(b"/")[2]))
        head = b"HTTP/1.1 200 OK\r\nX-Number: %d\r\nX-Seen: %d\r\n" % (number, len(body))
        stream.sendall(head + framed(back, number % 2 == 0))
    return whole


def main() -> None:
    listening, connections = socket.socket(fileno=int(sys.argv[1])), Connections()
    greet: Callable[[socket.socket], object] = read_hello if "hello" in sys.argv else nothing
    closer = threading.Thread(target=close_on_signal, args=(connections,), daemon=True)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})  # for all threads; the closer asks for it
    closer.start()
    while True:
        stream, _ = listening.accept()
        threading.Thread(target=connections.serve, args=(stream, greet), daemon=True).start()


def nothing(stream: socket.socket) -> None:
    """For streams that begin with a request."""


def close_on_signal(connections: Connections) -> None:
    while signal.sigwait({signal.SIGUSR1}):
        connections.close()


if __name__ == "__main__":
    main()
