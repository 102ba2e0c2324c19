"""One request and its response: which peer, asked how often, and what is left when somebody leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.testing import StringTransport
from zope.interface import implementer

from rproxy.exchange import MOST_HELD
from rproxy.sites import Site, Sites
from rproxy.upstream.connect import SEARCH
from tests.http_world import GET, OK, World, body_of, head_of, making, statuses_of

Making = Callable[..., World]
SLACK = 11.2
"""Two looks at a connection, 5 s apart, and the buckets of the deadlines."""
POST = b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"
EMPTY_POST = POST[:-2].replace(b"2", b"0")
FORM = b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
LARGE = 8 << 20


@implementer(IStreamClientEndpoint)
class Never:
    """A peer that neither accepts nor refuses."""

    def connect(self, factory: Any) -> Deferred[Any]:
        return Deferred()


@pytest.fixture
def worlds() -> Iterator[Making]:
    yield from making(World)


def answer(body: bytes = b"ok", *fields: bytes, length: int | None = None) -> bytes:
    lines = [b"HTTP/1.1 200 OK", b"Content-Length: %d" % (len(body) if length is None else length), *fields]
    return b"\r\n".join([*lines, b"", body])


# -- what the peer is told, and the client


class Later:
    """A peer that accepts when it is told to."""

    def connect(self, factory: Any) -> Deferred[Any]:
        self._factory = factory
        return Deferred()

    def accept(self) -> StringTransport:
        transport = StringTransport()
        self._factory.buildProtocol(None).makeConnection(transport)
        return transport


@pytest.mark.parametrize("trailers", [b"", b"X-Sum: 7\r\n"])
def test_an_empty_body_in_chunks_is_ended_at_a_peer_that_was_slow_to_accept(
    worlds: Making, trailers: bytes
) -> None:
    world, later = worlds(), Later()
    peer: Any = world.peers[0]
    peer.endpoint = later
    client = world.connect()
    chunks = b"0\r\n" + trailers + b"\r\n"
    client.send(b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks)
    assert later.accept().value().endswith(b"\r\n\r\n" + chunks)


def test_the_peer_gets_what_the_client_asked_and_who_it_is(worlds: Making) -> None:
    world = worlds(replacement=b"/api")
    ask = b"GET /x?y HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 6.6.6.6\r\nConnection: x-real-ip, close\r\n\r\n"
    world.connect().send(ask)
    line, fields = head_of(world.asked().read())
    assert line == b"GET /api/x?y HTTP/1.1"
    assert (fields[b"host"], fields[b"x-forwarded-for"], fields[b"x-real-ip"]) == (
        b"a",
        b"127.0.0.1",
        b"127.0.0.1",
    )
    assert fields[b"x-original-uri"] == b"/x?y"
    assert b"connection" not in fields


def test_fields_about_the_peers_connection_do_not_reach_the_client(worlds: Making) -> None:
    world = worlds()
    client = world.connect().send(GET)
    world.asked().send(
        answer(b"ok", b"Connection: keep-alive, X-Hop", b"X-Hop: 1", b"Keep-Alive: x", b"A: b")
    )
    assert set(head_of(client.read())[1]) == {b"a", b"content-length"}


# -- bodies


def test_a_body_that_comes_before_the_peer_is_kept_for_it(worlds: Making) -> None:
    world = worlds()
    client = world.connect().send(POST)
    peer = world.asked()
    assert body_of(peer.read()) == b"hi"
    peer.send(OK)
    assert (client.read(), world.idle) == (OK, [1])


def test_a_client_is_not_read_on_while_there_is_no_peer(worlds: Making) -> None:
    world = worlds()
    world.peers[0].endpoint = Never()
    client = world.connect()
    assert client.push(FORM % (64 << 20) + b"x" * (16 << 20)) < 12 << 20
    assert MOST_HELD <= world.servers[-1]._become.exchange._held_size < MOST_HELD + (1 << 17)
    assert world.open == [1]
    client.reset()  # not noticed, since it is not read: the search ends by its own limit
    world.wait(world.route.connect_timeout * SEARCH + 1)
    assert (world.open, len(world.connections)) == ([0], 0)


def test_a_large_body_goes_through_whole(worlds: Making) -> None:
    world = worlds()
    client = world.connect()
    body = bytes(range(256)) * (LARGE // 256)
    client.push(FORM % LARGE)
    peer = world.asked()
    got, at = b"", 0
    while at < LARGE:
        at += client.push(body[at:])
        got += peer.read()
    got += peer.all(LARGE + len(got.partition(b"\r\n\r\n")[0]) + 4 - len(got))
    assert body_of(got) == body
    peer.send(OK)
    assert (client.read(), world.idle) == (OK, [1])


def test_a_peer_that_does_not_read_holds_the_client_up(worlds: Making) -> None:
    world = worlds()
    client = world.connect()
    sent = client.push(FORM % (256 << 20) + b"x" * (64 << 20))
    peer = world.asked()
    sent += client.push(b"x" * (64 << 20))
    assert sent < 24 << 20
    transport = world.servers[0]._become.exchange.upstream.transport
    assert len(transport.dataBuffer) + transport._tempDataLen < 1 << 18
    peer.all(1 << 20)
    assert client.push(b"x" * (64 << 20)) > 0


# -- large responses


@pytest.mark.parametrize("extra", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"])
def test_a_large_response_goes_by_and_what_follows_it_is_not_for_the_next(
    worlds: Making, extra: bytes
) -> None:
    world = worlds()
    client = world.connect().send(GET)
    peer = world.asked()
    body = bytes(range(256)) * (LARGE // 256)
    whole = answer(body) + extra
    got, at = b"", 0
    while at < len(whole):
        at += peer.push(whole[at:])
        got += client.read()
    got += client.all(len(answer(body)) - len(got))
    assert got == answer(body)
    client.send(GET)
    second = peer if not extra else world.asked()
    second.send(OK)
    assert client.read() == OK
    assert world.answers.lines[0].sent == LARGE


def test_large_responses_one_after_another_to_a_client_that_stalls_between(worlds: Making) -> None:
    world = worlds()
    client = world.connect(receive_buffer=8192).send(GET)
    peer = world.asked()
    for number in range(4):
        whole, at = answer(bytes([number]) * LARGE), 0
        while at < len(whole):
            pushed = peer.push(whole[at:])
            at += pushed
            if not pushed:
                client.got += client.all(len(client.got) + 100_000)
        assert client.all(len(whole)) == whole
        client.send(GET)
    assert (world.open, len(world.answers.lines)) == ([1], 4)


def test_a_client_that_stalls_holds_the_peer_up(worlds: Making) -> None:
    world = worlds()
    world.connect(receive_buffer=4096).send(GET)
    assert world.asked().push(answer(b"", length=256 << 20) + b"x" * (256 << 20)) < 24 << 20


@pytest.mark.parametrize("sent", [0, 100_000, LARGE - 1])
def test_a_large_response_cut_short_is_not_complete_for_the_client(worlds: Making, sent: int) -> None:
    world = worlds()
    client = world.connect().send(GET)
    peer = world.asked()
    got, at = b"", 0
    part = answer(b"x" * sent, length=LARGE)
    while at < len(part):
        at += peer.push(part[at:])
        got += client.read()
    peer.finish()
    got += client.read()
    assert got.endswith(b"<reset>")
    assert world.answers.lines[0][:2] == (200, "bad_response")


@pytest.mark.parametrize("how", ["leave", "reset"])
def test_a_client_that_leaves_inside_a_large_response_ends_the_asking(worlds: Making, how: str) -> None:
    world = worlds()
    client = world.connect().send(GET)
    peer = world.asked()
    peer.push(answer(b"", length=LARGE) + b"x" * (LARGE // 2))
    getattr(client, how)()
    with suppress(ConnectionError):
        peer.push(b"x" * (1 << 20))
    assert (world.open, world.idle) == ([0], [0])
    assert peer.read().endswith((b"<reset>", b"<end>"))
    assert world.answers.lines[0][:2] == (200, "client_left")


def test_a_response_that_fills_the_clients_buffer_at_its_end_leaves_the_peer_usable(worlds: Making) -> None:
    """The client's transport is full when the last byte comes; the next request must not find a deaf peer."""
    world = worlds()
    client = world.connect(receive_buffer=4096)
    peer = None
    for size in (400_000, 3_000_000, 400_000, 65536, 4_500_000):
        client.send(GET)
        peer = peer or world.asked()
        whole, at = answer(b"y" * size), 0
        while at < len(whole):
            pushed = peer.push(whole[at:])
            at += pushed
            if not pushed:
                client._take()
        assert client.all(len(whole)) == whole
    assert world.idle == [1]


