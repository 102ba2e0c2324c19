"""The hosts folder: a directory decides as it is now, and errors become the right alert (S-12 to S-15)."""

from __future__ import annotations

import errno
import os
import socket
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pytest_twisted import async_yield_fixture, ensureDeferred
from twisted.internet import reactor
from twisted.internet.defer import maybeDeferred
from twisted.internet.task import Clock

from rproxy.deadlines import Deadlines
from rproxy.errors import PeerTimeout, PeerUnreachable, TooMany, UnknownName
from rproxy.interfaces import Arrival
from rproxy.services.hosts import HostRoute, HostsFolder
from rproxy.services.listeners import PatientReactor
from rproxy.splice import Pipes
from rproxy.wire.address import Inet
from rproxy.wire.clienthello import ClientHello
from rproxy.wire.hostname import hashed
from tests.fakes import Backend, Journal, LogLines, Wire, until

CLIENT, TARGET = Inet("192.0.2.7", 1234), Inet("198.51.100.1", 443)
HEADER = b"PROXY TCP4 192.0.2.7 198.51.100.1 1234 443\r\n"


def arrival(name: str) -> Arrival:
    return Arrival("fd:0", CLIENT, CLIENT, TARGET, hello=ClientHello(name, (), (0x0304,)))


class Hosts:
    """A folder that is served; connections come in as if peek had chosen it."""

    def __init__(self, directory: Path, hash_names: bool = False) -> None:
        self.directory, self.journal, self.pipes = directory, Journal(), Pipes()
        self.folder = HostsFolder(
            reactor, directory, self.journal, self.pipes, Deadlines(Clock()), hash_names=hash_names
        )
        self.opened: list[Any] = []
        self.ports: list[Any] = []

    def host(self, name: str, *files: str) -> Backend:
        (self.directory / name).mkdir(exist_ok=True)
        for file in files:
            (self.directory / name / file).touch()
        self.opened.append(Backend(str(self.directory / name / "tls-socket")))
        return self.opened[-1]

    def connect(self, name: str) -> Wire:
        route: Any = self.folder.find(name)
        self.ports.append(PatientReactor(reactor).listenTCP(0, Once(route, name), interface="127.0.0.1"))
        self.opened.append(Wire.to(("127.0.0.1", self.ports[-1].getHost().port)))
        return self.opened[-1]

    async def answer(self, name: str) -> bytes:
        wire = self.connect(name)
        await wire.ends()
        return bytes(wire.got)

    async def close(self) -> None:
        for thing in self.opened:
            thing.close()
        await until(lambda: len(self.journal.ends) == len(self.ports))
        for port in self.ports:
            await maybeDeferred(port.stopListening)
        self.pipes.close()


class Once:
    """Gives a route the arrival."""

    def __init__(self, route: Any, name: str) -> None:
        self.route, self.name = route, name

    def doStart(self) -> None:
        pass

    def doStop(self) -> None:
        pass

    def buildProtocol(self, addr: Any) -> Any:
        return self.route.buildProtocol(arrival(self.name))


@async_yield_fixture()  # type: ignore[untyped-decorator]
async def hosts(tmp_path: Path) -> AsyncIterator[Hosts]:
    it = Hosts(tmp_path)
    yield it
    await it.close()


@ensureDeferred
async def test_a_name_leads_to_its_socket(hosts: Hosts) -> None:
    backend = hosts.host("a.example")
    wire = hosts.connect("a.example")
    server = await backend.accept()
    await wire.send(b"hello")
    assert await server.receive(5) == b"hello"
    server.close()
    wire.close()
    await until(lambda: hosts.journal.ends)
    end = hosts.journal.end
    assert (end.app, end.peer) == ("hosts", f"unix:{hosts.directory}/a.example/tls-socket")


@ensureDeferred
@pytest.mark.parametrize("kind", ["file", "directory", "link", "dangling"])
async def test_send_proxy_v1_is_whatever_can_be_stated(hosts: Hosts, kind: str) -> None:
    backend = hosts.host("a.example")
    switch = hosts.directory / "a.example" / "send-proxy-v1"
    match kind:
        case "file":
            switch.touch()
        case "directory":
            switch.mkdir()
        case "link":
            switch.symlink_to("/dev/null")
        case _:
            switch.symlink_to("nowhere")
    wire = hosts.connect("a.example")
    server = await backend.accept()
    await wire.send(b"hello")
    wanted = b"hello" if kind == "dangling" else HEADER + b"hello"
    assert await server.receive(len(wanted)) == wanted
    server.close()


