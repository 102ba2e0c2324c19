"""The PROXY protocol codec alone, against hand-written headers, and against two other implementations."""

import socket
import struct
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from proxyprotocol.result import (
    ProxyResult,
    ProxyResultIPv4,
    ProxyResultIPv6,
    ProxyResultLocal,
    ProxyResultUnix,
    ProxyResultUnknown,
)
from proxyprotocol.tlv import ProxyProtocolSSLTLV, ProxyProtocolTLV
from proxyprotocol.v1 import ProxyProtocolV1
from proxyprotocol.v2 import ProxyProtocolV2
from twisted.internet.address import UNIXAddress
from twisted.protocols.haproxy._v1parser import V1Parser
from twisted.protocols.haproxy._v2parser import V2Parser

from rproxy.errors import BadProxyHeader
from rproxy.wire import proxyheader as codec
from rproxy.wire.address import Address, Inet, Unix
from rproxy.wire.proxyheader import (
    ProxyHeader,
    ProxyHeaderReader,
    begins_header,
    crc32c,
    encode_v1,
    encode_v2,
)

SIGNATURE = b"\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a"
CLIENT, SERVER = Inet("192.0.2.7", 51234), Inet("198.51.100.3", 443)
CLIENT6, SERVER6 = Inet("2001:db8::7", 51234), Inet("2001:db8:1::3", 443)
TCP4_BLOCK = bytes([192, 0, 2, 7, 198, 51, 100, 3]) + struct.pack("!HH", 51234, 443)

Outcome = ProxyHeader | str | None


def v2(command: int, family: int, block: bytes, length: int | None = None) -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, family, len(block) if length is None else length) + block


def tlv(kind: int, value: bytes) -> bytes:
    return struct.pack("!BH", kind, len(value)) + value


def read(*pieces: bytes) -> tuple[Outcome, bytes]:
    """What comes of these pieces, and what is left behind the header."""
    reader, behind = ProxyHeaderReader(), b""
    header = None
    for piece in pieces:
        if header is not None:
            behind += piece
            continue
        try:
            header = reader.feed(piece)
        except BadProxyHeader as refusal:
            return str(refusal), b""
    return header, reader.rest + behind


def header_of(octets: bytes) -> ProxyHeader:
    outcome, rest = read(octets)
    assert isinstance(outcome, ProxyHeader), outcome
    assert rest == b""
    return outcome


def refusal_of(octets: bytes) -> str:
    with pytest.raises(BadProxyHeader) as caught:
        ProxyHeaderReader().feed(octets)
    return str(caught.value)


def with_checksum(header: bytes) -> bytes:
    """The header with a CRC32C TLV appended, computed over the whole with zeroes in its place."""
    length = struct.unpack_from("!H", header, 14)[0] + 7
    zeroed = header[:14] + struct.pack("!H", length) + header[16:] + tlv(3, bytes(4))
    return zeroed[:-4] + struct.pack("!I", crc32c(zeroed))


GOOD = {
    "v1 TCP4": b"PROXY TCP4 192.0.2.7 198.51.100.3 51234 443\r\n",
    "v1 TCP6": b"PROXY TCP6 2001:db8::7 2001:db8:1::3 51234 443\r\n",
    "v1 UNKNOWN": b"PROXY UNKNOWN\r\n",
    "v1 UNKNOWN with addresses": b"PROXY UNKNOWN ffff::1 anything at all\r\n",
    "v2 LOCAL": v2(0x20, 0x00, b""),
    "v2 TCP4": v2(0x21, 0x11, TCP4_BLOCK),
    "v2 TCP4 with TLVs": v2(
        0x21, 0x11, TCP4_BLOCK + tlv(2, b"example.org") + tlv(4, b"\0" * 9) + tlv(1, b"h2")
    ),
    "v2 unix": v2(0x21, 0x31, b"/run/a".ljust(108, b"\0") + b"/run/b".ljust(108, b"\0")),
    "v2 with checksum": with_checksum(v2(0x21, 0x11, TCP4_BLOCK + tlv(5, b"id"))),
}
any_header = pytest.mark.parametrize("octets", GOOD.values(), ids=GOOD.keys())


# What a header means


def test_v1_names_client_and_server() -> None:
    assert header_of(GOOD["v1 TCP4"]) == ProxyHeader(1, CLIENT, SERVER)
    assert header_of(GOOD["v1 TCP6"]) == ProxyHeader(1, CLIENT6, SERVER6)


