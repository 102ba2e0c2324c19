"""What a client's connections have in common: what each would say alone, and never another client's."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rproxy.policy.forwarding import (
    MAX_REMEMBERED,
    MOST_ORIGINS,
    ClientFacts,
    Origin,
    Origins,
    RequestRewriter,
)
from rproxy.policy.networks import NetworkSet
from rproxy.policy.rules import HeaderRules, Side
from rproxy.wire.address import Address, Inet, Unix, inet
from rproxy.wire.http1 import RequestReader
from rproxy.wire.http1_fields import Known
from rproxy.wire.message import Headers, Pair, Request
from tests.policy.heads import PLAIN, options

TRUSTED = NetworkSet(["10.0.0.0/8", "2001:db8::/32", "unix"])
NOBODY = NetworkSet()
A, B, PROXY = Inet("203.0.113.10", 1), Inet("203.0.113.11", 1), Inet("10.0.0.9", 1)
CLIENTS: list[Address] = [
    A,
    B,
    PROXY,
    Inet("2001:db8::7", 1),
    Inet("fe80::1%eth0", 1),
    Inet("fe80::1%eth1", 1),
    inet("::ffff:198.51.100.1", 1),
    Unix(b"/run/a"),
    Unix(b""),
]
CLAIMS = [b"X-Forwarded-For: 192.0.2.1, 10.1.1.1", b"X-Forwarded-Proto: http", b"X-Forwarded-Port: 81"]


class Front:
    """One of our ports: what its connections share."""

    def __init__(self, trusted: NetworkSet = TRUSTED) -> None:
        self.origins, self.known = Origins(trusted), Known()

    def connect(
        self,
        client: Address,
        https: bool = True,
        port: int = 443,
        subject: str | None = None,
        certificate: bytes = b"",
    ) -> Connection:
        facts = ClientFacts(
            client,
            https=https,
            port=port,
            trusted=self.origins.trusted,
            subject=subject,
            certificate=certificate,
            origin=self.origins.of(client, https, port),
        )
        return Connection(RequestReader(self.known), facts)


class Connection(NamedTuple):
    """A client's, with what its requests say about it."""

    reader: RequestReader
    facts: ClientFacts

    def ask(self, head: bytes) -> Request:
        self.reader.receive(head)
        request = self.reader.read_head()
        assert request is not None
        return request

    def pairs(self, *lines: bytes, rewriter: RequestRewriter = PLAIN) -> list[Pair]:
        """What a peer is told of a request with these fields."""
        return rewriter.fields(self.ask(head_of(*lines)), self.facts, b"peer").pairs


def head_of(*lines: bytes, start: bytes = b"GET /x?y HTTP/1.1") -> bytes:
    return b"\r\n".join([start, b"Host: app.example", *lines, b"", b""])


def alone(
    client: Address,
    *lines: bytes,
    rewriter: RequestRewriter = PLAIN,
    trusted: NetworkSet = TRUSTED,
    https: bool = True,
    port: int = 443,
    subject: str | None = None,
    certificate: bytes = b"",
) -> list[Pair]:
    """What a peer is told if there is nobody else."""
    facts = ClientFacts(
        client, https=https, port=port, trusted=trusted, subject=subject, certificate=certificate
    )
    return Connection(RequestReader(), facts).pairs(*lines, rewriter=rewriter)


# -- origins


@pytest.mark.parametrize("client", CLIENTS, ids=str)
@pytest.mark.parametrize("trusted", [TRUSTED, NOBODY], ids=["trusted", "nobody"])
@pytest.mark.parametrize(("https", "port"), [(True, 443), (False, 8080), (False, 0)])
@pytest.mark.parametrize(("subject", "certificate"), [(None, b""), ("CN=a", b""), ("CN=a", b"DER")])
def test_with_an_origin_the_facts_are_the_same(
    client: Address, trusted: NetworkSet, https: bool, port: int, subject: str | None, certificate: bytes
) -> None:
    found = []
    for origin in (None, Origin(client, https, port, trusted), Origins(trusted).of(client, https, port)):
        facts = ClientFacts(
            client,
            https=https,
            port=port,
            trusted=trusted,
            subject=subject,
            certificate=certificate,
            origin=origin,
        )
        found.append(said(facts))
    assert found[0] == found[1] == found[2]


