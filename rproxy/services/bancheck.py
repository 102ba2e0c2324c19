"""Whether somebody is banned now: asked by gates and jails, for the list that `bans` keeps."""

from __future__ import annotations

from typing import Any

from rproxy.errors import Banned
from rproxy.policy.bantable import BanTable
from rproxy.watcher import watcher_of


class BanCheck:
    """What gates ask. It stays the same one where `table`, the bans there are, becomes another."""

    def __init__(self, clock: Any, table: BanTable) -> None:
        self._watcher, self.table = watcher_of(clock), table
        self.refused = 0
        """Connections and requests that were turned away."""

    def banned(self, host: str) -> bool:
        """Whether this address is banned now; canonical text."""
        table = self.table
        return not table.is_unsaid(host) and table.bans(host, self._watcher.seconds())

    def check(self, host: str) -> None:
        """Raises `Banned`, and counts it."""
        if self.banned(host):
            self.refused += 1
            raise Banned("on the ban list")
