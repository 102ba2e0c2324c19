"""A long mixed load: does anything stay behind? Run by hand: `python tests/e2e/soak.py --minutes 10`.

Requests with numbers (see `numbered`) in HTTP/1.1 and HTTP/2, in clear text and behind TLS, through TLS that
is passed on and through a TCP service with client certificates, and WebSockets; clients that reset, close
their half, read late or leave; and reloads under all that. At the end the proxy has to have as many
descriptors, connections and tickets open as at the start, about as much memory, and no error in its log.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from traceback import format_exception

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from websockets.asyncio.client import connect as websocket
from websockets.exceptions import ConnectionClosed, InvalidMessage

from tests.e2e.fronts import Listening, backend, location
from tests.e2e.loads import Client, Load, Numbers, Tally, asking, half_closing, late, resetting
from tests.e2e.numbered import Lost, Mistaken, content
from tests.e2e.numbered_http2 import Http2Asker
from tests.e2e.paths import Paths, grown
from tests.e2e.programs import ROOT, Programs, environment
from tests.e2e.streams import connect

MOST = 1 << 20
CUTS = 0.1
"""The part of all streams of HTTP/2 that is reset."""
RELOADED_EVERY = 2.0
LEEWAY = 6 << 20
"""Bytes by which a proxy may be larger than after the first quarter: what malloc does not give back."""
COLLECTING = "import gc, signal\nsignal.signal(signal.SIGUSR2, lambda *told: gc.collect())\n"
"""What Python runs before the proxy: garbage in cycles may wait for long, and would be taken for a leak."""
ERROR = re.compile(r"#(error|critical)\]|Traceback|Unhandled")
BODIES = (0, 1, 125, 126, 65535, 65536, 300_000)


def http2(paths: Paths, numbers: Numbers, scheme: str) -> Client:
    """A client with up to ten requests at a time."""

    def connection(rng: random.Random, tally: Tally) -> None:
        stream = paths.front.connect(scheme) if scheme == "http" else secret(paths)
        with Http2Asker(stream) as asker:
            for _ in range(rng.randrange(1, 8)):
                before = asker.answered
                asker.ask(numbers.take(rng, rng.randrange(1, 10), MOST // 4), rng, CUTS)
                tally.add(asker.answered - before)
                if tally.over:
                    return

    return connection


def secret(paths: Paths) -> object:
    context = paths.front.context()
    context.set_alpn_protocols(["h2"])
    return context.wrap_socket(connect(paths.proxy.port), server_hostname="a.test")


def websockets(paths: Paths, scheme: str) -> Client:
    """A client whose messages come back; one in five leaves without a goodbye."""

    def connection(rng: random.Random, tally: Tally) -> None:
        try:
            asyncio.run(asyncio.wait_for(talk(rng, tally), 30))
        except (ConnectionClosed, InvalidMessage, TimeoutError) as problem:
            raise Lost(repr(problem)) from problem

    async def talk(rng: random.Random, tally: Tally) -> None:
        options = {"ssl": paths.front.context() if scheme == "https" else None, "compression": None}
        url = paths.front.url(scheme, "/echo").replace("http", "ws", 1)
        async with websocket(url, host="127.0.0.1", proxy=None, max_size=None, **options) as client:
            for _ in range(rng.randrange(1, 20)):
                said = content(rng.randrange(1 << 30), b"ws", rng.choice(BODIES))
                await client.send(said)
                if await client.recv() != said:
                    raise Mistaken("a message came back as another")
                tally.add(1)
                if tally.over:
                    return
            if rng.random() < 0.2:
                client.transport.abort()

    return connection


def kinds(paths: Paths, numbers: Numbers) -> dict[str, Client]:
    """Everything that clients do, by name."""
    made: dict[str, Client] = {}
    for way in paths.ways:
        made[way] = asking(paths, numbers, way)
        made[f"{way}, resets"] = resetting(paths, numbers, way)
        made[f"{way}, late"] = late(paths, numbers, way)
    for way in ("clear", "passthrough"):
        made[f"{way}, closes its half"] = half_closing(paths, numbers, way)
    for scheme in ("http", "https"):
        made[f"HTTP/2, {scheme}"] = http2(paths, numbers, scheme)
        made[f"WebSocket, {scheme}"] = websockets(paths, scheme)
    return made


class Reloads:
    """A configuration that changes again and again while entered."""

    def __init__(self, paths: Paths) -> None:
        self.times = 0
        self._proxy, self._over = paths.proxy, threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Reloads:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        text = self._proxy.config.read_text().partition("\n")[2].partition("\n")[2]
        while not self._over.wait(RELOADED_EVERY):
            self.times += 1
            self._proxy.reload(re.sub(r"keepalive = \d+", f"keepalive = {100 + self.times % 50}", text))


class Memory:
    """Samples of a proxy's size, and a collection of its garbage at each, while entered."""

    def __init__(self, paths: Paths, seconds: float) -> None:
        self._proxy, self._every = paths.proxy, max(5.0, seconds / 20)
        self._over, self._thread = threading.Event(), threading.Thread(target=self._run)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        began = time.monotonic()
        while not self._over.wait(self._every):
            self._proxy.signal(signal.SIGUSR2)
            seconds, size = time.monotonic() - began, self._proxy.rss / (1 << 20)
            open_files, cpu = self._proxy.fds, self._proxy.cpu
            print(
                f"{seconds:6.0f} s: {size:.1f} MiB, {open_files} descriptors, {cpu:.0f} s of CPU", flush=True
            )