def test_v1_unknown_keeps_the_sockets_addresses() -> None:
    assert header_of(GOOD["v1 UNKNOWN"]) == ProxyHeader(1, None, None)
    assert header_of(GOOD["v1 UNKNOWN with addresses"]) == ProxyHeader(1, None, None)


@pytest.mark.parametrize("text", ["2001:DB8::7", "2001:0db8:0000:0000:0000:0000:0000:0007", "2001:db8:0::7"])
def test_v1_gives_every_spelling_of_an_ipv6_address_its_canonical_one(text: str) -> None:
    header = header_of(f"PROXY TCP6 {text} 2001:db8:1::3 51234 443\r\n".encode())
    assert header == ProxyHeader(1, CLIENT6, SERVER6)


def test_ipv4_mapped_addresses_become_ipv4_in_both_versions() -> None:
    line = b"PROXY TCP6 ::ffff:192.0.2.7 ::ffff:c633:6403 51234 443\r\n"
    mapped = bytes(10) + b"\xff\xff"
    block = mapped + TCP4_BLOCK[:4] + mapped + TCP4_BLOCK[4:8] + TCP4_BLOCK[8:]
    assert header_of(line) == ProxyHeader(1, CLIENT, SERVER)
    assert header_of(v2(0x21, 0x21, block)) == ProxyHeader(2, CLIENT, SERVER)


def test_v1_takes_the_smallest_and_the_largest_port() -> None:
    header = header_of(b"PROXY TCP4 192.0.2.7 198.51.100.3 0 65535\r\n")
    assert header == ProxyHeader(1, Inet("192.0.2.7", 0), Inet("198.51.100.3", 65535))


def test_v2_names_client_and_server_and_keeps_tlvs_in_order() -> None:
    header = header_of(GOOD["v2 TCP4 with TLVs"])
    assert header == ProxyHeader(2, CLIENT, SERVER, ((codec.AUTHORITY, b"example.org"), (codec.ALPN, b"h2")))
    assert header.tlv(codec.ALPN) == b"h2"
    assert header.tlv(codec.UNIQUE_ID) is None


def test_v2_unix_paths_end_at_their_padding() -> None:
    assert header_of(GOOD["v2 unix"]) == ProxyHeader(2, Unix(b"/run/a"), Unix(b"/run/b"))
    abstract = v2(0x21, 0x31, b"\0name".ljust(108, b"\0") + bytes(108))
    assert header_of(abstract) == ProxyHeader(2, Unix(b"\0name"), Unix(b""))


def test_v2_unix_path_may_fill_its_field() -> None:
    header = header_of(v2(0x21, 0x31, b"/" * 108 + b"/b".ljust(108, b"\0")))
    assert header.source == Unix(b"/" * 108)


@pytest.mark.parametrize("family", [0x00, 0x11, 0x12, 0x21, 0x31, 0xFF])
@pytest.mark.parametrize("block", [b"", TCP4_BLOCK, b"\xff" * 300])
def test_v2_local_discards_its_block_whatever_the_family(family: int, block: bytes) -> None:
    outcome, rest = read(v2(0x20, family, block) + b"next")
    assert outcome == ProxyHeader(2, None, None, (), True)
    assert rest == b"next"


def test_v2_unspecified_family_keeps_the_sockets_addresses_and_is_not_local() -> None:
    outcome, rest = read(v2(0x21, 0x00, b"whatever") + b"next")
    assert outcome == ProxyHeader(2, None, None)
    assert rest == b"next"


def test_checksum_is_verified_and_not_kept() -> None:
    assert header_of(GOOD["v2 with checksum"]) == ProxyHeader(2, CLIENT, SERVER, ((codec.UNIQUE_ID, b"id"),))


def test_checksum_is_the_castagnoli_crc() -> None:
    # RFC 3720 appendix B.4
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E


def test_checksum_anywhere_among_the_tlvs_covers_the_whole_header() -> None:
    zeroed = v2(0x21, 0x11, TCP4_BLOCK + tlv(3, bytes(4)) + tlv(1, b"h2"))
    at = 16 + len(TCP4_BLOCK) + 3
    good = zeroed[:at] + struct.pack("!I", crc32c(zeroed)) + zeroed[at + 4 :]
    assert header_of(good).tlvs == ((1, b"h2"),)
    assert "checksum" in refusal_of(good[:-1] + b"3")


