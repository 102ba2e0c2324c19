"""The admin socket: one request, one answer, for its owner alone, and small whoever asks."""

from __future__ import annotations

import json
import os
import socket
import stat
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from pytest_twisted import async_yield_fixture, ensureDeferred
from twisted.internet import reactor
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from rproxy.errors import StartError
from rproxy.services.admin import LONGEST, MOST, PATIENCE, AdminSocket, _Factory
from tests.fakes import LogLines, Wire, open_files, until


def double(asked: Mapping[str, Any]) -> Mapping[str, Any]:
    if "number" not in asked:
        raise ValueError("which number?")
    return {"double": 2 * asked["number"]}


def broken(asked: Mapping[str, Any]) -> Mapping[str, Any]:
    raise ZeroDivisionError


ANSWERS = {"double": double, "broken": broken}


# -- What is said -------------------------------------------------------------------------------------------


class Line:
    """One connection, without a socket."""

    def __init__(self, factory: _Factory | None = None) -> None:
        self.clock = Clock()
        self.factory = factory or _Factory(self.clock, ANSWERS)
        self.protocol = self.factory.buildProtocol(None)
        self.transport = StringTransport()
        if self.protocol is not None:
            self.protocol.makeConnection(self.transport)

    def said(self, *pieces: bytes) -> Any:
        for piece in pieces:
            self.protocol.dataReceived(piece)
        answer = self.transport.value()
        assert answer.count(b"\n") == 1
        return json.loads(answer)


def test_a_request_is_answered_once_and_the_line_closed() -> None:
    line = Line()
    assert line.said(b'{"ask": "double", "number": 21}\n{"ask": "double"}\n') == {"double": 42}
    assert line.transport.disconnecting
    line.protocol.dataReceived(b'{"ask": "double", "number": 1}\n')
    assert line.transport.value().count(b"\n") == 1


def test_a_request_may_come_in_pieces() -> None:
    request = b'{"ask": "double", "number": 21}\n'
    assert Line().said(*(request[at : at + 1] for at in range(len(request)))) == {"double": 42}


@pytest.mark.parametrize(
    ("request_line", "error"),
    [
        (b"\n", "Expecting value"),
        (b"status\n", "Expecting value"),
        (b"[]\n", "a request is an object"),
        (b"{}\n", "ask is one of broken, double"),
        (b'{"ask": ["double"]}\n', "ask is one of"),
        (b'{"ask": "triple"}\n', "ask is one of broken, double"),
        (b'{"ask": "double"}\n', "which number?"),
        (b"\xff\xfe\n", "Expecting value"),
        (b'{"ask": "\xff"}\n', "codec can't decode"),
        (b"[" * 3000 + b"\n", "recursion"),
        (b"x" * (LONGEST + 1), "more than 4096 bytes"),
    ],
)
def test_a_request_that_makes_no_sense_gets_a_sentence(request_line: bytes, error: str) -> None:
    assert error in Line().said(request_line)["error"]


def test_a_mistake_of_ours_is_logged_and_not_shown() -> None:
    with LogLines() as lines:
        assert Line().said(b'{"ask": "broken"}\n') == {"error": "this failed, see the log of the proxy"}
    assert "ZeroDivisionError" in str(lines.events[0]["log_failure"])


class Later:
    """A desk whose answer comes when the test says so."""

    def __init__(self) -> None:
        self.answer: Deferred[Mapping[str, Any]] = Deferred()
        self.line = Line(_Factory(Clock(), {"later": lambda asked: self.answer}))
        self.line.protocol.dataReceived(b'{"ask": "later"}\n')

    @property
    def said(self) -> bytes:
        return self.line.transport.value()


def test_an_answer_may_come_later() -> None:
    later = Later()
    assert (later.said, later.line.transport.disconnecting) == (b"", False)
    later.answer.callback({"it": 1})
    assert (later.said, later.line.transport.disconnecting) == (b'{"it": 1}\n', True)


def test_one_that_comes_to_nothing_is_told_as_well() -> None:
    later = Later()
    later.answer.errback(ValueError("there is none"))
    assert later.said == b'{"error": "there is none"}\n'
    later = Later()
    with LogLines() as lines:
        later.answer.errback(ZeroDivisionError())
    assert later.said == b'{"error": "this failed, see the log of the proxy"}\n'
    assert "ZeroDivisionError" in str(lines.events[0]["log_failure"])


def test_an_answer_for_who_has_gone_is_dropped() -> None:
    later = Later()
    later.line.protocol.connectionLost()
    later.answer.callback({"it": 1})
    assert later.said == b""


