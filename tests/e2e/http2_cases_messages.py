"""What h2spec asks about messages and HPACK: its chapters generic and hpack, and http2 from 7 to 8.2.

As in `http2_cases_frames`. Literals in Huffman's code are written down as they are on the wire; the texts
are `user-agent: h2spec` and `x-test: h2spec`, in the comments' words.
"""

from __future__ import annotations

from tests.e2e.http2_right import (
    Case,
    Step,
    alive,
    answered,
    away,
    begins,
    cases,
    closed,
    comes,
    greeted,
    reset,
    settled,
)
from tests.e2e.http2_wire import (
    CANCEL,
    COMMON,
    COMPRESSION,
    HOST,
    PREFACE,
    PROTOCOL,
    body,
    fields,
    get,
    goaway,
    padded,
    post,
    prioritised,
    priority,
    rest,
    trailers,
)
from tests.wire.http2_talk import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PUSH,
    frame,
    literal,
    rst,
    settings,
    window,
)

METHOD, SCHEME, PATH = (b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/")
AUTHORITY = (b":authority", HOST)
GET = (METHOD, SCHEME, PATH, AUTHORITY)
POST = ((b":method", b"POST"), *GET[1:])
LENGTH_1 = post(1, literal(b"content-length", b"1"))
BOTH = END_HEADERS | END_STREAM

NAME, NAME_HUFFMAN = b"\x0auser-agent", b"\x87\xb5\x05\xb1\x61\xcc\x5a\x93"
NEW, NEW_HUFFMAN = b"\x06x-test", b"\x85\xf2\xb2\x4a\x84\xff"
VALUE, VALUE_HUFFMAN = b"\x06h2spec", b"\x84\x9c\x48\xac\xa4"
INDEXED, WITHOUT, NEVER = b"\x40", b"\0", b"\x10"


def with_head(octets: bytes) -> tuple[Step, ...]:
    """A request with this in its block is answered."""
    return get(1, octets), answered


def damaged(octets: bytes, *, before: bytes = b"") -> tuple[Step, ...]:
    """A request with this in its block, or before it, cannot be decoded."""
    return frame(HEADERS, BOTH, 1, before + COMMON + octets), away(COMPRESSION)


def malformed(*pairs: tuple[bytes, bytes]) -> tuple[Step, ...]:
    """A request with these fields resets its stream."""
    return fields(*pairs), reset(PROTOCOL)


GENERIC: list[Case] = cases(
    ("generic 1", "the preface: SETTINGS come first", (PREFACE + settings(window=65535), greeted)),
    ("generic 2", "idle: PRIORITY", (priority(1), alive)),
    (
        "generic 2",
        "half-closed: WINDOW_UPDATE",
        (settings(window=0), get(), window(1, 1), comes(1)),
    ),
    (
        "generic 2",
        "half-closed: PRIORITY",
        (settings(window=0), get(), priority(1), window(1, 1), comes(1)),
    ),
    ("generic 2", "half-closed: RST_STREAM", (get(), rst(1, CANCEL), alive)),
    ("generic 2", "closed: PRIORITY", (get(), answered, priority(1), alive)),
    ("generic 3.1", "DATA", (post(), body(), answered)),
    ("generic 3.1", "several DATA", (post(), body(end=False), body(), answered)),
    ("generic 3.1", "DATA with padding", (post(), padded(DATA, END_STREAM, b"test", 6), answered)),
    ("generic 3.2", "HEADERS", (get(), answered)),
    ("generic 3.2", "HEADERS with padding", (padded(HEADERS, BOTH, COMMON, 8), answered)),
    ("generic 3.2", "HEADERS with a priority", (prioritised(), answered)),
    ("generic 3.3", "PRIORITY with weight 1", (priority(1, weight=0), get(), answered)),
    ("generic 3.3", "PRIORITY with weight 256", (priority(1), get(), answered)),
    ("generic 3.3", "PRIORITY that depends on a stream", (priority(3, 1), get(), answered)),
    ("generic 3.3", "PRIORITY that is exclusive", (priority(1, 1 << 31), get(), answered)),
    ("generic 3.3", "PRIORITY for a stream above the request's", (priority(3), get(), answered)),
    ("generic 3.4", "RST_STREAM", (get(flags=END_HEADERS), rst(1), alive)),
    (
        "generic 3.5",
        "SETTINGS with every parameter",
        (settings(table=4096, push=1, streams=100, window=65535, frame=16384, list=100), settled),
    ),
    ("generic 3.7", "PING", (alive,)),
    ("generic 3.8", "GOAWAY", (goaway(payload=bytes(8) + b"goodbye"), closed)),
    ("generic 3.9", "WINDOW_UPDATE on stream 0", (window(0, 1), alive)),
    ("generic 3.9", "WINDOW_UPDATE on a stream", (get(), window(1, 1), answered)),
    (
        "generic 3.10",
        "CONTINUATION",
        (frame(HEADERS, END_STREAM, 1, COMMON[:5]), rest(COMMON[5:]), answered),
    ),
    (
        "generic 3.10",
        "several CONTINUATION",
        (frame(HEADERS, END_STREAM, 1, COMMON[:5]), rest(COMMON[5:7], end=False), rest(COMMON[7:]), answered),
    ),
    ("generic 4", "GET", (get(), answered)),
    ("generic 4", "HEAD", (fields((b":method", b"HEAD"), *GET[1:]), answered)),
    ("generic 4", "POST", (post(), body(), answered)),
    (
        "generic 4",
        "POST with trailers",
        (
            fields(*POST, (b"trailer", b"x-test"), end=False),
            body(end=False),
            trailers((b"x-test", b"ok")),
            begins,
        ),
    ),
    ("generic 5", "a field by its number", with_head(b"\xba")),
    ("generic 5", "kept, known name", with_head(b"\x7a" + VALUE)),
    ("generic 5", "kept, known name in Huffman's code", with_head(INDEXED + NAME_HUFFMAN + VALUE_HUFFMAN)),
    ("generic 5", "kept, new name", with_head(INDEXED + NEW + VALUE)),
    ("generic 5", "kept, new name in Huffman's code", with_head(INDEXED + NEW_HUFFMAN + VALUE_HUFFMAN)),
    ("generic 5", "not kept, known name", with_head(WITHOUT + NAME + VALUE)),
    (
        "generic 5",
        "not kept, known name in Huffman's code",
        with_head(WITHOUT + NAME_HUFFMAN + VALUE_HUFFMAN),
    ),
    ("generic 5", "not kept, new name", with_head(WITHOUT + NEW + VALUE)),
    ("generic 5", "not kept, new name in Huffman's code", with_head(WITHOUT + NEW_HUFFMAN + VALUE_HUFFMAN)),
    ("generic 5", "never kept, known name", with_head(NEVER + NAME + VALUE)),
    (
        "generic 5",
        "never kept, known name in Huffman's code",
        with_head(NEVER + NAME_HUFFMAN + VALUE_HUFFMAN),
    ),
    ("generic 5", "never kept, new name", with_head(NEVER + NEW + VALUE)),
    ("generic 5", "never kept, new name in Huffman's code", with_head(NEVER + NEW_HUFFMAN + VALUE_HUFFMAN)),
    ("generic 5", "a table's size", (frame(HEADERS, BOTH, 1, b"\x20" + COMMON), answered)),
    ("generic 5", "a table's size twice", (frame(HEADERS, BOTH, 1, b"\x20\x3f\xe1\x1f" + COMMON), answered)),
)

HPACK: list[Case] = cases(
    ("hpack 2.3.3", "a number that no field has", damaged(b"\xc6")),
    ("hpack 2.3.3", "a name's number that no field has", damaged(b"\x7f\x07\0")),
    ("hpack 4.2", "a table's size behind the fields", damaged(b"\x21")),
    (
        "hpack 5.2",
        "Huffman's code with padding of a byte",
        damaged(WITHOUT + NEW_HUFFMAN + b"\x84\x49\x50\x9f\xff"),
    ),
    (
        "hpack 5.2",
        "Huffman's code with padding of zeros",
        damaged(WITHOUT + NEW_HUFFMAN + b"\x83\x49\x50\x90"),
    ),
    (
        "hpack 5.2",
        "Huffman's code with EOS in it",
        damaged(WITHOUT + b"\x85\xf2\xb2\x4a\x87\x84\xff\xff\xff\xfd\x25\x42\x7f"),
    ),
    ("hpack 6.1", "the number 0", damaged(b"\x80")),
    ("hpack 6.3", "a table's size above SETTINGS_HEADER_TABLE_SIZE", damaged(b"", before=b"\x3f\xe2\x1f")),
)

MESSAGES: list[Case] = cases(
    ("7", "GOAWAY with an unknown code", (goaway(0xFF), closed)),
    ("7", "RST_STREAM with an unknown code", (post(), rst(1, 0xFF), alive)),
    (
        "8.1",
        "a second HEADERS without END_STREAM",
        (post(), body(end=False), trailers((b"x-test", b"ok"), end=False), reset(PROTOCOL)),
    ),
    ("8.1.2", "a name in upper case", malformed(*GET, (b"X-TEST", b"ok"))),
    ("8.1.2.1", "an unknown pseudo-header field", malformed(*GET, (b":test", b"ok"))),
    ("8.1.2.1", "the pseudo-header field of a response", malformed(*GET, (b":status", b"200"))),
    (
        "8.1.2.1",
        "a pseudo-header field in trailers",
        (post(), body(end=False), trailers((b":method", b"POST"), end=False), reset(PROTOCOL)),
    ),
    ("8.1.2.1", "a pseudo-header field behind another field", malformed((b"x-test", b"ok"), *GET)),
    ("8.1.2.2", "a field of the connection", malformed(*GET, (b"connection", b"keep-alive"))),
    ("8.1.2.2", "TE with anything but trailers", malformed(*GET, (b"te", b"trailers, deflate"))),
    ("8.1.2.3", "an empty :path", malformed(METHOD, SCHEME, (b":path", b""), AUTHORITY)),
    ("8.1.2.3", "no :method", malformed(SCHEME, PATH, AUTHORITY)),
    ("8.1.2.3", "no :scheme", malformed(METHOD, PATH, AUTHORITY)),
    ("8.1.2.3", "no :path", malformed(METHOD, SCHEME, AUTHORITY)),
    ("8.1.2.3", ":method twice", malformed(*GET, METHOD)),
    ("8.1.2.3", ":scheme twice", malformed(*GET, SCHEME)),
    ("8.1.2.3", ":path twice", malformed(*GET, PATH)),
    ("8.1.2.6", "DATA of another length than Content-Length", (LENGTH_1, body(), reset(PROTOCOL))),
    ("8.1.2.6", "several DATA of another length", (LENGTH_1, body(end=False), body(), reset(PROTOCOL))),
    ("8.2", "PUSH_PROMISE", (frame(PUSH, END_HEADERS, 1, b"\0\0\0\3" + COMMON), away(PROTOCOL))),
)
