"""The connection log with the names of those who have said in TLS who they are. Made by `assemble`."""

from __future__ import annotations

from rproxy.interfaces import Arrival
from rproxy.services.access import MOST_SHOWN, ConnectionLog, escaped


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
        identity = None if arrival.shown is None else arrival.shown.identity
        user = "" if identity is None else f" user={escaped(identity.key[:MOST_SHOWN]) or '-'}"
        self.write(arrival, user, app, peer, received, sent, seconds, reason)
