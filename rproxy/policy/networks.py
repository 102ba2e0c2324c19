"""Sets of IP networks, for the peers that are trusted with a PROXY header or a forwarding header.

Built once per configuration, asked once per connection or request.
"""

from __future__ import annotations

import socket
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass

from rproxy.wire.address import MAPPED

LOOPBACK = ("127.0.0.0/8", "::1")
"""This machine over IP."""
UNIX = "unix"
"""The entry that means peers on unix sockets."""


@dataclass(frozen=True, slots=True, init=False, repr=False)
class NetworkSet:
    """An immutable set of networks: `"192.0.2.7" in networks`.

    The host is address text as sockets give it; a zone is ignored, an IPv4-mapped address is IPv4,
    and anything that is no address is in no set.
    """

    unix: bool
    """Whether peers on unix sockets belong to the set."""
    _v4: _Ranges
    _v6: _Ranges

    def __init__(self, entries: Iterable[str] = ()) -> None:
        """Entries are `10.0.0.0/8`, `2001:db8::/32`, `192.0.2.7` or `unix`; others raise ValueError."""
        unix = False
        v4: list[tuple[int, int]] = []
        v6: list[tuple[int, int]] = []
        for entry in entries:
            if entry == UNIX:
                unix = True
                continue
            width, first, last = _read_network(entry)
            (v4 if width == _V4_BITS else v6).append((first, last))
        object.__setattr__(self, "unix", unix)
        object.__setattr__(self, "_v4", _merge(v4))
        object.__setattr__(self, "_v6", _merge(v6))

    def __contains__(self, host: str) -> bool:
        if not (self._v4[0] or self._v6[0]):
            return False
        try:
            packed = _pack(host.partition("%")[0] if "%" in host and ":" in host else host)
        except (OSError, ValueError):
            return False
        starts, ends = self._v4 if len(packed) == 4 else self._v6
        number = int.from_bytes(packed, "big")
        at = bisect_right(starts, number)
        return at > 0 and number <= ends[at - 1]

    def overlaps(self, bits: int, first: int, last: int) -> bool:
        """Whether an address from `first` to `last`, as numbers, of this family (32 or 128) is in the set."""
        starts, ends = self._v4 if bits == _V4_BITS else self._v6
        at = bisect_right(starts, last)
        return at > 0 and ends[at - 1] >= first

    def __repr__(self) -> str:
        ranges = len(self._v4[0]) + len(self._v6[0])
        return f"<NetworkSet of {ranges} ranges{' and unix' if self.unix else ''}>"


_Ranges = tuple[tuple[int, ...], tuple[int, ...]]
"""First addresses in ascending order, and the last address of each; no two ranges touch."""
_V4_BITS, _V6_BITS = 32, 128
_MAPPED_PREFIX = socket.inet_pton(socket.AF_INET6, MAPPED + "0.0.0.0")[:12]


def _read_network(entry: str) -> tuple[int, int, int]:
    """Bits of the family (32 or 128), first and last address."""
    host, slash, length = entry.partition("/")
    try:
        packed = _pack(host)
    except (OSError, ValueError):
        raise ValueError(
            f"{entry!r} is no network: write an address such as 192.0.2.7, "
            "a network such as 10.0.0.0/8 or 2001:db8::/32, or unix."
        )
    width = len(packed) * 8
    written = _V6_BITS if ":" in host else width  # of an IPv4-mapped network: the prefix counts from 128
    prefix = _read_prefix(entry, length, written) - (written - width) if slash else width
    if prefix < 0:
        raise ValueError(f"{entry!r} is wider than the IPv4-mapped addresses: name the IPv4 network.")
    return width, *_bounds(entry, int.from_bytes(packed, "big"), width, prefix)


def _pack(host: str) -> bytes:
    """4 or 16 bytes; 4 for an IPv4-mapped address. Raises OSError or ValueError for no address."""
    if ":" not in host:
        return socket.inet_pton(socket.AF_INET, host)
    packed = socket.inet_pton(socket.AF_INET6, host)
    return packed[12:] if packed.startswith(_MAPPED_PREFIX) else packed


def _read_prefix(entry: str, text: str, width: int) -> int:
    canonical = text.isascii() and text.isdigit() and (text == "0" or text[0] != "0")
    if not canonical or len(text) > 3 or int(text) > width:
        raise ValueError(f"{entry!r} is no network: behind the slash belongs a number from 0 to {width}.")
    return int(text)


def _bounds(entry: str, first: int, width: int, prefix: int) -> tuple[int, int]:
    size = 1 << (width - prefix)
    if first & (size - 1):
        family = socket.AF_INET if width == _V4_BITS else socket.AF_INET6
        network = socket.inet_ntop(family, (first & -size).to_bytes(width // 8, "big"))
        raise ValueError(f"{entry!r} has bits set behind its prefix: write {network}/{prefix}.")
    return first, first + size - 1


def _merge(ranges: list[tuple[int, int]]) -> _Ranges:
    starts: list[int] = []
    ends: list[int] = []
    for first, last in sorted(ranges):
        if ends and first <= ends[-1] + 1:
            ends[-1] = max(ends[-1], last)
        else:
            starts.append(first)
            ends.append(last)
    return tuple(starts), tuple(ends)
