"""Programs that the tests run beside them: each has a log, a deadline, and an end that is certain."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

PATIENCE = 10.0
"""Seconds that anything may take which normally takes milliseconds."""
ROOT = Path(__file__).resolve().parents[2]
ON_TWISTEDS_REACTOR = (
    "import runpy; from twisted.internet import epollreactor; epollreactor.install();"
    "runpy.run_module('rproxy.command', run_name='__main__')"
)
RPROXY = (
    [sys.executable, "-c", ON_TWISTEDS_REACTOR]
    if os.environ.get("RPROXY_TEST_REACTOR") == "epoll"
    else [sys.executable, "-m", "rproxy.command"]
)
"""The command; `RPROXY_TEST_REACTOR=epoll make e2e` runs the tests on Twisted's own reactor."""
TWISTD = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()"]
TWIST = [sys.executable, "-m", "twisted"]
NOBODY = 65534


def until(condition: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
    """The first true value of `condition`; an `AssertionError` with `what` when there is none in time."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not in {seconds} s: {what}"
        time.sleep(0.01)
    return value


WORKERS = 16
"""More than anybody starts."""
WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % WORKERS
PORTS = cycle(random.sample(range(20000 + WORKER, 32000, WORKERS), 750))
"""Of this worker, each once before one comes again: some are asked for long before they are listened on."""


def free_port() -> int:
    """A TCP port that nobody has, below those that the kernel gives to outgoing connections.

    pytest's workers each have ports of their own: two of them might find the same one free.
    """
    while True:
        port = next(PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def environment(**more: str) -> dict[str, str]:
    """Ours, with rproxy importable from the checkout."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **more}


def run(words: Sequence[Any], seconds: float = 30.0, **options: Any) -> subprocess.CompletedProcess[str]:
    """A program that ends by itself, with what it wrote."""
    options = {"stdin": subprocess.DEVNULL, "env": environment()} | options
    options |= {"capture_output": True, "text": True, "errors": "replace", "timeout": seconds}
    return subprocess.run([str(word) for word in words], check=False, **options)


class Program:
    """A running program; what it writes goes to a log file."""

    def __init__(self, words: Sequence[Any], log_file: Path, **options: Any) -> None:
        self.log_file = log_file
        options = {"stdin": subprocess.DEVNULL, "env": environment()} | options
        with log_file.open("ab") as out:
            options = {"stdout": out, "stderr": subprocess.STDOUT} | options
            self.popen = subprocess.Popen([str(word) for word in words], **options)

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def says(self, text: str, times: int = 1, seconds: float = PATIENCE) -> None:
        """Wait until `text` stands in the log."""

        def said() -> bool:
            return self.log.count(text) >= times or self.popen.poll() is not None

        try:
            until(said, text, seconds)
            assert self.log.count(text) >= times, f"ended without saying {text}"
        except AssertionError as problem:
            raise AssertionError(f"{problem}; the log ends in:\n{self.log[-3000:]}") from None

    def signal(self, number: int) -> None:
        self.popen.send_signal(number)

    def ended(self, seconds: float = PATIENCE) -> int:
        """The exit status, negative for a signal."""
        return self.popen.wait(seconds)

    def end(self) -> None:
        """End it however it takes."""
        if self.popen.poll() is None:
            for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):  # twice: rproxy drains at first
                self.signal(number)
                try:
                    self.popen.wait(0.5)
                except subprocess.TimeoutExpired:
                    continue
                return
            self.popen.wait(PATIENCE)

    @property
    def rss(self) -> int:
        """Bytes of memory in use."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGESIZE")

    @property
    def fds(self) -> int:
        """Open file descriptors."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    @property
    def cpu(self) -> float:
        """Seconds of processor time used so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Proxy(Program):
    """rproxy on a port of 127.0.0.1, with a config file that can be changed."""

    def __init__(self, words: Sequence[Any], config: Path, port: int, log_file: Path, **options: Any) -> None:
        self.config, self.port = config, port
        super().__init__(words, log_file, **options)

    def write(self, text: str) -> None:
        """Replace the config file's content in one step; the proxy is not told."""
        write_config(self.config, self.port, text)

    def reload(self, text: str) -> None:
        """Change the configuration and wait until it is in use."""
        times = self.log.count("reloaded ")
        self.write(text)
        self.signal(signal.SIGHUP)
        self.says("reloaded ", times + 1)

    def ends(self) -> list[dict[str, str]]:
        """The connection log: the fields of each line."""
        lines = [line for line in self.log.splitlines() if " client=" in line and " reason=" in line]
        return [dict(word.split("=", 1) for word in line.split() if "=" in word) for line in lines]


def write_config(file: Path, port: int, text: str) -> None:
    """`text` is what comes after the listening port; a rename makes it one step."""
    fresh = file.with_name(f".{file.name}.fresh")
    fresh.write_text(f'listen_address_v4 = "127.0.0.1"\nlisten_port_tls = {port}\n{text}')
    fresh.rename(file)


class Programs:
    """The programs of one test (or one file of tests), ended in the reverse order."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._running: list[Program] = []

    def start(self, words: Sequence[Any], name: str, **options: Any) -> Program:
        program = Program(words, self.folder / f"{name}.log", **options)
        self._running.append(program)
        return program

    def rproxy(
        self, text: str, *, port: int | None = None, more: Sequence[str] = (), **options: Any
    ) -> Proxy:
        """`rproxy run` with `text` behind its listening port, once it listens."""
        number = len(self._running)
        config, port = self.folder / f"rproxy{number}.toml", port or free_port()
        write_config(config, port, text)
        words = [*RPROXY, "run", "--config", config, *more]
        proxy = Proxy(words, config, port, self.folder / f"rproxy{number}.log", **options)
        self._running.append(proxy)
        proxy.says("rproxy listens on")
        return proxy

    def end(self) -> None:
        """End all; a traceback in any log of rproxy is a failure, whatever the test was about."""
        ended = self._running[::-1]
        for program in ended:
            program.end()
            print(f"---- {program.log_file.name}\n{program.log[-4000:]}")  # shown when the test has failed
        for program in ended:
            assert "Traceback" not in program.log, program.log[-4000:]
            assert "Unhandled" not in program.log, program.log[-4000:]


def accepts(address: tuple[str, int] | str) -> bool:
    """Whether somebody listens there: a host and port, or the path of a unix socket."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family) as probe:
        probe.settimeout(1)
        return probe.connect_ex(address) == 0
