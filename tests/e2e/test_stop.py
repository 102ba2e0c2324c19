"""SIGTERM and SIGINT: the port is free at once, connections finish, and nobody waits for ever."""

from __future__ import annotations

import hashlib
import queue
import signal
import socket
import time

import pytest

from tests.e2e.conftest import Serving
from tests.e2e.programs import Programs, accepts
from tests.e2e.streams import (
    Backend,
    all_of,
    ask,
    call,
    client_hello,
    connect,
    echo,
    exactly,
    read_hello,
    saying,
    send_pattern,
)

MIB = 1 << 20


def app(backend: Backend, more: str = "") -> str:
    return f'{more}\n[apps.a]\nserver_name = "a.test"\npassthrough = {{ upstream = [{backend.location}] }}\n'


def test_a_transfer_completes_while_a_successor_already_serves_the_port(
    programs: Programs, serving: Serving
) -> None:
    size, sent = 100 * MIB, queue.Queue[str]()

    def serve(stream: socket.socket) -> None:
        read_hello(stream)
        sent.put(send_pattern(stream, size, 1))

    backend = serving(serve)
    old = programs.rproxy(app(backend))
    with call(old.port, "a.test") as client:
        summary = hashlib.sha256(exactly(client, MIB))
        old.signal(signal.SIGTERM)
        old.says("waiting for 1 connections")
        new = programs.rproxy(app(serving(saying(b"new"))), port=old.port)
        assert ask(new.port, "a.test") == b"new"
        assert old.popen.poll() is None
        time.sleep(0.5)
        while chunk := client.recv(MIB):
            summary.update(chunk)
    assert summary.hexdigest() == sent.get(timeout=1)
    assert old.ended() == 0
    assert ask(new.port, "a.test") == b"new"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_with_nothing_open_a_stop_is_immediate(programs: Programs, serving: Serving, number: int) -> None:
    proxy = programs.rproxy(app(serving(echo)))
    ask_and_wait(proxy.port)
    began = time.monotonic()
    proxy.signal(number)
    assert proxy.ended() == 0
    assert time.monotonic() - began < 1
    assert not accepts(("127.0.0.1", proxy.port))


def ask_and_wait(port: int) -> None:
    with call(port, "a.test", b"x") as client:
        assert exactly(client, 1) == b"x"
        client.shutdown(socket.SHUT_WR)
        assert all_of(client) == b""


def test_connections_left_at_the_drain_timeout_are_cut_off(programs: Programs, serving: Serving) -> None:
    proxy = programs.rproxy(app(serving(echo), 'drain_timeout = "1s"'))
    with call(proxy.port, "a.test", b"x") as client:
        assert exactly(client, 1) == b"x"
        began = time.monotonic()
        proxy.signal(signal.SIGTERM)
        assert all_of(client) == b""
        assert 0.9 < time.monotonic() - began < 2
    assert proxy.ended() == 0
    assert "the drain timeout has passed" in proxy.log
    assert len(proxy.ends()) == 1


def test_a_connection_is_served_to_its_end_during_the_drain(programs: Programs, serving: Serving) -> None:
    proxy = programs.rproxy(app(serving(echo)))
    with call(proxy.port, "a.test", b"x") as client:
        assert exactly(client, 1) == b"x"
        proxy.signal(signal.SIGTERM)
        proxy.says("waiting for 1 connections")
        client.sendall(b"yz")
        assert exactly(client, 2) == b"yz"
        client.shutdown(socket.SHUT_WR)
        assert all_of(client) == b""
    assert proxy.ended(5) == 0
    assert "cut off" not in proxy.log
    assert [end["reason"] for end in proxy.ends()] == ["closed"]


def test_a_connection_still_in_its_hello_is_served_during_the_drain(
    programs: Programs, serving: Serving
) -> None:
    proxy = programs.rproxy(app(serving(saying(b"new"))))
    hello = client_hello("a.test")
    with connect(proxy.port) as client:
        client.sendall(hello[:100])
        ask(proxy.port, "a.test")  # by now the first one has been accepted too
        proxy.signal(signal.SIGTERM)
        proxy.says("waiting for 1 connections")
        client.sendall(hello[100:])
        assert all_of(client) == b"new"
    assert proxy.ended(5) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_the_drain_at_once(programs: Programs, serving: Serving, number: int) -> None:
    proxy = programs.rproxy(app(serving(echo), 'drain_timeout = "60s"'))
    with call(proxy.port, "a.test", b"x") as client:
        assert exactly(client, 1) == b"x"
        proxy.signal(signal.SIGTERM)
        proxy.says("waiting for 1 connections")
        began = time.monotonic()
        proxy.signal(number)
        assert all_of(client) == b""
        proxy.ended()
        assert time.monotonic() - began < 1


def test_a_reload_while_stopping_does_not_open_the_port_again(programs: Programs, serving: Serving) -> None:
    backend = serving(echo)
    proxy = programs.rproxy(app(backend))
    with call(proxy.port, "a.test", b"x") as client:
        assert exactly(client, 1) == b"x"
        proxy.signal(signal.SIGTERM)
        proxy.says("waiting for 1 connections")
        proxy.write(app(backend, "max_clients = 77"))
        proxy.signal(signal.SIGHUP)
        time.sleep(0.5)
        assert not accepts(("127.0.0.1", proxy.port))
        client.sendall(b"y")
        assert exactly(client, 1) == b"y"
    assert proxy.ended(5) == 0


def test_connections_waiting_in_the_queue_are_served_by_the_one_that_stops(
    programs: Programs, serving: Serving
) -> None:
    proxy = programs.rproxy(app(serving(saying(b"new"))))
    proxy.signal(signal.SIGSTOP)
    clients = [call(proxy.port, "a.test") for _ in range(20)]
    proxy.signal(signal.SIGTERM)
    proxy.signal(signal.SIGCONT)
    assert [all_of(client) for client in clients] == [b"new"] * 20
    for client in clients:
        client.close()
    assert proxy.ended() == 0
    assert len(proxy.ends()) == 20
