"""What h2spec does not ask: RFC 9113 where it says more than RFC 7540, RFC 8441, and RFC 7541 over time."""

from __future__ import annotations

from hpack import InvalidTableSizeError

from tests.e2e.http2_cases_messages import AUTHORITY, GET, METHOD, PATH, POST, SCHEME, malformed
from tests.e2e.http2_right import Case, Step, alive, answered, answers, away, cases, closed, reset, settled
from tests.e2e.http2_wire import (
    CALM,
    CLOSED,
    COMMON,
    COMPRESSION,
    FLOW,
    HOST,
    PREFACE,
    PROTOCOL,
    SIZE,
    Wire,
    body,
    fields,
    get,
    goaway,
    padded,
    post,
    rest,
    trailers,
)
from tests.wire.http2_talk import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PING,
    PRIORITY,
    RST,
    SETTINGS,
    WINDOW,
    block,
    frame,
    literal,
    rst,
    settings,
    window,
)

KEPT, KEPT_AGAIN = b"\x40\x06x-kept\x03yes", b"\xbe"
"""A field that is put into the table, and a reference to it."""
LENGTH = b"content-length"


def greeting_by_the_byte(wire: Wire) -> None:
    for octet in PREFACE + settings() + get():
        wire.send(bytes([octet]))
    answered(wire)


def small_table(wire: Wire) -> None:
    """The client's table becomes smaller, and the server takes note (§4.3.1): no head may say otherwise."""
    wire.send(settings(table=0))
    settled(wire)
    wire.decoder.max_allowed_table_size = 0
    wire.send(get())
    try:
        answered(wire)
    except InvalidTableSizeError:
        raise AssertionError("the table's new size was not acknowledged in the head") from None


def no_window_is_lost(wire: Wire) -> None:
    """Bodies that nobody wants are four times what the connection's window holds."""
    nobody = ((b":method", b"POST"), SCHEME, PATH, (b":authority", b"nobody"))
    for stream in range(1, 256, 2):
        wire.send(fields(*nobody, stream=stream, end=False))
        for _ in range(4):
            while wire.room < 16384:
                assert wire.want().kind != GOAWAY
            wire.send(body(bytes(16384), stream, end=False))
            wire.room -= 16384
        wire.send(body(b"", stream))
    alive(wire)


