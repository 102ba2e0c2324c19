"""The eager transports against Twisted's own: the same bytes and the same calls, whatever the socket does."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable, Iterator
from importlib import import_module
from termios import TIOCOUTQ
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import tcp
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.python.failure import Failure

from rproxy.interfaces import Receiver
from rproxy.tls import TLSTransport
from rproxy.transports import Accepted, in_kernel, unacknowledged
from tests.fakes import Loop, Remembering, Unreliable, open_files


class Pair:
    """A transport of some class over one end of a socket pair; the test holds the other end."""

    def __init__(
        self, kind: type[tcp.Server], seed: int | None = None, **on: Callable[[Any], object]
    ) -> None:
        self.loop = Loop()
        ours, self.other = socket.socketpair()
        self.other.setblocking(False)
        self.protocol = Remembering(**on)
        self.got = b""
        self.socket: Any = ours if seed is None else Unreliable(ours, random.Random(seed), 40000)
        place = ("127.0.0.1", 40000)
        self.transport: Any = kind(self.socket, self.protocol, place, None, 0, self.loop)  # type: ignore[arg-type]
        self.protocol.makeConnection(self.transport)

    def read(self) -> bytes:
        """What the other end has received, and whether it has seen the end."""
        while True:
            try:
                octets = self.other.recv(1 << 20)
            except BlockingIOError:
                return self.got
            except ConnectionResetError:
                self.got += b"<reset>"
                return self.got
            if not octets:
                self.got += b"<end>"
                return self.got
            self.got += octets

    def settle(self) -> bytes:
        """Let it run until nothing moves any more."""
        for _ in range(400):
            self.loop.spin(5)
            if self.got.endswith((b"<end>", b"<reset>")) or self.read().endswith((b"<end>", b"<reset>")):
                break
        self.loop.spin()
        return self.got

    def close(self) -> None:
        self.other.close()
        if self.transport.fileno() >= 0:
            self.transport.connectionLost(Failure(ConnectionDone()))


KINDS = [Accepted, tcp.Server]
either = pytest.mark.parametrize("kind", KINDS)
steps = st.lists(st.one_of(st.integers(1, 90000), st.sampled_from(["spin", "read"])), max_size=12)
HALF, SPIN, WHOLE = "loseWriteConnection", "spin", "loseConnection"
# Twisted's transport stumbles when its write side is closed twice; nobody does.
endings = st.sampled_from(
    [[], [HALF], [WHOLE], [SPIN, WHOLE], [HALF, WHOLE], [HALF, SPIN, WHOLE], [HALF, SPIN]]
)


def play(kind: type[tcp.Server], seed: int, script: list[Any], ending: list[str]) -> tuple[Any, ...]:
    pair = Pair(kind, seed)
    try:
        for number, step in enumerate([*script, *ending]):
            if isinstance(step, int):
                pair.transport.write(bytes([number + 65]) * step)
            elif step == SPIN:
                pair.loop.spin(2)
            elif step == "read":
                pair.read()
            else:
                getattr(pair.transport, step)()
        return pair.settle(), pair.protocol.reason, pair.loop.writers, pair.loop.getDelayedCalls()
    finally:
        pair.close()


@given(st.integers(0, 2**32), steps, endings)
def test_the_same_bytes_and_the_same_end_as_twisteds(seed: int, script: list[Any], ending: list[str]) -> None:
    ours, twisteds = play(Accepted, seed, script, ending), play(tcp.Server, seed, script, ending)
    assert ours == twisteds
    sent = b"".join(bytes([n + 65]) * step for n, step in enumerate(script) if isinstance(step, int))
    assert ours[0].removesuffix(b"<end>") == sent


@either
def test_what_the_socket_takes_is_sent_at_once_or_in_the_next_turn(kind: type[tcp.Server]) -> None:
    pair = Pair(kind)
    pair.transport.write(b"now")
    if kind is Accepted:
        assert (pair.read(), pair.loop.writers) == (b"now", set())
    pair.loop.spin()
    assert pair.read() == b"now"
    pair.close()


@either
def test_a_full_socket_pauses_the_producer_and_resumes_it(kind: type[tcp.Server]) -> None:
    class Producer:
        calls: tuple[str, ...] = ()

        def pauseProducing(self) -> None:
            self.calls += ("pause",)

        def resumeProducing(self) -> None:
            self.calls += ("resume",)

        def stopProducing(self) -> None:
            self.calls += ("stop",)

    pair, producer = Pair(kind), Producer()
    pair.transport.registerProducer(producer, True)
    pair.transport.write(b"x" * 4_000_000)
    assert producer.calls == ("pause",)
    while len(pair.read()) < 4_000_000:
        pair.loop.spin(3)
    assert producer.calls == ("pause", "resume")
    pair.close()
    assert producer.calls == ("pause", "resume", "stop")


@either
@pytest.mark.parametrize("octets", [b"", b"x"])
def test_writing_to_a_closed_transport_is_nothing(kind: type[tcp.Server], octets: bytes) -> None:
    pair = Pair(kind)
    pair.transport.loseConnection()
    pair.settle()
    pair.transport.write(octets)
    pair.transport.loseConnection()
    pair.transport.abortConnection()
    pair.loop.spin()
    assert pair.protocol.calls == ["made", "lost"]
    pair.close()


@either
def test_half_closing_sends_what_is_queued_first_and_tells_the_protocol_once(kind: type[tcp.Server]) -> None:
    pair = Pair(kind)
    pair.transport.write(b"x" * 3_000_000)
    pair.transport.loseWriteConnection()
    pair.transport.loseWriteConnection()
    assert pair.settle() == b"x" * 3_000_000 + b"<end>"
    pair.transport.write(b"too late")
    assert pair.protocol.calls == ["made", "write_lost"]
    pair.other.send(b"still reading")
    pair.loop.spin()
    assert pair.protocol.octets == b"still reading"
    pair.close()


@either
def test_a_broken_socket_is_a_lost_connection_and_not_an_exception(kind: type[tcp.Server]) -> None:
    pair = Pair(kind, seed=1)
    pair.socket.break_after = 0
    pair.transport.write(b"x")
    pair.loop.spin()
    assert (pair.protocol.calls, pair.protocol.reason) == (["made", "lost"], ConnectionLost)
    pair.close()


@either
def test_aborting_drops_what_is_queued(kind: type[tcp.Server]) -> None:
    pair = Pair(kind)
    pair.transport.write(b"x" * 3_000_000)
    pair.transport.abortConnection()
    pair.transport.abortConnection()
    assert pair.protocol.calls == ["made"], "not before the next turn"
    pair.loop.spin()
    assert (pair.protocol.calls, pair.protocol.reason) == (["made", "lost"], ConnectionAborted)
    assert len(pair.settle()) < 3_000_000
    pair.close()


@pytest.mark.parametrize("before", ["", "loseWriteConnection"])
def test_close_is_over_when_it_returns(before: str) -> None:
    pair, files = Pair(Accepted), open_files()
    pair.transport.write(b"last words")
    if before:
        getattr(pair.transport, before)()
    pair.transport.close()
    assert (pair.protocol.calls[-1], pair.protocol.reason) == ("lost", ConnectionDone)
    assert len(files - open_files()) == 1
    assert pair.settle() == b"last words<end>"
    assert (pair.loop.readers, pair.loop.writers) == (set(), set())
    pair.close()


def test_close_waits_for_what_is_queued() -> None:
    pair = Pair(Accepted)
    pair.transport.write(b"x" * 3_000_000)
    pair.transport.close()
    assert "lost" not in pair.protocol.calls
    assert pair.settle() == b"x" * 3_000_000 + b"<end>"
    assert pair.protocol.calls == ["made", "lost"]
    pair.close()


@pytest.mark.parametrize("call", ["close", "loseConnection", "abortConnection"])
@pytest.mark.parametrize("within", ["read_lost", "lost", "write_lost"])
def test_closing_from_within_a_call_loses_the_connection_once(call: str, within: str) -> None:
    pair = Pair(Accepted, **{within: lambda transport: getattr(transport, call)()})
    pair.transport.loseWriteConnection()
    pair.other.close()
    pair.loop.spin()
    pair.transport.loseConnection()
    pair.loop.spin()
    assert pair.protocol.calls.count("lost") == 1
    assert (pair.loop.readers, pair.loop.writers) == (set(), set())
    pair.loop.advance(1)
    assert pair.protocol.calls.count("lost") == 1
    pair.close()


def test_close_after_abort_and_abort_after_close_lose_it_once() -> None:
    for calls in (("abortConnection", "close"), ("close", "abortConnection"), ("close", "close")):
        pair = Pair(Accepted)
        for call in calls:
            getattr(pair.transport, call)()
        pair.loop.spin()
        assert pair.protocol.calls == ["made", "lost"]
        pair.close()


def test_an_accepted_transport_says_where_it_is() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.socket() as client:
        client.connect(listening.getsockname())
        accepted, place = listening.accept()
        accepted.setblocking(False)
        transport = Accepted(accepted, Remembering(), place, None, 0, Loop())
        assert transport.getHost() == IPv4Address("TCP", *listening.getsockname())
        assert transport.getPeer() == IPv4Address("TCP", *client.getsockname())
        assert (str(transport), transport.logPrefix()) == ("Accepted", "Accepted")
        accepted.close()


def test_cut_resets_and_is_over_when_it_returns() -> None:
    pair, files = Pair(Accepted), open_files()
    pair.transport.write(b"x" * 3_000_000)
    pair.transport.cut()
    assert (pair.protocol.calls, pair.protocol.reason) == (["made", "lost"], ConnectionAborted)
    assert len(files - open_files()) == 1
    assert (pair.loop.readers, pair.loop.writers) == (set(), set())
    assert len(pair.settle()) < 3_000_000
    pair.close()


@pytest.mark.parametrize(
    "calls", [("cut", "cut"), ("abortConnection", "cut"), ("cut", "close"), ("close", "cut")]
)
def test_cut_beside_other_ends_loses_it_once(calls: tuple[str, str]) -> None:
    pair = Pair(Accepted)
    for call in calls:
        getattr(pair.transport, call)()
    pair.loop.spin()
    assert pair.protocol.calls == ["made", "lost"]
    pair.close()


# -- what has not arrived yet

SIOCOUTQNSD = 0x894B
"""What TCP has not sent; unix sockets do not know the question."""


@pytest.mark.parametrize(("family", "known"), [(socket.AF_INET, True), (socket.AF_UNIX, False)])
def test_the_kernel_is_asked_what_its_socket_knows(family: int, known: bool) -> None:
    near, far = _full(family)
    transport = SimpleNamespace(getHandle=lambda: near)
    assert (in_kernel(transport, SIOCOUTQNSD) > 0) is known
    assert in_kernel(transport, SIOCOUTQNSD, TIOCOUTQ) > 0
    assert in_kernel(transport, TIOCOUTQ) == unacknowledged(transport) >= in_kernel(transport, SIOCOUTQNSD)
    near.close()
    assert in_kernel(transport, SIOCOUTQNSD, TIOCOUTQ) == 0
    far.close()


def _full(family: int) -> tuple[socket.socket, socket.socket]:
    """Two ends, of which the first can send no more."""
    if family == socket.AF_UNIX:
        near, far = socket.socketpair()
    else:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            near = socket.create_connection(listening.getsockname())
            far = listening.accept()[0]
    near.setblocking(False)
    with pytest.raises(BlockingIOError):
        while True:
            near.send(bytes(1 << 20))
    return near, far


@pytest.mark.parametrize("transport", [object(), SimpleNamespace(getHandle=lambda: None)])
def test_what_is_no_socket_has_nothing_in_the_kernel(transport: Any) -> None:
    assert (in_kernel(transport, TIOCOUTQ), unacknowledged(transport)) == (0, 0)


def test_what_waits_with_us_is_not_acknowledged_either() -> None:
    pair = Pair(Accepted)
    pair.transport.write(b"x" * 3_000_000)
    assert pair.transport.unsent > 0
    assert pair.transport.unsent + in_kernel(pair.transport, TIOCOUTQ) == unacknowledged(pair.transport)
    assert len(pair.settle()) == 3_000_000
    pair.close()


def test_a_reset_that_writing_has_heard_of_is_no_end() -> None:
    """The kernel tells of it once; reading finds nothing wrong afterwards."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        other = socket.create_connection(listening.getsockname())
        ours, place = listening.accept()
    ours.setblocking(False)
    loop, protocol = Loop(), Remembering()
    transport: Any = Accepted(ours, protocol, place, None, 0, loop)
    protocol.makeConnection(transport)
    other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    other.close()
    transport.write(b"x")
    loop.spin()
    assert (protocol.calls, protocol.reason) == (["made", "lost"], ConnectionLost)


