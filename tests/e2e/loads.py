"""Clients on all ways through a proxy (see `paths`), many at a time; their requests are those of `numbered`.

Good ones wait for every byte. The others leave, reset, close their half or read late, as clients do; what
they get has to be right all the same.
"""

from __future__ import annotations

import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping

from tests.e2e.numbered import Ask, Asker, Lost, sizes
from tests.e2e.paths import Paths
from tests.e2e.streams import reset

MOST_AT_ONCE = 3
"""Small requests that a client sends without waiting for the answers."""
SMALL = 2000


class Numbers:
    """Requests for the clients of a run; no two have the same number. `most` are the bytes of a body."""

    def __init__(self, most: int) -> None:
        self._lock, self._next, self._most = threading.Lock(), 0, most

    def take(self, rng: random.Random, count: int, most: int = 0) -> list[Ask]:
        """So many, with bodies of at most so many bytes."""
        with self._lock:
            self._next += count
            numbers = range(self._next - count, self._next)
        most = most or self._most
        return [
            Ask(number, sizes(rng, most) % (most + 1), sizes(rng, most) % (most + 1)) for number in numbers
        ]

    def some(self, rng: random.Random) -> list[Ask]:
        """What a client sends at once: one request of any size, or some small ones."""
        count = rng.choice((1, 1, 1, MOST_AT_ONCE))
        return self.take(rng, count, 0 if count == 1 else SMALL)


class Tally:
    """What the clients of one kind have come to."""

    def __init__(self, over: threading.Event) -> None:
        self._lock, self._over = threading.Lock(), over
        self.answered = 0
        self.reasons: Counter[str] = Counter()

    @property
    def over(self) -> bool:
        """Whether the load ends."""
        return self._over.is_set()

    @property
    def lost(self) -> int:
        return self.reasons.total()

    def add(self, answers: int) -> None:
        with self._lock:
            self.answered += answers

    def lose(self, problem: Exception) -> None:
        with self._lock:
            self.reasons[str(problem)[:100]] += 1

    def __repr__(self) -> str:
        return f"{self.answered} answered, {self.lost} lost {dict(self.reasons.most_common(5))}"


Client = Callable[[random.Random, Tally], None]
"""A connection from its beginning to its end; raises what `Asker` does."""


def asking(paths: Paths, numbers: Numbers, way: str) -> Client:
    """A good client of this way."""

    def connection(rng: random.Random, tally: Tally) -> None:
        with Asker(paths.ways[way]()) as asker:
            for _ in range(rng.randrange(1, 20)):
                asker.ask(*(asked := numbers.some(rng)))
                tally.add(len(asked))
                if tally.over:
                    return

    return connection


def resetting(paths: Paths, numbers: Numbers, way: str) -> Client:
    """One that resets its connection in the middle of a request or of its answer, if not before any."""

    def connection(rng: random.Random, tally: Tally) -> None:
        stream = paths.ways[way]()
        (asked,) = numbers.take(rng, 1)
        text = asked.text(b"a.test")
        stream.sendall(text[: rng.randrange(len(text) + 1) if rng.random() < 0.5 else len(text)])
        if rng.random() < 0.5:
            stream.settimeout(rng.random() / 10)
            try:
                stream.recv(1 + rng.randrange(100_000))
            except TimeoutError:
                pass
        reset(stream)
        tally.add(1)

    return connection


def half_closing(paths: Paths, numbers: Numbers, way: str) -> Client:
    """One that says that it has asked everything, and is answered all the same."""

    def connection(rng: random.Random, tally: Tally) -> None:
        with Asker(paths.ways[way]()) as asker:
            asker.say(*(asked := numbers.some(rng)))
            asker.stream.shutdown(socket.SHUT_WR)
            asker.hear(*asked)
            tally.add(len(asked))

    return connection


def late(paths: Paths, numbers: Numbers, way: str) -> Client:
    """One that reads when everything on the way is full, or does not even ask."""

    def connection(rng: random.Random, tally: Tally) -> None:
        with Asker(paths.ways[way]()) as asker:
            time.sleep(rng.random() / 2)
            if rng.random() < 0.1:
                return
            asker.stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
            asker.say(*(asked := numbers.some(rng)))
            time.sleep(rng.random())
            asker.hear(*asked)
            tally.add(len(asked))

    return connection


class Load:
    """Clients of several kinds, each of which connects again and again until the load is over."""

    def __init__(self, kinds: Mapping[str, Client], seed: int) -> None:
        self._over = threading.Event()
        self.tallies = {name: Tally(self._over) for name in kinds}
        self.mistaken: list[BaseException] = []
        self._kinds, self._seed = kinds, seed

    @property
    def lost(self) -> dict[str, Tally]:
        """The kinds whose clients were not always answered."""
        return {name: tally for name, tally in self.tallies.items() if tally.lost}

    def run(self, seconds: float, each: int) -> None:
        """So many clients of each kind for so long, or until something is wrong."""
        threads = [
            threading.Thread(target=self._client, args=(kind, random.Random(f"{self._seed} {kind} {number}")))
            for kind in self._kinds
            for number in range(each)
        ]
        for thread in threads:
            thread.start()
        self._over.wait(seconds)
        self._over.set()
        for thread in threads:
            thread.join()

    def _client(self, kind: str, rng: random.Random) -> None:
        tally = self.tallies[kind]
        while not self._over.is_set():
            try:
                self._kinds[kind](rng, tally)
            except (Lost, OSError) as problem:
                tally.lose(problem)
            except BaseException as problem:
                self.mistaken.append(problem)
                self._over.set()
