"""A TCP service over real sockets: which peer serves, what it is told, and that counts come back to 0."""

from __future__ import annotations

import random
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from pytest_twisted import async_yield_fixture, ensureDeferred
from twisted.internet import reactor
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import TCP4ClientEndpoint, wrapClientTLS
from twisted.internet.interfaces import IProtocolFactory, IStreamClientEndpoint
from twisted.internet.ssl import Certificate, optionsForClientTLS, trustRootFromCertificates
from twisted.internet.task import Clock
from zope.interface import implementer

from rproxy.deadlines import Deadlines
from rproxy.downstream.mutual import Facts
from rproxy.downstream.service import ServiceFactory, limited_as
from rproxy.downstream.terminate import Terminate
from rproxy.errors import TooMany
from rproxy.interfaces import Arrival, Lease
from rproxy.policy.balance import InOrder, LeastConnections
from rproxy.policy.identity import Identity
from rproxy.services.certificates import Site
from rproxy.services.listeners import PatientReactor
from rproxy.splice import Pipes
from rproxy.tls import MOST_DROPPED
from rproxy.upstream.peer import Group, Peer
from rproxy.upstream.tls import ClientTLS, client_options
from rproxy.wire.address import Inet, Unix
from rproxy.wire.proxyheader import SSL, ProxyHeader, ProxyHeaderReader
from tests.fakes import Backend, Journal, Wire, open_files, turn, until
from tests.tlspeers import Inner, Inners, TLSWire, make

CLIENT, TARGET = Inet("192.0.2.7", 1234), Inet("198.51.100.1", 443)
BOB = Identity("CN=bob@admin", ("bob@admin",), ("admin",), "bob@admin")
AUTHORITY = make(ca=True, number=1)
STRANGER = make(ca=True, number=2)
LATER = 3.0
"""Seconds for a peer's handshake."""


def shown(arrival: Arrival, identity: Identity | None) -> Arrival:
    """The arrival of a client that was verified as this."""
    facts = Facts()
    facts.identity = identity
    return arrival.with_shown(facts)


class Counting:
    """A limiter that remembers whom it was asked about, and may refuse."""

    def __init__(self) -> None:
        self.asked = list[Any]()
        self.full = False

    def admit(self, key: Any, lease: Lease) -> None:
        self.asked.append(key)
        if self.full:
            raise TooMany("full")


@implementer(IStreamClientEndpoint)
class Never:
    """A peer far away."""

    def connect(self, protocolFactory: Any) -> Deferred[Any]:
        return Deferred()


