"""Attacks with time and crowds: who is slow has a limit in all, who is many leaves room for others."""

from __future__ import annotations

import contextlib
import resource
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import NamedTuple

import pytest

from tests.e2e.attackers import Answer, Asked, Front, Stage, Talk, answers_of, ask, one_answer, reply, send
from tests.e2e.peers import Certificate
from tests.e2e.programs import Programs, until
from tests.e2e.streams import USER_CANCELED, all_of, client_hello, connect, reset

LIMIT = 1.0
"""Seconds of every time limit here."""
LATEST = 2.5
"""Seconds after which all of them have ended: a limit may be exceeded by a quarter, and there is a crowd."""
KEYS = ("hello_timeout", "header_timeout", "body_timeout", "keepalive_timeout", "response_timeout")
LIMITS = "".join(f'{key} = "{LIMIT:g}s"\n' for key in KEYS)


@pytest.fixture(scope="module")
def stage(lasting_programs: Programs, certificate: Certificate) -> Iterator[Stage]:
    made = Stage(lasting_programs, certificate, general=LIMITS)
    yield made
    made.end()


class Slow(NamedTuple):
    """What came of a slow connection, and after how many seconds."""

    seconds: float
    answers: list[Answer]


def until_the_end(client: socket.socket, began: float, trickle: bytes = b"") -> Slow:
    """Read until the proxy ends it, sending a byte of `trickle` every twentieth of a second."""
    got, client_over = b"", False
    client.settimeout(0.05)
    for octet in trickle[:200]:
        send(client, bytes([octet]))
        with contextlib.suppress(TimeoutError):
            data = client.recv(1 << 16)
            got, client_over = got + data, not data
        if client_over or got.endswith(b"\n"):
            break
    client.settimeout(10)
    got += all_of(client) if not client_over else b""
    return Slow(time.monotonic() - began, answers_of(got))


def slow_client(front: Front, first: bytes, trickle: bytes = b"", answered: int = 0) -> Slow:
    """Send `first`, wait for so many answers, then be slow."""
    with front.connect() as client:
        send(client, first)
        for _ in range(answered):
            assert one_answer(client).status == 200
        return until_the_end(client, time.monotonic(), trickle)


HEAD = ask(b"/", b"X: " + b"x" * 500)
SLOW_CLIENTS: dict[str, tuple[tuple[bytes, bytes, int], int]] = {
    "a head by bytes": ((b"", HEAD, 0), 408),
    "a second head by bytes": ((ask(b"/first"), HEAD, 1), 408),
    "half a head": ((HEAD[:100], b"", 0), 408),
    "a body that stops": ((ask(b"/", b"Content-Length: 9", method=b"POST") + b"12", b"", 0), 408),
    "a chunk that stops": (
        (ask(b"/", b"Transfer-Encoding: chunked", method=b"PUT") + b"9\r\n1", b"", 0),
        408,
    ),
    "a chunk line that stops": (
        (ask(b"/", b"Transfer-Encoding: chunked", method=b"PUT") + b"9", b"", 0),
        408,
    ),
    "silence behind an answer": ((ask(b"/first"), b"", 1), 0),
    "silence": ((b"", b"", 0), 0),
}
HALF = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n"


def trickling(talk: Talk, asked: Asked) -> None:
    for octet in HALF * 3:
        talk.send(bytes([octet]))
        time.sleep(0.05)


def never(talk: Talk, asked: Asked) -> None:
    while talk.more():
        pass


def stopping(data: bytes) -> Callable[[Talk, Asked], object]:
    """Send so much, and then nothing."""

    def serve(talk: Talk, asked: Asked) -> None:
        talk.send(data)
        never(talk, asked)

    return serve


SLOW_ORIGINS: dict[bytes, tuple[Callable[[Talk, Asked], object], int]] = {
    b"/silent": (never, 504),
    b"/trickling": (trickling, 504),
    b"/half-head": (stopping(HALF), 504),
    b"/half-body": (stopping(HALF + b"\r\nhalf"), 200),
}