# Cut anywhere


@any_header
def test_bytes_behind_a_header_are_the_rest(octets: bytes) -> None:
    header = header_of(octets)
    for behind in (b"x", b"\r\n", octets, b"\x16\x03\x01\x02\x00" * 1000):
        assert read(octets + behind) == (header, behind)


@any_header
def test_header_cut_at_every_byte_is_the_same_header(octets: bytes) -> None:
    whole = octets + b"behind"
    for cut in range(len(whole)):
        assert read(whole[:cut], whole[cut:]) == (header_of(octets), b"behind")


@any_header
def test_header_byte_by_byte_is_complete_with_its_last_byte(octets: bytes) -> None:
    reader = ProxyHeaderReader()
    results = [reader.feed(octets[at : at + 1]) for at in range(len(octets))]
    assert results[:-1] == [None] * (len(octets) - 1)
    assert results[-1] == header_of(octets)


@given(st.binary(max_size=400), st.integers(0, 400))
def test_any_bytes_give_a_header_or_nothing_or_a_refusal(octets: bytes, cut: int) -> None:
    assert read(octets) == read(octets[:cut], octets[cut:])


V1_TEXT = st.lists(
    st.sampled_from(
        [
            "TCP4",
            "TCP6",
            "UNKNOWN",
            "1.2.3.4",
            "::1",
            "::ffff:1.2.3.4",
            "01.2.3.4",
            "80",
            "080",
            "65536",
            "",
            "\n",
        ]
    ),
    max_size=7,
).map(lambda words: f"PROXY {' '.join(words)}\r\n".encode())
V2_BYTES = st.builds(
    v2,
    st.sampled_from([0x20, 0x21, 0x22, 0x11]),
    st.sampled_from([0x00, 0x11, 0x12, 0x21, 0x31, 0x41]),
    st.builds(lambda *parts: b"".join(parts), st.binary(max_size=40), st.binary(max_size=250)),
    st.none() | st.integers(0, 300),
)


@given(V1_TEXT | V2_BYTES, st.lists(st.integers(1, 40), max_size=12), st.binary(max_size=9))
@example(b"PROXY TCP4 1.2.3.4 1.2.3.4 80 80\r\n", [33, 1], b"\n")
def test_cutting_never_changes_what_a_header_is(octets: bytes, sizes: list[int], behind: bytes) -> None:
    whole, pieces, at = octets + behind, [], 0
    for size in sizes:
        pieces.append(whole[at : at + size])
        at += size
    assert read(*pieces, whole[at:]) == read(whole)


# What is refused


@pytest.mark.parametrize(
    "line",
    [
        b"PROXY  TCP4 192.0.2.7 198.51.100.3 51234 443\r\n",
        b"PROXY TCP4  192.0.2.7 198.51.100.3 51234 443\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.3 51234 443 \r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.3 51234\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.3 51234 443 8\r\n",
        b"PROXY TCP4\t192.0.2.7 198.51.100.3 51234 443\r\n",
        b"PROXY TCP5 192.0.2.7 198.51.100.3 51234 443\r\n",
        b"PROXY tcp4 192.0.2.7 198.51.100.3 51234 443\r\n",
        b"PROXY UDP4 192.0.2.7 198.51.100.3 51234 443\r\n",
        b"PROXY \r\n",
        b"PROXY UNKNOWNS\r\n",
        b"PROXY TCP4 192.0.2.07 198.51.100.3 51234 443\r\n",
        b"PROXY TCP4 192.0.2.256 198.51.100.3 51234 443\r\n",
        b"PROXY TCP4 192.0.519 198.51.100.3 51234 443\r\n",
        b"PROXY TCP4 0xC0.0.2.7 198.51.100.3 51234 443\r\n",
        b"PROXY TCP4 example.org 198.51.100.3 51234 443\r\n",
        b"PROXY TCP4 2001:db8::7 2001:db8:1::3 51234 443\r\n",
        b"PROXY TCP4 ::ffff:192.0.2.7 198.51.100.3 51234 443\r\n",
        b"PROXY TCP6 192.0.2.7 198.51.100.3 51234 443\r\n",
        b"PROXY TCP6 fe80::1%eth0 2001:db8:1::3 51234 443\r\n",
        b"PROXY TCP6 [2001:db8::7] 2001:db8:1::3 51234 443\r\n",
        b"PROXY TCP6 2001:db8::00007 2001:db8:1::3 51234 443\r\n",
        b"PROXY TCP4 192.0.2.\xff 198.51.100.3 51234 443\r\n",
        b"PROXY TCP4 192.0.2.7\0 198.51.100.3 51234 443\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.3 051234 443\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.3 00 443\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.3 65536 443\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.3 -1 443\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.3 +1 443\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.3 1_0 443\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.3 \xc2\xb2 443\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.3  443\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.3 51234 443\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.3 51234 443\r\r\n",
        b"PROXY UNKNOWN\n",
        b"PROXY UNKNOWN a\rb\r\n",
        b"PROXY UNKNOWN a\nb\r\n",
    ],
)
def test_v1_line_that_is_not_exactly_the_grammar_is_refused(line: bytes) -> None:
    assert refusal_of(line).endswith(".")


