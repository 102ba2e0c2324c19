"""Backends that fall ill, stall or break: nobody is sent to them while another one is well."""

from __future__ import annotations

import socket
import threading
import time

import pytest

from tests.e2e.conftest import Peer, Serving
from tests.e2e.peers import nginx
from tests.e2e.programs import Programs, free_port, until
from tests.e2e.streams import Backend, all_of, connect

CHECK = '{ type = "http", path = "/health", interval = "200ms", timeout = "150ms", %s }'
QUICK = "unhealthy_threshold = 2, healthy_threshold = 1"


class Ward:
    """A backend that says its name, and whether it is well where that is asked."""

    def __init__(self, name: bytes, serving: Serving) -> None:
        self.name, self.well = name, True
        self.mode = "answer"
        self.asked = self.probes = 0
        self.backend: Backend = serving(self.serve)

    @property
    def location(self) -> str:
        return self.backend.location

    def serve(self, stream: socket.socket) -> None:
        while head := self.read_head(stream):
            if head.startswith(b"GET /health "):
                self.probes += 1
                status, body = (b"200 OK", b"") if self.well else (b"503 Sorry", b"")
            else:
                self.asked += 1
                if self.mode == "break":
                    return
                if self.mode == "stall":
                    stream.recv(1)
                    return
                status, body = b"200 OK", self.name
            stream.sendall(b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body))

    @staticmethod
    def read_head(stream: socket.socket) -> bytes:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            byte = stream.recv(1)
            if not byte:
                return b""
            head += byte
        return head


def ask(port: int, method: str = "GET") -> tuple[int, bytes]:
    """The status and the body."""
    with connect(port) as client:
        client.sendall(f"{method} / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n".encode())
        answer = all_of(client)
    return int(answer.split(b" ", 2)[1]), answer.partition(b"\r\n\r\n")[2]


def config(port: int, wards: list[Ward], more: str) -> str:
    group = ", ".join(ward.location for ward in wards)
    return (
        f'listen_port = {port}\n[apps.a]\nserver_name = "a.test"\n'
        f'[[apps.a.reverse_proxy]]\nload_balance = "round_robin"\n{more}\nupstream = [{group}]\n'
    )


@pytest.fixture
def wards(serving: Serving) -> list[Ward]:
    return [Ward(b"first", serving), Ward(b"second", serving)]


def test_an_unhealthy_backend_gets_no_requests_until_it_is_well_again(
    programs: Programs, wards: list[Ward]
) -> None:
    port = free_port()
    proxy = programs.rproxy(config(port, wards, "health_check = " + CHECK % QUICK))
    assert {ask(port)[1] for _ in range(4)} == {b"first", b"second"}
    wards[0].well = False
    proxy.says("is unhealthy: it answers with 503 instead of 200")
    assert {ask(port)[1] for _ in range(6)} == {b"second"}
    wards[0].well = True
    proxy.says("is healthy again")
    assert {ask(port)[1] for _ in range(4)} == {b"first", b"second"}


def test_where_all_are_unhealthy_all_are_asked(programs: Programs, wards: list[Ward]) -> None:
    port = free_port()
    for ward in wards:
        ward.well = False
    proxy = programs.rproxy(config(port, wards, "health_check = " + CHECK % QUICK))
    proxy.says("is unhealthy", times=2)
    assert {ask(port) for _ in range(4)} == {(200, b"first"), (200, b"second")}
    time.sleep(0.7)  # some more bad probes
    assert proxy.log.count("is unhealthy") == 2, "once each"


def test_what_is_known_outlasts_a_reload(programs: Programs, wards: list[Ward]) -> None:
    port = free_port()
    wards[0].well = False
    text = config(port, wards, "health_check = " + CHECK % QUICK)
    proxy = programs.rproxy(text)
    proxy.says("is unhealthy")
    proxy.reload(text + '[apps.b]\nserver_name = "b.test"\nreverse_proxy = { location = "demo:" }\n')
    assert {ask(port)[1] for _ in range(6)} == {b"second"}
    proxy.reload(config(port, wards, ""))
    assert {ask(port)[1] for _ in range(4)} == {b"first", b"second"}
    time.sleep(0.3)  # a probe under way may still arrive
    probes = wards[0].probes
    time.sleep(0.7)
    assert wards[0].probes == probes, "nobody asks any more"


