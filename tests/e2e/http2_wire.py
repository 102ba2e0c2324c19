"""HTTP/2 with every frame made by hand: a connection to a proxy, and an origin behind it.

Nothing here reads HTTP/2 with the code that is tested; `hpack` decodes the heads of responses.
"""

from __future__ import annotations

import socket
import ssl
import threading
from typing import Any

from hpack import Decoder

from tests.e2e.attackers import Asked, Origin, Talk, reply
from tests.e2e.programs import PATIENCE
from tests.e2e.streams import connect
from tests.wire.http2_talk import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PADDED,
    PRIORITISED,
    PRIORITY,
    SETTINGS,
    WINDOW,
    Pairs,
    Said,
    block,
    frame,
    settings,
)

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
CHUNK = 1 << 16
NO, PROTOCOL, INTERNAL, FLOW, TIMEOUT, CLOSED, SIZE, REFUSED, CANCEL, COMPRESSION = range(10)
CALM = 11

HOST = b"localhost"
COMMON = b"\x82\x86\x84\x01\x09" + HOST
"""The head of a GET for /, in clear text: method, scheme and path from the static table, the authority."""
SECURE = b"\x82\x87\x84\x01\x09" + HOST
"""The same behind TLS."""
COMMON_POST = b"\x83" + COMMON[1:]
BODY = b"some content"
PINGED = b"somebody"


class Wire:
    """A connection whose frames are said and read one by one; `secure` if it is inside TLS."""

    def __init__(self, stream: socket.socket, *, secure: bool = False) -> None:
        self.socket, self.secure = stream, secure
        stream.settimeout(PATIENCE)
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._got = bytearray()
        self.decoder = Decoder()
        self.settings: dict[int, int] = {}
        """What the server has said in its first frame."""
        self.room = 65535
        """Bytes that the connection's window has, as far as frames were read."""

    def greet(self, said: bytes = b"") -> Wire:
        """The preface with `said` as SETTINGS, up to the acknowledgements in both directions."""
        self.send(PREFACE + (said or settings(window=65535)))
        first = self.read()
        assert first is not None
        assert (first.kind, first.flags & ACK, first.stream) == (SETTINGS, 0, 0)
        for at in range(0, len(first.payload), 6):
            code, value = first.payload[at : at + 2], first.payload[at + 2 : at + 6]
            self.settings[int.from_bytes(code, "big")] = int.from_bytes(value, "big")
        while (one := self.want()).kind != SETTINGS or not one.flags & ACK:
            pass
        self.send(frame(SETTINGS, ACK))
        return self

    def send(self, octets: bytes) -> None:
        """Send what is taken: a server may have closed, which the answer will show."""
        try:
            self.socket.sendall(octets.replace(COMMON, SECURE) if self.secure else octets)
        except (BrokenPipeError, ConnectionResetError):
            pass

    def read(self) -> Said | None:
        """The next frame of the server; None at the end."""
        while len(self._got) < 9 or len(self._got) < 9 + self._size():
            if not (octets := self.more()):
                assert not self._got, f"half a frame: {bytes(self._got)!r}"
                return None
            self._got += octets
        head, end = self._got[:9], 9 + self._size()
        payload = bytes(self._got[9:end])
        del self._got[:end]
        if head[3] == WINDOW and not any(head[5:9]):
            self.room += int.from_bytes(payload, "big")
        return Said(head[3], head[4], int.from_bytes(head[5:9], "big"), payload)

    def want(self) -> Said:
        """The next frame; that there is none is a failure."""
        one = self.read()
        assert one is not None, "the connection was closed"
        return one

    def fields(self, one: Said) -> Pairs:
        """The fields of a HEADERS frame; each has to be decoded, and in order."""
        assert one.flags & END_HEADERS
        return [(bytes(name), bytes(value)) for name, value in self.decoder.decode(one.payload, raw=True)]

    def _size(self) -> int:
        return int.from_bytes(self._got[:3], "big")

    def more(self) -> bytes:
        """What comes next, frame or not; nothing at the end."""
        try:
            return self.socket.recv(CHUNK)
        except ConnectionResetError:
            return b""