def test_whoever_is_slow_is_sent_away_in_time_and_nobody_waits_meanwhile(stage: Stage) -> None:
    """All kinds at once, on both fronts: each has one limit for the whole of what is slow."""
    stage.a.replies.update({path: serve for path, (serve, _) in SLOW_ORIGINS.items()})
    with ThreadPoolExecutor(32) as pool:
        clients = {
            (kind, name): pool.submit(slow_client, front, *args)
            for kind, front in stage.fronts.items()
            for name, (args, _) in SLOW_CLIENTS.items()
        }
        origins = {
            (kind, path): pool.submit(slow_client, front, ask(path, b"Connection: close"))
            for kind, front in stage.fronts.items()
            for path in SLOW_ORIGINS
        }
        began, took = time.monotonic(), []
        while time.monotonic() - began < LIMIT:
            for front in stage.fronts.values():
                asked_at = time.monotonic()
                front.neighbour("b.test")
                took.append(time.monotonic() - asked_at)
    assert sorted(took)[-3] < 0.3
    for (kind, name), slow in clients.items():
        expected = SLOW_CLIENTS[name][1]
        check(f"{name}, {kind}", slow.result(), [expected] if expected else [])
    for (kind, path), slow in origins.items():
        check(f"{path!r}, {kind}", slow.result(), [SLOW_ORIGINS[path][1]])
        assert not (path == b"/half-body" and slow.result().answers[0].complete)


def check(what: str, slow: Slow, statuses: list[int]) -> None:
    assert [answer.status for answer in slow.answers] == statuses, what
    assert 0.7 * LIMIT < slow.seconds < LATEST, what


def test_a_trickled_hello_has_its_limit_where_tls_ends_too(stage: Stage) -> None:
    began = time.monotonic()
    with connect(stage.tls.port) as client:
        client.settimeout(0.03)
        answer = b""
        for octet in client_hello("a.test"):
            client.sendall(bytes([octet]))
            with contextlib.suppress(TimeoutError):
                answer = client.recv(100)
                break
    assert answer == USER_CANCELED
    assert 0.9 * LIMIT < time.monotonic() - began < LATEST


def test_who_never_says_a_word_has_no_longer_than_for_a_head(
    programs: Programs, certificate: Certificate
) -> None:
    limits = 'header_timeout = "300ms"\nkeepalive_timeout = "20s"\n'
    stage = Stage(programs, certificate, general=limits)
    silent = [front.connect() for front in stage.fronts.values()]
    try:
        for client in silent:
            client.settimeout(1.0)
            client.recv(1)  # the end, or 408
    finally:
        for client in silent:
            client.close()
        stage.end()


def test_who_takes_nothing_holds_nothing_for_long(stage: Stage) -> None:
    """A slow reader of a large page is let go, and so is the origin that waits for it."""
    stage.a.replies[b"/large"] = lambda talk, asked: talk.send(reply(b"x" * (32 << 20)))
    readers = [front.connect(receive_buffer=4096) for front in stage.fronts.values()]
    for reader in readers:
        reader.sendall(ask(b"/large"))
    until(lambda: stage.a.targets.count(b"/large") == 2, "the origin has been asked")
    began = time.monotonic()
    until(lambda: not stage.a.open, "the origin is let go", LATEST + LIMIT)
    assert time.monotonic() - began > 0.7 * LIMIT
    for reader in readers:
        reader.close()


# -- crowds


