"""The ClientHello reader: hellos in any split, limits, and every malformed one with its alert.

Hellos of real clients, and the property tests, are in tests/fuzz/test_wire_clienthello.py.
"""

import time
from collections.abc import Iterable, Iterator

import pytest

from rproxy.errors import HelloTooLarge, Refusal
from rproxy.wire.clienthello import MAX_HELLO, ClientHello, HelloReader, looks_like_http


def vec(width: int, content: bytes) -> bytes:
    return len(content).to_bytes(width) + content


def extension(kind: int, content: bytes = b"") -> bytes:
    return kind.to_bytes(2) + vec(2, content)


def sni(*entries: tuple[int, bytes]) -> bytes:
    return extension(0, vec(2, b"".join(bytes([kind]) + vec(2, name) for kind, name in entries)))


def alpn(*names: bytes) -> bytes:
    return extension(16, vec(2, b"".join(vec(1, name) for name in names)))


def versions(*values: int) -> bytes:
    return extension(43, vec(1, b"".join(value.to_bytes(2) for value in values)))


def message(
    *extensions: bytes,
    block: bytes | None = None,
    session: bytes = bytes(32),
    ciphers: bytes = b"\x13\x01\x13\x02",
    compression: bytes = b"\0",
) -> bytes:
    """A handshake message with a ClientHello; `block` replaces the extension block, b"" leaves it out."""
    head = b"\x03\x03" + bytes(32) + vec(1, session) + vec(2, ciphers) + vec(1, compression)
    return b"\x01" + vec(3, head + (vec(2, b"".join(extensions)) if block is None else block))


def records(content: bytes, size: int = 16384, version: bytes = b"\x03\x01") -> bytes:
    pieces = (content[at : at + size] for at in range(0, len(content), size))
    return b"".join(b"\x16" + version + vec(2, piece) for piece in pieces)


NAME = sni((0, b"example.org"))
FULL = message(NAME, alpn(b"h2", b"http/1.1"), versions(0x0304, 0x0303))
WANTED = ClientHello("example.org", (b"h2", b"http/1.1"), (0x0304, 0x0303))


def read(pieces: Iterable[bytes], limit: int = MAX_HELLO) -> ClientHello | int | None:
    """What a reader makes of the pieces: a hello, None, or the alert of its refusal."""
    reader = HelloReader(limit)
    for piece in pieces:
        try:
            hello = reader.feed(piece)
        except Refusal as refusal:
            return refusal.alert
        if hello is not None:
            return hello
    return None


def bytewise(raw: bytes) -> Iterator[bytes]:
    return (raw[at : at + 1] for at in range(len(raw)))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 37, 100, 16384])
def test_any_record_size_and_any_segment_size_give_the_same_hello(size: int) -> None:
    """S-7."""
    raw = records(FULL, size)
    assert read([raw]) == WANTED
    assert read(bytewise(raw)) == WANTED
    assert all(read([raw[:cut], raw[cut:]]) == WANTED for cut in range(len(raw) + 1))


def test_no_hello_before_its_last_byte() -> None:
    for raw in (records(FULL), records(FULL, 10)):
        assert read([raw[:-1]]) is None
        assert read(bytewise(raw[:-1])) is None


@pytest.mark.parametrize(
    "trailing", [b"\x14\x03\x03\x00\x01\x01", b"\x17\x03\x03\x00\x05early", bytes(70000)]
)
def test_bytes_behind_the_hello_are_kept_and_not_judged(trailing: bytes) -> None:
    reader = HelloReader()
    assert reader.feed(records(FULL) + trailing) == WANTED
    assert reader.received == records(FULL) + trailing


def test_a_hello_is_complete_before_its_record_is() -> None:
    raw = b"\x16\x03\x01" + (len(FULL) + 50).to_bytes(2) + FULL
    assert read([raw]) == read(bytewise(raw)) == WANTED
    assert read([raw + bytes(50)]) == read([raw[:40], raw[40:] + bytes(50)]) == WANTED


