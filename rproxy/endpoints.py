"""Endpoints that speak the PROXY protocol, for any Twisted program; nothing else of rproxy is needed.

`acceptproxy:tcp:8443` listens behind a proxy that sends headers (HAProxy, nginx, a load balancer),
`sendproxy:tcp:host:port` connects to a server that expects one. Both wrap any endpoint string:

    acceptproxy:tcp:8443:from=10.0.0.0/8,2001\\:db8\\:\\:/32,unix:required=no:timeout=5
    sendproxy:unix:/run/app.sock:version=v1

The plugin in `twisted/plugins` registers the two parsers, so this file imports little.
"""

from __future__ import annotations

import math
from enum import Enum
from typing import Any, assert_never

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IAddress,
    IFileDescriptorReceiver,
    IHalfCloseableProtocol,
    IHandshakeListener,
    IListeningPort,
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
    IStreamClientEndpointStringParserWithReactor,
    IStreamServerEndpoint,
    IStreamServerEndpointStringParser,
    ITransport,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.plugin import IPlugin
from twisted.python.failure import Failure
from zope.interface import Interface, alsoProvides, implementer

from rproxy.downstream.acceptproxy import AcceptProxyFactory, Terms, socket_address
from rproxy.policy.networks import LOOPBACK, UNIX, NetworkSet
from rproxy.wire.address import Address
from rproxy.wire.proxyheader import Tlvs, encode_v1, encode_v2

LOCAL_PEERS = NetworkSet((*LOOPBACK, UNIX))
"""Who may send a header where nothing else is said."""
HEADER_TIMEOUT_SECONDS = 3.0
"""A proxy sends its header together with the handshake's end, so this covers one lost packet."""


class ProxyVersion(Enum):
    """The version of the headers that are sent."""

    V1 = "v1"
    V2 = "v2"


class IProxyHeaderSource(Interface):
    """A protocol factory that knows better than the socket for whom it connects through `sendproxy:`."""

    def proxyHeader() -> tuple[Address | None, Address | None, Tlvs]:
        """Source, destination and TLVs (sent in v2 only); called once per connection, when it is made."""


@implementer(IStreamServerEndpoint)
class AcceptProxyEndpoint:
    """Listens on another endpoint and builds the protocol once the PROXY header is read.

    From `connectionMade` on, `transport.getPeer()` and `getHost()` give the addresses of the header,
    and so does `buildProtocol`; `transport.proxy_header` is the `ProxyHeader`, or None if there was none.

    `trusted` are the peers that may send one. With `required`, all others are closed at once.
    Without, they and trusted peers without header are served as they are, but an untrusted one that
    sends a header is closed; and as its first bytes have to tell, a protocol whose server speaks
    first needs `required`. In both modes the connection is closed when the question is still open
    after `timeout_seconds`.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        endpoint: IStreamServerEndpoint,
        *,
        trusted: NetworkSet = LOCAL_PEERS,
        required: bool = True,
        timeout_seconds: float = HEADER_TIMEOUT_SECONDS,
    ) -> None:
        self._endpoint = endpoint
        self._terms = Terms(reactor, trusted, required, timeout_seconds)

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        """Listen on the wrapped endpoint."""
        return self._endpoint.listen(AcceptProxyFactory(self._terms, protocolFactory))


@implementer(IStreamClientEndpoint)
class SendProxyEndpoint:
    """Connects through another endpoint and sends a PROXY header before anything else.

    A protocol factory that provides `IProxyHeaderSource` says whose addresses it carries; for all
    others they are the connection's own, so that the server sees what it would see without it.
    """

    def __init__(self, endpoint: IStreamClientEndpoint, *, version: ProxyVersion = ProxyVersion.V2) -> None:
        self._endpoint = endpoint
        self._version = version

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """Connect the wrapped endpoint; the result is the factory's own protocol."""
        connecting: Deferred[Any] = self._endpoint.connect(_SendFactory(self._version, protocolFactory))
        return connecting.addCallback(_unwrap)


@implementer(IPlugin, IStreamServerEndpointStringParser)
class AcceptProxyParser:
    """Parses `acceptproxy:ENDPOINT[:from=NETWORKS][:required=yes|no][:timeout=SECONDS]`."""

    prefix = "acceptproxy"

    def parseStreamServer(self, reactor: Any, *args: Any, **kwargs: Any) -> AcceptProxyEndpoint:
        """The endpoint; raises ValueError for options that cannot be used."""
        from twisted.internet.endpoints import serverFromString  # imports OpenSSL

        networks = kwargs.pop("from", None)
        required = _read_required(kwargs.pop("required", "yes"))
        timeout = _read_timeout(kwargs.pop("timeout", str(HEADER_TIMEOUT_SECONDS)))
        inner = serverFromString(reactor, _description(self.prefix, args, kwargs))
        trusted = LOCAL_PEERS if networks is None else NetworkSet(networks.split(","))
        return AcceptProxyEndpoint(
            reactor, inner, trusted=trusted, required=required, timeout_seconds=timeout
        )


