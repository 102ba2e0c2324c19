"""How a TLS connection ends: early, cut short, slowly, or with a client that never stops asking for keys."""

from __future__ import annotations

import ctypes
import ctypes.util
import select
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.attackers import Asked, Front, Stage, Talk, ask, reply
from tests.e2e.peers import Certificate
from tests.e2e.programs import Programs, until
from tests.e2e.streams import CHUNK, connect, reset

LARGE = 3_000_000
"""Bytes that the system's buffers between two programs can take at once."""
LEISURE = 7.0
"""Seconds for them: more than the goodbye's 5 s without progress, and never that long without any."""
STILL = 0.5
"""Seconds without a byte after which a sender is stuck."""
GONE = 20.0
"""Seconds until a client that has said goodbye is cut off: the limit for it twice, and its clock's steps."""
FLOODED = 40.0
"""Seconds to fill the system's buffers and ours with answers of 27 bytes, which takes 10."""


@pytest.fixture(scope="module")
def stage(lasting_programs: Programs, certificate: Certificate) -> Iterator[Stage]:
    made = Stage(lasting_programs, certificate)
    yield made
    made.end()


class Endless:
    """A reply that has no end; counts what it could send, and knows whether it could not go on."""

    def __init__(self) -> None:
        self.sent, self.over = 0, False

    def __call__(self, talk: Talk, asked: Asked) -> None:
        try:
            talk.send(b"HTTP/1.1 200 OK\r\nContent-Type: x\r\n\r\n")
            while True:
                self.sent += talk.stream.send(b"z" * CHUNK)
        finally:
            self.over = True

    @property
    def stuck(self) -> bool:
        before = self.sent
        time.sleep(STILL)
        return 0 < before == self.sent


class Client:
    """A TLS client whose socket and whose TLS can be used apart."""

    def __init__(self, front: Front, receive_buffer: int = 0) -> None:
        self.stream = connect(front.port, receive_buffer=receive_buffer)
        self._got, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        self._tls = context.wrap_bio(self._got, self._out, server_hostname="a.test")
        while not self._tried(self._tls.do_handshake):
            self._got.write(self.stream.recv(CHUNK))

    def _tried(self, step: Any) -> bool:
        """Whether a step is done that may first have to hear more; what it says is sent."""
        try:
            step()
        except ssl.SSLWantReadError:
            return False
        finally:
            self.stream.sendall(self._out.read())
        return True

    def send(self, text: bytes) -> None:
        self._tried(lambda: self._tls.write(text))

    def say_goodbye(self) -> None:
        self._tried(self._tls.unwrap)


def test_after_a_clients_goodbye_its_backend_is_not_read(stage: Stage) -> None:
    """It comes in the middle of a download; the client takes what is on the way, and keeps its socket."""
    stage.tls.neighbour()
    endless, before = Endless(), stage.proxy.fds
    stage.a.replies[b"/forever"] = endless
    client = Client(stage.tls, receive_buffer=4096)
    with client.stream:
        client.send(ask(b"/forever"))
        until(lambda: endless.stuck, "a backend that cannot send more")
        sent = endless.sent
        client.say_goodbye()
        drain(client.stream, sent + 8 * LARGE)
        until(lambda: endless.over, "a backend that is let go", GONE)
        until(lambda: stage.proxy.fds <= before, "a descriptor that is closed")
        assert endless.sent - sent < 2 * LARGE
    stage.tls.neighbour()


def drain(stream: socket.socket, most: int) -> None:
    """Read until the end, or until `most` bytes, or until nothing comes."""
    while most > 0 and select.select([stream], [], [], STILL)[0]:
        try:
            count = len(stream.recv(CHUNK))
        except ConnectionResetError:
            return
        if not count:
            return
        most -= count


def cut_short(talk: Talk, asked: Asked) -> None:
    """A reply that a crash of its origin ends."""
    talk.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
    time.sleep(0.2)  # a reset may overtake what was sent
    reset(talk.stream)


