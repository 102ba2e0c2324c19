"""The relay over real sockets, by the fast path and by its slow twins: they cannot be told apart."""

from __future__ import annotations

import gc
import random
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pytest_twisted import async_yield_fixture, ensureDeferred
from twisted.internet import reactor
from twisted.internet.defer import maybeDeferred
from twisted.internet.endpoints import TCP4ClientEndpoint, UNIXClientEndpoint
from twisted.internet.interfaces import IHalfCloseableProtocol, IProtocolFactory
from twisted.internet.task import Clock
from zope.interface import implementer

from rproxy import relay
from rproxy.deadlines import TICK, Deadlines
from rproxy.interfaces import Arrival
from rproxy.policy.balance import LeastConnections
from rproxy.relay import RelayFactory
from rproxy.services.listeners import PatientReactor
from rproxy.splice import Pipes
from rproxy.transports import unsent_of
from rproxy.upstream.peer import Group, Peer
from rproxy.wire.address import Inet
from rproxy.wire.clienthello import ClientHello
from rproxy.wire.proxyheader import ProxyHeader, ProxyHeaderReader
from tests.fakes import Backend, Journal, Wire, open_files, turn, until

HELLO = ClientHello("example.org", (), (0x0304,))
CLIENT, TARGET = Inet("192.0.2.7", 1234), Inet("198.51.100.1", 443)
AHEAD = 1 << 20
"""Bytes that the reader's own kernel may hold, of which nobody else knows whether they are read."""
MEGABYTE = random.Random(5).randbytes(1 << 20)


@dataclass(frozen=True)
class Way:
    """Which transports and which path a relay runs over."""

    name: str
    ours: bool = True
    """`Accepted` and `Outbound`, or what Twisted's own endpoints make."""
    pumped: bool = True
    unix: bool = False

    def __str__(self) -> str:
        return self.name


WAYS = [
    Way("fast"),
    Way("fast to a unix socket", unix=True),
    Way("protocols over our transports", pumped=False),
    Way("protocols over Twisted's transports", ours=False, pumped=False),
    Way("protocols over Twisted's unix transport", ours=False, pumped=False, unix=True),
]


class Setup:
    """A relay that listens, and a backend that the test accepts from."""

    def __init__(self, way: Way, directory: Path, **options: Any) -> None:
        self.way, self.journal, self.pipes = way, Journal(), Pipes()
        self.clock = Clock()
        self.backend = Backend(str(directory / "up") if way.unix else ("127.0.0.1", 0))
        self.peer = self._peer()
        self.group = Group([self.peer], LeastConnections())
        self.factory = RelayFactory(
            reactor, "app", self.group, self.journal, self.pipes, Deadlines(self.clock), **options
        )
        self.arrival = Arrival("test", CLIENT, CLIENT, TARGET, hello=HELLO)
        self.built: list[Any] = []
        listening: Any = PatientReactor(reactor) if way.ours else reactor
        self.port = listening.listenTCP(0, Arriving(self), interface="127.0.0.1")
        self.wires: list[Wire] = []

    def _peer(self) -> Peer:
        if self.way.ours:
            family = socket.AF_UNIX if self.way.unix else socket.AF_INET
            return Peer("up", fixed=[(family, self.backend.address)])
        if self.way.unix:
            return Peer("up", endpoint=UNIXClientEndpoint(reactor, self.backend.address))
        return Peer("up", endpoint=TCP4ClientEndpoint(reactor, *self.backend.address))

    def connect(self) -> Wire:
        self.wires.append(Wire.to(("127.0.0.1", self.port.getHost().port)))
        return self.wires[-1]

    async def pair(self) -> tuple[Wire, Wire]:
        """A client and the server it is joined to."""
        client = self.connect()
        server = await self.backend.accept()
        self.wires.append(server)
        return client, server

    async def over(self) -> Any:
        """Wait for the end of the only relay: its line in the journal."""
        await until(lambda: self.journal.ends)
        for _ in range(3):
            await turn()
        assert self.peer.open == 0
        return self.journal.end

    async def close(self) -> None:
        for wire in self.wires:
            wire.close()
        await until(lambda: len(self.journal.ends) == len(self.built))
        await maybeDeferred(self.port.stopListening)
        self.backend.close()
        self.pipes.close()