@implementer(IPlugin, IStreamClientEndpointStringParserWithReactor)
class SendProxyParser:
    """Parses `sendproxy:ENDPOINT[:version=v1|v2]`."""

    prefix = "sendproxy"

    def parseStreamClient(self, reactor: Any, *args: Any, **kwargs: Any) -> SendProxyEndpoint:
        """The endpoint; raises ValueError for options that cannot be used."""
        from twisted.internet.endpoints import clientFromString  # imports OpenSSL

        version = _read_version(kwargs.pop("version", "v2"))
        inner = clientFromString(reactor, _description(self.prefix, args, kwargs))
        return SendProxyEndpoint(inner, version=version)


@implementer(IProtocolFactory)
class _SendFactory:
    def __init__(self, version: ProxyVersion, factory: IProtocolFactory) -> None:
        self._version = version
        self._factory = factory

    def doStart(self) -> None:
        self._factory.doStart()

    def doStop(self) -> None:
        self._factory.doStop()

    def buildProtocol(self, addr: IAddress) -> _HeaderSender | None:
        inner = self._factory.buildProtocol(addr)
        if inner is None:
            return None
        return _HeaderSender(self._version, IProxyHeaderSource(self._factory, None), inner)


class _HeaderSender(Protocol):
    """Writes the header, then gives the transport to the real protocol and passes events on to it."""

    def __init__(self, version: ProxyVersion, source: IProxyHeaderSource | None, inner: IProtocol) -> None:
        self._version = version
        self._source = source
        self.inner = inner
        optional: Any
        for optional in (IHalfCloseableProtocol, IFileDescriptorReceiver, IHandshakeListener):
            if optional.providedBy(inner):
                alsoProvides(self, optional)

    def __getattr__(self, name: str) -> Any:
        # The methods of the optional interfaces; Twisted calls them only where they are provided.
        return getattr(self.inner, name)

    def logPrefix(self) -> str:
        return type(self.inner).__name__

    def makeConnection(self, transport: ITransport) -> None:
        self.transport = transport
        self.connected = 1
        transport.write(self._header(transport))
        self.inner.makeConnection(transport)

    def dataReceived(self, data: bytes) -> None:
        self.inner.dataReceived(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.inner.connectionLost(reason)

    def _header(self, transport: ITransport) -> bytes:
        tlvs: Tlvs = ()
        if self._source is None:
            source, destination = socket_address(transport.getHost()), socket_address(transport.getPeer())
        else:
            source, destination, tlvs = self._source.proxyHeader()
        match self._version:
            case ProxyVersion.V1:
                return encode_v1(source, destination)
            case ProxyVersion.V2:
                return encode_v2(source, destination, tlvs)
            case _:
                assert_never(self._version)


def _unwrap(sender: _HeaderSender) -> IProtocol:
    return sender.inner


def _description(prefix: str, args: tuple[str, ...], kwargs: dict[str, str]) -> str:
    """The endpoint string that is left when our own prefix and options are taken away."""
    if not args or not args[0]:
        raise ValueError(f"{prefix}: wraps another endpoint, for example {prefix}:tcp:8443.")
    options = (f"{_quote(name)}={_quote(value)}" for name, value in kwargs.items())
    return ":".join([*map(_quote, args), *options])


def _quote(text: str) -> str:
    # Twisted's quoteStringArgument leaves "=" alone: a path with one would come back as an option.
    return text.replace("\\", "\\\\").replace(":", "\\:").replace("=", "\\=")


def _read_required(text: str) -> bool:
    if text not in ("yes", "no"):
        raise ValueError(f"acceptproxy: required is yes or no, not {text!r}.")
    return text == "yes"


def _read_timeout(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise ValueError(f"acceptproxy: timeout is a number of seconds above 0, not {text!r}.")
    return seconds


def _read_version(text: str) -> ProxyVersion:
    try:
        return ProxyVersion(text)
    except ValueError:
        raise ValueError(f"sendproxy: version is v1 or v2, not {text!r}.")
