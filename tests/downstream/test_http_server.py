"""A client's connection: requests in order, responses framed for its version, limits on its time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from rproxy.downstream.http_server import MOST_PIPELINED
from rproxy.downstream.http_watch import LINGER, HttpLimits
from rproxy.downstream.peek import ProxyPolicy
from rproxy.policy.networks import NetworkSet
from rproxy.splice import Pipes, Pump
from rproxy.wire.address import Inet
from rproxy.wire.proxyheader import encode_v1, encode_v2
from tests.http_world import GET, OK, World, body_of, head_of, statuses_of

Making = Callable[..., World]
SLACK = 5.6
"""A look every 5 s, and the buckets of the deadlines."""


@pytest.fixture
def worlds() -> Iterator[Making]:
    made: list[World] = []

    def make(**options: Any) -> World:
        made.append(World(**options))
        return made[-1]

    yield make
    for world in made:
        world.end()


def request(path: bytes, *fields: bytes, version: bytes = b"1.1", method: bytes = b"GET") -> bytes:
    lines = [b"%b %b HTTP/%b" % (method, path, version), b"Host: a", *fields, b"", b""]
    return b"\r\n".join(lines)


def response(*fields: bytes, body: bytes = b"", status: bytes = b"200 OK", version: bytes = b"1.1") -> bytes:
    return b"\r\n".join([b"HTTP/%b %b" % (version, status), *fields, b"", body])


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


# -- HEAD, 204, 304, versions


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        (b"HEAD", response(b"Content-Length: 500")),
        (b"HEAD", response(b"Transfer-Encoding: chunked")),
        (b"HEAD", response()),
        (b"GET", response(status=b"204 No Content")),
        (b"GET", response(b"Content-Length: 7", status=b"304 Not Modified")),
        (b"DELETE", response(b"Content-Length: 0", status=b"204 No Content")),
    ],
)
def test_answers_without_a_body_leave_both_connections_usable(
    worlds: Making, method: bytes, answer: bytes
) -> None:
    world = worlds()
    client = world.connect().send(request(b"/", method=method))
    peer = world.asked()
    peer.read()
    peer.send(answer)
    got = client.read()
    assert got.endswith(b"\r\n\r\n")
    assert got.count(b"\r\n\r\n") == 1
    assert b"transfer-encoding" not in head_of(got)[1]
    client.send(GET)
    assert peer.read().startswith(b"GET /x")
    peer.send(OK)
    assert client.read() == OK


def test_the_length_that_a_head_answer_speaks_of_is_kept(worlds: Making) -> None:
    world = worlds()
    client = world.connect().send(request(b"/", method=b"HEAD"))
    world.asked().send(response(b"Content-Length: 500"))
    assert head_of(client.read())[1][b"content-length"] == b"500"


def test_a_chunked_answer_reaches_an_old_client_until_close(worlds: Making) -> None:
    world = worlds()
    client = world.connect().send(request(b"/", b"Connection: keep-alive", version=b"1.0"))
    world.asked().send(
        response(b"Transfer-Encoding: chunked") + b"3\r\nabc\r\n", b"2\r\nde\r\n0\r\nX-Sum: 1\r\n\r\n"
    )
    line, fields = head_of(answer := client.read())
    assert (line, body_of(answer)) == (b"HTTP/1.1 200 OK", b"abcde<end>")
    assert b"transfer-encoding" not in fields
    assert fields[b"connection"] == b"close"


def test_an_old_client_keeps_its_connection_if_it_asks_to(worlds: Making) -> None:
    world = worlds()
    client = world.connect().send(request(b"/", b"Connection: keep-alive", version=b"1.0"))
    peer = world.asked()
    peer.send(OK)
    assert head_of(client.read())[1][b"connection"] == b"keep-alive"
    client.send(request(b"/", version=b"1.0"))
    peer.send(OK)
    assert client.read().endswith(b"ok<end>")


def test_a_close_delimited_answer_is_chunked_for_a_new_client(worlds: Making) -> None:
    world = worlds()
    client = world.connect().send(GET)
    peer = world.asked()
    peer.send(response(body=b"ab"), b"cd").finish()
    answer = client.read()
    assert head_of(answer)[1][b"transfer-encoding"] == b"chunked"
    assert body_of(answer) == b"2\r\nab\r\n2\r\ncd\r\n0\r\n\r\n"
    assert (world.idle, peer.read()[-5:]) == ([0], b"<end>")
    client.send(GET)
    world.asked().send(OK)
    assert client.read() == OK


def test_a_close_delimited_answer_that_ends_in_a_reset_is_not_complete(worlds: Making) -> None:
    world = worlds()
    client = world.connect().send(GET)
    peer = world.asked()
    peer.send(response(body=b"ab"))
    assert body_of(client.read()) == b"2\r\nab\r\n"
    peer.reset()
    assert client.read() == b"<reset>"


def test_trailers_go_through_in_both_directions(worlds: Making) -> None:
    world = worlds()
    client = world.connect().send(
        request(b"/", b"Transfer-Encoding: chunked", method=b"POST") + b"2\r\nhi\r\n0\r\nX-Sum: 7\r\n\r\n"
    )
    peer = world.asked()
    assert peer.read().endswith(b"\r\n\r\n2\r\nhi\r\n0\r\nX-Sum: 7\r\n\r\n")
    peer.send(response(b"Transfer-Encoding: chunked") + b"2\r\nyo\r\n0\r\nX-Sum: 8\r\n\r\n")
    assert client.read().endswith(b"2\r\nyo\r\n0\r\nX-Sum: 8\r\n\r\n")


def test_interim_answers_go_to_new_clients_only(worlds: Making) -> None:
    world = worlds()
    early = response(b"Link: </a>", status=b"103 Early Hints")
    new, old = world.connect().send(GET), world.connect().send(request(b"/", version=b"1.0"))
    world.asked().send(early + early, OK)
    world.asked().send(early, OK)
    assert statuses_of(new.read()) == [103, 103, 200]
    assert statuses_of(old.read()) == [200]


# -- bodies and early answers


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


# -- upgrades

ASK = request(b"/ws", b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Key: x")
SWITCH = response(b"Connection: upgrade", b"Upgrade: websocket", status=b"101 Switching Protocols")


def test_an_upgrade_is_a_tunnel_and_early_bytes_go_both_ways(worlds: Making) -> None:
    world = worlds()
    client = world.connect().send(ASK + b"early")
    peer = world.asked()
    assert not peer.read().endswith(b"early"), "before the peer has agreed it gets nothing of it"
    peer.send(SWITCH + b"hello")
    answer = client.read()
    assert (statuses_of(answer), body_of(answer)) == ([101], b"hello")
    assert peer.read() == b"early"
    client.send(b"\x81\0ping")
    peer.send(b"\x81\0pong")
    assert (peer.read(), client.read()) == (b"\x81\0ping", b"\x81\0pong")
    client.send(b"x" * 300_000)
    assert peer.all(300_000) == b"x" * 300_000
    assert world.open == [1]


def test_a_tunnel_is_half_closed_and_then_closed(worlds: Making) -> None:
    world = worlds()
    client = world.connect().send(ASK)
    peer = world.asked()
    peer.send(SWITCH)
    client.read()
    client.finish()
    assert peer.read().endswith(b"<end>")
    peer.send(b"still here")
    assert client.read() == b"still here"
    peer.finish()
    assert client.read() == b"<end>"
    assert (world.open, world.answers.lines[0][:2]) == ([0], (101, "ok"))


def test_a_client_that_half_closed_before_the_switch_has_closed_its_half_of_the_tunnel(
    worlds: Making,
) -> None:
    world = worlds()
    client = world.connect().send(ASK + b"all").finish()
    peer = world.asked()
    peer.read()
    peer.send(SWITCH)
    assert peer.read() == b"all<end>"
    peer.send(b"bye").finish()
    assert client.read().endswith(b"bye<end>")


@pytest.mark.parametrize("who", ["client", "peer"])
def test_a_tunnel_ends_when_either_side_resets(worlds: Making, who: str) -> None:
    world = worlds()
    client = world.connect().send(ASK)
    peer = world.asked()
    peer.send(SWITCH)
    client.read()
    peer.read()
    (client if who == "client" else peer).reset()
    assert (peer if who == "client" else client).read() == b"<reset>"
    assert world.open == [0]


def test_an_idle_tunnel_is_cut(worlds: Making) -> None:
    world = worlds(tunnel_idle=30.0)
    client = world.connect().send(ASK)
    peer = world.asked()
    peer.send(SWITCH)
    world.wait(25)
    client.send(b"x")
    world.wait(25)
    assert len(world.connections) == 1
    world.wait(5 + 2 * SLACK)
    assert (len(world.connections), peer.read()[-7:]) == (0, b"<reset>")


def test_a_refused_upgrade_stays_http(worlds: Making) -> None:
    world = worlds()
    client = world.connect().send(ASK + request(b"/next"))
    peer = world.asked()
    peer.read()
    peer.send(OK)
    assert client.read() == OK
    assert peer.read().startswith(b"GET /next HTTP/1.1\r\n")


def test_a_switch_that_nobody_asked_for_is_a_bad_answer(worlds: Making) -> None:
    world = worlds()
    client = world.connect().send(GET)
    world.asked().send(SWITCH + b"evil")
    assert statuses_of(client.read()) == [502]
    other = world.connect().send(ASK)
    world.asked().send(SWITCH.replace(b"websocket", b"h2c"))
    assert statuses_of(other.read()) == [502]


@pytest.mark.parametrize(
    "ask", [b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", request(b"/", method=b"TRACE")]
)
def test_connect_and_trace_are_refused(worlds: Making, ask: bytes) -> None:
    world = worlds()
    answer = world.connect().send(ask + b"early").read()
    assert statuses_of(answer)[0] == 405
    assert b"allow" in head_of(answer)[1]
    assert not world.is_asked()


# -- time


def test_a_slow_head_is_refused_after_its_time_in_all(worlds: Making) -> None:
    world = worlds()
    client = world.connect()
    for octet in GET[:20]:
        client.send(bytes([octet]))
        world.wait(0.9)
    assert client.read() == b""
    world.wait(2 + SLACK)
    assert statuses_of(client.read()) == [408]
    assert world.answers.lines[0][:2] == (408, "too_slow")


def test_the_time_for_a_head_begins_with_it(worlds: Making) -> None:
    world = worlds()
    client = world.connect().send(GET)
    peer = world.asked()
    peer.send(OK)
    client.read()
    world.wait(60)
    client.send(GET[:10])
    world.wait(10)
    client.send(GET[10:])
    if world.is_asked():
        return
    pytest.fail("it was refused: " + repr(client.read()))


def test_an_idle_connection_is_closed_without_a_word(worlds: Making) -> None:
    world = worlds()
    client = world.connect().send(GET)
    world.asked().send(OK)
    client.read()
    world.wait(70)
    assert client.read() == b""
    world.wait(5 + SLACK)
    assert client.read() == b"<end>"


def test_a_body_that_stops_is_refused(worlds: Making) -> None:
    world = worlds(limits=HttpLimits(min_rate=0))
    client = world.connect().send(request(b"/", b"Content-Length: 10", method=b"POST") + b"x")
    peer = world.asked()
    world.wait(50)
    client.send(b"x")
    world.wait(50)
    assert client.read() == b""
    world.wait(10 + SLACK)
    assert statuses_of(client.read()) == [408]
    assert peer.read().endswith(b"<reset>")


def test_a_trickled_body_is_refused(worlds: Making) -> None:
    world = worlds()
    client = world.connect().send(request(b"/", b"Content-Length: 100000", method=b"POST"))
    world.asked()
    for _ in range(10):
        client.send(b"x" * 50)
        world.wait(1)
    world.wait(SLACK)
    assert statuses_of(client.read()) == [408]


def test_a_client_that_waits_for_continue_is_not_slow(worlds: Making) -> None:
    world = worlds()
    ask = request(b"/", b"Expect: 100-continue", b"Content-Length: 30000", method=b"PUT")
    client = world.connect().send(ask)
    world.asked()
    world.wait(30)
    assert client.read() == b""


def test_a_long_upload_leaves_the_peer_its_time_to_answer(worlds: Making) -> None:
    world = worlds(response_timeout=20.0)
    client = world.connect().send(request(b"/", b"Content-Length: 7000", method=b"POST"))
    peer = world.asked()
    for _ in range(70):
        client.send(b"x" * 100)
        world.wait(0.5)
    world.wait(15)
    assert client.read() == b""
    peer.send(OK)
    assert client.read() == OK


def test_a_peer_that_takes_no_body_is_to_blame_for_it(worlds: Making) -> None:
    world = worlds()
    client = world.connect().send(request(b"/", b"Content-Length: 900000000", method=b"POST"))
    world.asked()
    client.push(b"x" * (64 << 20))
    world.wait(60 + 2 * SLACK)
    assert statuses_of(client.read()) == [504]


def test_a_client_that_takes_nothing_is_cut_off(worlds: Making) -> None:
    world = worlds()
    world.connect(receive_buffer=4096).send(GET)
    peer = world.asked()
    peer.push(response(b"Content-Length: %d" % (64 << 20)) + b"x" * (64 << 20))
    world.wait(60 + 2 * SLACK)
    assert (len(world.connections), world.open, world.answers.lines[0][:2]) == (0, [0], (200, "too_slow"))


def test_a_client_that_takes_little_is_not(worlds: Making) -> None:
    world, size = worlds(), 64 << 20
    client = world.connect(receive_buffer=4096).send(request(b"/", b"Connection: close"))
    peer = world.asked()
    peer.push(response(b"Content-Length: %d" % size) + b"x" * size)
    for _ in range(30):
        client.world.loop.spin()
        assert len(client.socket.recv(2000)) > 0
        world.wait(10)
    assert len(world.connections) == 1


def test_what_leaves_the_pipe_counts_although_the_kernels_queue_stays_as_full(worlds: Making) -> None:
    world = worlds()
    world.connect()
    server = world.servers[0]._become
    stuck = []
    server.pump = pump = Pump(server.transport, server.transport, Pipes())
    pump.moved = 1_000_000
    for now, held in ((0.0, 900_000), (50.0, 800_000), (100.0, 700_000), (161.0, 700_000)):
        pump._held = held
        stuck.append(server._watch._is_stuck(now))
    assert stuck == [False, False, False, True]


def test_the_last_answer_waits_for_its_reader_but_not_for_ever(worlds: Making) -> None:
    world = worlds()
    client = world.connect(receive_buffer=4096).send(request(b"/", b"Connection: close"))
    world.asked().push(response(b"Content-Length: 3000000") + b"x" * 3_000_000)
    world.loop.spin()
    assert len(world.connections) == 1
    world.wait(60 + 2 * SLACK)
    assert len(world.connections) == 0
    assert client.read().endswith(b"<reset>")


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
