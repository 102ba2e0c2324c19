"""Requests: what a head says, limits, pipelining, tunnels, and linear time however bytes trickle in."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rproxy.wire.http1 import MAX_HEAD, MAX_REMEMBERED, RequestReader
from rproxy.wire.http1_fields import MAX_FIELDS
from rproxy.wire.http1_head import MAX_METHOD, MAX_TARGET
from rproxy.wire.message import BadRequest, Framing, Headers, HeadTooLarge, Request
from tests.wire.reading import forwarded, however_cut, request_of, requests

GET = b"GET /a?b HTTP/1.1\r\nHost: example.org\r\nAccept: */*\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNKED += b"3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\nSum: 1\r\n\r\n"


def refused(data: bytes) -> int | None:
    return however_cut(lambda pieces: requests(pieces).refused, data)


def test_a_request_says_all_that_stood_in_its_head() -> None:
    assert request_of(GET) == Request(
        method=b"GET",
        target=b"/a?b",
        path=b"/a?b",
        authority=b"example.org",
        scheme=b"",
        version=11,
        headers=Headers([(b"Host", b"example.org"), (b"Accept", b"*/*")]),
        framing=Framing.NONE,
        length=0,
        keep_alive=True,
        expects_continue=False,
        connection=frozenset(),
        upgrade=b"",
    )


def test_messages_one_after_another_are_read_in_order_however_they_are_cut() -> None:
    transcript = however_cut(requests, GET + POST + CHUNKED + GET)
    assert [(m.head.framing, m.body, m.complete) for m in transcript.messages] == [
        (Framing.NONE, b"", True),
        (Framing.LENGTH, b"hello", True),
        (Framing.CHUNKED, b"hello", True),
        (Framing.NONE, b"", True),
    ]
    assert [m.trailers for m in transcript.messages] == [None, None, Headers([(b"Sum", b"1")]), None]
    assert transcript[1:] == (None, b"")


def test_what_follows_a_request_stays_until_it_is_asked_for() -> None:
    reader = RequestReader()
    reader.receive(POST + GET)
    assert reader.read_head() is not None
    assert reader.read_body() == b"hello"
    assert reader.complete
    assert reader.unread == len(GET)
    reader.receive(GET[:10])
    assert reader.read_head() == request_of(GET)
    assert reader.read_head() is None
    assert reader.unread == 10


def test_the_next_head_cannot_be_read_before_the_body_is() -> None:
    reader = RequestReader()
    reader.receive(POST)
    reader.read_head()
    with pytest.raises(RuntimeError):
        reader.read_head()


def test_nothing_is_read_behind_a_refusal() -> None:
    reader = RequestReader()
    reader.receive(b"BAD\r\n\r\n" + GET)
    for _ in range(2):
        with pytest.raises(BadRequest, match="malformed request line"):
            reader.read_head()
        reader.receive(GET)
    with pytest.raises(BadRequest):
        reader.read_body()
    assert not reader.complete


def test_nothing_is_kept_behind_a_refusal() -> None:
    reader = RequestReader()
    reader.receive(b"BAD\r\n\r\n" + GET)
    with pytest.raises(BadRequest):
        reader.read_head()
    assert reader.unread == 0
    for _ in range(5):
        reader.receive(GET)
    assert reader.unread == len(GET)


def test_idle_means_that_nothing_was_cut_short() -> None:
    reader = RequestReader()
    assert reader.idle
    reader.receive(POST[:3])
    assert not reader.idle
    reader.receive(POST[3:-1])
    reader.read_head()
    reader.read_body()
    assert not reader.idle
    reader.receive(POST[-1:])
    reader.read_body()
    assert reader.idle


def head_of_size(size: int) -> bytes:
    empty = b"GET / HTTP/1.1\r\nHost: a\r\nA: \r\n\r\n"
    return empty[:-4] + b"x" * (size - len(empty)) + b"\r\n\r\n"


def some_cuts(data: bytes) -> list[list[bytes]]:
    """Whole, and in pieces of sizes that share no factor with the limits."""
    return [[data], *([data[i : i + n] for i in range(0, len(data), n)] for n in (1, 7, 1000, 8191))]


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (head_of_size(MAX_HEAD), None),
        (head_of_size(MAX_HEAD + 1), 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\nA: " + b"x" * MAX_HEAD, 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"A: b\r\n" * (MAX_FIELDS - 1) + b"\r\n", None),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"A: b\r\n" * MAX_FIELDS + b"\r\n", 431),
        (b"GET /" + b"x" * (MAX_TARGET - 1) + b" HTTP/1.1\r\nHost: a\r\n\r\n", None),
        (b"GET /" + b"x" * MAX_TARGET + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (b"GET /" + b"x" * (2 * MAX_TARGET) + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (b"GET /" + b"x" * (2 * MAX_TARGET), 414),
        (b"GET /" + b"x" * (2 * MAX_TARGET) + b"\0", 414),
        (b"GET /" + b"x" * MAX_TARGET + b"\0", 400),
        (b"X" * (MAX_METHOD + 1) + b" / HTTP/1.1\r\nHost: a\r\n\r\n", 501),
        (b"X" * 20000, 501),
        (b"X" * (MAX_METHOD + 1) + b" /" + b"x" * 20000, 501),
        (b"GET / HTTP/1.1\r\nHost: a\n" + b"x" * MAX_HEAD, 400),
        (b"GET / HTTP/1.1\r\n" + b"x" * MAX_HEAD + b"\n", 431),
    ],
    ids=range(16),
)
def test_limits_hold_to_the_byte_however_the_head_is_cut(data: bytes, status: int | None) -> None:
    for pieces in some_cuts(data):
        transcript = requests(pieces)
        assert transcript.refused == status
        assert len(transcript.messages) == (status is None)


@pytest.mark.parametrize(
    "start", [b"\x16\x03\x01", b"GET / HTTP/1.1\n", b"GET /\r\n", b"GET / HTTP/1.1\r\nA: b\n"]
)
def test_what_can_become_no_head_is_refused_without_waiting_for_its_end(start: bytes) -> None:
    assert refused(start) == 400


def trickling_takes(size: int) -> float:
    reader = RequestReader()
    data = head_of_size(size)
    started = time.process_time()
    for place in range(size):
        reader.receive(data[place : place + 1])
        reader.read_head()
    assert reader.complete
    return time.process_time() - started


def test_a_head_that_trickles_in_takes_linear_time() -> None:
    # Quadratic would be 16 times; the best of three, so that a busy machine does not fail it.
    short, long = (min(trickling_takes(size) for _ in range(3)) for size in (MAX_HEAD // 4, MAX_HEAD))
    assert long < 9 * short


def test_a_repeated_field_section_is_recognised_and_a_changed_one_is_not_mistaken() -> None:
    reader = RequestReader()
    first, again, other = (
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % length for length in (0, 0, 1)
    )
    reader.receive(first + again.replace(b"/", b"/x", 1) + other + b"!")
    a, b, c = reader.read_head(), reader.read_head(), reader.read_head()
    assert a is not None
    assert b is not None
    assert c is not None
    assert b.headers is a.headers
    assert (a.path, b.path) == (b"/", b"/x")
    assert c.length == 1


def test_a_repeated_field_section_is_judged_anew_for_each_version_and_target() -> None:
    fields = b"Host: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    assert requests([b"POST / HTTP/1.1\r\n" + fields + b"POST / HTTP/1.0\r\n" + fields]).refused == 400
    assert (
        requests(
            [b"GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\nGET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n"]
        ).refused
        == 400
    )
    assert requests([b"GET / HTTP/1.0\r\n\r\nGET / HTTP/1.1\r\n\r\n"]).refused == 400


@pytest.mark.parametrize(("size", "kept"), [(MAX_REMEMBERED, True), (MAX_REMEMBERED + 200, False)])
def test_only_small_field_sections_are_kept_and_they_can_be_forgotten(size: int, kept: bool) -> None:
    reader = RequestReader()
    data = head_of_size(size)
    reader.receive(data + data)
    first, second = reader.read_head(), reader.read_head()
    assert first is not None
    assert second is not None
    assert (first.headers is second.headers) is kept
    reader.forget()
    reader.receive(data)
    third = reader.read_head()
    assert third is not None
    assert third.headers is not second.headers
    assert third == second


def test_an_upgraded_connection_gives_what_came_behind_the_head_and_is_http_no_more() -> None:
    reader = RequestReader()
    reader.receive(GET + b"\x81\x00")
    reader.read_head()
    assert reader.unread == 2
    assert reader.take_rest() == b"\x81\x00"
    with pytest.raises(RuntimeError):
        reader.read_head()
    reader.receive(b"more")
    assert reader.read_body() == b""
    assert reader.take_rest() == b"more"


def test_a_refused_upgrade_goes_on_as_http() -> None:
    upgrade = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"
    assert [forwarded(m) for m in requests([upgrade + GET]).messages] == [upgrade, GET]


def test_headers_of_a_request_are_never_one_with_its_trailers() -> None:
    (message,) = requests([CHUNKED]).messages
    assert message.head.headers.get(b"sum") is None


@given(
    st.lists(
        st.binary(max_size=40) | st.sampled_from([GET, POST, CHUNKED, GET[:-1], b"\r\n", b"0\r\n\r\n"]),
        max_size=6,
    )
)
def test_any_bytes_give_requests_or_a_refusal_however_they_are_cut(pieces: list[bytes]) -> None:
    data = b"".join(pieces)
    whole = requests([data])
    assert requests(pieces) == whole
    assert requests([data[i : i + 1] for i in range(len(data))]) == whole
    assert whole.refused in {None, 400, 414, 417, 431, 501, 505}


def test_a_head_too_large_is_a_bad_request_too() -> None:
    reader = RequestReader()
    reader.receive(b"GET / HTTP/1.1\r\nA: " + b"x" * MAX_HEAD)
    with pytest.raises(HeadTooLarge, match="head too large"):
        reader.read_head()
