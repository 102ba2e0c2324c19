"""What a listener is told about the beginning of a connection, and whom it asks. For `peek`.

The values are made by `assemble`, whoever is asked lives in `services`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mypy_extensions import mypyc_attr

from rproxy.errors import Refusal
from rproxy.interfaces import Lease
from rproxy.policy.networks import NetworkSet
from rproxy.wire.address import Address, Inet
from rproxy.wire.clienthello import MAX_HELLO


@dataclass(frozen=True, slots=True)
class ProxyPolicy:
    """Whom to believe when a connection begins with a PROXY header; `timeout` is for the whole of it.

    With `required` every connection has to begin with one and only peers in `trusted` may
    connect. Without, peers in `trusted` may send one and a header from anybody else is refused.
    """

    trusted: NetworkSet
    required: bool = False
    timeout: float = 3.0

    def trusts(self, peer: Address) -> bool:
        """Whether this socket peer is one that may send a header."""
        return peer.host in self.trusted if isinstance(peer, Inet) else self.trusted.unix


@mypyc_attr(allow_interpreted_subclasses=True)
class Gate:
    """Bans, address lists and limits per client, see `services.gates`.

    A class to inherit from, so that calls into it are cheap when this is compiled; so is the next.
    """

    def check(self, client: Address) -> None:
        """Whether its address may come at all; raises a `Refusal`."""
        raise NotImplementedError

    def count(self, client: Address, lease: Lease) -> None:
        """Count it among its client's; raises a `Refusal`."""
        raise NotImplementedError

    def turned_away(self, client: Address, refusal: Refusal) -> None:
        """A connection was closed that will stand in no log."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class PeekOptions:
    """What a reload may change for connections still to come."""

    hello_timeout: float = 10.0
    max_hello: int = MAX_HELLO
    proxy: ProxyPolicy | None = None
    gate: Gate | None = None
    """Who may come, where that is limited."""


USUAL: Final = PeekOptions()
"""Where nothing is configured."""


@mypyc_attr(allow_interpreted_subclasses=True)
class Admission:
    """The limits, see `services.limits`."""

    def admit(self, lease: Lease) -> None:
        """Take a place among all connections; raises a `Refusal`."""
        raise NotImplementedError

    def admit_client(self, client: Address, lease: Lease) -> None:
        """Take a place among this client's; raises a `Refusal`."""
        raise NotImplementedError
