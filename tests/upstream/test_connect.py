"""The search for a peer: order, failover, deadlines, and nothing left behind however it ends."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pytest_twisted import async_yield_fixture
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import getConnectError
from twisted.internet.protocol import Protocol
from twisted.internet.testing import StringTransport

from rproxy.errors import NoPeer, PeerTimeout, PeerUnreachable, Refusal
from rproxy.policy.balance import InOrder
from rproxy.upstream import connect
from rproxy.upstream.connect import BACKLOG_FULL, SEARCH, Dial
from rproxy.upstream.peer import NEVER, Group, Peer
from tests.fakes import Loop, open_files

TIMEOUT = 5.0


class Served(Protocol):
    """What `build` makes: remembers its peer."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.made = 0

    def connectionMade(self) -> None:
        self.made += 1


class Search:
    """One dial, its loop and its outcome."""

    def __init__(self, *peers: Peer, **options: Any) -> None:
        self.loop = Loop()
        self.peers = peers
        self.built: list[Served] = []
        self.refusals: list[Refusal] = []
        group = Group(peers, InOrder())
        self.dial = Dial(self.loop, group, "", TIMEOUT, self.build, self.refusals.append, **options)

    def build(self, peer: Peer) -> Served:
        self.built.append(Served(peer))
        return self.built[-1]

    def start(self) -> Search:
        self.dial.start()
        self.loop.spin()
        return self

    def pass_time(self, seconds: float) -> None:
        for _ in range(int(seconds / 0.05 + 0.5)):
            self.loop.advance(0.05)
            self.loop.spin()

    @property
    def served(self) -> Served:
        (served,) = self.built
        assert self.refusals == []
        return served

    @property
    def refusal(self) -> Refusal:
        (refusal,) = self.refusals
        assert self.built == []
        return refusal

    @property
    def counts(self) -> list[int]:
        return [peer.open for peer in self.peers]

    def assert_quiet(self) -> None:
        """No timer runs and no socket is watched, but those of a served transport."""
        assert self.loop.getDelayedCalls() == []
        assert self.loop.writers == set()
        assert len(self.loop.readers) == len(self.built)

    def close(self) -> None:
        for served in self.built:
            if isinstance(served.transport, connect.Outbound):
                served.transport.socket.close()