@implementer(IProtocolFactory)
class Arriving:
    """Gives the route an arrival, as peek does, and the lease's end."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage

    def doStart(self) -> None:
        pass

    def doStop(self) -> None:
        pass

    def buildProtocol(self, addr: Any) -> Any:
        self.stage.built.append(self.stage.service.buildProtocol(self.stage.arrival))
        return self.stage.built[-1]


class Stage:
    """A service that listens, and what it needs; `serve` makes the service itself."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.clock, self.journal, self.pipes = Clock(), Journal(), Pipes()
        self.arrival = Arrival("test", CLIENT, CLIENT, TARGET)
        self.peers = list[Peer]()
        self.wires = list[Wire]()
        self.backends = list[Backend]()
        self.ports = list[Any]()
        self.built = list[Any]()
        self.tls = dict[str, ClientTLS]()
        self.service: Any = None

    def plain(self) -> Backend:
        """A peer that takes what comes."""
        self.backends.append(Backend())
        self._add(self.backends[-1].address)
        return self.backends[-1]

    def dead(self) -> None:
        """A peer that refuses connections."""
        with socket.create_server(("127.0.0.1", 0)) as gone:
            self._add(gone.getsockname())

    def secured(self, issuer: Any = AUTHORITY, name: str = "db.example") -> Inners:
        """A peer that speaks TLS, with a certificate of this authority."""
        pair = make(name, issuer=issuer, number=5).pair(self.directory, f"peer{len(self.peers)}")
        inners = Inners()
        route = Terminate(Site("peer", (pair,)), inners, (), Deadlines(self.clock))
        self._add(self._listen(route), True)
        return inners

    def by_endpoint(self) -> tuple[Backend, ssl.SSLContext]:
        """A peer that is connected to as Twisted's `tls:` endpoint does, and what it speaks TLS with."""
        backend, context = self.by_hand()
        self.peers.clear()
        self.tls.clear()
        root = trustRootFromCertificates([Certificate.loadPEM(AUTHORITY.pem)])
        plain = TCP4ClientEndpoint(reactor, *backend.address)
        endpoint = wrapClientTLS(optionsForClientTLS("db.example", trustRoot=root), plain)
        self.peers.append(Peer("tls:db.example", endpoint=endpoint))
        return backend, context

    def by_hand(self) -> tuple[Backend, ssl.SSLContext]:
        """A peer behind TLS, and what a test speaks TLS with in its place."""
        backend = self.silent()
        made = make("db.example", issuer=AUTHORITY, number=5)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*made.write(self.directory, "peer"))
        return backend, context

    def silent(self) -> Backend:
        """A peer that accepts, and should speak TLS, and does not."""
        backend = self.plain()
        self._expect_tls(self.peers[-1].name)
        return backend

    def _add(self, address: Any, tls: bool = False) -> None:
        name = f"{address[0]}:{address[1]}"
        self.peers.append(Peer(name, fixed=[(socket.AF_INET, address)]))
        if tls:
            self._expect_tls(name)

    def _expect_tls(self, name: str) -> None:
        (self.directory / "ca.pem").write_bytes(AUTHORITY.pem)
        self.tls[name] = client_options(
            "db.example",
            ca_path=self.directory / "ca.pem",
            deadlines=Deadlines(self.clock),
            handshake=LATER,
        )

    def _listen(self, factory: Any) -> Any:
        listening: Any = PatientReactor(reactor)
        self.ports.append(listening.listenTCP(0, factory, interface="127.0.0.1"))
        place = self.ports[-1].getHost()
        return place.host, place.port

    def serve(self, balancer: Any = None, **options: Any) -> None:
        group = Group(self.peers, balancer or InOrder())
        self.service = ServiceFactory(
            reactor,
            "db",
            group,
            self.journal,
            self.pipes,
            Deadlines(self.clock),
            tls=self.tls,
            **options,
        )
        self.place = self._listen(Arriving(self))

    def connect(self) -> Wire:
        self.wires.append(Wire.to(self.place))
        return self.wires[-1]

    async def accepted(self, backend: Backend) -> Wire:
        self.wires.append(await backend.accept())
        return self.wires[-1]

    @property
    def counts(self) -> list[int]:
        return [peer.open for peer in self.peers]

    async def ended(self, number: int = 1) -> Any:
        """Wait for the journal's lines; the last of them, once no peer is counted any more."""
        await until(lambda: len(self.journal.ends) == number)
        await until(lambda: not any(self.counts))
        for _ in range(3):
            await turn()
        assert not any(self.counts), "counted down twice"
        assert len(self.journal.ends) == number
        return self.journal.ends[-1]

    async def close(self) -> None:
        for wire in self.wires:
            wire.close()
        for port in self.ports:
            await maybeDeferred(port.stopListening)
        for backend in self.backends:
            backend.close()
        self.pipes.close()


@async_yield_fixture()  # type: ignore[untyped-decorator]
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    files, made = open_files(), Stage(tmp_path)
    yield made
    await made.close()
    await until(lambda: not any(made.counts))
    await until(lambda: open_files() <= files)


# -- Clear text ---------------------------------------------------------------------------------------------


@ensureDeferred
async def test_the_server_may_speak_first(stage: Stage) -> None:
    """N-7: SSH, SMTP and XMPP go through; nobody waits for a hello."""
    backend = stage.plain()
    stage.serve()
    client = stage.connect()
    server = await stage.accepted(backend)
    await server.send(b"220 ready\r\n")
    assert await client.receive(11) == b"220 ready\r\n"
    await client.send(b"EHLO x\r\n")
    assert await server.receive(8) == b"EHLO x\r\n"
    client.finish()
    assert await server.ends() == "eof"
    await server.send(b"221 bye\r\n")
    assert await client.receive(20) == b"220 ready\r\n221 bye\r\n"
    server.close()
    end = await stage.ended()
    assert (end.app, end.peer, end.received, end.sent) == ("db", stage.peers[0].name, 8, 20)
    assert end.reason == "closed"