def no_window_is_lost_behind_a_reset(wire: Wire) -> None:
    """As much as may be under way when a stream is reset, nine times; requests in between pay for it."""
    streams = iter(range(1, 1000, 2))
    for _ in range(9):
        broken = next(streams)
        wire.send(fields(*POST, (b"te", b"x"), stream=broken, end=False))
        for _ in range(wire.settings[4] // 16384):
            while wire.room < 16384:
                assert wire.want().kind != GOAWAY
            wire.send(body(bytes(16384), broken, end=False))
            wire.room -= 16384
        for stream, _ in zip(streams, range(10), strict=False):
            wire.send(get(stream))
            while (one := wire.want()).stream != stream or not one.flags & END_STREAM:
                assert one.kind != GOAWAY


def too_much(wire: Wire) -> None:
    """More than a stream's window for a tunnel that does not exist yet, so that nobody takes it."""
    connect = ((b":method", b"CONNECT"), (b":protocol", b"websocket"))
    wire.send(fields(*connect, SCHEME, (b":path", b"/stalled"), AUTHORITY, end=False))
    wire.send(body(bytes(16384), end=False) * (wire.settings[4] // 16384))
    alive(wire)
    wire.send(body(b"x", end=False))
    reset(FLOW)(wire)


def trailing(*pairs: tuple[bytes, bytes]) -> tuple[Step, ...]:
    """These trailers reset the stream."""
    return post(), body(end=False), trailers(*pairs), reset(PROTOCOL)


def refused(wire: Wire) -> None:
    """A stream error or an answer of ours, as long as it is a refusal."""
    one = wire.want()
    while one.kind not in (HEADERS, RST):
        one = wire.want()
    assert one.kind == RST or wire.fields(one)[0] == (b":status", b"400")


def with_fields(*pairs: tuple[bytes, bytes], status: bytes = b"200") -> tuple[Step, ...]:
    return fields(*GET, *pairs), answers(status)


FRAMES: list[Case] = cases(
    ("3.4", "everything byte by byte", (greeting_by_the_byte,)),
    ("3.4", "no SETTINGS in the preface", (PREFACE + frame(PING, payload=bytes(8)), away(PROTOCOL))),
    ("3.4", "an acknowledgement in place of SETTINGS", (PREFACE + frame(SETTINGS, ACK), away(PROTOCOL))),
    ("3.4", "a request in place of SETTINGS", (PREFACE + get(), away(PROTOCOL))),
    ("4.2", "a frame of unknown type above the limit", (frame(200, 0, 0, bytes(16385)), away(SIZE))),
    ("4.2", "a frame of unknown type up to the limit", (frame(200, 255, 7, bytes(16384)), alive)),
    ("4.2", "SETTINGS of 7 bytes", (frame(SETTINGS, 0, 0, bytes(7)), away(SIZE))),
    ("4.2", "GOAWAY of 7 bytes", (frame(GOAWAY, 0, 0, bytes(7)), away(SIZE))),
    ("4.2", "PING of 9 bytes", (frame(PING, 0, 0, bytes(9)), away(SIZE))),
    ("4.2", "RST_STREAM of 5 bytes", (get(flags=END_HEADERS), frame(RST, 0, 1, bytes(5)), reset(SIZE))),
    ("4.2", "WINDOW_UPDATE of 5 bytes", (frame(WINDOW, 0, 0, b"\0\0\0\1\0"), away(SIZE))),
    ("4.2", "PRIORITY of 6 bytes", (frame(PRIORITY, 0, 1, bytes(6)), reset(SIZE))),
    ("4.3.1", "a table that becomes smaller", (small_table,)),
    ("5.1", "closed: WINDOW_UPDATE", (get(), answered, window(1, 100), alive)),
    ("5.1", "closed: RST_STREAM", (get(), answered, rst(1), alive)),
    ("5.1", "reset by us: DATA under way", (*malformed(*POST, (b"te", b"x")), alive)),
    ("5.1.1", "the highest number", (get((1 << 31) - 1), answers(b"200", (1 << 31) - 1))),
    ("5.1.1", "HEADERS again, behind a gap", (get(5), answers(b"200", 5), get(5), away(CLOSED))),
    ("5.1.1", "WINDOW_UPDATE for what was left out", (get(5), answers(b"200", 5), window(3, 1), alive)),
    ("5.1.1", "DATA for what was left out", (get(5), body(stream=3), reset(CLOSED, PROTOCOL, stream=3))),
    ("5.2", "windows of bodies that nobody wants come back", (no_window_is_lost,)),
    ("5.2", "windows of bodies behind a reset come back", (no_window_is_lost_behind_a_reset,)),
    ("5.2.2", "more DATA than the window", (too_much,)),
    ("5.5", "PRIORITY_UPDATE (RFC 9218)", (frame(16, 0, 0, b"\0\0\0\1u=1"), get(), answered)),
    ("5.5", "ORIGIN and ALTSVC from a client", (frame(12), frame(10), get(), answered)),
    ("6.1", "DATA of padding only", (post(), padded(DATA, 0, b"", 255), body(), answered)),
    ("6.1", "DATA of padding only at the end", (post(), padded(DATA, END_STREAM, b"", 0), answered)),
    ("6.1", "DATA with PADDED and no length of it", (post(), frame(DATA, 9, 1), away(PROTOCOL, SIZE))),
    ("6.2", "HEADERS with PADDED and nothing else", (frame(HEADERS, 13, 1), away(PROTOCOL, SIZE))),
    (
        "6.2",
        "HEADERS with PRIORITY and no room for it",
        (frame(HEADERS, 0x25, 1, b"\0"), away(PROTOCOL, SIZE)),
    ),
    ("6.2", "HEADERS with undefined flags", (get(flags=0xD2 | 5), answered)),
    ("6.5", "SETTINGS without parameters", (frame(SETTINGS), settled)),
    ("6.5", "SETTINGS_ENABLE_CONNECT_PROTOCOL of 2 (RFC 8441)", (settings(connect=2), away(PROTOCOL))),
    ("6.5.3", "an acknowledgement nobody waits for", (frame(SETTINGS, ACK), alive)),
    ("6.8", "GOAWAY: what was asked before is answered", (get() + goaway(), answered, closed)),
    ("6.9", "WINDOW_UPDATE with the reserved bit", (window(0, 1 << 31 | 1), alive)),
    ("6.10", "a block in 17 frames", (get(flags=1), rest(b"", end=False) * 15, rest(b""), answered)),
    ("6.10", "a block in 18 frames", (get(flags=1), rest(b"", end=False) * 17, away(CALM))),
)

TABLES: list[Case] = cases(
    ("hpack 2.2", "the table lasts", (get(1, KEPT), answered, get(3, KEPT_AGAIN), answers(b"200", 3))),
    (
        "hpack 2.2",
        "the table is filled by a request that is malformed",
        (get(1, KEPT + literal(b"te", b"x")), reset(PROTOCOL), get(3, KEPT_AGAIN), answers(b"200", 3)),
    ),
    (
        "hpack 2.2",
        "the table is filled by a request that is refused",
        (frame(HEADERS, 5, 1, block([*GET[:3], (b":authority", b"nobody")]) + KEPT), answers(b"404")),
    ),
    (
        "hpack 2.2",
        "the table is filled by trailers",
        (
            post(),
            body(end=False),
            frame(HEADERS, 5, 1, KEPT),
            answered,
            get(3, KEPT_AGAIN),
            answers(b"200", 3),
        ),
    ),
    (
        "hpack 4.1",
        "a field larger than the table empties it",
        (
            get(1, KEPT),
            answered,
            get(3, b"\x40\x01x\x7f\xa1\x1f" + b"v" * 4128 + KEPT_AGAIN),
            away(COMPRESSION),
        ),
    ),
    (
        "hpack 4.3",
        "a size of 0 empties the table",
        (get(1, KEPT), answered, frame(HEADERS, 5, 3, b"\x20" + COMMON + KEPT_AGAIN), away(COMPRESSION)),
    ),
    (
        "hpack 4.2",
        "a table's size three times",
        (frame(HEADERS, 5, 1, b"\x20\x20\x20" + COMMON), away(COMPRESSION)),
    ),
    ("hpack 5.1", "a number above 2^28", (get(1, b"\xff\xff\xff\xff\xff\x7f"), away(COMPRESSION))),
    ("hpack 5.1", "a number that never ends", (get(1, b"\xff" + b"\x80" * 300), away(COMPRESSION))),
    ("hpack 5.2", "a string longer than its block", (get(1, b"\0\x01x\x7eabc"), away(COMPRESSION))),
)

FIELDS: list[Case] = cases(
    ("8.1", "trailers with a pseudo-header field", trailing((b":path", b"/"))),
    ("8.1", "trailers in upper case", trailing((b"X-A", b"b"))),
    ("8.1", "trailers that frame", trailing((LENGTH, b"4"))),
    ("8.1", "trailers of a connection", trailing((b"connection", b"close"))),
    ("8.1.1", "Content-Length without a body", malformed(*POST, (LENGTH, b"5"))),
    ("8.1.1", "Content-Length of 0 without a body", with_fields((LENGTH, b"0"))),
    ("8.1.1", "Content-Length twice", malformed(*POST, (LENGTH, b"0"), (LENGTH, b"5"))),
    ("8.1.1", "Content-Length with a sign", malformed(*POST, (LENGTH, b"+0"))),
    (
        "8.1.1",
        "trailers before the length is reached",
        (post(1, literal(LENGTH, b"9")), body(end=False), trailers((b"a", b"b")), reset(PROTOCOL)),
    ),
    ("8.2", "an empty name", malformed(*GET, (b"", b"x"))),
    *[
        ("8.2.1", f"a name with {octet!r}", malformed(*GET, (b"x" + octet + b"y", b"z")))
        for octet in (b"\0", b"\r", b"\n", b" ", b"\t", b":", b"\x7f", b"\xff", b'"', b"(")
    ],
    *[
        ("8.2.1", f"a value with {octet!r}", malformed(*GET, (b"x", b"y" + octet + b"z")))
        for octet in (b"\0", b"\r", b"\n", b"\r\n")
    ],
    *[
        ("8.2.1", f"the value {value!r}", malformed(*GET, (b"x", value)))
        for value in (b" x", b"x ", b"\tx", b"x\t")
    ],
    *[
        ("8.2.2", f"{name.decode()} in a request", malformed(*GET, (name, b"x")))
        for name in (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade")
    ],
    ("8.2.2", "te: trailers", with_fields((b"te", b"trailers"))),
    ("8.2.3", "crumbs of a cookie", with_fields((b"cookie", b"a=b"), (b"cookie", b"c=d"))),
    ("8.3.1", "a scheme that is none of ours", malformed(METHOD, (b":scheme", b"ftp"), PATH, AUTHORITY)),
    ("8.3.1", "no :authority but Host", (fields(*GET[:3], (b"host", HOST)), answered)),
    ("8.3.1", ":authority and the same Host", with_fields((b"host", HOST))),
    ("8.3.1", ":authority and another Host", malformed(*GET, (b"host", b"a.test"))),
    (
        "8.3.1",
        "user and password in :authority",
        (fields(*GET[:3], (b":authority", b"u:p@" + HOST)), refused),
    ),
    ("8.3.1", "a path without /", malformed(METHOD, SCHEME, (b":path", b"x"), AUTHORITY)),
    ("8.3.1", "a path of another host", malformed(METHOD, SCHEME, (b":path", b"http://a.test/"), AUTHORITY)),
    ("8.3.1", "a path with a space", malformed(METHOD, SCHEME, (b":path", b"/a b"), AUTHORITY)),
    ("8.3.1", "a path with a line break", malformed(METHOD, SCHEME, (b":path", b"/\r\nx: y"), AUTHORITY)),
    ("8.3.1", "* for anything but OPTIONS", malformed(METHOD, SCHEME, (b":path", b"*"), AUTHORITY)),
    ("8.3.1", "a method with a space", malformed((b":method", b"GET /"), SCHEME, PATH, AUTHORITY)),
    ("8.3.1", "an empty method", malformed((b":method", b""), SCHEME, PATH, AUTHORITY)),
    ("8.5", "CONNECT", (fields((b":method", b"CONNECT"), (b":authority", HOST + b":1")), answers(b"405"))),
    ("8.5", "CONNECT with a path", malformed((b":method", b"CONNECT"), SCHEME, PATH, AUTHORITY)),
    ("RFC 8441", ":protocol without CONNECT", malformed(*GET, (b":protocol", b"websocket"))),
    (
        "RFC 8441",
        "a protocol that nobody knows",
        (fields((b":method", b"CONNECT"), (b":protocol", b"x"), *GET[1:]), answers(b"501")),
    ),
    (
        "RFC 8441",
        "CONNECT for a WebSocket without a path",
        malformed((b":method", b"CONNECT"), (b":protocol", b"websocket"), SCHEME, AUTHORITY),
    ),
)
