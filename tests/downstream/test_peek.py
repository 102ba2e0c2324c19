"""Peek, decide, become: refusals with their bytes and reasons, and all that was taken given back."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from zope.interface import implementer

from rproxy.deadlines import TICK, Deadlines
from rproxy.downstream.peek import (
    LINGER,
    LINGER_BYTES,
    PLAIN_HTTP,
    PeekFactory,
    PeekOptions,
    ProxyPolicy,
)
from rproxy.errors import TooMany, UnknownName
from rproxy.interfaces import Arrival
from rproxy.policy.networks import NetworkSet
from rproxy.services.connections import Connections
from rproxy.services.limits import Limits
from rproxy.transports import Accepted
from rproxy.wire.address import Inet, Unix
from rproxy.wire.clienthello import MAX_HELLO
from rproxy.wire.proxyheader import encode_v1, encode_v2
from tests.fakes import Journal, LogLines, Loop, hello_bytes

HELLO = hello_bytes("example.org")
CLIENT, TARGET = Inet("192.0.2.7", 1234), Inet("198.51.100.1", 443)
V1, V2 = encode_v1(CLIENT, TARGET), encode_v2(CLIENT, TARGET, ((1, b"h2"),))
LOCAL = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"
PEER, OTHER = IPv4Address("TCP", "127.0.0.1", 40000), IPv4Address("TCP", "203.0.113.9", 40000)
OPTIONAL = ProxyPolicy(NetworkSet(["127.0.0.1", "unix"]))
REQUIRED = ProxyPolicy(NetworkSet(["127.0.0.1", "unix"]), required=True)
both_versions = pytest.mark.parametrize("header", [V1, V2], ids=["v1", "v2"])
SLACK = 2 * TICK + 0.01


def alert(description: int) -> bytes:
    return bytes([0x15, 3, 3, 0, 2, 2, description])


class Became(Protocol):
    """What a route makes: remembers what it is told."""

    def __init__(self, arrival: Arrival, on_made: str) -> None:
        self.arrival, self.on_made = arrival, on_made
        self.octets = b""
        self.calls: list[str] = []

    def connectionMade(self) -> None:
        self.calls.append("made")
        if self.on_made:
            getattr(self.transport, self.on_made)()

    def dataReceived(self, data: bytes) -> None:
        self.octets += data

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self.calls.append("lost")


@implementer(IHalfCloseableProtocol)
class HalfCloser(Became):
    def readConnectionLost(self) -> None:
        self.calls.append("read_lost")

    def writeConnectionLost(self) -> None:
        self.calls.append("write_lost")


class Route:
    """A route that takes `room` connections."""

    def __init__(self, kind: type[Became] = Became, room: int = 9, on_made: str = "") -> None:
        self.kind, self.room, self.on_made = kind, room, on_made
        self.built: list[Became] = []

    def buildProtocol(self, arrival: Arrival) -> Became | None:
        if len(self.built) >= self.room:
            return None
        self.built.append(self.kind(arrival, self.on_made))
        return self.built[-1]


def nobody(arrival: Arrival) -> Any:
    raise UnknownName(arrival.server_name or "no name")


class Place:
    """A listener with its limits; connections are made to it one by one."""

    def __init__(
        self,
        *,
        proxy: ProxyPolicy | None = None,
        route: Route | None = None,
        choose: Callable[[Arrival], Any] | None = None,
        most: int = 10,
        per_ip: int = 0,
        clear: bool = False,
    ) -> None:
        self.loop, self.journal, self.connections = Loop(), Journal(), Connections()
        self.limits = Limits(self.loop, most, per_ip)
        self.route = route or Route()
        self.factory = PeekFactory(
            self.loop,
            "tcp:443",
            choose or (lambda arrival: self.route),  # type: ignore[arg-type, return-value]
            self.limits,
            self.connections,
            self.journal,
            Deadlines(self.loop),
            PeekOptions(proxy=proxy),
            clear=self.route if clear else None,  # type: ignore[arg-type]
        )
        self.talks: list[Talk] = []

    def connect(self, peer: Any = PEER) -> Talk:
        self.talks.append(Talk(self, peer))
        return self.talks[-1]

    @property
    def taken(self) -> tuple[int, dict[Any, int], int]:
        """What is taken at the moment: places in all, places per client, live connections."""
        return self.limits.open, self.limits._clients.open, len(self.connections)

    def assert_empty(self) -> None:
        assert self.taken == (0, {}, 0)
        self.loop.advance(TICK)
        assert self.loop.getDelayedCalls() == []
        assert (self.loop.readers, self.loop.writers) == (set(), set())


class Talk:
    """A client's end of one connection."""

    def __init__(self, place: Place, peer: Any) -> None:
        self.place = place
        self.ours, self.theirs = socket.socketpair()
        self.ours.setblocking(False)
        self.theirs.setblocking(False)
        self.peek: Any = place.factory.buildProtocol(peer)
        if self.peek is not None:
            transport: Any = Accepted(self.theirs, self.peek, ("127.0.0.1", 40000), None, 0, place.loop)
            self.peek.makeConnection(transport)
        self.got = b""

    def send(self, *pieces: bytes) -> Talk:
        for piece in pieces:
            self.ours.send(piece)
            self.place.loop.spin()
        return self

    def read(self) -> bytes:
        """Everything the client got; `<end>` or `<reset>` stands for how it ended."""
        self.place.loop.spin()
        while not self.got.endswith((b"<end>", b"<reset>")):
            try:
                self.got += self.ours.recv(1 << 16) or b"<end>"
            except BlockingIOError:
                break
            except ConnectionResetError:
                self.got += b"<reset>"
        return self.got

    def finish(self) -> Talk:
        self.ours.shutdown(socket.SHUT_WR)
        self.place.loop.spin()
        return self

    def leave(self) -> None:
        self.ours.close()
        self.place.loop.spin()