@implementer(IProtocolFactory)
class Arriving:
    """Gives the route an arrival, as peek does."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup

    def doStart(self) -> None:
        pass

    def doStop(self) -> None:
        pass

    def buildProtocol(self, addr: Any) -> Any:
        protocol = self.setup.factory.buildProtocol(self.setup.arrival)
        self.setup.built.append(partial(living, type(protocol), id(protocol)))
        return protocol


def living(kind: type, number: int) -> Any:
    """The object of this kind with this id, None once it is gone; compiled ones have no weak references."""
    return next((each for each in gc.get_objects() if type(each) is kind and id(each) == number), None)


class Making:
    """Makes setups that are closed after the test, when nothing may be left of them."""

    def __init__(self, way: Way, directory: Path) -> None:
        self.way, self.directory = way, directory
        self.setups: list[Setup] = []

    def __call__(self, **options: Any) -> Setup:
        self.setups.append(Setup(self.way, self.directory, **options))
        return self.setups[-1]


async def nothing_left(files: frozenset[tuple[str, str]]) -> None:
    await until(lambda: open_files() <= files)


@async_yield_fixture(params=WAYS, ids=str)  # type: ignore[untyped-decorator]
async def make(request: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Making]:
    if not request.param.pumped:
        monkeypatch.setattr(relay, "is_plain", lambda transport: False)
    files, making = open_files(), Making(request.param, tmp_path)
    yield making
    for setup in making.setups:
        await setup.close()
        for delayed in setup.clock.getDelayedCalls():
            assert delayed.getTime() - setup.clock.seconds() <= TICK, "only the last tick may be left"
    await nothing_left(files)


@ensureDeferred
async def test_bytes_go_both_ways_and_are_counted(make: Making) -> None:
    it = make()
    client, server = await it.pair()
    await client.send(b"ping")
    assert await server.receive(4) == b"ping"
    await server.send(b"pong!")
    assert await client.receive(5) == b"pong!"
    client.close()
    assert await server.ends() == "eof"
    server.close()
    end = await it.over()
    assert (end.app, end.peer, end.received, end.sent, end.reason) == ("app", "up", 4, 5, "closed")
    assert end.arrival is it.arrival


@ensureDeferred
@pytest.mark.parametrize("first", ["client", "server"])
async def test_half_close_goes_through_and_the_other_way_stays_open(make: Making, first: str) -> None:
    it = make()
    client, server = await it.pair()
    ending, other = (client, server) if first == "client" else (server, client)
    await ending.send(b"question")
    ending.finish()
    assert await other.ends() == "eof"
    assert other.got == b"question"
    await other.send(MEGABYTE)
    assert await ending.receive(len(MEGABYTE)) == MEGABYTE
    other.close()
    assert await ending.ends() == "eof"
    end = await it.over()
    assert end.reason == "closed"
    assert {end.received, end.sent} == {8, len(MEGABYTE)}


@ensureDeferred
async def test_both_halves_closed_at_the_same_moment_end_it(make: Making) -> None:
    it = make()
    client, server = await it.pair()
    await client.send(b"a")
    await server.receive(1)
    client.finish()
    server.finish()
    assert (await client.ends(), await server.ends()) == ("eof", "eof")
    assert (await it.over()).reason == "closed"


@ensureDeferred
@pytest.mark.parametrize("direction", ["up", "down", "both"])
async def test_bulk_arrives_whole_and_then_the_end(make: Making, direction: str) -> None:
    it = make()
    client, server = await it.pair()
    ways = [(client, server)] * (direction != "down") + [(server, client)] * (direction != "up")
    sent = [memoryview(MEGABYTE * 3) for _ in ways]
    while any(sent):
        for number, (source, sink) in enumerate(ways):
            if sent[number]:
                try:
                    sent[number] = sent[number][source.socket.send(sent[number]) :]
                except BlockingIOError:
                    pass
            sink.read()
        await turn()
    client.finish()
    server.finish()
    assert (await client.ends(), await server.ends()) == ("eof", "eof")
    for _, sink in ways:
        assert sink.got == MEGABYTE * 3
    end = await it.over()
    assert (end.received, end.sent) == tuple(
        len(MEGABYTE) * 3 if direction in (way, "both") else 0 for way in ("up", "down")
    )


@ensureDeferred
@pytest.mark.parametrize("direction", ["up", "down"])
async def test_who_does_not_read_stops_who_sends(make: Making, direction: str) -> None:
    it = make()
    client, server = await it.pair()
    source, sink = (client, server) if direction == "up" else (server, client)
    sent = still = 0
    while still < 30:
        try:
            sent += source.socket.send(MEGABYTE)
            still = 0
        except BlockingIOError:
            still += 1
        await turn()
        assert sent < 64 << 20, "nothing holds the sender back"
    source.finish()
    assert await sink.ends() == "eof"
    assert len(sink.got) == sent
    sink.close()
    await it.over()


@ensureDeferred
@pytest.mark.parametrize("who", ["client", "server"])
async def test_a_reset_ends_the_other_side_too(make: Making, who: str) -> None:
    it = make()
    if it.way.unix and who == "server":
        pytest.skip("a unix socket that was read empty cannot be reset")
    client, server = await it.pair()
    await client.send(b"x")
    await server.receive(1)
    await server.send(b"y")
    await client.receive(1)
    one, other = (client, server) if who == "client" else (server, client)
    one.reset()
    assert await other.ends() == ("eof" if it.way.unix and other is server else "reset")
    assert (await it.over()).reason == {"client": "client_reset", "server": "peer_reset"}[who]


@ensureDeferred
async def test_a_peer_that_is_reset_after_its_last_words_is_still_heard(make: Making) -> None:
    """What was said before it broke is not forgotten over that."""
    it = make()
    client, server = await it.pair()
    await client.send(b"unread by the server")
    await server.receive(1)
    await client.send(b"and so a reset")
    sent = server.socket.send(MEGABYTE * 8)
    server.close()
    await client.ends()
    assert len(client.got) > 0
    assert (MEGABYTE * 8)[:sent].startswith(client.got)
    client.close()
    await it.over()


@ensureDeferred
@pytest.mark.parametrize("who", ["client", "server"])
async def test_what_was_cut_off_does_not_look_whole(make: Making, who: str) -> None:
    """Also when some of it waits in our buffers for a slow reader."""
    it = make()
    if it.way.unix:
        pytest.skip("a unix socket cannot be reset")
    client, server = await it.pair()
    source, sink = (client, server) if who == "client" else (server, client)
    still = 0
    while still < 30:
        try:
            source.socket.send(MEGABYTE)
            still = 0
        except BlockingIOError:
            still += 1
        await turn()
    source.reset()
    for _ in range(20):
        await turn()
    assert await sink.ends() == "reset"
    assert (await it.over()).reason == {"client": "client_reset", "server": "peer_reset"}[who]


@ensureDeferred
async def test_who_is_reset_after_its_last_word_has_cut_nothing_off(make: Making) -> None:
    """As servers are whose client sends something when they have closed already."""
    it = make()
    client, server = await it.pair()
    await until(lambda: it.built[0]().far is not None)
    if it.built[0]().pump is not None or it.way.unix:
        pytest.skip("the end is seen once all before it has left, or there is no reset")
    down = it.built[0]().transport
    sent = 0
    while not unsent_of(down):
        with suppress(BlockingIOError):  # the proxy has not come to read yet
            sent += server.socket.send(MEGABYTE[:16384])
        for _ in range(5):
            await turn()
    server.finish()
    await until(lambda: it.built[0]().far.ended)
    server.reset()
    for _ in range(20):
        await turn()
    assert await client.ends() == "eof"
    assert len(client.got) == sent
    del down
    client.close()
    await it.over()


@ensureDeferred
async def test_the_header_comes_first_and_once(make: Making) -> None:
    it = make(proxy_protocol="v1")
    client, server = await it.pair()
    await client.send(b"hello")
    line = b"PROXY TCP4 192.0.2.7 198.51.100.1 1234 443\r\n"
    assert await server.receive(len(line) + 5) == line + b"hello"
    client.close()
    server.close()
    assert (await it.over()).received == 5


@ensureDeferred
async def test_v2_passes_on_what_the_header_before_it_said(make: Making) -> None:
    it = make(proxy_protocol="v2")
    it.arrival = it.arrival.with_header(ProxyHeader(2, CLIENT, TARGET, ((1, b"h2"),)))
    _, server = await it.pair()
    reader = ProxyHeaderReader()
    while (header := reader.feed(await server.receive(1))) is None:
        server.got.clear()
    assert (header.source, header.destination, header.tlv(1)) == (CLIENT, TARGET, b"h2")


@ensureDeferred
async def test_without_a_header_the_local_address_is_the_sockets(make: Making) -> None:
    it = make(proxy_protocol="v1")
    it.arrival = Arrival("test", CLIENT, CLIENT, None, hello=HELLO)
    _, server = await it.pair()
    port = it.port.getHost().port
    wanted = f"PROXY TCP4 192.0.2.7 127.0.0.1 1234 {port}\r\n".encode()
    assert await server.receive(len(wanted)) == wanted


@ensureDeferred
async def test_what_comes_before_the_peer_is_kept_and_the_client_held(make: Making) -> None:
    it = make()
    held = Held(it.peer)
    client = it.connect()
    left = memoryview(MEGABYTE * 12)
    for _ in range(200):
        try:
            left = left[client.socket.send(left) :]
        except BlockingIOError:
            pass
        await turn()
    assert len(left) > len(MEGABYTE), "it was read without end"
    held.let_go()
    server = await it.backend.accept()
    it.wires.append(server)
    while left:
        server.read()
        try:
            left = left[client.socket.send(left) :]
        except BlockingIOError:
            await turn()
    client.finish()
    assert await server.ends() == "eof"
    assert server.got == MEGABYTE * 12


@ensureDeferred
@pytest.mark.parametrize("octets", [b"", b"the only words"])
async def test_a_client_that_ends_before_the_peer_is_there_is_still_answered(
    make: Making, octets: bytes
) -> None:
    it = make()
    held = Held(it.peer)
    client = it.connect()
    await client.send(octets)
    client.finish()
    for _ in range(20):
        await turn()
    held.let_go()
    server = await it.backend.accept()
    it.wires.append(server)
    assert await server.ends() == "eof"
    assert server.got == octets
    await server.send(b"answer")
    server.close()
    assert await client.ends() == "eof"
    assert client.got == b"answer"
    assert (await it.over()).reason == "closed"


@ensureDeferred
async def test_a_client_that_is_reset_before_the_peer_is_there_ends_the_search(make: Making) -> None:
    it = make()
    Held(it.peer)
    client = it.connect()
    await client.send(b"x")
    await until(lambda: it.peer.open)
    client.reset()
    end = await it.over()
    assert (end.peer, end.received, end.sent, end.reason) == ("-", 0, 0, "client_reset")


class Held:
    """Makes a peer wait for its address until the test lets go."""

    def __init__(self, peer: Peer) -> None:
        from twisted.internet.defer import Deferred

        self.resolved: Any = Deferred()
        self.peer, self.fixed, self.endpoint = peer, peer.targets(), peer.endpoint
        if peer.endpoint is not None:
            peer.endpoint = self  # type: ignore[assignment]
        else:
            peer._names, peer._host, peer._fixed = self, "held", ()  # type: ignore[assignment]

    def known(self, host: str) -> tuple[str, ...]:
        return ()

    def first(self, host: str) -> Any:
        return self.resolved

    def connect(self, factory: Any) -> Any:
        return self.resolved.addCallback(lambda _: self.endpoint.connect(factory))  # type: ignore[union-attr]

    def let_go(self) -> None:
        self.peer._names, self.peer._host, self.peer._fixed = None, "", self.fixed
        self.resolved.callback(("held",))


@ensureDeferred
async def test_nobody_at_home_is_an_alert_and_a_close(make: Making) -> None:
    it = make()
    it.backend.close()
    client = it.connect()
    assert await client.ends() == "eof"
    assert client.got == bytes.fromhex("15030300020250")
    end = await it.over()
    assert (end.peer, end.sent, end.reason) == ("-", 0, "peer_unreachable")


@ensureDeferred
async def test_what_a_refused_client_had_sent_is_in_the_journal(make: Making) -> None:
    it = make()
    held = Held(it.peer)
    it.backend.close()
    client = it.connect()
    await client.send(b"a hello")
    for _ in range(20):
        await turn()
    held.let_go()
    await client.ends()
    end = await it.over()
    assert (end.peer, end.received, end.sent, end.reason) == ("-", 7, 0, "peer_unreachable")


@ensureDeferred
async def test_without_a_hello_there_is_no_alert(make: Making) -> None:
    it = make()
    it.arrival = Arrival("test", CLIENT, CLIENT, TARGET)
    it.backend.close()
    client = it.connect()
    assert await client.ends() == "eof"
    assert client.got == b""
    await it.over()


def pass_time(it: Setup, seconds: float) -> None:
    for _ in range(int(seconds / TICK)):
        it.clock.advance(TICK)


@ensureDeferred
async def test_an_idle_relay_is_cut_off_between_1_and_1_25_limits(make: Making) -> None:
    it = make(idle_timeout=40.0)
    client, server = await it.pair()
    await client.send(b"x")
    await server.receive(1)
    pass_time(it, 39)
    await turn()
    assert it.journal.ends == []
    pass_time(it, 12.5)
    assert await client.ends() == "reset"
    assert await server.ends() in ("reset", "eof")
    assert (await it.over()).reason == "idle"


@ensureDeferred
async def test_a_byte_now_and_then_keeps_a_relay_alive(make: Making) -> None:
    it = make(idle_timeout=40.0)
    client, server = await it.pair()
    for number in range(6):
        pass_time(it, 30)
        sender, receiver = (client, server) if number % 2 else (server, client)
        await sender.send(b"x")
        await receiver.receive(number // 2 + 1)
    assert it.journal.ends == []
    pass_time(it, 55)
    assert (await it.over()).reason == "idle"


@ensureDeferred
@pytest.mark.parametrize("direction", ["up", "down"])
async def test_what_a_slow_reader_still_takes_keeps_a_relay_alive(make: Making, direction: str) -> None:
    """Also when the sender has said all, and what is read here comes from our own buffers."""
    it = make(idle_timeout=40.0)
    client, server = await it.pair()
    source, sink = (client, server) if direction == "up" else (server, client)
    sent, still = 0, 0
    while still < 30:
        try:
            sent, still = sent + source.socket.send(MEGABYTE), 0
        except BlockingIOError:
            still += 1
        await turn()
    source.finish()
    while len(sink.got) < sent - AHEAD:
        goal = len(sink.got) + AHEAD // 4
        while len(sink.got) < goal:
            try:
                sink.got += sink.socket.recv(goal - len(sink.got))
            except BlockingIOError:
                await turn()
        for _ in range(5):
            await turn()
        pass_time(it, 10)
        await turn()
        assert it.journal.ends == [], f"{len(sink.got)} of {sent}"
    assert await sink.ends() == "eof"
    assert len(sink.got) == sent
    sink.close()
    assert (await it.over()).reason == "closed"


@ensureDeferred
async def test_a_relay_where_one_end_never_reads_is_idle_too(make: Making) -> None:
    """Also when the other end has gone and what it sent waits to be taken."""
    it = make(idle_timeout=40.0)
    client, server = await it.pair()
    for _ in range(60):
        try:
            server.socket.send(MEGABYTE)
        except BlockingIOError:
            pass
        await turn()
    server.reset()
    for _ in range(5):
        await turn()
    pass_time(it, 60)
    assert (await it.over()).reason in ("idle", "peer_reset")
    client.close()


@ensureDeferred
async def test_no_limit_means_no_timer(make: Making) -> None:
    it = make(idle_timeout=0)
    await it.pair()
    await until(lambda: it.peer.open == 1)
    assert it.clock.getDelayedCalls() == []


@ensureDeferred
async def test_when_it_is_over_no_producer_and_no_watched_socket_is_left(make: Making) -> None:
    it = make()
    before = {id(watched) for watched in [*reactor.getReaders(), *reactor.getWriters()]}  # type: ignore[attr-defined]
    client, server = await it.pair()
    await client.send(MEGABYTE[:100_000])
    await server.receive(100_000)
    relay_end = it.built[0]()
    down, up = relay_end.transport, relay_end.far.transport
    del relay_end
    client.close()
    await server.ends()
    server.close()
    await it.over()
    assert (down.producer, up.producer) == (None, None)
    if it.way.ours:
        assert (down.reads, down.writes, up.reads, up.writes) == (None, None, None, None)
    after = {id(watched) for watched in [*reactor.getReaders(), *reactor.getWriters()]}  # type: ignore[attr-defined]
    assert after <= before


@ensureDeferred
async def test_a_hundred_connections_are_spread_counted_and_gone(make: Making) -> None:
    it = make()
    pairs = [await it.pair() for _ in range(30)]
    assert it.peer.open == 30
    for number, (client, server) in enumerate(pairs):
        await client.send(b"%d" % number)
        (client, server)[number % 2].close()
    for number, (client, server) in enumerate(pairs):
        assert await (server, client)[number % 2].ends() in ("eof", "reset")
        (server, client)[number % 2].close()
    await until(lambda: len(it.journal.ends) == 30)
    assert it.peer.open == 0
    assert {end.peer for end in it.journal.ends} == {"up"}


@ensureDeferred
async def test_an_ended_relay_is_freed_without_the_garbage_collector(make: Making) -> None:
    it = make()
    gc.collect()
    gc.disable()
    try:
        client, server = await it.pair()
        await client.send(b"x")
        await server.receive(1)
        client.close()
        await server.ends()
        server.close()
        await it.over()
        for _ in range(5):
            await turn()
        if it.way.ours:
            assert it.built[0]() is None
    finally:
        gc.enable()


def test_it_takes_a_plain_address_and_is_half_closeable() -> None:
    from twisted.internet.address import IPv4Address

    group = Group([Peer("up")], LeastConnections())
    factory = RelayFactory(Clock(), "app", group, Journal(), Pipes(), Deadlines(Clock()))
    built = factory.buildProtocol(IPv4Address("TCP", "192.0.2.7", 1))
    assert IHalfCloseableProtocol.providedBy(built)
    assert built is not factory.buildProtocol(IPv4Address("TCP", "192.0.2.7", 1))
