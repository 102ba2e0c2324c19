"""HTTP/2 header sections: what is a request, what is malformed, and that HTTP/1.1 reads the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rproxy.wire.http1 import RequestReader
from rproxy.wire.http1_fields import MAX_FIELDS
from rproxy.wire.http1_head import MAX_METHOD, MAX_TARGET
from rproxy.wire.http1_write import framing_pairs, request_head
from rproxy.wire.http2_head import Malformed, RequestFields, trailers_of
from rproxy.wire.message import BadRequest, Framing, Request
from tests.wire.http2_talk import GET, POST, Pairs


def read(pairs: Pairs, *, ended: bool = True) -> Request:
    return RequestFields().request(pairs, ended)


def changed(**values: bytes | None) -> Pairs:
    """GET with other pseudo-header fields, or without some."""
    found = {name[1:].decode(): value for name, value in GET} | values
    return [(b":" + name.encode(), value) for name, value in found.items() if value is not None]


def test_a_request_has_its_parts() -> None:
    request = read([*changed(path=b"/a?b", authority=b"example.org:8443"), (b"accept", b"*/*")])
    assert request == Request(
        method=b"GET",
        target=b"/a?b",
        path=b"/a?b",
        authority=b"example.org:8443",
        scheme=b"https",
        version=20,
        headers=request.headers,
        framing=Framing.NONE,
        length=0,
        keep_alive=True,
        expects_continue=False,
        connection=frozenset(),
        upgrade=b"",
    )
    assert request.headers.pairs == [(b"accept", b"*/*")]


def test_the_order_of_pseudo_header_fields_does_not_matter() -> None:
    assert read(GET[::-1]).path == b"/"


@pytest.mark.parametrize(
    ("fields", "ended", "framing", "length"),
    [
        ([], True, Framing.NONE, 0),
        ([], False, Framing.CHUNKED, 0),
        ([(b"content-length", b"7")], False, Framing.LENGTH, 7),
        ([(b"content-length", b"0")], False, Framing.LENGTH, 0),
        ([(b"content-length", b"0")], True, Framing.LENGTH, 0),
    ],
)
def test_the_peer_is_told_what_length_the_body_has(
    fields: Pairs, ended: bool, framing: Framing, length: int
) -> None:
    request = read([*POST, *fields], ended=ended)
    assert (request.framing, request.length) == (framing, length)


@pytest.mark.parametrize("ended", [True, False])
def test_only_who_has_a_body_waits_for_continue(ended: bool) -> None:
    assert read([*POST, (b"expect", b"100-continue")], ended=ended).expects_continue is not ended


@pytest.mark.parametrize(
    ("fields", "authority"),
    [
        ([*changed(authority=None), (b"host", b"b")], b"b"),
        ([*changed(authority=b"a"), (b"host", b"a")], b"a"),
        ([*changed(authority=b"A"), (b"host", b"a:443")], b"A"),
        ([*changed(authority=b"a:80", scheme=b"http"), (b"host", b"a")], b"a:80"),
        (changed(authority=b"[::1]:5"), b"[::1]:5"),
    ],
)
def test_authority_and_host_are_one_place(fields: Pairs, authority: bytes) -> None:
    assert read(fields).authority == authority


@pytest.mark.parametrize(
    "fields",
    [
        changed(method=None),
        changed(scheme=None),
        changed(path=None),
        [*GET, GET[0]],
        [*GET, (b"accept", b"*/*"), (b":path", b"/")],
        [*GET, (b":status", b"200")],
        [*GET, (b":foo", b"x")],
        [*GET, (b":", b"x")],
        [(b"accept", b"*/*"), *GET],
        changed(scheme=b"ftp"),
        changed(scheme=b"HTTPS"),
        changed(scheme=b"https://b"),
        changed(path=b""),
        changed(path=b"*"),
        changed(path=b"a"),
        changed(path=b"https://b/"),
        changed(path=b"/ HTTP/1.1\r\nx: y"),
        changed(path=b"/a b"),
        changed(path=b"/a\tb"),
        changed(path=b"/a\0b"),
        changed(path=b"/\xe9"),
        changed(path=b"/a#b"),
        changed(method=b""),
        changed(method=b"G ET"),
        changed(method=b"GET / HTTP/1.1\r\nHost: b\r\n\r\nGET"),
        [*GET, (b"host", b"b")],
        [*GET, (b"host", b"a"), (b"host", b"a")],
        [*GET, (b"host", b"a b")],
        [*GET, (b"host", b"")],
        [*GET, (b"connection", b"close")],
        [*GET, (b"connection", b"")],
        [*GET, (b"keep-alive", b"timeout=5")],
        [*GET, (b"proxy-connection", b"close")],
        [*GET, (b"upgrade", b"websocket")],
        [*GET, (b"transfer-encoding", b"chunked")],
        [*GET, (b"transfer-encoding", b"gzip")],
        [*GET, (b"te", b"gzip")],
        [*GET, (b"te", b"trailers, gzip")],
        [*GET, (b"Accept", b"x")],
        [*GET, (b"aCCEPT", b"x")],
        [*GET, (b"Transfer-Encoding", b"chunked")],
        [*GET, (b"", b"x")],
        [*GET, (b"a b", b"x")],
        [*GET, (b"a:b", b"x")],
        [*GET, (b"a\r\nb", b"x")],
        [*GET, (b"a\0", b"x")],
        [*GET, (b"\xe9", b"x")],
        [*GET, (b"x", b"y\r\nz: 1")],
        [*GET, (b"x", b"y\r\n\r\nGET / HTTP/1.1")],
        [*GET, (b"x", b"y\nz")],
        [*GET, (b"x", b"y\r")],
        [*GET, (b"x", b"y\0z")],
        [*GET, (b"x", b"y\x7f")],
        [*GET, (b"x", b" y")],
        [*GET, (b"x", b"y ")],
        [*GET, (b"x", b"\ty")],
        [*GET, (b"content-length", b"+1")],
        [*GET, (b"content-length", b"")],
        [*GET, (b"content-length", b"1, 1")],
        [*GET, (b"content-length", b"0"), (b"content-length", b"0")],
        [*GET, (b"content-length", b"5")],
        [*GET, (b"content_length", b"0")],
        [*GET, (b"x_forwarded_for", b"::1")],
        [*GET, (b":protocol", b"websocket")],
    ],
)
def test_a_malformed_request_is_none(fields: Pairs) -> None:
    with pytest.raises(Malformed):
        read(fields)


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        (changed(authority=None), 400),
        (changed(authority=b""), 400),
        (changed(authority=b"user@a"), 400),
        (changed(authority=b"user@evil:80"), 400),
        (changed(authority=b"a/b"), 400),
        (changed(authority=b"a:"), 400),
        (changed(authority=b"a:99999"), 400),
        (changed(authority=b"a\r\nx: y"), 400),
        (changed(authority=b"a b"), 400),
        (changed(authority=b"%61"), 400),
        (changed(path=b"/" + b"a" * MAX_TARGET), 414),
        (changed(method=b"A" * (MAX_METHOD + 1)), 501),
        ([*GET, *[(b"x", b"y")] * (MAX_FIELDS + 1)], 431),
        ([*GET, *[(b"cookie", b"a=b")] * (MAX_FIELDS + 1)], 431),
        ([*POST, (b"expect", b"200-maybe")], 417),
        (changed(method=b"CONNECT", protocol=b"connect-udp"), 501),
        ([(b":method", b"CONNECT"), (b":authority", b"a")], 400),
    ],
)
def test_what_is_well_formed_and_no_good_is_answered(fields: Pairs, status: int) -> None:
    with pytest.raises(BadRequest) as caught:
        read(fields)
    assert not isinstance(caught.value, Malformed)
    assert caught.value.status == status


def test_as_many_fields_as_in_http1_and_a_target_as_long() -> None:
    fields = [*changed(path=b"/" + b"a" * (MAX_TARGET - 1)), *[(b"x", b"y")] * MAX_FIELDS]
    assert len(read(fields).headers.names) == MAX_FIELDS


def test_options_may_ask_for_the_server_as_a_whole() -> None:
    assert read(changed(method=b"OPTIONS", path=b"*")).path == b"*"


def test_te_trailers_is_the_one_wish_about_connections() -> None:
    assert read([*GET, (b"te", b"trailers")]).headers.get(b"te") == b"trailers"


def test_fields_that_come_again_are_the_same_headers() -> None:
    reader = RequestFields()
    first = reader.request([*GET, (b"a", b"1")], True)
    second = reader.request([*changed(path=b"/2"), (b"a", b"1")], True)
    third = reader.request([*GET, (b"a", b"2")], True)
    assert first.headers is second.headers
    assert (second.path, third.headers.pairs) == (b"/2", [(b"a", b"2")])


def test_what_was_refused_is_refused_again() -> None:
    reader = RequestFields()
    for fields in ([*GET, (b"x", b"a\nb")], changed(path=b"/a b")):
        for _ in range(2):
            with pytest.raises(Malformed):
                reader.request(fields, True)


# -- CONNECT


def test_connect_names_host_and_port_and_nothing_else() -> None:
    request = read([(b":method", b"CONNECT"), (b":authority", b"a:443")], ended=False)
    assert (request.method, request.target, request.authority) == (b"CONNECT", b"a:443", b"a:443")
    assert (request.path, request.framing) == (b"", Framing.NONE)


@pytest.mark.parametrize(
    "fields",
    [
        changed(method=b"CONNECT", authority=b"a:443"),
        [(b":method", b"CONNECT"), (b":authority", b"a:443"), (b":path", b"/")],
        [(b":method", b"CONNECT"), (b":authority", b"a:443"), (b"content-length", b"0")],
        [(b":method", b"CONNECT"), (b":authority", b"a:443"), (b"host", b"b:443")],
    ],
)
def test_a_connect_with_more_is_malformed(fields: Pairs) -> None:
    with pytest.raises(Malformed):
        read(fields, ended=False)


def test_a_websocket_is_a_get_that_asks_for_an_upgrade() -> None:
    fields = [*changed(method=b"CONNECT", protocol=b"websocket"), (b"sec-websocket-version", b"13")]
    request = read(fields, ended=False)
    assert (request.method, request.upgrade, request.connection) == (b"GET", b"websocket", {b"upgrade"})
    assert (request.path, request.authority, request.framing) == (b"/", b"a", Framing.NONE)


@pytest.mark.parametrize(
    "fields",
    [
        changed(method=b"GET", protocol=b"websocket"),
        changed(method=b"CONNECT", protocol=b"websocket", path=None),
        changed(method=b"CONNECT", protocol=b"websocket", scheme=None),
        [*changed(method=b"CONNECT", protocol=b"websocket"), (b"content-length", b"0")],
        [*changed(method=b"CONNECT", protocol=b"websocket"), (b"upgrade", b"websocket")],
    ],
)
def test_a_websocket_that_is_asked_for_otherwise_is_malformed(fields: Pairs) -> None:
    with pytest.raises(Malformed):
        read(fields, ended=False)


# -- trailers


def test_trailers_are_fields() -> None:
    assert trailers_of([(b"grpc-status", b"0"), (b"x", b"")]).pairs == [(b"grpc-status", b"0"), (b"x", b"")]


@pytest.mark.parametrize(
    "fields",
    [
        [(b":path", b"/")],
        [(b"content-length", b"1")],
        [(b"transfer-encoding", b"chunked")],
        [(b"host", b"a")],
        [(b"cookie", b"a=b")],
        [(b"X", b"y")],
        [(b"x", b"a\r\nb: c")],
        [(b"x", b" a")],
        [(b"connection", b"x")],
        [(b"x", b"y")] * 33,
        [(b"x", b"y" * 5000), (b"z", b"y" * 5000)],
    ],
)
def test_what_has_no_business_in_trailers_is_malformed(fields: Pairs) -> None:
    with pytest.raises(Malformed):
        trailers_of(fields)


# -- whatever is accepted reads the same in HTTP/1.1

ODD = st.sampled_from(
    [b"\r", b"\n", b"\r\n", b"\0", b" ", b"\t", b":", b"/", b"#", b"a", b"X", b"\xff", b"_", b"-"]
)
JUNK = st.lists(st.one_of(ODD, st.binary(max_size=2)), max_size=6).map(b"".join)
NAMES = st.one_of(
    JUNK,
    st.sampled_from([b"x", b"host", b"content-length", b"transfer-encoding", b"te", b"cookie", b"expect"]),
)
VALUES = st.one_of(JUNK, st.sampled_from([b"a", b"5", b"chunked", b"trailers", b"100-continue"]))
HEADS = st.builds(
    lambda method, scheme, authority, path, fields: [
        (b":method", method),
        (b":scheme", scheme),
        (b":authority", authority),
        (b":path", path),
        *fields,
    ],
    st.one_of(st.sampled_from([b"GET", b"POST", b"OPTIONS"]), JUNK),
    st.sampled_from([b"http", b"https"]),
    st.one_of(st.just(b"a"), JUNK),
    st.one_of(st.just(b"/"), JUNK.map(lambda junk: b"/" + junk)),
    st.lists(st.tuples(NAMES, VALUES), max_size=4),
)


@given(HEADS, st.booleans())
def test_what_is_accepted_reads_the_same_in_http1(fields: Pairs, ended: bool) -> None:
    try:
        request = read(fields, ended=ended)
    except BadRequest:
        return
    framed = framing_pairs(request.framing, request.length)
    kept = [pair for pair in request.headers.pairs if pair[0] not in (b"host", b"content-length")]
    written = request_head(request.method, request.path, [(b"Host", request.authority), *framed, *kept])
    reader = RequestReader()
    reader.receive(written)
    again = reader.read_head()
    assert again is not None
    assert (again.method, again.path, again.authority) == (request.method, request.path, request.authority)
    assert (again.framing, again.length) == (request.framing, request.length)
    assert list(again.headers.pairs) == [(b"Host", request.authority), *framed, *kept]
    assert reader.unread == 0
