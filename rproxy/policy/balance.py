"""Which peer of a group serves the next connection. Called by `upstream.peer.Group`.

A balancer picks one of the candidates it is shown: those not yet tried and not known to be
down. It keeps no sockets and no clock; chance is an argument.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from hashlib import blake2b
from random import Random
from typing import Protocol, TypeVar


class Candidate(Protocol):
    """What a balancer may know of a peer."""

    @property
    def name(self) -> str: ...  # noqa: D102  unique within its group
    @property
    def weight(self) -> int: ...  # noqa: D102  1 or more
    @property
    def open(self) -> int: ...  # noqa: D102  connections it has now


P = TypeVar("P", bound=Candidate)


class Balancer(Protocol):
    """Picks one candidate; `client` is the client's address text, the same for all its connections."""

    def pick(self, candidates: Sequence[P], client: str) -> P: ...  # noqa: D102


class InOrder:
    """The first candidate in configuration order: `none` and `primary_backup`."""

    def pick(self, candidates: Sequence[P], client: str) -> P:
        """The first; the others only serve while it is left out."""
        return candidates[0]


class RoundRobin:
    """Smooth weighted turns: in any `sum(weights)` picks each peer is taken `weight` times, spread out."""

    def __init__(self) -> None:
        self._credit: dict[str, int] = {}

    def pick(self, candidates: Sequence[P], client: str) -> P:
        """The candidate with most credit; credit grows by weight and is paid back in full when taken."""
        credit = self._credit
        total, best = 0, candidates[0]
        for peer in candidates:
            credit[peer.name] = credit.get(peer.name, 0) + peer.weight
            total += peer.weight
            if credit[peer.name] > credit[best.name]:
                best = peer
        credit[best.name] -= total
        return best


class Chance:
    """A random candidate, in proportion to weight."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng

    def pick(self, candidates: Sequence[P], client: str) -> P:
        """Independent of all earlier picks."""
        return self._rng.choices(candidates, [peer.weight for peer in candidates])[0]


class LeastConnections:
    """The candidate with the fewest open connections for its weight; equal ones take turns."""

    def __init__(self) -> None:
        self._turn = 0

    def pick(self, candidates: Sequence[P], client: str) -> P:
        """Compares what each would have after taking this one, so that weights count from the first."""
        size = len(candidates)
        start = self._turn % size
        chosen = min(
            range(start, start + size),
            key=lambda i: (candidates[i % size].open + 1) / candidates[i % size].weight,
        )
        self._turn = chosen % size + 1
        return candidates[chosen % size]


class SourceAddress:
    """The same client goes to the same peer: weighted rendezvous hashing.

    When a peer leaves, only its own clients move; they come back when it does.
    """

    def pick(self, candidates: Sequence[P], client: str) -> P:
        """The candidate whose score for this client is highest."""
        return max(candidates, key=lambda peer: self._score(client, peer))

    @staticmethod
    def _score(client: str, peer: Candidate) -> float:
        digest = blake2b(f"{client}|{peer.name}".encode(), digest_size=8).digest()
        uniform = (int.from_bytes(digest, "big") + 1) / (2**64 + 1)
        return -peer.weight / math.log(uniform)


BALANCERS: dict[str, Callable[[Random], Balancer]] = {
    "none": lambda rng: InOrder(),
    "primary_backup": lambda rng: InOrder(),
    "round_robin": lambda rng: RoundRobin(),
    "random": Chance,
    "least_connections": lambda rng: LeastConnections(),
    "source_ip": lambda rng: SourceAddress(),
}
