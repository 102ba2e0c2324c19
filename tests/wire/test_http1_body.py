"""Bodies and chunks: what is handed on and in which pieces, trailers, limits, faults in the middle."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rproxy.wire.http1 import RequestReader
from rproxy.wire.http1_body import COPY_BELOW, MAX_CHUNK_LINE, MAX_TRAILER_SECTION
from rproxy.wire.http1_fields import MAX_TRAILERS
from rproxy.wire.http1_write import chunk, last_chunk
from rproxy.wire.message import BadRequest, Headers, HeadTooLarge
from tests.wire.reading import drain, however_cut, requests

LENGTH = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


def reader_of(head: bytes) -> RequestReader:
    """A reader that has read `head` and waits for its body."""
    reader = RequestReader()
    reader.receive(head)
    assert reader.read_head() is not None
    return reader


def chunked(data: bytes) -> tuple[bytes, int | None]:
    """The body bytes in `data`, and the status of the refusal, the same for every cut."""

    def read(pieces: list[bytes]) -> tuple[bytes, int | None]:
        transcript = requests([CHUNKED, *pieces])
        return transcript.messages[0].body, transcript.refused

    return however_cut(read, data)


def test_a_read_that_is_all_body_is_handed_on_as_it_is() -> None:
    reader = reader_of(LENGTH % 100000)
    data = bytes(50000)
    for _ in range(2):
        reader.receive(data)
        assert reader.read_body() is data
    assert reader.complete


def test_a_large_part_of_a_read_is_handed_on_without_a_copy() -> None:
    head = LENGTH % 50000
    read = head + bytes(50000) + b"GET"
    reader = RequestReader()
    reader.receive(read)
    reader.read_head()
    piece = reader.read_body()
    assert isinstance(piece, memoryview)
    assert piece.obj is read
    assert piece.readonly
    assert len(piece) == 50000
    assert reader.complete
    assert reader.unread == 3


def test_a_small_part_of_a_read_does_not_keep_the_read_alive() -> None:
    reader = RequestReader()
    reader.receive(LENGTH % (COPY_BELOW - 1) + bytes(COPY_BELOW - 1) + b"GET")
    reader.read_head()
    assert isinstance(reader.read_body(), bytes)


def test_pieces_stay_what_they_were_when_more_is_received() -> None:
    reader = RequestReader()
    reader.receive(LENGTH % 10000)
    reader.receive(b"x" * 5000)
    reader.read_head()
    first = reader.read_body()
    reader.receive(b"y" * 5000)
    second = reader.read_body()
    assert (bytes(first), bytes(second)) == (b"x" * 5000, b"y" * 5000)


def test_a_reader_keeps_nothing_of_what_it_gave_out() -> None:
    for head, body in (
        (LENGTH % 50000, bytes(50000)),
        (CHUNKED, b"c350\r\n" + bytes(50000) + b"\r\n0\r\n\r\n"),
    ):
        reader = reader_of(head)
        reader.receive(body)
        drain(reader)
        assert reader.complete
        assert reader._buffer == b""


def test_left_counts_down_and_skip_notes_what_went_by() -> None:
    reader = reader_of(LENGTH % 10 + b"abc")
    assert reader.left == 10
    with pytest.raises(RuntimeError):
        reader.skip(1)
    assert reader.read_body() == b"abc"
    assert reader.left == 7
    reader.skip(0)
    reader.skip(6)
    for count in (-1, 2):
        with pytest.raises(RuntimeError):
            reader.skip(count)
    assert not reader.complete
    reader.skip(1)
    assert reader.complete
    assert reader.left == 0
    with pytest.raises(RuntimeError):
        reader.skip(1)


def test_a_chunked_body_has_no_left_and_cannot_be_skipped() -> None:
    reader = reader_of(CHUNKED + b"5\r\nhe")
    reader.read_body()
    assert reader.left == 0
    with pytest.raises(RuntimeError):
        reader.skip(3)


def test_a_read_without_a_body_gives_nothing() -> None:
    reader = RequestReader()
    assert reader.read_body() == b""
    assert reader.take_rest() == b""


@pytest.mark.parametrize(
    ("data", "body"),
    [
        (b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
        (b'1\r\nh\r\n1\r\ne\r\n3;x="y"\r\nllo\r\n00;z\r\n\r\n', b"hello"),
        (b"000000000000000A\r\n0123456789\r\n0\r\n\r\n", b"0123456789"),
        (b"2\r\n\r\n\r\n0\r\n\r\n", b"\r\n"),
        (b"0\r\n\r\n", b""),
    ],
)
def test_chunks_are_joined_and_their_frames_dropped(data: bytes, body: bytes) -> None:
    assert chunked(data) == (body, None)


def test_many_chunks_of_one_read_come_as_one_piece_and_one_large_chunk_as_a_view() -> None:
    reader = reader_of(CHUNKED)
    reader.receive(b"1\r\nx\r\n" * 1000)
    assert reader.read_body() == b"x" * 1000
    assert reader.read_body() == b""
    reader.receive(b"%x\r\n" % 9999 + bytes(9999) + b"\r\n")
    assert isinstance(reader.read_body(), memoryview)


def test_the_data_before_a_fault_is_given_and_then_the_refusal() -> None:
    reader = reader_of(CHUNKED + b"5\r\nhello\r\nXYZ\r\n")
    assert reader.read_body() == b"hello"
    for _ in range(2):
        with pytest.raises(BadRequest, match="malformed chunk line"):
            reader.read_body()
    assert not reader.complete


def test_a_fault_says_at_once_that_a_chunk_is_longer_than_its_size() -> None:
    assert chunked(b"5\r\nhelloX") == (b"hello", 400)


def extended(length: int) -> bytes:
    """A chunk of one byte whose line, with its line end, is `length` long."""
    return b"1;" + b"a" * (length - 4) + b"\r\nx\r\n"


@pytest.mark.parametrize(
    ("data", "refused"),
    [
        (extended(MAX_CHUNK_LINE) + b"0\r\n\r\n", None),
        (extended(MAX_CHUNK_LINE + 1) + b"0\r\n\r\n", 400),
        (b"1;" + b"a" * 1000, 400),
        (b"0" * 16 + b"\r\n\r\n", None),
        (b"0" * 17 + b"\r\n\r\n", 400),
        (b"0" * 16 + b";a\r\n\r\n", None),
        (b"0" * 17 + b";a\r\n\r\n", 400),
        (b"f" * 16 + b"\r\n", None),
        (b"0\r\n" + b"A: b\r\n" * MAX_TRAILERS + b"\r\n", None),
        (b"0\r\n" + b"A: b\r\n" * (MAX_TRAILERS + 1) + b"\r\n", 431),
    ],
)
def test_limits_of_chunk_lines_and_trailers_hold_to_the_byte(data: bytes, refused: int | None) -> None:
    assert chunked(data)[1] == refused


@pytest.mark.parametrize(("over", "refused"), [(0, None), (1, 431), (1000, 431)])
def test_the_trailer_section_is_limited_to_the_byte(over: int, refused: int | None) -> None:
    section = b"A: " + b"x" * (MAX_TRAILER_SECTION + over - 7) + b"\r\n\r\n"
    for size in (1, 7, 1000, len(section)):
        pieces = [section[i : i + size] for i in range(0, len(section), size)]
        assert requests([CHUNKED, b"0\r\n", *pieces]).refused == refused
    assert requests([CHUNKED, b"0\r\n", section[:-4]]).refused == (431 if over == 1000 else None)


def test_trailers_are_read_with_the_rules_of_fields() -> None:
    reader = reader_of(CHUNKED + b"0\r\nA-Sum:  1 \r\nB: \xff\r\n\r\nGET")
    assert reader.read_body() == b""
    assert reader.complete
    assert reader.trailers == Headers([(b"A-Sum", b"1"), (b"B", b"\xff")])
    assert reader.unread == 3


@pytest.mark.parametrize("line", [b"A : b", b" A: b", b"A: b\0", b"A", b": b", b"A: b\r\n c", b"A: b\nC: d"])
def test_malformed_trailers_are_refused(line: bytes) -> None:
    assert chunked(b"0\r\nX: y\r\n" + line + b"\r\n\r\n") == (b"", 400)


@pytest.mark.parametrize(
    "name",
    b"Content-Length Transfer-Encoding Host Connection Upgrade Expect TE Trailer Authorization Cookie Via"
    b" Set-Cookie Content-Type Content-Encoding Content-Range Proxy-Authorization Max-Forwards Forwarded"
    b" X-Forwarded-For x_forwarded_proto X-Real-IP Content_Length Cache-Control".split(),
)
def test_fields_that_frame_route_or_authenticate_are_refused_in_trailers(name: bytes) -> None:
    assert chunked(b"0\r\n" + name + b": 1\r\n\r\n") == (b"", 400)


def test_a_trailer_section_that_is_too_large_says_so() -> None:
    reader = reader_of(CHUNKED + b"0\r\n" + b"A: b\r\n" * 2000)
    with pytest.raises(HeadTooLarge, match="trailer section too long"):
        reader.read_body()


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=6), st.data())
def test_what_the_writer_chunked_comes_out_again_however_it_is_cut(
    parts: list[bytes], data: st.DataObject
) -> None:
    wire = b"".join(b"".join(chunk(part)) for part in parts) + last_chunk([(b"A", b"b")]) + b"rest"
    places = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=8)))
    reader = reader_of(CHUNKED)
    body = b""
    for start, end in zip([0, *places], [*places, len(wire)], strict=True):
        reader.receive(wire[start:end])
        piece, fault = drain(reader)
        assert fault is None
        body += piece
    assert body == b"".join(parts)
    assert reader.trailers == Headers([(b"A", b"b")])
    assert reader.take_rest() == b"rest"


TOKENS = [
    b"0",
    b"5",
    b"A",
    b"\r\n",
    b"\r",
    b"\n",
    b";",
    b"a",
    b"=",
    b'"',
    b"\\",
    b" ",
    b"x: y",
    b"\xff",
    b"\0",
]


@given(st.lists(st.sampled_from(TOKENS), max_size=30))
def test_anything_like_chunks_gives_the_same_however_it_is_cut(tokens: list[bytes]) -> None:
    data = b"".join(tokens)
    whole = requests([CHUNKED + data])
    assert requests([CHUNKED, *tokens]) == whole
    assert requests([CHUNKED, *(data[i : i + 1] for i in range(len(data)))]) == whole
    assert whole.refused in {None, 400}