def said(facts: ClientFacts) -> list[object]:
    """All that a connection's facts say, of two heads."""
    told: list[object] = [facts.node, facts.https, facts.port, facts.is_trusted, facts.subject]
    for lines in ([], CLAIMS):
        pairs = [(name, value) for name, _, value in (line.partition(b": ") for line in lines)]
        headers = Headers(pairs)
        told += [list(facts.pairs(headers)), facts.claims(headers), facts.forwarded_for(headers)]
    return told


def test_a_client_s_connections_have_one_origin_and_no_others_have() -> None:
    origins = Origins(TRUSTED)
    first = {client: origins.of(client, True, 443) for client in CLIENTS}
    for client in CLIENTS:
        assert origins.of(client, True, 443) is first[client]
    assert origins.of(Inet(A.host, 65000), True, 443) is first[A]
    assert len({id(origin) for origin in first.values()}) == len(CLIENTS) - 1, "unix sockets are one"
    assert first[A].memory is not first[B].memory
    assert Origins(TRUSTED).of(A, True, 443) is not first[A]


def test_another_port_or_scheme_is_another_origin() -> None:
    origins = Origins(TRUSTED)
    first = origins.of(A, True, 443)
    for https, port in ((False, 443), (True, 8443), (False, 80), (True, 443)):
        other = origins.of(A, https, port)
        assert (other is first) is ((https, port) == (True, 443))
        assert dict(other.pairs)[b"X-Forwarded-Proto"] == (b"https" if https else b"http")
        assert dict(other.pairs)[b"X-Forwarded-Port"] == b"%d" % port
        assert origins.of(A, https, port) is other


def test_clients_of_late_are_so_many_at_most() -> None:
    """Every address of the internet may come by."""
    origins = Origins(TRUSTED)
    first = origins.of(A, True, 443)
    for number in range(MOST_ORIGINS - 1):
        origins.of(Inet(f"192.0.{number >> 8}.{number & 255}", 1), True, 443)
    assert origins.of(A, True, 443) is first
    for number in range(3 * MOST_ORIGINS):
        client = Inet(f"2001:db8::{number:x}", 1)
        assert origins.of(client, True, 443).node == client.host.encode().decode()
        assert len(origins._known) <= MOST_ORIGINS
    assert origins.of(A, True, 443) is not first


def test_what_is_kept_of_a_client_is_small() -> None:
    front, large = Front(), b"X: " + b"a" * 1100
    headers = front.connect(A).ask(head_of(large)).headers
    assert not headers.shared, "so long ones are nobody's but the connection's"
    rewriter = RequestRewriter(frozenset(), HeaderRules(Side.REQUEST, set={"Y": "y" * MAX_REMEMBERED}))
    one = front.connect(A)
    request = one.ask(head_of())
    rewriter.fields(request, one.facts, b"peer")
    assert one.facts.shared is not None
    assert one.facts.shared.recall(rewriter, request.headers, request.authority) is None


# -- heads that connections share


@pytest.mark.parametrize("client", CLIENTS, ids=str)
def test_a_client_s_connections_share_the_head_that_goes_on(client: Address) -> None:
    front = Front()
    blocks = []
    for _ in range(3):
        one = front.connect(client)
        request = one.ask(head_of(b"User-Agent: a"))
        fields = PLAIN.fields(request, one.facts, b"peer")
        assert fields.pairs == alone(client, b"User-Agent: a")
        blocks.append(fields.block)
    assert blocks[0] is blocks[1] is blocks[2]


