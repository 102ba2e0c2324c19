"""Active health checks: every peer that has one is probed at intervals, and left out while it fails.

`Health` is a service that `assemble` owns; a reload tells it which peers there are. What it finds
out is `Peer.healthy`, which `Group.pick` looks at. A peer begins healthy, so that a start does not
wait; a probe is a connection of its own, neither counted nor kept, and never two at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.interfaces import IProtocol
from twisted.internet.protocol import Protocol
from twisted.logger import Logger

from rproxy.errors import Refusal
from rproxy.policy.balance import InOrder
from rproxy.upstream.connect import Dial
from rproxy.upstream.http_client import Asking, HttpClient, HttpPeer
from rproxy.upstream.peer import Group, Peer
from rproxy.wire.message import Fields, Headers, Piece, Response, bare_request

log = Logger()

JITTER: Final = 0.1
"""The part by which an interval varies, so that the probes of many proxies do not come all at once."""
MOST_BODY: Final = 65536
"""Bytes of a probe's response that are read before it is cut off: health pages have some hundred."""


@dataclass(frozen=True, slots=True)
class Probing:
    """How a peer is probed. Times are seconds; `timeout` is for the whole of a probe."""

    path: bytes | None = None
    """What is asked for with GET; None: connecting is enough, also where the peer speaks TLS."""
    expected_status: int = 200
    interval: float = 10.0
    timeout: float = 5.0
    unhealthy_after: int = 3
    """Failed probes in a row until the peer is left out."""
    healthy_after: int = 2
    """Good probes in a row until it is used again."""


class Health(Service):
    """All checks of one proxy; they run while the service does."""

    name = "health checks"

    def __init__(self, reactor: Any, rng: Random) -> None:
        self._reactor, self._rng = reactor, rng
        self._checks: dict[HttpPeer, Check] = {}

    def use(self, wanted: Mapping[HttpPeer, Probing]) -> None:
        """Probe these peers from now on; those that were probed already go on as they were."""
        for peer in self._checks.keys() - wanted.keys():
            self._checks.pop(peer).stop()
        for peer, probing in wanted.items():
            if peer not in self._checks:
                self._checks[peer] = Check(self._reactor, self._rng, peer, probing)
                if self.running:
                    self._checks[peer].start()

    def startService(self) -> None:
        """Twisted's call: the first probe of every peer, at once."""
        super().startService()
        for check in self._checks.values():
            check.start()

    def stopService(self) -> None:
        """Twisted's call: no timer and no probe is left."""
        super().stopService()
        for check in self._checks.values():
            check.stop()


class Check:
    """The probes of one peer, one after another."""

    def __init__(self, reactor: Any, rng: Random, peer: HttpPeer, probing: Probing) -> None:
        self._reactor, self._rng, self._peer, self._probing = reactor, rng, peer, probing
        self._twin = _Twin(peer)
        self._probe: Probe | None = None
        self._timer: Any = None
        self._began = 0.0
        self._streak = 0
        """Results in a row that speak against what `peer.healthy` says."""

    def start(self) -> None:
        """Probe now, and again at intervals."""
        self._timer = None
        self._began = self._reactor.seconds()
        self._probe = Probe(self._reactor, self._twin, self._probing, self._ended)
        self._probe.start()

    def stop(self) -> None:
        """Probe no more; a probe under way is given up and says nothing."""
        probe, self._probe = self._probe, None
        if probe is not None:
            probe.cancel()
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _ended(self, why: str) -> None:
        self._probe = None
        self._count(why)
        spread = self._probing.interval * self._rng.uniform(1 - JITTER, 1 + JITTER)
        wait = max(0.0, self._began + spread - self._reactor.seconds())
        self._timer = self._reactor.callLater(wait, self.start)

    def _count(self, why: str) -> None:
        peer, probing = self._peer, self._probing
        self._streak = self._streak + 1 if peer.healthy == bool(why) else 0
        if self._streak < (probing.unhealthy_after if peer.healthy else probing.healthy_after):
            return
        self._streak, peer.healthy = 0, not peer.healthy
        if peer.healthy:
            log.info("peer {peer} is healthy again", peer=peer.name)
        else:
            log.warn("peer {peer} is unhealthy: {why}", peer=peer.name, why=why)


