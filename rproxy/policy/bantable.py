"""Who is banned: addresses and networks, each for a time, and the look-up that every connection makes.

Kept by `services.bans`. Addresses and the /64s of IPv6 clients, of which bans at run time are made, come
and go one by one. Other networks are ranges that are put in order by `settle` after a change.
"""

from __future__ import annotations

import socket
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import Final, NamedTuple

from rproxy.policy.networks import UNIX, NetworkSet
from rproxy.wire.address import inet

EVER: Final = float("inf")
"""The end of a ban that has none."""
NEVER: Final = float("-inf")
"""The end of the ban of somebody of whom nothing is said."""
MOST_KNOWN: Final = 4096
"""Addresses of which is remembered that nothing is said: most clients come again."""


class Network(NamedTuple):
    """An address or a network."""

    text: str
    """Canonical: `192.0.2.7`, `10.0.0.0/8`, `2001:db8::/64`; an IPv4-mapped address is IPv4."""
    bits: int
    """32 or 128."""
    first: int
    last: int


def read_network(text: str) -> Network:
    """The network in `192.0.2.7`, `10.0.0.0/8` or `2001:db8::/32`. Raises ValueError with what to write."""
    host, slash, length = text.partition("/")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        packed = socket.inet_pton(family, host)
        bits = 8 * len(packed)
        prefix = int(length) if slash else bits
        first = int.from_bytes(packed, "big")
        size = 1 << (bits - prefix)
        odd = prefix < 0 or first & (size - 1) or first >> 32 == 0xFFFF
        if odd or length != (str(prefix) if slash else ""):
            return _odd(text)
    except (OSError, ValueError):
        return _odd(text)
    name = host if bits == 32 else socket.inet_ntop(family, packed)
    return Network(name if prefix == bits else f"{name}/{prefix}", bits, first, first + size - 1)


def _odd(text: str) -> Network:
    """IPv4 in the form of IPv6; all else that gets here is wrong, and `NetworkSet` knows how to say so."""
    if text == UNIX:
        raise ValueError('"unix" is no address: what comes over a unix socket has none to ban.')
    try:
        NetworkSet((text,))
    except ValueError as problem:
        raise ValueError(str(problem).replace(", or unix", "")) from None
    host, slash, length = text.partition("/")
    packed = socket.inet_pton(socket.AF_INET6, host)
    mapped = socket.inet_ntop(socket.AF_INET, packed[12:])
    return read_network(f"{mapped}/{int(length) - 96}" if slash and length != "128" else mapped)


def client_network(host: str) -> str:
    """What to ban for a client at this address: it, or for IPv6 its /64, in which it has all addresses."""
    if ":" not in host:
        return host
    packed = socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
    return socket.inet_ntop(socket.AF_INET6, packed[:8] + bytes(8)) + "/64"


