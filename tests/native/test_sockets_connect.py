"""Connecting, and what is set before, in Python and in Cython; and who it was, of those that are accepted."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator
from enum import IntEnum
from pathlib import Path
from socket import AF_INET, AF_INET6, AF_UNIX
from typing import Any

import pytest

from tests.e2e.programs import until
from tests.native.twins import Twins, told

UNDER_WAY = (errno.EINPROGRESS, errno.EALREADY)


@pytest.fixture
def make() -> Iterator[Callable[[int], socket.socket]]:
    """Makes sockets that do not block, and that end with the test."""
    made: list[socket.socket] = []

    def fresh(family: int) -> socket.socket:
        made.append(socket.socket(family))
        made[-1].setblocking(False)
        return made[-1]

    yield fresh
    for each in made:
        each.close()


Make = Callable[[int], socket.socket]


def connect(one: Any, sock: socket.socket, place: Any) -> int:
    """The last word about a connection that is made with these words."""

    def settled() -> list[int]:
        code: int = one.connect(sock, sock.fileno(), place)
        assert type(code) is int
        return [] if code in UNDER_WAY else [code]

    (code,) = until(settled, "an end")
    return code


# -- before connecting


def options(sock: socket.socket) -> list[bool]:
    names = (socket.IPPROTO_TCP, socket.TCP_NODELAY), (socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    return [sock.getsockopt(*name) != 0 for name in names]


@pytest.mark.parametrize("family", [AF_INET, AF_INET6])
def test_a_prepared_socket_waits_for_nothing_and_looks_for_dead_peers(
    one: Any, make: Make, family: int
) -> None:
    sock = make(family)
    assert options(sock) == [False, False]
    for _ in range(2):
        assert one.prepare(sock, sock.fileno()) is None
        assert options(sock) == [True, True]


class StandIn:
    """What a program may use in place of a socket."""

    def __init__(self, problem: OSError | None = None) -> None:
        self.problem, self.asked = problem, list[Any]()

    def setsockopt(self, *words: int) -> None:
        self.asked.append(words)
        if self.problem is not None:
            raise self.problem

    def connect_ex(self, place: Any) -> int:
        self.asked.append(place)
        return errno.EALREADY


def test_what_stands_for_a_socket_is_asked_itself(one: Any) -> None:
    it, place = StandIn(), ("127.0.0.1", 80)
    assert one.prepare(it, -1) is None
    assert one.connect(it, -1, place) == errno.EALREADY
    assert it.asked[:2] == [
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    ]
    assert it.asked[2] is place


def test_what_stands_for_a_socket_may_refuse(one: Any) -> None:
    it = StandIn(OSError(errno.ENOPROTOOPT, "unknown"))
    assert told(one.prepare, it, -1) == (OSError, errno.ENOPROTOOPT)
    assert len(it.asked) == 1


def test_a_closed_socket_cannot_be_prepared_or_connected(one: Any, make: Make) -> None:
    sock = make(AF_INET)
    sock.close()
    assert told(one.prepare, sock, -1) == (OSError, errno.EBADF)
    assert told(one.connect, sock, -1, ("127.0.0.1", 80)) == errno.EBADF


def test_a_socket_that_is_not_of_tcp_is_an_error(one: Any, make: Make) -> None:
    sock = make(AF_UNIX)
    assert told(one.prepare, sock, sock.fileno()) == (OSError, errno.EOPNOTSUPP)
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 0


@pytest.mark.parametrize("wrong", [None, "5", 2**40])
def test_what_is_no_descriptor_is_refused(sockets: Twins, make: Make, wrong: Any) -> None:
    sock = make(AF_INET)
    for call in (
        lambda: sockets.compiled.prepare(sock, wrong),
        lambda: sockets.compiled.connect(sock, wrong, ("127.0.0.1", 9)),
    ):
        with pytest.raises((TypeError, OverflowError)):
            call()
    assert options(sock) == [False, False]


# -- connecting


def named(family: int, tmp_path: Path) -> Any:
    return str(tmp_path / "s") if family == AF_UNIX else ("::1" if family == AF_INET6 else "127.0.0.1", 0)


@pytest.fixture(params=[AF_INET, AF_INET6, AF_UNIX])
def bound(request: pytest.FixtureRequest, make: Make, tmp_path: Path) -> socket.socket:
    """A socket with a name, which does not listen."""
    sock = make(request.param)
    sock.bind(named(request.param, tmp_path))
    return sock


def test_who_listens_is_connected_to(one: Any, make: Make, bound: socket.socket) -> None:
    bound.listen()
    place = bound.getsockname()
    for words in (place, place[:2]) if bound.family == AF_INET6 else (place,):
        sock = make(bound.family)
        assert connect(one, sock, words) in (0, errno.EISCONN)
        assert sock.getpeername() == place
        theirs, _ = until(lambda: told(bound.accept), "a connection")
        sock.send(b"x")
        with theirs:
            assert theirs.recv(1) == b"x"
        assert one.connect(sock, sock.fileno(), words) == errno.EISCONN


@pytest.mark.parametrize("path", [b"\0rproxy connects %d", "path", b"path"])
def test_a_unix_path_may_be_abstract_or_bytes(one: Any, make: Make, tmp_path: Path, path: Any) -> None:
    listening = make(AF_UNIX)
    place = path % os.getpid() if b"%d" in os.fsencode(path) else os.path.join(tmp_path, os.fsdecode(path))
    listening.bind(place)
    listening.listen()
    sock = make(AF_UNIX)
    assert one.connect(sock, sock.fileno(), place) == 0
    assert sock.getpeername() == place


def test_who_does_not_listen_refuses(one: Any, make: Make, bound: socket.socket) -> None:
    assert connect(one, make(bound.family), bound.getsockname()) == errno.ECONNREFUSED


def test_a_path_where_nothing_is_has_its_errno_too(one: Any, make: Make, tmp_path: Path) -> None:
    sock = make(AF_UNIX)
    assert one.connect(sock, sock.fileno(), str(tmp_path / "none")) == errno.ENOENT
    assert told(one.connect, sock, sock.fileno(), "a" * 200) == (OSError, None)


def test_a_connection_that_nobody_takes_is_under_way(one: Any, make: Make) -> None:
    """The queue is full, so the kernel asks again later."""
    listening = make(AF_INET)
    listening.bind(("127.0.0.1", 0))
    listening.listen(0)
    place = listening.getsockname()
    connect(one, make(AF_INET), place)
    sock = make(AF_INET)
    assert one.connect(sock, sock.fileno(), place) == errno.EINPROGRESS
    assert [one.connect(sock, sock.fileno(), place) for _ in range(3)] == [errno.EALREADY] * 3


def test_the_port_is_that_port(one: Any, make: Make) -> None:
    """With different bytes, or their order would not matter."""
    for port in (1, 255, 256, 258, 0x1234, 0xABCD, 65535):
        listening = make(AF_INET)
        try:
            listening.bind(("127.77.0.1", port))
        except OSError:
            continue  # somebody's, or not for everybody
        listening.listen()
        sock = make(AF_INET)
        assert connect(one, sock, ("127.77.0.1", port)) in (0, errno.EISCONN)
        assert sock.getpeername() == ("127.77.0.1", port)


class Number(IntEnum):
    NINE = 9


PLACES: list[Any] = [
    *[(host, 9) for host in ("", "127.1", "127.0.0.01", "0x7f.1", "0.0.0.0", "127.255.255.254", "127.0.0.1")],
    *[(host, 9) for host in (".", "a..b", "a b", "256.0.0.1", "1.2.3", "1.2.3.4.5", "127.0.0.1 ", "x" * 300)],
    *[(host, 9) for host in ("127.0.0.1%lo", "::1", "[::1]", "127.0.0.1:9", "127.0.0.1x", "-1.0.0.1")],
    *[(host, 9) for host in ("127.0.0.1\0evil", "\0", "127.0.0.1\udc80", "127.0.0.\u0661")],
    *[(host, 9) for host in (b"127.0.0.1", bytearray(b"127.0.0.1"), b"a b", None, 5, ("127.0.0.1",))],
    *[("127.0.0.1", port) for port in (0, -1, 65536, 2**31, 2**64, -(2**64), "9", b"9", 9.0, None)],
    *[("127.0.0.1", port) for port in (True, Number.NINE)],
    *[(), ("127.0.0.1",), ("127.0.0.1", 9, 0), ["127.0.0.1", 9], None, "127.0.0.1", b"127.0.0.1", 9, {}],
    *[("::1", 9, 0, 0), ("127.0.0.1", 9, None)],
]


@pytest.mark.parametrize("place", PLACES, ids=ascii)
def test_what_may_be_an_address_is_one_for_both_or_for_none(sockets: Twins, make: Make, place: Any) -> None:
    """Nobody listens at port 9, and names are not looked up that cannot be any."""
    results = []
    for twin in sockets:
        sock = make(AF_INET)
        result = told(twin.connect, sock, sock.fileno(), place)
        if result == errno.EINPROGRESS:
            result = connect(twin, sock, place)
        results.append(result)
    assert results[0] == results[1]


@pytest.mark.parametrize("place", [("::1", 9), ("::1", 9, 0), ("::1", 9, 0, 0, 0), ("a b", 9), "/tmp", ()])
def test_so_may_one_of_ipv6(sockets: Twins, make: Make, place: Any) -> None:
    results = []
    for twin in sockets:
        sock = make(AF_INET6)
        results.append(told(twin.connect, sock, sock.fileno(), place))
    assert results[0] == results[1]


@pytest.mark.parametrize("family", [AF_INET6, AF_UNIX])
def test_an_ipv4_address_is_none_for_other_sockets(sockets: Twins, make: Make, family: int) -> None:
    """Python's looks at it, the kernel is asked by the compiled one; both connect to nobody."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        for twin in sockets:
            sock = make(family)
            result = told(twin.connect, sock, sock.fileno(), listening.getsockname())
            assert result not in (0, *UNDER_WAY)
            assert told(sock.getpeername) == (OSError, errno.ENOTCONN)


# -- accepting


def test_who_is_accepted_is_written_as_the_socket_module_writes_it(one: Any, make: Make) -> None:
    """Every number at every place but the first; those at the ends are no host's."""
    listening = make(AF_INET)
    listening.bind(("0.0.0.0", 0))
    listening.listen()
    port = listening.getsockname()[1]
    hosts = [f"127.{at}.{255 - at}.{(at * 7) % 256}" for at in range(256)]
    hosts += [f"127.{at}.{at}.{at}" for at in range(1, 255)]
    for host in ("127.1.22.133", "127.255.255.254", "127.0.0.1", "127.100.10.1", "127.0.0.109", *hosts):
        with socket.socket() as client:
            client.bind((host, 0))
            client.connect(("127.0.0.1", port))
            made, name = until(lambda: one.accept(listening, listening.fileno()), "a connection")
            with socket.socket(fileno=made) as accepted:
                assert name == accepted.getpeername() == client.getsockname()
                assert name[0] == host
                assert (type(name[0]), type(name[1])) == (str, int)
