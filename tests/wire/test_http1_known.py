"""Field sections that connections share: read once, never with secrets, and the same as if read alone."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rproxy.wire.http1 import MAX_REMEMBERED, RequestReader
from rproxy.wire.http1_fields import MAX_KNOWN, MOST_KNOWN, MOST_KNOWN_FIELDS, Facts, Known, read_facts
from rproxy.wire.message import BadRequest, Request
from tests.wire.reading import PARTS, requests

PLAIN = b"Host: a\r\nAccept: */*\r\n"


def said(facts: Facts) -> tuple[object, ...]:
    """Everything that a field section says."""
    values = facts.host, facts.framing, facts.length, facts.expects_continue, facts.connection, facts.upgrade
    return (list(facts.headers.pairs), list(facts.headers.names), *values)


def kept(known: Known) -> dict[bytes, Facts]:
    found: dict[bytes, Facts] = known._facts
    return found


def padded(size: int) -> bytes:
    """A block of so many bytes."""
    start = PLAIN + b"User-Agent: "
    return start + b"x" * (size - len(start) - 2) + b"\r\n"


GOOD = [
    b"",
    PLAIN,
    b"Host: a\r\nContent-Length: 5\r\n",
    b"Host: a\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n",
    b"Host: a\r\nConnection: keep-alive, te\r\nTE: trailers\r\nAccept: 1\r\n",
    b"Host: a\r\nAccept: behind it \t\r\n",
    b"Host: a\r\n" + b"ACCEPT: a\r\n" * (MOST_KNOWN_FIELDS - 1),
]


@pytest.mark.parametrize("block", GOOD)
def test_what_comes_again_is_the_same_object(block: bytes) -> None:
    known = Known()
    first = known.read(block)
    assert known.read(bytes(bytearray(block))) is first
    assert said(first) == said(read_facts(block))
    assert first.headers.shared
    assert not read_facts(block).headers.shared
    assert list(kept(known)) == [block]


def test_what_differs_in_a_byte_is_another() -> None:
    known = Known()
    blocks = [PLAIN, PLAIN.replace(b"a", b"b"), PLAIN.replace(b"H", b"h"), PLAIN + b"DNT:\r\n", PLAIN[9:]]
    assert len({id(known.read(block)) for block in blocks}) == len(blocks)
    for block in blocks:
        assert said(known.read(block)) == said(read_facts(block))


def test_those_that_know_are_each_for_themselves() -> None:
    one, other = Known(), Known()
    assert one.read(PLAIN) is not other.read(PLAIN)


CREDENTIALS = b"Cookie cookie COOKIE cOOKIE Authorization AUTHORIZATION authorization".split() + (
    b"Proxy-Authorization proxy-authorization PROXY-Authorization".split()
    + b"X-Api-Key X-Auth-Token Referer X-Forwarded-For Sec-WebSocket-Key If-None-Match X".split()
)


@pytest.mark.parametrize("name", CREDENTIALS)
@pytest.mark.parametrize("value", [b"s=SECRET", b"s=SECRET \t", b""], ids=["plain", "odd", "empty"])
@pytest.mark.parametrize("place", ["first", "last", "twice"])
def test_credentials_stay_with_their_connection(name: bytes, value: bytes, place: str) -> None:
    line = name + b": " + value + b"\r\n"
    block = {"first": line + PLAIN, "last": PLAIN + line, "twice": line + PLAIN + line}[place]
    known = Known()
    known.read(PLAIN)
    one, other = known.read(block), known.read(block)
    assert one is not other
    assert one.headers is not other.headers
    assert not one.headers.shared
    assert said(one) == said(other) == said(read_facts(block))
    assert list(kept(known)) == [PLAIN]


def test_long_ones_are_not_kept() -> None:
    """Each costs memory for as long as the proxy runs."""
    known = Known()
    for size, stays in ((MAX_KNOWN, True), (MAX_KNOWN + 1, False), (60_000, False)):
        block = padded(size)
        assert len(block) == size
        assert (known.read(block) is known.read(block)) is stays
        assert known.read(block).headers.shared is stays
    assert [len(block) for block in kept(known)] == [MAX_KNOWN]
    many = PLAIN + b"DNT:\r\n" * (MOST_KNOWN_FIELDS - 1)
    assert known.read(many) is not known.read(many)


def test_what_is_kept_is_small() -> None:
    known = Known()
    tracemalloc.start()
    for number in range(MOST_KNOWN):
        fields = b"DNT: %0*d\r\n" % (MAX_KNOWN // MOST_KNOWN_FIELDS - 7, number)
        known.read(fields * MOST_KNOWN_FIELDS)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(kept(known)) == MOST_KNOWN
    assert size < 2_000_000


@pytest.mark.parametrize(
    "block",
    [
        b"Host: a\r\nHost: b\r\n",
        b"Host: a@b\r\n",
        b"Host: a\r\nContent-Length: 05\r\n",
        b"Host: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Host: a\r\nContent_Length: 5\r\n",
        b"Host: a\r\nTransfer-Encoding: gzip\r\n",
        b"Host: a\r\nExpect: x\r\n",
        b"Host : a\r\n",
        b"Host: a\r\n b\r\n",
        b"A: b\r\n" * 129,
    ],
)
def test_what_is_refused_is_refused_each_time(block: bytes) -> None:
    known, kinds = Known(), []
    for read in (known.read, known.read, known.read, read_facts):
        with pytest.raises(BadRequest) as caught:
            read(block)
        kinds.append((caught.type, str(caught.value)))
    assert len(set(kinds)) == 1
    assert kept(known) == {}


def test_with_so_many_remembering_begins_anew() -> None:
    """A stranger can send any number of them."""
    known = Known()
    blocks = [b"Host: a\r\nDNT: %d\r\n" % number for number in range(MOST_KNOWN)]
    first = [known.read(block) for block in blocks]
    assert [known.read(block) for block in blocks] == first
    assert len(kept(known)) == MOST_KNOWN
    known.read(b"Host: a\r\nCookie: a\r\n")
    assert len(kept(known)) == MOST_KNOWN, "what is not kept drives nothing out"
    known.read(PLAIN)
    assert list(kept(known)) == [PLAIN]
    again = known.read(blocks[0])
    assert again is not first[0]
    assert said(again) == said(first[0])
    for number in range(10 * MOST_KNOWN):
        known.read(b"Host: a\r\nTE: %d\r\n" % number)
        assert len(kept(known)) <= MOST_KNOWN


# -- readers


def heads_of(known: Known | None, *heads: bytes) -> list[Request]:
    """Each read by a connection of its own."""
    found = []
    for head in heads:
        (message,) = requests([head], known).messages
        assert isinstance(message.head, Request)
        found.append(message.head)
    return found


def test_connections_share_what_they_say_and_nothing_else() -> None:
    known = Known()
    one, other = heads_of(
        known, b"GET /a HTTP/1.1\r\n" + PLAIN + b"\r\n", b"POST /b HTTP/1.1\r\n" + PLAIN + b"\r\n"
    )
    assert one.headers is other.headers
    assert (one.method, one.path, other.method, other.path) == (b"GET", b"/a", b"POST", b"/b")


def test_a_head_that_comes_in_pieces_is_shared_too() -> None:
    known, head = Known(), b"GET / HTTP/1.1\r\n" + PLAIN + b"\r\n"
    whole = heads_of(known, head)[0]
    for at in range(1, len(head)):
        (message,) = requests([head[:at], head[at:]], known).messages
        assert message.head.headers is whole.headers


def test_secrets_are_never_another_connection_s() -> None:
    known, head = Known(), b"GET / HTTP/1.1\r\nHost: a\r\nCookie: s=SECRET\r\n\r\n"
    one, other = heads_of(known, head, head)
    assert one.headers == other.headers
    assert one.headers is not other.headers
    assert not any(b"SECRET" in block for block in kept(known))


def test_a_version_or_target_says_more_than_the_fields_that_are_shared() -> None:
    """What one request makes of them is no other's."""
    known = Known()
    block = b"Host: a\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n"
    starts = b"POST / HTTP/1.1", b"POST / HTTP/1.0", b"POST http://A:80/ HTTP/1.1", b"POST / HTTP/1.1"
    new, old, absolute, again = heads_of(known, *(start + b"\r\n" + block for start in starts))
    assert new.headers is old.headers is absolute.headers is again.headers
    assert [each.keep_alive for each in (new, old, again)] == [True, False, True]
    assert [each.expects_continue for each in (new, old, again)] == [True, False, True]
    assert [each.authority for each in (new, absolute, again)] == [b"a", b"A:80", b"a"]


