"""The pump loses no byte and delivers none out of order, whatever the sockets and splice(2) do."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import socket
import termios
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest_twisted import async_yield_fixture
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from zope.interface import implementer

from rproxy.native.sockets import CHUNK
from rproxy.splice import BULK, IDLE_PIPES, PIPE_SIZE, Pipe, Pipes, Pump
from rproxy.transports import Accepted
from tests.fakes import Loop, Unreliable, open_files

real_splice = os.splice


def content(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


class WatchedPipes(Pipes):
    """Pipes that may only come back empty."""

    def __init__(self) -> None:
        super().__init__()
        self.taken = self.returned = self.dropped = 0

    def take(self) -> Pipe | None:
        self.taken += 1
        return super().take()

    def give_back(self, pipe: Pipe) -> None:
        assert unread(pipe) == 0
        self.returned += 1
        super().give_back(pipe)

    def drop(self, pipe: Pipe) -> None:
        self.dropped += 1
        super().drop(pipe)


class RarePipes(WatchedPipes):
    """Sometimes there is none."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.rng = random.Random(seed)

    def take(self) -> Pipe | None:
        return super().take() if self.rng.random() < 0.6 else None


def unread(pipe: Pipe) -> int:
    return int.from_bytes(fcntl.ioctl(pipe[0], termios.FIONREAD, bytes(4)), "little")


@implementer(IHalfCloseableProtocol)
class Side(Protocol):
    """What a relay does at the ends, and no more."""

    far: Any

    def __init__(self, line: Line) -> None:
        self.line = line
        self.lost = False

    def dataReceived(self, data: bytes) -> None:
        raise AssertionError("the bytes went through the protocol")

    def readConnectionLost(self) -> None:
        if self is self.line.source.protocol:
            self.line.sink.unregisterProducer()
            self.line.sink.loseWriteConnection()

    def writeConnectionLost(self) -> None:
        pass

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self.lost = True
        self.line.pump.stop()
        far = self.line.sink if self.transport is self.line.source else self.line.source
        far.unregisterProducer()
        far.loseConnection()


class Line:
    """client -> source, pump, sink -> server: one direction over real sockets."""

    def __init__(self, seed: int | None = None, pipes: Pipes | None = None) -> None:
        self.loop = Loop()
        self.pipes = WatchedPipes() if pipes is None else pipes
        self.client, ours = socket.socketpair()
        theirs, self.server = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        self.sockets = [self._perhaps_bad(end, seed) for end in (ours, theirs)]
        self.source, self.sink = (self._transport(end) for end in self.sockets)
        self.pump = Pump(self.source, self.sink, self.pipes)
        self.client.setblocking(False)
        self.server.setblocking(False)
        self.got = bytearray()
        self.ended = False

    def _perhaps_bad(self, end: socket.socket, seed: int | None) -> Any:
        return end if seed is None else Unreliable(end, random.Random(seed))

    def _transport(self, end: Any) -> Any:
        side = Side(self)
        transport = Accepted(end, side, ("127.0.0.1", 1), None, 0, self.loop)
        side.makeConnection(transport)
        return transport

    def offer(self, octets: memoryview) -> memoryview:
        """As much as the client's socket takes; half-closes when that was all."""
        try:
            octets = octets[self.client.send(octets) :] if octets else octets
        except OSError:
            return octets
        if not octets:
            self.client.shutdown(socket.SHUT_WR)
        return octets

    def collect(self, size: int = 1 << 20) -> None:
        try:
            octets = self.server.recv(size)
        except BlockingIOError:
            return
        except ConnectionError:
            octets = b""
        self.got += octets
        self.ended = not octets

    def carry(self, octets: bytes, read_size: int = 1 << 20) -> bytes:
        """What the server has when its end of input comes."""
        left, closed = memoryview(octets), False
        for _ in range(20000):
            if not closed:
                left = self.offer(left)
                closed = not left
            self.loop.spin(3)
            self.collect(read_size)
            if self.ended:
                return bytes(self.got)
        raise AssertionError(f"stuck at {len(self.got)} of {len(octets)}")

    def close(self) -> None:
        self.pump.stop()
        self.pipes.close()
        for sock in (self.client, self.server, *self.sockets):
            sock.close()


@async_yield_fixture()  # type: ignore[untyped-decorator]
async def line() -> Any:
    files = open_files()
    line = Line()
    yield line
    line.close()
    assert open_files() <= files


