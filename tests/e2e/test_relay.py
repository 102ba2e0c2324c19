"""What a relay owes to both sides: every byte, half-close, resets, and no more memory than it needs."""

from __future__ import annotations

import queue
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e.conftest import Peer, Serving
from tests.e2e.peers import Certificate, nginx
from tests.e2e.programs import Programs, Proxy, free_port, run, until
from tests.e2e.streams import (
    Backend,
    all_of,
    call,
    echo,
    exactly,
    read_hello,
    receive_all,
    reset,
    send_pattern,
)

MIB = 1 << 20
FEW, BULK = 1000, 3 * MIB
"""Bytes that are copied by the proxy, and bytes enough for it to let the kernel move them."""
PROMPTLY = 1.0


def app(backend: Backend) -> str:
    return f'[apps.a]\nserver_name = "a.test"\npassthrough = {{ upstream = [{backend.location}] }}\n'


@pytest.mark.parametrize("size", [FEW, BULK])
def test_a_client_that_has_sent_all_still_receives(programs: Programs, serving: Serving, size: int) -> None:
    seen: queue.Queue[tuple[int, str]] = queue.Queue()

    def serve(stream: socket.socket) -> None:
        read_hello(stream)
        seen.put(receive_all(stream))
        send_pattern(stream, size, 2)

    proxy = programs.rproxy(app(serving(serve)))
    with call(proxy.port, "a.test") as client:
        sent = send_pattern(client, size, 1)
        client.shutdown(socket.SHUT_WR)
        count, summary = receive_all(client)
    assert seen.get(timeout=1) == (size, sent)
    assert count == size
    assert summary != sent


@pytest.mark.parametrize("size", [FEW, BULK])
def test_a_backend_that_has_sent_all_still_receives(programs: Programs, serving: Serving, size: int) -> None:
    seen: queue.Queue[tuple[int, str]] = queue.Queue()

    def serve(stream: socket.socket) -> None:
        read_hello(stream)
        send_pattern(stream, size, 1)
        stream.shutdown(socket.SHUT_WR)
        seen.put(receive_all(stream))

    proxy = programs.rproxy(app(serving(serve)))
    with call(proxy.port, "a.test") as client:
        assert receive_all(client)[0] == size
        sent = send_pattern(client, size, 2)
    assert seen.get(timeout=5) == (size, sent)
    until(lambda: proxy.ends(), "the end in the log")
    assert proxy.ends()[0]["reason"] == "closed"


@pytest.mark.parametrize("size", [1, BULK])
def test_a_reset_by_the_client_reaches_the_backend(programs: Programs, serving: Serving, size: int) -> None:
    ended: queue.Queue[float] = queue.Queue()

    def serve(stream: socket.socket) -> None:
        read_hello(stream)
        stream.sendall(bytes(size))
        try:
            while stream.recv(1000):
                pass
        finally:
            ended.put(time.monotonic())

    proxy = programs.rproxy(app(serving(serve)))
    client = call(proxy.port, "a.test")
    exactly(client, size)
    began = time.monotonic()
    reset(client)
    assert ended.get(timeout=5) - began < PROMPTLY
    until(lambda: proxy.ends(), "the end in the log")
    assert proxy.ends()[0]["reason"] == "client_reset"


@pytest.mark.parametrize("size", [1, BULK])
def test_a_reset_by_the_backend_reaches_the_client(programs: Programs, serving: Serving, size: int) -> None:
    def serve(stream: socket.socket) -> None:
        read_hello(stream)
        stream.sendall(bytes(size))
        stream.recv(1)  # the client's word that it has got everything
        reset(stream)

    proxy = programs.rproxy(app(serving(serve)))
    with call(proxy.port, "a.test") as client:
        exactly(client, size)
        began = time.monotonic()
        client.sendall(b"!")
        assert all_of(client) == b""
        assert time.monotonic() - began < PROMPTLY
    until(lambda: proxy.ends(), "the end in the log")
    assert proxy.ends()[0]["reason"] == "peer_reset"


def test_a_client_that_does_not_read_holds_up_its_backend_and_not_our_memory(
    programs: Programs, serving: Serving
) -> None:
    size, sent = 200 * MIB, queue.Queue[str]()

    def serve(stream: socket.socket) -> None:
        read_hello(stream)
        sent.put(send_pattern(stream, size, 3))

    proxy = programs.rproxy(app(serving(serve)))
    with call(proxy.port, "a.test") as idle:
        idle.recv(1)
        idle.close()  # the proxy has served once: what is loaded lazily is loaded
    before = proxy.rss
    with call(proxy.port, "a.test") as client:
        time.sleep(1)
        assert proxy.rss - before < 16 * MIB
        assert sent.empty()
        assert receive_all(client) == (size, sent.get(timeout=5))
    assert proxy.rss - before < 16 * MIB