@ensureDeferred
async def test_without_a_listener_the_name_is_unknown(hosts: Hosts) -> None:
    hosts.host("dead.example").close()
    (hosts.directory / "empty.example").mkdir()
    (hosts.directory / "file.example").mkdir()
    (hosts.directory / "file.example" / "tls-socket").touch()
    (hosts.directory / "plain.example").touch()
    for name in ("dead.example", "empty.example", "file.example", "plain.example"):
        assert await hosts.answer(name) == bytes.fromhex("15030300020270")
    assert {end.reason for end in hosts.journal.ends} == {"unknown_name"}


@ensureDeferred
async def test_a_folder_without_a_socket_is_no_news_however_often_it_is_asked_for(hosts: Hosts) -> None:
    (hosts.directory / "empty.example").mkdir()
    with LogLines() as log:
        for _ in range(3):
            assert await hosts.answer("empty.example") == bytes.fromhex("15030300020270")
    assert log.texts("rproxy.upstream") == []


@ensureDeferred
async def test_a_path_that_is_too_long_is_our_trouble(hosts: Hosts) -> None:
    name = "x" * 60 + "." + "y" * 60
    (hosts.directory / name).mkdir()
    assert await hosts.answer(name) == bytes.fromhex("15030300020250")


@ensureDeferred
async def test_hosts_come_move_and_go_without_a_word(hosts: Hosts) -> None:
    assert hosts.folder.find("new.example") is None
    one, two = hosts.host("one"), hosts.host("two")
    link = hosts.directory / "new.example"
    for backend, target in ((one, "one"), (two, "two")):
        (hosts.directory / "next").symlink_to(target)
        (hosts.directory / "next").rename(link)
        wire = hosts.connect("new.example")
        (await backend.accept()).close()
        wire.close()
    link.unlink()
    assert hosts.folder.find("new.example") is None


@ensureDeferred
async def test_hashed_names_are_looked_up_by_their_hash_only() -> None:
    short = tempfile.TemporaryDirectory()  # 43 characters of hash and pytest's own would be too much
    it = Hosts(Path(short.name), hash_names=True)
    it.host("plain.example")
    backend = it.host(hashed("a.example"))
    assert it.folder.find("plain.example") is None
    wire = it.connect("a.example")
    (await backend.accept()).close()
    assert await wire.ends() == "eof"
    await it.close()
    short.cleanup()


def quiet(tmp_path: Path) -> HostsFolder:
    return HostsFolder(Clock(), tmp_path, Journal(), Pipes(), Deadlines(Clock()), connect_timeout=1.5)


def test_a_name_above_what_the_filesystem_takes_is_left_to_connecting(tmp_path: Path) -> None:
    assert isinstance(quiet(tmp_path).find("a" * 256), HostRoute)


def test_a_host_gets_the_folders_time_outs(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    route: Any = quiet(tmp_path).find("a")
    assert (route.connect_timeout, route.idle_timeout, route.app) == (1.5, 600.0, "hosts")


@pytest.mark.parametrize("code", [errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ECONNREFUSED])
def test_nobody_there_is_an_unknown_name(tmp_path: Path, code: int) -> None:
    (tmp_path / "a").mkdir()
    route: Any = quiet(tmp_path).find("a")
    assert isinstance(route.refusal(PeerUnreachable(os.strerror(code), code)), UnknownName)


@pytest.mark.parametrize(
    "refusal",
    [
        PeerUnreachable("x", errno.ENAMETOOLONG),
        PeerUnreachable("x", errno.ENOTSOCK),
        PeerTimeout("x"),
        TooMany("x"),
    ],
)
def test_all_else_stays_what_it_is(tmp_path: Path, refusal: Any) -> None:
    (tmp_path / "a").mkdir()
    route: Any = quiet(tmp_path).find("a")
    assert route.refusal(refusal) is refusal


def test_where_the_header_says_no_target_the_socket_does(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "send-proxy-v1").touch()
    route: Any = quiet(tmp_path).find("a")
    with socket.create_server(("127.0.0.1", 0)) as ours:

        class Transport:
            def getHandle(self) -> socket.socket:
                return ours

        line = route.preamble(Arrival("fd:0", CLIENT, CLIENT), Transport())
        assert line == b"PROXY TCP4 192.0.2.7 127.0.0.1 1234 %d\r\n" % ours.getsockname()[1]
