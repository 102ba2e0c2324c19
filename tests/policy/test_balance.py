"""Balancers: each spreads as it says, at every step, with nothing left to chance in the test."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from rproxy.policy.balance import (
    BALANCERS,
    MOST_TURNS,
    Balancer,
    Chance,
    InOrder,
    LeastConnections,
    RoundRobin,
    SourceAddress,
)


@dataclass
class Peer:
    name: str
    weight: int = 1
    open: int = 0


def peers(*weights: int) -> list[Peer]:
    return [Peer(f"p{n}", weight) for n, weight in enumerate(weights)]


def names(balancer: Balancer, among: list[Peer], times: int, client: str = "192.0.2.1") -> list[str]:
    return [balancer.pick(among, client).name for _ in range(times)]


weights = st.lists(st.integers(1, 7), min_size=1, max_size=8)


def test_in_order_is_always_the_first_candidate() -> None:
    among = peers(1, 9, 9)
    assert names(InOrder(), among, 3) == ["p0"] * 3
    assert names(InOrder(), among[1:], 2) == ["p1"] * 2


@given(weights)
def test_round_robin_takes_each_as_often_as_its_weight_in_any_round(sizes: list[int]) -> None:
    balancer, among, total = RoundRobin(), peers(*sizes), sum(sizes)
    taken = names(balancer, among, 3 * total)
    for start in range(2 * total):
        counts = Counter(islice(taken, start, start + total))
        assert counts == {f"p{n}": size for n, size in enumerate(sizes)}


def test_round_robin_spreads_the_heavy_one_out() -> None:
    assert names(RoundRobin(), peers(5, 1, 1), 7) == ["p0", "p0", "p1", "p0", "p2", "p0", "p0"]


def test_round_robin_stays_fair_while_candidates_come_and_go() -> None:
    balancer, among = RoundRobin(), peers(1, 1, 1)
    taken: Counter[str] = Counter()
    for turn in range(300):
        shown = [peer for n, peer in enumerate(among) if (turn // 10) % 4 != n]
        taken[balancer.pick(shown, "").name] += 1
    assert max(taken.values()) - min(taken.values()) <= 12


class PlainTurns:
    """The rule of `RoundRobin` and nothing else."""

    def __init__(self) -> None:
        self.credit: Counter[str] = Counter()

    def pick(self, among: Sequence[Peer]) -> Peer:
        self.credit.update({peer.name: peer.weight for peer in among})
        best = max(among, key=lambda peer: self.credit[peer.name])
        self.credit[best.name] -= sum(peer.weight for peer in among)
        return best


@given(weights, st.lists(st.tuples(st.sets(st.integers(0, 7)), st.integers(1, 12)), max_size=12))
def test_turns_that_are_remembered_are_those_that_the_rule_gives(
    sizes: list[int], phases: list[tuple[set[int], int]]
) -> None:
    """Some peers are left out for some picks, then others; the same sequence may be shown again."""
    balancer, plain, everyone = RoundRobin(), PlainTurns(), tuple(peers(*sizes))
    for left_out, times in phases:
        shown = tuple(peer for n, peer in enumerate(everyone) if n not in left_out) or everyone
        shown = everyone if len(shown) == len(everyone) else shown
        for _ in range(times):
            assert balancer.pick(shown, "") is plain.pick(shown)


def test_a_turn_that_comes_round_again_costs_no_look_at_the_peers() -> None:
    looks: list[str] = []

    class Watched(Peer):
        def __getattribute__(self, key: str) -> object:
            looks.append(key)
            return super().__getattribute__(key)

    balancer, among = RoundRobin(), tuple(Watched(f"p{n}", weight) for n, weight in enumerate((5, 1, 1)))
    first = [balancer.pick(among, "") for _ in range(14)]
    looks.clear()
    again = [balancer.pick(among, "") for _ in range(70)]
    assert looks == []
    assert [id(peer) for peer in again] == [id(peer) for peer in first * 5]


def test_the_turns_that_are_remembered_are_bounded() -> None:
    balancer, among = RoundRobin(), tuple(peers(999, 1000))
    taken = Counter(balancer.pick(among, "").name for _ in range(2 * 1999))
    assert taken == {"p0": 2 * 999, "p1": 2 * 1000}
    assert len(balancer._known) <= MOST_TURNS


@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.integers())
def test_chance_draws_as_random_choices_does(sizes: list[int], seed: int) -> None:
    among, rng = peers(*sizes), Random(seed)
    expected = [rng.choices(among, sizes)[0].name for _ in range(9)]
    assert names(Chance(Random(seed)), among, 9) == expected


def test_chance_notices_other_candidates() -> None:
    among, balancer = peers(1, 1000), Chance(Random(7))
    assert set(names(balancer, among, 20)) == {"p1"}
    assert set(names(balancer, among[::-1], 20)) == {"p1"}


def test_chance_follows_weights_and_its_generator() -> None:
    among = peers(1, 3)
    first, second = (names(Chance(Random(7)), among, 400) for _ in range(2))
    assert first == second
    assert 260 <= Counter(first)["p1"] <= 340


@given(st.integers(1, 12), st.integers(1, 60))
def test_least_connections_spreads_within_one_at_each_step(size: int, arrivals: int) -> None:
    balancer, among = LeastConnections(), peers(*[1] * size)
    for _ in range(arrivals):
        balancer.pick(among, "").open += 1
        counts = [peer.open for peer in among]
        assert max(counts) - min(counts) <= 1


@given(st.integers(2, 8), st.lists(st.integers(0, 7), max_size=60))
def test_least_connections_always_takes_one_of_the_emptiest(size: int, steps: list[int]) -> None:
    balancer, among = LeastConnections(), peers(*[1] * size)
    for step in steps:
        leaving = among[step % size]
        leaving.open = max(0, leaving.open - 1)
        chosen = balancer.pick(among, "")
        assert chosen.open == min(peer.open for peer in among)
        chosen.open += 1


@given(weights)
def test_least_connections_fills_each_in_proportion_to_its_weight(sizes: list[int]) -> None:
    balancer, among = LeastConnections(), peers(*sizes)
    for _ in range(3 * sum(sizes)):
        balancer.pick(among, "").open += 1
    assert [peer.open for peer in among] == [3 * size for size in sizes]


@given(
    st.lists(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 3)), min_size=1, max_size=6), max_size=9)
)
def test_least_connections_begins_behind_the_one_taken_last(shows: list[list[tuple[int, int]]]) -> None:
    """Candidates, and how many of them there are, change from pick to pick."""
    balancer, turn = LeastConnections(), 0
    for show in shows:
        among = [Peer(f"p{n}", weight, count) for n, (count, weight) in enumerate(show)]
        start = turn % len(among)
        order = [*range(start, len(among)), *range(start)]
        first = min(order, key=lambda n: (among[n].open + 1) / among[n].weight)
        assert balancer.pick(among, "") is among[first]
        turn = first + 1


def test_least_connections_lets_equals_take_turns() -> None:
    assert names(LeastConnections(), peers(1, 1, 1), 6) == ["p0", "p1", "p2"] * 2


def test_least_connections_survives_a_shrinking_list() -> None:
    balancer, among = LeastConnections(), peers(1, 1, 1, 1, 1)
    names(balancer, among, 4)
    assert balancer.pick(among[:3], "").name == "p1"
    names(balancer, among, 4)
    assert balancer.pick(among[:1], "").name == "p0"


def test_a_source_keeps_its_peer() -> None:
    among = peers(1, 1, 1)
    for client in ("192.0.2.1", "2001:db8::1", ""):
        assert len(set(names(SourceAddress(), among, 5, client))) == 1
        assert SourceAddress().pick(among, client) is SourceAddress().pick(among[::-1], client)


def test_when_a_peer_leaves_only_its_own_clients_move() -> None:
    among, balancer = peers(1, 1, 1, 1), SourceAddress()
    clients = [f"192.0.2.{n}" for n in range(200)]
    before = {client: balancer.pick(among, client).name for client in clients}
    after = {client: balancer.pick(among[1:], client).name for client in clients}
    moved = {client for client in clients if before[client] != after[client]}
    assert moved == {client for client in clients if before[client] == "p0"}
    assert 20 <= len(moved) <= 80


def test_sources_spread_by_weight() -> None:
    among, balancer = peers(1, 3), SourceAddress()
    taken = Counter(balancer.pick(among, f"10.0.{n // 256}.{n % 256}").name for n in range(2000))
    assert 1400 <= taken["p1"] <= 1600


@given(
    st.sampled_from(sorted(BALANCERS)),
    st.lists(st.tuples(st.integers(1, 5), st.integers(0, 9)), min_size=1, max_size=6),
    st.text(max_size=9),
)
def test_every_balancer_picks_one_of_the_candidates(
    name: str, among: list[tuple[int, int]], client: str
) -> None:
    shown = [Peer(f"p{n}", weight, count) for n, (weight, count) in enumerate(among)]
    balancer = BALANCERS[name](Random(1))
    assert all(balancer.pick(shown, client) in shown for _ in range(4))


def test_each_configured_name_has_its_balancer() -> None:
    assert {name: type(make(Random())).__name__ for name, make in BALANCERS.items()} == {
        "none": "InOrder",
        "primary_backup": "InOrder",
        "round_robin": "RoundRobin",
        "random": "Chance",
        "least_connections": "LeastConnections",
        "source_ip": "SourceAddress",
    }


def test_a_balancer_of_its_own_for_each_group() -> None:
    make = BALANCERS["round_robin"]
    first, second = make(Random()), make(Random())
    assert (names(first, peers(1, 1), 1), names(second, peers(1, 1), 1)) == (["p0"], ["p0"])
