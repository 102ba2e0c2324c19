"""What strangers may cost: large bodies, stalled sides and slow clients, in memory and in others' time."""

from __future__ import annotations

import hashlib
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.e2e.programs import Programs, Proxy, free_port, until
from tests.e2e.streams import Backend, all_of, connect, receive_all, send_pattern

MANY = 1000
MOST_RSS = 16 << 20
LARGE = 200 << 20
ROOM = "min_body_rate = 0\nmax_clients = 3000\nmax_clients_per_ip = 3000\n"


@pytest.fixture
def many_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 8192)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def clear(programs: Programs, backend: Backend, more: str = "") -> Proxy:
    port = free_port()
    proxy = programs.rproxy(
        f'listen_port = {port}\n{more}[apps.site]\nserver_name = "a"\n'
        f"reverse_proxy = [{{ upstream = [{backend.location}] }}]\n"
    )
    proxy.port = port
    return proxy


def read_head(stream: socket.socket) -> bytes:
    """Head and what came with it."""
    got = b""
    while b"\r\n\r\n" not in got:
        data = stream.recv(1 << 16)
        if not data:
            break
        got += data
    return got


def answering(stream: socket.socket) -> None:
    while read_head(stream):
        stream.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


def ask(port: int) -> float:
    """Seconds that a request takes on a connection of its own."""
    began = time.monotonic()
    with connect(port) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert all_of(client).endswith(b"\r\n\r\nok")
    return time.monotonic() - began