def test_v1_line_has_at_most_107_bytes() -> None:
    longest = b"PROXY UNKNOWN ".ljust(105, b"f") + b"\r\n"
    assert len(longest) == 107
    assert header_of(longest) == ProxyHeader(1, None, None)
    assert "107" in refusal_of(longest[:-2] + b"f\r\n")


def test_v1_line_is_refused_as_soon_as_107_bytes_have_no_end() -> None:
    reader = ProxyHeaderReader()
    assert reader.feed(b"PROXY UNKNOWN ".ljust(106, b"f")) is None
    with pytest.raises(BadProxyHeader, match="107"):
        reader.feed(b"f")


@pytest.mark.parametrize(
    "octets", [b"GET / HTTP/1.1\r\n", b"\x16\x03\x01", b"PROXZ", b"PROXY\t", b"\r\n\r\n\r"]
)
def test_stream_without_header_is_refused_at_its_first_wrong_byte(octets: bytes) -> None:
    reader = ProxyHeaderReader()
    common = max(n for n in range(len(octets)) if begins_header(octets[:n]) is None)
    assert reader.feed(octets[:common]) is None
    with pytest.raises(BadProxyHeader, match="does not begin"):
        reader.feed(octets[common : common + 1])


@pytest.mark.parametrize("command", [0x22, 0x2F, 0x10, 0x11, 0x01, 0x31, 0xFF])
def test_v2_other_versions_and_commands_are_refused(command: int) -> None:
    assert "version" in refusal_of(v2(command, 0x11, TCP4_BLOCK))


@pytest.mark.parametrize("family", [0x01, 0x02, 0x10, 0x12, 0x13, 0x20, 0x22, 0x30, 0x32, 0x41, 0xFF])
def test_v2_datagrams_and_unknown_families_are_refused(family: int) -> None:
    assert "family" in refusal_of(v2(0x21, family, bytes(216)))


@pytest.mark.parametrize(("family", "size"), [(0x11, 12), (0x21, 36), (0x31, 216)])
def test_v2_block_shorter_than_its_addresses_is_refused(family: int, size: int) -> None:
    assert header_of(v2(0x21, family, b"\1" * size)).tlvs == ()
    for short in (0, 1, size - 1):
        assert "too short" in refusal_of(v2(0x21, family, b"\1" * short) + b"\1" * size)


def test_v2_body_is_limited_before_it_is_read() -> None:
    room = 4096 - len(TCP4_BLOCK) - 3
    largest = v2(0x21, 0x11, TCP4_BLOCK + tlv(0xE0, bytes(room)))
    assert header_of(largest).tlvs == ((0xE0, bytes(room)),)
    assert "4096" in refusal_of(v2(0x21, 0x11, b"", length=4097))
    assert "4096" in refusal_of(v2(0x20, 0x00, b"", length=4097))


def test_v2_limit_is_the_readers_argument() -> None:
    octets = v2(0x21, 0x11, TCP4_BLOCK + tlv(1, b"h2"))
    assert ProxyHeaderReader(len(octets) - 16).feed(octets) is not None
    with pytest.raises(BadProxyHeader, match="longer"):
        ProxyHeaderReader(len(octets) - 17).feed(octets)


@pytest.mark.parametrize(
    "block", [b"\1", b"\1\0", b"\1\0\1", tlv(1, b"h2")[:-1], tlv(1, b"h2") + b"\4", b"\0\0"]
)
def test_v2_tlvs_that_do_not_nest_exactly_are_refused(block: bytes) -> None:
    assert "TLV" in refusal_of(v2(0x21, 0x11, TCP4_BLOCK + block) + bytes(99))


