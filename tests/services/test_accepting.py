"""Accepting: a port without room waits, a burst starves nobody, a mistake in one connection is its own."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.protocol import Factory, Protocol

from rproxy.services.accepting import ACCEPTS, NO_ROOM
from rproxy.services.listeners import PAUSE, PatientPort
from tests.fakes import LogLines, Loop, open_files


class Scarce:
    """A listening socket whose accept fails as the test says."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock, self.failures = sock, list[int]()
        self.asked = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sock, name)

    def _accept(self) -> Any:
        self.asked += 1
        if self.failures:
            code = self.failures.pop(0)
            raise OSError(code, os.strerror(code))
        return self.sock._accept()


class Collecting(Factory):
    noisy = False

    def __init__(self) -> None:
        self.built: list[Any] = []
        self.refuse = self.fail = False

    def buildProtocol(self, addr: Any) -> Any:
        if self.fail:
            raise ZeroDivisionError
        if self.refuse:
            return None
        self.built.append(addr)
        return Protocol()


class Port:
    def __init__(self) -> None:
        self.loop, self.factory = Loop(), Collecting()
        self.port: Any = PatientPort(0, self.factory, 100, "127.0.0.1", self.loop)
        self.port.startListening()
        self.scarce = self.port.socket = Scarce(self.port.socket)
        self.clients: list[socket.socket] = []

    def connect(self, count: int = 1) -> None:
        for _ in range(count):
            self.clients.append(socket.create_connection(self.scarce.getsockname(), timeout=2))

    def close(self) -> None:
        for client in self.clients:
            client.close()
        for transport in list(self.loop.readers):
            transport.stopReading()
            transport.socket.close()


@pytest.fixture
def port() -> Iterator[Port]:
    port = Port()
    yield port
    port.close()


def errors(log: LogLines) -> list[str]:
    return [text.partition(": ")[2] for text in log.texts("rproxy.services.accepting")]


@pytest.mark.parametrize("code", sorted(NO_ROOM))
def test_without_room_a_port_sits_out_says_so_once_and_recovers(port: Port, code: int) -> None:
    port.scarce.failures = [code] * 3
    with LogLines() as log:
        port.connect(2)
        for number in range(1, 4):
            port.loop.spin()
            assert (port.scarce.asked, port.loop.readers, port.factory.built) == (number, set(), [])
            port.loop.advance(PAUSE)
        port.loop.spin()
    assert len(port.factory.built) == 2
    assert errors(log) == [f"{os.strerror(code)}; trying again"]
    assert port.port in port.loop.readers


def test_the_next_lack_is_news_again(port: Port) -> None:
    with LogLines() as log:
        for _ in range(2):
            port.scarce.failures = [errno.EMFILE]
            port.connect()
            port.loop.spin()
            port.loop.advance(PAUSE)
            port.loop.spin()
    assert len(errors(log)) == 2
    assert len(port.factory.built) == 2


def test_a_connection_that_died_in_the_queue_is_passed_over(port: Port) -> None:
    port.scarce.failures = [errno.ECONNABORTED, errno.EPROTO]
    port.connect()
    with LogLines() as log:
        port.loop.spin()
        port.loop.spin()
    assert (len(port.factory.built), errors(log)) == (1, [])


def test_a_port_that_was_closed_while_it_sat_out_stays_closed(port: Port) -> None:
    port.scarce.failures = [errno.EMFILE]
    port.connect()
    port.loop.spin()
    port.port.stopListening()
    port.loop.advance(PAUSE)
    port.loop.advance(PAUSE)
    assert (port.loop.readers, port.loop.getDelayedCalls()) == (set(), [])


def test_who_is_refused_is_closed_at_once(port: Port) -> None:
    port.factory.refuse = True
    files = open_files()
    port.connect()
    port.loop.spin()
    assert port.clients[0].recv(1) == b""
    assert len(open_files() - files) == 1


def test_a_mistake_in_one_connection_does_not_close_the_port(port: Port) -> None:
    port.factory.fail = True
    port.connect()
    with LogLines() as log:
        port.loop.spin()
    assert len(log.texts("rproxy.services.accepting")) == 1
    port.factory.fail = False
    port.connect()
    port.loop.spin()
    assert len(port.factory.built) == 1


def test_a_burst_does_not_starve_the_others(port: Port) -> None:
    port.connect(90)
    while port.loop.readers:
        before = len(port.factory.built)
        port.port.doRead()
        taken = len(port.factory.built) - before
        assert taken <= ACCEPTS
        if len(port.factory.built) == 90:
            break
    assert len(port.factory.built) == 90


class Counted(Protocol):
    """What has been counted when it was built."""

    def __init__(self) -> None:
        self.lost = 0

    def makeConnection(self, transport: Any) -> None:
        raise ZeroDivisionError

    def connectionLost(self, reason: Any = None) -> None:
        self.lost += 1


@pytest.mark.parametrize("watched", [False, True])
def test_what_was_built_hears_of_the_end_of_a_connection_that_failed(port: Port, watched: bool) -> None:
    built, files = Counted(), open_files()
    port.factory.buildProtocol = lambda addr: built
    add = port.loop.addReader
    port.loop.addReader = lambda reader: (  # type: ignore[method-assign]
        add(reader) if watched or reader is port.port else full()
    )
    port.connect()
    with LogLines() as log:
        port.loop.spin()
    assert (built.lost, len(log.texts("rproxy.services.accepting"))) == (1, 1)
    assert port.loop.readers == {port.port}
    port.clients.pop().close()
    assert open_files() <= files


def full() -> None:
    raise OSError(errno.ENOSPC, "too many are watched")
