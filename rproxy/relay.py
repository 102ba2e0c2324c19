"""Two connections joined: bytes, back-pressure and half-close go both ways. The route of a passthrough app.

`RelayFactory.buildProtocol(arrival)` is the downstream end. It looks for a peer as soon as it
is connected, keeps what the client sends meanwhile (at most one read more than the ClientHello,
then it stops reading), and joins the two transports. TCP transports are joined by `splice`, any
others by their protocols. Once joined, nothing of this file runs until an end is closed.
"""

from __future__ import annotations

from termios import TIOCOUTQ
from typing import Any, Final

from mypy_extensions import mypyc_attr
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHalfCloseableProtocol, IProtocolFactory, IPushProducer
from twisted.python.failure import Failure
from zope.interface import classImplements

from rproxy.deadlines import Deadline, Deadlines
from rproxy.errors import Refusal
from rproxy.interfaces import Arrival, Journal, Receiver, arrival_of, local_of
from rproxy.parting import Parting, end_half
from rproxy.splice import Pipes, Pump
from rproxy.transports import close, cut, in_kernel, is_plain, unacknowledged, unsent_of
from rproxy.upstream.connect import Dial
from rproxy.upstream.peer import Group, Peer
from rproxy.watcher import watcher_of
from rproxy.wire.address import Inet
from rproxy.wire.alert import alert_record
from rproxy.wire.proxyheader import encode_v1, encode_v2

SIOCOUTQNSD: Final = 0x894B
_TIOCOUTQ: Final[int] = TIOCOUTQ
IDLE_CHECKS: Final = 4
"""Looks per idle limit: a relay ends between 1 and 1 1/4 limits after its last byte."""


@mypyc_attr(allow_interpreted_subclasses=True)
class RelayFactory:
    """Serves each connection by joining it to a peer of `group`.

    `app` names it in the log. `proxy_protocol` is "none", "v1" or "v2": the header the peer is
    sent first. `connect_timeout` and `idle_timeout` are seconds, an idle limit of 0 is none.
    """

    def __init__(
        self,
        reactor: Any,
        app: str,
        group: Group,
        journal: Journal,
        pipes: Pipes,
        deadlines: Deadlines,
        *,
        proxy_protocol: str = "none",
        connect_timeout: float = 5.0,
        idle_timeout: float = 600.0,
    ) -> None:
        self.reactor, self.app, self.group = reactor, app, group
        self.watcher = watcher_of(reactor)
        self.journal, self.pipes, self.deadlines = journal, pipes, deadlines
        self.proxy_protocol = proxy_protocol
        self.connect_timeout, self.idle_timeout = connect_timeout, idle_timeout

    def doStart(self) -> None:
        """Nothing to prepare; Twisted's ports call it."""

    def doStop(self) -> None:
        """Nothing to tear down; Twisted's ports call it."""

    def buildProtocol(self, addr: Any) -> Any:
        """The downstream end for this arrival (or for the plain address that an endpoint gives)."""
        return Downstream(self, arrival_of(addr))

    def refusal(self, refusal: Refusal) -> Refusal:
        """What the client is told when no peer accepts; a subclass may know better."""
        return refusal

    def preamble(self, arrival: Arrival, transport: Any) -> bytes:
        """What the peer is sent before the client's own bytes; `transport` is the downstream one."""
        if self.proxy_protocol == "none":
            return b""
        local = arrival.local or local_of(transport)
        if self.proxy_protocol == "v1":
            return encode_v1(arrival.client, local)
        return encode_v2(arrival.client, local, arrival.header.tlvs if arrival.header else ())


