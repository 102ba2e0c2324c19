"""Shared by the tests of HTTP/2: frames made by hand, a codec to say them to, and what it answers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from hpack import Decoder, Encoder

from rproxy.wire.http2 import Http2Codec
from rproxy.wire.http2_events import Broken, ErrorCode
from rproxy.wire.http2_frames import PREFACE

DATA, HEADERS, PRIORITY, RST, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
END_STREAM, END_HEADERS, ACK, PADDED, PRIORITISED = 1, 4, 1, 8, 32

Pairs = list[tuple[bytes, bytes]]
GET: Pairs = [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"a"), (b":path", b"/")]
POST: Pairs = [(b":method", b"POST"), *GET[1:]]


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def settings(**values: int) -> bytes:
    codes = {"table": 1, "push": 2, "streams": 3, "window": 4, "frame": 5, "list": 6, "connect": 8}
    return frame(
        SETTINGS,
        payload=b"".join(codes[k].to_bytes(2, "big") + v.to_bytes(4, "big") for k, v in values.items()),
    )


def window(stream: int, increment: int) -> bytes:
    return frame(WINDOW, 0, stream, increment.to_bytes(4, "big"))


def rst(stream: int, code: int = 8) -> bytes:
    return frame(RST, 0, stream, code.to_bytes(4, "big"))


def literal(name: bytes, value: bytes) -> bytes:
    """A field in HPACK, whatever is in it, without a table and without Huffman's code."""
    return b"\0" + _sized(name) + _sized(value)


def block(pairs: Iterable[tuple[bytes, bytes]]) -> bytes:
    return b"".join(literal(*pair) for pair in pairs)


def head(stream: int, pairs: Iterable[tuple[bytes, bytes]] = GET, *, end: bool = True) -> bytes:
    """A HEADERS frame, and CONTINUATION frames if need be."""
    octets = block(pairs)
    parts = [octets[at : at + 16384] for at in range(0, len(octets), 16384)] or [b""]
    out = frame(HEADERS, END_STREAM * end | END_HEADERS * (len(parts) == 1), stream, parts[0])
    for number, part in enumerate(parts[1:], 2):
        out += frame(CONTINUATION, END_HEADERS * (number == len(parts)), stream, part)
    return out


def _sized(octets: bytes) -> bytes:
    size = len(octets)
    if size < 127:
        return bytes([size]) + octets
    out, size = b"\x7f", size - 127
    while size >= 128:
        out, size = out + bytes([128 | size & 127]), size >> 7
    return out + bytes([size]) + octets


class Said(NamedTuple):
    """A frame of ours."""

    kind: int
    flags: int
    stream: int
    payload: bytes


def said(octets: bytes) -> list[Said]:
    """The frames in what was written."""
    found = []
    while octets:
        size = int.from_bytes(octets[:3], "big")
        number = int.from_bytes(octets[5:9], "big")
        found.append(Said(octets[3], octets[4], number, octets[9 : 9 + size]))
        octets = octets[9 + size :]
    return found


class Talk:
    """A codec and its client, after the preface unless told otherwise."""

    def __init__(self, *, streams: int = 100, begun: bool = True) -> None:
        self.codec = Http2Codec(streams, 0.0)
        self.codec.start()
        self.now = 0.0
        self.encoder, self.decoder = Encoder(), Decoder()
        self.greeting = said(self.codec.output())
        self.frames: list[Said] = []
        if begun:
            self.hear(PREFACE + settings() + frame(SETTINGS, ACK))
            self.frames.clear()

    def hear(self, *octets: bytes) -> list[Any]:
        """The events of these bytes; what is answered is in `frames`."""
        events = self.codec.receive(b"".join(octets), self.now)
        while self.codec.unread:
            events += self.codec.receive(b"", self.now)
        self.frames += said(self.codec.output())
        return events

    def say(self) -> list[Said]:
        """What the codec says now, and has said since the last look."""
        self.frames += said(self.codec.output())
        frames, self.frames = self.frames, []
        return frames

    def broken(self, *octets: bytes) -> ErrorCode:
        """The code of the connection error that these bytes are; GOAWAY says the same."""
        event = self.hear(*octets)[-1]
        assert isinstance(event, Broken)
        last = self.say()[-1]
        assert last.kind == GOAWAY
        assert last.payload[4:] == int(event.code).to_bytes(4, "big")
        assert self.codec.receive(frame(PING, payload=b"12345678"), self.now) == []
        return event.code

    def fields(self, one: Said) -> Pairs:
        """What a HEADERS frame of ours says."""
        return [(bytes(n), bytes(v)) for n, v in self.decoder.decode(one.payload, raw=True)]