# -- peers that fail


def test_a_stale_connection_is_replaced_without_the_clients_knowing(worlds: Making) -> None:
    world = worlds()
    client = world.connect().send(GET)
    peer = world.asked()
    peer.read()
    peer.send(OK)
    client.read()
    client.socket.send(GET)  # both arrive in one turn, the request first
    world.loop._serve(world.servers[0].transport, world.servers[0].transport.doRead, True)
    peer.finish()
    second = world.asked()
    assert second.read().startswith(b"GET /x")
    second.send(OK)
    assert (client.read(), world.idle, world.peers[0].down_until) == (OK, [1], float("-inf"))


@pytest.mark.parametrize("ask", [POST, EMPTY_POST, b"QUERY" + GET[3:]])
def test_what_is_not_idempotent_is_asked_once(worlds: Making, ask: bytes) -> None:
    world = worlds(peers=2)
    client = world.connect().send(ask)
    peer = world.asked()
    peer.read()
    peer.finish()
    assert statuses_of(client.read()) == [502]
    assert not world.is_asked(0)
    assert not world.is_asked(1)


@pytest.mark.parametrize("how", ["finish", "reset"])
@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"OPTIONS", b"DELETE", b"PUT"])
def test_what_is_idempotent_goes_to_the_other_peer_if_nothing_came_back(
    worlds: Making, method: bytes, how: str
) -> None:
    world = worlds(peers=2)
    client = world.connect().send(method + GET[3:])
    peer = world.asked(0)
    peer.read()
    getattr(peer, how)()
    world.asked(1).send(OK if method != b"HEAD" else OK[:-2])
    assert statuses_of(client.read()) == [200]
    assert world.open == [0, 0]


