"""One rproxy with all ways that bytes take through it, and requests with numbers for each of them.

What test_faults.py and soak.py stand on. The ways: requests in clear text, requests behind TLS, TLS that is
passed on, and a TCP service whose clients show a certificate.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.e2e.fronts import Front, Listening, backend, location
from tests.e2e.identities import Identities
from tests.e2e.numbered import WRONG
from tests.e2e.programs import RPROXY, Programs, free_port, run, until
from tests.e2e.streams import client_hello, connect

PASSED_ON = "p.test"
PIPES = 32
"""Descriptors of the pipes that a proxy keeps, see `rproxy.splice`."""


class Paths:
    """The proxy, its two backends, and how to connect on each way."""

    def __init__(
        self, programs: Programs, folder: Path, more: str = "", tables: str = "", **options: Any
    ) -> None:
        """`folder` has a short path; `more` is for the first table of the config file, `tables` is more."""
        self.identities = Identities(folder / "identities")
        self.backends = [backend(programs, "numbered"), backend(programs, "numbered", "hello")]
        self.l4, self.socket = free_port(), folder / "s"
        self.front = Front(
            programs,
            location(self.backends[0].port),
            entry=tables + self._more(*self.backends),
            more=f'admin_socket = "{self.socket}"\n{more}',
            **options,
        )
        self.proxy = self.front.proxy
        self.ways: dict[str, Callable[[], Any]] = {
            "clear": lambda: self.front.connect("http"),
            "tls": lambda: self.front.connect("https"),
            "passthrough": self._passed_on,
            "l4": lambda: self.identities.connect(self.l4),
        }

    def _more(self, plain: Listening, hello: Listening) -> str:
        return (
            f'[apps.passed]\nserver_name = "{PASSED_ON}"\n'
            f"passthrough = {{ upstream = [{location(hello.port)}] }}\n"
            f'[l4.db]\nlisten = "127.0.0.1:{self.l4}"\nupstream = [{location(plain.port)}]\n'
            f'authorized_groups = ["admin"]\n{self.identities.tls}'
        )

    def _passed_on(self) -> socket.socket:
        stream = connect(self.proxy.port)
        stream.sendall(client_hello(PASSED_ON))
        return stream

    def status(self) -> dict[str, Any]:
        """What the proxy says of itself."""
        said = run([*RPROXY, "status", "--json", "--socket", self.socket])
        assert said.returncode == 0, said.stderr
        status: dict[str, Any] = json.loads(said.stdout)
        return status

    def open(self) -> dict[str, int]:
        """Everything that it counts as open, by name; nothing else."""
        status = self.status()
        found = {"connections": status["connections"]["open"]}
        found |= {limit["name"]: limit["open"] for limit in status["limits"]}
        for each in [*status["apps"], *status["l4"]]:
            found |= {f"{each['name']} {peer['location']}": peer["open"] for peer in each["peers"]}
        return {name: count for name, count in found.items() if count}

    def descriptors(self) -> Counter[str]:
        """The proxy's, by kind, with nobody connected: the backends close what is kept for them."""
        until(lambda: not self.open(), f"nothing open, not {self.open()}", 30)
        for each in self.backends:
            each.program.signal(signal.SIGUSR1)
        before = Counter({"none": -1})
        while (found := self._kinds()) != before:  # those connections end one after the other
            before = found
            time.sleep(0.3)
        return found

    def _kinds(self) -> Counter[str]:
        folder, kinds = Path(f"/proc/{self.proxy.pid}/fd"), list[str]()
        for name in os.listdir(folder):
            try:
                kinds.append(os.readlink(folder / name).partition(":")[0])
            except FileNotFoundError:
                continue
        return Counter(kinds)

    def mistakes(self) -> str:
        """What the backends found wrong with requests."""
        logs = "".join(each.program.log for each in self.backends)
        return "\n".join(line for line in logs.splitlines() if WRONG in line)


def grown(before: Counter[str], after: Counter[str]) -> Counter[str]:
    """What there is more of, but for the pipes that are kept."""
    more = after - before
    more["pipe"] = max(0, after["pipe"] - max(before["pipe"], PIPES + 4))
    return +more