@pytest.mark.parametrize("kind", [1, 2, 5, 0x20, 0x30])
def test_v2_tlv_that_decides_something_is_refused_twice(kind: int) -> None:
    once = tlv(kind, bytes(5))
    assert len(header_of(v2(0x21, 0x11, TCP4_BLOCK + once + tlv(0xE0, b"x"))).tlvs) == 2
    assert "twice" in refusal_of(v2(0x21, 0x11, TCP4_BLOCK + once + tlv(0xE0, b"x") + once))


def test_v2_checksum_twice_is_refused_and_private_tlvs_may_repeat() -> None:
    assert "twice" in refusal_of(with_checksum(GOOD["v2 with checksum"]))
    header = header_of(v2(0x21, 0x11, TCP4_BLOCK + tlv(0xE0, b"a") + tlv(0xE0, b"b")))
    assert header.tlvs == ((0xE0, b"a"), (0xE0, b"b"))


@pytest.mark.parametrize("at", [17, 20, 26, 28, 31, 38])
def test_v2_changed_bit_under_a_checksum_is_refused(at: int) -> None:
    octets = bytearray(GOOD["v2 with checksum"])
    octets[at] ^= 1
    assert "checksum" in refusal_of(bytes(octets))


@pytest.mark.parametrize("value", [b"", bytes(3), bytes(5)])
def test_v2_checksum_of_another_size_is_refused(value: bytes) -> None:
    assert "checksum" in refusal_of(v2(0x21, 0x11, TCP4_BLOCK + tlv(3, value)))


def test_v2_unique_id_has_at_most_128_bytes() -> None:
    assert header_of(v2(0x21, 0x11, TCP4_BLOCK + tlv(5, bytes(128)))).tlv(5) == bytes(128)
    assert "128" in refusal_of(v2(0x21, 0x11, TCP4_BLOCK + tlv(5, bytes(129))))


def test_v2_ssl_tlv_is_kept_if_what_is_in_it_nests() -> None:
    value = b"\1" + bytes(4) + tlv(0x21, b"TLSv1.3")
    assert header_of(v2(0x21, 0x11, TCP4_BLOCK + tlv(0x20, value))).tlv(codec.SSL) == value
    for broken in (value[:-1], value[:4], value + b"\x22"):
        assert "TLV" in refusal_of(v2(0x21, 0x11, TCP4_BLOCK + tlv(0x20, broken)))


def test_refusals_never_contain_what_was_sent() -> None:
    assert "evil" not in refusal_of(b"PROXY TCP4 evil evil evil evil\r\n")


# Does it begin like one?


@pytest.mark.parametrize("signature", [b"PROXY ", SIGNATURE])
def test_beginning_of_a_signature_is_undecided_until_it_is_whole(signature: bytes) -> None:
    for n in range(len(signature)):
        assert begins_header(signature[:n]) is None
        assert begins_header(signature[:n] + b"#") is False
    assert begins_header(signature) is True
    assert begins_header(signature + b"anything") is True


# What is written


ports = st.integers(0, 65535)
v4 = st.builds(lambda host, port: Inet(str(host), port), st.ip_addresses(v=4), ports)
v6 = (
    st.builds(lambda packed, port: (packed, port), st.binary(min_size=16, max_size=16), ports)
    .filter(lambda pair: not pair[0].startswith(bytes(10) + b"\xff\xff"))
    .map(lambda pair: Inet(socket.inet_ntop(socket.AF_INET6, pair[0]), pair[1]))
)
unix_paths = st.builds(Unix, st.binary(max_size=107).map(lambda path: b"/" + path.replace(b"\0", b"_")))
values = st.tuples(st.integers(0xE0, 0xEF), st.binary(max_size=50))


def canonical(address: Inet) -> tuple[str, int]:
    return str(IPv6Address(address.host) if address.is_v6 else IPv4Address(address.host)), address.port


@given(v4 | v6, v4 | v6)
def test_v1_that_is_written_reads_back(source: Inet, destination: Inet) -> None:
    assert header_of(encode_v1(source, destination)) == ProxyHeader(1, source, destination)


