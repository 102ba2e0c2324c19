"""The listening side of the PROXY protocol for any protocol factory: what `acceptproxy:` endpoints build."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, assert_never

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IHalfCloseableProtocol,
    ILoggingContext,
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    ITransport,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import alsoProvides, directlyProvides, implementer, providedBy

from rproxy.errors import BadProxyHeader, Refusal, TooSlow
from rproxy.interfaces import address_of
from rproxy.policy.networks import NetworkSet
from rproxy.wire.address import Address, Inet, Unix
from rproxy.wire.proxyheader import ProxyHeader, ProxyHeaderReader, begins_header


@dataclass(frozen=True, slots=True)
class Terms:
    """What the connections of one listening endpoint share; `rproxy.endpoints` says what each means."""

    clock: IReactorTime
    trusted: NetworkSet
    required: bool
    timeout_seconds: float

    def trusts(self, peer: Address | None) -> bool:
        """Whether a connection from this address may send a header."""
        match peer:
            case Inet(host, _):
                return host in self.trusted
            case Unix():
                return self.trusted.unix
            case None:
                return False
            case _:
                assert_never(peer)


@implementer(IProtocolFactory, ILoggingContext)
class AcceptProxyFactory:
    """Reads a PROXY header from each connection before the wrapped factory builds its protocol."""

    def __init__(self, terms: Terms, factory: IProtocolFactory) -> None:
        self._terms = terms
        self._factory = factory

    def logPrefix(self) -> str:
        """The wrapped factory's name, marked."""
        context = ILoggingContext(self._factory, None)
        name = type(self._factory).__name__ if context is None else context.logPrefix()
        return f"{name} (PROXY)"

    def doStart(self) -> None:
        """Passed on: a port begins to use the factory."""
        self._factory.doStart()

    def doStop(self) -> None:
        """Passed on: a port ends to use the factory."""
        self._factory.doStop()

    def buildProtocol(self, addr: IAddress) -> IProtocol:
        """The reader of one connection's header."""
        return _HeaderFirst(self._terms, self._factory, socket_address(addr))


@implementer(ITransport)
class ProxiedTransport:
    """The transport of a protocol behind `acceptproxy:`: the real one, but for its addresses."""

    def __init__(self, real: Any, clock: IReactorTime, header: ProxyHeader | None) -> None:
        self._real = real
        self._clock = clock
        self._held = b""
        self._paused = False
        self._protocol: IProtocol | None = None
        self.disconnecting = False
        self.proxy_header = header
        """What the proxy sent; None where it sent none."""
        directlyProvides(self, providedBy(real))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def getPeer(self) -> IAddress:
        """The client that the header names, else the socket's peer."""
        named = self.proxy_header and self.proxy_header.source
        found: IAddress = twisted_address(named) if named else self._real.getPeer()
        return found

    def getHost(self) -> IAddress:
        """Where that client connected to, else the socket's own address."""
        named = self.proxy_header and self.proxy_header.destination
        found: IAddress = twisted_address(named) if named else self._real.getHost()
        return found

    def write(self, data: bytes) -> None:
        """Passed on."""
        self._real.write(data)

    def writeSequence(self, data: Iterable[bytes]) -> None:
        """Passed on."""
        self._real.writeSequence(data)

    def pauseProducing(self) -> None:
        """Stop delivering, also what came together with the header."""
        self._paused = True
        self._real.pauseProducing()

    def resumeProducing(self) -> None:
        """Deliver again; what was held back comes first, in the reactor's next turn."""
        self._paused = False
        if self._held:
            self._clock.callLater(0, self._catch_up)
        else:
            self._real.resumeProducing()

    def stopProducing(self) -> None:
        """As `loseConnection`."""
        self.loseConnection()

    def loseConnection(self) -> None:
        """Close once everything written is sent."""
        self.disconnecting = True
        self._real.loseConnection()

    def abortConnection(self) -> None:
        """Close now."""
        self.disconnecting = True
        _abort(self._real)

    def start(self, protocol: IProtocol, rest: bytes) -> None:
        """Connect the protocol and deliver what followed the header, unless it pauses or closes at once."""
        self._protocol, self._held = protocol, rest
        protocol.makeConnection(self)
        self._deliver_held()

    def deliver(self, octets: bytes) -> None:
        """Pass on what the real transport received, never ahead of anything held back."""
        if self._held:
            self._held += octets
        elif self._protocol is not None:
            self._protocol.dataReceived(octets)

    def stop(self) -> None:
        """The real transport is gone: what is held back stays undelivered."""
        self.disconnecting, self._held, self._protocol = True, b"", None

    def _catch_up(self) -> None:
        self._deliver_held()
        if not (self._paused or self.disconnecting):
            self._real.resumeProducing()

    def _deliver_held(self) -> None:
        if self._held and not (self._paused or self.disconnecting):
            held, self._held = self._held, b""
            self.deliver(held)


