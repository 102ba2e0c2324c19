"""Peek, decide, become: what an accepted connection is until its route is known. Built by listeners.

`PeekFactory` serves any Twisted endpoint. It admits, reads a PROXY header where one may come,
reads the ClientHello, asks the routing, and becomes the route's protocol: from then on every
call goes straight there, with the bytes that were read replayed first. A `Refusal` from here
on the way to a route ends here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Final, Protocol

from twisted.internet.interfaces import IHalfCloseableProtocol, IProtocolFactory
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import classImplements

from rproxy.deadlines import Deadline, Deadlines
from rproxy.downstream.admission import USUAL, Admission
from rproxy.downstream.admission import PeekOptions as PeekOptions
from rproxy.downstream.admission import ProxyPolicy as ProxyPolicy
from rproxy.errors import BadHello, BadProxyHeader, NotTLS, Refusal, TooMany, TooSlow
from rproxy.interfaces import Arrival, Journal, Lease, Receiver, address_of, pass_on
from rproxy.transports import half_closer
from rproxy.watcher import watcher_of
from rproxy.wire.address import Address, Inet
from rproxy.wire.alert import alert_record
from rproxy.wire.clienthello import HelloReader, looks_like_http
from rproxy.wire.proxyheader import ProxyHeader, ProxyHeaderReader, begins_header

log: Final = Logger(__name__)

LINGER: Final = 1.0
"""Seconds for which a refused client's bytes are read and dropped: closing on unread ones would be a
reset, and the reset would overtake the alert."""
LINGER_BYTES: Final = 1 << 20
"""Bytes dropped at most in that time; a client that sends on and on is reset."""

PLAIN_HTTP_BODY: Final = b"This port speaks TLS and got a plain HTTP request. Use https:// to reach it.\n"
PLAIN_HTTP: Final = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nServer: rproxy\r\n"
    b"Connection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(PLAIN_HTTP_BODY), PLAIN_HTTP_BODY)
)


class Register(Protocol):
    """The live connections, see `services.connections`."""

    def add(self, connection: Peek) -> None: ...  # noqa: D102
    def discard(self, connection: Peek) -> None: ...  # noqa: D102


class PeekFactory:
    """Serves a TLS port: one `Peek` per connection that the limits admit.

    With `clear` it serves a clear-text port: that is the route of every connection, and there
    is no ClientHello to wait for.
    """

    takes_inet: ClassVar[bool] = True
    """Tells `services.accepting` that no Twisted address has to be made for each connection."""

    def __init__(
        self,
        reactor: Any,
        listener: str,
        choose: Callable[[Arrival], IProtocolFactory],
        limits: Admission,
        connections: Register,
        journal: Journal,
        deadlines: Deadlines,
        options: PeekOptions = USUAL,
        *,
        clear: IProtocolFactory | None = None,
    ) -> None:
        self.watcher, self.listener, self.choose = watcher_of(reactor), listener, choose
        self.limits, self.connections = limits, connections
        self.journal, self.deadlines = journal, deadlines
        self.options, self.clear = options, clear

    def doStart(self) -> None:
        """Nothing to prepare; Twisted's ports call it."""

    def doStop(self) -> None:
        """Nothing to tear down; Twisted's ports call it."""

    def buildProtocol(self, addr: Any) -> Any:
        """A `Peek` for this peer; None, which closes the connection, when it may not come."""
        peer = addr if isinstance(addr, Inet) else address_of(addr)
        lease, options = Lease(), self.options
        is_client = options.proxy is None or not options.proxy.trusts(peer)
        try:
            if is_client and options.gate is not None:
                options.gate.check(peer)  # first: who is banned takes no place
            self.limits.admit(lease)
            if is_client:
                self.limits.admit_client(peer, lease)
                if options.gate is not None:
                    options.gate.count(peer, lease)
        except Refusal as refusal:
            lease.release()
            if options.gate is not None:
                options.gate.turned_away(peer, refusal)
            return None
        return Peek(self, peer, lease)