@given(v4 | v6, v4 | v6, st.lists(values, max_size=4))
def test_v2_that_is_written_reads_back(
    source: Inet, destination: Inet, tlvs: list[tuple[int, bytes]]
) -> None:
    assert header_of(encode_v2(source, destination, tlvs)) == ProxyHeader(2, source, destination, tuple(tlvs))


@given(unix_paths, unix_paths)
def test_v2_unix_that_is_written_reads_back(source: Unix, destination: Unix) -> None:
    octets = encode_v2(source, destination)
    assert len(octets) == 16 + 216
    assert header_of(octets) == ProxyHeader(2, source, destination)


def test_ipv4_mapped_addresses_leave_as_tcp4() -> None:
    mapped = Inet("::ffff:192.0.2.7", 51234)
    assert encode_v1(mapped, SERVER) == GOOD["v1 TCP4"]
    assert encode_v2(mapped, SERVER) == GOOD["v2 TCP4"]


def test_two_families_leave_as_ipv6() -> None:
    assert encode_v1(CLIENT, SERVER6) == b"PROXY TCP6 ::ffff:192.0.2.7 2001:db8:1::3 51234 443\r\n"
    assert encode_v1(CLIENT6, SERVER) == b"PROXY TCP6 2001:db8::7 ::ffff:198.51.100.3 51234 443\r\n"
    assert encode_v2(CLIENT, SERVER6)[13] == 0x21


def test_zone_is_cut() -> None:
    near = Inet("fe80::1%eth0.5", 1)
    assert encode_v1(near, SERVER6) == b"PROXY TCP6 fe80::1 2001:db8:1::3 1 443\r\n"
    assert header_of(encode_v2(near, SERVER6)).source == Inet("fe80::1", 1)


PAIRS_WITHOUT_FAMILY: list[tuple[Address | None, Address | None]] = [
    (None, None),
    (CLIENT, None),
    (None, SERVER),
    (Unix(b"/a"), SERVER),
    (CLIENT, Unix(b"/a")),
]


@pytest.mark.parametrize(("source", "destination"), [*PAIRS_WITHOUT_FAMILY, (Unix(b"/a"), Unix(b"/b"))])
def test_v1_has_no_word_for_other_addresses(source: Address | None, destination: Address | None) -> None:
    assert encode_v1(source, destination) == b"PROXY UNKNOWN\r\n"


@pytest.mark.parametrize(("source", "destination"), PAIRS_WITHOUT_FAMILY)
def test_v2_without_two_addresses_of_a_kind_is_local(
    source: Address | None, destination: Address | None
) -> None:
    assert encode_v2(source, destination) == v2(0x20, 0x00, b"")


def test_v2_refuses_to_write_what_no_reader_could_read() -> None:
    with pytest.raises(ValueError, match="108"):
        encode_v2(Unix(b"/" * 109), Unix(b"/"))
    with pytest.raises(ValueError, match="TLV"):
        encode_v2(CLIENT, SERVER, [(1, bytes(0x10000))])
    with pytest.raises(ValueError, match="fit"):
        encode_v2(CLIENT, SERVER, [(0xE0, bytes(0xF000)), (0xE1, bytes(0x1000))])
    with pytest.raises(ValueError, match="checksum"):
        encode_v2(CLIENT, SERVER, [(codec.CRC32C, bytes(4))])


# Other implementations


def of_library(result: ProxyResult) -> tuple[object, object]:
    source, destination = result.source, result.dest
    if isinstance(result, ProxyResultUnix):
        return Unix(source.encode()), Unix(destination.encode())
    if isinstance(result, ProxyResultIPv4 | ProxyResultIPv6):
        return Inet(str(source[0]), source[1]), Inet(str(destination[0]), destination[1])
    return None, None


@given(v4, v4)
def test_proxy_protocol_package_reads_what_we_write_for_ipv4(source: Inet, destination: Inet) -> None:
    assert of_library(ProxyProtocolV1().unpack(encode_v1(source, destination))) == (source, destination)
    assert of_library(ProxyProtocolV2().unpack(encode_v2(source, destination))) == (source, destination)


@given(v6, v6)
def test_proxy_protocol_package_reads_what_we_write_for_ipv6(source: Inet, destination: Inet) -> None:
    for result in (
        ProxyProtocolV1().unpack(encode_v1(source, destination)),
        ProxyProtocolV2().unpack(encode_v2(source, destination)),
    ):
        assert isinstance(result, ProxyResultIPv6)
        assert (str(result.source[0]), result.source[1]) == canonical(source)
        assert (str(result.dest[0]), result.dest[1]) == canonical(destination)


