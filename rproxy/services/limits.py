"""How many connections may be open: in all, and per client. Asked by every listener, shared by all.

A place is a `Ticket` in the connection's lease, given back once when the connection ends.
"""

from __future__ import annotations

from typing import Any, Final

from twisted.logger import Logger

from rproxy.downstream.admission import Admission
from rproxy.errors import TooMany
from rproxy.interfaces import Lease, Ticket
from rproxy.policy.bucket import client_key
from rproxy.services.counts import Counts
from rproxy.watcher import watcher_of
from rproxy.wire.address import Address, Inet

log: Final = Logger(__name__)

QUIET: Final = 10.0
"""Seconds between two log lines about refused connections: a flood must not become a flood of lines."""


class Limits(Admission):
    """Counts of open connections; `max_clients_per_ip` 0 is no limit. Changed in place by a reload."""

    def __init__(self, clock: Any, max_clients: int, max_clients_per_ip: int = 0) -> None:
        self._watcher = watcher_of(clock)
        self.max_clients, self.max_clients_per_ip = max_clients, max_clients_per_ip
        self.open = 0
        self._clients = Counts()
        self._refused = 0
        self._silent_until = float("-inf")

    def admit(self, lease: Lease) -> None:
        """Take a place among all connections; raises `TooMany`."""
        if self.open >= self.max_clients:
            self._refuse("max_clients", self.max_clients)
        self.open += 1
        lease.add(_Place(self))

    def admit_client(self, client: Address, lease: Lease) -> None:
        """Take a place among this client's connections; an IPv6 client is its /64. Raises `TooMany`."""
        if not isinstance(client, Inet):
            return
        key = client_key(client.host)
        count = self._clients.open.get(key, 0)  # counted without a limit too: a reload may set one
        if 0 < self.max_clients_per_ip <= count:
            self._refuse("max_clients_per_ip", self.max_clients_per_ip)
        self._clients.add(key, count, lease)

    def _refuse(self, key: str, limit: int) -> None:
        self._refused += 1
        if self._watcher.seconds() >= self._silent_until:
            self._silent_until = self._watcher.seconds() + QUIET
            log.warn("{key} = {limit} is reached; {n} refused", key=key, limit=limit, n=self._refused)
            self._refused = 0
        raise TooMany(key)


class _Place(Ticket):
    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    def give_back(self) -> None:
        self._limits.open -= 1
