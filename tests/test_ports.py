"""The reactor's listening ports: what they make of connections, and sockets that were made elsewhere."""

from __future__ import annotations

import gc
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from weakref import ref

import pytest
from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.error import CannotListenError, UnsupportedAddressFamily
from twisted.internet.interfaces import IListeningPort
from zope.interface.verify import verifyObject

from rproxy.descriptors import UnixServer
from rproxy.streams import Server
from rproxy.wire.address import Inet
from tests.fakes import open_files
from tests.hands import Hands, Made, Pair, hands


@pytest.fixture
def place() -> Iterator[Hands]:
    with hands() as made:
        yield made


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        made.setblocking(False)
        yield made


def gone(place: Hands, port: Any) -> None:
    ended: list[Any] = []
    port.stopListening().addBoth(ended.append)
    place.until(lambda: ended)
    assert ended == [None]


def test_a_port_serves_with_the_reactor_s_transports_until_it_is_stopped(place: Hands) -> None:
    files, made = open_files(), Made()
    pair = Pair(place, made, Made())
    verifyObject(IListeningPort, pair.port)
    assert type(pair.serving) is Server
    gone(place, pair.port)
    pair.serving.write(b"goes on")
    place.until(lambda: pair.client.octets == b"goes on")
    pair.serving.abortConnection()
    place.until(lambda: pair.client.reason and pair.server.reason)
    assert open_files() <= files


def test_a_port_that_is_taken_cannot_be_listened_on(place: Hands, listening: socket.socket) -> None:
    with pytest.raises(CannotListenError):
        place.reactor.listenTCP(listening.getsockname()[1], Made(), interface="127.0.0.1")
    assert place.selectables() == set()


def test_a_factory_that_takes_our_addresses_gets_them(place: Hands) -> None:
    made = Made()
    made.takes_inet = True  # type: ignore[attr-defined]
    pair = Pair(place, made, Made())
    assert made.addresses == [Inet("127.0.0.1", pair.calling.getHost().port)]


def test_a_port_serves_by_the_factory_and_the_transport_that_it_has_now(place: Hands) -> None:
    class Other(Server):
        pass

    first, second = Made(), Made()
    pair = Pair(place, first, Made())
    pair.port.factory, pair.port.transport = second, Other
    with socket.create_connection(("127.0.0.1", pair.port.getHost().port)):
        place.until(lambda: second.addresses)
        assert (len(first.addresses), pair.port.sessionno) == (1, 2)
        (served,) = place.selectables() - {pair.port, pair.serving, pair.calling}
        assert type(served) is Other


def test_a_port_that_was_closed_is_freed_at_once(place: Hands) -> None:
    port = place.reactor.listenTCP(0, Made(), interface="127.0.0.1")
    gone(place, port)
    kept = ref(port)
    gc.disable()
    try:
        del port
        assert kept() is None
    finally:
        gc.enable()


def test_a_connection_that_nobody_wants_is_closed(place: Hands) -> None:
    refusing = Made()
    refusing.buildProtocol = lambda addr: None  # type: ignore[method-assign]
    port = place.reactor.listenTCP(0, refusing, interface="127.0.0.1")
    with socket.create_connection(("127.0.0.1", port.getHost().port)) as client:
        place.settle()
        assert client.recv(1) == b""


def test_a_unix_port_makes_its_file_and_removes_it(place: Hands, tmp_path: Path) -> None:
    path, made = tmp_path / "s", Made()
    port = place.reactor.listenUNIX(str(path), made, mode=0o640)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        place.until(lambda: made.built)
        assert type(made.protocol_.transport) is UnixServer
        gone(place, port)
    assert not path.exists()


def test_a_unix_port_with_a_lock_takes_the_place_of_one_that_is_gone(place: Hands, tmp_path: Path) -> None:
    path = tmp_path / "s"
    socket.create_server(str(path), family=socket.AF_UNIX).close()
    (tmp_path / "s.lock").symlink_to("999999999")  # as Twisted's locks are; nobody has this number
    port = place.reactor.listenUNIX(str(path), Made(), wantPID=True)
    gone(place, port)


@pytest.mark.parametrize("alive", [0, 1])
def test_an_adopted_port_is_a_copy_and_stays_what_it_was(
    place: Hands, listening: socket.socket, alive: int
) -> None:
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, alive)
    made = Made()
    port = place.reactor.adoptStreamPort(listening.fileno(), socket.AF_INET, made)
    assert port.getHost() == IPv4Address("TCP", *listening.getsockname())
    place.reactor.connectTCP(*listening.getsockname(), Made())
    place.until(lambda: made.built)
    assert made.protocol_.transport.getTcpKeepAlive() == bool(alive)
    gone(place, port)
    with socket.create_connection(listening.getsockname()):
        assert listening.accept()


def test_an_adopted_connection_is_a_copy_with_a_protocol(place: Hands, listening: socket.socket) -> None:
    made = Made()
    with socket.create_connection(listening.getsockname()) as client:
        accepted, name = listening.accept()
        transport = place.reactor.adoptStreamConnection(accepted.fileno(), socket.AF_INET, made)
        assert (made.protocol_.transport, made.addresses) == (transport, [IPv4Address("TCP", *name)])
        assert repr(transport) == f"<Remembering #{name[1]} on {listening.getsockname()[1]}>"
        client.sendall(b"hello")
        place.until(lambda: made.protocol_.octets == b"hello")
        transport.loseConnection()
        place.until(lambda: made.protocol_.reason)
        accepted.send(b"still open")
        assert client.recv(10) == b"still open"
        accepted.close()
        assert place.selectables() == set()


def test_an_adopted_unix_connection_is_one_that_carries_files(place: Hands) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        made = Made()
        transport = place.reactor.adoptStreamConnection(ours.fileno(), socket.AF_UNIX, made)
        assert (type(transport), made.addresses) == (UnixServer, [UNIXAddress(None)])
        transport.sendFileDescriptor(theirs.fileno())
        transport.write(b"x")
        place.settle()
        _, numbers, _, _ = socket.recv_fds(theirs, 9, 9)
        assert len(numbers) == 1
        os.close(numbers[0])


def test_an_adopted_connection_that_nobody_wants_is_none(place: Hands) -> None:
    files, made = open_files(), Made()
    made.buildProtocol = lambda addr: None  # type: ignore[method-assign]
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert place.reactor.adoptStreamConnection(ours.fileno(), socket.AF_UNIX, made) is None
    assert open_files() <= files


@pytest.mark.parametrize("adopt", ["adoptStreamPort", "adoptStreamConnection"])
def test_other_families_are_refused(place: Hands, listening: socket.socket, adopt: str) -> None:
    with pytest.raises(UnsupportedAddressFamily):
        getattr(place.reactor, adopt)(listening.fileno(), socket.AF_NETLINK, Made())