@mypyc_attr(allow_interpreted_subclasses=True)
class End(Receiver):
    """What the two ends of a relay share: each knows the far one, and nothing of its kind of transport.

    A Twisted protocol, without the base class so that it can be compiled.
    """

    def __init__(self) -> None:
        self.transport: Any = None
        self.connected = 0
        self.far: End | None = None
        self.received = 0
        """Bytes that came through the protocol; those that went past it are the pump's."""
        self.pump: Pump | None = None
        """Carries what this end receives, once joined over plain TCP."""
        self.ended = False
        """Whether this side has sent all it will send."""
        self.lost = False

    def makeConnection(self, transport: Any) -> None:
        """Twisted's call."""
        self.transport, self.connected = transport, 1
        self.connectionMade()

    def connectionMade(self) -> None:
        """There is a transport now."""

    def dataReceived(self, data: bytes) -> None:
        """Twisted's call: pass on; the far transport pauses this one while its buffer is full."""
        self.received += len(data)
        assert self.far is not None
        self.far.transport.write(data)

    def readConnectionLost(self) -> None:
        """Twisted's call: this side has no more to send; the far side is told. Both sides: the end."""
        self.ended = True
        far = self.far
        if far is None or far.lost:
            self.transport.loseConnection()
            return
        far.transport.unregisterProducer()
        if far.ended:
            close(self.transport)
            if not far.lost:
                close(far.transport)
        else:
            end_half(far.transport, self.moved > 0)

    def writeConnectionLost(self) -> None:
        """Twisted's call once our half is shut; there is nothing to add."""

    def connectionLost(self, reason: Failure) -> None:
        """Twisted's call: this side is gone; the far one goes too, after what its buffer still holds.

        What was cut off must not look whole there, so it ends with a reset. Who is reset behind its last word
        has cut nothing off.
        """
        self.lost = True
        far = self.far
        if far is None or far.lost:
            return
        self.stop_pump()
        far.stop_pump()
        if reason.type is ConnectionDone or (self.ended and unacknowledged(far.transport)):
            far.transport.unregisterProducer()
            close(far.transport)
        elif unsent_of(far.transport):
            far.transport.unregisterProducer()
            Parting(far.transport)
        else:
            cut(far.transport)

    def pauseProducing(self) -> None:
        """The far transport's call: its buffer is full."""
        self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        """The far transport's call: it is not any more."""
        self.transport.resumeProducing()

    def stopProducing(self) -> None:
        """The far transport's call when it is lost: the `connectionLost` of its end knows what to do here."""

    def stop_pump(self) -> None:
        """Back to the transport's own methods, keeping the count."""
        if self.pump is not None:
            self.received += self.pump.moved
            self.pump.stop()
            self.pump = None

    @property
    def moved(self) -> int:
        """Bytes received from this side so far."""
        return self.received + (self.pump.moved if self.pump is not None else 0)

    @property
    def delivered(self) -> int:
        """Those of them that have reached the far side, so that a slow reader of much is not idle."""
        held = self.pump.held if self.pump is not None else 0
        if self.far is not None and not self.far.lost:
            held += unsent_of(self.far.transport) + _untaken(self.far.transport)
        return self.moved - held


def join_ends(one: End, other: End, pipes: Pipes) -> None:
    """Let the bytes of two connected ends run into each other."""
    one.far, other.far = other, one
    if is_plain(one.transport) and is_plain(other.transport):
        one.pump = Pump(one.transport, other.transport, pipes)
        other.pump = Pump(other.transport, one.transport, pipes)
    else:
        other.transport.registerProducer(one, True)
        one.transport.registerProducer(other, True)


