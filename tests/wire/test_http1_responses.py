"""Responses: framing by request and status, interim ones, reuse, peers that cut short or say too much."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rproxy.wire.http1 import MAX_HEAD, MAX_INTERIM, ResponseReader
from rproxy.wire.http1_fields import MAX_FIELDS
from rproxy.wire.http1_head import MAX_LINE
from rproxy.wire.message import BadResponse, Framing, Headers, Response
from tests.wire.reading import Transcript, however_cut, responses

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nSum: 1\r\n\r\n"
OPEN = b"HTTP/1.1 200 OK\r\n\r\nhello"
EARLY = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"


def read(data: bytes, method: bytes = b"GET", upgrade: bool = False) -> Transcript:
    return however_cut(lambda pieces: responses(pieces, method, upgrade), data)


def refused(data: bytes, method: bytes = b"GET") -> bool:
    status = read(data, method).refused
    assert status in {None, 502}
    return status == 502


def reader_after(data: bytes, method: bytes = b"GET") -> ResponseReader:
    """A reader that was given `data` and gave out all it could."""
    reader = ResponseReader()
    reader.expect(method)
    reader.receive(data)
    while reader.read_head().interim:  # type: ignore[union-attr]
        pass
    while reader.read_body():
        pass
    return reader


def test_a_response_says_all_that_stood_in_its_head() -> None:
    (message,) = read(OK).messages
    assert message.body == b"hello"
    assert message.complete
    assert message.head == Response(
        version=11,
        status=200,
        reason=b"OK",
        headers=Headers([(b"Content-Length", b"5")]),
        framing=Framing.LENGTH,
        length=5,
        keep_alive=True,
        connection=frozenset(),
        upgrade=b"",
    )


@pytest.mark.parametrize(
    ("line", "status", "reason"),
    [
        (b"HTTP/1.1 404 Not Found", 404, b"Not Found"),
        (b"HTTP/1.1 200 ", 200, b""),
        (b"HTTP/1.1 200", 200, b""),
        (b"HTTP/1.1 299 \xc3\xa4 \t?", 299, b"\xc3\xa4 \t?"),
        (b"HTTP/1.0 999 x", 999, b"x"),
    ],
)
def test_every_status_and_reason_is_read(line: bytes, status: int, reason: bytes) -> None:
    (message,) = read(line + b"\r\nContent-Length: 0\r\n\r\n").messages
    assert isinstance(message.head, Response)
    assert (message.head.status, message.head.reason) == (status, reason)


@pytest.mark.parametrize(
    "line",
    [
        b"HTTP/1.1 20 OK",
        b"HTTP/1.1 2000 OK",
        b"HTTP/1.1 099 OK",
        b"HTTP/1.1 +20 OK",
        b"HTTP/1.1  200 OK",
        b"HTTP/1.1 200OK",
        b"HTTP/1.1",
        b"HTTP/2.0 200 OK",
        b"HTTP/1.2 200 OK",
        b"http/1.1 200 OK",
        b"ICY 200 OK",
        b" HTTP/1.1 200 OK",
        b"\r\nHTTP/1.1 200 OK",
        b"HTTP/1.1 200 O\0K",
        b"HTTP/1.1 200 O\rK",
        b"HTTP/1.1 200 OK\nA: b",
        b"hello",
        b"\x15\x03\x03\x00\x02\x02\x46",
    ],
)
def test_a_bad_status_line_is_refused(line: bytes) -> None:
    assert refused(line + b"\r\nContent-Length: 0\r\n\r\n")


@pytest.mark.parametrize(
    "fields",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked",
        b"Content-Length: 5\r\nContent-Length: 5",
        b"Content-Length: 5, 5",
        b"Content-Length: +5",
        b"Transfer-Encoding: gzip, chunked",
        b"Transfer-Encoding: identity",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        b"A : b",
        b"A: b\r\n c",
        b"A: b\nC: d",
        b"A: b\rC: d",
        b"A: \0",
        b": b",
        b"A",
        b"A: b\r\n" * MAX_FIELDS + b"C: d",
    ],
    ids=range(15),
)
def test_ambiguous_or_malformed_fields_are_refused(fields: bytes) -> None:
    assert refused(b"HTTP/1.1 200 OK\r\n" + fields + b"\r\n\r\nhello")


def test_http_1_0_with_transfer_encoding_is_refused() -> None:
    assert refused(CHUNKED.replace(b"1.1", b"1.0"))


@pytest.mark.parametrize("fields", [b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b""])
@pytest.mark.parametrize(("method", "status"), [(b"HEAD", b"200"), (b"GET", b"304"), (b"HEAD", b"404")])
def test_no_body_follows_where_none_can_whatever_the_fields_announce(
    method: bytes, status: bytes, fields: bytes
) -> None:
    (message,) = read(b"HTTP/1.1 " + status + b" x\r\n" + fields + b"\r\n", method).messages
    assert (message.head.framing, message.head.length, message.complete) == (Framing.NONE, 0, True)
    assert len(message.head.headers.pairs) == (fields != b"")


@pytest.mark.parametrize(("status", "refusal"), [(b"204", True), (b"103", True), (b"205", False)])
def test_a_status_without_content_may_not_announce_any(status: bytes, refusal: bool) -> None:
    start = b"HTTP/1.1 " + status + b" x\r\n"
    assert refused(start + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n") is refusal
    assert refused(start + b"Content-Length: 5\r\n\r\nhello") is refusal


def test_204_with_length_0_is_common_and_harmless() -> None:
    assert reader_after(b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n").reusable


@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
def test_bytes_behind_a_response_without_body_forbid_reuse(method: bytes) -> None:
    reader = reader_after(b"HTTP/1.1 304 Not Modified\r\n\r\nhello", method)
    assert reader.complete
    assert not reader.reusable


@pytest.mark.parametrize("data", [OK, CHUNKED])
def test_a_connection_is_reused_only_if_nothing_follows_the_body(data: bytes) -> None:
    assert reader_after(data).reusable
    for extra in (b"\r\n", b"H", OK):
        reader = reader_after(data + extra)
        assert reader.complete
        assert not reader.reusable
        assert reader.unread == len(extra)
        with pytest.raises(RuntimeError):
            reader.expect(b"GET")


def test_bytes_that_come_unasked_forbid_reuse() -> None:
    reader = reader_after(OK)
    reader.receive(OK)
    assert not reader.reusable


@pytest.mark.parametrize(
    ("head", "reusable"),
    [
        (b"HTTP/1.1 200 OK\r\n", True),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n", False),
        (b"HTTP/1.0 200 OK\r\n", False),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n", True),
    ],
)
def test_the_peer_decides_whether_its_connection_lives_on(head: bytes, reusable: bool) -> None:
    reader = reader_after(head + b"Content-Length: 0\r\n\r\n")
    assert reader.complete
    assert reader.reusable is reusable


def test_one_connection_answers_many_requests() -> None:
    reader = reader_after(CHUNKED)
    assert reader.trailers == Headers([(b"Sum", b"1")])
    for _ in range(2):
        reader.expect(b"GET")
        assert reader.silent
        reader.receive(EARLY + OK)
        assert not reader.silent
        assert reader.read_head().status == 103  # type: ignore[union-attr]
        assert reader.read_head().status == 200  # type: ignore[union-attr]
        assert reader.trailers is None
        assert reader.read_body() == b"hello"
        assert reader.reusable
        assert not reader.silent


def test_interim_responses_come_before_the_final_one() -> None:
    transcript = read(b"HTTP/1.1 100 Continue\r\n\r\n" + EARLY + OK)
    assert [m.head.status for m in transcript.messages if isinstance(m.head, Response)] == [100, 103, 200]
    assert transcript.refused is None


def test_interim_responses_are_counted() -> None:
    assert responses([EARLY * MAX_INTERIM + OK]).refused is None
    assert responses([EARLY * (MAX_INTERIM + 1) + OK]).refused == 502
    reader = reader_after(EARLY * MAX_INTERIM + OK)
    reader.expect(b"GET")
    reader.receive(EARLY)
    assert reader.read_head() is not None


def test_101_ends_http_if_it_was_asked_for() -> None:
    reader = ResponseReader()
    reader.expect(b"GET", upgrade=True)
    reader.receive(SWITCH + b"\x81\x00")
    response = reader.read_head()
    assert response is not None
    assert (response.status, response.upgrade, response.interim) == (101, b"x", False)
    assert reader.read_body() == b""
    assert not reader.reusable
    assert reader.take_rest() == b"\x81\x00"
    reader.close()


def test_101_that_was_not_asked_for_is_refused() -> None:
    assert refused(SWITCH)


def test_2xx_to_connect_ends_http_and_anything_else_does_not() -> None:
    reader = reader_after(b"HTTP/1.1 200 OK\r\n\r\n\x16\x03", b"CONNECT")
    assert reader.take_rest() == b"\x16\x03"
    assert reader_after(b"HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno", b"CONNECT").reusable
    assert refused(OK, b"CONNECT")


def test_a_body_without_length_ends_with_the_connection() -> None:
    transcript = read(OPEN)
    assert transcript.refused is None
    assert [(m.head.framing, m.body, m.complete) for m in transcript.messages] == [
        (Framing.UNTIL_CLOSE, b"hello", True)
    ]
    reader = reader_after(OPEN)
    assert not reader.complete
    reader.close()
    assert reader.complete
    assert not reader.reusable


@pytest.mark.parametrize("data", [OK, CHUNKED, EARLY + OK])
def test_a_response_cut_short_is_refused_wherever_it_is_cut(data: bytes) -> None:
    assert responses([data]).refused is None
    for place in range(len(data)):
        assert responses([data[:place]]).refused == 502, place


def test_a_close_with_body_bytes_unread_never_passes_for_the_end() -> None:
    reader = ResponseReader()
    reader.expect(b"GET")
    reader.receive(OPEN)
    reader.read_head()
    with pytest.raises(BadResponse, match="cut short"):
        reader.close()


def test_close_is_no_fault_when_nothing_is_expected() -> None:
    reader = reader_after(OK)
    reader.close()
    assert not reader.reusable


def test_close_after_a_refusal_changes_nothing() -> None:
    reader = ResponseReader()
    reader.expect(b"GET")
    reader.receive(b"BAD\r\n\r\n")
    with pytest.raises(BadResponse, match="malformed status line"):
        reader.read_head()
    reader.close()
    with pytest.raises(BadResponse, match="malformed status line"):
        reader.read_head()


def test_nothing_is_read_before_a_response_is_expected() -> None:
    reader = ResponseReader()
    reader.receive(OK)
    with pytest.raises(RuntimeError):
        reader.read_head()
    with pytest.raises(RuntimeError):
        reader.expect(b"GET")


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 " + b"x" * MAX_LINE,
        b"HTTP/1.1 200 " + b"x" * MAX_LINE + b"\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"x" * MAX_HEAD,
        b"HTTP/1.1 200 OK\r\nA: " + b"x" * MAX_HEAD + b"\r\nContent-Length: 0\r\n\r\n",
    ],
    ids=range(4),
)
def test_heads_without_end_are_refused_however_they_are_cut(data: bytes) -> None:
    for size in (len(data), 1, 1000):
        assert responses([data[i : i + size] for i in range(0, len(data), size)]).refused == 502


@given(
    st.lists(
        st.binary(max_size=40) | st.sampled_from([OK, CHUNKED, OPEN, EARLY, SWITCH, OK[:-1], b"\r\n"]),
        min_size=1,
        max_size=5,
    ),
    st.sampled_from([b"GET", b"HEAD", b"CONNECT"]),
    st.booleans(),
)
def test_any_bytes_give_a_response_or_a_refusal_however_they_are_cut(
    pieces: list[bytes], method: bytes, upgrade: bool
) -> None:
    data = b"".join(pieces)
    whole = responses([data], method, upgrade)
    assert responses(pieces, method, upgrade) == whole
    assert responses([data[i : i + 1] for i in range(len(data))], method, upgrade) == whole
    assert whole.refused in {None, 502}
