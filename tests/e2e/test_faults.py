"""Bytes under a kernel that fails: system calls are interrupted, cut short, refused, and connections reset.

Where everything passes that goes wrong, every request is answered with every byte; where connections are
reset, requests fail, but never with wrong bytes. FAULTS_SECONDS makes the runs longer than the three seconds
that they take, FAULTS_SEED makes them other ones.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.e2e.conftest import LONGEST, Peer
from tests.e2e.faults import CALLS, Counts, Faults
from tests.e2e.loads import Load, Numbers, asking
from tests.e2e.paths import Paths, grown
from tests.e2e.programs import Programs, until

SECONDS = float(os.environ.get("FAULTS_SECONDS", "3"))
SEED = int(os.environ.get("FAULTS_SEED", "1"))
MOST = 1 << 20
SELDOM, OFTEN = 0.02, 0.3
"""Of all calls: so that what was interrupted once goes on well, and is interrupted again and again."""
CLIENTS = 3
"""On each way."""


class World(NamedTuple):
    """A proxy under the library, and requests for it."""

    paths: Paths
    faults: Faults
    numbers: Numbers

    def load(self, seconds: float, clients: int) -> Load:
        """So many good clients on each way, for so long."""
        load = Load({way: asking(self.paths, self.numbers, way) for way in self.paths.ways}, SEED)
        load.run(seconds, clients)
        assert not load.mistaken, load.mistaken
        assert not self.paths.mistakes()
        return load

    def settle(self) -> None:
        """Every way serves; what is made once is made."""
        load = self.load(0.5, 1)
        assert not load.lost, load.lost
        assert all(tally.answered for tally in load.tallies.values())


@pytest.fixture
def world(programs: Programs, peer: Peer, short_path: Path, tmp_path: Path) -> World:
    signal.alarm(int(SECONDS) + LONGEST)
    faults = Faults(peer("gcc"), tmp_path, SEED)
    return World(Paths(programs, short_path, env=faults.environment), faults, Numbers(MOST))


def under(world: World, soft: float, hard: float) -> tuple[Load, Counts]:
    """A load with faults; before and after it there is none, and as much is open."""
    world.settle()
    before = world.paths.descriptors()
    world.faults.set(soft, hard)
    load = world.load(SECONDS, CLIENTS)
    world.faults.set(0, 0)
    print(load.tallies, world.faults.counts, sep="\n")
    world.settle()
    until(lambda: not grown(before, world.paths.descriptors()), "as many descriptors as before", 20)
    return load, world.faults.counts


@pytest.mark.parametrize("rate", [SELDOM, OFTEN])
def test_no_byte_is_lost_where_calls_fail_for_a_moment(world: World, rate: float) -> None:
    load, counts = under(world, rate, 0)
    assert not load.lost, load.lost
    assert min(tally.answered for tally in load.tallies.values()) > 5
    for call in ("receive", "send"):
        assert counts.total(call, "again", "interrupted", "short"), counts
    assert not any(counts.total(call, "hard") for call in CALLS)
    if rate == OFTEN:
        for call in ("receive", "send", "splice"):
            assert all(counts.total(call, kind) for kind in ("again", "interrupted", "short")), counts
        for call, kind in (("send", "no buffers"), ("connect", "interrupted"), ("wait", "short")):
            assert counts.total(call, kind), counts
        assert counts.total("accept", "again", "interrupted"), counts


def test_no_wrong_byte_is_taken_for_a_right_one_where_connections_are_lost(world: World) -> None:
    load, counts = under(world, 0.05, 0.005)
    assert sum(tally.answered for tally in load.tallies.values()) > sum(
        tally.lost for tally in load.tallies.values()
    )
    assert load.lost
    for call in ("receive", "send"):
        assert counts.total(call, "hard")
