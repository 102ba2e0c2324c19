"""Which HTTP a connection speaks: by ALPN where there is one, else by its first bytes, however they come."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from twisted.internet.address import IPv4Address

from rproxy.downstream.http2_server import Http2Server
from rproxy.downstream.http_factory import HttpFactory, Serving
from rproxy.downstream.http_server import PREFACE as FIRST
from rproxy.downstream.http_server import HttpServer
from rproxy.downstream.http_watch import HttpLimits
from rproxy.interfaces import Arrival
from rproxy.policy.networks import NetworkSet
from rproxy.sites import Sites
from rproxy.wire.address import Address, Inet, Unix
from rproxy.wire.http2_frames import PREFACE
from rproxy.wire.message import Headers
from tests.http2_world import Http2World
from tests.http_world import GET, OK, SLACK, Stream, making, statuses_of
from tests.wire.http2_talk import GOAWAY, SETTINGS, frame, head, said, settings

HELLO = PREFACE + settings()


@pytest.fixture
def worlds() -> Iterator[Callable[..., Http2World]]:
    yield from making(Http2World)


@pytest.fixture
def world(worlds: Callable[..., Http2World]) -> Http2World:
    return worlds()


class Agreed:
    """Stands for TLS around the world's factory, with this ALPN."""

    def __init__(self, inner: HttpFactory, alpn: bytes) -> None:
        self.inner, self.alpn = inner, alpn

    def buildProtocol(self, arrival: Arrival) -> Any:
        return self.inner.buildProtocol(arrival.with_alpn(self.alpn))


def secured(world: Http2World, alpn: bytes) -> Stream:
    world.door.clear = Agreed(world.factory, alpn)  # type: ignore[assignment]
    return world.connect()


# -- ALPN


@pytest.mark.parametrize(
    ("alpn", "kind"), [(b"h2", Http2Server), (b"http/1.1", HttpServer), (b"", HttpServer)]
)
def test_what_was_agreed_on_is_built(world: Http2World, alpn: bytes, kind: type) -> None:
    here = Inet("192.0.2.1", 1)
    assert type(world.factory.buildProtocol(Arrival("tcp:443", here, here, alpn=alpn))) is kind


def test_the_plain_address_of_an_endpoint_will_do(world: Http2World) -> None:
    server: Any = world.factory.buildProtocol(IPv4Address("TCP", "192.0.2.1", 1))
    assert server.arrival.client == Inet("192.0.2.1", 1)


def test_who_has_agreed_on_http2_hears_our_settings_first(world: Http2World) -> None:
    (first, *_) = said(secured(world, b"h2").read())
    assert first.kind == SETTINGS


def test_who_has_agreed_on_http2_and_does_not_speak_it_is_told(world: Http2World) -> None:
    told = said(secured(world, b"h2").send(GET).read().removesuffix(b"<end>"))
    assert (told[0].kind, told[-1].kind) == (SETTINGS, GOAWAY)


def test_who_has_agreed_on_http1_cannot_change_its_mind(world: Http2World) -> None:
    assert statuses_of(secured(world, b"http/1.1").send(HELLO).read()) == [505]


def test_streams_are_as_many_as_the_limits_say(worlds: Callable[..., Http2World]) -> None:
    (first, *_) = said(secured(worlds(limits=HttpLimits(streams=7)), b"h2").read())
    assert b"\0\3\0\0\0\7" in first.payload


# -- the first bytes


def test_one_port_speaks_both(world: Http2World) -> None:
    old, new = world.connect().send(GET), world.client()
    first = world.asked()
    number = new.begin()
    second = world.asked()
    first.send(OK)
    second.send(OK)
    assert old.read() == OK
    assert new.take()[number].body == b"ok"


def test_the_preface_may_be_cut_anywhere(world: Http2World) -> None:
    peer = None
    for at in range(1, len(HELLO)):
        wire = world.connect().send(HELLO[:at])
        assert bool(wire.read()) is (at >= len(FIRST)), "an answer before it is sure"
        wire.send(HELLO[at:], frame(SETTINGS, 1), head(1, [*PSEUDO, (b":path", b"/x")]))
        peer = peer or world.asked()
        assert peer.read().startswith(b"GET /x HTTP/1.1\r\n")
        peer.send(OK)
        assert wire.read().endswith(b"ok")
        wire.leave()


PSEUDO = [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"a")]


def test_the_preface_may_come_in_single_bytes(world: Http2World) -> None:
    wire = world.connect().send(*(bytes([octet]) for octet in HELLO))
    (first, *_) = said(wire.read())
    assert first.kind == SETTINGS


@pytest.mark.parametrize("method", [b"PUT", b"PRI", b"P", b"PRIX"])
def test_a_request_that_begins_like_it_may_be_cut_anywhere(world: Http2World, method: bytes) -> None:
    ask = b"%b /x HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n" % method
    peer = None
    for at in range(1, len(ask)):
        client = world.connect().send(ask[:at], ask[at:])
        peer = peer or world.asked()
        assert peer.read().startswith(method + b" /x HTTP/1.1\r\n")
        peer.send(OK)
        assert client.read() == OK
        client.leave()


@pytest.mark.parametrize(
    ("octets", "status"), [(b"PRI * HTTP/1.1\r\nHost: a\r\n\r\n", 400), (b"PRI * HTTP/2.1\r\n\r\n", 505)]
)
def test_what_only_looks_like_it_is_refused_wherever_it_is_cut(
    world: Http2World, octets: bytes, status: int
) -> None:
    for at in range(1, len(octets)):
        assert statuses_of(world.connect().send(octets[:at], octets[at:]).read()) == [status]