def secured(stage: Stage, receive_buffer: int = 0) -> ssl.SSLSocket:
    """A client that is told whether the end was a goodbye."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    plain = connect(stage.tls.port, receive_buffer=receive_buffer)
    return context.wrap_socket(plain, server_hostname="a.test", suppress_ragged_eofs=False)


def test_a_response_that_was_cut_short_has_no_goodbye(stage: Stage) -> None:
    """An HTTP/1.0 client knows no chunks: nothing else tells it that this is not all (RFC 9112 §9.8)."""
    stage.a.replies[b"/cut"] = cut_short
    with secured(stage) as client:
        client.sendall(b"GET /cut HTTP/1.0\r\nHost: a.test\r\n\r\n")
        got = b""
        with pytest.raises((ssl.SSLEOFError, ConnectionResetError)):
            while piece := client.recv(CHUNK):
                got += piece
        assert got.endswith(b"\r\n\r\nhello")
    stage.tls.neighbour()


def test_a_response_that_is_whole_has_one(stage: Stage) -> None:
    with secured(stage) as client:
        client.sendall(b"GET /whole HTTP/1.0\r\nHost: a.test\r\n\r\n")
        got = b""
        while piece := client.recv(CHUNK):
            got += piece
        assert got.endswith(b"\r\n\r\na.test /whole")


def test_a_slow_reader_gets_everything_before_a_close(stage: Stage) -> None:
    """What it has not read yet is in the system's buffers, and not in ours."""
    stage.a.replies[b"/large"] = lambda talk, asked: talk.send(reply(b"q" * LARGE))
    with secured(stage, receive_buffer=16384) as client:
        client.sendall(ask(b"/large", b"Connection: close"))
        start, got = time.monotonic(), 0
        while piece := client.recv(16384):
            got += len(piece)
            time.sleep(max(0.0, start + got / LARGE * LEISURE - time.monotonic()))
        assert got > LARGE


# -- keys


class Library:
    """OpenSSL's own functions: no module of Python's lets a client ask for new keys."""

    def __init__(self) -> None:
        name = ctypes.util.find_library("ssl")
        if name is None:
            pytest.skip("OpenSSL's library is not installed")
        self._ssl, pointer, number = ctypes.CDLL(name), ctypes.c_void_p, ctypes.c_int
        self.method = self._function("TLS_client_method", pointer)
        self.context = self._function("SSL_CTX_new", pointer, pointer)
        self.new = self._function("SSL_new", pointer, pointer)
        self.use = self._function("SSL_set_fd", number, pointer, number)
        self.control = self._function(
            "SSL_ctrl", ctypes.c_long, pointer, number, ctypes.c_long, ctypes.c_char_p
        )
        self.connect = self._function("SSL_connect", number, pointer)
        self.write = self._function("SSL_write", number, pointer, ctypes.c_char_p, number)
        self.ask_for_keys = self._function("SSL_key_update", number, pointer, number)
        self.send = self._function("SSL_do_handshake", number, pointer)

    def _function(self, name: str, result: Any, *arguments: Any) -> Any:
        found = getattr(self._ssl, name)
        found.restype, found.argtypes = result, arguments
        return found


SET_NAME, REQUESTED = 55, 1


class Flood(threading.Thread):
    """A client that asks for new keys as fast as it can, and reads no answer."""

    def __init__(self, stream: socket.socket) -> None:
        super().__init__(daemon=True)
        self.updates, self._library = 0, Library()
        stream.settimeout(None)
        self._tls = self._library.new(self._library.context(self._library.method()))
        self._library.use(self._tls, stream.fileno())
        self._library.control(self._tls, SET_NAME, 0, b"a.test")
        assert self._library.connect(self._tls) == 1

    def run(self) -> None:
        library, head = self._library, b"GET /idle HTTP/1.1\r\nHost: a.test\r\n"
        library.write(self._tls, head, len(head))
        while library.ask_for_keys(self._tls, REQUESTED) == 1 and library.send(self._tls) == 1:
            self.updates += 1


def test_a_client_that_floods_with_key_updates_is_cut_off(stage: Stage) -> None:
    stage.tls.neighbour()
    with connect(stage.tls.port, receive_buffer=4096) as stream:
        flood, before = Flood(stream), stage.proxy.rss
        flood.start()
        flood.join(FLOODED)
        alive, grown = flood.is_alive(), stage.proxy.rss - before
        if alive:
            stream.shutdown(socket.SHUT_RDWR)
            flood.join()
    assert not alive, f"{flood.updates} updates were taken"
    assert flood.updates > 1000
    assert grown < 16 << 20
    stage.tls.neighbour()
