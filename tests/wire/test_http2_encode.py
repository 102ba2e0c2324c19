"""Response heads in HPACK: read again by the library, bounded, nothing in them that HTTP/1 would split."""

from __future__ import annotations

import pytest
from hpack import Decoder, NeverIndexedHeaderTuple
from hypothesis import given
from hypothesis import strategies as st

from rproxy.wire.http2_encode import MOST_NAMES, Encoder
from rproxy.wire.message import Block, Fields


def decoded(octets: bytes) -> list[tuple[bytes, bytes]]:
    decoder = Decoder(1 << 24)
    found = [(bytes(name), bytes(value)) for name, value in decoder.decode(octets, raw=True)]
    assert not decoder.header_table.dynamic_entries, "the client was made to remember something"
    return found


@pytest.mark.parametrize("status", [100, 103, 200, 204, 206, 304, 400, 404, 418, 500, 599])
def test_every_status_can_be_said(status: int) -> None:
    encoder = Encoder()
    for _ in range(2):
        assert decoded(encoder.head(status, Fields([]))) == [(b":status", b"%d" % status)]


def test_names_are_in_lower_case_and_in_their_order() -> None:
    pairs = [(b"Server", b"x"), (b"X-Own", b"y"), (b"DATE", b""), (b"server", b"z")]
    assert decoded(Encoder().fields(pairs)) == [(name.lower(), value) for name, value in pairs]


def test_what_belongs_to_a_connection_is_left_out() -> None:
    pairs = [(name, b"x") for name in (b"Connection", b"keep-alive", b"Proxy-Connection", b"UPGRADE", b"ok")]
    assert decoded(Encoder().fields([*pairs, (b"transfer-encoding", b"chunked")])) == [(b"ok", b"x")]


def test_secrets_are_never_to_be_remembered_on_the_way() -> None:
    octets = Encoder().fields([(b"Set-Cookie", b"a=b"), (b"www-authenticate", b"x"), (b"date", b"y")])
    found = Decoder().decode(octets, raw=True)
    assert [isinstance(one, NeverIndexedHeaderTuple) for one in found] == [True, True, False]


@pytest.mark.parametrize("size", [0, 1, 126, 127, 128, 254, 255, 300, 16511, 16512, 70000])
def test_long_names_and_values_have_their_length_in_front(size: int) -> None:
    pairs = [(b"x" * (size or 1), b"v" * size), (b"date", b"v" * size)]
    assert decoded(Encoder().fields(pairs)) == pairs


@pytest.mark.parametrize("value", [b"a\r\nb", b"a\nb", b"a\rb", b"a\0b"])
def test_a_value_that_would_be_two_lines_is_not_written(value: bytes) -> None:
    encoder = Encoder()
    for _ in range(2):
        with pytest.raises(ValueError):
            encoder.fields([(b"location", value)])
        with pytest.raises(ValueError):
            encoder.head(200, Fields([], Block([(b"x", value)])))


def test_values_of_ten_and_thirteen_bytes_are_no_line_breaks() -> None:
    pairs = [(b"x", b"v" * 10), (b"y", b"v" * 13)]
    assert decoded(Encoder().fields(pairs)) == pairs


def test_a_block_that_comes_again_is_not_mistaken_for_another() -> None:
    encoder, one, other = Encoder(), Block([(b"a", b"1")]), Block([(b"a", b"2")])
    for block, value in ((one, b"1"), (one, b"1"), (other, b"2"), (one, b"1")):
        found = decoded(encoder.head(200, Fields([(b"own", b"x")], block)))
        assert found == [(b":status", b"200"), (b"own", b"x"), (b"a", value)]


def test_a_peer_that_invents_names_fills_no_memory() -> None:
    encoder = Encoder()
    for number in range(3 * MOST_NAMES):
        assert decoded(encoder.fields([(b"X-%d" % number, b"v")])) == [(b"x-%d" % number, b"v")]
    assert len(encoder._names) <= MOST_NAMES


PLAIN = st.binary(max_size=300).filter(lambda value: not set(value) & set(b"\r\n\0"))


@given(st.lists(st.tuples(st.from_regex(rb"[a-z0-9-]{1,30}", fullmatch=True), PLAIN), max_size=20))
def test_whatever_is_written_is_read_again(pairs: list[tuple[bytes, bytes]]) -> None:
    forbidden = {b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"}
    pairs = [pair for pair in pairs if pair[0] not in forbidden]
    assert decoded(Encoder().fields(pairs)) == pairs
