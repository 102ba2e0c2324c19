"""Response heads as they go on to clients, and upgrades in both directions."""

import pytest

from rproxy.policy.forwarding import Memory, ResponseRewriter, agrees, upgrade_of
from rproxy.policy.rules import HeaderRules, Side
from rproxy.wire.message import Framing
from tests.policy.heads import PASSED, PLAIN, answer, facts, get, received
from tests.wire.reading import changed


def test_a_response_goes_on_without_what_is_about_the_peers_connection() -> None:
    """R-HR-1, R-HR-2, class 34."""
    response = answer(
        b"Server: nginx",
        b"Connection: keep-alive, X-Internal",
        b"Keep-Alive: timeout=5",
        b"X-Internal: secret",
        b'Alt-Svc: h3=":443"',
        b"Transfer-Encoding: chunked",
        b"Trailer: x",
        b"Upgrade: h2c",
        b"Proxy-Authenticate: Basic",
        b"Set-Cookie: a=1",
        b"set-cookie: b=2",
    )
    assert received(response) == [(b"Server", b"nginx"), (b"Set-Cookie", b"a=1"), (b"set-cookie", b"b=2")]


def test_a_peer_cannot_hide_what_says_what_the_client_got() -> None:
    response = answer(b"Connection: content-type, set-cookie", b"Content-Type: a/b", b"Set-Cookie: a=1")
    assert received(response) == [(b"Content-Type", b"a/b"), (b"Set-Cookie", b"a=1")]


def test_a_101_says_what_it_switches_to_and_nothing_else_about_connections() -> None:
    """Class 34."""
    response = answer(
        b"Connection: Upgrade, X-Internal",
        b"Upgrade: websocket",
        b"X-Internal: 1",
        b"Keep-Alive: x",
        b"Sec-WebSocket-Accept: y",
        status=b"101 Switching Protocols",
        upgrade=True,
    )
    accept = (b"Sec-WebSocket-Accept", b"y")
    switched = [(b"Connection", b"upgrade"), (b"Upgrade", b"websocket"), accept]
    assert received(response, upgrade=True) == switched
    assert received(response) == [accept]


@pytest.mark.parametrize(
    ("status", "method", "length"),
    [
        (b"200 OK", b"GET", None),
        (b"200 OK", b"HEAD", b"5"),
        (b"304 Not Modified", b"GET", b"5"),
        (b"204 No Content", b"GET", None),
        (b"103 Early Hints", b"GET", None),
    ],
)
def test_a_length_is_passed_on_only_where_no_body_will_say_it(
    status: bytes, method: bytes, length: bytes | None
) -> None:
    spoken = b"0" if status[:1] == b"1" or status[:3] == b"204" else b"5"
    response = answer(b"Content-Length: " + spoken, status=status, method=method)
    assert dict(received(response)).get(b"Content-Length") == length


def test_the_answers_to_head_and_get_may_share_their_fields() -> None:
    memory = Memory()
    get_answer = answer(b"Content-Length: 5")
    head_answer = changed(get_answer, framing=Framing.NONE, length=0)
    for _ in range(2):
        assert PASSED.fields(get_answer, memory).pairs == []
        assert PASSED.fields(head_answer, memory).pairs == [(b"Content-Length", b"5")]


def test_response_rules_come_last() -> None:
    rules = HeaderRules(
        Side.RESPONSE, set={"Content-Security-Policy": "default-src 'self'"}, remove=["Server"]
    )
    response = answer(b"Server: x", b"content-security-policy: none", b"A: b")
    assert received(response, ResponseRewriter(rules)) == [
        (b"A", b"b"),
        (b"Content-Security-Policy", b"default-src 'self'"),
    ]


def test_what_is_remembered_of_a_peer_is_for_one_route_and_safe_from_the_caller() -> None:
    memory, response = Memory(), answer(b"A: b")
    other = ResponseRewriter(HeaderRules(Side.RESPONSE, remove=["A"]))
    for _ in range(2):
        PASSED.fields(response, memory).own.append((b"Content-Length", b"1"))
        assert PASSED.fields(response, memory).pairs == [(b"A", b"b")]
        assert other.fields(response, memory).pairs == []


WEBSOCKET = [b"Connection: keep-alive, Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Key: x"]


def test_an_upgrade_goes_on_when_it_is_wanted() -> None:
    """R-HU-2."""
    request = get(*WEBSOCKET, b"TE: trailers")
    pairs = PLAIN.fields(request, facts(), b"peer", upgrade=True).pairs
    connection = [(b"Connection", b"upgrade"), (b"Upgrade", b"websocket")]
    assert pairs[2:5] == [(b"Sec-WebSocket-Key", b"x"), *connection]
    plain = PLAIN.fields(get(*WEBSOCKET), facts(), b"peer").pairs
    assert not {b"Connection", b"Upgrade"} & {name for name, _ in plain}


@pytest.mark.parametrize(
    ("upgrade", "offers"),
    [
        (b"websocket", b"websocket"),
        (b"a/1 ,\tb", b"a/1, b"),
        (b"h2c", b""),
        (b"H2C, websocket", b"websocket"),
        (b"HTTP/2.0, TLS/1.2, h2", b""),
        (b"tls", b""),
    ],
)
def test_no_upgrade_leads_to_requests_that_nobody_routes(upgrade: bytes, offers: bytes) -> None:
    request = get(b"Connection: upgrade", b"Upgrade: " + upgrade)
    assert upgrade_of(request) == offers
    pairs = PLAIN.fields(request, facts(), b"peer", upgrade=True).pairs
    assert [value for name, value in pairs if name == b"Upgrade"] == [offers] * bool(offers)


def test_an_upgrade_that_connection_does_not_name_is_none() -> None:
    assert upgrade_of(get(b"Upgrade: websocket")) == b""
    assert upgrade_of(get()) == b""


@pytest.mark.parametrize(
    ("asked", "given", "agreed"),
    [
        (b"websocket", b"WebSocket", True),
        (b"a, b", b"b", True),
        (b"websocket", b"h2c", False),
        (b"h2c", b"h2c", False),
        (b"a, b", b"a, b", False),
    ],
)
def test_a_101_is_good_only_for_one_protocol_that_was_asked_for(
    asked: bytes, given: bytes, agreed: bool
) -> None:
    """R-HR-3."""
    request = get(b"Connection: upgrade", b"Upgrade: " + asked)
    response = answer(b"Connection: upgrade", b"Upgrade: " + given, status=b"101 x", upgrade=True)
    assert agrees(request, response) == agreed
    assert not agrees(request, answer(status=b"101 x", upgrade=True))