class BadSplice:
    """os.splice as bad as it may be: nothing now, short counts, and a failure when told."""

    def __init__(self, seed: int, fail_at: float = float("inf"), code: int = errno.ECONNRESET) -> None:
        self.rng, self.fail_at, self.code = random.Random(seed), fail_at, code

    def __call__(self, source: int, sink: int, count: int, flags: int = 0) -> int:
        self.fail_at -= 1
        if self.fail_at < 0:
            raise OSError(self.code, os.strerror(self.code))
        if self.rng.random() < 0.3:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        return real_splice(
            source, sink, min(count, self.rng.choice((1, 9, 5000, 70000, PIPE_SIZE))), flags=flags
        )


@pytest.mark.parametrize("size", [0, 1, 1000, CHUNK - 1, CHUNK, CHUNK + 1, 3 * BULK, 5_000_000])
def test_every_byte_arrives_in_order_and_then_the_end(line: Line, size: int) -> None:
    assert line.carry(content(size)) == content(size)
    assert line.pump.moved == size
    assert line.sink.producer is None


@pytest.mark.parametrize("read_size", [4096, 200_000])
def test_a_slow_reader_gets_the_same(line: Line, read_size: int) -> None:
    assert line.carry(content(2_000_000), read_size) == content(2_000_000)


def test_short_connections_are_not_spliced(line: Line) -> None:
    with mock.patch("os.splice", side_effect=AssertionError):
        assert line.carry(content(BULK - 1)) == content(BULK - 1)
    assert line.pipes.taken == 0


def test_bulk_goes_through_the_pipe(line: Line) -> None:
    with mock.patch.object(Pump, "_copy", autospec=True, side_effect=Pump._copy) as copy:
        line.pump.stop()
        line.pump = Pump(line.source, line.sink, line.pipes)
        line.carry(content(10_000_000))
    assert line.pipes.returned > 0
    assert copy.call_count < 60, "a megabyte per splice, not a chunk per copy"


@given(st.integers(0, 2**32), st.integers(0, 600_000))
def test_faults_of_sockets_and_splice_lose_nothing(seed: int, size: int) -> None:
    line, octets = Line(seed, RarePipes(seed)), content(size, seed)
    try:
        with mock.patch("os.splice", BadSplice(seed)):
            assert line.carry(octets, read_size=30_000) == octets
        assert line.pump.moved == size
    finally:
        line.close()


@given(
    st.integers(0, 2**32),
    st.integers(70_000, 600_000),
    st.integers(0, 60),
    st.sampled_from(["source", "sink", "splice"]),
)
def test_a_loss_delivers_a_prefix_ends_both_sides_and_leaks_nothing(
    seed: int, size: int, at: int, where: str
) -> None:
    files = open_files()
    line, octets = Line(seed), content(size, seed)
    if where != "splice":
        line.sockets[where == "sink"].break_after = at
    try:
        with mock.patch("os.splice", BadSplice(seed, at if where == "splice" else float("inf"))):
            got = line.carry(octets)
        assert octets.startswith(got)
        line.loop.spin()
        line.client.close()
        line.loop.spin()
        assert (line.pump._pipe, line.loop.getDelayedCalls()) == (None, [])
    finally:
        line.close()
    assert open_files() <= files


def fill(line: Line) -> None:
    """Send without anybody reading, until nothing moves."""
    octets, still = memoryview(content(8_000_000)), 0
    while still < 20:
        before = len(octets)
        try:
            octets = octets[line.client.send(octets) :]
        except BlockingIOError:
            pass
        line.loop.spin(3)
        still = still + 1 if len(octets) == before else 0
    assert octets


@pytest.mark.parametrize("without", ["", "pipes"])
def test_nobody_reading_stops_the_source_and_bounds_what_is_held(line: Line, without: str) -> None:
    if without:
        line.pipes.take = lambda: None  # type: ignore[method-assign]
    fill(line)
    assert line.source not in line.loop.readers
    buffered = len(line.sink.dataBuffer) + line.sink._tempDataLen
    assert buffered <= 3 * CHUNK
    assert line.pump._held <= PIPE_SIZE
    assert bool(without) == (line.pump._pipe is None)


@pytest.mark.parametrize("without", ["", "pipes"])
def test_and_reading_again_delivers_all_of_it(line: Line, without: str) -> None:
    if without:
        line.pipes.take = lambda: None  # type: ignore[method-assign]
    fill(line)
    line.client.shutdown(socket.SHUT_WR)
    while not line.ended:
        line.collect()
        line.loop.spin(3)
    assert content(8_000_000).startswith(bytes(line.got))
    assert len(line.got) == line.pump.moved


