"""What connections take they give back; and what is missing for a while is missed without harm."""

from __future__ import annotations

import os
import resource
import signal
import socket
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e.conftest import Serving
from tests.e2e.programs import RPROXY, Program, Programs, Proxy, accepts, free_port, until, write_config
from tests.e2e.streams import INTERNAL_ERROR, ask, call, client_hello, connect, echo, exactly, saying

IN_FLIGHT = 32
CONNECTIONS = 20_000


def app(port: int) -> str:
    upstream = f'[{{ location = "127.0.0.1:{port}" }}]'
    return f'[apps.a]\nserver_name = "a.test"\npassthrough = {{ upstream = {upstream} }}\n'


@pytest.fixture
def elsewhere(programs: Programs) -> int:
    """The port of a backend that costs this process nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listening:
        number = listening.fileno()
        script = Path(__file__).with_name("echo_and_close.py")
        programs.start([sys.executable, script, number], "backend", pass_fds=[number])
        port: int = listening.getsockname()[1]
        return port


def many(port: int, count: int) -> Counter[bytes]:
    """The answers to `count` connections, `IN_FLIGHT` at a time."""

    def some(share: int) -> Counter[bytes]:
        return Counter(ask(port, "a.test") for _ in range(share))

    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        return sum(pool.map(some, [count // IN_FLIGHT] * IN_FLIGHT), Counter())


def settled(proxy: Program, fds: int) -> None:
    until(lambda: proxy.fds <= fds, f"{fds} open descriptors again; there are {proxy.fds}")


def test_twenty_thousand_connections_leave_nothing_behind(programs: Programs, elsewhere: int) -> None:
    proxy = programs.rproxy(f"max_clients = {2 * IN_FLIGHT}\n" + app(elsewhere))
    many(proxy.port, 2000)  # what is made once is made
    time.sleep(0.3)
    fds, memory = proxy.fds, proxy.rss
    assert many(proxy.port, CONNECTIONS) == {b"ok": CONNECTIONS}
    settled(proxy, fds)
    assert proxy.rss < 1.05 * memory
    # Not one ticket was lost: as many as may be open at once, are.
    clients = [connect(proxy.port) for _ in range(2 * IN_FLIGHT)]
    for client in clients:
        client.sendall(client_hello("a.test"))
    assert [exactly(client, 2) for client in clients] == [b"ok"] * len(clients)
    for client in clients:
        client.close()


def test_connections_that_fail_leave_nothing_behind(programs: Programs, elsewhere: int) -> None:
    proxy = programs.rproxy(f"max_clients = {2 * IN_FLIGHT}\n" + app(elsewhere))
    hello = client_hello("a.test")
    bad = [
        b"",
        b"\x00" * 50,
        hello[:100],
        client_hello("b.test"),
        b"GET / HTTP/1.0\r\n\r\n",
        b"\x16\x03\x01\x00\x00",
    ]

    def spoil(number: int) -> None:
        with connect(proxy.port) as client:
            client.sendall(bad[number % len(bad)])
            if number % 4:
                client.shutdown(socket.SHUT_WR)
                client.recv(100)

    ask(proxy.port, "a.test")
    fds = proxy.fds
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(spoil, range(600)))
    settled(proxy, fds)
    until(lambda: len(proxy.ends()) == 601, "a line in the log for each")
    assert many(proxy.port, 640) == {b"ok": 640}


def test_without_free_descriptors_the_connections_there_are_go_on(
    programs: Programs, serving: Serving
) -> None:
    backend = serving(echo)
    proxy = programs.rproxy("max_clients = 1000\n" + app(backend.port))
    with call(proxy.port, "a.test", b"x") as living:
        assert exactly(living, 1) == b"x"
        before = proxy.fds
        resource.prlimit(proxy.pid, resource.RLIMIT_NOFILE, (64, 64))
        stalled = [connect(proxy.port) for _ in range(200)]
        for client in stalled:
            client.sendall(client_hello("a.test")[:50])
        proxy.says("cannot accept")
        assert proxy.fds == 64
        processor = proxy.cpu
        for _ in range(10):
            living.sendall(b"y")
            assert exactly(living, 1) == b"y"
            time.sleep(0.1)
        assert proxy.cpu - processor < 0.3
        assert proxy.log.count("cannot accept") == 1
        for client in stalled:
            client.close()
        assert ask_once(proxy) == b"z"
        settled(proxy, before)
        assert proxy.log.count("cannot accept") < 10


def ask_once(proxy: Proxy) -> bytes:
    with call(proxy.port, "a.test", b"z") as client:
        return exactly(client, 1)


def test_a_peer_that_cannot_be_asked_for_want_of_descriptors_is_alert_80_and_no_traceback(
    programs: Programs, serving: Serving
) -> None:
    proxy = programs.rproxy("max_clients = 1000\n" + app(serving(echo).port))
    ask_once(proxy)
    free = 21
    limit = max(int(name) for name in os.listdir(f"/proc/{proxy.pid}/fd")) + 1 + free
    resource.prlimit(proxy.pid, resource.RLIMIT_NOFILE, (limit, limit))
    clients = [call(proxy.port, "a.test", b"z") for _ in range(60)]
    answers = set()
    for client in clients:  # the first ones make room for the last
        answers.add(client.recv(100))
        client.close()
    assert answers == {b"z", INTERNAL_ERROR}
    assert until(lambda: ask_once(proxy) == b"z", "service again")


def test_a_log_that_nobody_reads_any_more_costs_no_connection(programs: Programs, serving: Serving) -> None:
    backend = serving(saying(b"ok"))
    reader, writer = os.pipe()
    port, config = free_port(), programs.folder / "rproxy.toml"
    write_config(config, port, app(backend.port))
    program = programs.start([*RPROXY, "run", "--config", config], "unread", stdout=writer)
    os.close(writer)
    until(lambda: accepts(("127.0.0.1", port)), "it listens")
    os.close(reader)
    for _ in range(3):
        assert many(port, 64) == {b"ok": 64}
        time.sleep(0.2)
    program.signal(signal.SIGTERM)
    assert program.ended() == 0


def test_many_names_and_many_connections_at_once(programs: Programs, serving: Serving) -> None:
    backend = serving(saying(b"ok"))
    names = ", ".join(f'"host{number}.test"' for number in range(1000))
    proxy = programs.rproxy(
        f"[apps.a]\nserver_name = [{names}]\npassthrough = {{ upstream = [{backend.location}] }}\n"
    )
    with ThreadPoolExecutor(16) as pool:
        answers = pool.map(lambda number: ask(proxy.port, f"host{number}.test"), range(0, 1000, 5))
        assert set(answers) == {b"ok"}