def socket_address(address: IAddress) -> Address | None:
    """What a Twisted transport gave as ours; None for anything that is neither TCP nor a unix socket."""
    try:
        return address_of(address)
    except TypeError:
        return None


def twisted_address(address: Address) -> IAddress:
    """One of ours as a Twisted transport would give it."""
    match address:
        case Inet(host, port):
            return IPv6Address("TCP", host, port) if address.is_v6 else IPv4Address("TCP", host, port)
        case Unix(path):
            return UNIXAddress(path or None)
        case _:
            assert_never(address)


class _HeaderFirst(Protocol):
    """Reads the header, then connects the wrapped protocol and passes everything on to it."""

    _log = Logger()

    def __init__(self, terms: Terms, factory: IProtocolFactory, peer: Address | None) -> None:
        self._terms = terms
        self._factory = factory
        self._peer = peer
        self._trusted = terms.trusts(peer)
        self._begun = terms.required
        self._first = b""
        self._reader = ProxyHeaderReader()
        self._timer: IDelayedCall | None = None
        self._inner: IProtocol | None = None
        self._proxied: ProxiedTransport | None = None

    def logPrefix(self) -> str:
        """The wrapped protocol's name once there is one."""
        return type(self._inner or self._factory).__name__

    def connectionMade(self) -> None:
        """Close on strangers where a header is required; else start the clock."""
        if self._terms.required and not self._trusted:
            self._refuse(BadProxyHeader("The peer is not trusted to send PROXY headers."))
        else:
            self._timer = self._terms.clock.callLater(self._terms.timeout_seconds, self._expire)

    def dataReceived(self, data: bytes) -> None:
        """Feed the reader, later the wrapped protocol."""
        if self._proxied is not None:
            self._proxied.deliver(data)
        elif self._timer is not None:
            self._read(data)

    def readConnectionLost(self) -> None:
        """Passed on; called only if the wrapped protocol half-closes."""
        IHalfCloseableProtocol(self._inner).readConnectionLost()

    def writeConnectionLost(self) -> None:
        """Passed on; called only if the wrapped protocol half-closes."""
        IHalfCloseableProtocol(self._inner).writeConnectionLost()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Passed on, if the connection came as far as that."""
        self._stop_timer()
        proxied, self._proxied = self._proxied, None
        inner, self._inner = self._inner, None
        if proxied is not None:
            proxied.stop()
        if inner is not None:
            inner.connectionLost(reason)

    def _expire(self) -> None:
        self._timer = None
        self._refuse(TooSlow(f"No whole PROXY header came within {self._terms.timeout_seconds:g} seconds."))

    def _read(self, data: bytes) -> None:
        try:
            found = self._find(data)
        except Refusal as refusal:
            self._refuse(refusal)
            return
        if found is not None:
            self._begin(*found)

    def _find(self, data: bytes) -> tuple[ProxyHeader | None, bytes] | None:
        """The header, or None where none was sent, and the bytes behind it; None: read on."""
        if not self._begun:
            self._first += data
            begun = begins_header(self._first)
            if not begun:
                return (None, self._first) if begun is False else None
            if not self._trusted:
                raise BadProxyHeader("The peer sent a PROXY header and is not trusted to.")
            self._begun, data = True, self._first
        header = self._reader.feed(data)
        return None if header is None else (header, self._reader.rest)

    def _begin(self, header: ProxyHeader | None, rest: bytes) -> None:
        self._stop_timer()
        proxied = ProxiedTransport(self.transport, self._terms.clock, header)
        inner = self._factory.buildProtocol(proxied.getPeer())
        if inner is None:
            _abort(self.transport)
            return
        if IHalfCloseableProtocol.providedBy(inner):
            alsoProvides(self, IHalfCloseableProtocol)
        self._inner, self._proxied = inner, proxied
        proxied.start(inner, rest)

    def _refuse(self, refusal: Refusal) -> None:
        self._stop_timer()
        self._log.warn(
            "{peer} refused: {text}", peer=str(self._peer), text=str(refusal), reason=refusal.reason
        )
        _abort(self.transport)

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()


def _abort(transport: Any) -> None:
    """Close now; a transport that cannot (standard input and output) is closed the gentle way."""
    getattr(transport, "abortConnection", transport.loseConnection)()
