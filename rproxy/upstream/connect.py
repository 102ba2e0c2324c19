"""Connecting to the first peer of a group that accepts. Called by `relay`.

One `Dial` is one search. Peers are asked in the balancer's order, each at all its addresses; a
peer that fails is noted, the next is tried, and nothing has been sent to anybody until one has
accepted. A peer's count is raised before the attempt and lowered once, here when it fails, by
the connected protocol's owner when the connection ends.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocol, IProtocolFactory
from twisted.python.failure import Failure
from zope.interface import classImplements

from rproxy.errors import PeerTimeout, PeerUnreachable, Refusal
from rproxy.upstream.outbound import Outbound
from rproxy.upstream.peer import Group, Peer, Target
from rproxy.watcher import watcher_of

OUR_SHORTAGE: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL}
"""Errors that say nothing about the peer: this process or machine has no room for a connection."""
SEARCH: Final = 3
"""A search may last this many connect time-outs in all, however many addresses there are."""
BACKLOG_FULL: Final = 0.02
"""Seconds until a unix socket with a full backlog is asked again (it answers EAGAIN, it never waits)."""


class Dial:
    """A search for a peer; `start`, then either `build(peer)` or `refused(refusal)` is called, once.

    `build` returns the protocol that the connected transport is given to. `timeout` is in
    seconds and holds for each address. Peers in `tried` are not asked, those that are asked are
    added to it, and at `most` of them it is over. `cancel` ends the search silently.
    """

    __slots__ = (
        "_build",
        "_client",
        "_deadline",
        "_full_since",
        "_group",
        "_most",
        "_outbound",
        "_peer",
        "_reactor",
        "_refusal",
        "_refused",
        "_targets",
        "_timeout",
        "_timer",
        "_tried",
        "_waiting",
        "_watcher",
    )

    def __init__(
        self,
        reactor: Any,
        group: Group,
        client: str,
        timeout: float,
        build: Callable[[Peer], IProtocol],
        refused: Callable[[Refusal], None],
        *,
        tried: list[Peer] | None = None,
        most: int = 1000,
    ) -> None:
        self._reactor, self._group, self._client = reactor, group, client
        self._watcher = watcher_of(reactor)
        self._timeout, self._build, self._refused = timeout, build, refused
        self._tried: list[Peer] = [] if tried is None else tried
        self._most = most
        self._targets: list[Target] = []
        self._refusal: PeerUnreachable | None = None
        self._peer: Peer | None = None
        self._outbound: Outbound | None = None
        self._waiting: Any = None
        self._full_since: float | None = None
        self._timer: Any = None
        self._deadline = 0.0

    def start(self, first: Peer | None = None) -> None:
        """Ask the first peer, which the caller may have picked; may finish before it returns."""
        self._deadline = self._watcher.seconds() + SEARCH * self._timeout
        if first is None:
            self._next_peer()
        else:
            self._ask_peer(first)

    def cancel(self) -> None:
        """Stop searching: the client has gone, or the proxy stops."""
        self._drop_attempt()
        if self._peer is not None:
            self._peer.open -= 1
            self._peer = None
        self._build = self._refused = _nothing

    def _next_peer(self) -> None:
        self._timer = None
        now = self._watcher.seconds()
        enough = now >= self._deadline or len(self._tried) >= self._most
        peer = None if enough else self._group.pick(self._client, self._tried, now)
        if peer is not None:
            self._ask_peer(peer)
            return
        refused, self._refused = self._refused, _nothing
        refused(self._verdict(now))

    def _verdict(self, now: float) -> Refusal:
        last = self._refusal or PeerUnreachable("no peer")
        return last if last.code in OUR_SHORTAGE else self._group.verdict(last, self._tried, now)

    def _ask_peer(self, peer: Peer) -> None:
        self._tried.append(peer)
        self._peer = peer
        peer.open += 1
        if peer.endpoint is not None:
            endpoint: Any = peer.endpoint
            connecting = endpoint.connect(_Handing(lambda: self._handed(peer)))
            if self._asks(peer):  # not connected at once
                self._wait_for(connecting, lambda _: None)
            return
        self._targets = list(peer.targets())
        if self._targets or not peer.host:
            self._next_target()
        else:
            self._wait_for(peer.resolved(), lambda _: self._resolved(peer))

    def _wait_for(self, answer: Deferred[Any], arrived: Callable[[Any], None]) -> None:
        self._waiting = answer
        self._arm(self._timed_out)
        answer.addCallbacks(arrived, self._wait_failed, errbackArgs=(answer,))

    def _wait_failed(self, failure: Failure, answer: Deferred[Any]) -> None:
        if self._waiting is not answer:  # given up already; this is our own cancellation
            return
        self._waiting = None
        self._disarm()
        code = getattr(failure.value, "osError", None) or getattr(failure.value, "errno", None) or 0
        self._refusal = PeerUnreachable(failure.getErrorMessage(), code)
        self._peer_failed()

    def _resolved(self, peer: Peer) -> None:
        if self._waiting is None:
            return
        self._waiting = None
        self._disarm()
        self._targets = list(peer.targets())
        self._next_target()

    def _next_target(self) -> None:
        if not self._targets or self._watcher.seconds() >= self._deadline:
            self._peer_failed()
            return
        family, target = self._targets.pop(0)
        try:
            outbound = Outbound(self._reactor, family, target, self._settled)
        except OSError as problem:  # no file descriptor left, or no such family
            self._attempt_failed(problem.errno or errno.EIO)
            return
        self._outbound = outbound
        outbound.start()
        if self._waits_for_settling(outbound):
            self._arm(self._timed_out)

    # Two questions with methods of their own: a type checker, and with it the compiler, takes what was
    # assigned a line earlier for what is still there, although a call in between may have changed it.

    def _asks(self, peer: Peer) -> bool:
        return self._peer is peer

    def _waits_for_settling(self, outbound: Outbound) -> bool:
        return self._outbound is outbound

    def _settled(self, outbound: Outbound, code: int) -> None:
        self._disarm()
        self._outbound = None
        if not code:
            outbound.serve(self._connected())
        elif code == errno.EAGAIN and outbound.family == socket.AF_UNIX:
            self._ask_again(outbound)
        else:
            self._attempt_failed(code)

    def _ask_again(self, outbound: Outbound) -> None:
        """The same unix socket once more, soon, until its time is over."""
        now = self._watcher.seconds()
        self._full_since = now if self._full_since is None else self._full_since
        if now - self._full_since >= self._timeout:
            self._attempt_failed(errno.ETIMEDOUT)
            return
        self._targets.insert(0, (outbound.family, outbound.place))
        self._timer = self._reactor.callLater(BACKLOG_FULL, self._again)

    def _again(self) -> None:
        self._timer = None
        self._next_target()

    def _handed(self, peer: Peer) -> IProtocol | None:
        """What an endpoint's transport gets; None when too late: some endpoints cannot be cancelled."""
        return self._connected() if self._asks(peer) else None

    def _connected(self) -> IProtocol:
        """The search is over: the protocol for the transport that was made."""
        self._waiting = None
        self._disarm()
        peer, self._peer = self._peer, None
        assert peer is not None
        peer.succeeded()
        build, self._build = self._build, _nothing
        return build(peer)

    def _attempt_failed(self, code: int) -> None:
        timed_out = code == errno.ETIMEDOUT
        why = "connecting took too long" if timed_out else os.strerror(code)
        self._full_since = None
        self._refusal = (PeerTimeout if timed_out else PeerUnreachable)(why, code)
        self._next_target()

    def _timed_out(self) -> None:
        self._drop_attempt()
        self._attempt_failed(errno.ETIMEDOUT)

    def _peer_failed(self) -> None:
        peer, self._peer = self._peer, None
        assert peer is not None
        peer.open -= 1
        if self._refusal is None or self._refusal.code not in OUR_SHORTAGE:
            peer.failed(self._watcher.seconds(), str(self._refusal))
        # In a turn of its own: a hundred peers that refuse at once must not nest a hundred calls deep.
        self._timer = self._reactor.callLater(0, self._next_peer)

    def _drop_attempt(self) -> None:
        self._disarm()
        outbound, self._outbound = self._outbound, None
        if outbound is not None:
            outbound.abandon()
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.cancel()

    def _arm(self, late: Callable[[], None]) -> None:
        self._timer = self._reactor.callLater(self._timeout, late)

    def _disarm(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()


class _Handing:
    """Gives the transport that a Twisted endpoint made to the search's protocol."""

    def __init__(self, connected: Callable[[], IProtocol | None]) -> None:
        self._connected = connected

    def doStart(self) -> None:
        """Nothing to prepare."""

    def doStop(self) -> None:
        """Nothing to tear down."""

    def buildProtocol(self, addr: Any) -> Any:
        return self._connected()


classImplements(_Handing, IProtocolFactory)


def _nothing(_: Any) -> Any:
    """Stands where a callback was that has been called."""