class Ground:
    """Sockets to connect to; everything is closed after the test."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.sockets: list[socket.socket] = []
        self.searches: list[Search] = []

    def keep(self, sock: socket.socket) -> socket.socket:
        self.sockets.append(sock)
        return sock

    def search(self, *peers: Peer, **options: Any) -> Search:
        self.searches.append(Search(*peers, **options))
        return self.searches[-1]

    def listening(self, name: str = "up") -> Peer:
        sock = self.keep(socket.create_server(("127.0.0.1", 0)))
        return Peer(name, fixed=[(socket.AF_INET, sock.getsockname())])

    def refusing(self, name: str = "refusing") -> Peer:
        sock = self.keep(socket.socket())
        sock.bind(("127.0.0.1", 0))
        return Peer(name, fixed=[(socket.AF_INET, sock.getsockname())])

    def silent(self, name: str = "silent") -> Peer:
        """A TCP listener whose queue is full: it never answers."""
        sock = self.keep(socket.socket())
        sock.bind(("127.0.0.1", 0))
        sock.listen(0)
        for _ in range(3):
            filler = self.keep(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(sock.getsockname())
        return Peer(name, fixed=[(socket.AF_INET, sock.getsockname())])

    def unix(self, name: str = "unix", full: bool = False) -> tuple[Peer, socket.socket]:
        """A unix listener; when full it answers EAGAIN."""
        path = str(self.directory / name)
        sock = self.keep(socket.socket(socket.AF_UNIX))
        sock.bind(path)
        sock.listen(0)
        code = 0
        while full and not code:
            filler = self.keep(socket.socket(socket.AF_UNIX))
            filler.setblocking(False)
            code = filler.connect_ex(path)
        return Peer(name, fixed=[(socket.AF_UNIX, path)]), sock

    def close(self) -> None:
        for search in self.searches:
            search.close()
        for sock in self.sockets:
            sock.close()


@async_yield_fixture()  # type: ignore[untyped-decorator]
async def ground(tmp_path: Path) -> AsyncIterator[Ground]:
    before = open_files()
    ground = Ground(tmp_path)
    yield ground
    ground.close()
    assert open_files() <= before


class Endpoint:
    """A client endpoint that connects when the test says so, and may not be cancelled."""

    def __init__(self, cancellable: bool = True) -> None:
        self.factory: Any = None
        self.cancelled = 0
        self.answer: Deferred[Any] = Deferred(self._cancel if cancellable else None)

    def _cancel(self, answer: Deferred[Any]) -> None:
        self.cancelled += 1

    def connect(self, factory: Any) -> Deferred[Any]:
        self.factory = factory
        return self.answer

    def connected(self) -> Any:
        protocol = self.factory.buildProtocol(None)
        if protocol is not None:
            protocol.makeConnection(StringTransport())
        self.answer.callback(protocol)
        return protocol


class AtOnce:
    """A client endpoint that has connected before `connect` returns."""

    def connect(self, factory: Any) -> Deferred[Any]:
        protocol = factory.buildProtocol(None)
        protocol.makeConnection(StringTransport())
        return succeed(protocol)


class Names:
    """A name whose addresses come when the test says so."""

    def __init__(self) -> None:
        self.addresses: tuple[str, ...] = ()
        self.waiting: Deferred[tuple[str, ...]] = Deferred()

    def known(self, host: str) -> tuple[str, ...]:
        return self.addresses

    def first(self, host: str) -> Deferred[tuple[str, ...]]:
        return self.waiting

    def peer(self, port: int = 9) -> Peer:
        return Peer("named", host="db.internal", port=port, names=self)  # type: ignore[arg-type]


def test_a_peer_that_listens_is_built_for_and_counted(ground: Ground) -> None:
    search = ground.search(ground.listening()).start()
    assert (search.served.peer.name, search.served.made, search.counts) == ("up", 1, [1])
    search.assert_quiet()


def test_a_unix_peer_is_connected_before_start_returns(ground: Ground) -> None:
    search = ground.search(ground.unix()[0])
    search.dial.start()
    assert (search.served.made, search.counts) == (1, [1])


def test_peers_are_tried_in_the_balancers_order(ground: Ground) -> None:
    search = ground.search(ground.refusing("a"), ground.refusing("b"), ground.listening("c")).start()
    assert (search.served.peer.name, search.counts) == ("c", [0, 0, 1])
    assert [peer.down_until > 0 for peer in search.peers] == [True, True, False]
    search.assert_quiet()


def test_all_addresses_of_a_peer_are_tried_and_it_is_counted_once(ground: Ground) -> None:
    both = Peer("both", fixed=[*ground.refusing().targets(), *ground.listening().targets()])
    search = ground.search(both).start()
    assert (search.served.peer, search.counts, both.down_until) == (both, [1], float("-inf"))


@pytest.mark.parametrize(("names", "kind", "status"), [("a", PeerUnreachable, 502), ("ab", NoPeer, 503)])
def test_when_nobody_listens_the_last_reason_is_told_once(
    ground: Ground, names: str, kind: type[Refusal], status: int
) -> None:
    """One peer that refuses is a bad gateway; of several that do, none is there to serve."""
    search = ground.search(*map(ground.refusing, names)).start()
    refusal = search.refusal
    assert isinstance(refusal, PeerUnreachable)
    assert (type(refusal), refusal.status, refusal.alert) == (kind, status, 80)
    assert (refusal.code, str(refusal)) == (errno.ECONNREFUSED, "Connection refused")
    assert search.counts == [0] * len(names)
    search.assert_quiet()


@pytest.mark.parametrize(
    ("known", "kind"), [("nothing", PeerUnreachable), ("down", NoPeer), ("unhealthy", NoPeer)]
)
def test_a_peer_that_was_not_asked_counts_as_what_is_known_of_it(
    ground: Ground, known: str, kind: type[Refusal]
) -> None:
    """At most two are asked here, the third is the last in order."""
    search = ground.search(ground.refusing("a"), ground.refusing("b"), ground.refusing("c"), most=2)
    last = search.peers[2]
    if known == "down":
        last.failed(0.0, "refused")
    last.healthy = known != "unhealthy"
    search.start()
    assert type(search.refusal) is kind


def test_peers_that_are_down_and_stay_silent_are_none_either(ground: Ground) -> None:
    search = ground.search(ground.silent("a"), ground.silent("b"))
    for peer in search.peers:
        peer.failed(0.0, "connecting took too long")
    search.start().pass_time(2 * TIMEOUT + 0.2)
    assert type(search.refusal) is NoPeer
    search.assert_quiet()


def test_a_hundred_peers_that_refuse_do_not_nest(ground: Ground, tmp_path: Path) -> None:
    missing = [Peer(str(n), fixed=[(socket.AF_UNIX, str(tmp_path / str(n)))]) for n in range(400)]
    search = ground.search(*missing)
    search.dial.start()
    for _ in missing:
        search.loop.advance(0)
    assert isinstance(search.refusal, PeerUnreachable)
    assert search.refusal.code == errno.ENOENT


@pytest.mark.parametrize(
    ("path", "code"),
    [("missing", errno.ENOENT), ("x" * 200, errno.ENAMETOOLONG), ("file", errno.ECONNREFUSED)],
)
def test_unix_failures_keep_their_errno(ground: Ground, tmp_path: Path, path: str, code: int) -> None:
    (tmp_path / "file").touch()
    search = ground.search(Peer("u", fixed=[(socket.AF_UNIX, str(tmp_path / path))])).start()
    assert isinstance(search.refusal, PeerUnreachable)
    assert search.refusal.code == code


def test_a_silent_peer_is_given_its_time_and_then_the_next_is_tried(ground: Ground) -> None:
    search = ground.search(ground.silent(), ground.listening()).start()
    search.loop.advance(TIMEOUT - 0.01)
    search.loop.spin()
    assert (search.built, search.counts) == ([], [1, 0])
    search.loop.advance(0.02)
    search.loop.spin()
    assert (search.served.peer.name, search.counts) == ("up", [0, 1])
    search.assert_quiet()


def test_a_silent_peer_alone_is_a_time_out(ground: Ground) -> None:
    search = ground.search(ground.silent()).start()
    search.pass_time(TIMEOUT + 0.1)
    assert isinstance(search.refusal, PeerTimeout)
    assert search.counts == [0]
    search.assert_quiet()


def test_a_search_ends_however_many_addresses_there_are(ground: Ground) -> None:
    many = Peer("many", fixed=list(ground.silent().targets()) * 10)
    search = ground.search(many, ground.listening()).start()
    search.pass_time(SEARCH * TIMEOUT - 1)
    assert (search.refusals, search.built) == ([], [])
    search.pass_time(1.1)
    assert isinstance(search.refusal, PeerTimeout)
    assert search.counts == [0, 0]
    search.assert_quiet()


def test_no_file_descriptor_left_is_a_failed_attempt(ground: Ground, monkeypatch: Any) -> None:
    def full(*_: Any) -> Any:
        raise OSError(errno.EMFILE, "Too many open files")

    search = ground.search(ground.listening())
    with monkeypatch.context() as patched:
        patched.setattr(socket, "SocketType", full)
        search.start()
    assert isinstance(search.refusal, PeerUnreachable)
    assert (search.refusal.code, search.counts) == (errno.EMFILE, [0])


@pytest.mark.parametrize("code", sorted(connect.OUR_SHORTAGE))
def test_a_lack_of_our_own_says_nothing_about_the_peer(ground: Ground, monkeypatch: Any, code: int) -> None:
    def full(*_: Any) -> Any:
        raise OSError(code, os.strerror(code))

    search = ground.search(ground.listening(), ground.listening())
    with monkeypatch.context() as patched:
        patched.setattr(socket, "SocketType", full)
        search.start()
    assert type(search.refusal) is PeerUnreachable
    assert [peer.down_until for peer in search.peers] == [NEVER, NEVER]
    search.assert_quiet()


@pytest.mark.parametrize("code", [errno.EMFILE, errno.EADDRNOTAVAIL])
def test_an_endpoints_lack_of_our_own_says_nothing_about_the_peer_either(ground: Ground, code: int) -> None:
    endpoint = Endpoint()
    search = ground.search(Peer("e", endpoint=endpoint)).start()
    endpoint.answer.errback(getConnectError((code, os.strerror(code))))
    search.loop.spin()
    assert isinstance(search.refusal, PeerUnreachable)
    assert (search.refusal.code, search.peers[0].down_until) == (code, NEVER)


def test_word_of_a_peer_that_died_silently_is_asked_for(ground: Ground) -> None:
    search = ground.search(ground.listening()).start()
    sock = search.served.transport.socket  # type: ignore[union-attr]
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1


def test_a_full_unix_backlog_is_asked_again(ground: Ground) -> None:
    peer, listening = ground.unix(full=True)
    search = ground.search(peer).start()
    search.loop.advance(BACKLOG_FULL)
    assert (search.built, search.refusals, search.counts) == ([], [], [1])
    ground.keep(listening.accept()[0])
    search.loop.advance(BACKLOG_FULL)
    assert (search.served.peer, search.counts) == (peer, [1])
    search.assert_quiet()


def test_a_unix_backlog_that_stays_full_is_a_time_out(ground: Ground) -> None:
    search = ground.search(ground.unix(full=True)[0]).start()
    search.pass_time(TIMEOUT - 0.1)
    assert (search.refusals, search.counts) == ([], [1])
    search.pass_time(0.3)
    assert isinstance(search.refusal, PeerTimeout)
    assert search.counts == [0]
    search.assert_quiet()


def test_behind_a_unix_backlog_that_stays_full_the_next_peer_serves(ground: Ground) -> None:
    search = ground.search(ground.unix(full=True)[0], ground.listening("backup")).start()
    search.pass_time(TIMEOUT + 0.2)
    assert (search.served.peer.name, search.counts) == ("backup", [0, 1])
    assert search.peers[0].down_until > search.loop.seconds()
    search.assert_quiet()


def test_each_unix_peer_gets_its_own_time(ground: Ground) -> None:
    search = ground.search(ground.unix("a", full=True)[0], ground.unix("b", full=True)[0]).start()
    search.pass_time(TIMEOUT + 0.2)
    assert (search.refusals, search.counts) == ([], [0, 1])
    search.pass_time(TIMEOUT + 0.2)
    assert str(search.refusal) == "connecting took too long"
    search.assert_quiet()


def test_a_name_is_waited_for_and_then_connected_to(ground: Ground) -> None:
    names = Names()
    search = ground.search(names.peer(ground.listening().targets()[0][1][1])).start()
    assert (search.built, search.counts) == ([], [1])
    names.addresses = ("127.0.0.1",)
    names.waiting.callback(names.addresses)
    search.loop.spin()
    assert search.served.made == 1
    search.assert_quiet()


def test_a_name_that_does_not_resolve_is_an_unreachable_peer(ground: Ground) -> None:
    names = Names()
    search = ground.search(names.peer(), ground.listening()).start()
    names.waiting.errback(LookupError("db.internal does not resolve"))
    search.loop.spin()
    assert (search.served.peer.name, search.counts) == ("up", [0, 1])


def test_a_name_that_takes_too_long_is_a_time_out_and_its_late_answer_nothing(ground: Ground) -> None:
    names = Names()
    search = ground.search(names.peer()).start()
    search.pass_time(TIMEOUT + 0.1)
    assert isinstance(search.refusal, PeerTimeout)
    names.addresses = ("127.0.0.1",)
    names.waiting.callback(names.addresses)
    search.loop.spin()
    assert (search.built, search.counts) == ([], [0])
    search.assert_quiet()


def test_an_endpoint_gets_the_protocol_for_its_transport(ground: Ground) -> None:
    endpoint = Endpoint()
    search = ground.search(Peer("e", endpoint=endpoint)).start()
    assert endpoint.connected() is search.served
    assert (search.served.made, search.counts) == (1, [1])
    assert search.loop.getDelayedCalls() == []


def test_an_endpoint_may_connect_at_once(ground: Ground) -> None:
    search = ground.search(Peer("e", endpoint=AtOnce())).start()
    assert (search.served.made, search.counts) == (1, [1])
    assert search.loop.getDelayedCalls() == []


def test_an_endpoint_that_fails_gives_way_to_the_next_peer(ground: Ground) -> None:
    endpoint = Endpoint()
    search = ground.search(Peer("e", endpoint=endpoint), ground.listening()).start()
    endpoint.answer.errback(ConnectionRefusedError("no"))
    search.loop.spin()
    assert (search.served.peer.name, search.counts) == ("up", [0, 1])
    search.assert_quiet()


@pytest.mark.parametrize("cancellable", [True, False])
def test_an_endpoint_that_connects_too_late_gets_nothing(ground: Ground, cancellable: bool) -> None:
    """It would take the place of the peer that is being tried by then."""
    endpoint = Endpoint(cancellable)
    search = ground.search(Peer("e", endpoint=endpoint), ground.silent()).start()
    search.pass_time(TIMEOUT + 0.1)
    assert (endpoint.cancelled, search.counts) == (int(cancellable), [0, 1])
    assert endpoint.factory.buildProtocol(None) is None
    search.pass_time(TIMEOUT + 0.1)
    assert str(search.refusal) == "connecting took too long"
    assert search.counts == [0, 0]
    search.assert_quiet()


def connecting(ground: Ground) -> Peer:
    return ground.silent()


def resolving(ground: Ground) -> Peer:
    return Names().peer()


def in_an_endpoint(ground: Ground) -> Peer:
    return Peer("e", endpoint=Endpoint())


def at_a_full_backlog(ground: Ground) -> Peer:
    return ground.unix(full=True)[0]


STATES = [connecting, resolving, in_an_endpoint, at_a_full_backlog]


@pytest.mark.parametrize("state", STATES)
def test_cancelling_ends_it_silently_in_every_state(ground: Ground, state: Any) -> None:
    search = ground.search(state(ground), ground.listening()).start()
    assert search.counts == [1, 0]
    search.dial.cancel()
    search.dial.cancel()
    search.assert_quiet()
    search.pass_time(SEARCH * TIMEOUT)
    assert (search.built, search.refusals, search.counts) == ([], [], [0, 0])


def test_cancelling_between_two_peers(ground: Ground, tmp_path: Path) -> None:
    search = ground.search(Peer("a", fixed=[(socket.AF_UNIX, str(tmp_path / "no"))]), ground.listening())
    search.dial.start()
    assert len(search.loop.getDelayedCalls()) == 1
    search.dial.cancel()
    search.assert_quiet()
    search.loop.spin()
    assert (search.built, search.refusals, search.counts) == ([], [], [0, 0])


def test_cancelling_after_the_end_takes_no_count_away(ground: Ground) -> None:
    search = ground.search(ground.listening()).start()
    search.dial.cancel()
    assert (search.counts, search.served.made) == ([1], 1)


def test_the_caller_may_pick_the_first_peer(ground: Ground) -> None:
    search = ground.search(ground.listening("a"), ground.listening("b"))
    search.dial.start(search.peers[1])
    search.loop.spin()
    assert (search.served.peer.name, search.counts) == ("b", [0, 1])


def test_when_the_callers_pick_fails_the_others_are_asked(ground: Ground) -> None:
    search = ground.search(ground.listening("a"), ground.refusing("b"))
    search.dial.start(search.peers[1])
    search.loop.spin()
    assert (search.served.peer.name, search.counts) == ("a", [1, 0])


def test_peers_tried_before_are_not_asked_and_those_asked_are_added(ground: Ground) -> None:
    peers = [ground.listening("a"), ground.refusing("b"), ground.listening("c")]
    tried = [peers[0]]
    search = ground.search(*peers, tried=tried).start()
    assert search.served.peer.name == "c"
    assert tried == peers


def test_so_many_peers_are_asked_and_no_more(ground: Ground) -> None:
    search = ground.search(ground.refusing("a"), ground.refusing("b"), ground.listening("c"), most=2).start()
    assert isinstance(search.refusal, PeerUnreachable)
    assert search.counts == [0, 0, 0]
    search.assert_quiet()