class BanTable:
    """The bans, and whether an address is among them."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}
        self._blocks: dict[int, str] = {}
        self._nets: dict[int, dict[str, int]] = {32: {}, 128: {}}
        self._unsettled = False
        self._unsaid: set[str] = set()
        self._v4: _RangesV4 | None = None
        self._v6: _Ranges | None = None

    def __len__(self) -> int:
        return len(self._until)

    def __iter__(self) -> Iterator[tuple[str, float]]:
        return iter(self._until.items())

    def until(self, text: str) -> float | None:
        """When the ban on exactly this ends, in seconds; None if there is none."""
        return self._until.get(text)

    def add(self, network: Network, until: float) -> None:
        """Ban until then, or `EVER`; replaces what is said about the same network."""
        text, bits, first, last = network
        self._unsaid.clear()
        if text not in self._until and first != last:
            if bits == 128 and last - first == _BLOCK - 1:
                self._blocks[first >> 64] = text
            else:
                self._nets[bits][text] = first << bits | last  # one number sorts three times as fast as two
                self._unsettled = True
        self._until[text] = until

    def remove(self, network: Network) -> bool:
        """Lift the ban on exactly this; whether there was one."""
        text = network.text
        if self._until.pop(text, None) is None:
            return False
        if self._nets[network.bits].pop(text, None) is not None:
            self._unsettled = True
        elif network.first != network.last:
            self._blocks.pop(network.first >> 64, None)
        return True

    def settle(self) -> None:
        """Let networks that were added or removed count: 60 ms for 100,000 of them, nothing without."""
        if self._unsettled:
            self._unsettled = False
            self._unsaid.clear()
            v4, v6 = self._nets[32].values(), self._nets[128].values()
            self._v4 = _RangesV4(v4) if v4 else None
            self._v6 = _Ranges(v6) if v6 else None

    def over(self, now: float) -> list[str]:
        """The bans that have come to their end."""
        return [text for text, until in self._until.items() if until <= now]

    @property
    def next_end(self) -> float:
        """When the next ban ends, or `EVER`."""
        return min(self._until.values(), default=EVER)

    def is_unsaid(self, host: str) -> bool:
        """Whether it is known already that `bans` says no, whenever it is asked."""
        return not self._until or host in self._unsaid

    def bans(self, host: str, now: float) -> bool:
        """Whether this address is banned; canonical text, as sockets and PROXY headers give it."""
        until = self._end(host)
        if until == NEVER:
            if len(self._unsaid) >= MOST_KNOWN:
                self._unsaid.clear()
            self._unsaid.add(host)
        return until > now

    def _end(self, host: str) -> float:
        """When the bans on this address end; those on networks hold for as long as they are here."""
        until = self._until.get(host, NEVER)
        if ":" in host:
            return max(until, self._end_v6(host))
        if self._v4 is not None and host and self._v4.has(int.from_bytes(_pton(_V4, host), "big")):
            return EVER
        return until

    def _end_v6(self, host: str) -> float:
        if "%" in host or "." in host:
            plain = inet(host.partition("%")[0], 0).host  # IPv4 where it is that
            if plain != host:
                return self._end(plain)
        if not self._blocks and self._v6 is None:
            return NEVER
        number = int.from_bytes(_pton(_V6, host), "big")
        if self._v6 is not None and self._v6.has(number):
            return EVER
        block = self._blocks.get(number >> 64)
        return NEVER if block is None else self._until[block]


class _Ranges:
    """Sorted ranges of IPv6 that do not touch each other."""

    def __init__(self, packed: Iterable[int]) -> None:
        self.starts, self.ends = _merged(packed, 128)

    def has(self, number: int) -> bool:
        at = bisect_right(self.starts, number)
        return at > 0 and number <= self.ends[at - 1]


class _RangesV4:
    """The same of IPv4, in arrays, which fit into a processor's cache; `index` says where each /16 begins."""

    def __init__(self, packed: Iterable[int]) -> None:
        starts, ends = _merged(packed, 32)
        self.starts, self.ends = array("I", starts), array("I", ends)
        counts = [0] * (1 << 16)
        for start in starts:
            counts[start >> 16] += 1
        self.index = array("I", accumulate(counts, initial=0))

    def has(self, number: int) -> bool:
        block = number >> 16
        at = bisect_right(self.starts, number, self.index[block], self.index[block + 1])
        return at > 0 and number <= self.ends[at - 1]


def _merged(packed: Iterable[int], bits: int) -> tuple[list[int], list[int]]:
    """First and last addresses in order; a range is given as its first, shifted by `bits`, and its last."""
    starts: list[int] = []
    ends: list[int] = []
    end, mask = -2, (1 << bits) - 1
    for both in sorted(packed):
        first, last = both >> bits, both & mask
        if first > end + 1:
            starts.append(first)
            ends.append(last)
            end = last
        elif last > end:
            ends[-1] = end = last
    return starts, ends


_BLOCK: Final = 1 << 64
_V4: Final = socket.AF_INET
_V6: Final = socket.AF_INET6
_pton: Final = socket.inet_pton