@ensureDeferred
@pytest.mark.parametrize("version", ["v1", "v2"])
async def test_the_header_goes_first(stage: Stage, version: str) -> None:
    backend = stage.plain()
    stage.serve(proxy_protocol=version)
    client = stage.connect()
    await client.send(b"hello")
    server = await stage.accepted(backend)
    reader = ProxyHeaderReader()
    await until(lambda: server.read().endswith(b"hello"))
    header = reader.feed(bytes(server.got))
    assert header is not None
    assert (header.version, header.source, header.destination) == (int(version[1]), CLIENT, TARGET)
    assert (header.tlvs, reader.rest) == ((), b"hello")


@ensureDeferred
async def test_a_header_that_came_in_is_passed_on_with_what_it_says(stage: Stage) -> None:
    """There is no TLS of ours that would make it untrue."""
    tlvs = ((0x05, b"7"), (SSL, b"\1\0\0\0\0"))
    stage.arrival = stage.arrival.with_header(ProxyHeader(2, CLIENT, TARGET, tlvs))
    backend = stage.plain()
    stage.serve(proxy_protocol="v2")
    stage.connect()
    server = await stage.accepted(backend)
    await until(server.read)
    header = ProxyHeaderReader().feed(bytes(server.got))
    assert header is not None
    assert header.tlvs == tlvs


@ensureDeferred
async def test_peers_that_do_not_accept_are_passed_over(stage: Stage) -> None:
    """G-7: the next one is tried, and counted once."""
    stage.dead()
    stage.dead()
    backend = stage.plain()
    stage.serve()
    client = stage.connect()
    server = await stage.accepted(backend)
    assert stage.counts == [0, 0, 1]
    await client.send(b"x")
    assert await server.receive(1) == b"x"
    client.reset()
    assert (await stage.ended()).peer == stage.peers[2].name


@ensureDeferred
async def test_where_nobody_accepts_the_client_is_closed(stage: Stage) -> None:
    stage.dead()
    stage.dead()
    stage.serve()
    client = stage.connect()
    assert await client.ends() in ("eof", "reset")
    assert (await stage.ended()).reason == "no_peer"


ENDINGS = ["client closes", "client resets", "server closes", "server resets", "idle", "both finish"]


@ensureDeferred
@pytest.mark.parametrize("ending", ENDINGS)
async def test_each_end_gives_the_count_back_once(stage: Stage, ending: str) -> None:
    """G-7, G-10."""
    backend = stage.plain()
    stage.serve(idle_timeout=8.0)
    client = stage.connect()
    server = await stage.accepted(backend)
    await client.send(b"x")
    await server.receive(1)
    assert stage.counts == [1]
    match ending:
        case "client closes":
            client.close()
            assert await server.ends() == "eof"
            server.close()
        case "client resets":
            client.reset()
        case "server closes":
            server.close()
            assert await client.ends() == "eof"
            client.close()
        case "server resets":
            server.reset()
        case "idle":
            stage.clock.pump([0.25] * 60)
        case _:
            client.finish()
            server.finish()
    reason = (await stage.ended()).reason
    said = {"client resets": "client_reset", "server resets": "peer_reset", "idle": "idle"}
    assert reason == said.get(ending, "closed")


@ensureDeferred
async def test_a_client_that_leaves_without_tls_goodbye_resets_its_peer(stage: Stage) -> None:
    """What it said last may be missing; the server must not take it for all."""
    backend = stage.plain()
    stage.serve()
    client = stage.connect()
    server = await stage.accepted(backend)
    (end,) = stage.built
    end.left()
    client.reset()
    assert await server.ends() == "reset"
    assert (await stage.ended()).reason == "client_left"


