"""How long answers take at a fixed rate: the latency cases."""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from figures import Figure, Trouble, percentile
from machine import tree
from paced import build, paced
from proxies import Running
from works import WORKS, Run, errand

LIGHT = 500
"""Requests per second that are no load for any of them: what is left is the time that an answer takes."""

LANES = 64
"""Kept-alive connections, as in `h1`: a request that finds none of them free waits, and that counts."""

TRIES = 3
"""Runs of wrk of which the median is nginx's saturation."""


class Pace(NamedTuple):
    """What the client is told, besides a port."""

    program: Path
    rate: float
    seconds: int


def latency(case: str, run: Run) -> Iterable[Figure]:
    """At a light load (`h1_latency`), and at half of what nginx can do (`h1_half`)."""
    figures = (Figure(case, "ms p50"), Figure(case, "ms p99"))
    try:
        with others_elsewhere(run.yard.backend) as core:
            rate = LIGHT if case == "h1_latency" else half_of_nginx(run, core, figures[0])
            _take_turns(run, core, Pace(build(run.yard.folder), rate, run.seconds), figures)
    except Trouble as trouble:
        for figure in figures:
            figure.fail("nginx", str(trouble))
    yield from figures


@contextmanager
def others_elsewhere(backend: Running) -> Iterator[set[int]]:
    """Keep the client and the backend off one core, which is for the proxies; unless there is only one.

    Three busy processes on two cores wait for each other: which of them did is up to the scheduler, and a
    proxy that shares its core with the backend is saturated at half the rate.
    """
    cores, others = os.sched_getaffinity(0), [os.getpid(), *tree(backend.pid)]
    core = {min(cores)}
    try:
        _keep(others, cores - core or core)
        yield core
    finally:
        _keep(others, cores)


def _keep(pids: Iterable[int], cores: set[int]) -> None:
    for pid in pids:
        os.sched_setaffinity(pid, cores)


def half_of_nginx(run: Run, core: set[int], figure: Figure) -> float:
    """Half of the requests per second that wrk gets done through nginx on a core of its own."""
    with run.yard.started("nginx") as (nginx,):
        _keep(tree(nginx.pid), core)
        done = [WORKS["h1"].load(errand(nginx, WORKS["h1"], run)) for _ in range(TRIES)]
    most = statistics.median(done) / run.seconds
    figure.notes.append(f"nginx is saturated by {most:.0f} requests/s; half of that is sent")
    return most / 2


def _take_turns(run: Run, core: set[int], pace: Pace, figures: tuple[Figure, Figure]) -> None:
    late: list[float] = []
    with run.yard.started(*run.targets) as running:
        _keep([pid for each in running for pid in tree(each.pid)], core)
        for _ in range(run.rounds):
            for target in running:
                late += _round(target, pace, figures)
    if late:
        sent = f"{pace.rate:.0f} requests/s on {LANES} connections"
        own = f"{percentile(late, 50):.3f} ms (p50), {percentile(late, 99):.3f} ms (p99)"
        figures[-1].notes.append(f"{sent}; the client itself was late by {own}")


def _round(target: Running, pace: Pace, figures: tuple[Figure, Figure]) -> list[float]:
    """One round into both figures; returns how late the client was."""
    try:
        outcome = paced(pace.program, target.ports.http, pace.rate, pace.seconds, LANES)
    except Trouble as trouble:
        for figure in figures:
            figure.fail(target.name, str(trouble))
        return []
    for figure, percent in zip(figures, (50, 99), strict=True):
        figure.add(target.name, percentile(outcome.latencies, percent))
    return outcome.lateness