def test_what_has_no_host_is_refused_in_http_1_1_also_when_http_1_0_was_let_pass() -> None:
    known = Known()
    assert requests([b"GET / HTTP/1.0\r\nA: b\r\n\r\n"], known).refused is None
    assert requests([b"GET / HTTP/1.1\r\nA: b\r\n\r\n"], known).refused == 400
    chunked = b"Host: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    assert requests([b"POST / HTTP/1.1\r\n" + chunked], known).refused is None
    assert requests([b"POST / HTTP/1.0\r\n" + chunked], known).refused == 400


BLOCKS = [
    *GOOD,
    b"Host: b:80\r\nCookie: a=b\r\n",
    b"Host: a\r\nAuthorization: Basic x\r\nContent-Length: 3\r\n",
    b"Host: a\r\nHost: a\r\n",
    b"Host: a\r\nConnection: close\r\n",
    b"Host: a\r\nTransfer-Encoding: chunked\r\n",
    padded(MAX_KNOWN),
    padded(MAX_KNOWN + 1),
    padded(MAX_REMEMBERED + 1),
]
STARTS = [
    b"GET / HTTP/1.1",
    b"POST /x?y HTTP/1.1",
    b"GET / HTTP/1.0",
    b"GET http://A:80/z HTTP/1.1",
    b"OPTIONS * HTTP/1.1",
]
MESSAGES = st.tuples(
    st.sampled_from(STARTS),
    st.sampled_from(BLOCKS),
    st.sampled_from([b"", b"", b"12345", b"0\r\n\r\n", b"\n"]),
).map(lambda parts: parts[0] + b"\r\n" + parts[1] + b"\r\n" + parts[2])
CONNECTIONS = st.lists(
    st.tuples(st.lists(MESSAGES, max_size=4).map(b"".join), st.integers(1, 200)), max_size=6
)


@given(CONNECTIONS)
def test_who_shares_reads_what_others_read_alone(connections: list[tuple[bytes, int]]) -> None:
    known = Known()
    for octets, at in connections:
        for pieces in ([octets], [octets[:at], octets[at:]]):
            shared, alone = requests(pieces, known), requests(pieces)
            assert shared.refused == alone.refused
            assert shared.rest == alone.rest
            assert len(shared.messages) == len(alone.messages)
            for one, other in zip(shared.messages, alone.messages, strict=True):
                assert one[1:] == other[1:]
                assert parts(one.head) == parts(other.head)
                assert one.head.headers.names == other.head.headers.names


def parts(head: object) -> list[object]:
    return [getattr(head, name) for name in PARTS[type(head)]]


def test_a_reader_that_is_alone_shares_nothing() -> None:
    reader = RequestReader()
    reader.receive(b"GET / HTTP/1.1\r\n" + PLAIN + b"\r\n")
    head = reader.read_head()
    assert head is not None
    assert not head.headers.shared
