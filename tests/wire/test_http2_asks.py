"""Request heads as HPACK, read back by the library's decoder."""

from __future__ import annotations

import pytest
from hpack import Decoder

from rproxy.wire.http2_asks import MOST_LINES, RequestEncoder
from rproxy.wire.message import Block, Fields, Pair


def said(octets: bytes) -> list[Pair]:
    return [(bytes(name), bytes(value)) for name, value in Decoder().decode(octets, raw=True)]


def ask(method: bytes = b"GET", target: bytes = b"/", *own: Pair, protocol: bytes = b"") -> list[Pair]:
    fields = Fields([(b"Host", b"a"), *own], Block([(b"Accept", b"*/*")]))
    return said(RequestEncoder().request(method, b"https", target, fields, protocol))


def test_pseudo_header_fields_come_first_and_host_is_one_of_them() -> None:
    assert ask(b"POST", b"/x?y", (b"X-One", b"1")) == [
        (b":method", b"POST"),
        (b":scheme", b"https"),
        (b":path", b"/x?y"),
        (b":authority", b"a"),
        (b"x-one", b"1"),
        (b"accept", b"*/*"),
    ]


@pytest.mark.parametrize("method", [b"GET", b"POST", b"PUT", b"PROPFIND"])
@pytest.mark.parametrize("target", [b"/", b"/index.html", b"*", b"/" + b"x" * 300])
def test_any_method_and_target(method: bytes, target: bytes) -> None:
    fields = dict(ask(method, target))
    assert (fields[b":method"], fields[b":path"]) == (method, target)


def test_a_host_is_said_once_however_it_is_written() -> None:
    fields = Fields([(b"hOST", b"a"), (b"Host", b"b")], Block([(b"HOST", b"c")]))
    pairs = said(RequestEncoder().request(b"GET", b"http", b"/", fields))
    assert [pair for pair in pairs if pair[0] in (b"host", b":authority")] == [(b":authority", b"a")]


def test_nothing_of_a_connection_goes_on() -> None:
    dropped = [
        (b"Connection", b"TE"),
        (b"Upgrade", b"x"),
        (b"Keep-Alive", b"1"),
        (b"Transfer-Encoding", b"chunked"),
    ]
    names = [name for name, _ in ask(b"GET", b"/", *dropped, (b"TE", b"trailers"))]
    assert names[4:] == [b"te", b"accept"]


def test_a_connect_is_for_an_authority_alone() -> None:
    assert ask(b"CONNECT", b"a:1") == [(b":method", b"CONNECT"), (b":authority", b"a"), (b"accept", b"*/*")]


def test_an_extended_connect_names_its_protocol() -> None:
    pairs = ask(b"GET", b"/chat", protocol=b"websocket")
    assert pairs[:5] == [
        (b":method", b"CONNECT"),
        (b":scheme", b"https"),
        (b":path", b"/chat"),
        (b":authority", b"a"),
        (b":protocol", b"websocket"),
    ]


def test_a_block_that_comes_again_is_not_encoded_again() -> None:
    encoder, block = RequestEncoder(), Block([(b"X-Long", b"x" * 50)])
    first = encoder.request(b"GET", b"http", b"/", Fields([(b"Host", b"a")], block))
    block.pairs = [(b"x-other", b"")]
    assert encoder.request(b"GET", b"http", b"/", Fields([(b"Host", b"a")], block)) == first
    other = Fields([(b"Host", b"a")], Block([(b"x-new", b"")]))
    assert (b"x-new", b"") in said(encoder.request(b"GET", b"http", b"/", other))


@pytest.mark.parametrize("bad", [b"a\rb", b"a\nb", b"a\0b"])
def test_a_line_break_is_never_written(bad: bytes) -> None:
    with pytest.raises(ValueError):
        ask(b"GET", bad)
    with pytest.raises(ValueError):
        ask(b"GET", b"/", (b"x", bad))
    with pytest.raises(ValueError):
        said(RequestEncoder().request(b"GET", b"http", b"/", Fields([(b"Host", bad)])))


def test_no_more_methods_are_remembered_than_there_are_real_ones() -> None:
    encoder = RequestEncoder()
    for number in range(MOST_LINES * 2):
        encoder.request(b"M%d" % number, b"http", b"/", Fields([]))
    assert len(encoder._lines) == MOST_LINES
