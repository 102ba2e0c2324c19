"""What h2spec asks about connections, frames and streams: its chapter http2 from 3.5 to 6.10, by its numbers.

The sections are those of RFC 7540, by which h2spec goes. We are stricter than it: where it is content with a
closed connection, GOAWAY has to say why.
"""

from __future__ import annotations

from tests.e2e.http2_right import (
    Case,
    alive,
    answered,
    away,
    cases,
    closed,
    comes,
    greeted,
    reset,
    reset_itself,
    settled,
)
from tests.e2e.http2_wire import (
    CLOSED,
    COMMON,
    COMMON_POST,
    COMPRESSION,
    FLOW,
    PREFACE,
    PROTOCOL,
    REFUSED,
    SIZE,
    Wire,
    body,
    get,
    goaway,
    post,
    prioritised,
    priority,
    rest,
)
from tests.wire.http2_talk import (
    ACK,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PADDED,
    PING,
    PRIORITY,
    RST,
    SETTINGS,
    WINDOW,
    frame,
    literal,
    rst,
    settings,
    window,
)

MOST = (1 << 31) - 1
MORE = literal(b"x-more", b"more")
OPEN = get(flags=END_HEADERS)
"""A GET whose stream stays open."""
BEGUN = get(flags=END_STREAM)
"""A head that is not complete."""
POST_BEGUN = frame(HEADERS, 0, 1, COMMON_POST)
UNKNOWN = frame(0x16, 0, 0, bytes(8))


def pinged(payload: bytes = b"12345678", flags: int = 0, stream: int = 0) -> bytes:
    return frame(PING, flags, stream, payload)


def ponged(wire: Wire) -> None:
    """The first PING that comes answers ours."""
    while (one := wire.want()).kind != PING:
        pass
    assert (one.flags, one.payload) == (ACK, b"12345678")


def too_many(wire: Wire) -> None:
    """One request more than the server has allowed, while none can be answered."""
    most = wire.settings[3]
    wire.send(settings(window=0) + b"".join(get(2 * number + 1) for number in range(most + 1)))
    reset(PROTOCOL, REFUSED, stream=2 * most + 1)(wire)


