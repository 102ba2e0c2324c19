"""ClientHellos in Python and in Cython: what one makes of any bytes, or says about them, the other does."""

from __future__ import annotations

import sys
from collections.abc import Callable
from struct import pack
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rproxy.errors import BadHello
from rproxy.wire.clienthello import ClientHello, HelloReader
from rproxy.wire.hostname import MAX_WIRE, from_wire
from tests.fuzz.test_wire_clienthello import from_ssl
from tests.native.twins import Twins, outcome, patient
from tests.wire.test_clienthello import (
    FULL,
    MALFORMED,
    PASSING,
    alpn,
    extension,
    message,
    records,
    sni,
    vec,
    versions,
)

MAX_RECORD, MAX_NAME, LIMIT = 16384, 254, 65536
OUTSIDE = "a length points outside the hello"
BEFORE = "session id, cipher suites or compression methods"
WORDS = {
    "session id of 33": BEFORE,
    "no ciphers": BEFORE,
    "odd ciphers": BEFORE,
    "no compression": BEFORE,
    "extension block too short": "extension block",
    "extension block too long": "extension block",
    "a byte behind the extensions": "extension block",
    "last byte missing": "extension block",
    "empty server_name list": "server_name list",
    "server_name list too short": "server_name list",
    "server_name list too long": "server_name list",
    "server_name twice": "an extension twice",
    "server_name twice, first of another type": "an extension twice",
    "empty ALPN list": "ALPN list",
    "ALPN list too short": "ALPN list",
    "ALPN list too long": "ALPN list",
    "ALPN name overruns": "ALPN name",
    "empty ALPN name": "ALPN name",
    "empty ALPN name at the end": "ALPN name",
    "ALPN twice": "an extension twice",
    "no versions": "supported_versions list",
    "versions too short": "supported_versions list",
    "versions too long": "supported_versions list",
    "supported_versions twice": "an extension twice",
}
"""What is said about malformed hellos; about all others, OUTSIDE."""

GREASE = 0x0A0A, 0x1A1A, 0x2A2A, 0x3A3A, 0x4A4A, 0x5A5A, 0x6A6A, 0x7A7A
GREASE += 0x8A8A, 0x9A9A, 0xAAAA, 0xBABA, 0xCACA, 0xDADA, 0xEAEA, 0xFAFA

BROWSER = message(
    extension(0x4A4A),
    extension(10, vec(2, b"\x2a\x2a\x11\xec\x00\x1d\x00\x17")),
    extension(35),
    extension(51, vec(2, b"\x2a\x2a\0\1\0\x11\xec" + vec(2, bytes(1216)) + b"\x00\x1d" + vec(2, bytes(32)))),
    versions(0x1A1A, 0x0304, 0x0303),
    extension(0xFE0D, b"\0\0\1\0\1\x55" + vec(2, bytes(32)) + vec(2, bytes(239))),
    sni((0, b"www.Example.org")),
    alpn(b"h2", b"http/1.1"),
    extension(0x8A8A, b"\0"),
)
"""As large as what browsers send, with GREASE, a post-quantum key share and ECH, in any order."""

REAL = [
    *(from_ssl(*each)[9:] for each in [("www.Example.org", ["h2", "http/1.1"]), (None, ["acme-tls/1"])]),
    from_ssl("xn--bcher-kva.example", [])[9:],
    BROWSER[4:],
    message(sni((3, b"x"), (0, b"a_b"), (0, b"c")), alpn(b"x" * 255, b"h3"), versions(0x0304))[4:],
    message(session=b"", block=b"")[4:],
]
SMALL = [body for body in REAL if len(body) < 1000]

Twin = Any


@pytest.fixture(scope="module")
def hello(twins_of: Callable[[str], Twins]) -> Twins:
    return twins_of("hello")


def heard(call: Callable[..., Any], *arguments: Any) -> Any:
    """What a call gives, with its type; or the words of its refusal."""
    try:
        gives = call(*arguments)
    except BadHello as refusal:
        return "refuses", str(refusal)
    return type(gives), gives


def same(hello: Twins, name: str, *arguments: Any) -> Any:
    """What both do."""
    python, compiled = (heard(getattr(twin, name), *arguments) for twin in hello)
    assert python == compiled, (name, arguments)
    return python[1]


