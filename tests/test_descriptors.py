"""Open files that travel over unix sockets: between the reactor's transports, and over full sockets."""

from __future__ import annotations

import fcntl
import os
import socket
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.error import ConnectionDone, FileDescriptorOverrun
from twisted.internet.interfaces import IFileDescriptorReceiver, IUNIXTransport
from zope.interface import implementer
from zope.interface.verify import verifyObject

from rproxy.descriptors import MOST_WAITING, UnixServer
from tests.fakes import LogLines, Loop, Remembering, open_files
from tests.hands import Hands, Made, hands


@implementer(IFileDescriptorReceiver)
class Receiving(Remembering):
    """Keeps the open files, and what it had read when each came."""

    def __init__(self, **on: Any) -> None:
        super().__init__(**on)
        self.numbers: list[int] = []
        self.before: list[bytes] = []

    def fileDescriptorReceived(self, descriptor: int) -> None:
        self.numbers.append(descriptor)
        self.before.append(self.octets)


class Receivers(Made):
    def buildProtocol(self, addr: Any) -> Any:
        self.built.append(Receiving(**self.on))
        return self.built[-1]


@pytest.fixture
def place() -> Iterator[Hands]:
    with hands() as made:
        yield made


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "file").write_text("content")
    number = os.open(tmp_path / "file", os.O_RDONLY)
    yield number
    os.close(number)


def connected(place: Hands, tmp_path: Path, server: Made, client: Made) -> tuple[Any, Any]:
    place.reactor.listenUNIX(str(tmp_path / "s"), server)
    place.reactor.connectUNIX(str(tmp_path / "s"), client)
    place.until(lambda: server.built and client.built and client.built[0].transport)
    return server.protocol_, client.protocol_


def names(numbers: list[int]) -> set[str]:
    """What they are open on; closes them."""
    found = {os.readlink(f"/proc/self/fd/{number}").rpartition("/")[2] for number in numbers}
    for number in numbers:
        os.close(number)
    return found


@pytest.mark.parametrize("first", ["the files", "the bytes"])
def test_files_arrive_before_the_bytes_that_carry_them(
    place: Hands, tmp_path: Path, file: int, first: str
) -> None:
    server, client = connected(place, tmp_path, Receivers(), Made())
    if first == "the bytes":
        client.transport.write(b"abc")
    for _ in range(3):
        client.transport.sendFileDescriptor(file)
    if first == "the files":
        client.transport.write(b"abc")
    place.until(lambda: server.octets == b"abc")
    assert server.before == [b"", b"a", b"ab"]
    assert not any(os.get_inheritable(number) for number in server.numbers), "a child would have them"
    assert names(server.numbers) == {"file"}


def test_they_provide_what_twisteds_do_and_know_their_places(place: Hands, tmp_path: Path) -> None:
    server, client = connected(place, tmp_path, Made(), Made())
    for protocol in (server, client):
        verifyObject(IUNIXTransport, protocol.transport)
        protocol.transport.setTcpNoDelay(True)
        assert protocol.transport.getTcpNoDelay() is False
    path = os.fsencode(tmp_path / "s")
    assert server.transport.getHost().name == client.transport.getPeer().name == path
    assert server.transport.logPrefix() == f"Remembering,0,{tmp_path / 's'}"
    assert repr(server.transport) == f"<Remembering #0 on {tmp_path / 's'}>"


def test_files_for_who_wants_none_are_closed_and_that_is_said(
    place: Hands, tmp_path: Path, file: int
) -> None:
    server, client = connected(place, tmp_path, Made(), Made())
    before = open_files("/", "socket:", "pipe:")
    with LogLines() as lines:
        client.transport.sendFileDescriptor(file)
        client.transport.write(b"with a file")
        place.until(lambda: server.octets == b"with a file")
    assert open_files("/", "socket:", "pipe:") <= before
    (line,) = lines.texts("rproxy.descriptors")
    assert line.startswith("Remembering takes no open files")


