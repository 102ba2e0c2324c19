"""Connections to peers: kept, taken up again, closed when old; what is told to whoever asks."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from rproxy.errors import PeerUnreachable, Refusal
from rproxy.relay import End
from rproxy.upstream.http_client import KEEP_IDLE, Asking, HttpClient, HttpPeer
from rproxy.wire.message import Fields, Response, bare_request

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
HEAD = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


class Asker(Asking):
    """Implements `http_client.Asking` by remembering."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.leaves: HttpClient | None = None

    def interim(self, response: Response) -> None:
        self.told.append(response.status)

    def response(self, response: Response) -> None:
        self.told.append(response.status)

    def piece(self, piece: Any) -> None:
        self.told.append(bytes(piece))
        if self.leaves is not None:
            self.leaves.close()

    def response_end(self, trailers: Any) -> None:
        self.told.append("end" if trailers is None else list(trailers.pairs))

    def flush(self) -> None:
        self.told.append("flush")

    def broken(self, refusal: Refusal, silent: bool) -> None:
        self.told.append((type(refusal).__name__, silent))

    def upstream_full(self) -> None:
        self.told.append("full")

    def upstream_ready(self) -> None:
        self.told.append("ready")


class Setup:
    def __init__(self, keep: int = 2) -> None:
        self.clock = Clock()
        self.peer = HttpPeer("p", authority=b"p", keep=keep, fixed=[(socket.AF_INET, ("127.0.0.1", 1))])

    def connect(self) -> HttpClient:
        made: list[HttpClient] = []
        client: Any = self.peer.protocol(self.clock, made.append)
        client.makeConnection(StringTransport())
        assert made == [client]
        return made[0]

    def ask(self, client: HttpClient, upgrade: bool = False, more: bool = False) -> Asker:
        asker = Asker()
        request = bare_request(b"GET", b"/")
        client.ask(asker, request, b"/", Fields([(b"Host", b"a")]), upgrade, more)
        return asker

    def kept(self) -> HttpClient:
        """A connection that waits for the next request."""
        client = self.connect()
        self.ask(client)
        client.dataReceived(OK)
        assert client in self.peer.idle
        return client


def gone(client: HttpClient) -> bool:
    return bool(client.transport.disconnecting or client.transport.disconnected)


def test_a_response_is_told_in_order_and_the_connection_kept() -> None:
    it = Setup()
    client = it.connect()
    asker = it.ask(client)
    assert client.transport.value() == HEAD
    client.dataReceived(b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK[:-1])
    assert asker.told == [103, 200, b"o", "flush"]
    client.dataReceived(OK[-1:])
    assert asker.told[4:] == [b"k", "end", "flush"]
    assert it.peer.take_idle() is client
    assert it.peer.take_idle() is None


def test_it_is_used_from_its_first_answer_on() -> None:
    it = Setup()
    client = it.connect()
    assert not client.used
    it.ask(client)
    client.dataReceived(OK)
    assert client.used


def test_the_one_used_last_is_taken_first() -> None:
    it = Setup()
    first, second = it.connect(), it.connect()
    for client in (first, second):
        it.ask(client)
        client.dataReceived(OK)
    assert it.peer.take_idle() is second


def test_no_more_than_so_many_are_kept() -> None:
    it = Setup(keep=2)
    clients = [it.connect() for _ in range(3)]
    for client in clients:
        it.ask(client)
        client.dataReceived(OK)
    assert it.peer.idle == clients[:2]
    assert gone(clients[2])


def test_none_is_kept_if_none_may_be() -> None:
    it = Setup(keep=0)
    client = it.connect()
    it.ask(client)
    client.dataReceived(OK)
    assert (it.peer.idle, gone(client)) == ([], True)
    assert it.clock.getDelayedCalls() == []


def test_idle_ones_are_closed_in_time_and_young_ones_stay() -> None:
    it = Setup()
    old = it.kept()
    it.clock.advance(KEEP_IDLE * 0.75)
    young = it.connect()
    it.ask(young)
    young.dataReceived(OK)
    it.clock.pump([KEEP_IDLE / 4] * 2)
    assert (gone(old), gone(young), it.peer.idle) == (True, False, [young])
    it.clock.pump([KEEP_IDLE / 4] * 5)
    assert (gone(young), it.peer.idle, it.clock.getDelayedCalls()) == (True, [], [])


def test_one_that_is_used_is_never_swept() -> None:
    it = Setup()
    client = it.kept()
    taken = it.peer.take_idle()
    assert taken is client
    it.ask(client)
    it.clock.pump([KEEP_IDLE] * 3)
    assert not gone(client)


def test_what_comes_unasked_closes() -> None:
    it = Setup()
    client = it.kept()
    client.dataReceived(OK)
    assert (it.peer.idle, gone(client)) == ([], True)


@pytest.mark.parametrize("reason", [ConnectionDone(), ConnectionLost()])
def test_a_kept_one_that_is_lost_is_forgotten(reason: Exception) -> None:
    it = Setup()
    it.kept().connectionLost(Failure(reason))
    assert it.peer.idle == []


def test_a_kept_one_whose_peer_closes_is_forgotten() -> None:
    it = Setup()
    client = it.kept()
    client.readConnectionLost()
    assert (it.peer.idle, gone(client)) == ([], True)


