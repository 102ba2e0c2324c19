"""Receiving and sending in Python and in Cython, over real sockets: the same bytes, ends and errors."""

from __future__ import annotations

import errno
import gc
import os
import random
import resource
import select
import signal
import socket
import struct
import sys
import threading
from array import array
from collections.abc import Callable, Iterator
from fcntl import ioctl
from pathlib import Path
from termios import FIONREAD, TIOCOUTQ
from typing import Any, NamedTuple

import pytest

from tests.e2e.programs import until
from tests.fakes import open_files
from tests.native.twins import Twins, outcome

CHUNK, SEND = 65536, 131072
SIZES = [1, 2, 8191, 8192, 8193, 65535, 65536, 65537, 131071, 131072, 131073, 300_000]
"""Around where the compiled one stops copying, a read's most, and a send's most."""
RESET = struct.pack("ii", 1, 0)
ROOM = 1 << 20
PATIENCE = 20.0


class Pair(NamedTuple):
    """Two ends of a connection, ours without blocking."""

    ours: socket.socket
    theirs: socket.socket

    def close(self) -> None:
        self.ours.close()
        self.theirs.close()


def over_unix() -> Pair:
    return prepared(*socket.socketpair())


def over_tcp() -> Pair:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        theirs = socket.create_connection(listening.getsockname())
        return prepared(listening.accept()[0], theirs)


def prepared(ours: socket.socket, theirs: socket.socket) -> Pair:
    for each in (ours, theirs):
        each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, ROOM)
        each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, ROOM)
    ours.setblocking(False)
    theirs.settimeout(PATIENCE)
    return Pair(ours, theirs)


@pytest.fixture(params=[over_unix, over_tcp], ids=["unix", "tcp"])
def make(request: pytest.FixtureRequest) -> Iterator[Callable[[], Pair]]:
    """Makes pairs that end with the test."""
    made: list[Pair] = []

    def fresh() -> Pair:
        made.append(request.param())
        return made[-1]

    yield fresh
    for pair in made:
        pair.close()


@pytest.fixture
def pair(make: Callable[[], Pair]) -> Pair:
    return make()


def receive(one: Any, pair: Pair) -> bytes | bool | None:
    found: bytes | bool | None = one.receive(pair.ours, pair.ours.fileno())
    return found


def send(one: Any, pair: Pair, content: bytes, start: int = 0) -> int:
    sent: int = one.send(pair.ours, pair.ours.fileno(), content, start)
    return sent


def unread(stream: socket.socket) -> int:
    """Bytes that have arrived and wait."""
    count = array("i", [0])
    ioctl(stream, FIONREAD, count)
    return count[0]


def waits(stream: socket.socket, size: int) -> None:
    """Until so much has arrived; over loopback it mostly has when it is sent."""
    until(lambda: unread(stream) >= size, f"{size} bytes that have arrived")


def arrived(pair: Pair) -> None:
    """Until there is something to read, be it the end."""
    poller = select.poll()
    poller.register(pair.ours, select.POLLIN)
    assert poller.poll(PATIENCE * 1000)


def content(size: int, seed: int = 0) -> bytes:
    return random.Random(size + seed).randbytes(size)


def raised(call: Callable[[], Any]) -> tuple[type, int | None]:
    with pytest.raises(OSError) as caught:
        call()
    return caught.type, caught.value.errno


# -- accepting


class Listening(NamedTuple):
    """A listening socket that does not block, and how to connect to it."""

    socket: socket.socket
    dial: Callable[[], socket.socket]


@pytest.fixture(params=["inet", "inet6", "mapped", "unix", "bound unix"])
def listening(request: pytest.FixtureRequest) -> Iterator[Listening]:
    kind, six = request.param, request.param in ("inet6", "mapped")
    if "unix" in kind:
        made = socket.socket(socket.AF_UNIX)
        made.bind("")  # the kernel finds a name that is in no folder (unix(7), "Autobind feature")
        made.listen()
    else:
        made = socket.create_server(
            ("", 0), family=socket.AF_INET6 if six else socket.AF_INET, dualstack_ipv6=six
        )
    with made:
        made.setblocking(False)
        yield Listening(made, lambda: dialled(made, kind))


def dialled(listening: socket.socket, kind: str) -> socket.socket:
    client = socket.socket(socket.AF_INET if kind == "mapped" else listening.family)
    name = listening.getsockname()
    if kind == "bound unix":
        client.bind("")
    client.connect(name if "unix" in kind else ("::1" if kind == "inet6" else "127.0.0.1", name[1]))
    return client


