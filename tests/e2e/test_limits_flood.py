"""A flood from many clients behind a trusted front: the memory it may cost, and the time it may cost others.

The flood, the proxy, the backend and an innocent client share the cores with each other and with whatever
else the machine does. A visit passes through client, proxy and backend one after the other, so time in
which one of them was ready to run and got no core is the machine's doing. The kernel counts it (proc(5),
/proc/PID/schedstat), and it is taken off. The rest is what the flood does to the proxy: its queues, its
turns, its pauses for garbage. Where two waited for a core at the same time it is taken off twice; without
that the limit would be one on what else the machine does.
"""

from __future__ import annotations

import signal
import socket
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from rproxy.wire.address import Inet
from rproxy.wire.proxyheader import encode_v2
from tests.e2e.programs import ROOT, Program, Programs, Proxy, until
from tests.e2e.streams import all_of, client_hello, connect

FLOOD, CROWD = 50_000, 20_000
"""Connections, and the clients they are from."""
PATIENT = 0.05
"""Seconds that an innocent client's visit may take while the flood lasts, but for those without a core."""
GROWTH = 16 << 20
"""Bytes that the flood may cost: 12 MB are the bound for buckets, whoever comes; the rest is for what is open
at a time."""
STARVED = 0.1
"""Seconds without a core after which a visit says nothing about the proxy: what has come in the meantime,
some hundreds of connections, is before it in the queue."""
ENOUGH = 100
"""Visits that have to count. A quiet machine makes a thousand and leaves out none."""
QUIET = 0.1
"""The part of all waiting that is for a core where a machine is quiet, at most. On such a machine every visit
has to be in time. On others the kernel's own threads, through which loopback's packets go, wait as well."""
EXCEPTIONS = 200
"""On others one visit in so many may be late."""
MOST_OF_THEM = 0.9
"""Of those that are to be refused: where the proxy has no core for long, some leave before they are read."""
SLOWEST = 240
"""Seconds for the whole test on a machine that is busy with others; 25 where it is not."""

LIMITS = """accept_proxy_protocol = { from = ["127.0.0.1"] }
max_clients = 2000
rate_limit = { capacity = 1, fill_rate = "1h", max_connections = 1 }
ban_list = "bans.txt"
"""


class Visit(NamedTuple):
    """Seconds until an innocent client had all of its answer, and how long those who serve it had no core."""

    waited: float
    starved: float

    @property
    def delay(self) -> float:
        """What the proxy has to answer for."""
        return self.waited - self.starved


def assert_in_time(visits: list[Visit]) -> None:
    fair = sorted((each.delay for each in visits if each.starved < STARVED), reverse=True)
    assert len(fair) >= ENOUGH, (
        f"{len(fair)} of {len(visits)} visits count: the machine has no cores to spare"
    )
    is_quiet = sum(each.starved for each in visits) < QUIET * sum(each.waited for each in visits)
    late = 0 if is_quiet else len(fair) // EXCEPTIONS
    assert fair[late] < PATIENT, f"{late} of {len(fair)} may be late, these are: {fair[: late + 5]}"


@pytest.fixture
def backend(programs: Programs) -> tuple[Program, int]:
    """In a process of its own, where no other thread is in its way."""
    listening = socket.create_server(("127.0.0.1", 0), backlog=512)
    with listening:
        words = [sys.executable, Path(__file__).with_name("echo_and_close.py"), listening.fileno()]
        program = programs.start(words, "backend", pass_fds=[listening.fileno()])
        return program, listening.getsockname()[1]


def without_core(*pids: int | str) -> float:
    """Seconds for which these processes were ready to run and others ran."""
    return sum(int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) for pid in pids) / 1e9


def visit(proxy: Proxy, others: list[Program], number: int) -> Visit:
    """A client that comes for the first time, and says who it is in a PROXY header."""
    processes = ("self", proxy.pid, *(other.pid for other in others))
    began, starved = time.monotonic(), without_core(*processes)
    with connect(proxy.port) as stream:
        client = Inet(f"203.{number >> 16}.{number >> 8 & 255}.{number & 255}", 4711)
        stream.sendall(encode_v2(client, Inet("127.0.0.1", 443)) + client_hello("a.test"))
        assert all_of(stream) == b"ok"
    return Visit(time.monotonic() - began, without_core(*processes) - starved)


def test_a_flood_neither_fills_the_memory_nor_delays_the_innocent(
    programs: Programs, backend: tuple[Program, int], tmp_path: Path
) -> None:
    signal.alarm(SLOWEST)  # instead of the limit that every test has
    if not Path("/proc/self/schedstat").exists():
        pytest.skip("this kernel does not say who waited for a core")
    (tmp_path / "bans.txt").write_text("192.0.2.7\n")
    upstream = f'upstream = [{{ location = "127.0.0.1:{backend[1]}" }}]'
    proxy = programs.rproxy(f'{LIMITS}[apps.a]\nserver_name = "a.test"\npassthrough = {{ {upstream} }}\n')
    for number in range(100):  # whatever is made once
        visit(proxy, [backend[0]], number)
    before, peak, visits = proxy.rss, 0, list[Visit]()
    flood = programs.start(
        ["nice", "-n", 15, sys.executable, ROOT / "tests/e2e/flood.py", proxy.port, FLOOD, CROWD], "flood"
    )
    while flood.popen.poll() is None:
        visits.append(visit(proxy, [backend[0]], 100 + len(visits)))
        peak = max(peak, proxy.rss)
        time.sleep(0.01)
    assert flood.popen.returncode == 0, flood.log
    assert peak - before < GROWTH
    assert_in_time(visits)
    refused = FLOOD - CROWD
    until(lambda: proxy.log.count("reason=rate_limited") > refused * MOST_OF_THEM, "lines for the refused")
    assert proxy.log.count("reason=rate_limited") <= refused
