"""A faulty network on either side of the proxy: bytes are delayed, cut off, reset, stopped or trickled."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import NamedTuple

import pytest

from tests.e2e.attackers import Answer, Asked, Front, Stage, Talk, answers_of, ask, send
from tests.e2e.peers import Certificate
from tests.e2e.programs import Programs, until
from tests.e2e.streams import Backend, all_of, connect

LIMIT = 1.0
LATEST = 3.0
"""Seconds in which every exchange has ended: a limit and its quarter on both sides, in a crowd."""
DEAF = 1.5
"""Seconds that a client waits to which nothing can come."""
KEYS = ("hello", "header", "body", "keepalive", "response", "connect", "upstream_keepalive")
LIMITS = "".join(f'{key}_timeout = "{LIMIT:g}s"\n' for key in KEYS)
PAGE = random.Random(55).randbytes(20_000)
FORM = ask(b"/form", b"Content-Length: %d" % len(PAGE), b"Connection: close", method=b"POST") + PAGE


class Fault(NamedTuple):
    """What happens to the bytes of one direction behind the first `after`."""

    kind: str
    after: int
    """-1: nothing happens."""


NONE = Fault("", -1)


class Network:
    """A way to `port` with a fault on the way there or on the way back."""

    def __init__(self, port: int, there: Fault, back: Fault) -> None:
        self._port, self._there, self._back = port, there, back
        self._over = threading.Event()
        self.backend = Backend(self._carry)

    def _carry(self, stream: socket.socket) -> None:
        with connect(self._port) as far:
            back = threading.Thread(target=self._pump, args=(far, stream, self._back), daemon=True)
            back.start()
            self._pump(stream, far, self._there)
            back.join(LATEST)

    def _pump(self, source: socket.socket, target: socket.socket, fault: Fault) -> None:
        moved = 0
        try:
            while data := source.recv(1 << 16):
                if fault.after >= 0 and moved + len(data) > fault.after:
                    sound = max(0, fault.after - moved)
                    target.sendall(data[:sound])
                    if not self._break(data[sound:], target, source, fault.kind):
                        return
                    fault = NONE
                else:
                    target.sendall(data)
                moved += len(data)
            if not target.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER):
                target.shutdown(socket.SHUT_WR)
        except OSError:
            for stream in (source, target):
                with contextlib.suppress(OSError):
                    stream.shutdown(socket.SHUT_RDWR)

    def _break(self, rest: bytes, target: socket.socket, source: socket.socket, kind: str) -> bool:
        """Whether the direction goes on after its fault."""
        if kind == "delay":
            self._over.wait(0.3)
            target.sendall(rest)
            return True
        if kind == "trickle":
            for octet in rest[:60]:
                target.sendall(bytes([octet]))
                self._over.wait(0.02)
        if kind in ("trickle", "stop"):
            self._over.wait(2 * LATEST)
        elif kind == "cut":
            target.shutdown(socket.SHUT_RDWR)
            source.shutdown(socket.SHUT_RDWR)
        else:
            for stream in (target, source):  # closed by whoever made it, once nobody reads it any more
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            for stream in (target, source):
                stream.shutdown(socket.SHUT_RD)
        return False

    def end(self) -> None:
        self._over.set()
        self.backend.end()


KINDS = ("delay", "trickle", "stop", "cut", "reset")
OFFSETS = (0, 10, 100, 5000)
FAULTS = [Fault(*fault) for fault in product(KINDS, OFFSETS)]


@pytest.fixture(scope="module")
def origin_networks(lasting_programs: Programs) -> Iterator[dict[str, Network]]:
    """Filled by `stage`."""
    made: dict[str, Network] = {}
    yield made
    for network in made.values():
        network.end()


def page(talk: Talk, asked: Asked) -> None:
    """Sends back what it has got, if that is all; in chunks, so that an end can be forged."""
    talk.read_body(asked)
    if len(asked.body) == len(PAGE):
        chunks = b"".join(b"fa0\r\n" + PAGE[at : at + 4000] + b"\r\n" for at in range(0, len(PAGE), 4000))
        talk.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n")


@pytest.fixture(scope="module")
def stage(
    lasting_programs: Programs, certificate: Certificate, origin_networks: dict[str, Network]
) -> Iterator[Stage]:
    made = Stage(lasting_programs, certificate, general=LIMITS)
    made.a.replies[b"/form"] = page
    for way, fault in product(("there", "back"), FAULTS):
        faults = (fault, NONE) if way == "there" else (NONE, fault)
        name = f"{way}-{fault.kind}-{fault.after}.test"
        origin_networks[name] = Network(made.a.backend.port, *faults)
    apps = "".join(
        f'[apps.n{number}]\nserver_name = "{name}"\n'
        f"reverse_proxy = [{{ upstream = [{network.backend.location}] }}]\n"
        for number, (name, network) in enumerate(origin_networks.items())
    )
    text = made.proxy.config.read_text().partition("\n")[2].partition("\n")[2]
    made.proxy.reload(text + apps)
    yield made
    made.end()


class Ended(NamedTuple):
    """What a client had in the end, and after how many seconds."""

    seconds: float
    answers: list[Answer]


def exchange(client: socket.socket, data: bytes, patience: float = LATEST) -> Ended:
    began, got = time.monotonic(), b""
    with client:
        client.settimeout(patience)
        send(client, data)
        with contextlib.suppress(OSError):
            got = all_of(client)
    with contextlib.suppress(AssertionError):
        return Ended(time.monotonic() - began, answers_of(got))
    return Ended(time.monotonic() - began, [])  # half a head


def assert_honest(what: str, ended: Ended) -> None:
    """In time, and an answer that is not whole does not look so."""
    assert ended.seconds < LATEST, what
    for answer in ended.answers:
        assert answer.status in (200, 400, 408, 502, 504), what
        if answer.status == 200 and answer.complete:
            assert answer.body == PAGE, what


def test_no_fault_on_the_way_to_an_origin_holds_a_client_up(
    stage: Stage, origin_networks: dict[str, Network]
) -> None:
    with ThreadPoolExecutor(len(origin_networks)) as pool:
        running = {
            name: pool.submit(exchange, stage.clear.connect(), FORM.replace(b"a.test", name.encode()))
            for name in origin_networks
        }
        front_seconds = slowest_neighbour(stage)
    for name, ended in running.items():
        assert_honest(name, ended.result())
        assert len(ended.result().answers) == 1, name
        whole = "delay" in name
        assert (ended.result().answers[0].status == 200 and ended.result().answers[0].complete) is whole, name
    assert front_seconds < 0.5


def slowest_neighbour(stage: Stage) -> float:
    """The longest that an innocent client waits, in the second in which everything breaks."""
    took, began = [], time.monotonic()
    while time.monotonic() - began < LIMIT:
        asked_at = time.monotonic()
        stage.tls.neighbour("b.test")
        took.append(time.monotonic() - asked_at)
        time.sleep(0.02)
    return sorted(took)[-2]


@pytest.mark.parametrize("kind", ["clear", "tls"])
def test_no_fault_on_the_way_of_a_client_holds_anything_up(stage: Stage, kind: str) -> None:
    """In TLS, faults are inside the hello or behind the handshake, which has a limit of its own: 10 s."""
    front = stage.fronts[kind]
    if kind == "tls":
        faults = [(fault, NONE) for fault in FAULTS] + [(NONE, Fault(kind, 5000)) for kind in KINDS]
    else:
        faults = [(fault, NONE) for fault in FAULTS] + [(NONE, fault) for fault in FAULTS]
    before = stage.proxy.fds
    networks = [Network(front.port, *pair) for pair in faults]
    with ThreadPoolExecutor(len(faults)) as pool:
        running = [
            pool.submit(exchange_through, network, front, DEAF if is_deaf(back) else LATEST)
            for network, (_, back) in zip(networks, faults, strict=True)
        ]
    for pair, ended in zip(faults, running, strict=True):
        if not is_deaf(pair[1]):
            assert_honest(str(pair), ended.result())
        if "delay" in (pair[0].kind, pair[1].kind):
            assert [answer.body for answer in ended.result().answers] == [PAGE], pair
    until(lambda: stage.proxy.fds <= before + 2, "the proxy has let go of all", LATEST)
    for network in networks:
        network.end()
    front.neighbour()


def is_deaf(back: Fault) -> bool:
    """Whether the client cannot learn how it ended."""
    return back.kind in ("stop", "trickle")


def exchange_through(network: Network, front: Front, patience: float) -> Ended:
    """A request whose way to the proxy is faulty."""
    began = time.monotonic()
    try:
        client = Front(network.backend.port, secure=front.secure).connect()
    except OSError:  # no handshake
        return Ended(time.monotonic() - began, [])
    return exchange(client, FORM, patience)