def test_a_connection_is_accepted_with_the_name_that_the_socket_module_gives(
    one: Any, listening: Listening
) -> None:
    number = listening.socket.fileno()
    assert one.accept(listening.socket, number) is None
    with listening.dial() as client:
        made, name = until(lambda: one.accept(listening.socket, number), "a connection")
        with socket.socket(fileno=made) as accepted:
            assert (name, type(name)) == (accepted.getpeername(), type(accepted.getpeername()))
            assert not os.get_blocking(made)
            assert not os.get_inheritable(made)
            client.sendall(b"x")
            arrived(Pair(accepted, client))
            assert accepted.recv(1) == b"x"
            assert one.accept(listening.socket, number) is None


def test_a_client_that_has_left_is_accepted_or_an_error_and_no_descriptor_is_lost(
    one: Any, listening: Listening
) -> None:
    number, before = listening.socket.fileno(), open_files()
    for linger in (False, True):
        with listening.dial() as client:
            if linger:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        kind, found = outcome(one.accept, listening.socket, number)
        assert kind is tuple or found in (OSError, ConnectionAbortedError)
        if kind is tuple:
            os.close(found[0])
    assert open_files() <= before


def test_what_does_not_listen_accepts_nobody(one: Any, pair: Pair) -> None:
    assert raised(lambda: one.accept(pair.ours, pair.ours.fileno())) == (OSError, errno.EINVAL)
    pair.ours.close()
    assert raised(lambda: one.accept(pair.ours, -1)) == (OSError, errno.EBADF)


def test_without_free_descriptors_nobody_is_accepted_and_nobody_lost(one: Any, listening: Listening) -> None:
    number = listening.socket.fileno()
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with listening.dial():
        highest = max(map(int, os.listdir("/proc/self/fd")))
        fillers = [os.dup(number) for _ in range(highest + 1 - len(os.listdir("/proc/self/fd")) + 5)]
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(fillers) + 1, before[1]))
        try:
            assert raised(lambda: one.accept(listening.socket, number)) == (OSError, errno.EMFILE)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
            for each in fillers:
                os.close(each)
        made, _ = until(lambda: one.accept(listening.socket, number), "a connection")
        os.close(made)


# -- receiving


def test_the_constants_are_the_same(sockets: Twins) -> None:
    for twin in sockets:
        assert (twin.CHUNK, twin.SEND) == (CHUNK, SEND)
        assert sorted(twin.LATER) == sorted((errno.EAGAIN, errno.EINTR, errno.ENOBUFS, errno.ENOMEM))