def test_who_says_nothing_is_cut_off() -> None:
    line = Line()
    aborted: list[int] = []
    line.transport.abortConnection = lambda: aborted.append(1)  # type: ignore[method-assign]
    line.protocol.dataReceived(b'{"ask"')
    line.clock.advance(PATIENCE)
    assert aborted == [1]


def test_few_are_listened_to_at_a_time() -> None:
    factory = _Factory(Clock(), ANSWERS)
    lines = [Line(factory) for _ in range(MOST)]
    assert Line(factory).protocol is None
    lines[0].protocol.connectionLost()
    assert Line(factory).protocol is not None
    for line in lines[1:]:
        line.protocol.connectionLost()
    assert factory.open == 1
    assert len(factory.reactor.getDelayedCalls()) == 1


# -- The socket ---------------------------------------------------------------------------------------------


class World:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.services: list[AdminSocket] = []

    def start(self, path: Path | None = None) -> AdminSocket:
        service = AdminSocket(reactor, ANSWERS, path or self.path)
        self.services.append(service)
        service.privilegedStartService()
        service.startService()
        return service

    async def double(self, number: int, path: Path | None = None) -> Any:
        wire = Wire.to(str(path or self.path))
        await wire.send(json.dumps({"ask": "double", "number": number}).encode() + b"\n")
        await wire.ends()
        wire.close()
        return json.loads(wire.got)["double"]


@async_yield_fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path / "s")
    before = open_files()
    yield made
    for service in made.services:
        await maybeDeferred(service.stopService)
    await until(lambda: open_files() <= before)


@ensureDeferred
async def test_it_listens_for_its_owner_alone_and_leaves_nothing_behind(world: World) -> None:
    service = world.start()
    state = os.stat(world.path)
    assert stat.S_ISSOCK(state.st_mode)
    assert stat.S_IMODE(state.st_mode) == 0o600
    assert await world.double(4) == 8
    await maybeDeferred(service.stopService)
    assert list(world.path.parent.iterdir()) == []


@ensureDeferred
async def test_what_a_killed_process_left_is_taken_over(world: World) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(world.path))
    world.start()
    assert await world.double(4) == 8


@ensureDeferred
async def test_the_socket_of_a_living_proxy_is_not(world: World) -> None:
    world.start()
    with pytest.raises(StartError, match="another proxy listens on"):
        world.start()
    assert await world.double(4) == 8


@ensureDeferred
async def test_what_is_no_socket_is_left_alone(world: World) -> None:
    world.path.write_text("precious")
    with pytest.raises(StartError, match="no socket"):
        world.start()
    assert world.path.read_text() == "precious"


@ensureDeferred
async def test_a_folder_that_is_not_there_is_a_mistake_to_be_told(world: World) -> None:
    with pytest.raises(StartError, match=r"No such file or directory\. Its folder has to exist"):
        world.start(world.path / "deeper")


@ensureDeferred
async def test_a_reload_moves_it(world: World) -> None:
    service, other = world.start(), world.path.with_name("other")
    opened = service.open(other)
    assert await world.double(1) == 2
    service.use(opened)
    await until(lambda: not world.path.exists())
    assert await world.double(2, other) == 4
    service.use(service.open(None))
    await until(lambda: not other.exists())
    service.use(service.open(world.path))
    assert await world.double(3) == 6


@ensureDeferred
async def test_a_reload_that_is_refused_leaves_it(world: World) -> None:
    service, other = world.start(), world.path.with_name("other")
    service.give_up(service.open(other))
    service.give_up(service.open(world.path))
    await until(lambda: not other.exists())
    assert await world.double(1) == 2
    with pytest.raises(StartError):
        service.open(world.path / "deeper")
    assert await world.double(1) == 2


@ensureDeferred
async def test_a_file_that_is_gone_keeps_nobody_from_stopping(world: World) -> None:
    service = world.start()
    world.path.unlink()
    await maybeDeferred(service.stopService)
    assert list(world.path.parent.iterdir()) == []


@ensureDeferred
async def test_the_mode_of_other_new_files_is_as_before(world: World) -> None:
    before = os.umask(0o022)
    os.umask(before)
    world.start()
    after = os.umask(before)
    assert after == before


@ensureDeferred
async def test_nobody_else_may_open_it_even_while_it_is_made(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes: list[int] = []
    real = os.chmod

    def watched(path: Any, mode: int) -> None:
        modes.append(stat.S_IMODE(os.stat(path).st_mode))
        real(path, mode)

    monkeypatch.setattr(os, "chmod", watched)
    world.start()
    assert modes == [0o600]
