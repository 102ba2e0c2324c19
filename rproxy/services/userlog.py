"""The connection log with the names of those who have said in TLS who they are. Made by `assemble`."""

from __future__ import annotations

from rproxy.downstream.service import identity_in
from rproxy.interfaces import Arrival
from rproxy.services.access import MOST_SHOWN, ConnectionLog, _client, _name, escaped, kept


class UserLog(ConnectionLog):
    """As `ConnectionLog`, with `user=` behind the client where a certificate was verified."""

    def ended(
        self,
        arrival: Arrival,
        *,
        app: str,
        peer: str,
        received: int,
        sent: int,
        seconds: float,
        reason: str,
    ) -> None:
        """Write a connection down."""
        identity = identity_in(arrival)
        if identity is None:
            super().ended(
                arrival, app=app, peer=peer, received=received, sent=sent, seconds=seconds, reason=reason
            )
            return
        user = escaped(identity.key[:MOST_SHOWN]) or "-"
        self._batch.add(
            f"{self._now()} client={_client(arrival.client)} user={user} name={_name(arrival)}"
            f" app={kept(app)} peer={kept(peer)}"
            f" received={received} sent={sent} seconds={seconds:.3f} reason={reason}\n"
        )