@pytest.mark.parametrize("size", SIZES)
def test_what_was_sent_is_received_in_pieces_of_the_same_sizes(one: Any, pair: Pair, size: int) -> None:
    sent = content(size)
    pair.theirs.sendall(sent)
    waits(pair.ours, size)
    pieces = []
    while (piece := receive(one, pair)) is not None:
        assert type(piece) is bytes
        pieces.append(piece)
    assert b"".join(pieces) == sent
    assert [len(piece) for piece in pieces] == [CHUNK] * (size // CHUNK) + [size % CHUNK] * bool(size % CHUNK)


def test_nothing_there_is_none_and_changes_nothing(one: Any, pair: Pair) -> None:
    assert receive(one, pair) is None
    pair.theirs.sendall(b"x")
    arrived(pair)
    assert receive(one, pair) == b"x"
    assert receive(one, pair) is None


def test_the_end_is_empty_each_time(one: Any, pair: Pair) -> None:
    pair.theirs.sendall(b"last words")
    pair.theirs.shutdown(socket.SHUT_WR)
    arrived(pair)
    assert receive(one, pair) == b"last words"
    arrived(pair)
    assert [receive(one, pair), receive(one, pair)] == [b"", b""]


def test_a_reset_is_told_once_and_the_end_after_that(one: Any) -> None:
    pair = over_tcp()
    pair.theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    pair.theirs.close()
    arrived(pair)
    assert receive(one, pair) is False
    assert receive(one, pair) == b""
    pair.close()


def test_a_closed_socket_is_an_error(one: Any, pair: Pair) -> None:
    pair.ours.close()
    assert raised(lambda: one.receive(pair.ours, -1)) == (OSError, errno.EBADF)
    assert raised(lambda: one.send(pair.ours, -1, b"x", 0)) == (OSError, errno.EBADF)


def test_a_socket_that_is_not_connected_is_an_error(one: Any) -> None:
    with socket.socket() as lonely:
        lonely.setblocking(False)
        assert raised(lambda: one.receive(lonely, lonely.fileno())) == (OSError, errno.ENOTCONN)
        assert raised(lambda: one.send(lonely, lonely.fileno(), b"x", 0)) == (BrokenPipeError, errno.EPIPE)


def test_what_is_no_socket_is_an_error(sockets: Twins, pair: Pair, tmp_path: Path) -> None:
    """Of the compiled one, which goes by the number; Python's has no such thing."""
    with (tmp_path / "file").open("w") as file:
        for call in (
            lambda: sockets.compiled.receive(pair.ours, file.fileno()),
            lambda: sockets.compiled.send(pair.ours, file.fileno(), b"x", 0),
        ):
            assert raised(call) == (OSError, errno.ENOTSOCK)


class StandIn:
    """What a program may use in place of a socket."""

    def __init__(self, problem: OSError | None) -> None:
        self.problem, self.asked = problem, list[Any]()

    def _says(self, what: str, *arguments: Any) -> None:
        self.asked.append((what, *arguments))
        if self.problem is not None:
            raise self.problem

    def recv(self, size: int) -> bytes:
        self._says("recv", size)
        return b"read"

    def send(self, content: Any) -> int:
        self._says("send", bytes(content))
        return 1

    def _accept(self) -> tuple[int, str]:
        self._says("accept")
        return os.open(os.devnull, os.O_RDONLY), "name"

    def shutdown(self, how: int) -> None:
        self._says("shutdown", how)

    def setsockopt(self, level: int, name: int, value: bytes) -> None:
        self._says("setsockopt", level, name, value)


def asked(one: Any, problem: OSError | None) -> tuple[Any, ...]:
    """What all of them give and raise, for a socket that is none; and what that was asked."""
    it = StandIn(problem)
    accepted = outcome(one.accept, it, -1)
    if isinstance(accepted[1], tuple):
        os.close(accepted[1][0])
        accepted = (tuple, accepted[1][1])
    calls = [
        (one.receive, it, -1),
        (one.send, it, -1, b"abc" * SEND, 3),
        (one.shut, it, -1),
        (one.reset, it, -1),
    ]
    return accepted, *(outcome(*call) for call in calls), it.asked


@pytest.mark.parametrize(
    "problem",
    [None, BlockingIOError(11, "later"), OSError(12, "no memory"), ConnectionResetError(104, "gone")],
)
def test_what_stands_for_a_socket_is_asked_itself(sockets: Twins, problem: OSError | None) -> None:
    told = asked(sockets.compiled, problem)
    assert told == asked(sockets.python, problem)
    assert [call[0] for call in told[-1]] == ["accept", "recv", "send", "shutdown", "setsockopt"]


def test_a_shut_half_is_an_end_for_the_other_side(one: Any, pair: Pair) -> None:
    send(one, pair, b"x")
    assert one.shut(pair.ours, pair.ours.fileno()) is None
    assert (pair.theirs.recv(9), pair.theirs.recv(9)) == (b"x", b"")
    pair.theirs.sendall(b"y")
    arrived(pair)
    assert receive(one, pair) == b"y"


def test_a_close_resets_the_other_side_if_that_was_asked_for(one: Any) -> None:
    pair = over_tcp()
    one.reset(pair.ours, pair.ours.fileno())
    pair.ours.close()
    assert raised(lambda: pair.theirs.recv(1)) == (ConnectionResetError, errno.ECONNRESET)
    one.reset(pair.ours, -1)
    pair.theirs.close()


def test_who_has_gone_needs_not_be_told_of_the_end(one: Any, pair: Pair) -> None:
    number = pair.ours.fileno()
    pair.ours.close()
    assert one.shut(pair.ours, -1) is None
    assert one.queued(number, TIOCOUTQ) == one.queued(-1, TIOCOUTQ) == 0


def test_what_the_kernel_holds_is_counted_by_the_first_question_that_it_knows(one: Any, pair: Pair) -> None:
    pair.theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    while send(one, pair, content(SEND)):
        pass
    count = array("i", [0])
    ioctl(pair.ours, TIOCOUTQ, count)
    assert one.queued(pair.ours.fileno(), 0x7FFF, TIOCOUTQ) == count[0] > 0
    assert one.queued(pair.ours.fileno(), 0x7FFF) == one.queued(pair.ours.fileno()) == 0


def test_after_an_error_there_is_the_same_as_before(one: Any, make: Callable[[], Pair]) -> None:
    first, second, closed = make(), make(), make()
    closed.close()
    for size in (5, 8192, 65536):
        raised(lambda: one.receive(closed.ours, -1))
        first.theirs.sendall(content(size))
        waits(first.ours, size)
        assert receive(one, second) is None
        raised(lambda: one.receive(closed.ours, -1))
        assert receive(one, first) == content(size)


# -- the buffer that reads share


def test_bytes_that_were_given_never_change(one: Any, make: Callable[[], Pair]) -> None:
    """Each is kept while a thousand others are read on several connections."""
    rng = random.Random(1)
    pairs, kept = [make() for _ in range(3)], []
    for turn in range(1000):
        pair, size = rng.choice(pairs), rng.choice((1, 7, 100, 8191, 8192, 8193, 30_000, 65535, 65536))
        sent = content(size, turn)
        pair.theirs.sendall(sent)
        waits(pair.ours, size)
        kept.append((receive(one, pair), size, turn))
        if turn % 7 == 0:
            assert receive(one, pair) is None
        if turn % 11 == 0:
            del kept[rng.randrange(len(kept))]
    for found, size, turn in kept:
        assert found == content(size, turn)


@pytest.mark.parametrize("size", [0, 1, 100, 8191, 8192, 8193, 65535, 65536])
def test_what_is_given_is_the_caller_s_alone(one: Any, pair: Pair, size: int) -> None:
    if size:
        pair.theirs.sendall(content(size))
        waits(pair.ours, size)
    else:
        pair.theirs.shutdown(socket.SHUT_WR)
        arrived(pair)
    found = receive(one, pair)
    assert found is not None
    count = sys.getrefcount(found)
    if size > 1:  # shorter ones are the interpreter's, and everybody's
        assert count == 2
    assert len(found) == size
    assert hash(found) == hash(content(size))
    assert found + b"" == content(size)
    assert sys.getsizeof(found) == sys.getsizeof(b"") + size


def test_a_hundred_thousand_reads_take_no_memory(one: Any) -> None:
    """Of all sizes, of which some are kept for a while, as a slow client's are."""
    pair, kept, rng = over_unix(), [b""] * 50, random.Random(2)
    sizes = (1, 500, 8191, 8192, 8193, 20_000, 65535, 65536)
    block = content(65536)

    def read(times: int) -> None:
        for turn in range(times):
            size = sizes[turn % len(sizes)]
            pair.theirs.sendall(block[:size])
            kept[rng.randrange(len(kept))] = receive(one, pair) or b""
            receive(one, pair)

    read(5000)
    gc.collect()
    before = resident()
    read(50_000)
    gc.collect()
    assert resident() - before < 4 << 20
    pair.close()


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def test_objects_that_are_passed_in_keep_their_references(one: Any, pair: Pair) -> None:
    sent, number = content(20_000), pair.ours.fileno()
    counts = [sys.getrefcount(pair.ours), sys.getrefcount(sent)]
    for _ in range(1000):
        pair.theirs.sendall(sent)
        receive(one, pair)
        receive(one, pair)
        assert one.send(pair.ours, number, sent, 0) == len(sent)
        pair.theirs.recv(len(sent), socket.MSG_WAITALL)
    assert [sys.getrefcount(pair.ours), sys.getrefcount(sent)] == counts


def test_threads_may_read_at_the_same_time(one: Any, make: Callable[[], Pair]) -> None:
    wrong: list[Any] = []

    def read(pair: Pair, seed: int) -> None:
        rng = random.Random(seed)
        for turn in range(300):
            sent = content(rng.choice((10, 8192, 65536, 40_000)), turn + seed)
            pair.theirs.sendall(sent)
            waits(pair.ours, len(sent))
            if (found := receive(one, pair)) != sent:
                wrong.append((seed, turn, found))

    threads = [threading.Thread(target=read, args=(make(), 1000 * seed)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert not wrong


# -- sending


@pytest.mark.parametrize("size", [0, *SIZES])
def test_what_is_sent_arrives_at_most_so_much_at_a_time(one: Any, pair: Pair, size: int) -> None:
    whole, at, received = content(size), 0, b""
    while at < size:
        sent = send(one, pair, whole, at)
        assert 0 < sent <= SEND
        received += pair.theirs.recv(sent, socket.MSG_WAITALL)
        at += sent
    assert received == whole
    assert send(one, pair, whole, size) == 0


@pytest.mark.parametrize("start", [0, 1, 2, 999, 1000])
def test_sending_begins_where_it_is_told(one: Any, pair: Pair, start: int) -> None:
    whole = content(1000)
    assert send(one, pair, whole, start) == 1000 - start
    pair.ours.shutdown(socket.SHUT_WR)
    assert pair.theirs.recv(2000, socket.MSG_WAITALL) == whole[start:]


def test_the_compiled_one_sends_nothing_from_outside_of_the_bytes(sockets: Twins, pair: Pair) -> None:
    for start in (-1, -(2**31), -(2**63), 6, 2**31, 2**63 - 1):
        with pytest.raises(ValueError, match="outside"):
            send(sockets.compiled, pair, b"12345", start)
    assert outcome(pair.ours.recv, 1) == ("raises", BlockingIOError)


def test_a_full_socket_takes_nothing_and_no_error_is_it(one: Any, pair: Pair) -> None:
    whole, taken = content(SEND), 0
    while sent := send(one, pair, whole):
        taken += sent
    assert taken > 0
    assert send(one, pair, whole) == 0
    received = 0
    while received < taken:
        received += len(pair.theirs.recv(CHUNK))
    assert received == taken


def test_sending_to_who_has_left_is_an_error_and_no_signal(one: Any, pair: Pair) -> None:
    told: list[int] = []
    before = signal.signal(signal.SIGPIPE, lambda number, frame: told.append(number))
    try:
        pair.theirs.close()
        arrived(pair)
        errors = set()
        for _ in range(5):
            kind, value = outcome(send, one, pair, b"x")
            errors |= {value} if kind == "raises" else set()
    finally:
        signal.signal(signal.SIGPIPE, before)
    assert BrokenPipeError in errors
    assert told == [] or one.__name__ != "sockets"


@pytest.mark.parametrize("wrong", [None, "text", 5, bytearray(b"x"), memoryview(b"x")])
def test_the_compiled_one_sends_bytes_only(sockets: Twins, pair: Pair, wrong: Any) -> None:
    assert outcome(send, sockets.compiled, pair, wrong) == ("raises", TypeError)


@pytest.mark.parametrize("wrong", [None, "5", 2**40, -(2**40)])
def test_what_is_no_descriptor_is_refused(sockets: Twins, pair: Pair, wrong: Any) -> None:
    for call in (
        lambda: sockets.compiled.receive(pair.ours, wrong),
        lambda: sockets.compiled.send(pair.ours, wrong, b"", 0),
    ):
        with pytest.raises((TypeError, OverflowError)):
            call()


def test_both_do_the_same_in_any_order(sockets: Twins, make: Callable[[], Pair]) -> None:
    """Two pairs, to which the same is done with one twin each."""
    rng = random.Random(3)
    for _ in range(30):
        pairs = make(), make()
        for _ in range(30):
            step, size = rng.choice(("say", "read", "send", "hear")), rng.choice((0, 1, 8192, 65536, 100_000))
            results = [act(twin, pair, step, size) for twin, pair in zip(sockets, pairs, strict=True)]
            assert results[0] == results[1], (step, size)
        ends = [act(twin, pair, "leave", 0) for twin, pair in zip(sockets, pairs, strict=True)]
        assert ends[0] == ends[1]


def act(one: Any, pair: Pair, step: str, size: int) -> Any:
    """A step, and what it came to; no queue is filled, so that both sockets can take the same."""
    match step:
        case "say" if unread(pair.ours) < ROOM // 8:
            waiting = unread(pair.ours)
            pair.theirs.sendall(content(size))
            waits(pair.ours, waiting + size)
        case "read":
            return outcome(receive, one, pair)
        case "send" if unread(pair.theirs) < ROOM // 8:
            waiting, sent = unread(pair.theirs), send(one, pair, content(size))
            waits(pair.theirs, waiting + sent)
            return sent
        case "hear" if unread(pair.theirs):
            return pair.theirs.recv(CHUNK)
        case "leave":
            pair.theirs.shutdown(socket.SHUT_WR)
            arrived(pair)
            return [outcome(receive, one, pair) for _ in range(20)]
    return None