@pytest.fixture
def places() -> Iterator[Callable[..., Place]]:
    made: list[Place] = []

    def make(**options: Any) -> Place:
        made.append(Place(**options))
        return made[-1]

    yield make
    for place in made:
        for talk in place.talks:
            talk.leave()
            if talk.peek is None:
                talk.theirs.close()
        place.loop.spin()
        place.assert_empty()


Making = Callable[..., Place]


def test_a_hello_is_replayed_to_the_chosen_route(places: Making) -> None:
    place = places()
    place.connect().send(HELLO + b"early data").send(b"more")
    (became,) = place.route.built
    assert (became.octets, became.calls) == (HELLO + b"early data" + b"more", ["made"])
    assert (became.arrival.server_name, became.arrival.listener) == ("example.org", "tcp:443")
    assert became.arrival.hello is not None
    assert became.arrival.hello.alpn == (b"h2", b"http/1.1")
    assert (became.arrival.peer, became.arrival.client) == (Inet("127.0.0.1", 40000),) * 2
    assert place.journal.ends == [], "the route writes it down"


@pytest.mark.parametrize("at", [*range(1, 12), 100, len(HELLO) - 1])
def test_a_hello_may_be_cut_anywhere(places: Making, at: int) -> None:
    place = places()
    place.connect().send(HELLO[:at], HELLO[at:])
    assert place.route.built[0].octets == HELLO


def test_a_hello_byte_by_byte(places: Making) -> None:
    place = places()
    place.connect().send(*(HELLO[at : at + 1] for at in range(len(HELLO))))
    assert place.route.built[0].octets == HELLO


def test_the_end_of_the_connection_is_the_routes_and_gives_all_back(places: Making) -> None:
    place = places(per_ip=5)
    talk = place.connect().send(HELLO)
    assert place.taken == (1, {"127.0.0.1": 1}, 1)
    talk.leave()
    assert place.route.built[0].calls == ["made", "lost"]
    assert place.journal.ends == []
    place.assert_empty()


