"""What is done, in which unit its cost is, and what it cost: one round of one proxy. Used by the cases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import loads
import mutual
from figures import Trouble
from machine import cpu_seconds
from proxies import Running, Yard


class Work(NamedTuple):
    """What is done against which URL, and what makes CPU seconds into the unit of a case."""

    url: str
    load: loads.Load
    unit: str
    scale: float


SNI, WEB, TLS = "https://pass.localhost:{sni}/", "http://localhost:{http}/", "https://localhost:{tls}/"
MUTUAL = "https://localhost:{mtls}/"
WORKS = {
    "sni_conn": Work(SNI, loads.wrk(16, loads.CLOSE), "us/conn", 1e6),
    "sni_bulk": Work(SNI + "1g.bin", loads.download, "s/GB", 1),
    "mtls_conn": Work(MUTUAL, mutual.connections(16), "us/conn", 1e6),
    "mtls_bulk": Work(MUTUAL + "1g.bin", loads.download, "s/GB", 1),
    "h1": Work(WEB, loads.wrk(64), "us/request", 1e6),
    "h1_browser": Work(WEB + "some/path?q=1", loads.wrk(64, loads.BROWSER), "us/request", 1e6),
    "h1_newconn": Work(WEB, loads.wrk(32, loads.CLOSE), "us/conn", 1e6),
    "h1_bulk": Work(WEB + "1g.bin", loads.download, "s/GB", 1),
    "tls_h1": Work(TLS, loads.wrk(64), "us/request", 1e6),
    "tls_handshake": Work(TLS, loads.wrk(16, loads.CLOSE), "us/conn", 1e6),
    "tls_bulk": Work(TLS + "1g.bin", loads.download, "s/GB", 1),
    "h2": Work(TLS, loads.h2load(16, 16), "us/request", 1e6),
    "h2_bulk": Work(TLS + "1g.bin", loads.download_h2, "s/GB", 1),
}


@dataclass(frozen=True, slots=True)
class Run:
    """Where, who, and how long."""

    yard: Yard
    targets: tuple[str, ...]
    rounds: int
    seconds: int


def errand(target: Running, work: Work, run: Run) -> loads.Errand:
    """This work for that proxy."""
    return loads.Errand(work.url.format(**target.ports._asdict()), run.seconds, run.yard.folder)


def cost(target: Running, work: Work, run: Run) -> float:
    """CPU of the proxy per unit of this work. Raises `Trouble` when it was not done as meant."""
    return costs((target,), work, run)[0]


def costs(targets: Sequence[Running], work: Work, run: Run) -> list[float]:
    """The same of several processes that have a part in what the first of them does."""
    sent = errand(targets[0], work, run)
    loads.expect_answer(sent)
    try:
        before = [cpu_seconds(target.pid) for target in targets]
        units = work.load(sent)
        used = [cpu_seconds(target.pid) - start for target, start in zip(targets, before, strict=True)]
    except OSError as gone:
        raise Trouble(f"the proxy ended: {gone}")
    return [seconds / units * work.scale for seconds in used]