def test_proxy_protocol_package_reads_our_unix_addresses_tlvs_and_local() -> None:
    result = ProxyProtocolV2().unpack(encode_v2(Unix(b"/run/a"), Unix(b"/run/b")))
    assert of_library(result) == (Unix(b"/run/a"), Unix(b"/run/b"))
    result = ProxyProtocolV2().unpack(
        encode_v2(CLIENT, SERVER, ((1, b"h2"), (2, b"example.org"), (5, b"id")))
    )
    assert (result.tlv.alpn, result.tlv.authority, result.tlv.unique_id) == (b"h2", "example.org", b"id")
    assert isinstance(ProxyProtocolV2().unpack(encode_v2(None, None)), ProxyResultLocal)
    assert isinstance(ProxyProtocolV1().unpack(encode_v1(None, None)), ProxyResultUnknown)


TLVS = ProxyProtocolTLV(
    alpn=b"h2",
    authority="example.org",
    unique_id=b"id",
    ssl=ProxyProtocolSSLTLV(has_ssl=True, version="TLSv1.3"),
)


@given(v4, v4)
def test_we_read_what_the_proxy_protocol_package_writes_for_ipv4(source: Inet, destination: Inet) -> None:
    result = ProxyResultIPv4(
        (IPv4Address(source.host), source.port),
        (IPv4Address(destination.host), destination.port),
        protocol=socket.SOCK_STREAM,
        tlv=TLVS,
    )
    header = header_of(ProxyProtocolV2().pack(result))
    assert (header.source, header.destination) == (source, destination)
    assert dict(header.tlvs) == dict(TLVS)
    assert header_of(ProxyProtocolV1().pack(result)) == ProxyHeader(1, source, destination)


@given(v6, v6)
def test_we_read_what_the_proxy_protocol_package_writes_for_ipv6(source: Inet, destination: Inet) -> None:
    result = ProxyResultIPv6(
        (IPv6Address(source.host), source.port),
        (IPv6Address(destination.host), destination.port),
        protocol=socket.SOCK_STREAM,
    )
    assert header_of(ProxyProtocolV2().pack(result)) == ProxyHeader(2, source, destination)
    assert header_of(ProxyProtocolV1().pack(result)) == ProxyHeader(1, source, destination)


def test_we_read_what_the_proxy_protocol_package_writes_for_unix_and_local() -> None:
    unix = ProxyResultUnix("/run/a", "/run/b", protocol=socket.SOCK_STREAM)
    assert header_of(ProxyProtocolV2().pack(unix)) == ProxyHeader(2, Unix(b"/run/a"), Unix(b"/run/b"))
    assert header_of(ProxyProtocolV2().pack(ProxyResultLocal())) == ProxyHeader(2, None, None, (), True)


@given(v4, v4)
def test_twisted_reads_what_we_write(source: Inet, destination: Inet) -> None:
    for parser, octets in (
        (V1Parser(), encode_v1(source, destination)),
        (V2Parser(), encode_v2(source, destination)),
    ):
        info, rest = parser.feed(octets + b"behind")
        assert rest == b"behind"
        assert info is not None
        assert (info.source.host, info.source.port) == source
        assert (info.destination.host, info.destination.port) == destination


def test_twisted_reads_our_ipv6_and_unix_addresses() -> None:
    info, _ = V1Parser().feed(encode_v1(CLIENT6, SERVER6))
    assert info is not None
    assert (info.source.host, info.destination.host) == (CLIENT6.host, SERVER6.host)
    info, _ = V2Parser().feed(encode_v2(Unix(b"/run/a"), Unix(b"/run/b")))
    assert info is not None
    assert info.source == UNIXAddress(b"/run/a")


@given(V1_TEXT | V2_BYTES)
def test_what_we_accept_twisted_does_not_read_differently(octets: bytes) -> None:
    outcome, rest = read(octets)
    if not isinstance(outcome, ProxyHeader) or not isinstance(outcome.source, Inet) or outcome.source.is_v6:
        return
    parser = V1Parser() if outcome.version == 1 else V2Parser()
    info, behind = parser.feed(octets)
    assert info is not None
    assert behind == rest
    host = info.source.host.removeprefix("::ffff:")
    assert (host, info.source.port) == outcome.source
