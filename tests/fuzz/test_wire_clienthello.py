"""Hellos of real TLS clients, and what becomes of any other bytes, however they are cut."""

import shutil
import socket
import ssl
import subprocess
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rproxy.errors import BadHello, HelloTooLarge, NotTLS, Refusal
from rproxy.wire.clienthello import ClientHello, HelloReader, looks_like_http, parse
from rproxy.wire.hostname import from_wire


def from_ssl(
    name: str | None, protocols: list[str], newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    # Named, because distributions set a lower floor than Python does.
    context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1_2, newest
    if protocols:
        context.set_alpn_protocols(protocols)
    outgoing = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name).do_handshake()
    return outgoing.read()


def from_s_client(*options: str) -> bytes:
    """What `openssl s_client` sends first to a server that never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(20)
        target = f"127.0.0.1:{server.getsockname()[1]}"
        command = ["openssl", "s_client", "-connect", target, *options]
        nowhere = subprocess.DEVNULL
        with subprocess.Popen(command, stdin=nowhere, stdout=nowhere, stderr=nowhere) as client:
            connection, _ = server.accept()
            with connection:
                connection.settimeout(20)
                reader = HelloReader()
                while (segment := connection.recv(65536)) and reader.feed(segment) is None:
                    pass
            client.wait(20)
            return reader.received


def records(content: bytes, sizes: list[int]) -> bytes:
    """The handshake message in records of these sizes, the rest of it in one more."""
    raw = b""
    for size in [*sizes, len(content)]:
        piece, content = content[:size], content[size:]
        raw += b"\x16\x03\x01" + len(piece).to_bytes(2) + piece if piece else b""
    return raw


def outcome(raw: bytes, cuts: list[int], limit: int) -> ClientHello | type[Refusal] | None:
    """What a reader makes of `raw` cut at these places: a hello, None, or the class of its refusal."""
    reader = HelloReader(limit)
    places = sorted({0, len(raw), *(cut % (len(raw) + 1) for cut in cuts)})
    for start, end in pairwise(places):
        try:
            hello = reader.feed(raw[start:end])
        except Refusal as refusal:
            return type(refusal)
        finally:
            assert reader.received == raw[:end]
        if hello is not None:
            return hello
    return None


def check_any_cut(raw: bytes, cuts: list[int], limit: int) -> None:
    whole = outcome(raw, [], limit)
    assert outcome(raw, cuts, limit) == whole
    assert outcome(raw, list(range(len(raw))), limit) == whole
    assert whole is None or isinstance(whole, ClientHello) or whole in (BadHello, HelloTooLarge, NotTLS)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (
            from_ssl("www.Example.org", ["h2", "http/1.1"]),
            ClientHello("www.example.org", (b"h2", b"http/1.1"), (0x0304, 0x0303)),
        ),
        (
            from_ssl("bücher.example", [], ssl.TLSVersion.TLSv1_2),
            ClientHello("xn--bcher-kva.example", (), (0x0303,)),
        ),
        (from_ssl(None, ["acme-tls/1"]), ClientHello(None, (b"acme-tls/1",), (0x0304, 0x0303))),
    ],
    ids=["TLS 1.3", "TLS 1.2", "no name"],
)
def test_hellos_of_the_standard_library_are_read(raw: bytes, expected: ClientHello) -> None:
    assert outcome(raw, [], 65536) == outcome(raw, list(range(len(raw))), 65536) == expected


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl program")
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("-servername a.example -alpn h2,foo -tls1_3", ClientHello("a.example", (b"h2", b"foo"), (0x0304,))),
        ("-noservername -tls1_2", ClientHello(None, (), (0x0303,))),
        ("-servername under_score.example -tls1_3", ClientHello(None, (), (0x0304,), b"under_score.example")),
    ],
)
def test_hellos_of_openssl_s_client_are_read(options: str, expected: ClientHello) -> None:
    raw = from_s_client(*options.split())
    assert outcome(raw, [], 65536) == outcome(records(raw[5:], [7, 1, 90]), [3, 40], 65536) == expected


REAL = from_ssl("www.example.org", ["h2", "http/1.1"])[5:]
LIMITS = st.sampled_from([200, 517, 700, 65536])
CUTS = st.lists(st.integers(0, 2000), max_size=6)
SIZES = st.lists(st.integers(0, 300), max_size=8)
EDITS = st.lists(st.tuples(st.integers(0, len(REAL) - 1), st.integers(0, 255)), max_size=3)


@settings(deadline=None)
@given(
    raw=st.binary(max_size=300) | st.binary(max_size=300).map(b"\x16\x03\x01\x00".__add__),
    cuts=CUTS,
    limit=LIMITS,
)
def test_any_bytes_give_one_outcome_however_cut(raw: bytes, cuts: list[int], limit: int) -> None:
    check_any_cut(raw, cuts, limit)
    assert looks_like_http(raw) in (True, False)


@settings(deadline=None)
@given(edits=EDITS, sizes=SIZES, trailing=st.binary(max_size=20), cuts=CUTS, limit=LIMITS)
def test_a_real_hello_with_wrong_bytes_gives_one_outcome_however_cut(
    edits: list[tuple[int, int]], sizes: list[int], trailing: bytes, cuts: list[int], limit: int
) -> None:
    message = bytearray(REAL)
    for at, value in edits:
        message[at] = value
    check_any_cut(records(bytes(message), sizes) + trailing, cuts, limit)


@settings(deadline=None)
@given(edits=EDITS, raw=SIZES.map(lambda sizes: records(REAL, sizes)), cuts=CUTS)
def test_wrong_bytes_in_record_headers_give_one_outcome_however_cut(
    edits: list[tuple[int, int]], raw: bytes, cuts: list[int]
) -> None:
    stream = bytearray(raw)
    for at, value in edits:
        stream[at] = value
    check_any_cut(bytes(stream), cuts, 65536)


@settings(deadline=None)
@given(sizes=SIZES, cuts=CUTS)
def test_records_and_cuts_never_change_a_good_hello(sizes: list[int], cuts: list[int]) -> None:
    assert outcome(records(REAL, sizes), cuts, 65536) == outcome(records(REAL, []), [], 65536) is not None


@settings(deadline=None)
@given(
    edits=st.lists(st.tuples(st.integers(30, 130), st.integers(0, 40)), max_size=4), cut=st.integers(-60, 0)
)
def test_a_parsed_hello_keeps_what_it_promises(edits: list[tuple[int, int]], cut: int) -> None:
    body = bytearray(REAL[4 : cut + len(REAL)])
    for at, value in edits:
        body[at] = value
    try:
        hello = parse(bytes(body))
    except BadHello:
        return
    assert hello.server_name is None or from_wire(hello.server_name.encode()) == hello.server_name
    assert hello.server_name is None or hello.unusable_name == b""
    assert all(1 <= len(name) <= 255 for name in hello.alpn)