def in_record(body: bytes, behind: bytes = b"") -> bytes:
    """A hello in one record, whatever its size."""
    return b"\x16\x03\x01" + vec(2, b"\x01" + vec(3, body)) + behind


def same_both_ways(hello: Twins, body: bytes) -> Any:
    """What both do with a body alone, and where it lies in a record before bytes of any kind."""
    found = same(hello, "from_body", body)
    if len(body) + 4 > MAX_RECORD:
        return found
    for behind in (b"", b"\0" * 40, b"\xff" * 40, b"\x00\x01" * 20):
        assert same(hello, "from_record", in_record(body, behind), LIMIT) == found
    return found


def in_block(*extensions: bytes) -> bytes:
    return message(*extensions)[4:]


# -- What is read


def test_the_limits_are_the_same(hello: Twins) -> None:
    for twin in hello:
        assert (twin.MAX_RECORD, twin.MAX_NAME) == (MAX_RECORD, MAX_NAME)
    assert MAX_NAME == MAX_WIRE


@pytest.mark.parametrize("case", PASSING)
def test_what_tls_allows_is_read(hello: Twins, case: str) -> None:
    content, expected = PASSING[case]
    assert same_both_ways(hello, content[4:]) == tuple(expected)


def test_hellos_as_they_are_sent_are_read(hello: Twins) -> None:
    usual = b"h2", b"http/1.1"
    assert [same_both_ways(hello, body) for body in REAL] == [
        ("www.example.org", usual, (0x0304, 0x0303), b""),
        (None, (b"acme-tls/1",), (0x0304, 0x0303), b""),
        ("xn--bcher-kva.example", (), (0x0304, 0x0303), b""),
        ("www.example.org", usual, (0x0304, 0x0303), b""),
        (None, (b"x" * 255, b"h3"), (0x0304,), b"a_b"),
        (None, (), (0x0303,), b""),
    ]


def test_the_reader_makes_a_named_tuple_of_it(hello: Twins) -> None:
    found = HelloReader().feed(in_record(REAL[4]))
    assert type(found) is ClientHello
    assert found.unusable_name == b"a_b"
    assert found == hello.compiled.from_body(REAL[4])


@pytest.mark.parametrize("case", MALFORMED)
def test_both_say_the_same_of_what_does_not_nest(hello: Twins, case: str) -> None:
    assert same_both_ways(hello, MALFORMED[case][4:]) == WORDS.get(case, OUTSIDE)


@pytest.mark.parametrize(
    ("extensions", "words"),
    [
        ([sni((0, b"a")), b"\0\0\xff\xff"], "an extension twice"),
        ([extension(0), b"\0\x17\0"], OUTSIDE),
        ([extension(16), extension(0, b"\0\0")], "server_name list"),
        ([versions(), alpn(b"")], "ALPN name"),
        ([versions(), extension(16, b"\0")], OUTSIDE),
        ([alpn(b""), b"\0\x17\0\1"], OUTSIDE),
        ([alpn(b""), alpn(b"")], "an extension twice"),
    ],
)
def test_of_two_mistakes_both_name_the_same(hello: Twins, extensions: list[bytes], words: str) -> None:
    assert same_both_ways(hello, in_block(*extensions)) == words


def test_a_beginning_out_of_bounds_is_refused_before_it_is_judged(hello: Twins) -> None:
    """Each length before the extensions, where the hello ends just before, at and behind its end."""
    for session in (0, 1, 32, 33, 255):
        for ciphers in (0, 1, 2, 255, 65535):
            for compressions in (0, 1, 255):
                whole = b"\x03\x03" + bytes(32) + vec(1, bytes(session)) + vec(2, bytes(ciphers))
                whole += vec(1, bytes(compressions))
                for end in range(len(whole) - compressions - 2, len(whole) + 1):
                    same(hello, "from_body", whole[:end])
                for more in (b"\0", b"\0\0", b"\0\1", b"\0\1\0"):
                    same(hello, "from_body", whole + more)


# -- Hellos that were changed


