"""Clients that stall, trickle or come in crowds: they wait for themselves, and nobody waits for them."""

from __future__ import annotations

import os
import resource
import socket
import time
from collections.abc import Iterator

import pytest

from tests.e2e.conftest import Serving
from tests.e2e.programs import Programs, until
from tests.e2e.streams import (
    USER_CANCELED,
    Backend,
    all_of,
    ask,
    call,
    client_hello,
    connect,
    echo,
    exactly,
    saying,
)

DELAY = 0.3 if os.environ.get("CI") else 0.1
"""Seconds that a client may wait because of others."""
STALLED = 1000


def app(backend: Backend) -> str:
    return f'[apps.a]\nserver_name = "a.test"\npassthrough = {{ upstream = [{backend.location}] }}\n'


@pytest.fixture
def room() -> Iterator[None]:
    """File descriptors for a crowd, for us and for the programs we start."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4 * STALLED
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"{wanted} file descriptors are not to be had here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_trickled_hello_has_as_much_time_as_any_other(programs: Programs, serving: Serving) -> None:
    proxy = programs.rproxy('hello_timeout = "1s"\n' + app(serving(echo)))
    with connect(proxy.port) as client:
        client.settimeout(0.2)
        began, answer = time.monotonic(), b""
        for byte in client_hello("a.test"):
            client.sendall(bytes([byte]))
            try:
                answer = client.recv(100)
                break
            except TimeoutError:
                pass
        assert 0.9 < time.monotonic() - began < 2
        assert answer == USER_CANCELED
    until(lambda: proxy.ends(), "the end in the log")
    assert proxy.ends()[0]["reason"] == "too_slow"


def test_silence_is_answered_with_alert_90(programs: Programs, serving: Serving) -> None:
    proxy = programs.rproxy('hello_timeout = "500ms"\n' + app(serving(echo)))
    with connect(proxy.port) as client:
        assert all_of(client) == USER_CANCELED


def test_a_hello_in_pieces_is_served(programs: Programs, serving: Serving) -> None:
    proxy = programs.rproxy(app(serving(saying(b"served"))))
    hello = client_hello("a.test")
    with connect(proxy.port) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(hello), 50):
            client.sendall(hello[start : start + 50])
            time.sleep(0.005)
        assert all_of(client) == b"served"


@pytest.mark.usefixtures("room")
def test_a_thousand_stalled_clients_delay_nobody(programs: Programs, serving: Serving) -> None:
    proxy = programs.rproxy("max_clients = 2000\n" + app(serving(saying(b"served"))))
    half = client_hello("a.test")[:100]
    stalled = [connect(proxy.port, f"127.0.0.{2 + number % 50}") for number in range(STALLED)]
    for client in stalled:
        client.sendall(half)
    until(lambda: proxy.fds > STALLED, "all are accepted")
    took = []
    for _ in range(30):
        began = time.monotonic()
        assert ask(proxy.port, "a.test") == b"served"
        took.append(time.monotonic() - began)
    assert max(took) < DELAY
    for client in stalled:
        client.close()
    until(lambda: proxy.fds < 100, "all are gone")


def test_no_more_than_max_clients_are_served_at_once(programs: Programs, serving: Serving) -> None:
    proxy = programs.rproxy("max_clients = 3\n" + app(serving(echo)))
    held = [call(proxy.port, "a.test", b"x") for _ in range(3)]
    assert [exactly(client, 1) for client in held] == [b"x"] * 3
    for _ in range(5):
        assert ask(proxy.port, "a.test") == b""
    held.pop().close()
    until(lambda: proxy.ends(), "the end in the log")
    with call(proxy.port, "a.test", b"x") as fresh:
        assert exactly(fresh, 1) == b"x"
    for client in held:
        client.sendall(b"y")
        assert exactly(client, 1) == b"y"
        client.close()
    assert proxy.log.count("max_clients = 3 is reached") == 1


def test_no_more_than_max_clients_per_ip_are_served_for_one_address(
    programs: Programs, serving: Serving
) -> None:
    proxy = programs.rproxy("max_clients_per_ip = 2\n" + app(serving(echo)))
    held = [call(proxy.port, "a.test", b"x") for _ in range(2)]
    assert [exactly(client, 1) for client in held] == [b"x"] * 2
    assert ask(proxy.port, "a.test") == b""
    with call(proxy.port, "a.test", b"x", source="127.0.0.2") as other:
        assert exactly(other, 1) == b"x"
    held.pop().close()
    until(lambda: len(proxy.ends()) == 2, "the ends in the log")
    with call(proxy.port, "a.test", b"x") as fresh:
        assert exactly(fresh, 1) == b"x"
    held.pop().close()


def test_the_client_behind_a_proxy_is_the_one_that_is_counted(programs: Programs, serving: Serving) -> None:
    proxy = programs.rproxy(
        'max_clients_per_ip = 1\naccept_proxy_protocol = { from = ["127.0.0.1"] }\n' + app(serving(echo))
    )

    def behind(address: str) -> socket.socket:
        client = connect(proxy.port)
        client.sendall(
            f"PROXY TCP4 {address} 127.0.0.1 1000 443\r\n".encode() + client_hello("a.test") + b"x"
        )
        return client

    with behind("192.0.2.1") as one, behind("192.0.2.2") as two:
        assert exactly(one, 1) == exactly(two, 1) == b"x"
        with behind("192.0.2.1") as three:
            assert all_of(three) == b""