REFUSALS = {
    "unknown name": (HELLO, alert(112), "unknown_name"),
    "no name": (hello_bytes(None), alert(112), "unknown_name"),
    "ssh": (b"SSH-2.0-OpenSSH_9.6\r\n", alert(10), "not_tls"),
    "http": (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", PLAIN_HTTP, "not_tls"),
    "zeroes": (bytes(9), alert(10), "not_tls"),
    "not a hello": (b"\x16\x03\x01\x00\x04\x02\0\0\0", alert(10), "not_tls"),
    "empty record": (b"\x16\x03\x01\x00\x00", alert(50), "bad_hello"),
    "lengths that do not nest": (HELLO[:8] + b"\x09" + HELLO[9:], alert(50), "bad_hello"),
    "record above 2^14": (b"\x16\x03\x01\x40\x01", alert(22), "hello_too_large"),
    "hello above the limit": (
        b"\x16\x03\x01\x40\x00\x01" + MAX_HELLO.to_bytes(3, "big"),
        alert(22),
        "hello_too_large",
    ),
    "proxy v1 from somebody": (V1, b"", "bad_proxy_header"),
    "proxy v2 from somebody": (V2, b"", "bad_proxy_header"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_each_refusal_has_its_answer_and_its_reason(places: Making, name: str) -> None:
    octets, answer, reason = REFUSALS[name]
    place = places(choose=nobody)
    talk = place.connect().send(octets)
    assert talk.read() == answer + b"<end>"
    talk.leave()
    end = place.journal.end
    assert (end.reason, end.received, end.sent, end.app, end.peer) == (
        reason,
        len(octets),
        len(answer),
        "-",
        "-",
    )
    place.assert_empty()


@pytest.mark.parametrize("name", ["unknown name", "ssh", "record above 2^14"])
def test_a_refusal_waits_for_its_answer_to_arrive(places: Making, name: str) -> None:
    """Bytes that come after it are read and dropped, so that no reset overtakes it."""
    octets, answer, _ = REFUSALS[name]
    place = places(choose=nobody)
    talk = place.connect().send(octets)
    talk.send(b"more", b"and more")
    assert talk.read() == answer + b"<end>"
    assert place.taken[2] == 1
    talk.finish()
    place.assert_empty()
    assert len(place.journal.ends) == 1


def test_lingering_has_an_end(places: Making) -> None:
    place = places(choose=nobody)
    talk = place.connect().send(HELLO)
    place.loop.advance(LINGER - 0.01)
    place.loop.spin()
    assert place.taken[0] == 1
    place.loop.advance(0.02)
    place.loop.spin()
    place.assert_empty()
    talk.leave()
    assert len(place.journal.ends) == 1


def test_lingering_has_a_limit_in_bytes(places: Making) -> None:
    place = places(choose=nobody)
    talk = place.connect().send(HELLO)
    sent = 0
    while sent <= LINGER_BYTES:
        try:
            sent += talk.ours.send(bytes(65536))
        except BrokenPipeError:
            break
        place.loop.spin()
    place.loop.spin()
    place.assert_empty()
    assert sent <= LINGER_BYTES + 65536


def test_a_client_that_sends_nothing_is_told_that_it_was_slow(places: Making) -> None:
    place = places()
    talk = place.connect()
    place.loop.advance(9.99)
    assert talk.read() == b""
    place.loop.advance(SLACK)
    assert talk.read() == alert(90) + b"<end>"
    assert (place.journal.end.reason, place.journal.end.received) == ("too_slow", 0)
    assert place.journal.end.seconds >= 10


def test_bytes_now_and_then_do_not_prolong_it(places: Making) -> None:
    place = places()
    talk = place.connect()
    for at in range(10):
        place.loop.advance(1.0)
        talk.send(HELLO[at : at + 1])
    place.loop.advance(SLACK)
    assert talk.read() == alert(90) + b"<end>"
    assert place.journal.end.received == 10


def test_the_clock_stops_when_a_route_is_chosen(places: Making) -> None:
    place = places()
    talk = place.connect().send(HELLO)
    with LogLines() as log:
        place.loop.advance(100)
    assert (talk.read(), place.loop.getDelayedCalls()) == (b"", [])
    assert log.texts("rproxy") == []


@pytest.mark.parametrize("at", [1, 5, 100, len(HELLO) - 1])
def test_an_end_inside_the_hello_is_a_decode_error(places: Making, at: int) -> None:
    place = places()
    talk = place.connect().send(HELLO[:at]).finish()
    assert talk.read() == alert(50) + b"<end>"
    assert (place.journal.end.reason, place.journal.end.received) == ("bad_hello", at)
    talk.leave()
    place.assert_empty()


@pytest.mark.parametrize("how", ["finish", "leave"])
def test_a_client_that_leaves_without_a_word(places: Making, how: str) -> None:
    place = places()
    getattr(place.connect(), how)()
    assert (place.journal.end.reason, place.journal.end.received) == ("client_left", 0)
    place.assert_empty()


def test_a_client_that_is_reset_inside_the_hello(places: Making) -> None:
    place = places()
    talk = place.connect().send(HELLO[:50])
    talk.peek.transport.connectionLost(Failure(ConnectionResetError()))
    assert (place.journal.end.reason, place.journal.end.received) == ("client_left", 50)
    place.assert_empty()


def test_a_route_may_refuse(places: Making) -> None:
    place = places(route=Route(room=0))
    talk = place.connect().send(HELLO)
    assert talk.read().endswith((b"<end>", b"<reset>"))
    assert talk.got.count(b"\x15") == 0
    assert place.journal.end.reason == "too_many"
    place.assert_empty()


def test_a_mistake_in_a_route_costs_that_connection_only(places: Making) -> None:
    def choose(arrival: Arrival) -> Any:
        raise ZeroDivisionError

    place = places(choose=choose)
    talk = place.connect()
    with pytest.raises(ZeroDivisionError):
        talk.peek.dataReceived(HELLO)
    talk.peek.transport.connectionLost(Failure(ZeroDivisionError()))
    assert place.journal.end.reason == "client_left"
    place.assert_empty()


@pytest.mark.parametrize("call", ["close", "loseConnection", "abortConnection"])
def test_a_route_may_close_as_soon_as_it_begins(places: Making, call: str) -> None:
    place = places(route=Route(on_made=call))
    talk = place.connect().send(HELLO)
    talk.read()
    assert place.route.built[0].calls == ["made", "lost"]
    place.assert_empty()


@pytest.mark.parametrize("kind", [Became, HalfCloser])
def test_the_end_of_input_goes_to_who_can_use_it(places: Making, kind: type[Became]) -> None:
    place = places(route=Route(kind))
    talk = place.connect().send(HELLO).finish()
    (became,) = place.route.built
    if kind is Became:
        assert became.calls == ["made", "lost"]
        return
    assert became.calls == ["made", "read_lost"]
    became.transport.write(b"answer")
    became.transport.loseWriteConnection()
    assert talk.read() == b"answer<end>"
    assert became.calls == ["made", "read_lost", "write_lost"]
    became.transport.loseConnection()


@pytest.mark.parametrize("octets", [b"", HELLO[:9], HELLO, b"SSH-2.0-x\r\n"])
def test_aborting_gives_all_back_in_every_state(places: Making, octets: bytes) -> None:
    place = places(per_ip=3)
    talk = place.connect().send(octets) if octets else place.connect()
    talk.peek.abort()
    talk.peek.abort()
    place.loop.spin()
    place.assert_empty()


def test_too_many_in_all_are_closed_at_once_and_take_nothing(places: Making) -> None:
    place = places(most=1)
    first = place.connect()
    assert place.connect().peek is None
    assert place.taken[0] == 1
    first.leave()
    assert place.connect().peek is not None


def test_too_many_of_one_client_take_no_place_of_the_others(places: Making) -> None:
    place = places(most=3, per_ip=1)
    place.connect(PEER)
    assert [place.connect(PEER).peek for _ in range(5)] == [None] * 5
    assert place.connect(OTHER).peek is not None
    assert place.taken[:2] == (2, {"127.0.0.1": 1, "203.0.113.9": 1})


# -- PROXY headers ------------------------------------------------------------------------------------------


@both_versions
@pytest.mark.parametrize("proxy", [OPTIONAL, REQUIRED], ids=["optional", "required"])
def test_a_trusted_header_names_the_client(places: Making, header: bytes, proxy: ProxyPolicy) -> None:
    place = places(proxy=proxy, per_ip=5)
    place.connect().send(header + HELLO)
    (became,) = place.route.built
    arrival = became.arrival
    assert (arrival.peer, arrival.client, arrival.local) == (Inet("127.0.0.1", 40000), CLIENT, TARGET)
    assert became.octets == HELLO, "the header is not replayed"
    assert place.taken[:2] == (1, {"192.0.2.7": 1}), "the client is counted, not the proxy"


@both_versions
def test_a_header_and_its_hello_may_be_cut_anywhere(places: Making, header: bytes) -> None:
    octets = header + HELLO
    for at in range(1, len(header) + 6):
        place = places(proxy=REQUIRED if at % 2 else OPTIONAL)
        place.connect().send(octets[:at], octets[at:])
        assert (place.route.built[0].octets, place.route.built[0].arrival.client) == (HELLO, CLIENT)


@both_versions
def test_a_header_byte_by_byte(places: Making, header: bytes) -> None:
    place = places(proxy=OPTIONAL)
    octets = header + HELLO
    place.connect().send(*(octets[at : at + 1] for at in range(len(octets))))
    assert (place.route.built[0].octets, place.route.built[0].arrival.client) == (HELLO, CLIENT)


def test_a_header_that_names_nobody_leaves_the_proxy_as_the_client(places: Making) -> None:
    place = places(proxy=REQUIRED, per_ip=5)
    place.connect().send(LOCAL + HELLO)
    assert place.route.built[0].arrival.client == Inet("127.0.0.1", 40000)
    assert place.taken[1] == {"127.0.0.1": 1}


def test_where_it_is_optional_a_trusted_peer_may_come_without(places: Making) -> None:
    place = places(proxy=OPTIONAL, per_ip=5)
    place.connect().send(HELLO)
    assert place.route.built[0].arrival.header is None
    assert place.taken[1] == {"127.0.0.1": 1}


def test_where_it_is_optional_anybody_may_come_without(places: Making) -> None:
    place = places(proxy=OPTIONAL)
    place.connect(OTHER).send(HELLO)
    assert place.route.built[0].arrival.client == Inet("203.0.113.9", 40000)


def test_where_it_is_required_others_may_not_connect(places: Making) -> None:
    place = places(proxy=REQUIRED)
    talk = place.connect(OTHER)
    assert talk.read() == b"<end>"
    assert (place.journal.end.reason, place.journal.end.sent) == ("bad_proxy_header", 0)
    place.assert_empty()


@both_versions
@pytest.mark.parametrize("policy", [OPTIONAL, None], ids=["optional", "none"])
def test_a_header_from_somebody_else_is_closed_without_a_word(
    places: Making, header: bytes, policy: ProxyPolicy | None
) -> None:
    place = places(proxy=policy)
    talk = place.connect(OTHER).send(header + HELLO)
    assert talk.read().endswith((b"<end>", b"<reset>"))
    assert alert(10) not in talk.got
    assert place.journal.end.reason == "bad_proxy_header"
    place.assert_empty()


@pytest.mark.parametrize(
    "octets",
    [b"PROXY TCP4 nonsense\r\n", b"PROXY " + b"x" * 200, V2[:12] + b"\x31" + V2[13:], V1 + V1],
    ids=["v1", "endless", "version 3", "twice"],
)
def test_a_malformed_header_is_closed_without_a_word(places: Making, octets: bytes) -> None:
    place = places(proxy=OPTIONAL)
    talk = place.connect().send(octets)
    assert talk.read().endswith((b"<end>", b"<reset>"))
    assert place.journal.end.reason == "bad_proxy_header"
    place.assert_empty()


def test_where_it_is_required_a_hello_alone_is_refused(places: Making) -> None:
    place = places(proxy=REQUIRED)
    talk = place.connect().send(HELLO)
    assert talk.read().endswith((b"<end>", b"<reset>"))
    assert place.journal.end.reason == "bad_proxy_header"
    assert place.route.built == []


@pytest.mark.parametrize("octets", [b"", V1[:9], V2[:14]])
def test_a_required_header_has_its_own_short_time(places: Making, octets: bytes) -> None:
    place = places(proxy=REQUIRED)
    talk = place.connect()
    if octets:
        talk.send(octets)
    place.loop.advance(2.99)
    assert talk.read() == b""
    place.loop.advance(SLACK)
    assert talk.read() == alert(90) + b"<end>"
    assert place.journal.end.reason == "too_slow"


def test_after_the_header_the_hello_has_its_whole_time(places: Making) -> None:
    place = places(proxy=REQUIRED)
    talk = place.connect()
    place.loop.advance(2.5)
    talk.send(V1)
    place.loop.advance(9.9)
    assert talk.read() == b""
    talk.send(HELLO)
    assert place.route.built[0].arrival.client == CLIENT


def test_an_end_inside_the_header_is_a_client_that_left(places: Making) -> None:
    place = places(proxy=REQUIRED)
    place.connect().send(V1[:20]).finish()
    assert place.journal.end.reason == "client_left"
    place.assert_empty()


def test_the_limit_per_client_counts_the_client_behind_the_proxy(places: Making) -> None:
    place = places(proxy=REQUIRED, per_ip=1)
    place.connect().send(V1 + HELLO)
    second = place.connect().send(V1 + HELLO)
    assert second.read().endswith((b"<end>", b"<reset>"))
    assert (place.journal.end.reason, place.journal.end.arrival.client) == ("too_many", CLIENT)
    place.connect().send(LOCAL + HELLO)
    assert [became.arrival.client.host for became in place.route.built] == ["192.0.2.7", "127.0.0.1"]  # type: ignore[union-attr]


def test_a_unix_peer_is_trusted_when_unix_is(places: Making) -> None:
    place = places(proxy=REQUIRED)
    place.connect(UNIXAddress(b"/run/haproxy")).send(V1 + HELLO)
    assert place.route.built[0].arrival.peer == Unix(b"/run/haproxy")


def test_options_hold_for_connections_still_to_come(places: Making) -> None:
    place = places()
    early = place.connect()
    place.factory.options = PeekOptions(hello_timeout=2.5)
    late = place.connect()
    place.loop.advance(2.5 + SLACK)
    assert (early.read(), late.read()) == (b"", alert(90) + b"<end>")


def test_a_hello_that_is_too_large_for_this_listener(places: Making) -> None:
    place = places()
    place.factory.options = PeekOptions(max_hello=100)
    assert place.connect().send(HELLO).read() == alert(22) + b"<end>"


def test_a_route_that_raises_too_many_is_refused_like_the_rest(places: Making) -> None:
    def choose(arrival: Arrival) -> Any:
        raise TooMany("rate")

    place = places(choose=choose)
    assert place.connect().send(HELLO).read().endswith((b"<end>", b"<reset>"))
    assert place.journal.end.reason == "too_many"


# -- Clear text: no hello to wait for -----------------------------------------------------------------------


def test_a_clear_connection_is_the_routes_at_once(places: Making) -> None:
    place = places(clear=True)
    talk = place.connect()
    (became,) = place.route.built
    assert (became.calls, became.octets) == (["made"], b"")
    talk.send(b"GET / ", b"HTTP/1.1\r\n")
    assert became.octets == b"GET / HTTP/1.1\r\n"
    assert place.loop.getDelayedCalls() == []


@both_versions
def test_a_header_comes_before_clear_text_too(places: Making, header: bytes) -> None:
    octets = header + b"GET / HTTP/1.1\r\n"
    for at in range(1, len(header) + 2):
        place = places(clear=True, proxy=REQUIRED)
        place.connect().send(octets[:at], octets[at:])
        assert place.route.built[0].octets == b"GET / HTTP/1.1\r\n"
        assert place.route.built[0].arrival.client == CLIENT


def test_a_clear_route_that_is_full_closes_at_once(places: Making) -> None:
    place = places(clear=True, route=Route(room=0))
    assert place.connect().read() == b"<end>"
    assert place.journal.end.reason == "too_many"
    place.assert_empty()


def test_no_tls_alert_is_sent_in_clear_text(places: Making) -> None:
    place = places(clear=True, proxy=REQUIRED)
    talk = place.connect()
    place.loop.advance(3 + SLACK)
    assert talk.read() == b"<end>"
    assert place.journal.end.reason == "too_slow"
