"""Thousands of connections of many clients, over targets that die and come back: nothing stays counted."""

from __future__ import annotations

import json
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.e2e.identities import Identities
from tests.e2e.programs import ROOT, Program, Programs, environment, free_port, until
from tests.e2e.streams import connect

CONNECTIONS, CLIENTS, TARGETS, AT_ONCE = 5000, 50, 4, 24
ECHO = ROOT / "docs" / "examples" / "echo.py"
KILLED_EVERY = 0.7
"""Seconds between two deaths; each target is away for as long."""


class Counted:
    """The proxy, which can be asked for its counts."""

    def __init__(self, programs: Programs, identities: Identities, targets: list[int]) -> None:
        self.port = free_port()
        words = [sys.executable, ROOT / "tests/e2e/l4_counts.py", identities.folder, self.port, *targets]
        self.program = programs.start(words, "counts", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._ask: Any = self.program.popen.stdin
        self._answers: Any = self.program.popen.stdout
        self.counts()

    def counts(self) -> dict[str, Any]:
        self._ask.write(b"?\n")
        self._ask.flush()
        counts: dict[str, Any] = json.loads(self._answers.readline())
        return counts

    def close(self) -> int:
        self._ask.close()
        return self.program.ended()


class Targets:
    """Echo servers that are killed and started again, one after the other, until told to stop."""

    def __init__(self, programs: Programs) -> None:
        self.programs = programs
        self.ports = [free_port() for _ in range(TARGETS)]
        self.running = [self._start(port) for port in self.ports]
        self.deaths = 0
        self._over = threading.Event()
        self._killer = threading.Thread(target=self._kill)

    def _start(self, port: int) -> Program:
        program = self.programs.start([sys.executable, ECHO, port], f"echo-{port}", env=environment())
        until(lambda: accepts(port), "an echo server")
        return program

    def _kill(self) -> None:
        rng = random.Random(7)
        while not self._over.wait(KILLED_EVERY):
            victim = rng.randrange(TARGETS)
            self.running[victim].signal(signal.SIGKILL)
            self.running[victim].ended()
            self.deaths += 1
            self._over.wait(KILLED_EVERY)
            self.running[victim] = self._start(self.ports[victim])

    def __enter__(self) -> Targets:
        self._killer.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._killer.join()


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Crowd:
    """Clients of many identities; each connection does one of the things that clients do."""

    def __init__(self, identities: Identities, port: int) -> None:
        self.port = port
        for number in range(CLIENTS):
            group = "admin" if number % 10 else "staff"
            identities.client(f"client{number}", f"client{number}@{group}")
        self.contexts = [identities.context(f"client{number}") for number in range(CLIENTS)]
        self.outcomes: Counter[str] = Counter()
        self._numbers: Iterator[int] = iter(range(CONNECTIONS))
        self._lock = threading.Lock()

    def run(self) -> None:
        threads = [threading.Thread(target=self._work, args=(seed,)) for seed in range(AT_ONCE)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _work(self, seed: int) -> None:
        rng = random.Random(seed)
        while (number := self._next()) is not None:
            outcome = self._connect(number % CLIENTS, rng)
            with self._lock:
                self.outcomes[outcome] += 1

    def _next(self) -> int | None:
        with self._lock:
            return next(self._numbers, None)

    def _connect(self, who: int, rng: random.Random) -> str:
        manner = rng.choice(("talk", "talk", "talk", "leave", "silent"))
        try:
            with connect(self.port) as plain:
                if manner == "silent" and rng.random() < 0.5:
                    return "left before the handshake"
                with self.contexts[who].wrap_socket(plain, server_hostname="localhost") as stream:
                    stream.settimeout(10)
                    if manner == "leave":
                        return "left at once"
                    stream.sendall(b"hello")
                    return "served" if b"echo" in stream.recv(100) else "closed"
        except OSError as problem:
            return str(getattr(problem, "reason", None) or type(problem).__name__)


def test_after_thousands_of_connections_nothing_is_counted_any_more(
    programs: Programs, tmp_path: Path
) -> None:
    """G-10: 5,000 connections of 50 clients over 4 targets that are killed and revived."""
    identities = Identities(tmp_path / "identities")
    with Targets(programs) as targets:
        proxy = Counted(programs, identities, targets.ports)
        crowd = Crowd(identities, proxy.port)
        began = time.monotonic()
        crowd.run()
        print(f"{CONNECTIONS} connections in {time.monotonic() - began:.1f} s: {crowd.outcomes}")
    assert sum(crowd.outcomes.values()) == CONNECTIONS
    assert crowd.outcomes["served"] > CONNECTIONS / 2
    assert crowd.outcomes["TLSV1_ALERT_ACCESS_DENIED"] > 0
    assert targets.deaths > 2
    until(lambda: proxy.counts()["alive"] == 0, "all connections gone")
    counts = proxy.counts()
    assert counts == {
        "peers": {f"127.0.0.1:{port}": 0 for port in targets.ports},
        "limited": 0,
        "admitted": 0,
        "alive": 0,
    }
    assert proxy.close() == 0