CONNECTIONS: list[Case] = cases(
    ("3.5", "the preface: SETTINGS come first", (PREFACE + settings(window=65535), greeted)),
    ("3.5", "something else as a preface", (b"INVALID CONNECTION PREFACE\r\n\r\n", closed)),
    ("4.1", "a frame of unknown type", (UNKNOWN, alive)),
    ("4.1", "a frame with undefined flags", (pinged(flags=0x16), ponged)),
    ("4.1", "a frame with the reserved bit", (pinged(stream=1 << 31), ponged)),
    ("4.2", "DATA of 2^14 bytes", (post(), body(b"x" * 16384), answered)),
    ("4.2", "DATA above SETTINGS_MAX_FRAME_SIZE", (post(), body(b"x" * 16385), reset(SIZE))),
    ("4.2", "HEADERS above SETTINGS_MAX_FRAME_SIZE", (get(1, literal(b"x", b"x" * 16384)), away(SIZE))),
    ("4.3", "a block that ends inside a field", (frame(HEADERS, 5, 1, b"\x40"), away(COMPRESSION))),
    ("4.3", "PRIORITY inside a block", (BEGUN, priority(1), rest(MORE), away(PROTOCOL))),
    ("4.3", "HEADERS of another stream inside a block", (BEGUN, get(3), rest(MORE), away(PROTOCOL))),
    ("5.4.1", "a PING on a stream: the connection ends", (pinged(stream=3), closed)),
    ("5.4.1", "a PING on a stream: GOAWAY says so (strict)", (pinged(stream=3), away(PROTOCOL))),
    ("5.5", "an unknown extension frame", (UNKNOWN, alive)),
    ("5.5", "an unknown extension frame inside a block", (BEGUN, UNKNOWN, away(PROTOCOL))),
    ("6.5", "SETTINGS with ACK and a payload", (frame(SETTINGS, ACK, 0, b"\0"), away(SIZE))),
    ("6.5", "SETTINGS on a stream", (frame(SETTINGS, 0, 1, b"\0\3\0\0\0\x64"), away(PROTOCOL))),
    ("6.5", "SETTINGS of 3 bytes", (frame(SETTINGS, 0, 0, b"\0\3\0"), away(PROTOCOL, SIZE))),
    ("6.5.2", "SETTINGS_ENABLE_PUSH of 2", (settings(push=2), away(PROTOCOL))),
    ("6.5.2", "SETTINGS_INITIAL_WINDOW_SIZE of 2^31", (settings(window=MOST + 1), away(FLOW))),
    ("6.5.2", "SETTINGS_MAX_FRAME_SIZE of 2^14-1", (settings(frame=16383), away(PROTOCOL))),
    ("6.5.2", "SETTINGS_MAX_FRAME_SIZE of 2^24", (settings(frame=1 << 24), away(PROTOCOL))),
    ("6.5.2", "an unknown setting", (frame(SETTINGS, 0, 0, b"\0\xff\0\0\0\1"), alive)),
    (
        "6.5.3",
        "SETTINGS_INITIAL_WINDOW_SIZE twice in one frame",
        (frame(SETTINGS, 0, 0, b"\0\4\0\0\0\x64\0\4\0\0\0\1"), settled, get(), comes(1)),
    ),
    ("6.5.3", "SETTINGS: they are acknowledged", (settings(push=0), settled)),
    ("6.7", "PING", (pinged(), ponged)),
    ("6.7", "PING with ACK, then one without", (pinged(b"invalid!", ACK), pinged(), ponged)),
    ("6.7", "PING on a stream", (pinged(stream=1), away(PROTOCOL))),
    ("6.7", "PING of 6 bytes", (pinged(bytes(6)), away(SIZE))),
    ("6.8", "GOAWAY on a stream", (goaway(stream=1), away(PROTOCOL))),
)