def test_credentials_are_not_kept_for_others() -> None:
    front, secret = Front(), b"Cookie: s=SECRET"
    one, other = front.connect(A), front.connect(A)
    first = PLAIN.fields(one.ask(head_of(secret)), one.facts, b"peer")
    second = PLAIN.fields(other.ask(head_of(secret)), other.facts, b"peer")
    assert first.pairs == second.pairs == alone(A, secret)
    assert first.block is not second.block
    assert one.facts.shared is not None
    assert not any(b"SECRET" in value for _, value in one.facts.shared._block.pairs)


def test_no_client_is_taken_for_another_that_says_the_same() -> None:
    front = Front()
    for _ in range(2):
        for client in CLIENTS:
            pairs = front.connect(client).pairs(*CLAIMS, rewriter=options("forwarded_header"))
            assert pairs == alone(client, *CLAIMS, rewriter=options("forwarded_header"))
    pairs = front.connect(B).pairs()
    assert front.connect(A).pairs() != pairs
    assert not any(b"203.0.113.10" in value for _, value in pairs)


def test_a_stranger_cannot_borrow_what_a_trusted_proxy_has_said() -> None:
    front = Front()
    proxied = dict(front.connect(PROXY).pairs(*CLAIMS))
    assert proxied[b"X-Real-IP"] == b"192.0.2.1"
    for client in (A, B):
        pairs = front.connect(client).pairs(*CLAIMS)
        assert dict(pairs)[b"X-Real-IP"] == client.host.encode()
        assert not any(b"192.0.2.1" in value or b"10.0.0.9" in value for _, value in pairs)
    assert dict(front.connect(PROXY).pairs(*CLAIMS)) == proxied
    other = [b"X-Forwarded-For: 192.0.2.2", *CLAIMS[1:]]
    assert dict(front.connect(PROXY).pairs(*other))[b"X-Real-IP"] == b"192.0.2.2"


@pytest.mark.parametrize("first", ["with", "without"])
def test_a_certificate_is_told_of_its_own_connection_alone(first: str) -> None:
    """Also if the same client has shown another one, or none, on others."""
    front = Front()
    shown: list[tuple[str | None, bytes]] = [("CN=root", b"ROOT"), (None, b""), ("CN=bob", b""), ("", b"B")]
    for subject, certificate in [*shown, *shown] if first == "with" else [*shown[::-1], *shown[::-1]]:
        for client in (A, B, PROXY):
            one = front.connect(client, subject=subject, certificate=certificate)
            for _ in range(2):
                assert one.pairs(*CLAIMS) == alone(client, *CLAIMS, subject=subject, certificate=certificate)
    assert not any(b"cert" in name.lower() for name, _ in front.connect(A).pairs(*CLAIMS))


def test_another_authority_is_told_though_the_fields_are_the_same() -> None:
    front = Front()
    names = (b"app.example", b"APP.example", b"app.example:80")
    heads = [head_of(start=b"GET http://%b/ HTTP/1.1" % name) for name in names]
    names = (b"a.example", b"b.example:8", b"c.example")
    heads += [b"GET http://%b/ HTTP/1.0\r\nAccept: */*\r\n\r\n" % name for name in names]
    for head in (*heads, head_of(), *heads[::-1]):
        one, sole = front.connect(A), Front().connect(A)
        request = one.ask(head)
        assert request.headers.shared
        pairs = PLAIN.fields(request, one.facts, b"peer").pairs
        assert pairs == PLAIN.fields(sole.ask(head), sole.facts, b"peer").pairs
        assert dict(pairs)[b"X-Forwarded-Host"] == request.authority


def test_another_port_or_scheme_is_told_though_the_client_is_the_same() -> None:
    front = Front()
    connections = [front.connect(A, https, port) for https in (True, False) for port in (443, 80, 0)]
    for one in connections * 2:
        pairs = one.pairs(*CLAIMS, rewriter=options("forwarded_header"))
        facts = one.facts
        assert pairs == alone(
            A, *CLAIMS, rewriter=options("forwarded_header"), https=facts.https, port=facts.port
        )


