"""Listening sockets: a reason when they cannot open, kept over changes, patient without room."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pytest_twisted import async_yield_fixture, ensureDeferred
from twisted.internet import reactor
from twisted.internet.defer import maybeDeferred
from twisted.internet.protocol import Factory, Protocol

from rproxy.errors import StartError
from rproxy.services.listeners import Listeners, Wanted
from tests.fakes import LogLines, Wire, open_files, turn, until


class Greeting(Protocol):
    def connectionMade(self) -> None:
        self.transport.write(self.factory.greeting)  # type: ignore[union-attr, attr-defined]
        self.transport.loseConnection()  # type: ignore[union-attr]


class Greeter(Factory):
    """Says which listener it was built for."""

    protocol = Greeting  # type: ignore[assignment]
    noisy = False

    def __init__(self, name: str) -> None:
        self.greeting = name.encode()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


def tcp(port: int) -> Wanted:
    return Wanted(f"tcp:{port}:interface=127.0.0.1", 50)


async def greeting(address: Any) -> str:
    wire = Wire.to(address)
    await wire.ends()
    wire.close()
    return wire.got.decode()


async def port_greeting(port: int) -> str:
    return await greeting(("127.0.0.1", port))


class Making:
    def __init__(self) -> None:
        self.made: list[Listeners] = []
        self.built: list[str] = []

    def __call__(self, *wanted: Wanted) -> Listeners:
        self.made.append(Listeners(reactor, wanted, self.build))
        return self.made[-1]

    def build(self, name: str) -> Any:
        self.built.append(name)
        return Greeter(name)


@async_yield_fixture()  # type: ignore[untyped-decorator]
async def make() -> AsyncIterator[Making]:
    files, making = open_files(), Making()
    yield making
    for made in making.made:
        await maybeDeferred(made.stopService)
    await until(lambda: open_files() <= files)


@ensureDeferred
async def test_every_wanted_listener_is_open_before_privileges_go(make: Making) -> None:
    one, two = free_port(), free_port()
    it = make(tcp(one), tcp(two))
    it.privilegedStartService()
    assert await port_greeting(one) == tcp(one).name
    it.startService()
    assert await port_greeting(two) == tcp(two).name
    assert list(it.ports) == [tcp(one).name, tcp(two).name]
    assert make.built == [tcp(one).name, tcp(two).name]


@ensureDeferred
async def test_without_a_privileged_start_the_start_opens(make: Making) -> None:
    port = free_port()
    make(tcp(port)).startService()
    assert await port_greeting(port) == tcp(port).name


@ensureDeferred
async def test_a_stopped_listener_frees_its_port(make: Making) -> None:
    port = free_port()
    it = make(tcp(port))
    it.startService()
    await it.stopService()
    assert it.ports == {}
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) == errno.ECONNREFUSED


@ensureDeferred
async def test_unix_and_ipv6_are_listened_on(make: Making, tmp_path: Path) -> None:
    unix, six = Wanted(f"unix:{tmp_path}/s", 9), Wanted("tcp6:0:interface=\\:\\:1", 9)
    it = make(unix, six)
    it.startService()
    assert await greeting(f"{tmp_path}/s") == unix.name
    assert it.ports[six.name].getHost().host == "::1"


@ensureDeferred
async def test_every_address_of_both_families_on_one_port(make: Making) -> None:
    """R-G-3: an IPv6 socket of Linux takes IPv4 too, unless it is told not to."""
    port = free_port()
    four, six = (
        Wanted(f"tcp:{port}:interface=0.0.0.0", 9),
        Wanted(f"tcp6:{port}:interface=\\:\\:", 9, v6_only=True),
    )
    it = make(four, six)
    it.privilegedStartService()
    assert await port_greeting(port) == four.name
    with socket.create_connection(("::1", port), timeout=2) as client:
        wire = Wire(client)
        await wire.ends()
        assert wire.got.decode() == six.name


@ensureDeferred
async def test_accepted_sockets_send_segments_as_they_come(make: Making) -> None:
    port = free_port()
    it = make(tcp(port))
    it.startService()
    assert it.ports[tcp(port).name].socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.parametrize(
    ("wanted", "endpoint"),
    [
        (Wanted("tcp:443", 7), "tcp:443:backlog=7"),
        (Wanted("tcp6:443:interface=\\:\\:1", 7), "tcp6:443:interface=\\:\\:1:backlog=7"),
        (Wanted("unix:/run/a", 7), "unix:/run/a:backlog=7"),
        (Wanted("tcp:443:backlog=3", 7), "tcp:443:backlog=3"),
        (Wanted("systemd:domain=INET:index=0", 7), "systemd:domain=INET:index=0"),
    ],
)
def test_the_configured_queue_is_added_where_there_is_none(wanted: Wanted, endpoint: str) -> None:
    assert wanted.endpoint == endpoint


@ensureDeferred
async def test_a_taken_port_says_so_and_what_to_do_and_nothing_stays_open(make: Making) -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = tcp(other.getsockname()[1])
        it = make(tcp(port), taken, Wanted("tcp:1:interface=203.0.113.1", 9))
        with pytest.raises(StartError) as error:
            it.privilegedStartService()
        first, second = str(error.value).splitlines()
        assert first == (
            f"cannot listen on {taken.name}: Address already in use. "
            "Another program has this port; `ss -ltnp` names it."
        )
        assert second.startswith(
            "cannot listen on tcp:1:interface=203.0.113.1: Cannot assign requested address."
        )
    assert it.ports == {}
    for _ in range(3):
        await turn()


BAD = {
    "nonsense:1": "Unknown endpoint type: 'nonsense'",
    "tcp:443:bogus=1": "bogus",
    "tcp:443:interface=127.0.0.1:backlog=x": "invalid literal",
    "systemd:domain=INET:index=7": "cannot listen",
    "fd:987": "Bad file descriptor. No such file descriptor was handed over.",
    "unix:/nonexistent-directory/s": "No such file or directory",
    "ssl:0:privateKey=/nonexistent-directory/key": "No such file or directory",
    "systemd:domain=INET:name=nonesuch": "nonesuch",
}


@ensureDeferred
@pytest.mark.parametrize("name", BAD)
async def test_an_endpoint_that_cannot_be_used_is_text_and_no_traceback(make: Making, name: str) -> None:
    with pytest.raises(StartError) as error:
        make(Wanted(name, 50)).startService()
    assert str(error.value).startswith(f"cannot listen on {name}: ")
    assert BAD[name] in str(error.value)


@ensureDeferred
async def test_whatever_a_plugin_raises_for_a_mistake_is_text(make: Making, tmp_path: Path) -> None:
    """OpenSSL's own error is no kind of any of Python's."""
    key = tmp_path / "key.pem"
    key.write_text("-----BEGIN PRIVATE KEY-----\nnonsense\n-----END PRIVATE KEY-----\n")
    bad, old = Wanted(f"ssl:0:privateKey={key}", 50), tcp(free_port())
    with pytest.raises(StartError, match=r"^cannot listen on ssl:0:"):
        make(bad).startService()
    it = make(old)
    it.startService()
    with pytest.raises(StartError, match=r"^cannot listen on ssl:0:"):
        it.change([bad])
    assert list(it.ports) == [old.name]
    assert open_port(old)


@ensureDeferred
async def test_an_inherited_socket_is_adopted_and_at_the_stop_left_to_a_successor(make: Making) -> None:
    inherited = socket.create_server(("127.0.0.1", 0))
    address = inherited.getsockname()
    with inherited, inherited.dup() as successor:
        it = make(Wanted(f"fd:{inherited.fileno()}", 50))
        it.startService()
        assert await greeting(address) == f"fd:{inherited.fileno()}"
        await it.stopService()
        assert os.path.samestat(os.fstat(inherited.fileno()), os.stat(os.devnull)), "the number stays taken"
        with socket.create_connection(address, timeout=2):
            successor.accept()[0].close()


@ensureDeferred
async def test_when_nobody_else_has_it_connections_are_refused_after_the_stop(make: Making) -> None:
    with socket.create_server(("127.0.0.1", 0)) as inherited:
        address = inherited.getsockname()
        it = make(Wanted(f"fd:{inherited.fileno()}", 50))
        it.startService()
        await it.stopService()
        with socket.socket() as probe:
            assert probe.connect_ex(address) == errno.ECONNREFUSED


@ensureDeferred
async def test_an_inherited_unix_socket_is_adopted(make: Making, tmp_path: Path) -> None:
    with socket.create_server(f"{tmp_path}/s", family=socket.AF_UNIX) as inherited:
        (tmp_path / "s").chmod(0o600)
        it = make(Wanted(f"fd:{inherited.fileno()}", 50))
        it.startService()
        assert (await greeting(f"{tmp_path}/s")).startswith("fd:")
        await it.stopService()
        assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o600, "whoever made it may come back to it"


@ensureDeferred
async def test_what_is_inherited_has_to_be_a_listening_socket(make: Making) -> None:
    with socket.socket() as idle, pytest.raises(StartError, match="is a socket, but not a listening one"):
        make(Wanted(f"fd:{idle.fileno()}", 50)).startService()
    with open(os.devnull) as file, pytest.raises(StartError, match="It has to be a listening socket"):
        make(Wanted(f"fd:{file.fileno()}", 50)).startService()


@ensureDeferred
async def test_a_change_opens_keeps_and_closes(make: Making) -> None:
    stays, goes, comes = tcp(free_port()), tcp(free_port()), tcp(free_port())
    it = make(stays, goes)
    it.startService()
    before = it.ports[stays.name]
    it.change([comes, stays])
    assert it.ports[stays.name] is before
    assert set(it.ports) == {stays.name, comes.name}
    await until(lambda: not open_port(goes))
    assert open_port(comes)
    assert make.built.count(stays.name) == 1


def open_port(wanted: Wanted) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", int(wanted.name.split(":")[1]))) == 0


@ensureDeferred
async def test_a_change_that_cannot_be_made_changes_nothing(make: Making) -> None:
    stays, comes = tcp(free_port()), tcp(free_port())
    it = make(stays)
    it.startService()
    with socket.create_server(("127.0.0.1", 0)) as other:
        with pytest.raises(StartError, match="Address already in use"):
            it.change([stays, comes, tcp(other.getsockname()[1])])
        assert list(it.ports) == [stays.name]
    await until(lambda: not open_port(comes))
    assert open_port(stays)


@ensureDeferred
async def test_a_listener_may_take_the_address_of_one_that_goes(make: Making) -> None:
    port = free_port()
    old, new = Wanted(f"tcp:{port}", 50), tcp(port)
    it = make(old)
    it.startService()
    it.change([new])
    await until(lambda: new.name in it.ports)
    assert list(it.ports) == [new.name]
    assert await port_greeting(port) == new.name


@ensureDeferred
@pytest.mark.parametrize("mistake", ["interface=203.0.113.1", "intreface=127.0.0.1", "backlog=x"])
async def test_a_mistake_in_the_place_of_a_listener_costs_no_listener(make: Making, mistake: str) -> None:
    """Only a taken address may become free when the old one goes."""
    port = free_port()
    old, late = Wanted(f"tcp:{port}", 50), tcp(port)
    it = make(old)
    it.startService()
    for wanted in ([Wanted(f"tcp:{port}:{mistake}", 50)], [late, Wanted(f"tcp:0:{mistake}", 50)]):
        with pytest.raises(StartError, match=mistake):
            it.change(wanted)
        for _ in range(3):
            await turn()
        assert list(it.ports) == [old.name]
        assert await port_greeting(port) == old.name


@ensureDeferred
async def test_after_a_stop_nothing_is_opened_late(make: Making) -> None:
    port = free_port()
    it = make(Wanted(f"tcp:{port}", 50))
    it.startService()
    it.change([tcp(port)])
    await it.stopService()
    for _ in range(5):
        await turn()
    assert it.ports == {}
    assert not open_port(tcp(port))


@ensureDeferred
async def test_that_an_inherited_socket_stays_open_when_it_is_removed_is_said(make: Making) -> None:
    with socket.create_server(("127.0.0.1", 0)) as inherited:
        goes, stays = Wanted(f"fd:{inherited.fileno()}", 50), tcp(free_port())
        it = make(goes, stays)
        it.startService()
        with LogLines() as log:
            it.change([stays])
            await turn()
    (said,) = log.texts("rproxy.services.listeners")
    assert said.startswith(f"{goes.name} is closed, but the kernel queues connections to it")


@ensureDeferred
async def test_when_that_fails_too_it_is_logged(make: Making) -> None:
    old = tcp(free_port())
    it = make(old)
    it.startService()
    with socket.create_server(("127.0.0.1", 0)) as other, LogLines() as log:
        taken = tcp(other.getsockname()[1])
        it.change([taken])
        await until(lambda: log.texts("rproxy.services.listeners"))
    assert (
        f"cannot listen on {taken.name}: Address already in use" in log.texts("rproxy.services.listeners")[0]
    )
    assert it.ports == {}


@ensureDeferred
async def test_connections_in_the_queue_are_served_before_the_port_closes(make: Making) -> None:
    port = free_port()
    it = make(tcp(port))
    it.startService()
    wires = [Wire.to(("127.0.0.1", port)) for _ in range(5)]
    stopped = it.stopService()
    for wire in wires:
        assert await wire.ends() == "eof"
        assert wire.got == tcp(port).name.encode()
        wire.close()
    await stopped