class Probe(Asking):
    """One look at a peer: `done` is called once, with the empty text if it is well, else with why not.

    It may be called before `start` returns. `cancel` ends the probe silently.
    """

    def __init__(self, reactor: Any, peer: HttpPeer, probing: Probing, done: Callable[[str], object]) -> None:
        self._reactor, self._peer, self._probing, self._done = reactor, peer, probing, done
        self._upstream: HttpClient | None = None
        self._verdict = "no response"
        self._size = 0
        self._over = False
        self._timer: Any = None
        group = Group([peer], InOrder())
        self._dial: Dial | None = Dial(reactor, group, "", probing.timeout, self._made, self._unreachable)

    def start(self) -> None:
        """Connect, and ask if there is something to ask."""
        self._timer = self._reactor.callLater(self._probing.timeout, self._too_late)
        if self._dial is not None:
            self._dial.start()

    def cancel(self) -> None:
        """Give up; `done` is not called."""
        self._over = True
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        dial, self._dial = self._dial, None
        if dial is not None:
            dial.cancel()
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.close()

    def _end(self, why: str) -> None:
        if not self._over:
            self.cancel()
            self._done(why)

    def _too_late(self) -> None:
        self._end(f"nothing came of it in {self._probing.timeout:g} s")

    def _unreachable(self, refusal: Refusal) -> None:
        self._dial = None
        self._end(str(refusal))

    def _made(self, peer: Peer) -> IProtocol:
        """A connection has been made: what its transport is given to."""
        self._dial = None
        if self._probing.path is None:
            self._end("")
            return Goodbye()
        return self._peer.protocol(self._reactor, self._ask)

    def _ask(self, upstream: HttpClient) -> None:
        if self._over:
            upstream.close()
            return
        self._upstream = upstream
        path = self._probing.path or b"/"
        fields = Fields([(b"Host", self._peer.authority)])
        upstream.ask(self, bare_request(b"GET", path), path, fields, False, False)

    def interim(self, response: Response) -> None:
        """The connection's call: not yet the answer."""

    def response(self, response: Response) -> None:
        """The connection's call: the status decides, once the rest has come too."""
        expected = self._probing.expected_status
        good = response.status == expected
        self._verdict = "" if good else f"it answers with {response.status} instead of {expected}"

    def piece(self, piece: Piece) -> None:
        """The connection's call: a body is read so that the server need not see a reset, within reason."""
        self._size += len(piece)
        if self._size > MOST_BODY:
            self._end(self._verdict)

    def response_end(self, trailers: Headers | None) -> None:
        """The connection's call: it is closed already, since nothing is kept."""
        self._upstream = None
        self._end(self._verdict)

    def flush(self) -> None:
        """The connection's call: nothing waits here."""

    def broken(self, refusal: Refusal, silent: bool) -> None:
        """The connection's call: it ended too early."""
        self._upstream = None
        self._end(str(refusal))

    def upstream_full(self) -> None:
        """The connection's call: we have nothing more to send."""

    def upstream_ready(self) -> None:
        """The connection's call."""


class Goodbye(Protocol):
    """Closes a connection as soon as it is there."""

    transport: Any

    def connectionMade(self) -> None:
        """Twisted's call."""
        self.transport.loseConnection()


class _Twin(HttpPeer):
    """A peer's other self for probes: at the same place, with no influence on counts and judgements."""

    __slots__ = ()

    def __init__(self, peer: HttpPeer) -> None:
        super().__init__(
            peer.name,
            authority=peer.authority,
            tls=peer.tls,
            keep=0,
            fixed=peer._fixed,
            host=peer._host,
            port=peer._port,
            names=peer._names,
            endpoint=peer.endpoint,
            http2=peer.http2,
        )

    def failed(self, now: float, why: str) -> None:
        """What a failed probe means is for `Check` to say."""

    def succeeded(self) -> None:
        """The same for a good one."""
