"""Socket addresses as values, the same on the wire, in logs and in balancing; used by every layer above."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

MAPPED: Final = "::ffff:"


class Inet(NamedTuple):
    """A TCP address: `host` is IPv4 or IPv6 text in canonical form, never a name; `port` is 0 to 65535."""

    host: str
    port: int

    @property
    def is_v6(self) -> bool:
        """Whether the host is an IPv6 address (an IPv4-mapped one is IPv4 here, see `inet`)."""
        return ":" in self.host

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Unix(NamedTuple):
    """A unix socket's path as the kernel gave it: empty if unnamed, with a leading NUL if abstract."""

    path: bytes

    def __str__(self) -> str:
        return "unix:" + self.path.replace(b"\0", b"@").decode("utf-8", "backslashreplace")


Address = Inet | Unix


# What `Inet(host, port)` does, without the function that a NamedTuple makes for it, at a quarter of the cost.
_inet: Final[Callable[[type[Inet], tuple[str, int]], Inet]] = tuple.__new__


def inet(host: str, port: int) -> Inet:
    """An `Inet` from what `accept`, `getpeername` or a PROXY header gave.

    An IPv4-mapped IPv6 address becomes plain IPv4, so that a dual-stack listener
    routes, limits and logs the same client in one way. A zone (`%eth0`) stays.
    """
    if host.startswith(MAPPED) and "." in host:
        host = host[len(MAPPED) :]
    return _inet(Inet, (host, port))
