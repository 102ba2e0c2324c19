"""A client's connection: requests in order, bodies and early answers, the end, PROXY headers before it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from rproxy.downstream.http_server import MOST_PIPELINED
from rproxy.downstream.http_watch import LINGER
from rproxy.downstream.peek import ProxyPolicy
from rproxy.policy.networks import NetworkSet
from rproxy.wire.address import Inet
from rproxy.wire.proxyheader import encode_v1, encode_v2
from tests.http_world import GET, OK, SLACK, World, body_of, head_of, making, request, response, statuses_of

Making = Callable[..., World]


@pytest.fixture
def worlds() -> Iterator[Making]:
    yield from making(World)


# -- keep-alive and pipelining


def test_a_connection_serves_one_request_after_another(worlds: Making) -> None:
    world = worlds()
    client = world.connect().send(GET)
    peer = world.asked()
    for number in range(5):
        assert peer.read().startswith(b"GET /x HTTP/1.1\r\nHost: a\r\n")
        peer.send(OK)
        answer = client.read()
        assert answer == OK, number
        client.send(GET)
    assert not world.is_asked()


def test_pipelined_requests_are_answered_in_order_one_at_a_time(worlds: Making) -> None:
    world = worlds()
    client = world.connect().send(b"".join(request(b"/%d" % n) for n in range(5)))
    peer = world.asked()
    for number in range(5):
        asked = peer.read()
        assert asked.count(b"HTTP/1.1") == 1
        assert asked.startswith(b"GET /%d " % number)
        assert client.read() == b""
        peer.send(response(b"Content-Length: 1", body=b"%d" % number))
        assert body_of(client.read()) == b"%d" % number


def test_pipelined_requests_that_no_peer_sees_are_answered_in_order_too(worlds: Making) -> None:
    world = worlds()
    bad, good = request(b"/a/../b").replace(b"Host: a", b"Host: unknown"), GET
    client = world.connect().send(bad + good + bad + b"GET / HTTP/1.1\r\n\r\n" + good)
    world.asked().send(OK)
    assert statuses_of(client.read()) == [404, 200, 404, 400]


def test_a_client_that_pipelines_without_end_is_not_read_without_end(worlds: Making) -> None:
    world = worlds()
    client = world.connect().send(GET)
    world.asked()
    assert client.push(GET * 1_000_000) < 16 << 20
    server = world.servers[0]._become
    assert server.reader.unread < MOST_PIPELINED + (1 << 17)


def test_a_client_that_never_reads_stops_being_served(worlds: Making) -> None:
    world = worlds()
    client = world.connect(receive_buffer=4096)
    client.push(b"GET /" + b"x" * 100 + b" HTTP/1.1\r\nHost: unknown\r\n\r\n")
    sent = client.push(request(b"/").replace(b"Host: a", b"Host: unknown") * 400_000)
    assert sent < 16 << 20
    transport = world.servers[0].transport
    assert len(transport.dataBuffer) + transport._tempDataLen < 1 << 17
    world.wait(60 + 2 * SLACK)
    assert len(world.connections) == 0


def test_requests_sent_before_a_half_close_are_all_answered(worlds: Making) -> None:
    world = worlds()
    client = world.connect().send(request(b"/1") + request(b"/2") + request(b"/3")).finish()
    peer = world.asked()
    for _ in range(3):
        peer.send(OK)
    answer = client.read()
    assert statuses_of(answer) == [200, 200, 200]
    assert answer.endswith(b"<end>")
    assert answer.count(b"Connection: close") == 1


def test_a_half_close_inside_a_head_ends_the_connection(worlds: Making) -> None:
    world = worlds()
    assert world.connect().send(GET[:-3]).finish().read() == b"<end>"


def test_a_half_close_inside_a_body_is_not_forwarded_as_its_end(worlds: Making) -> None:
    world = worlds()
    client = world.connect().send(request(b"/", b"Content-Length: 5", method=b"POST") + b"he").finish()
    assert client.read() == b"<end>"
    assert world.asked().read().endswith((b"he<reset>", b"<reset>"))
    assert world.statuses == [499]


# -- bodies and early answers


@pytest.mark.parametrize(
    "ask", [b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", request(b"/", method=b"TRACE")]
)
def test_connect_and_trace_are_refused(worlds: Making, ask: bytes) -> None:
    world = worlds()
    answer = world.connect().send(ask + b"early").read()
    assert statuses_of(answer)[0] == 405
    assert b"allow" in head_of(answer)[1]
    assert not world.is_asked()


def test_an_empty_body_is_complete_with_its_head(worlds: Making) -> None:
    world = worlds()
    client = world.connect().send(request(b"/", b"Content-Length: 0", method=b"POST"))
    world.asked().send(OK)
    assert (client.read(), world.idle) == (OK, [1])


def test_continue_is_the_peers_to_say(worlds: Making) -> None:
    world = worlds()
    ask = request(b"/", b"Expect: 100-continue", b"Content-Length: 3", method=b"PUT")
    client = world.connect().send(ask)
    peer = world.asked()
    assert b"Expect: 100-continue\r\n" in peer.read()
    assert client.read() == b""
    peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert client.read() == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.send(b"abc")
    assert peer.read() == b"abc"
    peer.send(OK)
    assert (client.read(), world.idle) == (OK, [1])


def test_a_refused_expectation_ends_the_connection_unread(worlds: Making) -> None:
    world = worlds()
    ask = request(b"/", b"Expect: 100-continue", b"Content-Length: 40", method=b"PUT")
    client = world.connect().send(ask)
    world.asked().send(response(b"Content-Length: 0", status=b"403 Forbidden"))
    answer = client.read()
    assert head_of(answer)[1][b"connection"] == b"close"
    client.send(GET + b"x" * 20)
    assert client.read() == b""
    assert (world.statuses, world.idle, world.is_asked()) == ([403], [0], False)


@pytest.mark.parametrize("length", [b"Content-Length: 100000", b"Transfer-Encoding: chunked"])
def test_a_body_above_the_limit_is_refused(worlds: Making, length: bytes) -> None:
    world = worlds(max_body=1000)
    client = world.connect().send(request(b"/", length, method=b"POST"))
    client.send(b"800\r\n", b"x" * 2048)
    answer = client.read()
    assert statuses_of(answer) == [413]
    assert answer.endswith(b"<end>")
    assert world.answers.lines[0][:2] == (413, "body_too_large")


def test_a_body_at_the_limit_is_not(worlds: Making) -> None:
    world = worlds(max_body=1000)
    client = world.connect().send(request(b"/", b"Transfer-Encoding: chunked", method=b"POST"))
    client.send(b"3e8\r\n" + b"x" * 1000 + b"\r\n0\r\n\r\n")
    world.asked().send(OK)
    assert client.read() == OK


def test_a_body_that_nobody_reads_is_never_a_request(worlds: Making) -> None:
    world = worlds()
    ask = request(b"/", b"Content-Length: %d" % len(GET), method=b"POST").replace(b"Host: a", b"Host: b")
    client = world.connect().send(ask, GET, GET)
    answer = client.read()
    assert statuses_of(answer) == [404]
    assert answer.endswith(b"<end>")
    assert not world.is_asked()


def test_an_answer_before_the_body_is_complete_ends_both_connections(worlds: Making) -> None:
    world = worlds()
    client = world.connect().send(request(b"/", b"Content-Length: 100", method=b"POST") + b"x")
    peer = world.asked()
    peer.read()
    peer.send(OK)
    answer = client.read()
    assert answer.endswith(b"ok<end>")
    assert head_of(answer)[1][b"connection"] == b"close"
    assert (peer.read(), world.idle, world.open) == (b"<reset>", [0], [0])


def test_a_malformed_chunk_is_answered_and_cuts_the_peer_off(worlds: Making) -> None:
    world = worlds()
    client = world.connect().send(
        request(b"/", b"Transfer-Encoding: chunked", method=b"POST") + b"2\r\nhi\r\n"
    )
    peer = world.asked()
    assert peer.read().endswith(b"2\r\nhi\r\n")
    client.send(b"0x2\r\nhi\r\n" + GET)
    assert statuses_of(client.read()) == [400]
    assert peer.read() == b"<reset>"
    assert not world.is_asked()


def test_a_refused_client_that_sends_on_is_listened_to_for_a_moment(worlds: Making) -> None:
    world = worlds()
    client = world.connect().send(b"GET / HTTP/1.1\r\n\r\n" + b"x" * 1000)
    assert client.read().endswith(b"bad_request<end>")
    client.send(b"y" * 100_000)
    assert len(world.connections) == 1
    world.wait(LINGER + 1)
    assert len(world.connections) == 0
    assert world.answers.lines == [(400, "bad_request", 11)]


def test_a_lingering_client_that_closes_is_let_go_at_once(worlds: Making) -> None:
    world = worlds()
    world.connect().send(b"GET / HTTP/1.1\r\n\r\n" + b"x" * 1000).finish()
    assert len(world.connections) == 0


# -- drain


def test_a_drain_ends_idle_connections_and_those_served_after_their_answer(worlds: Making) -> None:
    world = worlds()
    idle, served, half = world.connect(), world.connect().send(GET), world.connect().send(GET[:9])
    outcome: list[bool] = []
    world.connections.drain(world.loop, 10.0).addCallback(outcome.append)  # type: ignore[arg-type]
    assert idle.read() == b"<end>"
    world.asked().send(OK)
    answer = served.read()
    assert answer.endswith(b"ok<end>")
    assert head_of(answer)[1][b"connection"] == b"close"
    half.send(GET[9:])
    world.loop.spin()
    (peer,) = [stream for stream in world.streams if stream not in (idle, served, half)]
    peer.send(OK)
    assert half.read().endswith(b"ok<end>")
    assert outcome == [True]


# -- PROXY header

TRUSTING = ProxyPolicy(NetworkSet(["127.0.0.1"]))
SOURCE, TARGET = Inet("192.0.2.7", 1234), Inet("198.51.100.1", 80)


@pytest.mark.parametrize("header", [encode_v1(SOURCE, TARGET), encode_v2(SOURCE, TARGET)], ids=["v1", "v2"])
def test_a_proxy_header_may_be_cut_anywhere(worlds: Making, header: bytes) -> None:
    world = worlds(proxy=TRUSTING)
    whole = header + GET
    peer = None
    for at in range(1, len(whole)):
        client = world.connect().send(whole[:at], whole[at:])
        peer = peer or world.asked()
        assert b"X-Forwarded-For: 192.0.2.7\r\n" in peer.read()
        peer.send(OK)
        assert client.read() == OK
        client.leave()


@pytest.mark.parametrize("at", [1, 3, 8, 12, 16])
def test_without_a_header_the_request_is_served_as_well(worlds: Making, at: int) -> None:
    world = worlds(proxy=TRUSTING)
    client = world.connect().send(GET[:at], GET[at:])
    peer = world.asked()
    assert b"X-Forwarded-For: 127.0.0.1\r\n" in peer.read()
    peer.send(OK)
    assert client.read() == OK
