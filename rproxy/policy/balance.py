"""Which peer of a group serves the next connection. Called by `upstream.peer.Group`.

A balancer picks one of the candidates it is shown: those not yet tried and not known to be
down. It keeps no sockets and no clock; chance is an argument.
"""

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Callable, Sequence
from hashlib import blake2b
from itertools import accumulate
from random import Random
from typing import Any, Final, Protocol, TypeVar, cast


class Candidate(Protocol):
    """What a balancer may know of a peer."""

    @property
    def name(self) -> str: ...  # noqa: D102  unique within its group
    @property
    def weight(self) -> int: ...  # noqa: D102  1 or more
    @property
    def open(self) -> int: ...  # noqa: D102  connections it has now


P = TypeVar("P", bound=Candidate)

MOST_TURNS: Final = 256
"""Turns of a group that are kept, half a KiB each: a round has a turn per peer, or per unit of weight."""


class Balancer(Protocol):
    """Picks one candidate; `client` is the client's address text, the same for all its connections.

    A sequence of candidates that is shown again is the same as before: it never changes in place.
    """

    def pick(self, candidates: Sequence[P], client: str) -> P: ...  # noqa: D102


class InOrder:
    """The first candidate in configuration order: `none` and `primary_backup`."""

    def pick(self, candidates: Sequence[P], client: str) -> P:
        """The first; the others only serve while it is left out."""
        return candidates[0]


class RoundRobin:
    """Smooth weighted turns: in any `sum(weights)` picks each peer is taken `weight` times, spread out.

    Turns come round again, and each is worked out once: a pick costs the same however many peers there are.
    """

    def __init__(self) -> None:
        self._turn = _Turn({})
        self._known: dict[tuple[int, ...], _Turn] = {}

    def pick(self, candidates: Sequence[P], client: str) -> P:
        """The candidate with most credit; credit grows by weight and is paid back in full when taken."""
        turn = self._turn
        if turn.among is not candidates:
            self._work_out(turn, candidates)
        self._turn = turn.next
        return cast(P, turn.best)

    def _work_out(self, turn: _Turn, candidates: Sequence[P]) -> None:
        credit = dict(turn.credit)
        for peer in candidates:
            credit[peer.name] = credit.get(peer.name, 0) + peer.weight
        best = max(candidates, key=lambda peer: credit[peer.name])
        credit[best.name] -= sum([peer.weight for peer in candidates])
        turn.among, turn.best, turn.next = candidates, best, self._turn_with(credit)

    def _turn_with(self, credit: dict[str, int]) -> _Turn:
        """The turn at which the peers have this credit; names never leave and keep their order."""
        key = tuple(credit.values())
        if key not in self._known:
            if len(self._known) >= MOST_TURNS:
                self._known.clear()
            self._known[key] = _Turn(credit)
        return self._known[key]


class Chance:
    """A random candidate, in proportion to weight."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._among: object = None
        self._sums: list[int] = []

    def pick(self, candidates: Sequence[P], client: str) -> P:
        """Independent of all earlier picks."""
        if self._among is not candidates:
            self._among, self._sums = candidates, list(accumulate([peer.weight for peer in candidates]))
        point = self._rng.random() * self._sums[-1]
        return candidates[bisect(self._sums, point, 0, len(candidates) - 1)]


class LeastConnections:
    """The candidate with the fewest open connections for its weight; equal ones take turns."""

    def __init__(self) -> None:
        self._turn = 0

    def pick(self, candidates: Sequence[P], client: str) -> P:
        """Compares what each would have after taking this one, so that weights count from the first."""
        turn, least = self._turn % len(candidates), math.inf
        chosen = 0
        for at, peer in enumerate(candidates):
            load = (peer.open + 1) / peer.weight
            # Among equals the first from `turn` on, as if the list began there.
            if load < least or (load == least and chosen < turn <= at):
                chosen, least = at, load
        self._turn = chosen + 1
        return candidates[chosen]


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


class _Turn:
    """What each peer has to its credit, and what that leads to among the candidates shown last."""

    __slots__ = ("among", "best", "credit", "next")

    def __init__(self, credit: dict[str, int]) -> None:
        self.credit = credit
        self.among: object = None
        self.best: Any = None
        self.next = self


BALANCERS: Final[dict[str, Callable[[Random], Balancer]]] = {
    "none": lambda rng: InOrder(),
    "primary_backup": lambda rng: InOrder(),
    "round_robin": lambda rng: RoundRobin(),
    "random": Chance,
    "least_connections": lambda rng: LeastConnections(),
    "source_ip": lambda rng: SourceAddress(),
}