def test_a_file_without_a_byte_ends_the_connection(place: Hands, tmp_path: Path, file: int) -> None:
    _, client = connected(place, tmp_path, Receivers(), Made())
    client.transport.write(b"one")
    place.settle()
    client.transport.sendFileDescriptor(file)
    place.until(lambda: client.reason)
    assert client.reason is FileDescriptorOverrun


def test_what_is_no_bytes_is_refused(place: Hands, tmp_path: Path) -> None:
    _, client = connected(place, tmp_path, Made(), Made())
    with pytest.raises(TypeError):
        client.transport.write("text")
    client.transport.loseConnection()
    place.until(lambda: client.reason is ConnectionDone)
    client.transport.write(b"too late")


# -- Without a reactor: a socket that is full, and one that is gone


class Ours:
    """A transport over one end of a socket pair; the test holds the other."""

    def __init__(self) -> None:
        ours, self.other = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self.other.setblocking(False)
        self.loop, self.protocol = Loop(), Receiving()
        self.transport: Any = UnixServer(ours, self.protocol, "", None, 0, self.loop)
        self.protocol.makeConnection(self.transport)
        self.numbers: list[int] = []

    def read(self, size: int = 1 << 20) -> bytes:
        """What has come, with its files in `numbers`."""
        try:
            data, numbers, _, _ = socket.recv_fds(self.other, size, 16)
        except BlockingIOError:
            return b""
        self.numbers += numbers
        return data

    def close(self) -> None:
        self.transport.loseConnection()
        self.loop.spin()
        self.other.close()


@pytest.fixture
def ours() -> Iterator[Ours]:
    made = Ours()
    yield made
    made.close()


def test_files_wait_for_a_full_socket_and_lose_no_byte(ours: Ours, file: int) -> None:
    ours.transport.write(b"x" * 400_000)
    ours.loop.spin(3)
    assert ours.transport.unsent, "it is full"
    for _ in range(5):
        ours.transport.sendFileDescriptor(file)
    ours.transport.write(b"y" * 1000)
    got = b""
    while len(got) < 401_000:
        ours.loop.spin(1)
        got += ours.read(5000)
    assert got == b"x" * 400_000 + b"y" * 1000
    assert len(ours.numbers) == 5
    assert names(ours.numbers) == {"file"}


def test_many_files_pause_a_producer_until_they_are_gone(ours: Ours, file: int) -> None:
    calls: list[str] = []

    class Producer:
        pauseProducing = lambda self: calls.append("pause")  # noqa: E731
        resumeProducing = lambda self: calls.append("resume")  # noqa: E731
        stopProducing = lambda self: None  # noqa: E731

    ours.transport.registerProducer(Producer(), True)
    for number in range(MOST_WAITING + 1):
        assert calls == [], number
        ours.transport.sendFileDescriptor(file)
    assert calls == ["pause"]
    ours.transport.write(b"x" * (MOST_WAITING + 1))
    while "resume" not in calls or len(ours.numbers) <= MOST_WAITING:
        ours.loop.spin(1)
        ours.read()
    ours.transport.unregisterProducer()
    assert calls == ["pause", "resume"]
    assert names(ours.numbers) == {"file"}


def test_a_lost_socket_is_a_lost_connection_and_leaves_nothing_open(file: int) -> None:
    files, ours = open_files(), Ours()
    ours.other.close()
    ours.transport.sendFileDescriptor(file)
    ours.transport.write(b"x")
    ours.loop.spin()
    assert ours.protocol.calls[-1] == "lost"
    assert open_files() <= files
    fcntl.fcntl(file, fcntl.F_GETFD)  # the sender's own is the sender's to close


def test_many_files_in_one_message_come_in_order(ours: Ours, file: int) -> None:
    numbers = array("i", [file, 0, 1] * 40)
    ours.other.sendmsg([b"z"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)])
    ours.loop.spin()
    assert len(ours.protocol.numbers) == 120
    assert ours.protocol.octets == b"z"
    stats = [os.fstat(number)[:3] for number in ours.protocol.numbers]
    assert stats == [os.fstat(number)[:3] for number in numbers]
    for number in ours.protocol.numbers:
        os.close(number)
