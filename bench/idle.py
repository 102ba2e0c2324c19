"""Connections on which nothing happens, and the memory that they take: the idle cases."""

from __future__ import annotations

import resource
import socket
import ssl
import time
from collections.abc import Iterable
from functools import partial
from typing import NamedTuple

from configs import NAME
from figures import Figure, Trouble
from machine import memory_kib
from proxies import Running
from works import Run

IDLE = 10_000
"""Connections held open by the idle cases, where the limit on descriptors grants a proxy two for each."""


class Question(NamedTuple):
    """What is sent before a connection is idle: to which port, and how the answer begins."""

    port: str
    text: bytes
    answer: bytes


def idle(case: str, run: Run) -> Iterable[Figure]:
    """Memory per connection on which nothing happens; one round."""
    count = min(IDLE, (resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 300) // 2)
    figure, question = Figure(case, "KiB/conn"), QUESTIONS[case]()
    figure.notes.append(f"{count} connections")
    for name in run.targets:
        with run.yard.started(name) as (target,):
            figure.take(name, partial(held, target, question, count))
    yield figure


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