def test_hellos_cut_at_every_byte_and_longer_than_they_say(hello: Twins) -> None:
    for body in REAL:
        assert all(same(hello, "from_body", body[:end]) for end in range(len(body)))
        for behind in (b"\0", b"\xff", b"\0\0\0\0", body):
            same_both_ways(hello, body + behind)


def test_segments_cut_at_every_byte_are_left_to_the_caller(hello: Twins) -> None:
    for body in REAL:
        segment = in_record(body)
        assert all(same(hello, "from_record", segment[:end], LIMIT) is None for end in range(len(segment)))


def test_every_byte_changed(hello: Twins) -> None:
    """Each to what lengths and types are most easily mistaken for."""
    for body in SMALL:
        for at, old in enumerate(body):
            for new in {0, 1, 2, 0x10, 0x2B, 0x7F, 0xFF, old - 1 & 0xFF, old + 1 & 0xFF, old ^ 0x20}:
                same(hello, "from_body", body[:at] + bytes([new]) + body[at + 1 :])


def test_every_byte_of_a_segment_changed(hello: Twins) -> None:
    segment = in_record(SMALL[0], b"behind")
    for at in range(len(segment)):
        for new in range(0, 256, 1 if at < 9 else 51):
            same(hello, "from_record", segment[:at] + bytes([new]) + segment[at + 1 :], LIMIT)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A real hello in which up to four places were changed."""
    body = draw(st.sampled_from(REAL))
    for _ in range(draw(st.integers(0, 4))):
        at, gone = draw(st.integers(0, len(body))), draw(st.integers(0, 3))
        body = body[:at] + draw(st.binary(max_size=3)) + body[at + gone :]
    return body[: len(body) - draw(st.sampled_from([0, 0, 0, 1, 2, 50]))]


@patient
@given(mutated(), st.booleans())
def test_mutated_hellos(hello: Twins, body: bytes, mended: bool) -> None:
    if mended and len(body) > 80:  # else most would only be found to have the wrong length for all extensions
        at = 38 + body[34] + int.from_bytes(body[35 + body[34] : 37 + body[34]], "big") + 1
        body = body[:at] + vec(2, body[at + 2 :]) if at + 2 < len(body) else body
    same_both_ways(hello, body)


# -- Hellos that were never sent

wrong = st.sampled_from([0] * 12 + [1, -1, 2, -2, 255])
"""What is added to a length."""


def off(width: int, content: bytes, by: int) -> bytes:
    most = (1 << 8 * width) - 1
    return max(0, min(most, len(content) + by)).to_bytes(width, "big") + content


names = st.sampled_from(
    [b"a", b"A.b", b"www.example.org", b"a..b", b"", b"-", b"a.", b"x" * 255]
) | st.binary(max_size=9)
protocols = st.sampled_from([b"h2", b"http/1.1", b"h3", b"", b"acme-tls/1", b"h2c"]) | st.binary(max_size=9)
spoken = st.sampled_from([0x0304, 0x0303, *GREASE]) | st.integers(0, 65535)


@st.composite
def extensions(draw: st.DrawFn) -> bytes:
    """One of those that are read, or another; nearly right."""
    match draw(st.sampled_from([0, 16, 43, 10])):
        case 0:
            rows = draw(st.lists(st.tuples(st.sampled_from([0, 0, 1]), names, wrong), max_size=3))
            entries = b"".join(bytes([kind]) + off(2, name, by) for kind, name, by in rows)
            kind, content = 0, off(2, entries, draw(wrong))
        case 16:
            offered = draw(st.lists(st.tuples(protocols, wrong), max_size=4))
            kind, content = 16, off(2, b"".join(off(1, name, by) for name, by in offered), draw(wrong))
        case 43:
            listed = draw(st.lists(spoken, max_size=5))
            kind, content = 43, off(1, pack(f"!{len(listed)}H", *listed), draw(wrong))
        case _:
            kind, content = draw(st.integers(0, 65535)), draw(st.binary(max_size=9))
    return kind.to_bytes(2, "big") + off(2, content, draw(wrong))


@st.composite
def grown(draw: st.DrawFn) -> bytes:
    """A hello of extensions, each length of which may be wrong."""
    block = b"".join(draw(st.lists(extensions(), max_size=4)))
    parts = [
        b"\x03\x03" + bytes(32),
        off(1, draw(st.binary(max_size=33)), draw(wrong)),
        off(2, draw(st.sampled_from([b"\x13\x01", b"\x13\x01\x13\x02", b"", b"\x13"])), draw(wrong)),
        off(1, draw(st.sampled_from([b"\0", b"\0\1", b""])), draw(wrong)),
        off(2, block, draw(wrong)) if draw(st.sampled_from([True] * 9 + [False])) else b"",
    ]
    return b"".join(parts)


@patient
@given(grown())
def test_hellos_of_parts_that_nearly_fit(hello: Twins, body: bytes) -> None:
    same_both_ways(hello, body)


@patient
@given(st.lists(extensions(), max_size=4))
def test_extensions_behind_a_good_beginning(hello: Twins, several: list[bytes]) -> None:
    same_both_ways(hello, in_block(*several))


@patient
@given(st.binary(max_size=300), st.integers(-5, 400))
@example(b"", 0)
@example(b"\x16\x03\x01\x00\x04\x01\x00\x00\x00", 9)
def test_any_bytes(hello: Twins, octets: bytes, limit: int) -> None:
    same_both_ways(hello, octets)
    same_both_ways(hello, b"\x03\x03" + bytes(32) + octets)
    same_both_ways(hello, in_block(octets))
    for kind in (0, 16, 43):
        same_both_ways(hello, in_block(extension(kind, octets)))
    same(hello, "from_record", octets, limit)
    same(hello, "from_record", b"\x16\x03\x01" + octets, limit)


@patient
@given(st.binary(max_size=60), st.sampled_from([-(2**31), -1, 0, 8, 9, 40, 2**31, 2**62]))
def test_records_whose_lengths_are_anything(hello: Twins, octets: bytes, limit: int) -> None:
    for size in (0, 1, 4, len(octets) + 4, MAX_RECORD, MAX_RECORD + 1, 65535):
        start = b"\x16\x03\x01" + size.to_bytes(2, "big") + b"\x01"
        for length in (0, len(octets), len(octets) + 1, 65535, 65536, 0xFFFFFF):
            same(hello, "from_record", start + length.to_bytes(3, "big") + octets, limit)


# -- Limits, names, protocols and versions


@pytest.mark.parametrize("by", [-2, -1, 0, 1, 2])
def test_what_is_above_a_limit_is_left_to_the_caller(hello: Twins, by: int) -> None:
    segment = in_record(SMALL[0], b"behind")
    end = len(segment) - len(b"behind")
    assert (same(hello, "from_record", segment, end + by) is None) is (by < 0)
    pad = MAX_RECORD + by - len(in_block(extension(21))) - 4
    largest = in_record(in_block(extension(21, bytes(pad))))
    assert len(largest) == 5 + MAX_RECORD + by
    assert (same(hello, "from_record", largest, LIMIT) is None) is (by > 0)
    assert same(hello, "from_record", largest, len(largest) - 1) is None


def test_a_hello_behind_which_its_record_goes_on_is_read(hello: Twins) -> None:
    raw = b"\x16\x03\x01" + (len(FULL) + 50).to_bytes(2, "big") + FULL
    assert same(hello, "from_record", raw, LIMIT) == same(hello, "from_body", FULL[4:])
    assert same(hello, "from_record", records(FULL, 100), LIMIT) is None


@pytest.mark.parametrize("octet", range(256))
def test_each_byte_in_each_place_of_a_name(hello: Twins, octet: int) -> None:
    one = bytes([octet])
    for name in (
        one,
        b"a" + one,
        one + b"a",
        b"a" + one + b"a",
        b"a." + one,
        one + b".a",
        b"a-" + one + b".a",
    ):
        check_name(hello, name)


@patient
@given(st.text("aZ09-._\0", max_size=12) | st.text("a.", max_size=300))
def test_names_are_judged_as_everywhere_else(hello: Twins, text: str) -> None:
    check_name(hello, text.encode())


@pytest.mark.parametrize("size", [0, 1, 2, 63, 64, 253, 254, 255, 256, 9000])
def test_names_of_any_size(hello: Twins, size: int) -> None:
    for name in (b"a" * size, (b"a." * size)[: size - 1] + b"A", b"a" * size + b".", b"." * size):
        check_name(hello, name)


def check_name(hello: Twins, name: bytes) -> None:
    usable = from_wire(name)
    expected = usable, (), (0x0303,), name if usable is None else b""
    assert same(hello, "from_body", in_block(sni((0, name)))) == expected
    assert same(hello, "from_body", in_block(sni((1, b"other"), (0, name), (0, b"second")))) == expected


def test_every_version_is_given_but_grease(hello: Twins) -> None:
    for start in range(0, 65536, 64):
        listed = tuple(range(start, start + 64))
        expected = tuple(version for version in listed if version not in GREASE)
        assert same(hello, "from_body", in_block(versions(*listed)))[2] == expected


@pytest.mark.parametrize("more", [(), (0x0304,), (0x0303,), (0x0302, 0x0301), (0x0A0A,), (0x0304, 0x0303)])
def test_usual_versions_among_others(hello: Twins, more: tuple[int, ...]) -> None:
    usual = 0x0304, 0x0303
    for listed in (more + usual, usual + more, usual[:1] + more + usual[1:], usual[::-1] + more, more):
        if listed:
            expected = tuple(version for version in listed if version not in GREASE)
            assert same(hello, "from_body", in_block(versions(*listed)))[2] == expected
    assert same(hello, "from_body", in_block(versions(*[0x0303] * 127)))[2] == (0x0303,) * 127


@patient
@given(st.lists(protocols.filter(bool), min_size=1, max_size=20))
def test_every_protocol_is_given(hello: Twins, offered: list[bytes]) -> None:
    assert same(hello, "from_body", in_block(alpn(*offered)))[1] == tuple(offered)


def test_as_many_protocols_as_a_hello_can_hold(hello: Twins) -> None:
    most = 32740
    body = in_block(alpn(*[b"x"] * most))
    assert same(hello, "from_body", body)[1] == (b"x",) * most


# -- Calls


@pytest.mark.parametrize("wrong", [None, "text", 5, bytearray(b"abc"), memoryview(b"abc")])
def test_what_is_no_bytes_is_a_type_error_of_the_compiled_one(hello: Twins, wrong: Any) -> None:
    assert outcome(hello.compiled.from_body, wrong) == ("raises", TypeError)
    assert outcome(hello.compiled.from_record, wrong, LIMIT) == ("raises", TypeError)
    assert outcome(hello.compiled.from_record, b"", "limit") == ("raises", TypeError)


@pytest.mark.parametrize("body", [*REAL, *(content[4:] for content in MALFORMED.values())])
def test_nothing_is_left_behind(hello: Twins, body: bytes) -> None:
    segment = in_record(body)

    def blocks(times: int) -> int:
        before = sys.getallocatedblocks()
        for _ in range(times):
            heard(hello.compiled.from_body, body)
            heard(hello.compiled.from_record, segment, LIMIT)
        return sys.getallocatedblocks() - before

    blocks(10)
    assert blocks(1000) < 500


def test_what_is_made_belongs_to_nobody_else(hello: Twins) -> None:
    """One reference each; and what is given again and again has as many as before."""
    read = hello.compiled.from_body
    again = read(in_block(alpn(b"h2", b"http/1.1"), versions(0x0304, 0x0303)))
    before = [sys.getrefcount(each) for each in (*again[1], again[2], again[3])]
    for _ in range(1000):
        read(in_block(alpn(b"h2", b"http/1.1"), versions(0x0304, 0x0303)))
    assert [sys.getrefcount(each) for each in (*again[1], again[2], again[3])] == before
    name, offered, listed, _ = read(in_block(sni((0, b"ab.c")), alpn(b"some"), versions(0x0304)))
    # Looked at before `assert`, which keeps what it compares.
    counts = [sys.getrefcount(name), sys.getrefcount(offered), sys.getrefcount(listed)]
    counts += [sys.getrefcount(offered[0]), sys.getrefcount(listed[0])]
    assert counts == [2] * 5
    raw = read(in_block(sni((0, b"a_b"))))[3]
    assert sys.getrefcount(raw) == 2
