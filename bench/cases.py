"""The cases: which there are, and the rounds in which the proxies take turns."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from figures import Figure
from idle import idle
from limits import limits
from timing import latency
from works import WORKS, Run, cost


def compare(case: str, run: Run) -> Iterable[Figure]:
    """CPU per unit of work."""
    figure = Figure(case, WORKS[case].unit)
    with run.yard.started(*run.targets) as running:
        for _ in range(run.rounds):
            for target in running:
                figure.take(target.name, partial(cost, target, WORKS[case], run))
    yield figure


def names(case: str, run: Run) -> Iterable[Figure]:
    """`sni_conn` of rproxy with 10 and with 10,000 configured names, in turns."""
    figure = Figure(case, "us/conn", ours="10000 names")
    running = [run.yard.rproxy(f"{count} names", many(count)) for count in (10, 10_000)]
    try:
        for _ in range(run.rounds):
            for target in running:
                figure.take(target.name, partial(cost, target, WORKS["sni_conn"], run))
    finally:
        for target in running:
            target.stop()
    yield figure


def many(count: int) -> str:
    """Configuration for so many names, with the one that all runs have."""
    listed = ", ".join(f'"site{i}.example.org"' for i in range(count - 1))
    upstream = '{{ upstream = [{{ location = "127.0.0.1:1" }}] }}'
    return f"\n[apps.many]\nserver_name = [{listed}]\npassthrough = {upstream}\n"


MEASURES: dict[str, Callable[[str, Run], Iterable[Figure]]] = {
    "sni_conn": compare,
    "sni_bulk": compare,
    "sni_names": names,
    "sni_idle": idle,
    "mtls_conn": compare,
    "mtls_bulk": compare,
    "h1": compare,
    "h1_browser": compare,
    "h1_newconn": compare,
    "h1_bulk": compare,
    "h1_idle": idle,
    "h1_latency": latency,
    "h1_half": latency,
    "limits_conn": limits,
    "limits_request": limits,
    "tls_h1": compare,
    "tls_handshake": compare,
    "tls_bulk": compare,
    "h2": compare,
    "h2_bulk": compare,
}