class Peek(Receiver):
    """One accepted connection; keeps its lease for as long as it lives, whatever it has become.

    A Twisted protocol, without the base class so that it can be compiled.
    """

    def __init__(self, factory: PeekFactory, peer: Address, lease: Lease) -> None:
        self._factory, self._peer, self._lease = factory, peer, lease
        self._options, self._clear = factory.options, factory.clear
        self.transport: Any = None
        self._reader: HelloReader | None = HelloReader(self._options.max_hello)
        self._arrival: Arrival | None = None
        self._started = factory.watcher.seconds()
        self._deadline: Deadline | None = None
        self._become: Any = None
        self._refused, self._in_header, self._left = False, False, "client_left"
        self._discarded = 0
        self._header: ProxyHeaderReader | None = None
        self._first = b""

    @property
    def client_host(self) -> str:
        """The client's address as text, once it is known; empty on a unix socket."""
        if self._arrival is None or self._header is not None:
            return ""
        client = self._arrival.client
        return client.host if isinstance(client, Inet) else ""

    def makeConnection(self, transport: Any) -> None:
        """Twisted's call: the clock starts for all that has to come before a route is chosen."""
        self.transport, factory = transport, self._factory
        factory.connections.add(self)
        self._arrival = Arrival(factory.listener, self._peer, self._peer, lease=self._lease)
        proxy = self._options.proxy
        if proxy is None:
            self._await_hello()
        elif proxy.trusts(self._peer):
            self._header = ProxyHeaderReader()
            self._expect(proxy.timeout if proxy.required else self._options.hello_timeout)
        elif proxy.required:
            self._refuse(BadProxyHeader("only trusted proxies may connect here"))
        else:
            self._await_hello()

    def _await_hello(self) -> None:
        if self._clear is None:
            self._expect(self._options.hello_timeout)
        else:
            assert self._arrival is not None
            try:
                self._hand_over(self._clear, self._arrival)
            except Refusal as refusal:  # nobody above would end it when it is the first thing that happens
                self._refuse(refusal)

    def _expect(self, seconds: float) -> None:
        self._stop_clock()
        self._deadline = self._factory.deadlines.after(seconds, self._too_slow)

    def dataReceived(self, data: bytes) -> None:
        """Twisted's call; once a route is chosen it goes to the route's protocol."""
        if self._header is None and self._become is not None:
            pass_on(self._become, data)
            return
        if self._refused:
            self._discard(data)
            return
        try:
            if self._header is not None:
                data = self._read_header(self._header, data)
            if data and self._become is not None:
                self._become.dataReceived(data)
            elif data:
                self._read_hello(data)
        except NotTLS as refusal:
            received = self._reader.received if self._reader is not None else b""
            self._refuse(_not_tls(refusal, received), received)
        except Refusal as refusal:
            self._refuse(refusal)

    def _read_header(self, reader: ProxyHeaderReader, data: bytes) -> bytes:
        """What comes after the PROXY header, or all of it when there is none; empty while undecided."""
        assert self._options.proxy is not None
        if not self._in_header:
            data = self._first = self._first + data
            begins = begins_header(data)
            if begins is None:
                return b""
            if begins or self._options.proxy.required:
                self._in_header = True
                if not self._options.proxy.required:  # it has begun one, and may not take as long as a hello
                    self._expect(self._options.proxy.timeout)
            else:
                self._know_client(None)
                return data
        header = reader.feed(data)
        if header is None:
            return b""
        self._know_client(header)
        return reader.rest

    def _know_client(self, header: ProxyHeader | None) -> None:
        """The header has been read, or there is none: count the client, give it time for its hello."""
        assert self._arrival is not None
        self._header, self._first = None, b""
        if header is not None:
            self._arrival = self._arrival.with_header(header)
        client, gate = self._arrival.client, self._options.gate
        if gate is not None:
            gate.check(client)
        self._factory.limits.admit_client(client, self._lease)
        if gate is not None:
            gate.count(client, self._lease)
        self._await_hello()

    def _read_hello(self, data: bytes) -> None:
        assert self._reader is not None
        assert self._arrival is not None
        hello = None if self._refused else self._reader.feed(data)  # by a clear route, for the PROXY header
        if hello is None:
            return
        self._arrival = arrival = self._arrival.with_hello(hello)
        self._hand_over(self._factory.choose(arrival), arrival)

    def _hand_over(self, route: IProtocolFactory, arrival: Arrival) -> None:
        builds: Any = route
        become = builds.buildProtocol(arrival)
        if become is None:
            raise TooMany("the route takes no more")
        self._stop_clock()
        self._become = become
        received = self._reader.received if self._reader is not None else b""
        self._reader = None
        become.makeConnection(self.transport)
        if received:
            become.dataReceived(received)

    def _too_slow(self) -> None:
        self._deadline = None
        waiting_for = "PROXY header" if self._in_header else "ClientHello"
        self._refuse(TooSlow(f"no complete {waiting_for} in time"))

    def _refuse(self, refusal: Refusal, sent_by_client: bytes = b"") -> None:
        """Answer, write it down, and keep reading for a moment so that the answer arrives."""
        self._stop_clock()
        self._refused = True
        answer = _answer(refusal, sent_by_client) if self._clear is None else b""
        self._journal(refusal.reason, sent=len(answer))
        if not answer:
            self.transport.loseConnection()
            return
        self.transport.write(answer)
        self.transport.loseWriteConnection()
        self._deadline = self._factory.deadlines.after(LINGER, self._stop_lingering)

    def _discard(self, data: bytes) -> None:
        self._discarded += len(data)
        if self._discarded > LINGER_BYTES:
            self.transport.abortConnection()

    def _stop_lingering(self) -> None:
        self._deadline = None
        self.transport.abortConnection()

    def readConnectionLost(self) -> None:
        """Twisted's call: the client will send no more."""
        if self._become is not None:
            half = half_closer(self._become)
            (self.transport.loseConnection if half is None else half.readConnectionLost)()
        elif self._refused or self._reader is None or not self._reader.received:
            self.transport.loseConnection()
        else:
            self._refuse(BadHello("the input ended inside the ClientHello"))
            self.transport.loseConnection()  # no need to linger: nothing can be unread any more

    def writeConnectionLost(self) -> None:
        """Twisted's call once our half is shut."""
        half = half_closer(self._become)
        if half is not None:
            half.writeConnectionLost()

    def connectionLost(self, reason: Failure) -> None:
        """Twisted's call, once: everything that was taken is given back."""
        self._stop_clock()
        try:
            if self._become is not None:
                self._become.connectionLost(reason)
            elif not self._refused:
                self._journal(self._left, sent=0)
        finally:
            self._become = None
            self._lease.release()
            self._factory.connections.discard(self)  # last: a drain that waits for this one ends here

    def drain(self) -> None:
        """The proxy stops: what this has become may end between two requests."""
        self._tell("drain")

    def abort(self, reason: str = "") -> None:
        """Cut the connection off now; `reason` is for the journal, if it is none of the client's."""
        if reason:
            self._left = reason
            self._tell("ends_as", reason)
        self.transport.abortConnection()

    def _tell(self, what: str, *more: str) -> None:
        become = getattr(self._become, "wrappedProtocol", self._become)
        if (called := getattr(become, what, None)) is not None:
            called(*more)

    def _stop_clock(self) -> None:
        deadline, self._deadline = self._deadline, None
        if deadline is not None:
            deadline.drop()

    def _journal(self, reason: str, sent: int) -> None:
        if self._arrival is None:  # there was no connection, only a failure to make one
            return
        self._factory.journal.ended(
            self._arrival,
            app="-",
            peer="-",
            received=len(self._reader.received) if self._reader is not None else 0,
            sent=sent,
            seconds=self._factory.watcher.seconds() - self._started,
            reason=reason,
        )


def _answer(refusal: Refusal, sent_by_client: bytes) -> bytes:
    if isinstance(refusal, NotTLS) and looks_like_http(sent_by_client):
        return PLAIN_HTTP
    return b"" if refusal.alert is None else alert_record(refusal.alert)


def _not_tls(refusal: NotTLS, sent_by_client: bytes) -> Refusal:
    """Says what it is when the client is a proxy that nobody has declared."""
    return (
        BadProxyHeader("from an address that may not send one") if begins_header(sent_by_client) else refusal
    )


classImplements(PeekFactory, IProtocolFactory)
classImplements(Peek, IHalfCloseableProtocol)
