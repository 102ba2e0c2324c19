"""Backends that die and come back under load: while another one lives, no GET notices."""

from __future__ import annotations

import http.client
import re
import signal
import threading
import time
import urllib.request
from collections import Counter
from pathlib import Path
from types import TracebackType

import pytest

from tests.e2e.conftest import Peer
from tests.e2e.fronts import Front, Listening, backend, load, location
from tests.e2e.peers import nginx
from tests.e2e.programs import PATIENCE, Programs, free_port, until

CLIENTS = 16
LEFT_OUT = 'fail_timeout = "500ms"'
"""How long a dead backend is not asked; the default would only make these tests longer."""


def servers(port: int, folder: Path) -> str:
    return (
        f"server {{ listen 127.0.0.1:{port} backlog=1024; root {folder}; keepalive_requests 100000;"
        ' location = /small { return 200 "small"; } location = /counted { stub_status; } }'
    )


def answered(port: int) -> int:
    """How many requests an nginx has answered since it was started."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/counted", timeout=PATIENCE) as page:
        found = re.search(rb"requests\n \d+ \d+ (\d+)", page.read())
    assert found is not None
    return int(found[1])


@pytest.mark.parametrize(
    ("number", "balance"), [(signal.SIGKILL, "round_robin"), (signal.SIGTERM, "least_connections")]
)
def test_an_nginx_killed_and_revived_under_wrk_costs_no_get(
    programs: Programs, peer: Peer, tmp_path: Path, number: int, balance: str
) -> None:
    ports = [free_port(), free_port()]
    victim, _ = (
        nginx(programs, peer("nginx"), servers(port, tmp_path), ("127.0.0.1", port)) for port in ports
    )
    front = Front(programs, ", ".join(map(location, ports)), entry=f"load_balance = '{balance}'\n{LEFT_OUT}")
    seen: list[int] = []

    def kill_and_revive() -> None:
        seen.append(answered(ports[0]))
        victim.signal(number)
        victim.ended()
        time.sleep(1)
        programs.start(victim.popen.args, "revived")

    killer = threading.Timer(1, kill_and_revive)
    killer.start()
    counted = load(peer("wrk"), front.url("http", "/small"), 5)
    killer.join()
    seen.append(answered(ports[0]))
    print(counted, seen)
    assert counted.requests > 1000
    assert (counted.errors, counted.bad) == (0, 0)
    assert min(seen) > 100, "it was used before its death, and after"
    front.proxy.says(f"peer 127.0.0.1:{ports[0]} is down")
    front.proxy.says(f"peer 127.0.0.1:{ports[0]} is up again")


class Asking:
    """Clients that ask for `/slow` over and over while entered, each on its own kept connection."""

    def __init__(self, front: Front) -> None:
        self._front, self._over = front, threading.Event()
        self.answers: Counter[str] = Counter()
        self.failures: list[str] = []
        self._threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(CLIENTS)]

    def __enter__(self) -> Asking:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(PATIENCE)

    def _ask(self) -> None:
        client = http.client.HTTPConnection("127.0.0.1", self._front.ports["http"], timeout=PATIENCE)
        try:
            while not self._over.is_set():
                client.request("GET", "/slow", headers={"Host": "a.test"})
                answer = client.getresponse()
                body = answer.read().decode()
                if answer.status == 200:
                    self.answers[body] += 1
                else:
                    self.failures.append(f"{answer.status} {body}")
        except (OSError, http.client.HTTPException) as problem:
            self.failures.append(repr(problem))


def test_python_apps_killed_in_the_middle_of_requests_and_revived_cost_no_get(programs: Programs) -> None:
    """Each in its turn, as in a deployment; every one of them dies with requests that it has begun."""
    apps = [backend(programs, "wsgi_app") for _ in range(2)]
    group = ", ".join(location(app.port) for app in apps)
    front = Front(programs, group, entry=f"load_balance = 'round_robin'\n{LEFT_OUT}")

    def serves(app: Listening) -> bool:
        return asking.answers[str(app.program.pid)] > 2 * CLIENTS

    with Asking(front) as asking:
        for number in (0, 1, 0):
            until(lambda: all(map(serves, apps)), "both serve")
            apps[number].program.signal(signal.SIGKILL)
            apps[number].program.ended()
            time.sleep(0.5)
            apps[number] = backend(programs, "wsgi_app", port=apps[number].port)
        until(lambda: all(map(serves, apps)), "both serve again")
    assert asking.failures == []
    assert len(asking.answers) == 5