def test_a_stalled_transfer_costs_no_processor_time(programs: Programs, serving: Serving) -> None:
    def serve(stream: socket.socket) -> None:
        read_hello(stream)
        send_pattern(stream, 100 * MIB, 3)

    proxy = programs.rproxy(app(serving(serve)))
    with call(proxy.port, "a.test"):
        time.sleep(0.5)
        before = proxy.cpu
        time.sleep(1)
        assert proxy.cpu - before < 0.1


def test_both_directions_at_once_arrive_whole(programs: Programs, serving: Serving) -> None:
    size = 100 * MIB

    def both(stream: socket.socket, seed: int) -> tuple[str, tuple[int, str]]:
        with ThreadPoolExecutor(1) as pool:
            sending = pool.submit(_send_all, stream, size, seed)
            received = receive_all(stream)
            return sending.result(), received

    seen: queue.Queue[tuple[str, tuple[int, str]]] = queue.Queue()

    def serve(stream: socket.socket) -> None:
        read_hello(stream)
        seen.put(both(stream, 4))

    proxy = programs.rproxy(app(serving(serve)))
    with call(proxy.port, "a.test") as client:
        client_sent, client_received = both(client, 5)
    backend_sent, backend_received = seen.get(timeout=10)
    assert client_received == (size, backend_sent)
    assert backend_received == (size, client_sent)
    _counts(proxy, received=size, sent=size)


def _send_all(stream: socket.socket, size: int, seed: int) -> str:
    summary = send_pattern(stream, size, seed)
    stream.shutdown(socket.SHUT_WR)
    return summary


def _counts(proxy: Proxy, *, received: int, sent: int) -> None:
    until(lambda: proxy.ends(), "the end in the log")
    end = proxy.ends()[0]
    assert received < int(end["received"]) < received + 4096  # the ClientHello counts too
    assert int(end["sent"]) == sent


def test_many_transfers_at_once_arrive_whole(programs: Programs, serving: Serving) -> None:
    proxy = programs.rproxy(app(serving(echo)))

    def transfer(seed: int) -> bool:
        with call(proxy.port, "a.test") as client, ThreadPoolExecutor(1) as pool:
            received = pool.submit(receive_all, client)
            sent = _send_all(client, 2 * MIB, seed)
            return received.result() == (2 * MIB, sent)

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(transfer, range(64)))


def test_an_idle_connection_is_closed_at_its_limit_and_a_busy_one_is_not(
    programs: Programs, serving: Serving
) -> None:
    proxy = programs.rproxy('idle_timeout = "1s"\n' + app(serving(echo)))
    with call(proxy.port, "a.test") as idle, call(proxy.port, "a.test") as busy:
        began = time.monotonic()
        ended = threading.Event()

        def keep_busy() -> None:
            while not ended.wait(0.2):
                busy.sendall(b"x")
                assert busy.recv(1) == b"x"

        with ThreadPoolExecutor(1) as pool:
            working = pool.submit(keep_busy)
            assert all_of(idle) == b""
            assert 1 <= time.monotonic() - began < 2.5
            time.sleep(0.5)
            ended.set()
            working.result(timeout=2)
    until(lambda: any(end["reason"] == "idle" for end in proxy.ends()), "the reason in the log")


def test_a_backend_asks_for_client_certificates_itself(
    programs: Programs, peer: Peer, certificate: Certificate
) -> None:
    port = free_port()
    server = (
        f"server {{ listen 127.0.0.1:{port} ssl; ssl_certificate {certificate.certificate};"
        f" ssl_certificate_key {certificate.key}; ssl_client_certificate {certificate.certificate};"
        ' ssl_verify_client on; return 200 "$ssl_client_verify $ssl_client_s_dn\\n"; }'
    )
    nginx(programs, peer("nginx"), server, ("127.0.0.1", port))
    upstream = f'[{{ location = "127.0.0.1:{port}" }}]'
    proxy = programs.rproxy(f'[apps.a]\nserver_name = "a.test"\npassthrough = {{ upstream = {upstream} }}\n')
    words = [peer("curl"), "--silent", "--insecure", "--max-time", "10", "--noproxy", "*"]
    words += ["--resolve", f"a.test:{proxy.port}:127.0.0.1", f"https://a.test:{proxy.port}/"]
    shown = ["--cert", certificate.certificate, "--key", certificate.key]
    assert run([*words, *shown]).stdout == "SUCCESS CN=a.test\n"
    assert "No required SSL certificate was sent" in run(words).stdout
