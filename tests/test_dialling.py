"""`connectTCP` and `connectUNIX` of the reactor: how attempts end, and what they leave open."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import (
    BadFileError,
    ConnectBindError,
    ConnectError,
    ConnectionDone,
    ConnectionRefusedError,
    DNSLookupError,
    TimeoutError,
    UserError,
)
from twisted.internet.interfaces import IResolverSimple
from twisted.internet.tcp import makeBinding
from zope.interface import implementer

from rproxy.dialling import Client
from tests.fakes import Loop, open_files
from tests.hands import Hands, Made, hands


@pytest.fixture
def place() -> Iterator[Hands]:
    with hands() as made:
        yield made


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


def port_of(listening: socket.socket) -> int:
    port: int = listening.getsockname()[1]
    return port


def dead_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as made:
        return port_of(made)


def failed(place: Hands, made: Made) -> Any:
    """What the one attempt has failed with."""
    place.until(lambda: made.failures)
    place.settle()
    (failure,) = made.failures
    assert (made.built, made.losses, place.selectables()) == ([], [], set())
    return failure


def test_nothing_is_called_before_connect_tcp_returns(place: Hands, listening: socket.socket) -> None:
    made = Made()
    connector = place.reactor.connectTCP("127.0.0.1", port_of(listening), made)
    assert (made.started, made.built, connector.state) == ([connector], [], "connecting")
    place.until(lambda: made.built)
    assert connector.state == "connected"
    assert connector.getDestination() == made.addresses[0]


def test_a_refusal_is_one_failure_and_leaves_nothing_open(place: Hands) -> None:
    made, files = Made(), open_files()
    place.reactor.connectTCP("127.0.0.1", dead_port(), made)
    assert isinstance(failed(place, made), ConnectionRefusedError)
    assert open_files() <= files
    assert place.reactor.getDelayedCalls() == [], "the deadline is gone"


def test_a_connector_can_connect_again_after_a_failure_and_after_a_loss(place: Hands) -> None:
    made, port = Made(), dead_port()
    connector = place.reactor.connectTCP("127.0.0.1", port, made)
    failed(place, made)
    with socket.create_server(("127.0.0.1", port)) as listening:
        for turn in (1, 2):
            connector.connect()
            place.until(lambda turn=turn: len(made.built) == turn)
            made.built[-1].transport.loseConnection()
            place.until(lambda turn=turn: made.losses == [ConnectionDone] * turn)
            listening.accept()[0].close()
    assert connector.state == "disconnected"


def test_a_protocol_s_factory_is_told_after_the_protocol(place: Hands, listening: socket.socket) -> None:
    order: list[str] = []
    made = Made(lost=lambda transport: order.append("protocol"))
    made.clientConnectionLost = lambda connector, reason: order.append("factory")  # type: ignore[method-assign]
    connector = place.reactor.connectTCP("127.0.0.1", port_of(listening), made)
    place.until(lambda: made.built)
    connector.disconnect()
    place.until(lambda: len(order) == 2)
    assert order == ["protocol", "factory"]


def test_the_deadline_ends_an_attempt(place: Hands) -> None:
    made = Made()
    with socket.create_server(("127.0.0.1", 0), backlog=1) as full:
        queued = [_begun(full) for _ in range(4)]
        place.reactor.connectTCP("127.0.0.1", port_of(full), made, timeout=0.05)
        assert isinstance(failed(place, made), TimeoutError)
        for sock in queued:
            sock.close()


def _begun(full: socket.socket) -> socket.socket:
    """A connection in the queue of a port, or waiting for a place in it."""
    sock = socket.socket()
    sock.setblocking(False)
    sock.connect_ex(full.getsockname())
    return sock


@pytest.mark.parametrize("turns", [0, 1, 2])
def test_stopping_ends_an_attempt_at_any_moment(place: Hands, listening: socket.socket, turns: int) -> None:
    made, resolver = Made(), Resolver(Deferred())
    place.reactor.installResolver(resolver)
    connector = place.reactor.connectTCP("a.test", port_of(listening), made)
    for _ in range(turns):
        place.turn()
    connector.stopConnecting()
    assert isinstance(failed(place, made), UserError)
    assert resolver.asked == ["a.test"][:turns]


@implementer(IResolverSimple)
class Resolver:
    def __init__(self, answer: Deferred[str]) -> None:
        self.answer, self.asked = answer, list[str]()

    def getHostByName(self, name: str, timeout: Any = ()) -> Deferred[str]:
        self.asked.append(name)
        return self.answer


def test_names_are_asked_of_the_reactor(place: Hands, listening: socket.socket) -> None:
    made, resolver = Made(), Resolver(succeed("127.0.0.1"))
    place.reactor.installResolver(resolver)
    place.reactor.connectTCP("a.test", port_of(listening), made)
    place.until(lambda: made.built)
    assert (resolver.asked, made.addresses[0].host) == (["a.test"], "127.0.0.1")


def test_a_name_that_is_not_known_fails_the_attempt(place: Hands) -> None:
    made = Made()
    place.reactor.installResolver(Resolver(fail(DNSLookupError("no such name"))))
    place.reactor.connectTCP("a.test", 80, made)
    assert isinstance(failed(place, made), DNSLookupError)


def test_an_answer_that_comes_too_late_connects_nobody(place: Hands, listening: socket.socket) -> None:
    made, answer = Made(), Deferred[str]()
    place.reactor.installResolver(Resolver(answer))
    place.reactor.connectTCP("a.test", port_of(listening), made, timeout=0)
    assert isinstance(failed(place, made), TimeoutError)
    answer.callback("127.0.0.1")
    place.settle()
    assert (len(made.failures), place.selectables()) == (1, set())


@pytest.mark.parametrize("how", [tuple, lambda place: makeBinding(*place, reuseAddress=True)])
def test_an_attempt_is_made_from_where_it_is_bound(place: Hands, listening: socket.socket, how: Any) -> None:
    made = Made()
    place.reactor.connectTCP("127.0.0.1", port_of(listening), made, bindAddress=how(("127.0.0.2", 0)))
    place.until(lambda: made.built)
    assert listening.accept()[1][0] == made.protocol_.transport.getHost().host == "127.0.0.2"


def test_a_place_that_is_taken_fails_the_attempt_later(place: Hands, listening: socket.socket) -> None:
    made, files = Made(), open_files()
    place.reactor.connectTCP("127.0.0.1", 9, made, bindAddress=listening.getsockname())
    assert made.failures == []
    assert isinstance(failed(place, made), ConnectBindError)
    assert open_files() <= files


def test_a_lack_of_descriptors_fails_the_attempt(place: Hands, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*kind: int) -> Any:
        raise OSError(errno.EMFILE, "Too many open files")

    made = Made()
    with monkeypatch.context() as patch:
        patch.setattr(socket, "socket", none_left)
        place.reactor.connectTCP("127.0.0.1", 9, made)
    failure = failed(place, made)
    assert isinstance(failure, ConnectBindError)
    assert failure.osError == errno.EMFILE


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_that_does_not_exist_fails_the_attempt(place: Hands, port: int) -> None:
    made = Made()
    place.reactor.connectTCP("127.0.0.1", port, made)
    assert made.failures == [], "not before it returns"
    assert isinstance(failed(place, made), OverflowError)


def test_a_factory_that_wants_nobody_gets_a_closed_connection(place: Hands, listening: socket.socket) -> None:
    made = Made()
    made.buildProtocol = lambda addr: None  # type: ignore[method-assign]
    place.reactor.connectTCP("127.0.0.1", port_of(listening), made)
    place.until(lambda: made.losses == [ConnectionDone])
    assert listening.accept()[0].recv(1) == b""


def test_a_mistake_of_the_factory_fails_the_attempt(place: Hands, listening: socket.socket) -> None:
    made = Made()
    made.buildProtocol = lambda addr: 1 / 0  # type: ignore[method-assign,assignment,return-value]
    place.reactor.connectTCP("127.0.0.1", port_of(listening), made)
    place.until(lambda: made.failures)
    assert place.selectables() == set()
    assert listening.accept()[0].recv(1) == b""


def test_who_pauses_at_once_is_not_read(place: Hands, listening: socket.socket) -> None:
    made = Made(made=lambda transport: transport.pauseProducing())
    place.reactor.connectTCP("127.0.0.1", port_of(listening), made)
    place.until(lambda: made.built)
    accepted = listening.accept()[0]
    accepted.send(b"not yet")
    place.settle()
    assert made.protocol_.octets == b""
    made.protocol_.transport.resumeProducing()
    place.until(lambda: made.protocol_.octets == b"not yet")
    accepted.close()


def test_a_loop_that_tells_only_of_writing_learns_of_a_refusal_too() -> None:
    connector: Any = SimpleNamespace(reactor=Loop(), failures=[])
    connector.connectionFailed = lambda reason: connector.failures.append(reason.type)
    sock = socket.socket()
    sock.setblocking(False)
    Client(sock, ("127.0.0.1", dead_port()), None, connector)
    connector.reactor.spin()
    assert connector.failures == [ConnectionRefusedError]


# -- unix sockets


def test_unix_sockets_are_connected_to_and_refuse(place: Hands, tmp_path: Path) -> None:
    path, made = str(tmp_path / "s"), Made()
    with socket.create_server(path, family=socket.AF_UNIX):
        place.reactor.connectUNIX(path, made)
        place.until(lambda: made.built)
        assert made.addresses[0].name == os.fsencode(path)
    refused = Made()
    place.reactor.connectUNIX(path, refused)
    assert isinstance(failed_beside(place, refused), ConnectionRefusedError)


def failed_beside(place: Hands, made: Made) -> Any:
    place.until(lambda: made.failures)
    return made.failures[0]


@pytest.mark.parametrize("name", ["missing", "x" * 200])
def test_a_path_that_cannot_be_fails_the_attempt(place: Hands, tmp_path: Path, name: str) -> None:
    made = Made()
    place.reactor.connectUNIX(str(tmp_path / name), made)
    assert isinstance(failed(place, made), (ConnectError, OSError))


def test_a_server_whose_lock_nobody_holds_is_not_asked(place: Hands, tmp_path: Path) -> None:
    path, made = str(tmp_path / "s"), Made()
    with socket.create_server(path, family=socket.AF_UNIX) as server:
        place.reactor.connectUNIX(path, made, checkPID=1)
        assert isinstance(failed(place, made), BadFileError)
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()


def test_a_full_queue_of_a_unix_socket_fails_the_attempt(place: Hands, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.create_server(path, family=socket.AF_UNIX, backlog=0):
        made = [Made() for _ in range(4)]
        for each in made:
            place.reactor.connectUNIX(path, each)
        place.until(lambda: all(each.built or each.failures for each in made))
        failures = [each.failures[0] for each in made if each.failures]
        assert failures
        assert all(failure.osError == errno.EAGAIN for failure in failures)
