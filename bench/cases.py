"""The cases: what is done, in which unit its cost is, and the rounds in which the proxies take turns."""

from __future__ import annotations

import resource
import socket
import ssl
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import loads
from figures import Figure, Trouble, percentile
from machine import cpu_seconds, memory_kib
from paced import LANES, RATE, paced
from proxies import NAME, Running, Yard

IDLE = 10_000
"""Connections held open by the idle cases, where the limit on descriptors grants a proxy two for each."""


class Work(NamedTuple):
    """What is done against which URL, and what makes CPU seconds into the unit of a case."""

    url: str
    load: loads.Load
    unit: str
    scale: float


SNI, WEB, TLS = "https://pass.localhost:{sni}/", "http://localhost:{http}/", "https://localhost:{tls}/"
WORKS = {
    "sni_conn": Work(SNI, loads.wrk(16, loads.CLOSE), "us/conn", 1e6),
    "sni_bulk": Work(SNI + "1g.bin", loads.download, "s/GB", 1),
    "h1": Work(WEB, loads.wrk(64), "us/request", 1e6),
    "h1_browser": Work(WEB + "some/path?q=1", loads.wrk(64, loads.BROWSER), "us/request", 1e6),
    "h1_newconn": Work(WEB, loads.wrk(32, loads.CLOSE), "us/conn", 1e6),
    "h1_bulk": Work(WEB + "1g.bin", loads.download, "s/GB", 1),
    "tls_h1": Work(TLS, loads.wrk(64), "us/request", 1e6),
    "tls_handshake": Work(TLS, loads.wrk(16, loads.CLOSE), "us/conn", 1e6),
    "tls_bulk": Work(TLS + "1g.bin", loads.download, "s/GB", 1),
    "h2": Work(TLS, loads.h2load(16, 16), "us/request", 1e6),
    "h2_bulk": Work(TLS + "1g.bin", loads.download_h2, "s/GB", 1),
}


class Question(NamedTuple):
    """What is sent before a connection is idle: to which port, and how the answer begins."""

    port: str
    text: bytes
    answer: bytes


@dataclass(frozen=True, slots=True)
class Run:
    """Where, who, and how long."""

    yard: Yard
    targets: tuple[str, ...]
    rounds: int
    seconds: int


def compare(case: str, run: Run) -> Iterable[Figure]:
    """CPU per unit of work."""
    figure = Figure(case, WORKS[case].unit)
    with run.yard.started(*run.targets) as running:
        for _ in range(run.rounds):
            for target in running:
                figure.take(target.name, partial(cost, target, WORKS[case], run.seconds))
    yield figure


def names(case: str, run: Run) -> Iterable[Figure]:
    """`sni_conn` of rproxy with 10 and with 10,000 configured names, in turns."""
    figure = Figure(case, "us/conn", ours="10000 names")
    running = [run.yard.rproxy(f"{count} names", many(count)) for count in (10, 10_000)]
    try:
        for _ in range(run.rounds):
            for target in running:
                figure.take(target.name, partial(cost, target, WORKS["sni_conn"], run.seconds))
    finally:
        for target in running:
            target.stop()
    yield figure


