"""Exchanges with peers that speak HTTP/2, for clients of both versions: what is asked, what is answered."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.http2_peers import OK, Http2PeerWorld, Peer
from tests.http_world import GET, body_of, head_of, statuses_of

GRPC = [(b"content-type", b"application/grpc"), (b"te", b"trailers")]
POST = b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"
CHUNKED = b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture
def world() -> Iterator[Http2PeerWorld]:
    made = Http2PeerWorld()
    yield made
    made.end()


def asked(world: Http2PeerWorld, head: bytes = GET) -> tuple[Any, Peer]:
    """An HTTP/1.1 client whose request is on stream 1 of a peer."""
    client = world.connect()
    client.send(head)
    peer = world.peer()
    assert list(peer.take()) == [1]
    return client, peer


def test_a_request_has_the_fields_of_http2(world: Http2PeerWorld) -> None:
    client, peer = asked(
        world, b"GET /x?y HTTP/1.1\r\nHost: A:81\r\nX-One: 1\r\nTE: gzip\r\nKeep-Alive: 5\r\n\r\n"
    )
    fields = peer.asked[1].fields
    pseudo = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/x?y"), (b":authority", b"A:81")]
    assert (fields[:4], peer.asked[1].ended) == (pseudo, True)
    names = [name for name, _ in fields[4:]]
    assert names == [name.lower() for name in names]
    assert (peer.asked[1].get(b"x-one"), peer.asked[1].get(b"x-original-uri")) == (b"1", b"/x?y")
    assert set(names).isdisjoint({b"host", b"te", b"connection", b"keep-alive", b"transfer-encoding"})
    peer.answer(1, b"ok")
    assert body_of(client.read()) == b"2\r\nok\r\n0\r\n\r\n"


def test_an_upgrade_to_http2_is_dropped(world: Http2PeerWorld) -> None:
    upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n\r\n"
    _, peer = asked(world, b"GET / HTTP/1.1\r\nHost: a\r\n" + upgrade)
    assert {b"upgrade", b"http2-settings", b"connection"}.isdisjoint(dict(peer.asked[1].fields))


def test_te_trailers_goes_on_where_the_client_says_it(world: Http2PeerWorld) -> None:
    client = world.client()
    client.begin(b"/a", (b"te", b"trailers"))
    client.begin(b"/b")
    peer = world.peer()
    assert [peer.take()[number].get(b"te") for number in (1, 3)] == [b"trailers", None]
    assert peer.asked[1].get(b"connection") is None


def test_cookies_come_in_one_field(world: Http2PeerWorld) -> None:
    client = world.client()
    client.begin(b"/", (b"cookie", b"a=1"), (b"cookie", b"b=2"))
    cookies = [value for name, value in world.peer().take()[1].fields if name == b"cookie"]
    assert cookies == [b"a=1; b=2"]


def test_options_of_the_server_has_a_star_for_a_path(world: Http2PeerWorld) -> None:
    _, peer = asked(world, b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n")
    assert peer.asked[1].get(b":path") == b"*"


def test_the_second_request_of_a_client_has_its_own_fields(world: Http2PeerWorld) -> None:
    client, peer = asked(world)
    peer.answer(1, b"ok")
    client.read()
    client.send(b"GET /other HTTP/1.1\r\nHost: a\r\nX-Two: 2\r\n\r\n")
    assert (peer.latest.get(b":path"), peer.latest.get(b"x-two")) == (b"/other", b"2")


def test_a_body_of_known_length_ends_with_its_last_byte(world: Http2PeerWorld) -> None:
    client, peer = asked(world, POST + b"he")
    assert (peer.asked[1].get(b"content-length"), peer.asked[1].body, peer.asked[1].ended) == (
        b"5",
        b"he",
        False,
    )
    client.send(b"llo")
    assert (peer.latest.body, peer.latest.ended) == (b"hello", True)


def test_a_chunked_body_ends_when_the_client_says_so(world: Http2PeerWorld) -> None:
    client, peer = asked(world, CHUNKED + b"2\r\nhe\r\n")
    assert (peer.asked[1].get(b"transfer-encoding"), peer.asked[1].get(b"content-length")) == (None, None)
    client.send(b"3\r\nllo\r\n")
    assert (peer.latest.body, peer.latest.ended) == (b"hello", False)
    client.send(b"0\r\n\r\n")
    assert (peer.latest.ended, peer.latest.trailers) == (True, None)


def test_trailers_of_a_request_go_on(world: Http2PeerWorld) -> None:
    client, peer = asked(world, CHUNKED + b"2\r\nhe\r\n")
    client.send(b"0\r\nX-Sum: 7\r\n\r\n")
    assert (peer.latest.trailers, peer.latest.ended) == ([(b"x-sum", b"7")], True)


def test_trailers_behind_a_length_go_on(world: Http2PeerWorld) -> None:
    client = world.client()
    number = client.begin(b"/", (b"content-length", b"2"), method=b"POST", end=False)
    client.send(number, b"he")
    client.h2.send_headers(number, [(b"x-sum", b"7")], end_stream=True)
    client.flush()
    peer = world.peer()
    assert (peer.latest.body, peer.latest.trailers, peer.latest.ended) == (b"he", [(b"x-sum", b"7")], True)


def test_trailers_behind_no_body_go_on(world: Http2PeerWorld) -> None:
    client = world.client()
    number = client.begin(b"/", (b"content-length", b"0"), method=b"POST", end=False)
    client.h2.send_headers(number, [(b"x-sum", b"7")], end_stream=True)
    client.flush()
    peer = world.peer()
    assert (peer.latest.body, peer.latest.trailers, peer.latest.ended) == (b"", [(b"x-sum", b"7")], True)


def test_a_head_does_not_wait_for_its_body(world: Http2PeerWorld) -> None:
    client, peer = asked(world)
    peer.respond(1)
    assert head_of(client.read())[0] == b"HTTP/1.1 200 OK"
    modern = world.client()
    modern.begin()
    peer.take()
    peer.respond(3)
    assert modern.take()[1].status == 200


def test_a_response_with_a_length_keeps_it(world: Http2PeerWorld) -> None:
    client, peer = asked(world)
    peer.answer(1, b"ok", [*OK, (b"content-length", b"2"), (b"x-one", b"1")])
    answer = client.read()
    assert head_of(answer) == (b"HTTP/1.1 200 OK", {b"x-one": b"1", b"content-length": b"2"})
    assert body_of(answer) == b"ok"


def test_a_response_without_a_body_has_a_length_in_http1_only(world: Http2PeerWorld) -> None:
    client, peer = asked(world)
    peer.respond(1, end=True)
    assert head_of(client.read())[1] == {b"content-length": b"0"}
    modern = world.client()
    modern.begin()
    peer.take()
    peer.respond(3, end=True)
    assert (modern.take()[1].fields, modern.answers[1].ended) == (OK, True)


@pytest.mark.parametrize("status", [b"204", b"304"])
def test_statuses_without_a_body_end_at_once(world: Http2PeerWorld, status: bytes) -> None:
    client, peer = asked(world, GET + GET)
    peer.respond(1, [(b":status", status), (b"content-length", b"0" if status == b"204" else b"5")], end=True)
    assert statuses_of(client.read()) == [int(status)]
    assert list(peer.take()) == [1, 3]


def test_the_answer_to_head_says_the_length_and_has_no_body(world: Http2PeerWorld) -> None:
    client, peer = asked(world, b"HEAD /x HTTP/1.1\r\nHost: a\r\n\r\n")
    peer.respond(1, [*OK, (b"content-length", b"7")], end=True)
    assert client.read() == b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n"


def test_a_body_in_the_answer_to_head_ends_the_stream_only(world: Http2PeerWorld) -> None:
    client, peer = asked(world, b"HEAD /x HTTP/1.1\r\nHost: a\r\n\r\n")
    peer.respond(1, OK)
    peer.send(1, b"body")
    client.read()
    assert peer.take()[1].reset == 1
    assert peer.gone is None


def test_interim_responses_go_on(world: Http2PeerWorld) -> None:
    client, peer = asked(world)
    peer.respond(1, [(b":status", b"103"), (b"link", b"</a>")])
    assert head_of(client.read()) == (b"HTTP/1.1 103 Early Hints", {b"link": b"</a>"})
    peer.answer(1, b"ok")
    assert statuses_of(client.read()) == [200]


def test_continue_is_asked_for_and_given(world: Http2PeerWorld) -> None:
    client, peer = asked(world, POST[:-2] + b"Expect: 100-continue\r\n\r\n")
    assert peer.asked[1].get(b"expect") == b"100-continue"
    peer.respond(1, [(b":status", b"100")])
    assert client.read() == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.send(b"hello")
    assert peer.latest.body == b"hello"


def test_trailers_of_a_response_go_on(world: Http2PeerWorld) -> None:
    client, peer = asked(world)
    peer.respond(1).send(1, b"ok").trailers(1, [(b"x-sum", b"7")])
    assert client.read().endswith(b"2\r\nok\r\n0\r\nx-sum: 7\r\n\r\n")


def test_a_response_before_the_request_has_ended_ends_both(world: Http2PeerWorld) -> None:
    client, peer = asked(world, CHUNKED + b"2\r\nhe\r\n")
    peer.answer(1, b"enough")
    assert b"enough" in client.read()
    assert peer.take()[1].reset == 0
    assert peer.gone is None


def test_what_comes_of_the_request_after_its_response_goes_nowhere(world: Http2PeerWorld) -> None:
    client = world.client()
    number = client.begin(method=b"POST", end=False)
    peer = world.peer()
    peer.answer(1, b"enough")
    assert client.take()[number].body == b"enough"
    assert client.answers[number].reset == 0
    assert peer.take()[1].body == b""


def test_a_body_in_both_directions_goes_in_the_order_in_which_it_comes(world: Http2PeerWorld) -> None:
    client = world.client()
    number = client.begin(b"/chat", *GRPC, method=b"POST", end=False)
    peer = world.peer()
    peer.respond(1)
    for at in range(20):
        client.send(number, b"ping%d" % at)
        assert peer.latest.body.endswith(b"ping%d" % at)
        peer.send(1, b"pong%d" % at)
        assert client.take()[number].body.endswith(b"pong%d" % at)
    client.send(number, b"", end=True)
    assert peer.latest.ended
    peer.trailers(1, [(b"grpc-status", b"0")])
    assert client.take()[number].trailers == [(b"grpc-status", b"0")]


@pytest.mark.parametrize(("content", "end", "told"), [(b"o", True, None), (b"okay", False, 1)])
def test_another_length_than_was_said_resets_both(
    world: Http2PeerWorld, content: bytes, end: bool, told: int | None
) -> None:
    client = world.client()
    number = client.begin()
    peer = world.peer()
    peer.respond(1, [*OK, (b"content-length", b"2")]).send(1, content, end=end)
    assert client.take()[number].reset == 2
    assert peer.take()[1].reset == told


def test_a_malformed_response_is_a_bad_gateway(world: Http2PeerWorld) -> None:
    client, peer = asked(world, POST + b"hello")
    peer.respond(1, [*OK, (b"Upper", b"case")])
    assert statuses_of(client.read()) == [502]
    assert peer.take()[1].reset == 1
    assert world.answers.lines[-1].reason == "bad_response"


def test_a_reset_before_the_response_is_a_bad_gateway(world: Http2PeerWorld) -> None:
    client, peer = asked(world, POST + b"hello")
    peer.reset(1, 2)
    assert statuses_of(client.read()) == [502]
    assert world.answers.lines[-1].reason == "peer_reset"


def test_a_reset_before_the_response_may_be_asked_again(world: Http2PeerWorld) -> None:
    client, peer = asked(world)
    peer.answer(1, b"ok")  # so that the peer is known to be good
    client.send(GET)
    peer.take()
    peer.reset(3, 2)
    assert list(peer.take()) == [1, 3, 5]
    peer.answer(5, b"again")
    assert b"again" in client.read()


def test_who_resets_whatever_it_is_asked_is_not_asked_for_ever(world: Http2PeerWorld) -> None:
    client, peer = asked(world)
    peer.answer(1, b"ok")
    client.read()
    client.send(GET)
    for number in (3, 5, 7, 9):
        peer.take()
        peer.reset(number, 2)
    assert statuses_of(client.read()) == [502]
    assert list(peer.take()) == [1, 3, 5, 7, 9]


def test_a_reset_in_the_response_cuts_the_client_off(world: Http2PeerWorld) -> None:
    client, peer = asked(world)
    peer.respond(1).send(1, b"ok")
    peer.reset(1)
    answer = client.read()
    assert b"ok" in answer
    assert answer.endswith((b"<reset>", b"<end>"))
    assert not answer.endswith(b"0\r\n\r\n<end>")
    modern = world.client()
    modern.begin()
    peer.take()
    peer.respond(3).send(3, b"ok").reset(3)
    assert modern.take()[1].reset == 2


CALL = [(b":status", b"200"), (b"content-type", b"application/grpc+proto")]


def test_what_answers_a_call_without_being_one_is_cut_off_like_anything(world: Http2PeerWorld) -> None:
    client = world.client()
    number = client.begin(b"/s/m", *GRPC, method=b"POST")
    world.peer().respond(1).send(1, b"half of").reset(1, 2)
    assert client.take()[number].reset is not None


@pytest.mark.parametrize(("code", "status"), [(8, b"1"), (7, b"14"), (11, b"8"), (12, b"7"), (2, b"13")])
def test_a_reset_in_a_call_is_told_in_the_words_of_grpc(
    world: Http2PeerWorld, code: int, status: bytes
) -> None:
    client = world.client()
    number = client.begin(b"/s/m", *GRPC, method=b"POST")
    peer = world.peer()
    peer.respond(1, CALL).send(1, b"begun").reset(1, code)
    answer = client.take()[number]
    assert (answer.body, answer.ended, answer.reset) == (b"begun", True, None)
    assert answer.trailers is not None
    assert dict(answer.trailers)[b"grpc-status"] == status
    assert world.answers.lines[-1].reason == "peer_reset"


def test_a_peer_that_is_gone_makes_a_call_unavailable(world: Http2PeerWorld) -> None:
    client = world.client()
    begun, silent = (client.begin(b"/s/m", *GRPC, method=b"POST", end=False) for _ in range(2))
    peer = world.peer()
    peer.respond(1, CALL)
    peer.wire.reset()
    trailers = client.take()[begun].trailers
    assert trailers is not None
    assert dict(trailers)[b"grpc-status"] == b"14"
    assert client.answers[silent].status == 502  # which clients of gRPC take for the same


def test_whoever_is_gone_is_no_call_in_http1(world: Http2PeerWorld) -> None:
    client, peer = asked(world, b"POST /s/m HTTP/1.1\r\nHost: a\r\nContent-Type: application/grpc\r\n\r\n")
    peer.respond(1).send(1, b"ok")
    peer.wire.reset()
    assert b"grpc-status" not in client.read()


def test_a_client_that_leaves_cancels(world: Http2PeerWorld) -> None:
    client = world.client()
    number, other = client.begin(), client.begin()
    peer = world.peer()
    client.reset(number)
    assert [peer.take()[each].reset for each in (1, 3)] == [8, None]
    peer.answer(3, b"ok")
    assert client.take()[other].body == b"ok"
    assert world.statuses == [499, 200]


def test_a_connection_that_leaves_cancels(world: Http2PeerWorld) -> None:
    client, peer = asked(world)
    client.reset()
    assert peer.take()[1].reset == 8
    assert peer.gone is None


def test_a_peer_that_is_too_slow_is_told_to_stop() -> None:
    world = Http2PeerWorld(response_timeout=3.0)
    client, peer = asked(world)
    world.wait(6)
    assert statuses_of(client.read()) == [504]
    assert peer.take()[1].reset == 8
    world.end()


def test_a_body_above_the_limit_is_told_to_both() -> None:
    world = Http2PeerWorld(max_body=4)
    client, peer = asked(world, CHUNKED + b"2\r\nhe\r\n")
    client.send(b"3\r\nllo\r\n")
    assert statuses_of(client.read()) == [413]
    assert peer.take()[1].reset == 8
    world.end()


def test_the_log_says_who_was_asked_for_what(world: Http2PeerWorld) -> None:
    client, peer = asked(world)
    exchange = world.servers[-1]._become.exchange
    assert (exchange.peer_name, exchange.target) == (f"http://{world.peers[0].name}", b"/x")
    peer.answer(1, b"ok")
    client.read()
    assert exchange.answered_at >= exchange.asked_at
    assert world.answers.lines[-1].sent == 2