STREAMS: list[Case] = cases(
    ("5.1", "idle: DATA", (body(), away(PROTOCOL))),
    ("5.1", "idle: RST_STREAM", (rst(1), away(PROTOCOL))),
    ("5.1", "idle: WINDOW_UPDATE", (window(1, 100), away(PROTOCOL))),
    ("5.1", "idle: CONTINUATION", (rest(COMMON), away(PROTOCOL))),
    ("5.1", "half-closed: DATA", (get(), body(), reset(CLOSED))),
    ("5.1", "half-closed: HEADERS", (get(), get(), reset(CLOSED))),
    ("5.1", "half-closed: CONTINUATION", (get(), rest(COMMON), reset(CLOSED, PROTOCOL))),
    ("5.1", "reset: DATA", (OPEN, rst(1), body(), reset(CLOSED))),
    ("5.1", "reset: HEADERS", (OPEN, rst(1), get(), reset(CLOSED))),
    ("5.1", "reset: CONTINUATION", (OPEN, rst(1), rest(MORE), reset(CLOSED, PROTOCOL))),
    ("5.1", "closed: DATA", (get(), answered, body(), reset(CLOSED))),
    ("5.1", "closed: HEADERS", (get(), answered, get(), away(CLOSED))),
    ("5.1", "closed: CONTINUATION", (get(), answered, rest(MORE), away(CLOSED, PROTOCOL))),
    ("5.1.1", "a stream with an even number", (get(2), away(PROTOCOL))),
    ("5.1.1", "a stream with a smaller number than the last", (get(5), get(3), away(PROTOCOL))),
    ("5.1.1", "HEADERS for a half-closed stream", (get(5), get(5), reset(CLOSED, stream=5))),
    ("5.1.2", "more streams than SETTINGS_MAX_CONCURRENT_STREAMS", (too_many,)),
    ("5.3.1", "HEADERS that depend on themselves", (prioritised(1), reset(PROTOCOL))),
    ("5.3.1", "PRIORITY that depends on itself", (priority(1, 1), reset(PROTOCOL))),
    ("6.1", "DATA on stream 0", (body(stream=0), away(PROTOCOL))),
    ("6.1", "DATA on a stream that is not open", (frame(HEADERS, 5, 1, COMMON_POST), body(), reset(CLOSED))),
    ("6.1", "DATA with more padding than frame", (post(), frame(0, 9, 1, b"\x06test"), away(PROTOCOL))),
    ("6.2", "HEADERS without END_HEADERS, then PRIORITY", (POST_BEGUN, priority(1), away(PROTOCOL))),
    ("6.2", "HEADERS without END_HEADERS, then another stream's", (POST_BEGUN, get(3), away(PROTOCOL))),
    ("6.2", "HEADERS on stream 0", (get(0), away(PROTOCOL))),
    (
        "6.2",
        "HEADERS with more padding than frame",
        (frame(HEADERS, 5 | PADDED, 1, bytes([len(COMMON) + 2]) + COMMON), reset(PROTOCOL)),
    ),
    ("6.3", "PRIORITY on stream 0", (priority(0), away(PROTOCOL))),
    ("6.3", "PRIORITY of 4 bytes", (get(), frame(PRIORITY, 0, 1, b"\x80\0\0\1"), reset(SIZE))),
    ("6.3", "PRIORITY for an idle stream above the request's (strict)", (priority(3), get(), answered)),
    ("6.4", "RST_STREAM on stream 0", (rst(0), away(PROTOCOL))),
    ("6.4", "RST_STREAM for an idle stream", (rst(1), away(PROTOCOL))),
    ("6.4", "RST_STREAM of 3 bytes", (get(), frame(RST, 0, 1, bytes(3)), reset(SIZE))),
    ("6.9", "WINDOW_UPDATE of 0", (window(0, 0), away(PROTOCOL))),
    ("6.9", "WINDOW_UPDATE of 0 on a stream", (OPEN, window(1, 0), reset(PROTOCOL))),
    ("6.9", "WINDOW_UPDATE of 3 bytes", (frame(WINDOW, 0, 0, b"\0\0\1"), away(SIZE))),
    ("6.9.1", "a window of 1, then a request", (settings(window=1), settled, get(), comes(1))),
    ("6.9.1", "a connection's window above 2^31-1", (window(0, MOST), window(0, MOST), away(FLOW))),
    ("6.9.1", "a stream's window above 2^31-1", (OPEN, window(1, MOST), window(1, MOST), reset_itself(FLOW))),
    (
        "6.9.2",
        "a window that grows behind the request",
        (settings(window=0), settled, get(), settings(window=1), comes(1)),
    ),
    (
        "6.9.2",
        "a window that becomes negative",
        (settings(window=3), settled, get(), comes(3), settings(window=2), settled, window(1, 2), comes(1)),
    ),
    ("6.9.2", "SETTINGS that make a window too large", (settings(window=1 << 31), away(FLOW))),
    ("6.10", "several CONTINUATION frames", (BEGUN, rest(MORE, end=False), rest(MORE), answered)),
    ("6.10", "CONTINUATION, then DATA", (POST_BEGUN, rest(MORE, end=False), body(), away(PROTOCOL))),
    ("6.10", "CONTINUATION on stream 0", (BEGUN, rest(MORE, 0), away(PROTOCOL))),
    ("6.10", "CONTINUATION behind a complete HEADERS", (get(), rest(MORE), away(PROTOCOL))),
    ("6.10", "CONTINUATION behind a complete one", (BEGUN, rest(MORE), rest(MORE), away(PROTOCOL))),
    (
        "6.10",
        "CONTINUATION behind DATA",
        (POST_BEGUN, body(), rest(MORE, end=False), rest(MORE, 0), away(PROTOCOL)),
    ),
)