class Soak:
    """One run: what is there at the start, the load, and what is left."""

    def __init__(self, programs: Programs, folder: Path, seed: int, clients: int) -> None:
        self._chat: Listening = backend(programs, "websocket_server")
        tables = f'[[apps.site.reverse_proxy]]\npath = "/echo"\nupstream = [{location(self._chat.port)}]\n'
        more = 'keepalive = 100\naccess_log = { path = "/dev/null" }\n'
        (folder / "sitecustomize.py").write_text(COLLECTING)
        env = environment(PYTHONPATH=f"{ROOT}:{folder}")
        self.paths, self.numbers = Paths(programs, folder, more, tables, env=env), Numbers(MOST)
        self._seed, self._clients = seed, clients
        self.wrong: list[str] = []

    def load(self, seconds: float) -> None:
        load = Load(kinds(self.paths, self.numbers), self._seed)
        with Reloads(self.paths) as reloads, Memory(self.paths, seconds):
            load.run(seconds, self._clients)
        for name, tally in load.tallies.items():
            print(f"{name:28} {tally}")
            self.check(tally.answered > 0, f"{name}: nobody was answered")
        answered = sum(tally.answered for tally in load.tallies.values())
        print(f"{answered} answers, {answered / seconds:.0f} a second; {reloads.times} reloads")
        self.check(not load.mistaken, "".join(map("".join, map(format_exception, load.mistaken))))
        self.check(reloads.times > 0, "no reload")

    def quiet(self) -> tuple[Counter[str], int]:
        """What is there with nobody connected and no garbage."""
        found = self.paths.descriptors()
        self.paths.proxy.signal(signal.SIGUSR2)
        self.paths.status()  # answered after that
        size = self.paths.proxy.rss
        print(f"at rest: {dict(found)}, {size / (1 << 20):.1f} MiB; open: {self.paths.open()}", flush=True)
        return found, size

    def check(self, good: bool, wrong: str) -> None:
        if not good:
            self.wrong.append(wrong)
            print("WRONG:", wrong)

    def run(self, seconds: float) -> None:
        self.load(seconds / 4)
        before, memory = self.quiet()
        self.load(seconds * 3 / 4)
        after, size = self.quiet()
        self.check(not grown(before, after), f"descriptors: {grown(before, after)} more")
        self.check(size - memory < LEEWAY, f"memory: {(size - memory) >> 10} KiB more")
        self.check(not self.paths.open(), f"open: {self.paths.open()}")
        self.check(not self.paths.mistakes(), f"the backends were sent wrong bytes: {self.paths.mistakes()}")
        errors = [line for line in self.paths.proxy.log.splitlines() if ERROR.search(line)]
        self.check(not errors, f"{len(errors)} errors in the log: {errors[:5]}")


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--clients", type=int, default=2, help="of each of the 18 kinds (default: 2)")
    parser.add_argument("--seed", type=int, default=1)
    words = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        programs = Programs(Path(name))
        try:
            soak = Soak(programs, Path(name), words.seed, words.clients)
            soak.run(words.minutes * 60)
        finally:
            stop(programs.end)
    print("nothing is left behind" if not soak.wrong else f"{len(soak.wrong)} things are wrong")
    return bool(soak.wrong)


def stop(end: Callable[[], None]) -> None:
    """End the programs, whose logs nobody wants to see here."""
    with open("/dev/null", "w") as nothing:
        before, sys.stdout = sys.stdout, nothing
        try:
            end()
        finally:
            sys.stdout = before


if __name__ == "__main__":
    sys.exit(main())
