"""A client with a certificate, for `mtls_conn`: connection after connection, each with a full handshake.

wrk has no client certificates. A few threads of plain blocking sockets are enough, because what
counts is the proxy's CPU time and not the client's, and Python's TLS leaves the interpreter to the
other threads while it calculates.
"""

from __future__ import annotations

import re
import socket
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial

from figures import Trouble
from loads import Errand, Load

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
ANSWER = re.compile(rb"HTTP/1\.1 200 .*\r\n\r\nhello\n", re.S)
"""What the backend says to that, as it left it: nobody on the way speaks HTTP here."""

PATIENCE = 10.0
"""Seconds that a step of a connection may take."""


def connections(lanes: int) -> Load:
    """As many connections as so many clients get done, one after the other. The unit is a connection."""

    def load(errand: Errand) -> float:
        deadline = time.monotonic() + errand.seconds
        visit = partial(_visit, _context(errand), _port(errand.url))
        with ThreadPoolExecutor(lanes) as pool:
            return sum(pool.map(lambda _: _visits(visit, deadline), range(lanes)))

    return load


def _context(errand: Errand) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(errand.folder / "cert.pem"))
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(errand.folder / "client.pem", errand.folder / "client.key")
    return context


def _port(url: str) -> int:
    return int(url.rpartition(":")[2].partition("/")[0])


def _visits(visit: partial[None], deadline: float) -> int:
    """Connections until the deadline; each that has begun is finished."""
    done = 0
    while time.monotonic() < deadline:
        visit()
        done += 1
    return done


def _visit(context: ssl.SSLContext, port: int) -> None:
    """One connection: handshake, a small request and its answer, goodbye. Raises `Trouble`."""
    try:
        plain = socket.create_connection(("127.0.0.1", port), PATIENCE)
        with context.wrap_socket(plain, server_hostname="localhost") as stream:
            stream.sendall(REQUEST)
            _expect(stream)
            if stream.session_reused:
                raise Trouble("a session was resumed: that is no full handshake")
            _goodbye(stream)
    except OSError as problem:
        raise Trouble(f"a connection with a certificate: {problem}")


def _goodbye(stream: ssl.SSLSocket) -> None:
    """Ours, and until the other side has closed, with its goodbye or, as nginx, without."""
    with suppress(ssl.SSLEOFError):
        stream.unwrap()


def _expect(stream: ssl.SSLSocket) -> None:
    came = b""
    while not ANSWER.fullmatch(came):
        more = stream.recv(65536)
        came += more
        if not more or len(came) > 65536:
            raise Trouble(f"answered {came[:60]!r}")