def test_not_kept_while_the_request_is_incomplete() -> None:
    it = Setup()
    client = it.connect()
    asker = it.ask(client, more=True)
    client.dataReceived(OK)
    assert (asker.told[-2:], it.peer.idle, gone(client)) == (["end", "flush"], [], True)


def test_kept_when_the_request_ended_first() -> None:
    it = Setup()
    client = it.connect()
    it.ask(client, more=True)
    client.send_piece(b"body")
    client.send_end(None)
    client.dataReceived(OK)
    assert it.peer.idle == [client]


@pytest.mark.parametrize(
    ("got", "silent"),
    [(b"", True), (b"H", False), (b"HTTP/1.1 100 Continue\r\n\r\n", False), (OK[:-1], False)],
)
@pytest.mark.parametrize("how", ["end", "reset"])
def test_an_end_too_early_is_told_with_whether_anything_had_come(got: bytes, silent: bool, how: str) -> None:
    it = Setup()
    client = it.connect()
    asker = it.ask(client)
    if got:
        client.dataReceived(got)
    if how == "end":
        client.readConnectionLost()
    else:
        client.connectionLost(Failure(ConnectionLost()))
    assert asker.told[-1] == ("BadResponse", silent)


def test_why_tls_did_not_come_about_is_told() -> None:
    it = Setup()
    client = it.connect()
    asker = it.ask(client)
    client.connectionLost(Failure(PeerUnreachable("TLS: certificate has expired")))
    assert asker.told == [("PeerUnreachable", True)]


UNTIL_CLOSE = b"HTTP/1.1 200 OK\r\n\r\nall"


@pytest.mark.parametrize("how", ["half", "whole"])
def test_a_body_without_length_ends_with_the_connection(how: str) -> None:
    """TLS has no half-close: there the end of the stream is the end of the connection."""
    it = Setup()
    client = it.connect()
    asker = it.ask(client)
    client.dataReceived(UNTIL_CLOSE)
    if how == "half":
        client.readConnectionLost()
    else:
        client.connectionLost(Failure(ConnectionDone()))
    assert (asker.told, it.peer.idle) == ([200, b"all", "flush", "end", "flush"], [])


def test_a_body_without_length_does_not_end_with_a_reset() -> None:
    it = Setup()
    client = it.connect()
    asker = it.ask(client)
    client.dataReceived(UNTIL_CLOSE)
    client.connectionLost(Failure(ConnectionLost()))
    assert asker.told[-1] == ("BadResponse", False)


def test_whoever_asks_may_leave_in_the_middle_of_being_told() -> None:
    it = Setup()
    client = it.connect()
    asker = it.ask(client)
    asker.leaves = client
    client.dataReceived(OK)
    assert (asker.told, it.peer.idle, gone(client)) == ([200, b"ok"], [], True)


def test_paused_by_one_request_it_is_not_deaf_to_the_next() -> None:
    it = Setup()
    client = it.connect()
    it.ask(client)
    client.pause()
    assert client.transport.producerState == "paused"
    client.dataReceived(OK)
    assert (it.peer.idle, client.transport.producerState) == ([client], "producing")


def test_back_pressure_is_passed_on_to_whoever_asks_and_to_nobody_else() -> None:
    it = Setup()
    client = it.connect()
    asker = it.ask(client)
    client.pauseProducing()
    client.resumeProducing()
    assert asker.told == ["full", "ready"]
    client.dataReceived(OK)
    client.pauseProducing()
    client.resumeProducing()
    assert asker.told[2:] == [200, b"ok", "end", "flush"]


def test_bytes_that_went_by_end_the_response() -> None:
    it = Setup()
    client = it.connect()
    asker = it.ask(client)
    client.dataReceived(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nab")
    assert client.body_left == 8
    client.skip(5)
    assert asker.told[-1] == "flush"
    client.skip(3)
    assert (asker.told[-2:], it.peer.idle) == (["end", "flush"], [client])


def test_after_a_switch_everything_is_the_tunnels() -> None:
    """Over TLS too, where no pump takes the bytes past the protocol."""
    it = Setup()
    client = it.connect()
    asker = it.ask(client, upgrade=True)
    client.dataReceived(
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nhello"
    )
    assert asker.told == [101, "flush"] or asker.told == [101]
    near, far = End(), End()
    near.transport = StringTransport()
    near.far, far.far = far, near
    far.transport = client.transport
    client.tunnel, rest = far, client.detach()
    assert rest == b"hello"
    client.dataReceived(b"more")
    assert near.transport.value() == b"more"


def test_a_peer_that_no_route_leads_to_keeps_nothing() -> None:
    it = Setup()
    client = it.kept()
    it.peer.forget()
    assert (gone(client), it.peer.idle) == (True, [])


def test_a_peer_that_speaks_http2_is_named() -> None:
    it = Setup()
    client = it.connect()
    told: list[str] = []

    class Curious(Asker):
        def broken(self, refusal: Refusal, silent: bool) -> None:
            told.append(str(refusal))

    client.ask(Curious(), bare_request(b"GET", b"/"), b"/", Fields([(b"Host", b"a")]), False, False)
    client.dataReceived(b"\0\0\6\4\0\0\0\0\0\0\3\0\0\0\x64")
    assert "force_http2_upstream" in told[0]