@mypyc_attr(allow_interpreted_subclasses=True)
class Downstream(End):
    """The client's end, and the relay itself: it outlives the peer's end and writes the journal."""

    def __init__(self, factory: RelayFactory, arrival: Arrival) -> None:
        super().__init__()
        self._factory, self._arrival = factory, arrival
        self._started = factory.watcher.seconds()
        self._early: list[bytes] = []
        self._timer: Deadline | None = None
        self._seen = (0, 0)
        self._peer: Peer | None = None
        self._reason = ""
        self._finished = False
        self._dial: Dial | None = Dial(
            factory.reactor,
            factory.group,
            arrival.client[0] if isinstance(arrival.client, Inet) else "",
            factory.connect_timeout,
            self._accepted_by,
            self._refuse,
        )

    def connectionMade(self) -> None:
        """Twisted's call: look for a peer."""
        assert self._dial is not None
        self._dial.start()

    def dataReceived(self, data: bytes) -> None:
        """Twisted's call: pass on, or keep until there is a peer."""
        if self.far is not None:
            super().dataReceived(data)
            return
        if self._early:
            self.transport.pauseProducing()
        self._early.append(data)

    def _accepted_by(self, peer: Peer) -> Any:
        self._peer, self._dial = peer, None
        return Upstream(self)

    def join(self, upstream: Upstream) -> None:
        """Both ends are there: replay what was kept, and let the bytes run."""
        early, self._early = self._early, []
        first = self._factory.preamble(self._arrival, self.transport) + b"".join(early)
        for part in early:
            self.received += len(part)
        if first:
            upstream.transport.write(first)
        join_ends(self, upstream, self._factory.pipes)
        if len(early) > 1:
            self.transport.resumeProducing()
        if self.ended:
            self.readConnectionLost()
        if self._factory.idle_timeout:
            self._seen = (self.received, 0)
            self._look_later()

    def _watch(self) -> None:
        """Every quarter of the idle limit: has anything moved? No chunk pays for the clock."""
        upstream = self.far
        assert upstream is not None
        moved, unchanged = self.delivered + upstream.delivered, 0
        if moved == self._seen[0]:
            unchanged = self._seen[1] + 1
        self._seen = (moved, unchanged)
        if unchanged >= IDLE_CHECKS:
            self._timer = None
            self._abort("idle")
        else:
            self._look_later()

    def _look_later(self) -> None:
        self._timer = self._factory.deadlines.after(self._factory.idle_timeout / IDLE_CHECKS, self._watch)

    def ends_as(self, reason: str) -> None:
        """Peek's call before it cuts the client off: why."""
        self._reason = reason

    def _abort(self, reason: str) -> None:
        self._reason = reason
        for end in (self, self.far):
            if end is not None and not end.lost:
                end.stop_pump()
                end.transport.abortConnection()

    def _refuse(self, refusal: Refusal) -> None:
        refusal = self._factory.refusal(refusal)
        self._dial, self._reason = None, refusal.reason
        self.received += sum(map(len, self._early))
        if self._arrival.hello is not None and refusal.alert is not None:
            self.transport.write(alert_record(refusal.alert))
        self.transport.loseConnection()

    def readConnectionLost(self) -> None:
        """Twisted's call: before there is a peer it is only noted, and said once there is one."""
        if self._dial is not None:
            self.ended = True
        else:
            super().readConnectionLost()

    def connectionLost(self, reason: Failure) -> None:
        """Twisted's call: the client is gone."""
        self._reason = self._reason or _why(reason, "client")
        dial, self._dial = self._dial, None
        if dial is not None:
            dial.cancel()
        super().connectionLost(reason)
        self._finish()

    def upstream_goes(self, reason: Failure) -> None:
        """The peer's end is going, which is why the client's will."""
        assert self._peer is not None
        self._peer.open -= 1
        self._reason = self._reason or _why(reason, "peer")

    def upstream_lost(self) -> None:
        """The peer's end is gone."""
        self._finish()

    def _finish(self) -> None:
        """Once both ends are gone; closing one may close the other before it returns."""
        if self._finished or not self.lost or not (self.far is None or self.far.lost):
            return
        self._finished = True
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.drop()
        self._factory.journal.ended(
            self._arrival,
            app=self._factory.app,
            peer=self._peer.name if self._peer is not None else "-",
            received=self.moved,
            sent=self.far.moved if self.far is not None else 0,
            seconds=self._factory.watcher.seconds() - self._started,
            reason=self._reason,
        )
        far, self.far = self.far, None
        if far is not None:
            far.far = None  # or each connection would wait for the garbage collector


@mypyc_attr(allow_interpreted_subclasses=True)
class Upstream(End):
    """The peer's end."""

    def __init__(self, downstream: Downstream) -> None:
        super().__init__()
        self._downstream = downstream

    def connectionMade(self) -> None:
        """Twisted's call: the peer has accepted."""
        self._downstream.join(self)

    def connectionLost(self, reason: Failure) -> None:
        """Twisted's call: the peer is gone."""
        self._downstream.upstream_goes(reason)
        super().connectionLost(reason)
        self._downstream.upstream_lost()


def _why(reason: Failure, side: str) -> str:
    return "closed" if reason.type is ConnectionDone else f"{side}_reset"


def _untaken(transport: Any) -> int:
    """Bytes that the kernel has taken and not sent, because the other side has no room for them."""
    return in_kernel(transport, SIOCOUTQNSD, _TIOCOUTQ)  # the second for unix sockets


classImplements(RelayFactory, IProtocolFactory)
classImplements(End, IHalfCloseableProtocol, IPushProducer)