@ensureDeferred
async def test_a_client_that_is_cut_off_has_the_reason_of_that(stage: Stage) -> None:
    """As one that is banned while it is connected."""
    backend = stage.plain()
    stage.serve()
    stage.connect()
    server = await stage.accepted(backend)
    (end,) = stage.built
    end.ends_as("banned")
    end.transport.abortConnection()
    assert await server.ends() == "reset"
    assert (await stage.ended()).reason == "banned"


@ensureDeferred
async def test_a_client_that_leaves_while_a_peer_is_looked_for(stage: Stage) -> None:
    stage.peers.append(Peer("far away", endpoint=Never()))
    stage.serve()
    client = stage.connect()
    await until(lambda: stage.counts == [1])
    client.reset()
    assert (await stage.ended()).reason == "client_reset"


# -- Least connections --------------------------------------------------------------------------------------


@ensureDeferred
async def test_no_peer_ever_has_more_than_one_connection_more_than_another(stage: Stage) -> None:
    """G-7: 400 connections that come and go, those that go where there are most."""
    backends = [stage.plain() for _ in range(4)]
    stage.serve(LeastConnections())
    rng, live = random.Random(4), [list[Wire]() for _ in backends]
    for _ in range(400):
        if rng.random() < 0.6 or not any(live):
            before = stage.counts
            client = stage.connect()
            await until(lambda: sum(stage.counts) == sum(before) + 1)  # noqa: B023
            (chosen,) = [i for i, (a, b) in enumerate(zip(before, stage.counts, strict=True)) if a != b]
            assert before[chosen] == min(before)
            live[chosen].append(client)
            await stage.accepted(backends[chosen])
        else:
            fullest = max(range(4), key=lambda i: len(live[i]))
            before = stage.counts
            live[fullest].pop().reset()
            await until(lambda: sum(stage.counts) == sum(before) - 1)  # noqa: B023
        assert stage.counts == [len(each) for each in live]
        assert max(stage.counts) - min(stage.counts) <= 1
    for client in (each for group in live for each in group):
        client.reset()
    await stage.ended(len(stage.journal.ends) + sum(map(len, live)))


@ensureDeferred
async def test_equal_peers_take_turns(stage: Stage) -> None:
    """G-7: connections that come one after the other do not all go to the first."""
    for _ in range(3):
        stage.plain()
    stage.serve(LeastConnections())
    for number in range(1, 10):
        stage.connect().reset()
        await stage.ended(number)
    served = [end.peer for end in stage.journal.ends]
    assert {name: served.count(name) for name in served} == {peer.name: 3 for peer in stage.peers}


# -- Limits -------------------------------------------------------------------------------------------------


def test_a_client_is_counted_as_who_it_is_or_where_it_comes_from() -> None:
    """G-4: the client's key is its whole common name."""
    plain = Arrival("l", CLIENT, CLIENT)
    assert limited_as(shown(plain, BOB)) == "bob@admin"
    assert limited_as(shown(plain, None)) == "192.0.2.7"
    assert limited_as(plain) == "192.0.2.7"
    wide = Inet("2001:db8::7", 1)
    assert limited_as(Arrival("l", wide, wide)) == bytes.fromhex("20010db800000000")
    assert limited_as(Arrival("l", Unix(b""), Unix(b""))) == "unix"


def test_who_has_had_its_share_is_refused_before_a_peer_is_asked(stage: Stage) -> None:
    """G-6."""
    stage.dead()
    limiter = Counting()
    limiter.full = True
    stage.serve(limiter=limiter)
    with pytest.raises(TooMany):
        stage.service.buildProtocol(shown(stage.arrival, BOB))
    assert limiter.asked == ["bob@admin"]
    assert stage.counts == [0]


# -- TLS to the peers ---------------------------------------------------------------------------------------


@ensureDeferred
async def test_a_peer_is_spoken_to_in_tls(stage: Stage) -> None:
    inners = stage.secured()
    stage.serve()
    client = stage.connect()
    await client.send(b"hello")
    assert await client.receive(5) == b"HELLO"
    assert stage.counts == [1]
    client.close()
    end = await stage.ended()
    assert (end.received, end.sent, end.peer) == (5, 5, stage.peers[0].name)
    (inner,) = inners.built
    await until(lambda: inner.lost is not None)


