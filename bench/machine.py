"""What the kernel says about processes, and what a run must say about itself: the machine and the build."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

CPU_CLOCK = 2
"""Linux's CPUCLOCK_SCHED: the time that all threads of a process have run."""
IDLE_LOAD = 0.3
"""Load average of a machine that does nothing else; with more, figures are for comparison only."""

ASK = """
import json, platform, rproxy, rproxy.exchange, twisted
from OpenSSL import SSL
print(json.dumps([rproxy.exchange.__file__, rproxy.__version__, platform.python_version(),
                  twisted.__version__, SSL.OpenSSL_version(SSL.OPENSSL_VERSION).decode().split()[1]]))
"""


class Build(NamedTuple):
    """The rproxy that a run is about."""

    exchange: str
    version: str
    python: str
    twisted: str
    openssl: str

    @property
    def kind(self) -> str:
        """Whether the data path is machine code or interpreted."""
        return "compiled" if self.exchange.endswith(".so") else "pure Python"


def build(environment: dict[str, str], folder: Path) -> Build:
    """What this interpreter imports as rproxy in that environment; asked from `folder`, as it will run."""
    command = [sys.executable, "-c", ASK]
    asked = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if asked.returncode:
        reason = asked.stderr.strip().rpartition("\n")[2]
        sys.exit(f"{sys.executable} cannot import rproxy ({reason}); `make bench` installs it first")
    return Build(*json.loads(asked.stdout))


def facts() -> dict[str, str]:
    """What else the figures depend on."""
    cpu = _found(r"^model name\s*:\s*(.+)", _read("/proc/cpuinfo"))
    system = _found(r'^PRETTY_NAME="?([^"\n]+)', _read("/etc/os-release"))
    return {
        "cpu": f"{os.cpu_count()} x {cpu}",
        "system": f"{system}, Linux {platform.release()}",
        "nginx": _found(r"nginx/(\S+)", _said("nginx", "-v")),
        "haproxy": _found(r"version (\d[\d.]*)", _said("haproxy", "-v")),
        "load": f"{os.getloadavg()[0]:.2f}",
    }


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and its descendants so far. Raises `OSError`.

    By the clock that the kernel keeps for each process (clock_getcpuclockid(3)): /proc tells the same in
    steps of 10 ms, which is too coarse for what a limit adds to a request.
    """
    return sum(time.clock_gettime((~one << 3) | CPU_CLOCK) for one in tree(pid))


def memory_kib(pid: int) -> int:
    """Proportional set size of a process and its descendants. Raises `OSError` when one is gone."""
    rollups = (Path(f"/proc/{one}/smaps_rollup").read_text() for one in tree(pid))
    return sum(int(found[1]) for text in rollups if (found := re.search(r"^Pss:\s+(\d+)", text, re.M)))


def tree(pid: int) -> list[int]:
    """A process and its descendants."""
    found, todo = [], [pid]
    while todo:
        found.append(todo.pop())
        for children in Path(f"/proc/{found[-1]}/task").glob("*/children"):
            todo += map(int, children.read_text().split())
    return found


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text, re.M)
    return match[1] if match else "unknown"


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _said(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr
