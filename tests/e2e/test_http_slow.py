"""Clients that are slow on purpose, a thousand of them: nobody waits for them, and they have to go."""

from __future__ import annotations

import resource
import socket
import sys
import time
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.e2e.fronts import SCHEMES, Front, Listening, backend, location
from tests.e2e.programs import Program, Programs, until
from tests.e2e.slow_clients import BEGINNINGS
from tests.e2e.streams import all_of, connect, exactly

MANY, ASKED = 1000, 200
LATEST = 0.1
"""Seconds that 99 of 100 requests may take. Not all of them: on a machine with other work to do, one in some
hundreds waits longer for a reason that has nothing to do with us, attack or not."""
BETWEEN = 0.01
"""Seconds between two requests: a client among others, not an attack of its own."""
LIMITED = ["hello_timeout", "header_timeout", "body_timeout", "keepalive_timeout"]
LIMITS = "keepalive = 0\n" + "".join(f'{key} = "1s"\n' for key in LIMITED)
ROOM = "min_body_rate = 0\nmax_clients = 3000\nmax_clients_per_ip = 3000"
GET = b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n"


@pytest.fixture(autouse=True)
def many_files() -> Iterator[None]:
    """File descriptors for a crowd, for us and for the programs we start."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 8 * MANY)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Scene(NamedTuple):
    """A proxy, the backend behind it, and somebody who asks while others attack."""

    front: Front
    backend: Listening
    scheme: str

    def ask(self) -> float:
        """Seconds that a request takes, with a connection of its own."""
        began = time.monotonic()
        with self.front.connect(self.scheme) as client:
            client.sendall(GET)
            assert all_of(client).endswith(b"\r\n\r\nok")
        return time.monotonic() - began

    def attack(self, programs: Programs, kind: str) -> Program:
        authority = [self.front.authority] if self.scheme == "https" else []
        port = self.front.ports[self.scheme]
        words = [sys.executable, "-m", "tests.e2e.slow_clients", port, kind, MANY, *authority]
        return programs.start(words, "slow")


def scene(programs: Programs, scheme: str, more: str) -> Scene:
    server = backend(programs, "crowd_server")
    return Scene(Front(programs, location(server.port), more=more), server, scheme)


def ninety_nine_of_a_hundred(when: str, took: list[float]) -> float:
    """The seconds within which so many were served."""
    p50, p99 = (sorted(took)[int(len(took) * part)] for part in (0.5, 0.99))
    print(f"{when}: {len(took)} requests, seconds: p50 {p50:.4f}, p99 {p99:.4f}, most {max(took):.4f}")
    return p99


@pytest.mark.parametrize("kind", BEGINNINGS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_thousand_slow_clients_delay_nobody(programs: Programs, scheme: str, kind: str) -> None:
    """While they come and when all are there; a machine that is slow without them has its margin."""
    here = scene(programs, scheme, ROOM)
    undisturbed = [here.ask() for _ in range(ASKED)]
    ninety_nine_of_a_hundred("undisturbed", undisturbed)
    slow, after = here.attack(programs, kind), 0
    took: list[float] = []
    while len(took) < ASKED or after < ASKED // 2:
        after += "all are in place" in slow.log
        took.append(here.ask())
        time.sleep(BETWEEN)
    margin = max(undisturbed) if max(undisturbed) > LATEST else 0.0
    if ninety_nine_of_a_hundred("attacked", took) >= LATEST + margin:  # or something else was, beside us
        took = [here.ask() for _ in range(ASKED)]
    assert ninety_nine_of_a_hundred("attacked", took) < LATEST + margin
    assert here.front.proxy.fds > MANY
    assert slow.popen.poll() is None, "all of them are still served"


@pytest.mark.parametrize("scheme", SCHEMES)
def test_slow_clients_are_sent_away_and_leave_nothing(programs: Programs, scheme: str) -> None:
    here = scene(programs, scheme, LIMITS)
    here.ask()
    before = here.front.proxy.fds
    crowd: list[socket.socket] = [connect(here.front.ports[scheme]) for _ in range(30)]
    for beginning in (b"", *BEGINNINGS.values()):
        for _ in range(30):
            crowd.append(here.front.connect(scheme, receive_buffer=4096))
            crowd[-1].sendall(beginning)
    until(lambda: here.front.proxy.fds <= before + 20, "there are no more than some idle pipes", 15)
    for client in crowd:
        client.close()
    assert here.ask() < 1


@pytest.mark.parametrize("scheme", SCHEMES)
def test_clients_gone_in_the_middle_of_a_body_cost_no_time(programs: Programs, scheme: str) -> None:
    here = scene(programs, scheme, "")
    for framing in (b"Transfer-Encoding: chunked\r\n\r\nff\r\nhalf", b"Content-Length: 20\r\n\r\nhalf"):
        for _ in range(20):
            with here.front.connect(scheme) as client:
                client.sendall(b"POST /early HTTP/1.1\r\nHost: a.test\r\n" + framing)
                assert exactly(client, 12) == b"HTTP/1.1 200"
    time.sleep(0.5)
    before = here.front.proxy.cpu
    time.sleep(1)
    assert here.front.proxy.cpu - before < 0.1
