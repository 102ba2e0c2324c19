"""rproxy before one site, in clear text and behind TLS: what the tests with HTTP clients stand on."""

from __future__ import annotations

import re
import socket
import ssl
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from tests.e2e.programs import Program, Programs, Proxy, free_port, run
from tests.e2e.streams import connect

NAMES = ["localhost", "a.test"]
"""Of the site; the first one is for clients that insist on asking the resolver."""
SCHEMES = ["http", "https"]


class Front:
    """A running rproxy whose site is served by `upstreams`, on a clear-text port and on one with TLS."""

    def __init__(
        self, programs: Programs, upstreams: str, *, entry: str = "", more: str = "", **options: Any
    ) -> None:
        state, clear = programs.folder / "state", free_port()
        self.proxy: Proxy = programs.rproxy(
            f'listen_port = {clear}\nstate_directory = "{state}"\n{more}\n'
            f"[apps.site]\nserver_name = {NAMES}\nhttps_redirection = false\ntls = {{ self_signed = true }}\n"
            f"[[apps.site.reverse_proxy]]\nupstream = [{upstreams}]\n{entry}\n",
            **options,
        )
        self.ports = {"http": clear, "https": self.proxy.port}
        self.authority = state / "ca.pem"

    def url(self, scheme: str, path: str = "/") -> str:
        """An address at which a client finds the site."""
        return f"{scheme}://{NAMES[0]}:{self.ports[scheme]}{path}"

    def context(self) -> ssl.SSLContext:
        """Trust in the site's certificate and in no other."""
        return ssl.create_default_context(cafile=self.authority)

    def connect(self, scheme: str, **options: Any) -> socket.socket:
        """A connection whose every call has a deadline; where there is TLS it has shaken hands."""
        plain = connect(self.ports[scheme], **options)
        return plain if scheme == "http" else self.context().wrap_socket(plain, server_hostname=NAMES[0])


class Growth:
    """How far a program's memory rises while entered; the kernel keeps the mark, so nothing is missed."""

    MOST = 16 << 20
    """Bytes by which the proxy may grow, whatever passes through it."""

    def __init__(self, program: Program) -> None:
        self._folder = Path(f"/proc/{program.pid}")

    def __enter__(self) -> Growth:
        (self._folder / "clear_refs").write_text("5")  # proc(5): the high-water mark falls to what is in use
        self._before = self._read("VmRSS")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.by = self._read("VmHWM") - self._before
        print(f"the proxy grew by {self.by >> 10} KiB")

    def _read(self, name: str) -> int:
        line = (self._folder / "status").read_text().partition(f"{name}:")[2]
        return int(line.split()[0]) << 10


def location(port: int, more: str = "") -> str:
    """A peer, as a config file has it."""
    return f'{{ location = "127.0.0.1:{port}"{more} }}'


class Listening(NamedTuple):
    """A backend in a process of its own."""

    program: Program
    port: int


def backend(programs: Programs, module: str, *words: Any, port: int = 0) -> Listening:
    """A Python program beside this file; it is given the descriptor of its listening socket."""
    with socket.create_server(("127.0.0.1", port), backlog=2048) as listening:
        number, own = listening.fileno(), listening.getsockname()[1]
        command = [sys.executable, "-m", f"tests.e2e.{module}", number, *words]
        return Listening(programs.start(command, f"{module}-{own}", pass_fds=[number]), own)


class Load(NamedTuple):
    """What wrk counted: answers, connections that failed in any way, answers with 400 and above."""

    requests: int
    errors: int
    bad: int


def load(program: str, url: str, seconds: int, connections: int = 64) -> Load:
    """As many GETs as there can be in that time; `program` is wrk."""
    words = [program, f"-c{connections}", "-t1", f"-d{seconds}s", "--timeout", "5s", url]
    said = run(words, seconds=seconds + 20).stdout
    found = re.search(r"(\d+) requests in", said)
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", said)
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", said)
    assert found is not None, said
    failed = sum(map(int, errors.groups())) if errors else 0
    return Load(int(found[1]), failed, int(bad[1]) if bad else 0)