@pytest.mark.parametrize("part", [b"H", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"])
def test_once_something_came_back_there_is_no_second_time(worlds: Making, part: bytes) -> None:
    world = worlds(peers=2)
    client = world.connect().send(GET)
    world.asked(0).send(part).finish()
    assert statuses_of(client.read())[-1] == 502
    assert not world.is_asked(1)


def test_a_body_that_was_sent_is_not_sent_again(worlds: Making) -> None:
    world = worlds(peers=2)
    client = world.connect().send(POST.replace(b"POST", b"PUT"))
    world.asked(0).finish()
    assert statuses_of(client.read()) == [502]
    assert not world.is_asked(1)


def test_after_so_many_tries_it_is_over(worlds: Making) -> None:
    world = worlds(peers=4, retries=2)
    client = world.connect().send(GET)
    for number in range(3):
        world.asked(number).finish()
    assert statuses_of(client.read()) == [502]
    assert not world.is_asked(3)
    assert world.open == [0] * 4


def test_a_peer_that_refuses_is_passed_over_whatever_the_method(worlds: Making) -> None:
    world = worlds(peers=2)
    world.listening[0].close()
    client = world.connect().send(POST)
    peer = world.asked(1)
    assert body_of(peer.read()) == b"hi"
    peer.send(OK)
    assert (client.read(), world.open) == (OK, [0, 0])


def test_with_all_peers_gone_the_client_is_told(worlds: Making) -> None:
    world = worlds(peers=2)
    for listening in world.listening:
        listening.close()
    client = world.connect().send(GET + GET)
    assert statuses_of(client.read()) == [503, 503]
    assert world.open == [0, 0]


def test_a_peer_that_takes_too_long_is_given_up(worlds: Making) -> None:
    world = worlds(response_timeout=20.0)
    client = world.connect().send(GET)
    peer = world.asked()
    world.wait(19)
    assert client.read() == b""
    world.wait(1 + SLACK)
    assert statuses_of(client.read()) == [504]
    assert peer.read().endswith(b"<reset>")
    client.send(GET)
    world.asked().send(OK)
    assert client.read() == OK


# -- peers that misbehave: the client gets a 502, and the connection is not used again

AMBIGUOUS = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
    b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
    b"HTTP/1.1 200 OK\r\nA : b\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/2 200\r\n\r\n",
    b"ok\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n" * 17 + OK,
]


@pytest.mark.parametrize("reply", AMBIGUOUS)
def test_an_ambiguous_answer_is_a_bad_one(worlds: Making, reply: bytes) -> None:
    world = worlds(peers=1)
    client = world.connect().send(GET)
    peer = world.asked()
    peer.read()
    peer.send(reply)
    got = client.read()
    assert [status for status in statuses_of(got) if status != 100] == [502]
    assert (peer.read(), world.idle, world.open) == (b"<reset>", [0], [0])
    client.send(GET)
    world.asked().send(OK)
    assert client.read() == OK


@pytest.mark.parametrize(
    "reply",
    [
        OK + OK.replace(b"ok", b"no"),
        OK + b"\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\nbody",
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\nbody",
        OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"),
        OK.replace(b"1.1", b"1.0", 1),
    ],
)
def test_after_more_than_one_answer_the_connection_is_not_kept(worlds: Making, reply: bytes) -> None:
    world = worlds()
    client = world.connect().send(GET)
    world.asked().send(reply)
    assert len(statuses_of(client.read())) == 1
    assert world.idle == [0]
    client.send(GET)
    world.asked().send(OK)
    assert client.read() == OK


def test_whatever_a_peer_says_unasked_ends_its_connection(worlds: Making) -> None:
    world = worlds()
    client = world.connect().send(GET)
    peer = world.asked()
    peer.send(OK)
    client.read()
    peer.send(OK.replace(b"ok", b"no"))
    assert world.idle == [0]
    client.send(GET)
    world.asked().send(OK)
    assert client.read() == OK


# -- clients that leave


@pytest.mark.parametrize(
    "phase",
    ["before the peer accepts", "waiting", "inside the body", "inside the response", "inside the next head"],
)
def test_a_client_that_is_reset_leaves_nothing_behind(worlds: Making, phase: str) -> None:
    world = worlds()
    client = world.connect()
    if phase == "before the peer accepts":
        client.socket.send(GET)
        client.reset()
    elif phase == "inside the body":
        client.send(FORM % 10 + b"x")
        peer = world.asked()
        client.reset()
        assert peer.read().endswith(b"<reset>")
    else:
        client.send(GET)
        peer = world.asked()
        peer.read()
        if phase == "inside the response":
            peer.send(answer(b"part", length=100))
        if phase == "inside the next head":
            peer.send(OK)
            client.send(GET[:10])
        client.reset()
        assert (peer.read() == b"<reset>") is (phase != "inside the next head")
    assert (world.open, len(world.connections)) == ([0], 0)
    assert world.idle == ([1] if phase == "inside the next head" else [0])


def test_a_client_that_leaves_while_a_peer_is_looked_for_ends_the_search(worlds: Making) -> None:
    world = worlds()
    world.peers[0].endpoint = Never()
    client = world.connect().send(GET)
    assert world.open == [1]
    client.reset()
    assert (world.open, len(world.connections)) == ([0], 0)
    assert world.answers.lines == [(499, "client_left", 0)]


# -- CONNECT


CONNECT = b"CONNECT far.test:443 HTTP/1.1\r\nHost: far.test:443\r\n\r\n"


def sites_of_default(site: Site) -> Sites:
    return Sites({}, {}, site)


def test_an_app_that_wants_connect_gets_it_and_a_tunnel_behind_it(worlds: Making) -> None:
    world = worlds(allow_connect=True, sites=sites_of_default)
    client = world.connect().send(CONNECT)
    peer = world.asked()
    line, fields = head_of(peer.read())
    assert (line, fields[b"host"]) == (b"CONNECT far.test:443 HTTP/1.1", b"a")
    peer.send(b"HTTP/1.1 200 Established\r\nContent-Length: 0\r\n\r\n", b"welcome")
    assert client.read() == b"HTTP/1.1 200 Established\r\n\r\nwelcome"
    client.send(b"GET / is not read here")
    assert peer.read().endswith(b"GET / is not read here")


def test_a_connect_that_the_peer_refuses_is_an_ordinary_answer(worlds: Making) -> None:
    world = worlds(allow_connect=True, sites=sites_of_default)
    client = world.connect().send(CONNECT + GET)
    world.asked().send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
    assert statuses_of(client.read())[0] == 403


def test_other_apps_refuse_it_and_read_nothing_behind_it(worlds: Making) -> None:
    world = worlds(sites=sites_of_default)
    client = world.connect().send(CONNECT + GET)
    assert (statuses_of(client.read()), client.open) == ([405], False)


def test_nothing_is_read_behind_a_connect_that_the_peer_refuses(worlds: Making) -> None:
    """A client that believes in its tunnel sends what it likes into it, and that is nobody's request."""
    world = worlds(allow_connect=True, sites=sites_of_default)
    client = world.connect().send(CONNECT + GET)
    world.asked().send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
    assert (statuses_of(client.read()), client.open) == ([403], False)
    assert [line.status for line in world.answers.lines] == [403]
    assert world.open == [0]


def test_a_connect_that_the_peer_refuses_takes_its_connection_with_it(worlds: Making) -> None:
    world = worlds(allow_connect=True, sites=sites_of_default)
    client = world.connect().send(CONNECT)
    world.asked().send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
    got = client.read()
    assert got.endswith(b"no<end>")
    assert b"\r\nConnection: close\r\n" in got
