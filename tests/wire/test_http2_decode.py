"""HPACK read: the same as the library reads, and refused where it refuses."""

from __future__ import annotations

import pytest
from hpack import Decoder as Library
from hpack import Encoder, HPACKError
from hypothesis import given
from hypothesis import strategies as st

from rproxy.wire.http2_decode import MOST_KEPT, TABLE, Decoder
from rproxy.wire.http2_events import ErrorCode
from rproxy.wire.http2_frames import Breach
from tests.wire.http2_talk import GET, block, literal

Pairs = list[tuple[bytes, bytes]]


def refused(octets: bytes, decoder: Decoder | None = None) -> ErrorCode:
    with pytest.raises(Breach) as caught:
        (decoder or Decoder()).decode(octets)
    return caught.value.code


TEXT = st.one_of(
    st.binary(max_size=40), st.sampled_from([b"/", b"GET", b"a=b", b"gzip, deflate", b"x" * 500])
)
NAMES = st.sampled_from(
    [b":path", b":method", b"cookie", b"x", b"accept-encoding", b"user-agent", b"y" * 200]
)


@given(st.lists(st.lists(st.tuples(NAMES, TEXT), max_size=12), max_size=8), st.booleans())
def test_what_the_library_writes_is_read_again(sections: list[Pairs], huffman: bool) -> None:
    encoder, decoder = Encoder(), Decoder()
    for fields in sections:
        assert decoder.decode(encoder.encode(fields, huffman=huffman)) == with_one_cookie(fields)


def with_one_cookie(fields: Pairs) -> Pairs:
    """RFC 9113 §8.2.3: the pieces are joined where the first one was."""
    crumbs = [value for name, value in fields if name == b"cookie"]
    joined = iter([(b"cookie", b"; ".join(crumbs))])
    found = [next(joined, None) if pair[0] == b"cookie" else pair for pair in fields]
    return [pair for pair in found if pair is not None]


@given(st.lists(st.binary(max_size=60), max_size=6))
def test_any_bytes_are_what_they_are_to_the_library(sections: list[bytes]) -> None:
    ours, theirs = Decoder(), Library(1 << 16)
    for section in sections:
        try:
            expected = [tuple(field) for field in theirs.decode(section, raw=True)]
        except HPACKError:
            assert refused(section, ours) is ErrorCode.COMPRESSION_ERROR
            return
        try:
            assert ours.decode(section) == expected
        except Breach:  # we are stricter about sizes of tables and of numbers
            assert section[:1] >= b"\x20"
            return


def test_every_byte_can_be_packed_and_unpacked() -> None:
    everything = bytes(range(256)) * 3
    assert Decoder().decode(Encoder().encode([(b"x", everything)])) == [(b"x", everything)]


@pytest.mark.parametrize(
    "octets",
    [
        b"\x80",
        b"\xbe",
        b"\xff\xff\xff\xff\xff\xff",
        b"\xff",
        b"\x40",
        b"\x00\x01x",
        b"\x00\x05ab",
        b"\x00\x01x\x03ab",
        b"\x7f\xff",
        b"\x00\x01x\x81\x00",
        b"\x00\x01x\x81\xfe",
        b"\x00\x01x\x82\xff\xff",
        b"\x00\x01x\x84\xff\xff\xff\xff",
        b"\x82\x20",
        b"\x20\x20\x20",
        b"\x3f\xe2\x1f",
        b"\x3f\xff\xff\xff\xff\x7f",
        b"\x0f\x80\x80\x80\x80\x80\x80",
    ],
)
def test_what_is_no_hpack_is_refused(octets: bytes) -> None:
    assert refused(octets) is ErrorCode.COMPRESSION_ERROR


def test_a_section_cut_anywhere_is_refused_or_shorter() -> None:
    octets = Encoder().encode([*GET, (b"x-long", b"v" * 200), (b"cookie", b"a=b")])
    whole = Decoder().decode(octets)
    for at in range(len(octets)):
        try:
            found = Decoder().decode(octets[:at])
        except Breach:
            continue
        assert found == whole[: len(found)]
        assert len(found) < len(whole)


def test_the_table_forgets_the_oldest() -> None:
    decoder = Decoder()
    for number in range(100):
        decoder.decode(b"\x40\x03%03d\x7f\x81\x01" % number + b"v" * 256)
    assert decoder._size <= TABLE
    assert len(decoder._entries) == TABLE // (3 + 256 + 32)
    assert decoder.decode(b"\xbe")[0][0] == b"099"
    assert refused(bytes([0x80 | 62 + TABLE // (3 + 256 + 32)]), decoder) is ErrorCode.COMPRESSION_ERROR


def test_a_field_larger_than_the_table_empties_it() -> None:
    decoder = Decoder()
    decoder.decode(b"\x40\1a\1b")
    decoder.decode(b"\x40\1x\x7f\x81\x1f" + b"v" * 4096)
    assert (decoder._entries, decoder._size) == ([], 0)
    assert refused(b"\xbe", decoder) is ErrorCode.COMPRESSION_ERROR


def test_a_table_made_smaller_and_larger_again_is_empty() -> None:
    decoder = Decoder()
    decoder.decode(b"\x40\1a\1b")
    assert decoder.decode(b"\x20\x3f\xe1\x1f\x40\1c\1d\xbe") == [(b"c", b"d"), (b"c", b"d")]
    assert refused(b"\xbf", decoder) is ErrorCode.COMPRESSION_ERROR


def test_a_section_that_unpacks_to_too_much_ends_the_connection() -> None:
    decoder = Decoder()
    decoder.decode(b"\x40\1x\x7f\xd9\x1e" + b"v" * 4056)
    assert len(decoder.decode(b"\xbe" * 16)) == 16
    assert refused(b"\xbe" * 17, decoder) is ErrorCode.ENHANCE_YOUR_CALM


def test_of_too_many_fields_no_more_are_kept_than_tell_that() -> None:
    assert len(Decoder().decode(b"\x82" * 1000)) == MOST_KEPT
    assert len(Decoder().decode(b"\x82" * MOST_KEPT)) == MOST_KEPT


def test_a_field_that_is_never_to_be_remembered_is_not() -> None:
    decoder = Decoder()
    assert decoder.decode(b"\x10\1a\1b" + literal(b"c", b"d")) == [(b"a", b"b"), (b"c", b"d")]
    assert decoder._entries == []


def test_a_request_is_what_it_was() -> None:
    assert Decoder().decode(block(GET)) == GET