def test_every_byte_read_is_returned_unmodified() -> None:
    """S-6: whatever the records look like, the peer gets what the client sent."""
    raw = records(FULL, 13, version=b"\xfe\x77") + b"behind"
    for cut in (0, 1, 6, 40, len(raw) - 7):
        reader = HelloReader()
        reader.feed(raw[:cut])
        assert reader.received == raw[:cut]
        assert reader.feed(raw[cut:]) == WANTED
        assert reader.received == raw


@pytest.mark.parametrize("version", [b"\x03\x01", b"\x03\x03", b"\x00\x00", b"\xff\xff"])
def test_record_version_is_ignored(version: bytes) -> None:
    """S-7; a first hello usually says 3.1 and a retried one 3.3."""
    assert read([records(FULL, version=version)]) == WANTED


GREASE = 0x3A3A
PASSING = {
    "no extension block": (message(block=b""), ClientHello(None, (), (0x0303,))),
    "empty extension block": (message(), ClientHello(None, (), (0x0303,))),
    "no name": (message(alpn(b"h2")), ClientHello(None, (b"h2",), (0x0303,))),
    "only other name types": (message(sni((1, b"x"), (255, b""))), ClientHello(None, (), (0x0303,))),
    "first host_name wins": (
        message(sni((7, b"\0\xff"), (0, b"A.example"), (0, b"b.example"))),
        ClientHello("a.example", (), (0x0303,)),
    ),
    "no session id": (message(NAME, session=b""), ClientHello("example.org", (), (0x0303,))),
    "longest ALPN name": (message(alpn(b"x" * 255)), ClientHello(None, (b"x" * 255,), (0x0303,))),
    "GREASE": (
        message(
            extension(GREASE),
            NAME,
            alpn(b"\x3a\x3a", b"h2"),
            versions(GREASE, 0x0304, 0xFAFA),
            extension(0x4A4A, b"\0"),
            ciphers=b"\x0a\x0a\x13\x01",
        ),
        ClientHello("example.org", (b"\x3a\x3a", b"h2"), (0x0304,)),
    ),
    "post-quantum key share and ECH outer hello": (
        message(
            extension(10, vec(2, b"\x11\xec\x00\x1d")),
            NAME,
            extension(0xFE0D, b"\0\0\1\0\1\x55" + vec(2, bytes(32)) + vec(2, bytes(239))),
            extension(51, vec(2, b"\x11\xec" + vec(2, bytes(1216)) + b"\x00\x1d" + vec(2, bytes(32)))),
            versions(0x0304),
            extension(41, bytes(300)),
        ),
        ClientHello("example.org", (), (0x0304,)),
    ),
}


@pytest.mark.parametrize("case", PASSING)
def test_what_tls_allows_is_read(case: str) -> None:
    """S-8, S-9 and W-13: one record, many records, byte by byte, and cut at every place."""
    content, expected = PASSING[case]
    raw = records(content)
    assert read([raw]) == read([records(content, 100)]) == read(bytewise(raw)) == expected
    assert all(read([raw[:cut], raw[cut:]]) == expected for cut in range(1, len(raw)))


@pytest.mark.parametrize(
    ("sent", "name"),
    [
        (b"under_score.org", None),
        (b"a.org.", None),
        (b"-a.org", None),
        (b"192.0.2.7", "192.0.2.7"),
        (b"B-.ORG", "b-.org"),
    ],
)
def test_a_name_that_breaks_the_rules_is_kept_apart(sent: bytes, name: str | None) -> None:
    """S-10: the hello is well-formed, so whoever routes it decides."""
    hello = HelloReader().feed(records(message(sni((0, sent)))))
    assert hello == ClientHello(name, (), (0x0303,), sent if name is None else b"")


@pytest.mark.parametrize(
    ("length", "usable"), [(0, False), (1, True), (254, True), (255, False), (9000, False)]
)
def test_names_above_254_bytes_are_unusable(length: int, usable: bool) -> None:
    """S-9."""
    hello = HelloReader().feed(records(message(sni((0, b"a" * length)))))
    assert hello == ClientHello(
        "a" * length if usable else None, (), (0x0303,), b"" if usable else b"a" * length
    )