@ensureDeferred
@pytest.mark.parametrize("wrong", ["authority", "name"])
async def test_a_peer_that_cannot_be_verified_hears_nothing_and_the_next_is_asked(
    stage: Stage, wrong: str
) -> None:
    stranger = stage.secured(STRANGER) if wrong == "authority" else stage.secured(name="other.example")
    stage.secured()
    stage.serve()
    client = stage.connect()
    await client.send(b"secret")
    assert await client.receive(6) == b"SECRET"
    assert stage.counts == [0, 1]
    assert all(inner.octets == b"" for inner in stranger.built)
    client.close()
    assert (await stage.ended()).peer == stage.peers[1].name


@ensureDeferred
async def test_where_no_peer_can_be_verified_the_client_is_closed(stage: Stage) -> None:
    stage.secured(STRANGER)
    stage.secured(STRANGER)
    stage.serve()
    client = stage.connect()
    assert await client.ends() in ("eof", "reset")
    assert (await stage.ended()).reason == "no_peer"
    assert all(peer.down_until > 0 for peer in stage.peers)


@ensureDeferred
async def test_a_single_peer_that_cannot_be_verified(stage: Stage) -> None:
    stage.secured(STRANGER)
    stage.serve()
    stage.connect()
    assert (await stage.ended()).reason == "peer_unreachable"


@ensureDeferred
async def test_a_peer_that_says_nothing_is_given_up(stage: Stage) -> None:
    stage.silent()
    stage.secured()
    stage.serve()
    client = stage.connect()
    await until(lambda: stage.counts == [1, 0])
    stage.clock.pump([0.25] * 14)
    await client.send(b"x")
    assert await client.receive(1) == b"X"
    assert stage.counts == [0, 1]


@ensureDeferred
async def test_a_client_that_leaves_while_a_peer_is_verified(stage: Stage) -> None:
    backend = stage.silent()
    stage.serve()
    client = stage.connect()
    server = await stage.accepted(backend)
    await until(server.read)
    assert stage.counts == [1]
    client.reset()
    end = await stage.ended()
    assert (end.reason, end.peer) == ("client_reset", "-")
    assert await server.ends() in ("eof", "reset")
    assert stage.peers[0].down_until < 0, "that says nothing about the peer"


@ensureDeferred
async def test_a_client_that_has_said_all_while_a_peer_is_verified(stage: Stage) -> None:
    """What it said is delivered, then its end."""

    class Last(Inner):
        def connectionLost(self, reason: Any) -> None:
            super().connectionLost(reason)

    inners = stage.secured()
    inners.build = Last
    stage.serve()
    client = stage.connect()
    await client.send(b"all")
    client.finish()
    await until(lambda: inners.built and inners.built[0].octets == b"all")
    assert await client.receive(3) == b"ALL"
    await stage.ended()


@ensureDeferred
async def test_the_header_goes_ahead_of_the_peers_tls(stage: Stage) -> None:
    """As HAProxy sends and reads it: whoever ends TLS has to know the client first."""
    backend = stage.silent()
    stage.serve(proxy_protocol="v2")
    stage.connect()
    server = await stage.accepted(backend)
    reader = ProxyHeaderReader()
    await until(lambda: len(server.read()) > 100)
    header = reader.feed(bytes(server.got))
    assert header is not None
    assert header.source == CLIENT
    assert reader.rest[:2] == b"\x16\x03", "then a ClientHello"


@ensureDeferred
@pytest.mark.parametrize("tcp", ["open", "half shut"])
async def test_a_peer_behind_tls_that_has_said_all_still_listens(stage: Stage, tcp: str) -> None:
    """Its goodbye is the end of one direction (RFC 8446 §6.1), as the end of TCP's half is without TLS."""
    backend, context = stage.by_hand()
    stage.serve()
    client = stage.connect()
    peer = TLSWire(await stage.accepted(backend), context)
    await until(lambda: peer.look() == b"" and peer.server.done)
    peer.flush(peer.server.send(b"all I have to say") + peer.server.goodbye())
    if tcp == "half shut":
        peer.wire.finish()
    assert await client.ends() == "eof"
    assert client.got == b"all I have to say"
    await client.send(b"more")
    await until(lambda: peer.look() == b"more")
    assert not peer.server.closed
    client.finish()
    await until(lambda: peer.look() and peer.server.closed)
    assert (await stage.ended()).reason == "closed"


