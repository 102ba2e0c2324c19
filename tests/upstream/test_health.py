"""Probes decide after their thresholds, one at a time, and leave nothing behind when they stop."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest

from rproxy.upstream.health import JITTER, MOST_BODY, Health, Probing
from rproxy.upstream.http_client import HttpPeer
from tests.fakes import Backend, LogLines, Loop, Wire, open_files

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
SORRY = b"HTTP/1.1 503 Sorry\r\nContent-Length: 0\r\n\r\n"
HTTP = Probing(b"/health", interval=10.0, timeout=4.0)
TCP = Probing(interval=10.0, timeout=4.0)
NEXT = 10.0 * (1 + JITTER)


class Steady(Random):
    """Intervals as they are written."""

    def uniform(self, a: float, b: float) -> float:
        return (a + b) / 2


class Bench:
    """A health service on a clock that stands still, and a backend to probe."""

    def __init__(self) -> None:
        self.loop, self.backend = Loop(), Backend()
        self.peer = self.another()
        self.health = Health(self.loop, Steady())
        self.wires: list[Wire] = []

    def another(self) -> HttpPeer:
        return HttpPeer(
            "10.0.0.1:80", authority=b"app.example", fixed=[(socket.AF_INET, self.backend.address)]
        )

    def start(self, probing: Probing) -> None:
        self.health.use({self.peer: probing})
        self.health.startService()
        self.loop.spin()

    def accepted(self) -> list[Wire]:
        """The connections that have come since the last look."""
        found: list[Wire] = []
        while (wire := self.backend.try_accept()) is not None:
            found.append(wire)
        self.wires += found
        return found

    def probed(self, answer: bytes) -> bytes:
        """Let the one probe that has come be answered; returns what it asked."""
        (wire,) = self.accepted()
        self.loop.spin()
        asked = wire.read()
        wire.socket.sendall(answer)
        self.loop.spin()
        return asked

    def wait(self, seconds: float) -> None:
        self.loop.advance(seconds)
        self.loop.spin()

    def rounds(self, *answers: bytes) -> list[bool]:
        """What is thought of the peer after each answer."""
        thought = []
        for answer in answers:
            self.probed(answer)
            thought.append(self.peer.healthy)
            self.wait(10.0)
        return thought

    def close(self) -> None:
        if self.health.running:
            self.health.stopService()
        self.loop.spin()
        for wire in self.wires:
            wire.close()
        self.backend.close()
        assert self.loop.getDelayedCalls() == []
        assert not self.loop.readers
        assert not self.loop.writers


@pytest.fixture
def bench() -> Iterator[Bench]:
    files = open_files()
    made = Bench()
    yield made
    made.close()
    assert open_files() <= files


def test_a_peer_begins_healthy_and_is_asked_at_once(bench: Bench) -> None:
    bench.start(HTTP)
    assert bench.peer.healthy
    assert bench.probed(OK) == b"GET /health HTTP/1.1\r\nHost: app.example\r\n\r\n"
    assert bench.peer.healthy
    assert bench.peer.open == 0


def test_the_thresholds_decide_and_news_is_logged_once(bench: Bench) -> None:
    bench.start(HTTP)
    with LogLines() as log:
        thought = bench.rounds(SORRY, SORRY, SORRY, SORRY, OK, SORRY, OK, OK, OK)
    assert thought == [True, True, False, False, False, False, False, True, True]
    assert log.texts("rproxy.upstream") == [
        "peer 10.0.0.1:80 is unhealthy: it answers with 503 instead of 200",
        "peer 10.0.0.1:80 is healthy again",
    ]


def test_a_good_probe_in_between_begins_the_count_anew(bench: Bench) -> None:
    bench.start(HTTP)
    assert bench.rounds(SORRY, SORRY, OK, SORRY, SORRY) == [True] * 5


def test_only_the_expected_status_is_good(bench: Bench) -> None:
    bench.start(Probing(b"/", 204, unhealthy_after=1, healthy_after=1))
    assert bench.rounds(OK, b"HTTP/1.1 204 No Content\r\n\r\n") == [False, True]


@pytest.mark.parametrize(
    "answer", [b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nContent-Length: 8\r\n\r\n"]
)
def test_what_is_not_http_is_no_good_answer(bench: Bench, answer: bytes) -> None:
    bench.start(Probing(b"/", unhealthy_after=1))
    assert bench.rounds(answer) == [False]


def test_an_interim_answer_is_waited_behind(bench: Bench) -> None:
    bench.start(Probing(b"/", unhealthy_after=1))
    assert bench.rounds(b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK) == [True]


def test_a_connection_that_ends_in_silence_is_a_failure(bench: Bench) -> None:
    bench.start(Probing(b"/", unhealthy_after=1))
    (wire,) = bench.accepted()
    wire.close()
    bench.loop.spin()
    assert not bench.peer.healthy


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"])
def test_a_whole_probe_has_one_timeout(bench: Bench, answer: bytes) -> None:
    bench.start(Probing(b"/", timeout=4.0, unhealthy_after=1))
    (wire,) = bench.accepted()
    wire.socket.sendall(answer)
    bench.wait(3.9)
    assert bench.peer.healthy
    bench.wait(0.2)
    assert not bench.peer.healthy
    wire.read()
    assert wire.state != "open"


def test_a_body_is_read_only_so_far(bench: Bench) -> None:
    bench.start(Probing(b"/", unhealthy_after=1))
    (wire,) = bench.accepted()
    wire.socket.setblocking(True)
    wire.socket.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    for _ in range(3):
        wire.socket.sendall(bytes(MOST_BODY // 2))
        bench.loop.spin()
    assert bench.peer.healthy
    wire.socket.setblocking(False)
    wire.read()
    assert wire.state != "open", "cut off"


def test_a_connection_is_all_that_a_tcp_probe_wants(bench: Bench) -> None:
    bench.start(TCP)
    (wire,) = bench.accepted()
    bench.loop.spin()
    assert wire.read() == b""
    assert wire.state == "eof"
    assert bench.peer.healthy


def test_a_refusal_is_a_failure_and_no_failed_attempt_of_the_peer(bench: Bench) -> None:
    bench.backend.close()
    bench.start(Probing(unhealthy_after=2))
    assert bench.peer.healthy
    bench.wait(10.0)
    assert not bench.peer.healthy
    assert bench.peer.down_until < 0, "that is for requests to say"


def test_probes_follow_each_other_at_intervals_never_two_at_a_time(bench: Bench) -> None:
    bench.start(HTTP)
    (first,) = bench.accepted()
    bench.wait(3.9)
    assert bench.accepted() == []
    first.socket.sendall(OK)
    bench.loop.spin()
    bench.wait(6.0)
    assert bench.accepted() == []
    bench.wait(0.2)
    assert len(bench.accepted()) == 1, "10 s after the first began"


def test_intervals_vary_a_little(bench: Bench) -> None:
    bench.health = Health(bench.loop, Random(5))
    bench.start(TCP)
    times = []
    for _ in range(20):
        times.append(bench.loop.getDelayedCalls()[0].getTime() - bench.loop.seconds())
        bench.wait(times[-1])
        bench.accepted()
    assert all(10 * (1 - JITTER) <= time <= NEXT for time in times)
    assert len(set(times)) == 20


def test_a_reload_keeps_what_is_known_of_peers_that_stay(bench: Bench) -> None:
    bench.start(Probing(b"/", unhealthy_after=1))
    bench.rounds(SORRY)
    bench.accepted()
    other = bench.another()
    bench.health.use({bench.peer: Probing(b"/", unhealthy_after=1), other: TCP})
    bench.loop.spin()
    assert not bench.peer.healthy
    assert len(bench.accepted()) == 1, "the new one, at once"
    bench.health.use({other: TCP})
    bench.wait(NEXT)
    assert len(bench.accepted()) == 1, "nobody asks for the one that is gone"


@pytest.mark.parametrize("probing", [TCP, HTTP])
def test_a_stop_gives_up_the_probe_under_way(bench: Bench, probing: Probing) -> None:
    bench.start(probing)
    bench.accepted()
    bench.health.stopService()
    bench.loop.spin()
    bench.wait(60.0)
    assert bench.accepted() == []
    assert bench.peer.healthy


def test_a_peer_that_speaks_tls_is_probed_in_tls(bench: Bench) -> None:
    wrapped: list[Any] = []

    class TLS:
        def wrap(self, protocol: Any) -> Any:
            wrapped.append(protocol)
            return protocol

    bench.peer.tls = TLS()
    bench.start(HTTP)
    bench.probed(OK)
    assert len(wrapped) == 1
    assert bench.peer.healthy
