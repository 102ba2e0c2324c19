"""Which route serves a connection: asked once per connection by `downstream.peek`.

The tables are immutable; a reload puts new ones in their place, and connections that live keep
the route they were given.
"""

from __future__ import annotations

from twisted.internet.interfaces import IProtocolFactory

from rproxy.errors import UnknownName
from rproxy.interfaces import Arrival
from rproxy.policy.routes import NameTable
from rproxy.services.hosts import HostsFolder


class Routing:
    """The routes of the TLS side: exact name, wildcard, hosts folder, default, in this order."""

    def __init__(self) -> None:
        self.table: NameTable[IProtocolFactory] = NameTable({})
        self.hosts: HostsFolder | None = None
        self.default: IProtocolFactory | None = None

    def choose(self, arrival: Arrival) -> IProtocolFactory:
        """The route for this arrival's server name; raises `UnknownName` when nobody serves it."""
        name = arrival.server_name
        if name is not None:
            if (route := self.table.find(name)) is not None:
                return route
            if self.hosts is not None and (folder := self.hosts.find(name)) is not None:
                return folder
        if self.default is None:
            raise UnknownName(name or "no name")
        return self.default