@ensureDeferred
async def test_a_client_that_has_said_all_still_hears_a_peer_behind_tls(stage: Stage) -> None:
    backend, context = stage.by_hand()
    stage.serve()
    client = stage.connect()
    await client.send(b"question")
    client.finish()
    peer = TLSWire(await stage.accepted(backend), context)
    await until(lambda: peer.look() and peer.server.closed)
    assert peer.server.got == b"question"
    peer.flush(peer.server.send(b"answer") + peer.server.goodbye())
    assert await client.receive(6) == b"answer"
    assert await client.ends() == "eof"
    assert (await stage.ended()).reason == "closed"


@ensureDeferred
@pytest.mark.parametrize("how", ["end of TCP", "reset"])
async def test_a_peer_behind_tls_that_is_cut_off_does_not_look_whole(stage: Stage, how: str) -> None:
    backend, context = stage.by_hand()
    stage.serve()
    client = stage.connect()
    peer = TLSWire(await stage.accepted(backend), context)
    await until(lambda: peer.look() == b"" and peer.server.done)
    peer.flush(peer.server.send(b"half"))
    assert await client.receive(4) == b"half"
    if how == "end of TCP":
        peer.wire.finish()
    else:
        peer.wire.reset()
    assert await client.ends() == "reset"
    assert (await stage.ended()).reason == "peer_reset"


@ensureDeferred
async def test_what_a_peer_says_behind_its_goodbye_is_not_heard_and_not_kept(stage: Stage) -> None:
    backend, context = stage.by_hand()
    stage.serve(idle_timeout=0)
    client = stage.connect()
    peer = TLSWire(await stage.accepted(backend), context)
    await until(lambda: peer.look() == b"" and peer.server.done)
    peer.flush(peer.server.goodbye())
    assert await client.ends() == "eof"
    with suppress(ConnectionError):
        await peer.wire.send(bytes(2 * MOST_DROPPED))
    assert await peer.wire.ends() == "reset"
    assert client.got == b""
    client.close()
    await stage.ended()


# -- Peers by Twisted's own TLS -----------------------------------------------------------------------------


@ensureDeferred
async def test_the_end_of_what_a_client_says_reaches_a_tls_endpoint_as_a_goodbye(stage: Stage) -> None:
    """Behind the last byte; and the answer to all of it still comes back."""
    backend, context = stage.by_endpoint()
    stage.serve()
    client = stage.connect()
    await client.send(b"all" * 100_000)
    client.finish()
    peer = TLSWire(await stage.accepted(backend), context)
    await until(lambda: peer.look() and peer.server.closed)
    assert peer.server.got == b"all" * 100_000
    assert peer.wire.state == "open", "TCP's half is not shut below TLS"
    peer.flush(peer.server.send(b"the answer") + peer.server.goodbye())
    assert await client.receive(10) == b"the answer"
    assert await client.ends() == "eof"
    peer.wire.close()
    assert (await stage.ended()).reason == "closed"


@ensureDeferred
async def test_a_client_that_only_listens_hears_a_tls_endpoint(stage: Stage) -> None:
    """It may have said its end before the handshake with the peer begins."""
    backend, context = stage.by_endpoint()
    stage.serve()
    client = stage.connect()
    client.finish()
    peer = TLSWire(await stage.accepted(backend), context)
    await until(lambda: peer.look() == b"" and peer.server.done)
    peer.flush(peer.server.send(b"220 hello") + peer.server.goodbye())
    assert await client.receive(9) == b"220 hello"
    assert await client.ends() == "eof"
    await until(lambda: peer.look() == b"" and peer.server.closed)
    peer.wire.close()
    assert (await stage.ended()).reason == "closed"