def test_a_tcp_check_finds_a_dead_nginx_before_a_client_does(programs: Programs, peer: Peer) -> None:
    ports = [free_port(), free_port()]
    servers = [
        nginx(
            programs, peer("nginx"), f"server {{ listen 127.0.0.1:{p}; return 200 {p}; }}", ("127.0.0.1", p)
        )
        for p in ports
    ]
    port = free_port()
    group = ", ".join(f'{{ location = "127.0.0.1:{p}" }}' for p in ports)
    check = 'health_check = { interval = "200ms", timeout = "100ms", unhealthy_threshold = 1 }'
    proxy = programs.rproxy(
        f'listen_port = {port}\n[apps.a]\nserver_name = "a.test"\n'
        f'[[apps.a.reverse_proxy]]\nload_balance = "round_robin"\n{check}\nupstream = [{group}]\n'
    )
    assert {ask(port)[1] for _ in range(4)} == {str(p).encode() for p in ports}
    servers[0].end()
    proxy.says(f"peer 127.0.0.1:{ports[0]} is unhealthy: Connection refused")
    assert {ask(port, "POST") for _ in range(6)} == {(200, str(ports[1]).encode())}
    assert " is down" not in proxy.log, "no request ever met it"


@pytest.mark.parametrize("mode", ["break", "stall"])
def test_a_backend_that_fails_to_answer_is_left_out_for_its_time(
    programs: Programs, wards: list[Ward], mode: str
) -> None:
    port = free_port()
    more = 'max_fails = 2\nfail_timeout = "60s"\nresponse_timeout = "300ms"'
    proxy = programs.rproxy(config(port, wards, more))
    wards[0].mode = mode
    expected = 502 if mode == "break" else 504
    statuses = [ask(port, "POST")[0] for _ in range(4)]
    assert sorted(statuses) == [200, 200, expected, expected]
    proxy.says(" is down: ")
    assert {ask(port, "POST") for _ in range(6)} == {(200, b"second")}
    assert wards[0].asked == 2


def test_without_a_limit_a_failing_backend_goes_on_being_asked(programs: Programs, wards: list[Ward]) -> None:
    port = free_port()
    proxy = programs.rproxy(config(port, wards, "max_fails = 0"))
    wards[0].mode = "break"
    assert [ask(port, "POST")[0] for _ in range(8)].count(502) == 4
    assert " is down" not in proxy.log


def test_no_get_fails_while_a_backend_dies_and_another_lives(programs: Programs, wards: list[Ward]) -> None:
    port = free_port()
    programs.rproxy(config(port, wards, ""))
    results: list[tuple[int, bytes]] = []

    def client() -> None:
        results.extend(ask(port) for _ in range(100))

    threads = [threading.Thread(target=client) for _ in range(4)]
    for thread in threads:
        thread.start()
    until(lambda: len(results) > 0 or wards[0].asked > 20, "requests are on their way")
    wards[0].backend.end()
    for thread in threads:
        thread.join()
    assert {status for status, _ in results} == {200}
    assert len(results) == 400


def test_idle_connections_to_a_backend_are_closed_after_their_time(
    programs: Programs, wards: list[Ward]
) -> None:
    port = free_port()
    programs.rproxy(config(port, wards[:1], 'upstream_keepalive_timeout = "400ms"'))
    assert ask(port) == (200, b"first")
    (stream,) = wards[0].backend.connections
    until(lambda: stream.fileno() == -1, "the backend sees the end", 3.0)
    assert ask(port) == (200, b"first")
    assert wards[0].backend.served == 2
