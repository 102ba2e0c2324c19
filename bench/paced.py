"""Runs paced.c, a client that sends requests at a fixed rate and says how long each took. For timing.py.

Time counts from when a request was meant to leave. (A client that sends the next request only
after an answer leaves the waiting ones out, and a proxy that stops for a second then shows one
slow request instead of hundreds.)
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import NamedTuple

from figures import Trouble

SOURCE = Path(__file__).with_name("paced.c")


class Outcome(NamedTuple):
    """Milliseconds from meant to be sent until answered, and by how many the client itself was late."""

    latencies: list[float]
    lateness: list[float]


def build(folder: Path) -> Path:
    """The program, compiled into that folder."""
    program = folder / "paced"
    command = ["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(program), str(SOURCE)]
    subprocess.run(command, check=True)
    return program


def paced(program: Path, port: int, rate: float, seconds: float, lanes: int) -> Outcome:
    """`rate` x `seconds` requests to localhost at that port. Raises `Trouble` if one is not answered well."""
    words = [str(program), str(port), str(round(1e9 / rate)), str(round(rate * seconds)), str(lanes)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Trouble(done.stderr.strip() or f"the client ended with {done.returncode}")
    return Outcome(*(_times(done.stdout, word) for word in ("answered", "late")))


def _times(report: str, word: str) -> list[float]:
    lines = (line.split() for line in report.splitlines())
    return [int(time) / 1e6 for kind, time in lines if kind == word]