def trusting(*protocols: str) -> ssl.SSLContext:
    """Belief in any certificate; `protocols` are offered by ALPN."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols([*protocols])
    return context


def dial(port: int, name: str = "", **options: Any) -> Wire:
    """A connection that has said nothing of HTTP yet; with a name inside TLS, which has agreed on HTTP/2."""
    plain = connect(port, **options)
    if not name:
        return Wire(plain)
    secret = trusting("h2").wrap_socket(plain, server_hostname=name)
    assert secret.selected_alpn_protocol() == "h2"
    return Wire(secret, secure=True)


# -- what a client says


def get(stream: int = 1, more: bytes = b"", *, flags: int = END_STREAM | END_HEADERS) -> bytes:
    """A request for /, with `more` behind its fields."""
    return frame(HEADERS, flags, stream, COMMON + more)


def post(stream: int = 1, more: bytes = b"") -> bytes:
    """A request with a body to come."""
    return frame(HEADERS, END_HEADERS, stream, COMMON_POST + more)


def fields(*pairs: tuple[bytes, bytes], stream: int = 1, end: bool = True) -> bytes:
    """A HEADERS frame with exactly these."""
    return frame(HEADERS, END_HEADERS | END_STREAM * end, stream, block(pairs))


def asking(path: bytes, stream: int = 1, more: bytes = b"", *, end: bool = True) -> bytes:
    """A request for a path with `more` behind its fields: a GET, or a POST whose body is to come."""
    method = b"GET" if end else b"POST"
    pairs = ((b":method", method), (b":scheme", b"http"), (b":authority", HOST), (b":path", path))
    return frame(HEADERS, END_HEADERS | END_STREAM * end, stream, block(pairs) + more)


def trailers(*pairs: tuple[bytes, bytes], end: bool = True) -> bytes:
    """What comes behind a body on stream 1."""
    return fields(*pairs, end=end)


def body(octets: bytes = b"test", stream: int = 1, *, end: bool = True) -> bytes:
    return frame(DATA, END_STREAM * end, stream, octets)


def padded(kind: int, flags: int, octets: bytes, padding: int) -> bytes:
    """A frame on stream 1 with so much padding."""
    return frame(kind, flags | PADDED, 1, bytes([padding]) + octets + bytes(padding))


def priority(stream: int, depends_on: int = 0, weight: int = 255) -> bytes:
    return frame(PRIORITY, 0, stream, depends_on.to_bytes(4, "big") + bytes([weight]))


def prioritised(depends_on: int = 0) -> bytes:
    """A request that says on which it depends."""
    flags = END_STREAM | END_HEADERS | PRIORITISED
    return frame(HEADERS, flags, 1, depends_on.to_bytes(4, "big") + b"\xff" + COMMON)


def rest(octets: bytes, stream: int = 1, *, end: bool = True) -> bytes:
    return frame(CONTINUATION, END_HEADERS * end, stream, octets)


def goaway(code: int = NO, stream: int = 0, payload: bytes = b"") -> bytes:
    return frame(GOAWAY, 0, stream, payload or bytes(4) + code.to_bytes(4, "big"))


class Answering(Origin):
    """An origin that answers every request with `BODY`, but for `/stalled`, of which it reads nothing."""

    def __init__(self) -> None:
        super().__init__("localhost")
        self._ending = threading.Event()

    def answer(self, talk: Talk, asked: Asked) -> None:
        if asked.target == b"/stalled":
            self._ending.wait(PATIENCE)
            return
        talk.read_body(asked)
        talk.send(reply(b"" if asked.line.startswith(b"HEAD") else BODY))

    def end(self) -> None:
        self._ending.set()
        self.backend.end()