def resized(content: bytes, by: int) -> bytes:
    """A handshake message cut or padded at its end, with its own length right again."""
    body = content[4:by] if by < 0 else content[4:] + bytes(by)
    return b"\x01" + vec(3, body)


MALFORMED = {
    "session id of 33": message(NAME, session=bytes(33)),
    "no ciphers": message(NAME, ciphers=b""),
    "odd ciphers": message(NAME, ciphers=b"\x13\x01\x13"),
    "no compression": message(NAME, compression=b""),
    "empty hello": b"\x01\0\0\0",
    "ends in the random": resized(FULL, 20 - len(FULL)),
    "ends in the ciphers": resized(FULL, 75 - len(FULL)),
    "one byte of extension length": message(block=b"\0"),
    "extension block too short": message(block=(len(NAME) - 1).to_bytes(2) + NAME),
    "extension block too long": message(block=(len(NAME) + 1).to_bytes(2) + NAME),
    "a byte behind the extensions": resized(FULL, 1),
    "last byte missing": resized(FULL, -1),
    "extension overruns": message(NAME, b"\0\x17\0\x01"),
    "extension header cut": message(NAME, b"\0\x17\0"),
    "server_name without a list": message(extension(0)),
    "server_name list of one byte": message(extension(0, b"\0")),
    "empty server_name list": message(extension(0, b"\0\0")),
    "server_name list too short": message(extension(0, b"\0\x03" + b"\0\0\x01a")),
    "server_name list too long": message(extension(0, b"\0\x05" + b"\0\0\x01a")),
    "host_name overruns": message(extension(0, vec(2, b"\0\0\x02a"))),
    "host_name header cut": message(extension(0, vec(2, b"\0\0\x01a\0\0"))),
    "other name overruns": message(extension(0, vec(2, b"\0\0\x01a\x09\0\x05b"))),
    "server_name twice": message(NAME, NAME),
    "server_name twice, first of another type": message(sni((3, b"x")), NAME),
    "ALPN without a list": message(extension(16)),
    "empty ALPN list": message(extension(16, b"\0\0")),
    "ALPN list too short": message(extension(16, b"\0\x02\x02h2")),
    "ALPN list too long": message(extension(16, b"\0\x04\x02h2")),
    "ALPN name overruns": message(extension(16, vec(2, b"\x03h2"))),
    "empty ALPN name": message(alpn(b"h2", b"", b"x")),
    "empty ALPN name at the end": message(alpn(b"h2", b"")),
    "ALPN twice": message(alpn(b"h2"), NAME, alpn(b"h2")),
    "supported_versions without a list": message(extension(43)),
    "no versions": message(versions()),
    "odd versions": message(extension(43, b"\x03\x03\x04\x03")),
    "versions too short": message(extension(43, b"\x02\x03\x04\x03\x03")),
    "versions too long": message(extension(43, b"\x04\x03\x04")),
    "supported_versions twice": message(versions(0x0304), versions(0x0304)),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_lengths_that_do_not_nest_are_answered_with_decode_error(case: str) -> None:
    """S-8, S-11; nothing is said before the hello is complete."""
    for raw in (records(MALFORMED[case]), records(MALFORMED[case], 3)):
        assert read([raw]) == read(bytewise(raw)) == 50
        assert read([raw[:-1]]) is None


RECORDS = {
    "http": (b"GET / HTTP/1.1\r\n\r\n", 1, 10),
    "ssh": (b"SSH-2.0-OpenSSH_9.2\r\n", 1, 10),
    "SSLv2 hello": (b"\x80\x2e\x01\x03\x01", 1, 10),
    "alert record": (b"\x15\x03\x01\x00\x02\x02\x28", 1, 10),
    "ServerHello": (records(b"\x02" + FULL[1:]), 6, 10),
    "HelloRequest": (b"\x16\x03\x01\x00\x04\0\0\0\0", 6, 10),
    "application record inside": (records(FULL[:50]) + b"\x17" + records(FULL[50:])[1:], 56, 10),
    "empty record": (b"\x16\x03\x01\0\0" + records(FULL), 5, 50),
    "empty record inside": (records(FULL[:50]) + b"\x16\x03\x01\0\0" + records(FULL[50:]), 60, 50),
    "record of 2^14 + 1": (b"\x16\x03\x01\x40\x01" + FULL, 5, 22),
    "record of 2^16 - 1": (b"\x16\x03\x01\xff\xff" + FULL, 5, 22),
    "second record too large": (records(FULL[:1]) + b"\x16\x03\x01\x40\x01", 11, 22),
    "hello of 16 MiB": (b"\x16\x03\x01\x40\0\x01\xff\xff\xff", 9, 22),
}


@pytest.mark.parametrize("case", RECORDS)
def test_bad_records_are_refused_at_the_byte_that_shows_it(case: str) -> None:
    """S-7, S-11: `seen` bytes are enough, one less is not."""
    raw, seen, alert = RECORDS[case]
    assert read([raw]) == read([raw[:seen]]) == read(bytewise(raw)) == alert
    assert read([raw[: seen - 1]]) is None


def padded(total: int, size: int = 16384) -> bytes:
    """Records of `size` with a good hello, `total` raw bytes long."""
    overhead = 5 * -(-total // (size + 5))
    return records(message(NAME, extension(21, bytes(total - overhead - len(message(NAME)) - 4))), size)


@pytest.mark.parametrize("limit", [1000, MAX_HELLO])
def test_the_limit_counts_record_headers_and_is_reached_exactly(limit: int) -> None:
    good, large = padded(limit), padded(limit + 1)
    assert (len(good), len(large)) == (limit, limit + 1)
    assert isinstance(read([good], limit), ClientHello)
    assert isinstance(read([good[:-1], good[-1:] + b"behind"], limit), ClientHello)
    assert read([large], limit) == read([large[:9]], limit) == 22
    assert read([large[:8]], limit) is None


@pytest.mark.parametrize("limit", [1, 4, 5, 8, 20])
def test_a_limit_below_the_first_length_holds_too(limit: int) -> None:
    raw = records(FULL, 1)
    assert read([raw], limit) == read([raw[:limit]], limit) == read(bytewise(raw), limit) == 22


def test_a_length_that_only_fits_without_record_headers_is_refused_at_once() -> None:
    fits = MAX_HELLO - 4 * 5 - 4
    start = b"\x16\x03\x01\x40\x00\x01"
    assert read([start + fits.to_bytes(3)]) is None
    assert read([start + (fits + 1).to_bytes(3)]) == 22


def test_small_records_are_refused_once_the_rest_cannot_fit() -> None:
    """60,000 bytes of hello would fit, but not in records of one byte."""
    raw = records(b"\x01" + vec(3, bytes(60000)), 1)
    reader = HelloReader()
    with pytest.raises(HelloTooLarge):
        for piece in bytewise(raw):
            reader.feed(piece)
    assert len(reader.received) < 8000
    assert read([raw]) == 22


@pytest.mark.parametrize("whole", [True, False])
def test_cost_is_linear_in_the_bytes(whole: bool) -> None:
    """Records of one byte, at once or one byte per segment: 8 times the bytes may cost 16 times, not 64."""

    def seconds(total: int) -> float:
        raw = padded(total // 6 * 6, 1)
        pieces = [raw] if whole else list(bytewise(raw))
        begin = time.thread_time()
        assert isinstance(read(pieces, limit=1 << 20), ClientHello)
        return time.thread_time() - begin

    small = min(seconds(32768) for _ in range(5))
    large = min(seconds(262144) for _ in range(5))
    assert large < 16 * small


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        (b"GET / HTTP/1.1\r\n", True),
        (b"M-SEARCH * HTTP/1.1\r\n", True),
        (b"UPDATEREDIRECTREF /", True),
        (b"GET", False),
        (b" GET /", False),
        (b"get / HTTP/1.1", False),
        (b"GET\t/", False),
        (b"SSH-2.0-1 X\r\n", False),
        (b"A" * 20 + b" /", True),
        (b"A" * 21 + b" /", False),
        (b"\x16\x03\x01 ", False),
        (b"", False),
    ],
)
def test_http_requests_are_told_from_other_protocols(prefix: bytes, expected: bool) -> None:
    assert looks_like_http(prefix) is expected