def test_the_preface_comes_first_or_never(world: Http2World) -> None:
    client = world.connect().send(GET)
    world.asked().send(OK)
    assert client.read() == OK
    server: Any = world.servers[0]._become
    assert server._first is None, "nothing is kept to compare it with"
    assert statuses_of(client.send(HELLO).read()) == [505]


# -- while it cannot be told


def test_who_says_nothing_is_closed_without_a_word(world: Http2World) -> None:
    client = world.connect()
    world.wait(20 + SLACK)
    assert client.read() == b"<end>"


def test_who_stops_in_the_middle_of_the_preface_is_too_slow(world: Http2World) -> None:
    client = world.connect().send(FIRST[:-1])
    world.wait(19)
    assert client.read() == b""
    world.wait(1 + SLACK + SLACK)
    assert statuses_of(client.read()) == [408]


def test_who_leaves_in_the_middle_of_it_is_closed(world: Http2World) -> None:
    assert world.connect().send(FIRST[:-1]).finish().read() == b"<end>"


def test_a_drain_closes_who_has_said_nothing_and_waits_for_the_others(world: Http2World) -> None:
    silent, half, cut = world.connect(), world.connect().send(b"P"), world.connect().send(FIRST[:-1])
    world.connections.drain(world.loop, 10.0)
    assert silent.read() == b"<end>"
    half.send(b"UT /x HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
    world.asked().send(OK)
    assert half.read().endswith(b"ok<end>")
    cut.send(HELLO[len(FIRST) - 1 :])
    assert GOAWAY in [one.kind for one in said(cut.read())]


def test_a_half_close_reaches_whoever_serves(world: Http2World) -> None:
    wire = world.connect().send(GET).finish()
    world.asked().send(OK)
    assert wire.read().endswith(b"ok<end>")
    client = world.client()
    client.wire.finish()
    client.take()
    assert client.closed == b"<end>"


# -- what is said about clients

CLIENT, HERE = Inet("192.0.2.1", 1), Inet("192.0.2.9", 443)
CLAIMS = Headers([(b"X-Forwarded-For", b"198.51.100.7")])


def arrived(client: Address = CLIENT, local: Address = HERE, shown: Any = None) -> Arrival:
    return Arrival("tcp:443", client, client, local=local, shown=shown)


class Shown:
    """Stands for a verified certificate."""

    def __init__(self, subject: str) -> None:
        self.told = subject, subject.encode()


@pytest.fixture
def serving() -> Serving:
    return Serving(Sites({}, {}), HttpLimits(), NetworkSet())


def test_who_is_trusted_is_asked_anew_for_each_connection(serving: Serving) -> None:
    """A reload sets it; connections that were there before keep what they have."""
    first = serving.facts(arrived(), True, None)
    serving.trusted = NetworkSet(["192.0.2.0/24"])
    second = serving.facts(arrived(), True, None)
    serving.trusted = NetworkSet(["10.0.0.0/8"])
    third = serving.facts(arrived(), True, None)
    assert [each.is_trusted for each in (first, second, third)] == [False, True, False]
    told = [each.forwarded_for(CLAIMS) for each in (first, second, third)]
    assert told == [b"192.0.2.1", b"198.51.100.7, 192.0.2.1", b"192.0.2.1"]
    shared = [each.shared for each in (first, second, third)]
    assert None not in shared
    assert len({id(each) for each in shared}) == 3, "nothing that was kept is used under other rules"


def test_a_client_s_connections_to_a_port_share_what_they_have_in_common(serving: Serving) -> None:
    first = serving.facts(arrived(), True, None)
    again = serving.facts(arrived(Inet(CLIENT.host, 2)), True, None)
    assert first is not again
    assert first.memory is not again.memory
    assert first.shared is again.shared is not None
    for other in (
        serving.facts(arrived(Inet("192.0.2.2", 1)), True, None),
        serving.facts(arrived(), False, None),
        serving.facts(arrived(local=Inet("192.0.2.9", 8443)), True, None),
    ):
        assert other.shared is not first.shared


def test_who_has_shown_a_certificate_shares_nothing(serving: Serving) -> None:
    plain = serving.facts(arrived(), True, None)
    bob, eve = (serving.facts(arrived(shown=Shown(name)), True, None) for name in ("CN=bob", "CN=eve"))
    assert (bob.subject, eve.subject, plain.subject) == ("CN=bob", "CN=eve", None)
    assert bob.shared is eve.shared is None
    assert dict(bob.pairs(CLAIMS))[b"X-Client-Cert-Subject"] == b"CN=bob"
    assert b"X-Client-Cert-Subject" not in dict(plain.pairs(CLAIMS))


def test_on_a_unix_socket_there_is_no_port(serving: Serving) -> None:
    facts = serving.facts(arrived(Unix(b"/run/a"), Unix(b"/run/b")), False, None)
    assert (facts.port, facts.https, facts.is_trusted) == (0, False, False)
    serving.trusted = NetworkSet(["unix"])
    assert serving.facts(arrived(Unix(b"/run/a"), Unix(b"/run/b")), False, None).is_trusted


def test_connections_of_a_factory_read_what_others_have_sent(world: Http2World) -> None:
    clients, peer = [world.connect() for _ in range(2)], None
    for client in clients:
        client.send(GET)
        peer = peer or world.asked()
        peer.send(OK)
        assert client.read() == OK
    one, other = (server._become for server in world.servers)
    assert one.reader._facts is other.reader._facts
    assert one.reader._facts.headers.shared