class Grows:
    """The highest memory of a program while entered, above what it had."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy, self.most = proxy, 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def _look(self) -> None:
        while not self._stop.wait(0.02):
            self.most = max(self.most, self.proxy.rss)

    def __enter__(self) -> Grows:
        self.most = self.before = self.proxy.rss
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def by(self) -> int:
        return self.most - self.before


HEADS = {
    "by length": b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % LARGE,
    "until close": b"HTTP/1.1 200 OK\r\n\r\n",
}


@pytest.mark.parametrize("framing", HEADS)
def test_a_large_download_is_whole_and_not_held(
    programs: Programs, serving: Callable[..., Backend], framing: str
) -> None:
    sums: list[str] = []

    def serve(stream: socket.socket) -> None:
        if b"/large" not in read_head(stream):
            return
        stream.sendall(HEADS[framing])
        sums.append(send_pattern(stream, LARGE, 1))

    proxy = clear(programs, serving(serve))
    with Grows(proxy) as grown, connect(proxy.port) as client:
        client.sendall(b"GET /large HTTP/1.0\r\nHost: a\r\n\r\n")
        head = read_head(client)
        rest = head.partition(b"\r\n\r\n")[2]
        assert receive_rest(client, rest) == (LARGE, sums)
    assert grown.by < MOST_RSS


def receive_rest(stream: socket.socket, first: bytes) -> tuple[int, list[str]]:
    summary, count = hashlib.sha256(first), len(first)
    while chunk := stream.recv(1 << 18):
        summary.update(chunk)
        count += len(chunk)
    return count, [summary.hexdigest()]


@pytest.mark.parametrize("chunked", [False, True], ids=["by length", "chunked"])
def test_a_large_upload_is_whole_and_not_held(
    programs: Programs, serving: Callable[..., Backend], chunked: bool
) -> None:
    got: list[int] = []

    def serve(stream: socket.socket) -> None:
        rest = read_head(stream).partition(b"\r\n\r\n")[2]
        count, end = len(rest), rest[-7:]
        while count < LARGE or (chunked and not end.endswith(b"\r\n0\r\n\r\n")):
            data = stream.recv(1 << 18)
            if not data:
                break
            count, end = count + len(data), (end + data)[-7:]
        got.append(count)
        stream.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")

    proxy = clear(programs, serving(serve))
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % LARGE
    block = b"x" * (1 << 20)
    with Grows(proxy) as grown, connect(proxy.port) as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n" + framing + b"\r\n\r\n")
        for _ in range(LARGE >> 20):
            client.sendall(b"100000\r\n" + block + b"\r\n" if chunked else block)
        client.sendall(b"0\r\n\r\n" if chunked else b"")
        assert all_of(client).endswith(b"\r\n\r\nok")
    assert got[0] == LARGE if not chunked else got[0] > LARGE
    assert grown.by < MOST_RSS


def sent_until_stalled(stream: socket.socket, most: int, block: bytes) -> int:
    stream.settimeout(1.0)
    sent = 0
    try:
        while sent < most:
            sent += stream.send(block)
    except TimeoutError:
        pass
    return sent


def test_a_client_that_stalls_holds_the_backend_up_not_the_memory(
    programs: Programs, serving: Callable[..., Backend]
) -> None:
    sent: list[int] = []
    over = threading.Event()

    def serve(stream: socket.socket) -> None:
        head = read_head(stream)
        stream.sendall(HEADS["by length" if b"/length" in head else "until close"])
        sent.append(sent_until_stalled(stream, LARGE, b"x" * 65536))
        over.wait(20)

    proxy = clear(programs, serving(serve))
    with (
        Grows(proxy) as grown,
        connect(proxy.port, receive_buffer=8192) as one,
        connect(proxy.port, receive_buffer=8192) as other,
    ):
        one.sendall(b"GET /length HTTP/1.1\r\nHost: a\r\n\r\n")
        other.sendall(b"GET /close HTTP/1.1\r\nHost: a\r\n\r\n")
        deadline = time.monotonic() + 10
        while len(sent) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
    over.set()
    assert len(sent) == 2
    assert max(sent) < 32 << 20
    assert grown.by < MOST_RSS


def test_a_backend_that_stalls_holds_the_client_up_not_the_memory(
    programs: Programs, serving: Callable[..., Backend]
) -> None:
    over = threading.Event()

    def serve(stream: socket.socket) -> None:
        over.wait(20)

    proxy = clear(programs, serving(serve))
    with Grows(proxy) as grown, connect(proxy.port) as one, connect(proxy.port) as other:
        one.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % LARGE)
        other.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nfffffff\r\n")
        sent = [sent_until_stalled(stream, LARGE, b"x" * 65536) for stream in (one, other)]
    over.set()
    assert max(sent) < 32 << 20
    assert grown.by < MOST_RSS


def slow_head(client: socket.socket) -> bytes:
    client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nX-")
    return b"a"


def slow_body(client: socket.socket) -> bytes:
    client.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n")
    return b"a"


def slow_read(client: socket.socket) -> bytes:
    client.sendall(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
    return b""


def large_or_small(stream: socket.socket) -> None:
    while head := read_head(stream):
        if head.startswith(b"POST"):
            receive_all(stream)
            return
        size = 1 << 20 if b"/large" in head else 2
        stream.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"ok" * (size // 2))


@pytest.mark.usefixtures("many_files")
@pytest.mark.parametrize("attack", [slow_head, slow_body, slow_read])
def test_a_thousand_slow_clients_delay_nobody(
    programs: Programs, serving: Callable[..., Backend], attack: Callable[[socket.socket], bytes]
) -> None:
    proxy = clear(programs, serving(large_or_small), ROOM)
    attackers = [connect(proxy.port, receive_buffer=4096) for _ in range(MANY)]
    try:
        words = [attack(client) for client in attackers]
        until(lambda: ask(proxy.port) < 0.1, "the gigabyte that the slow readers asked for is under way", 20)
        took = []
        for number in range(50):
            for client, word in list(zip(attackers, words, strict=True))[number::50]:
                client.sendall(word)
            took.append(ask(proxy.port))
            time.sleep(0.02)
        assert sorted(took)[-2] < 0.1, sorted(took)[-5:]
    finally:
        for client in attackers:
            client.close()


@pytest.mark.usefixtures("many_files")
def test_slow_clients_are_sent_away_and_leave_nothing(
    programs: Programs, serving: Callable[..., Backend]
) -> None:
    limits = 'keepalive = 0\nheader_timeout = "1s"\nbody_timeout = "1s"\nkeepalive_timeout = "1s"\n'
    proxy = clear(programs, serving(large_or_small), limits)
    ask(proxy.port)
    before = proxy.fds
    attackers = [connect(proxy.port, receive_buffer=4096) for _ in range(120)]
    for number, client in enumerate(attackers):
        if number % 4:
            (slow_head, slow_body, slow_read)[number % 4 - 1](client)
    deadline = time.monotonic() + 15
    while proxy.fds > before + 20 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert proxy.fds <= before + 20  # idle connections to the backend, pipes
    for client in attackers:
        client.close()
    assert ask(proxy.port) < 1


def test_a_client_gone_in_the_middle_of_a_chunk_costs_no_time(
    programs: Programs, serving: Callable[..., Backend]
) -> None:
    def serve(stream: socket.socket) -> None:
        read_head(stream)
        stream.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        receive_all(stream)

    proxy = clear(programs, serving(serve))
    for _ in range(20):
        with connect(proxy.port) as client:
            client.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nhalf")
            client.recv(10)
    time.sleep(0.5)
    before = proxy.cpu
    time.sleep(1)
    assert proxy.cpu - before < 0.1
