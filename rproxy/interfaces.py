"""The seams between the layers: what a route, a connector and a journal look like to their callers.

A *route* is a Twisted `IProtocolFactory` whose `buildProtocol` takes an `Arrival`; it needs no
interface of its own. Everything here is implemented above or beside this file and passed in
through constructors, so that each layer can be tested, and used, alone.
"""

from __future__ import annotations

import os
from typing import Any, Protocol

from mypy_extensions import mypyc_attr, trait
from twisted.internet.interfaces import IAddress
from zope.interface import classImplements

from rproxy.wire.address import Address, Unix, inet
from rproxy.wire.clienthello import ClientHello
from rproxy.wire.proxyheader import ProxyHeader


@trait
@mypyc_attr(allow_interpreted_subclasses=True)
class Receiver:
    """A protocol that is asked without looking anything up. Only compiled classes may name it as a base."""

    def dataReceived(self, data: bytes) -> None:
        """As `IProtocol.dataReceived`."""
        raise NotImplementedError

    def half_closes(self) -> bool:
        """Whether it provides `IHalfCloseableProtocol`."""
        return True


def pass_on(protocol: Any, data: bytes) -> None:
    """Call `dataReceived` of any protocol. Compiled, the first way is a call and the second a look-up."""
    if isinstance(protocol, Receiver):
        protocol.dataReceived(data)
    else:
        protocol.dataReceived(data)


@mypyc_attr(allow_interpreted_subclasses=True)
class Ticket:
    """Something that a connection has taken."""

    def give_back(self) -> None:
        """Called once, by the connection's lease."""
        raise NotImplementedError


class Lease:
    """The tickets that one connection took on its way; whoever made it releases it, once.

    The one mutable part of an `Arrival`, shared by all its copies.
    """

    __slots__ = ("_tickets",)

    def __init__(self) -> None:
        self._tickets: list[Ticket] = []

    def add(self, ticket: Ticket) -> None:
        """Give it back when the connection ends, however it ends."""
        self._tickets.append(ticket)

    def release(self) -> None:
        """Give everything back, latest first; a second call does nothing."""
        while self._tickets:
            self._tickets.pop().give_back()


class Arrival:
    """What is known so far about a connection: each stage hands a richer copy to the next."""

    __slots__ = ("alpn", "client", "header", "hello", "lease", "listener", "local", "peer", "shown")

    def __init__(
        self,
        listener: str,
        peer: Address,
        client: Address,
        local: Address | None = None,
        lease: Lease | None = None,
        header: ProxyHeader | None = None,
        hello: ClientHello | None = None,
        alpn: bytes = b"",
        shown: Any = None,
    ) -> None:
        self.listener = listener
        """The listener as the configuration writes it."""
        self.peer = peer
        """Who is at the other end of the socket."""
        self.client = client
        """Who is meant: the peer, or the source that a trusted PROXY header names."""
        self.local = local
        """Where the client connected to, as a PROXY header says; None: ask the socket, see `local_of`."""
        self.lease = Lease() if lease is None else lease
        self.header, self.hello = header, hello
        self.alpn = alpn
        """The protocol that was agreed on where TLS ends here; empty elsewhere."""
        self.shown = shown
        """What the client has shown of itself where it is asked for a certificate, see `policy.identity`."""

    @property
    def server_name(self) -> str | None:
        """The canonical name from the ClientHello, if one was read and it is usable."""
        return self.hello.server_name if self.hello else None

    def with_header(self, header: ProxyHeader) -> Arrival:
        """A copy that believes this PROXY header; one without addresses changes nothing else."""
        client, local = self.client, self.local
        if header.source is not None:
            client, local = header.source, header.destination
        return self._copy(client, local, header, self.hello, self.alpn, self.shown)

    def with_hello(self, hello: ClientHello) -> Arrival:
        """A copy that knows the ClientHello."""
        return self._copy(self.client, self.local, self.header, hello, self.alpn, self.shown)

    def with_alpn(self, alpn: bytes) -> Arrival:
        """A copy that knows which protocol is spoken inside TLS."""
        return self._copy(self.client, self.local, self.header, self.hello, alpn, self.shown)

    def with_shown(self, shown: Any) -> Arrival:
        """A copy that will know who the client is."""
        return self._copy(self.client, self.local, self.header, self.hello, self.alpn, shown)

    def _copy(
        self,
        client: Address,
        local: Address | None,
        header: ProxyHeader | None,
        hello: ClientHello | None,
        alpn: bytes,
        shown: Any,
    ) -> Arrival:
        return Arrival(self.listener, self.peer, client, local, self.lease, header, hello, alpn, shown)


classImplements(Arrival, IAddress)


def address_of(place: Any) -> Address:
    """The `Address` of a Twisted TCP or unix address; `TypeError` for any other kind."""
    if (host := getattr(place, "host", None)) is not None:
        return inet(host, place.port)
    if not hasattr(place, "name"):
        raise TypeError(f"not a socket address: {place!r}")
    return Unix(os.fsencode(place.name or b""))


def arrival_of(place: Any) -> Arrival:
    """The arrival that `buildProtocol` was given, or one made of the plain address an endpoint gives."""
    if isinstance(place, Arrival):
        return place
    address = address_of(place)
    return Arrival("", address, address)


def local_of(transport: Any) -> Address:
    """The address of our end of a connection; unlike `getHost`, with no Twisted object on the way."""
    if getattr(transport, "proxy_header", None) is not None:  # behind an `acceptproxy:` endpoint
        return address_of(transport.getHost())
    named = getattr(transport.getHandle(), "getsockname", None)
    if named is None:  # behind Twisted's TLS, which has no socket
        return address_of(transport.getHost())
    name = named()
    if isinstance(name, tuple):
        return inet(name[0], name[1])
    return Unix(os.fsencode(name))


class Journal(Protocol):
    """Where a connection's end is written down; one call per connection, cheap."""

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
        """`received` and `sent` are bytes taken from the client and from the peer; "-" is no app or peer."""