def test_stopping_closes_a_pipe_that_holds_bytes(line: Line) -> None:
    fill(line)
    assert line.pump._pipe is not None
    files, returned = open_files(), line.pipes.returned
    line.pump.stop()
    line.pump.stop()
    assert (line.pipes.returned, line.pipes.dropped) == (returned, 1)
    assert len(files - open_files()) == 2
    assert (line.source.reads, line.sink.writes) == (None, None)


@pytest.mark.parametrize("end", ["source", "sink"])
def test_aborting_while_the_pipe_holds_bytes_leaves_nothing(line: Line, end: str) -> None:
    fill(line)
    getattr(line, end).abortConnection()
    line.loop.spin()
    line.collect()
    line.server.close()
    line.loop.spin()
    assert (line.loop.readers, line.loop.writers) == (set(), set())
    assert line.pump._pipe is None


def test_pipes_are_used_again() -> None:
    pipes = Pipes()
    first = pipes.take()
    assert first is not None
    pipes.give_back(first)
    assert pipes.take() == first
    pipes.drop(first)


def test_only_so_many_idle_pipes_are_kept() -> None:
    files, pipes = open_files(), Pipes()
    taken = [pipe for _ in range(IDLE_PIPES + 5) if (pipe := pipes.take())]
    for pipe in taken:
        pipes.give_back(pipe)
    assert len(open_files() - files) == 2 * IDLE_PIPES
    pipes.close()
    assert open_files() <= files


def test_a_pipe_holds_as_much_as_one_turn_moves() -> None:
    pipes = Pipes()
    pipe = pipes.take()
    assert pipe is not None
    assert fcntl.fcntl(pipe[1], fcntl.F_GETPIPE_SZ) >= PIPE_SIZE
    pipes.drop(pipe)


@pytest.fixture(params=["os.pipe2", "fcntl.fcntl"])
def no_pipes(request: Any) -> Iterator[None]:
    with mock.patch(request.param, side_effect=OSError(errno.EMFILE, "full")):
        yield


@pytest.mark.usefixtures("no_pipes")
def test_where_no_pipe_is_to_be_had_the_bytes_are_copied() -> None:
    files = open_files()
    line = Line()
    assert line.pipes.take() is None
    assert line.carry(content(1_000_000)) == content(1_000_000)
    line.close()
    assert open_files() <= files


@given(st.integers(0, 2**32), st.integers(1, 300_000), st.integers(0, 100_000))
def test_a_limit_is_kept_to_the_byte_and_its_end_told_once(seed: int, limit: int, more: int) -> None:
    """As for a body of known length, behind which the next request may wait."""
    line, octets, ends = Line(seed, RarePipes(seed)), content(limit + more, seed), []
    line.pump.stop()
    line.pump = Pump(line.source, line.sink, line.pipes, limit, lambda: ends.append(line.pump.moved))
    left = memoryview(octets)
    try:
        with mock.patch("os.splice", BadSplice(seed)):
            while len(line.got) < limit or not ends:
                left = line.offer(left) if left else left
                if not ends:
                    line.loop.spin(1)
                else:
                    line.sink.unregisterProducer()  # or the pump has the source read when the sink is empty
                    line.source.stopReading()
                    line.loop.spin(3)
                line.collect(20_000)
        assert (bytes(line.got), ends, line.pump.moved) == (octets[:limit], [limit], limit)
        assert (line.source.reads, line.sink.writes) == (None, None)
    finally:
        line.close()


def test_a_close_that_waits_for_the_pipe_still_comes(line: Line) -> None:
    """It waits for word that the sink takes more, which the pump must not take away."""
    fill(line)
    assert line.pump.held
    line.sink.unregisterProducer()
    line.sink.loseConnection()
    for _ in range(2000):
        line.collect()
        line.loop.spin()
        if line.ended:
            break
    assert line.ended


def test_a_lost_sink_leaves_the_end_of_the_source_to_who_knows_why(line: Line) -> None:
    """Its protocol tells a reset from a goodbye; a producer's `stopProducing` cannot."""
    line.pipes.take = lambda: None  # type: ignore[method-assign]
    fill(line)
    assert line.sink.producer is not None
    line.sink.producer.stopProducing()
    assert not line.source.disconnecting
