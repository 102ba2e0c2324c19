"""Heads and chunks as they are written, and that no value breaks a line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rproxy.wire.http1_write import chunk, framing_pairs, last_chunk, request_head, response_head
from rproxy.wire.message import Framing
from tests.wire.reading import request_of, responses


def test_a_request_head_is_written_and_read_back() -> None:
    head = request_head(b"GET", b"/a?b", [(b"Host", b"a"), (b"x-Y", b"")])
    assert head == b"GET /a?b HTTP/1.1\r\nHost: a\r\nx-Y: \r\n\r\n"
    assert request_of(head).headers.pairs == [(b"Host", b"a"), (b"x-Y", b"")]


def test_a_response_head_is_written_and_read_back() -> None:
    head = response_head(404, b"Not Found", [(b"Content-Length", b"0")])
    assert head == b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
    assert response_head(200, b"", []) == b"HTTP/1.1 200 \r\n\r\n"
    assert responses([response_head(100, b"Continue", []) + head]).refused is None


@pytest.mark.parametrize(
    ("framing", "pairs"),
    [
        (Framing.NONE, []),
        (Framing.UNTIL_CLOSE, []),
        (Framing.LENGTH, [(b"Content-Length", b"7")]),
        (Framing.CHUNKED, [(b"Transfer-Encoding", b"chunked")]),
    ],
)
def test_the_framing_is_announced_by_one_field_at_most(
    framing: Framing, pairs: list[tuple[bytes, bytes]]
) -> None:
    assert framing_pairs(framing, 7) == pairs


@pytest.mark.parametrize("bad", [b"\r\n", b"\r", b"\n", b"\0", b"a\r\nSet-Cookie: b", b"\n\r", b"\r\n\r\n"])
def test_a_line_break_or_nul_is_never_written(bad: bytes) -> None:
    for pair in ((b"A", bad), (bad, b"b"), (b"A", b"b" + bad), (b"A", bad + b"b")):
        with pytest.raises(ValueError, match="line break"):
            response_head(200, b"OK", [(b"X", b"y"), pair, (b"X", b"y")])
        with pytest.raises(ValueError, match="line break"):
            last_chunk([pair])
    with pytest.raises(ValueError, match="line break"):
        response_head(200, bad, [])


@pytest.mark.parametrize(
    ("method", "target"),
    [
        (b"", b"/"),
        (b"G T", b"/"),
        (b"GET\r\n", b"/"),
        (b"GET", b""),
        (b"GET", b"/ b"),
        (b"GET", b"/\r\n"),
        (b"GET", b"/\xff"),
        (b"GET", b"/#"),
    ],
)
def test_a_malformed_request_line_is_never_written(method: bytes, target: bytes) -> None:
    with pytest.raises(ValueError, match="method or target"):
        request_head(method, target, [])


@pytest.mark.parametrize("status", [-1, 0, 99, 1000])
def test_a_status_out_of_range_is_never_written(status: int) -> None:
    with pytest.raises(ValueError, match="status"):
        response_head(status, b"", [])


def test_a_chunk_is_three_buffers_and_its_piece_is_not_copied() -> None:
    piece = memoryview(bytes(26))
    size, same, end = chunk(piece)
    assert (size, end) == (b"1a\r\n", b"\r\n")
    assert same is piece


def test_an_empty_chunk_would_end_the_body() -> None:
    with pytest.raises(ValueError, match="empty"):
        chunk(b"")


def test_the_last_chunk_carries_the_trailers() -> None:
    assert last_chunk() == b"0\r\n\r\n"
    assert last_chunk([(b"A", b"b")]) == b"0\r\nA: b\r\n\r\n"


@given(st.binary(), st.binary(), st.binary())
def test_whatever_is_written_is_one_response_with_the_fields_given(
    name: bytes, value: bytes, reason: bytes
) -> None:
    try:
        head = response_head(302, reason, [(b"Content-Length", b"0"), (b"Location", value), (name, b"x")])
    except ValueError:
        return
    assert head.count(b"\r\n") == 5
    transcript = responses([head])
    assert transcript.refused is not None or len(transcript.messages) == 1
    assert transcript.rest == b""