def test_what_a_route_was_before_a_reload_is_forgotten() -> None:
    """Its rewriter is another object, with other rules perhaps."""
    front, lines = Front(), [b"User-Agent: a"]
    for value in ("one", "two", "one"):
        rules = HeaderRules(Side.REQUEST, set={"X-Tenant": value}, remove=["User-Agent"])
        rewriter = RequestRewriter(frozenset(), rules)
        for client in (A, A, B):
            pairs = front.connect(client).pairs(*lines, rewriter=rewriter)
            assert pairs == alone(client, *lines, rewriter=rewriter)
            assert dict(pairs)[b"X-Tenant"] == value.encode()
        del rewriter
    assert (b"User-Agent", b"a") in front.connect(A).pairs(*lines)


def test_an_upgrade_is_asked_for_by_whoever_asks() -> None:
    front = Front()
    lines = [b"Connection: upgrade", b"Upgrade: websocket"]
    for upgrade in (False, True, False):
        one = front.connect(A)
        pairs = PLAIN.fields(one.ask(head_of(*lines)), one.facts, b"peer", upgrade=upgrade).pairs
        assert (b"Upgrade", b"websocket") in pairs if upgrade else b"Upgrade" not in dict(pairs)
        one.reader.take_rest()


REWRITERS = [
    PLAIN,
    options("forwarded_header", "upgrade_insecure_requests"),
    options("set_upstream_host"),
    RequestRewriter(
        frozenset(), HeaderRules(Side.REQUEST, set={"X-A": "b", "Host": "fixed"}, remove=["Accept"])
    ),
    RequestRewriter(frozenset(), HeaderRules(Side.REQUEST), sticky=b"stick"),
]
HEADS = [
    head_of(),
    head_of(b"Accept: */*"),
    head_of(b"accept: */*"),
    head_of(*CLAIMS),
    head_of(*CLAIMS[1:], b"Forwarded: for=192.0.2.9;proto=https"),
    head_of(b"Cookie: stick=1; a=b"),
    head_of(b"Authorization: Basic x"),
    head_of(b"Connection: close, x-a", b"X-A: 1"),
    head_of(start=b"GET http://APP.example:80/ HTTP/1.1"),
    b"GET http://a.example/ HTTP/1.0\r\nAccept: */*\r\n\r\n",
    b"GET http://b.example/ HTTP/1.0\r\nAccept: */*\r\n\r\n",
    b"GET / HTTP/1.0\r\nAccept: */*\r\n\r\n",
    head_of(b"Accept: */*", start=b"GET / HTTP/1.0"),
    head_of(b"TE: trailers", b"Max-Forwards: 3", start=b"OPTIONS * HTTP/1.1"),
    head_of(b"X: " + b"x" * 1100),
]
PORTS = st.sampled_from([(True, 443), (False, 80)])
SHOWN = st.sampled_from([(None, b""), (None, b""), ("CN=a", b"A"), ("CN=b", b"")])
ASKED = st.lists(st.tuples(st.sampled_from(HEADS), st.sampled_from(REWRITERS)), min_size=1, max_size=3)


@given(st.lists(st.tuples(st.sampled_from(CLIENTS), PORTS, SHOWN, ASKED), max_size=12))
def test_whoever_came_before_every_peer_is_told_the_same(
    connections: list[
        tuple[Address, tuple[bool, int], tuple[str | None, bytes], list[tuple[bytes, RequestRewriter]]]
    ],
) -> None:
    front = Front()
    for client, (https, port), (subject, certificate), asked in connections:
        one = front.connect(client, https, port, subject, certificate)
        for head, rewriter in asked:
            sole = Front().connect(client, https, port, subject, certificate)
            told, expected = one.ask(head), Connection(RequestReader(), sole.facts).ask(head)
            fields = rewriter.fields(told, one.facts, b"peer:1")
            assert fields.pairs == rewriter.fields(expected, sole.facts, b"peer:1").pairs