@pytest.mark.parametrize("streaming", [False, 0])
@either
def test_a_pull_producer_is_asked_once_for_each_time_that_all_is_sent(kind: Any, streaming: Any) -> None:
    class Producer:
        left = 3

        def resumeProducing(self) -> None:
            self.left -= 1
            pair.transport.write(b"x" * 1000)
            if not self.left:
                pair.transport.unregisterProducer()

        def stopProducing(self) -> None:
            raise AssertionError("nothing was lost")

    pair, producer = Pair(kind), Producer()
    pair.transport.registerProducer(producer, streaming)
    pair.loop.spin()
    assert (pair.read(), producer.left) == (b"x" * 3000, 0)
    pair.close()


def kinds(kind: type) -> Iterator[type]:
    for each in kind.__subclasses__():
        yield each
        yield from kinds(each)


def test_every_receiver_says_of_half_closes_what_it_declares() -> None:
    for module in ("tls", "relay", "downstream.peek", "downstream.terminate", "downstream.mutual"):
        import_module(f"rproxy.{module}")
    for module in ("downstream.http_factory", "upstream.http_client", "upstream.http2_client"):
        import_module(f"rproxy.{module}")
    found = set(kinds(Receiver))
    assert {"Peek", "HttpServer", "Http2Server", "Http1Client", "Http2Client", "Downstream", "ByHalves"} <= {
        each.__name__ for each in found
    }
    for each in found:
        says = next(kind for kind in each.__mro__ if "half_closes" in vars(kind))
        assert (says is not TLSTransport) == IHalfCloseableProtocol.implementedBy(each), each
