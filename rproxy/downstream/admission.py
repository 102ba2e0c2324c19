"""What a listener is told about the beginning of a connection, and whom it asks. For `peek`.

The values are made by `assemble`, whoever is asked lives in `services`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

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


class Gate(Protocol):
    """Bans, address lists and limits per client, see `services.gates`; two of them may raise a `Refusal`."""

    def check(self, client: Address) -> None: ...  # noqa: D102
    def count(self, client: Address, lease: Lease) -> None: ...  # noqa: D102
    def turned_away(self, client: Address, refusal: Refusal) -> None: ...  # noqa: D102


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


class Admission(Protocol):
    """The limits, see `services.limits`."""

    def admit(self, lease: Lease) -> None: ...  # noqa: D102
    def admit_client(self, client: Address, lease: Lease) -> None: ...  # noqa: D102
