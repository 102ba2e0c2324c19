"""HTTP/2 to clients: requests and responses of many kinds, the same exchange behind them, and the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from random import Random
from typing import Any, cast

import pytest

from rproxy.downstream.http2_server import MOST_ANSWERED, MOST_DISCARDED
from rproxy.downstream.http2_stream import MOST_DISCARDED as MOST_OF_A_STREAM
from rproxy.downstream.http2_watch import LAST_CALL
from rproxy.interfaces import Arrival
from rproxy.services.answers import Answers as RealAnswers
from rproxy.sites import Site, Sites
from rproxy.wire.http2_frames import PREFACE
from tests.http2_world import Http2World
from tests.http_world import OK, Stream, Written, head_of, making
from tests.wire.http2_talk import (
    ACK,
    DATA,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PING,
    RST,
    SETTINGS,
    frame,
    head,
    said,
    settings,
)

Making = Callable[..., Http2World]


@pytest.fixture
def worlds() -> Iterator[Making]:
    yield from making(Http2World)


def response(*fields: bytes, body: bytes = b"", status: bytes = b"200 OK") -> bytes:
    return b"\r\n".join([b"HTTP/1.1 " + status, *fields, b"", body])


def lines(world: Http2World) -> list[tuple[int, str, int]]:
    return [tuple(line) for line in world.answers.lines]


# -- requests and responses


def test_a_request_is_asked_in_http1_and_its_answer_comes_back(worlds: Making) -> None:
    world = worlds()
    client = world.client()
    number = client.begin(b"/x?y", (b"accept", b"*/*"), (b"cookie", b"a=b"), (b"cookie", b"c=d"))
    peer = world.asked()
    line, fields = head_of(peer.read())
    assert line == b"GET /x?y HTTP/1.1"
    assert (fields[b"host"], fields[b"accept"], fields[b"cookie"]) == (b"a", b"*/*", b"a=b; c=d")
    assert not {b"transfer-encoding", b"content-length", b"connection", b":path"} & set(fields)
    peer.send(response(b"Content-Length: 2", b"X-Some: Thing", b"Connection: keep-alive", body=b"ok"))
    answer = client.take()[number]
    assert (answer.status, answer.body, answer.ended, answer.reset) == (200, b"ok", True, None)
    assert answer.fields == [(b":status", b"200"), (b"content-length", b"2"), (b"x-some", b"Thing")]
    assert lines(world) == [(200, "ok", 2)]


def test_requests_on_one_connection_are_served_at_the_same_time(worlds: Making) -> None:
    world = worlds()
    client = world.client()
    first, second = client.begin(b"/1"), client.begin(b"/2")
    one, two = world.asked(), world.asked()
    two.send(response(b"Content-Length: 1", body=b"2"))
    answers = client.take()
    assert (answers[first].ended, answers[second].body) == (False, b"2")
    one.send(response(b"Content-Length: 1", body=b"1"))
    assert client.take()[first].body == b"1"


def test_connections_to_peers_are_kept_and_used_again(worlds: Making) -> None:
    world = worlds()
    client = world.client()
    client.begin()
    peer = world.asked()
    for _ in range(5):
        peer.send(OK)
        client.take()
        client.begin()
        assert not world.is_asked()
    peer.send(OK)


@pytest.mark.parametrize(
    ("fields", "framing"), [((), b"transfer-encoding"), (((b"content-length", b"10"),), b"content-length")]
)
def test_a_body_goes_to_the_peer(worlds: Making, fields: Any, framing: bytes) -> None:
    world = worlds()
    client = world.client()
    number = client.begin(b"/", *fields, method=b"POST", end=False)
    peer = world.asked()
    assert framing in head_of(peer.read())[1]
    client.send(number, b"hello")
    client.send(number, b"world", end=True)
    chunked = b"5\r\nhello\r\n5\r\nworld\r\n0\r\n\r\n"
    assert peer.read() == (b"helloworld" if fields else chunked)
    peer.send(OK)
    assert client.take()[number].body == b"ok"


def test_trailers_go_both_ways(worlds: Making) -> None:
    world = worlds()
    client = world.client()
    number = client.begin(b"/", (b"te", b"trailers"), method=b"POST", end=False)
    peer = world.asked()
    assert head_of(peer.read())[1][b"te"] == b"trailers"
    client.send(number, b"x")
    client.h2.send_headers(number, [(b"x-checksum", b"1")], end_stream=True)
    client.flush()
    assert peer.read() == b"1\r\nx\r\n0\r\nx-checksum: 1\r\n\r\n"
    peer.send(response(b"Transfer-Encoding: chunked", body=b"1\r\ny\r\n0\r\nGrpc-Status: 0\r\n\r\n"))
    answer = client.take()[number]
    assert (answer.body, answer.trailers, answer.ended) == (b"y", [(b"grpc-status", b"0")], True)


def test_trailers_without_a_body_are_told_too(worlds: Making) -> None:
    world = worlds()
    client = world.client()
    number = client.begin()
    world.asked().send(response(b"Transfer-Encoding: chunked", body=b"0\r\nGrpc-Status: 5\r\n\r\n"))
    answer = client.take()[number]
    assert (answer.body, answer.trailers, answer.ended) == (b"", [(b"grpc-status", b"5")], True)


def test_interim_responses_come_before_the_final_one(worlds: Making) -> None:
    world = worlds()
    client = world.client()
    number = client.begin()
    peer = world.asked()
    peer.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
    assert (client.take()[number].interim, client.answers[number].status) == ([103], 0)
    peer.send(b"HTTP/1.1 102 Processing\r\n\r\n" + OK)
    assert (client.take()[number].interim, client.answers[number].status) == ([103, 102], 200)


def test_a_client_whose_body_was_not_needed_is_told_so_at_once(worlds: Making) -> None:
    world = worlds()
    client = world.client()
    number = client.begin(method=b"POST", end=False)
    world.asked().send(OK)
    answer = client.take()[number]
    assert (answer.status, answer.ended, answer.reset) == (200, True, 0)
    assert world.server.streams == {}


@pytest.mark.parametrize(
    ("method", "status", "fields"),
    [
        (b"HEAD", b"200 OK", [b"Content-Length: 5"]),
        (b"GET", b"204 No Content", []),
        (b"GET", b"304 Not Modified", [b"Content-Length: 5"]),
        (b"GET", b"200 OK", [b"Content-Length: 0"]),
    ],
)
def test_a_response_without_a_body_ends_with_its_head(
    worlds: Making, method: bytes, status: bytes, fields: list[bytes]
) -> None:
    world = worlds()
    client = world.client()
    number = client.begin(method=method)
    peer = world.asked()
    peer.send(response(*fields, status=status))
    answer = client.take()[number]
    length = fields[0].partition(b": ")[2] if fields else None
    assert (answer.status, answer.ended, answer.body) == (int(status[:3]), True, b"")
    assert answer.get(b"content-length") == length
    assert world.server.streams == {}


def test_a_body_that_lasts_until_the_peer_closes_ends_there(worlds: Making) -> None:
    world = worlds()
    client = world.client()
    number = client.begin()
    peer = world.asked()
    peer.send(response(body=b"all of "))
    assert client.take()[number].ended is False
    peer.send(b"it").finish()
    answer = client.take()[number]
    assert (answer.body, answer.ended) == (b"all of it", True)


def test_a_response_that_breaks_off_is_reset(worlds: Making) -> None:
    world = worlds()
    client = world.client()
    number, other = client.begin(), client.begin()
    peer, second = world.asked(), world.asked()
    peer.send(response(b"Content-Length: 10", body=b"part")).reset()
    answer = client.take()[number]
    assert (answer.ended, answer.reset) == (False, 2)
    second.send(OK)
    assert client.take()[other].ended
    assert [line[:2] for line in lines(world)] == [(200, "bad_response"), (200, "ok")]


def test_a_peer_that_answers_before_the_body_is_complete_ends_it(worlds: Making) -> None:
    world = worlds()
    client = world.client()
    number = client.begin(method=b"POST", end=False)
    peer = world.asked()
    peer.send(response(b"Content-Length: 2", status=b"413 Too Much", body=b"no"))
    answer = client.take()[number]
    assert (answer.status, answer.body, answer.ended, answer.reset) == (413, b"no", True, None)
    assert peer.read().endswith((b"<end>", b"<reset>"))


def test_a_client_that_sends_on_after_its_answer_is_told_to_stop_in_time(worlds: Making) -> None:
    world = worlds(max_body=1000)
    client = world.client()
    slow, fast, done = (client.begin(method=b"POST", end=False) for _ in range(3))
    for number in (slow, fast, done):
        world.asked()
        client.send(number, bytes(1001))
    assert [client.take()[number].status for number in (slow, fast, done)] == [413] * 3
    assert len(lines(world)) == 3
    client.send(done, b"last", end=True)
    client.upload(fast, bytes(MOST_OF_A_STREAM // 2), end=False)
    assert [client.answers[number].reset for number in (slow, fast, done)] == [None] * 3
    client.upload(fast, bytes(MOST_OF_A_STREAM), end=False)
    assert [client.take()[number].reset for number in (slow, fast, done)] == [None, 0, None]
    assert set(world.server.streams) == {slow}
    world.wait(8)
    assert client.take()[slow].reset == 0
    assert (len(lines(world)), world.server.streams) == (3, {})


# -- refusals


def test_refusals_have_a_page_and_a_line(worlds: Making) -> None:
    world = worlds(sites=lambda site: Sites({}, {"b": site}))
    client = world.client()
    number, head = client.begin(b"/1"), client.begin(b"/2", method=b"HEAD")
    answers = client.take()
    assert (answers[number].status, answers[number].body) == (404, b"unknown_host")
    assert answers[number].get(b"server") == b"rproxy"
    assert (answers[head].status, answers[head].body, answers[head].ended) == (404, b"", True)
    assert answers[head].get(b"content-length") == b"12"
    assert sorted(lines(world)) == [(404, "unknown_host", 0), (404, "unknown_host", 12)]


def test_a_redirect_says_where_to(worlds: Making) -> None:
    def sites(site: Site) -> Sites:
        return Sites({}, {"a": Site("app", site.routes, redirect_to=443)})

    client = worlds(sites=sites).client()
    number = client.begin(b"/x?y")
    answer = client.take()[number]
    assert (answer.status, answer.get(b"location")) == (301, b"https://a/x?y")


def test_a_name_that_the_connection_is_not_for_is_misdirected(worlds: Making) -> None:
    world = worlds(sites=lambda site: Sites({"a": site, "b": site}, {}))
    world.factory.secure = True
    client = world.client()
    number = client.begin()
    answer = client.take()[number]
    assert (answer.status, answer.body, answer.ended) == (421, b"misdirected", True)


def test_what_is_only_too_much_is_answered_and_the_connection_lives(worlds: Making) -> None:
    world = worlds()
    client = world.client()
    number = client.begin(b"/", *[(b"x", b"y")] * 129)
    assert (client.take()[number].status, client.answers[number].body) == (431, b"head_too_large")
    assert client.gone is None
    client.begin()
    world.asked().send(OK)
    assert lines(world) == [(431, "head_too_large", 14), (200, "ok", 2)]


def test_what_is_malformed_is_reset_and_written_down(worlds: Making) -> None:
    world = worlds()
    client = world.client()
    number = client.begin(b"/", (b"connection", b"close"))
    assert (client.take()[number].status, client.answers[number].reset) == (0, 1)
    assert not world.is_asked()
    assert lines(world) == [(400, "bad_request", 0)]


def test_a_body_of_another_length_reaches_nobody_as_whole(worlds: Making) -> None:
    world = worlds()
    client = world.client()
    number = client.begin(b"/", (b"content-length", b"10"), method=b"POST", end=False)
    peer = world.asked()
    client.wire.send(frame(0, 0, number, b"x" * 5))
    client.wire.send(frame(1, 5, number, b"\0\1x\1y"))
    assert client.take()[number].reset == 1
    assert peer.read().endswith(b"xxxxx<reset>")
    assert lines(world) == [(400, "bad_request", 0)]
    client.begin()
    assert world.is_asked()


def test_a_body_above_the_limit_is_refused(worlds: Making) -> None:
    world = worlds(max_body=10)
    client = world.client()
    declared = client.begin(b"/", (b"content-length", b"11"), method=b"POST", end=False)
    assert (client.take()[declared].status, client.answers[declared].reset) == (413, None)
    number = client.begin(method=b"POST", end=False)
    world.asked()
    client.send(number, b"x" * 11)
    assert client.take()[number].status == 413


def test_no_peer_is_a_page(worlds: Making) -> None:
    world = worlds()
    world.listening[0].close()
    client = world.client()
    number = client.begin()
    assert client.take()[number].status == 502


def test_the_real_pages_and_log_know_streams(worlds: Making) -> None:
    written = Written()
    world = worlds(sites=lambda site: Sites({}, {"a": replace(site, log=written)}))
    answers = RealAnswers(Random(1))
    answers.log = cast(Any, written)
    world.factory.answers = answers  # type: ignore[assignment]
    client = world.client()
    client.begin(b"/x?y", (b"user-agent", b"tester"))
    world.asked().send(OK)
    lost = client.raw([(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"b"), (b":path", b"/")])
    bad = client.begin(b"/", *[(b"x", b"y")] * 129)
    taken = client.take()
    assert (taken[lost].status, taken[bad].status) == (404, 431)
    assert taken[lost].body.startswith(b"404 ")
    first, *_ = [one for one in written.lines if one.status == 200]
    assert (first.version, first.scheme, first.host, first.path) == (20, b"http", b"a", b"/x?y")
    assert (first.size, first.user_agent, first.app) == (2, b"tester", "app")
    assert sorted(one.status for one in written.lines) == [200, 404, 431]


# -- clients that leave


def test_a_client_that_resets_frees_the_peer(worlds: Making) -> None:
    world = worlds()
    client = world.client()
    number = client.begin()
    peer = world.asked()
    client.reset(number)
    assert peer.read().endswith(b"<reset>")
    assert (lines(world), world.open, world.server.streams) == ([(499, "client_left", 0)], [0], {})


def test_a_client_that_resets_while_it_is_answered_is_written_down_as_that(worlds: Making) -> None:
    world = worlds()
    client = world.client(credit=False)
    number = client.begin()
    world.asked().push(response(b"Content-Length: 100000") + b"x" * 100000)
    client.take()
    client.reset(number)
    assert lines(world) == [(200, "client_left", 65535)]


def test_a_connection_that_is_lost_takes_its_requests_along(worlds: Making) -> None:
    world = worlds()
    client = world.client()
    client.begin()
    client.begin()
    one, two = world.asked(), world.asked()
    client.wire.reset()
    assert one.read().endswith(b"<reset>")
    assert two.read().endswith(b"<reset>")
    assert [line[0] for line in lines(world)] == [499, 499]


def test_what_was_asked_before_a_half_close_is_answered(worlds: Making) -> None:
    world = worlds()
    client = world.client()
    whole, half = client.begin(), client.begin(method=b"POST", end=False)
    one, two = world.asked(), world.asked()
    client.wire.finish()
    assert two.read().endswith(b"<reset>")
    one.send(OK)
    answers = client.take()
    assert (answers[whole].body, answers[half].status) == (b"ok", 0)
    assert client.closed == b"<end>"


def test_a_client_that_says_goodbye_is_served_and_closed(worlds: Making) -> None:
    world = worlds()
    client = world.client()
    number = client.begin()
    peer = world.asked()
    client.wire.send(frame(7, 0, 0, bytes(8)))
    peer.send(OK)
    assert client.take()[number].body == b"ok"
    assert client.closed == b"<end>"


def test_a_breach_ends_everything(worlds: Making) -> None:
    world = worlds()
    client = world.client()
    client.begin()
    peer = world.asked()
    client.wire.send(frame(8, 0, 0, bytes(4)))
    client.take()
    assert client.gone is not None
    assert (client.gone.error_code, client.closed) == (1, b"<end>")
    assert peer.read().endswith(b"<reset>")
    client.wire.send(b"more" * 1000)
    assert lines(world) == [(499, "client_left", 0)]


def test_who_sends_on_after_the_end_is_cut_off(worlds: Making) -> None:
    world = worlds()
    client = world.client()
    client.wire.send(frame(8, 0, 0, bytes(4)))
    with pytest.raises(ConnectionError):
        for _ in range(100):
            client.wire.send(bytes(MOST_DISCARDED // 10))


def test_a_client_whose_answers_do_not_leave_is_not_read(worlds: Making) -> None:
    world = worlds()
    wire = raw(world)
    server = world.server
    server.pauseProducing()
    sent = 0
    while not server._paused:
        world.wait(1)
        wire.send(frame(PING, payload=bytes(8)) * 90)
        wire.read()
        sent += 90
    assert MOST_ANSWERED <= 17 * sent < MOST_ANSWERED + 3000
    wire.send(frame(PING, payload=b"unheard!"))
    assert b"unheard!" not in wire.read()
    server.resumeProducing()
    assert b"unheard!" in wire.read()


# -- stopping


def raw(world: Http2World) -> Stream:
    """A client whose frames are made by hand: the library does nothing more once it has read a GOAWAY."""
    wire = world.connect().send(PREFACE + settings() + frame(SETTINGS, ACK))
    wire.read()
    return wire


def test_a_drain_ends_idle_connections_with_goaway(worlds: Making) -> None:
    world = worlds()
    wire = raw(world)
    world.connections.drain(world.loop, 10.0)
    soon, ping = said(wire.read())
    assert (soon.kind, soon.payload, ping.kind) == (GOAWAY, b"\x7f\xff\xff\xff" + bytes(4), PING)
    wire.send(frame(PING, ACK, 0, ping.payload))
    assert wire.read() == frame(GOAWAY, 0, 0, bytes(8)) + b"<end>"


def test_a_drain_finishes_what_is_served_and_what_is_on_its_way(worlds: Making) -> None:
    world = worlds()
    wire = raw(world)
    wire.send(head(1))
    peer = world.asked()
    world.connections.drain(world.loop, 10.0)
    wire.send(head(3))
    other = world.asked()
    _, ping = said(wire.read())
    wire.send(frame(PING, ACK, 0, ping.payload), head(5))
    last, refused = said(wire.read())
    assert last.payload == bytes([0, 0, 0, 3]) + bytes(4)
    assert (refused.kind, refused.stream, refused.payload[3]) == (RST, 5, 7)
    peer.send(OK)
    assert [(one.kind, one.stream) for one in said(wire.read())] == [(HEADERS, 1), (DATA, 1)]
    other.send(OK)
    assert wire.read().endswith(frame(DATA, END_STREAM, 3, b"ok") + b"<end>")
    assert not world.is_asked()


def test_a_drain_does_not_wait_for_an_answer_to_its_ping_for_ever(worlds: Making) -> None:
    world = worlds()
    wire = raw(world)
    outcome: list[bool] = []
    world.connections.drain(world.loop, 10.0).addCallback(outcome.append)  # type: ignore[arg-type]
    assert wire.read().endswith(b"rproxy-l")
    world.wait(LAST_CALL + 0.5)
    assert wire.read().endswith(b"<end>")
    wire.leave()
    assert outcome == [True]


def test_an_arrival_is_what_the_exchange_sees(worlds: Making) -> None:
    world = worlds()
    client = world.client()
    client.begin()
    (stream,) = world.server.streams.values()
    assert isinstance(stream.arrival, Arrival)
    assert stream.facts is world.server.facts
    world.asked().send(OK)
