"""Our TLS layer against Twisted's own: the same bytes and the same calls, however the stream is cut."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from OpenSSL import SSL
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from rproxy.deadlines import Deadlines
from rproxy.keypair import KeyPair
from rproxy.services.certificates import server_context
from rproxy.tls import MOST_ANSWERS, TLSTransport
from tests.tlspeers import MemoryClient, Pipe, Sealing, converse, make, trusting_nobody


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> SSL.Context:
    pair: KeyPair = make("example.org").pair(tmp_path_factory.mktemp("tls"), "a")
    return server_context("app", (pair,), ())


class Remembering(Protocol):
    """Writes down its calls; answers each piece with as many bytes as the piece says, `x` closes."""

    transport: Any

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def connectionMade(self) -> None:
        self.calls.append("made")
        self.transport.write(b"welcome")

    def dataReceived(self, data: bytes) -> None:
        self.calls.append(data)
        for word in data.split():
            if word == b"x":
                self.transport.loseConnection()
            else:
                self.transport.write(b"z" * int(word))

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self.calls.append(reason.type)


def ours(context: SSL.Context, inner: Protocol) -> Any:
    connection = SSL.Connection(context)
    connection.set_accept_state()
    return TLSTransport(inner, connection, Deadlines(Clock()), 10)


def theirs(context: SSL.Context, inner: Protocol) -> Any:
    @implementer(IOpenSSLServerConnectionCreator)
    class Creator:
        def serverConnectionForTLS(self, protocol: Any) -> SSL.Connection:
            return SSL.Connection(context)

    factory = Factory()
    factory.buildProtocol = lambda addr: inner  # type: ignore[method-assign,assignment]
    wrapping = TLSMemoryBIOFactory(Creator(), False, factory, Clock())  # type: ignore[arg-type]
    wrapping.protocol = TLSMemoryBIOProtocol
    return wrapping.buildProtocol(None)


def played(build: Any, context: SSL.Context, says: list[bytes], cut: int) -> tuple[list[Any], bytes, bool]:
    """What the inner protocol saw, what the client got, and whether it saw a clean end."""
    inner, client, pipe = Remembering(), MemoryClient(), Pipe()
    server = build(context, inner)
    server.makeConnection(pipe)

    def pieces(octets: bytes) -> Iterable[bytes]:
        return [octets[at : at + cut] for at in range(0, len(octets), cut)]

    converse(client, server, pipe, pieces)
    for said in says:
        for piece in pieces(client.send(said)):
            server.dataReceived(piece)
        converse(client, server, pipe, pieces)
    closed = client.closed
    if closed:
        server.dataReceived(client.goodbye())
    server.connectionLost(Failure(ConnectionDone()))
    return inner.calls, client.got, closed


SAYS = st.lists(st.one_of(st.integers(1, 70000).map(lambda n: b"%d " % n), st.just(b"x ")), max_size=6)


@settings(max_examples=40, deadline=None)
@given(says=SAYS, cut=st.sampled_from([1, 7, 100, 16384, 65536]))
def test_it_does_what_twisteds_does(context: SSL.Context, says: list[bytes], cut: int) -> None:
    assert played(ours, context, says, cut) == played(theirs, context, says, cut)


def test_the_socket_is_asked_for_its_address_below() -> None:
    class Below(Pipe):
        def getHandle(self) -> str:
            return "the socket"

    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    server = ours(context, Remembering())
    server.makeConnection(Below())
    assert server.getHandle() == "the socket"


class Pulled:
    """Gives something whenever it is asked."""

    def __init__(self, transport: Any) -> None:
        self.transport = transport

    def resumeProducing(self) -> None:
        self.transport.write(b"y")

    def stopProducing(self) -> None: ...


class Closing(Pipe):
    """A transport that can be closed without another turn of the loop."""

    closed = False

    def close(self) -> None:
        assert not self.closed
        self.closed = True


@pytest.mark.parametrize("ours_first", [True, False])
def test_behind_both_goodbyes_the_transport_is_closed_at_once(context: SSL.Context, ours_first: bool) -> None:
    client, pipe = MemoryClient(), Closing()
    server = ours(context, Remembering())
    server.makeConnection(pipe)
    converse(client, server, pipe, lambda octets: [octets])
    if ours_first:
        server.loseConnection()
        client.take(pipe.value())
    assert (client.closed, pipe.closed, pipe.disconnecting) == (ours_first, False, False)
    server.dataReceived(client.goodbye())
    assert (pipe.closed, pipe.disconnecting) == (True, False)


def test_a_client_may_say_goodbye_while_a_producer_is_pulled(context: SSL.Context) -> None:
    inner, client, pipe = Remembering(), MemoryClient(), Pipe()
    server = ours(context, inner)
    server.makeConnection(pipe)
    converse(client, server, pipe, lambda octets: [octets])
    server.registerProducer(Pulled(server), False)
    server.dataReceived(client.goodbye())
    assert (pipe.disconnecting, pipe.producer) == (True, None)
    server.connectionLost(Failure(ConnectionDone()))
    assert inner.calls == ["made", ConnectionDone]


def second_parts(record: bytes, overhead: int) -> Iterable[tuple[int, int]]:
    """Where to cut a record, and how much to say behind it, so that both together look like one record."""
    for at in range(5, len(record) - 5):
        said = int.from_bytes(record[at + 3 : at + 5], "big") + 5 - (len(record) - at) - overhead
        if 0 < said <= 16384:
            yield at, said


def test_a_part_of_a_record_that_looks_like_a_whole_one_hides_nothing_behind_it(context: SSL.Context) -> None:
    """Two bytes of the ciphertext say what a header would: the length of all that came in this read."""
    inner, client, pipe = Remembering(), MemoryClient(), Pipe()
    server = ours(context, inner)
    server.makeConnection(pipe)
    converse(client, server, pipe, lambda octets: [octets])
    short = client.send(b" ")
    server.dataReceived(short)
    first = client.send(b" " * 16384)
    at, said = next(iter(second_parts(first, len(short) - 1)))
    server.dataReceived(first[:at])
    second = client.send(b" " * said)
    both = first[at:] + second
    assert len(both) == 5 + int.from_bytes(both[3:5], "big")
    server.dataReceived(both)
    assert [len(call) for call in inner.calls[1:]] == [1, 16384, said]


def sealing(context: SSL.Context, pipe: Pipe, keys: Path) -> tuple[Any, Protocol, Sealing]:
    """A server whose protocol says nothing, behind the handshake, and what its client would send."""
    asking = trusting_nobody()
    asking.keylog_filename = str(keys)
    inner, client = Silent(), MemoryClient(context=asking)
    server = ours(context, inner)
    server.makeConnection(pipe)
    converse(client, server, pipe, lambda octets: [octets])
    return server, inner, Sealing(client, keys)


class Silent(Protocol):
    octets = b""

    def dataReceived(self, data: bytes) -> None:
        self.octets += data


@pytest.mark.parametrize("behind", [1, 2, 5])
def test_what_is_asked_ahead_of_the_last_record_is_answered(
    context: SSL.Context, tmp_path: Path, behind: int
) -> None:
    """Else answers would wait for us to say something, and a client that only sends could pile them up."""
    pipe = Pipe()
    server, inner, client = sealing(context, pipe, tmp_path / "keys")
    for number in range(1, 5):
        asked = client.new_keys() + client.new_keys()  # OpenSSL answers when it is called again
        server.dataReceived(asked + b"".join(client.said(b"x") for _ in range(behind)))
        assert inner.octets == b"x" * number * behind  # type: ignore[attr-defined]
        assert pipe.value() != b""
        pipe.clear()
    server.dataReceived(client.said(b"y"))
    pipe.clear()
    server.dataReceived(client.said(b"y"))
    assert pipe.value() == b"", "there was nothing to answer"


@pytest.mark.parametrize("behind", [b"", b"x"])
def test_a_client_that_makes_us_answer_on_and_on_is_cut_off(
    context: SSL.Context, tmp_path: Path, behind: bytes
) -> None:
    class Full(Pipe):
        _tempDataLen = 0

        def write(self, data: bytes) -> None:
            super().write(data)
            self._tempDataLen += len(data)

    pipe = Full()
    server, _, client = sealing(context, pipe, tmp_path / "keys")
    pipe._tempDataLen = MOST_ANSWERS
    server.dataReceived(client.said(b"as much as it likes" * 500))
    assert not pipe.aborted, "it has made us say nothing"
    server.dataReceived(client.new_keys() + client.new_keys() + (client.said(behind) if behind else b""))
    assert pipe.aborted