def idle(case: str, run: Run) -> Iterable[Figure]:
    """Memory per connection on which nothing happens; one round."""
    count = min(IDLE, (resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 300) // 2)
    print(f"  {count} idle connections")
    figure, question = Figure(case, "KiB/conn"), QUESTIONS[case]()
    for name in run.targets:
        with run.yard.started(name) as (target,):
            figure.take(name, partial(held, target, question, count))
    yield figure


def latency(case: str, run: Run) -> Iterable[Figure]:
    """How long an answer takes at a fixed rate."""
    half, slow = Figure(case, "ms p50"), Figure(case, "ms p99")
    late: list[float] = []
    with run.yard.started(*run.targets) as running:
        for _ in range(run.rounds):
            for target in running:
                late += timed(target, run.seconds, half, slow)
    if late:
        own = f"{percentile(late, 50) * 1e3:.2f} ms (p50), {percentile(late, 99) * 1e3:.2f} ms (p99)"
        print(f"  {RATE} requests/s on {LANES} connections; the client itself was late by {own}")
    yield from (half, slow)


def timed(target: Running, seconds: int, half: Figure, slow: Figure) -> list[float]:
    """One round of `latency` into its two figures; returns how late the client was."""
    try:
        outcome = paced(target.ports.http, seconds)
    except Trouble as trouble:
        for figure in (half, slow):
            figure.fail(target.name, str(trouble))
        return []
    half.add(target.name, percentile(outcome.latencies, 50) * 1e3)
    slow.add(target.name, percentile(outcome.latencies, 99) * 1e3)
    return outcome.lateness


def cost(target: Running, work: Work, seconds: int) -> float:
    """CPU of the proxy per unit of this work. Raises `Trouble` when it was not done as meant."""
    url = work.url.format(**target.ports._asdict())
    loads.expect_answer(url)
    try:
        before = cpu_seconds(target.pid)
        units = work.load(url, seconds)
        return (cpu_seconds(target.pid) - before) / units * work.scale
    except OSError as gone:
        raise Trouble(f"the proxy ended: {gone}")


def many(count: int) -> str:
    """Configuration for so many names, with the one that all runs have."""
    listed = ", ".join(f'"site{i}.example.org"' for i in range(count - 1))
    upstream = '{{ upstream = [{{ location = "127.0.0.1:1" }}] }}'
    return f"\n[apps.many]\nserver_name = [{listed}]\npassthrough = {upstream}\n"


def held(target: Running, question: Question, count: int) -> float:
    """KiB by which the proxy grows for each of `count` open connections."""
    connections: list[socket.socket] = []
    try:
        before = memory_kib(target.pid)
        for _ in range(count):
            connections.append(asked(target, question))
        time.sleep(2)
        grown = memory_kib(target.pid) - before
        if lost := sum(map(is_gone, connections)):
            raise Trouble(f"{lost} of {count} connections were closed")
        return grown / count
    except OSError as problem:
        raise Trouble(f"connection {len(connections) + 1}: {problem}")
    finally:
        for connection in connections:
            connection.close()


def asked(target: Running, question: Question) -> socket.socket:
    """A connection on which the question has been answered. Raises `OSError` or `Trouble`."""
    port = target.ports._asdict()[question.port]
    connection = socket.create_connection(("127.0.0.1", port), 10)
    connection.sendall(question.text)
    came = connection.recv(65536)
    if not came.startswith(question.answer):
        connection.close()
        raise Trouble(f"answered {came[:40]!r}")
    return connection


def hello_question() -> Question:
    """A ClientHello for the backend, which answers it; the handshake goes no further."""
    return Question("sni", client_hello(), b"\x16\x03")


def web_question() -> Question:
    """One request; its connection is kept alive."""
    return Question("http", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"HTTP/1.1 200 ")


def client_hello() -> bytes:
    """A real ClientHello for the backend's name."""
    outgoing = ssl.MemoryBIO()
    context = ssl.create_default_context()
    client = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=NAME)
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()


def is_gone(connection: socket.socket) -> bool:
    """Whether the other end has closed; bytes to read are no sign of that."""
    try:
        connection.setblocking(False)
        return connection.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


QUESTIONS = {"sni_idle": hello_question, "h1_idle": web_question}
MEASURES: dict[str, Callable[[str, Run], Iterable[Figure]]] = {
    "sni_conn": compare,
    "sni_bulk": compare,
    "sni_names": names,
    "sni_idle": idle,
    "h1": compare,
    "h1_browser": compare,
    "h1_newconn": compare,
    "h1_bulk": compare,
    "h1_idle": idle,
    "h1_latency": latency,
    "tls_h1": compare,
    "tls_handshake": compare,
    "tls_bulk": compare,
    "h2": compare,
    "h2_bulk": compare,
}
