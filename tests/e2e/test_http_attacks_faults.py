"""Everything that can break, broken: in each phase, on each side, by whoever; and what is left of it."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import pytest

from tests.e2e.attackers import SMUGGLED, Asked, Front, Stage, Talk, answers_of, ask, one_answer, reply, send
from tests.e2e.peers import Certificate
from tests.e2e.programs import Programs, until
from tests.e2e.streams import all_of, reset

PLACES = 12
LIMIT = 1.0
KEYS = ("hello_timeout", "header_timeout", "body_timeout", "keepalive_timeout", "response_timeout")
LIMITS = "".join(f'{key} = "{LIMIT:g}s"\n' for key in (*KEYS, "upstream_keepalive_timeout"))
UPGRADE = ask(b"/ws", b"Connection: Upgrade", b"Upgrade: websocket")
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
HALF = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n"
POST = ask(b"/form", b"Content-Length: 100", method=b"POST")


@pytest.fixture(scope="module")
def stage(lasting_programs: Programs, certificate: Certificate) -> Iterator[Stage]:
    made = Stage(lasting_programs, certificate, general=f"max_clients = {PLACES}\n{LIMITS}")
    yield made
    made.end()


def half_closed(stream: socket.socket) -> None:
    """Say that nothing more comes, and see what does."""
    with contextlib.suppress(OSError):
        stream.shutdown(socket.SHUT_WR)
        all_of(stream)
    stream.close()


WAYS: dict[str, Callable[[socket.socket], object]] = {
    "closes": socket.socket.close,
    "resets": reset,
    "half-closes": half_closed,
}
CLIENT_PHASES = {
    "connected": b"",
    "in a head": ask(b"/x")[:20],
    "asked": ask(b"/never"),
    "in a body": POST + b"x" * 50,
    "in a chunk": ask(b"/form", b"Transfer-Encoding: chunked", method=b"POST") + b"ff\r\nx",
    "answered": ask(b"/done"),
    "in an answer": ask(b"/half"),
    "in a large answer": ask(b"/large"),
    "in a tunnel": UPGRADE,
    "in the next request": ask(b"/done") * 5 + POST,
}
ANSWERED = ("answered", "in an answer", "in a large answer", "in a tunnel", "in the next request")


def listening(talk: Talk, asked: Asked) -> None:
    while talk.more():
        pass


def after(data: bytes) -> Callable[[Talk, Asked], object]:
    """Send this, and then only listen."""

    def serve(talk: Talk, asked: Asked) -> None:
        talk.send(data)
        listening(talk, asked)

    return serve


def rehearse(stage: Stage) -> int:
    """What is made once is made; the descriptors that the proxy has then."""
    for front in stage.fronts.values():
        front.neighbour()
    stage.a.replies.update(
        {
            b"/never": listening,
            b"/half": after(HALF + b"\r\nhalf"),
            b"/large": after(reply(b"x" * (8 << 20))),
            b"/ws": after(SWITCH + b"hello"),
        }
    )
    return stage.proxy.fds


def nothing_is_left(stage: Stage, fds: int) -> None:
    """No descriptor and no place: as many clients as may be there at once are served."""
    until(lambda: stage.proxy.fds <= fds + 1, f"{fds} descriptors again; there are {stage.proxy.fds}")
    clients = [stage.clear.connect() for _ in range(PLACES)]
    for client in clients:
        client.sendall(ask(b"/done"))
    assert [one_answer(client).status for client in clients] == [200] * PLACES
    for client in clients:
        client.close()
    until(stage.tls.serves, "room for the next")


def test_a_client_that_leaves_in_any_phase_leaves_nothing(stage: Stage) -> None:
    """That no traceback is in the log is looked at when the programs end."""
    fds = rehearse(stage)
    with ThreadPoolExecutor(PLACES // 2) as pool:
        list(pool.map(lambda case: leave(*case), product(CLIENT_PHASES, stage.fronts.values(), WAYS)))
    nothing_is_left(stage, fds)


def leave(phase: str, front: Front, way: str) -> None:
    client = front.connect()
    client.sendall(CLIENT_PHASES[phase])
    if phase in ANSWERED:
        assert client.recv(100).startswith(b"HTTP/1.1")
    WAYS[way](client)


ORIGIN_PHASES = {
    "connected": None,
    "asked": b"",
    "in a head": HALF,
    "behind an interim answer": b"HTTP/1.1 103 Early Hints\r\n\r\n",
    "in a body": HALF + b"\r\nhalf",
    "in a chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nhalf",
    "in a body without length": b"HTTP/1.1 200 OK\r\n\r\nhalf",
    "in a tunnel": SWITCH + b"half",
    "behind its answer": reply(b"whole"),
}


@pytest.mark.parametrize("way", WAYS)
def test_an_origin_that_leaves_in_any_phase_leaves_nothing(stage: Stage, way: str) -> None:
    fds = rehearse(stage)
    going = Going(WAYS[way])
    stage.a.replies.update({b"/" + str(n).encode(): going.reply for n in range(len(ORIGIN_PHASES))})
    for (number, (phase, first)), front in product(enumerate(ORIGIN_PHASES.items()), stage.fronts.values()):
        going.first = first
        upgrade = (b"Connection: Upgrade", b"Upgrade: websocket") if phase == "in a tunnel" else ()
        with front.connect() as client:
            client.sendall(ask(b"/%d" % number, *(upgrade or (b"Connection: close",))))
            answers = answers_of(all_of(client))
        assert answers[-1].status == expected(phase), phase
        whole = phase in ("behind its answer", "in a tunnel") or answers[-1].status == 502
        whole = whole or (phase == "in a body without length" and way != "resets")
        assert answers[-1].complete is whole, phase
        front.neighbour()
    nothing_is_left(stage, fds)


def expected(phase: str) -> int:
    return {"in a tunnel": 101, "behind its answer": 200}.get(
        phase, 200 if "body" in phase or "chunk" in phase else 502
    )


class Going:
    """An origin that sends `first` and goes."""

    def __init__(self, way: Callable[[socket.socket], object]) -> None:
        self.first: bytes | None = b""
        self._way = way

    def reply(self, talk: Talk, asked: Asked) -> None:
        if self.first:
            talk.send(self.first)
            time.sleep(0.01)
        self._way(talk.stream)


# -- memory

ERRORS = [
    b"",
    b"\0\0\0",
    ask(b"/x")[:30],
    ask(b"/x", b"A : b"),
    ask(b"/x", b"X: " + b"x" * 60_000),
    ask(b"/x", b"X: " + b"x" * 70_000),
    ask(b"/../x"),
    ask(b"/x", host=b"nobody.test"),
    POST + b"x" * 20,
    ask(b"/x", b"Transfer-Encoding: chunked", method=b"PUT") + b"zz\r\n",
    ask(b"/bad"),
    ask(b"/half"),
    ask(b"/gone"),
    ask(b"/large"),
    UPGRADE + b"early",
    ask(b"/done") * 10 + SMUGGLED[:10],
]


def spoil(stage: Stage, number: int) -> None:
    """One client that goes wrong in some way, or goes."""
    front = stage.fronts["tls" if number % 3 else "clear"]
    with contextlib.suppress(OSError):
        client = front.connect()
        send(client, ERRORS[number % len(ERRORS)])
        if number % 5:
            client.settimeout(0.02)
            with contextlib.suppress(TimeoutError):
                client.recv(100)
        (reset if number % 7 else socket.socket.close)(client)


def test_a_mixture_of_all_errors_does_not_pile_up(programs: Programs, certificate: Certificate) -> None:
    stage = Stage(programs, certificate, general=LIMITS)
    stage.a.replies[b"/bad"] = lambda talk, asked: talk.send(b"HTTP/1.1 200 OK\nA: b\n\n")
    stage.a.replies[b"/gone"] = lambda talk, asked: reset(talk.stream)
    fds = rehearse(stage)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: spoil(stage, number), range(900)))
        until(lambda: stage.proxy.fds <= fds + 1, "descriptors are given back")
        memory = stage.proxy.rss
        list(pool.map(lambda number: spoil(stage, number), range(500)))
    until(lambda: stage.proxy.fds <= fds + 1, "descriptors are given back again")
    assert stage.proxy.rss < 1.05 * memory
    for front in stage.fronts.values():
        front.neighbour()
    stage.end()


MOST_RSS = 8 << 20
LARGE = 256 << 20


def test_neither_a_slow_reader_nor_a_stalled_origin_fills_the_memory(stage: Stage) -> None:
    """Both ways and on both fronts at once; of what is offered, buffers take little and memory less."""
    moved: dict[str, int] = {}

    def offering(talk: Talk, asked: Asked) -> None:
        talk.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % LARGE)
        moved[asked.all(b"x-who")[0].decode() + " down"] = pushed(talk.stream, 0.6)

    stage.a.replies[b"/down"] = offering
    stage.a.replies[b"/up"] = lambda talk, asked: time.sleep(1)
    rehearse(stage)
    before = stage.proxy.rss
    down = {kind: front.connect(receive_buffer=8192) for kind, front in stage.fronts.items()}
    up = {kind: front.connect() for kind, front in stage.fronts.items()}
    for kind, client in down.items():
        client.sendall(ask(b"/down", b"X-Who: " + kind.encode()))
        threading.Thread(target=sip, args=(client,), daemon=True).start()
    with ThreadPoolExecutor(2) as pool:
        for kind, client in up.items():
            client.sendall(ask(b"/up", b"Content-Length: %d" % LARGE, method=b"POST"))
            moved[kind + " up"] = pool.submit(pushed, client, 0.4).result()
    until(lambda: len(moved) == 4, "everybody is stalled")
    assert stage.proxy.rss - before < MOST_RSS
    assert max(moved.values()) < 32 << 20, moved
    for client in (*down.values(), *up.values()):
        client.close()


def sip(client: socket.socket) -> None:
    """Ten kilobytes a second."""
    with contextlib.suppress(OSError):
        while client.recv(500):
            time.sleep(0.05)


def pushed(stream: socket.socket, patience: float) -> int:
    """How many bytes it takes until nothing more goes."""
    stream.settimeout(patience)
    sent = 0
    with contextlib.suppress(OSError):
        while sent < LARGE // 2:
            sent += stream.send(b"x" * 16384)
    return sent