@contextlib.contextmanager
def files(count: int) -> Iterator[None]:
    """Room for so many sockets of our own."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, count)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def is_open(client: socket.socket) -> bool:
    """Whether the proxy has left a plain connection open."""
    client.settimeout(0.05)
    try:
        return bool(client.recv(1))
    except TimeoutError:
        return True
    except ConnectionResetError:
        return False


def test_one_address_cannot_take_the_places_of_others(programs: Programs, certificate: Certificate) -> None:
    """The cap counts both ports together; whoever leaves makes room at once."""
    stage = Stage(programs, certificate, general="max_clients_per_ip = 6\nmax_clients = 40\n")
    ports = [stage.clear.port, stage.tls.port]
    crowd = [connect(ports[number % 2], "127.0.0.2") for number in range(30)]
    until(lambda: sum(map(is_open, crowd)) == 6, "six are left")
    for front in stage.fronts.values():
        front.neighbour()
    for client in crowd:
        client.close()
    began = time.monotonic()
    until(lambda: stage.clear.serves("127.0.0.2"), "the address is served again", 1.0)
    assert time.monotonic() - began < 1
    stage.end()


def test_past_the_limit_connections_are_cheap_and_those_inside_are_served(
    programs: Programs, certificate: Certificate
) -> None:
    stage = Stage(programs, certificate, general="max_clients = 20\n")
    inside = [front.connect() for front in stage.fronts.values()]
    crowd = [connect(stage.clear.port) for _ in range(18)]
    until(lambda: not stage.clear.serves(), "no place is left")
    cpu, began = stage.proxy.cpu, time.monotonic()
    for _ in range(1000):
        with connect(stage.clear.port) as refused:
            assert not is_open(refused)
    spent = stage.proxy.cpu - cpu
    for client in inside:
        client.sendall(ask(b"/inside"))
        assert one_answer(client).body == b"a.test /inside"
    assert spent < 0.5 * (time.monotonic() - began) + 0.5
    assert spent < 1.0, "a millisecond for each"
    assert stage.proxy.log.count("max_clients = 20 is reached") <= 2
    for client in crowd:
        client.close()
    until(lambda: stage.clear.serves() and stage.tls.serves(), "service again", 1.0)
    for client in inside:
        client.close()
    stage.end()


def test_without_file_descriptors_clients_that_are_there_are_served(
    programs: Programs, certificate: Certificate
) -> None:
    stage = Stage(programs, certificate, general="max_clients = 1000\n")
    inside = [front.connect() for front in stage.fronts.values()]
    for client in inside:
        client.sendall(ask(b"/inside"))
        assert one_answer(client).status == 200
    before = stage.proxy.fds
    resource.prlimit(stage.proxy.pid, resource.RLIMIT_NOFILE, (64, 64))
    with files(2000):
        crowd = [connect(front.port) for front in stage.fronts.values() for _ in range(100)]
        until(lambda: stage.proxy.fds == 64, "all descriptors are taken")
        stage.proxy.says("cannot accept")
        cpu, began = stage.proxy.cpu, time.monotonic()
        while time.monotonic() - began < 0.4:
            for client in inside:
                client.sendall(ask(b"/inside"))
                assert one_answer(client).body == b"a.test /inside"
            time.sleep(0.05)
        assert stage.proxy.cpu - cpu < 0.3
        for client in crowd:
            client.close()
    until(lambda: stage.clear.serves() and stage.tls.serves(), "service again")
    until(lambda: stage.proxy.fds <= before + 2, "everything is given back")
    for client in inside:
        client.close()
    stage.end()


# -- half a chunk, and gone


def test_half_a_chunk_of_a_client_that_is_gone_costs_no_time(stage: Stage) -> None:
    """The origin has answered early; nobody will ever read or send the rest."""
    stage.a.replies[b"/early"] = lambda talk, asked: talk.send(reply(b"early"))
    head = ask(b"/early", b"Transfer-Encoding: chunked", method=b"POST")
    halves = (b"", b"f", b"ff\r\nhalf", b"4\r\nhalf", b"4\r\nhalf\r", b"0\r\n", b"0\r\nX: y")
    for front, half, leave in product(stage.fronts.values(), halves, (socket.socket.close, reset)):
        client = front.connect()
        client.sendall(head + half)
        assert client.recv(1000).startswith(b"HTTP/1.1 200")
        leave(client)
    stage.tls.neighbour()
    until(lambda: not stage.a.open, "the origin is let go")
    cpu = stage.proxy.cpu
    time.sleep(0.5)
    assert stage.proxy.cpu - cpu < 0.05
