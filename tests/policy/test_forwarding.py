"""Request heads as they go on to peers."""

import pytest

from rproxy.policy import forwarding
from rproxy.policy.forwarding import MAX_REMEMBERED, RequestRewriter
from rproxy.policy.rules import HeaderRules, Side
from rproxy.wire.address import Address, Inet, Unix
from rproxy.wire.http1 import RequestReader
from rproxy.wire.http1_fields import is_claim
from rproxy.wire.message import Framing
from tests.policy.heads import CLIENT, FORGED, OURS, PLAIN, facts, get, options, sent
from tests.wire.reading import changed, request_of


def test_a_request_goes_on_with_its_fields_and_with_ours() -> None:
    """R-HU-3."""
    pairs = PLAIN.fields(get(b"User-Agent: a", b"accept: */*"), facts(), b"peer").pairs
    uri = (b"X-Original-URI", b"/x?y")
    assert pairs[:4] == [(b"Host", b"app.example"), uri, (b"User-Agent", b"a"), (b"accept", b"*/*")]
    assert dict([uri, *pairs[4:]]) == OURS
    assert len(pairs) == 3 + len(OURS)


def test_in_clear_text_the_fields_say_so() -> None:
    pairs = dict(PLAIN.fields(get(), facts(Inet("2001:db8::7", 1), https=False, port=8080), b"peer").pairs)
    assert pairs[b"X-Forwarded-For"] == pairs[b"X-Real-IP"] == b"2001:db8::7"
    assert (pairs[b"X-Forwarded-Proto"], pairs[b"X-Forwarded-Ssl"]) == (b"http", b"off")
    assert pairs[b"X-Forwarded-Port"] == b"8080"


def test_a_zone_stays_here_and_a_unix_socket_has_no_address() -> None:
    assert facts(Inet("fe80::1%eth0", 1)).node == "fe80::1"
    pairs = dict(PLAIN.fields(get(), facts(Unix(b""), https=False, port=0), b"peer").pairs)
    assert not {b"X-Forwarded-For", b"X-Real-IP"} & set(pairs)
    assert pairs[b"X-Forwarded-Port"] == b"80"


@pytest.mark.parametrize("name", FORGED)
@pytest.mark.parametrize("client", [CLIENT, Inet("10.0.0.9", 1)])
def test_what_only_a_proxy_may_say_is_never_passed_on(name: bytes, client: Address) -> None:
    """Classes 32, 33 and 35; nobody is trusted with more than the address, the proto and the port."""
    pairs = PLAIN.fields(get(name + b": forged"), facts(client), b"peer").pairs
    assert [pair for pair in pairs if pair[1] == b"forged"] == []
    assert not any(pair[0].lower() == b"proxy" for pair in pairs)


def test_what_looks_like_a_claim_and_is_none_goes_on() -> None:
    lines = [b"X-Forward: 1", b"XForwardedFor: 1", b"Forwarded-For: 1", b"X-Real-Ips: 1"]
    assert len(sent(get(*lines))) == 1 + len(lines)
    assert not any(is_claim(name) for name in forwarding._USUAL)


HOP_BY_HOP = [
    b"Connection: keep-alive",
    b"Keep-Alive: timeout=5",
    b"Proxy-Connection: keep-alive",
    b"Proxy-Authenticate: Basic",
    b"Proxy-Authorization: Basic x",
    b"TE: gzip",
    b"Trailer: x",
    b"Transfer-Encoding: chunked",
    b"Upgrade: h2c",
    b"HTTP2-Settings: x",
]


def test_what_is_about_the_connection_ends_here() -> None:
    """R-HU-1."""
    request = get(*HOP_BY_HOP, b"X-A: 1")
    assert request.framing is Framing.CHUNKED
    assert sent(request) == [(b"Host", b"app.example"), (b"X-A", b"1")]
    assert sent(get(b"Content-Length: 5")) == [(b"Host", b"app.example")]


def test_what_connection_names_ends_here_too() -> None:
    request = get(b"Connection: close, X-A, x-b", b"x-a: 1", b"X-B: 2", b"X-C: 3")
    assert sent(request) == [(b"Host", b"app.example"), (b"X-C", b"3")]


def test_connection_cannot_take_away_what_says_who_asks_for_what() -> None:
    """R-HU-10, class 32."""
    named = b"Connection: host, cookie, authorization, content-type, expect, " + b", ".join(
        name.lower() for name in OURS
    )
    fields = [b"Cookie: a=b", b"Authorization: Basic x", b"Content-Type: text/plain"]
    pairs = PLAIN.fields(get(named, *fields), facts(), b"peer").pairs
    assert pairs[0] == (b"Host", b"app.example")
    assert [b": ".join(pair) for pair in pairs[2:5]] == fields
    assert dict([pairs[1], *pairs[5:]]) == OURS


@pytest.mark.parametrize("te", [b"trailers", b"gzip, Trailers", b"trailers ,deflate;q=0.5"])
def test_a_client_that_takes_trailers_is_said_to(te: bytes) -> None:
    assert sent(get(b"Connection: TE", b"TE: " + te))[1:] == [(b"Connection", b"TE"), (b"TE", b"trailers")]


def test_several_cookie_lines_become_one() -> None:
    """R-HU-2."""
    assert sent(get(b"Cookie: a=1", b"X: y", b"cookie: b=2; c=3"))[1:] == [
        (b"X", b"y"),
        (b"Cookie", b"a=1; b=2; c=3"),
    ]


def test_the_sticky_cookie_stays_here() -> None:
    rewriter = RequestRewriter(frozenset(), HeaderRules(Side.REQUEST), sticky=b"stick")
    assert sent(get(b"Cookie: a=1; stick=x"), rewriter=rewriter)[1:] == [(b"Cookie", b"a=1")]
    assert sent(get(b"Cookie: stick=x"), rewriter=rewriter)[1:] == []
    assert sent(get(b"Cookie: a=1"), rewriter=rewriter)[1:] == [(b"Cookie", b"a=1")]


def test_a_peer_waits_with_us_for_the_body_only_if_the_client_does() -> None:
    waiting = get(b"Expect: 100-continue", b"Content-Length: 5")
    assert sent(waiting)[1:] == [(b"Expect", b"100-continue")]
    assert sent(get(b"Expect: 100-continue")) == [(b"Host", b"app.example")]
    assert sent(get(b"Expect: 100-continue", b"Content-Length: 5", version=b"1.0")) == [
        (b"Host", b"app.example")
    ]


@pytest.mark.parametrize(
    ("names", "forced", "host"),
    [
        ([], None, b"app.example"),
        (["keep_original_host"], None, b"app.example"),
        (["set_upstream_host"], None, b"peer:8080"),
        (["set_upstream_host", "keep_original_host"], None, b"app.example"),
        ([], b"default.example", b"default.example"),
        (["set_upstream_host"], b"default.example", b"default.example"),
    ],
)
def test_host_is_the_clients_unless_configured_or_forced(
    names: list[str], forced: bytes | None, host: bytes
) -> None:
    """R-UO, R-HU-7."""
    pairs = options(*names).fields(get(), facts(), b"peer:8080", forced).pairs
    assert [pair for pair in pairs if pair[0].lower() == b"host"] == [(b"Host", host)]
    assert dict(pairs)[b"X-Forwarded-Host"] == b"app.example"


def test_a_port_in_host_is_kept_and_a_host_that_is_missing_is_the_peers() -> None:
    request = request_of(b"GET / HTTP/1.1\r\nHost: app.example:8443\r\n\r\n")
    pairs = dict(PLAIN.fields(request, facts(), b"peer").pairs)
    assert pairs[b"Host"] == pairs[b"X-Forwarded-Host"] == b"app.example:8443"
    pairs = dict(PLAIN.fields(request_of(b"GET / HTTP/1.0\r\n\r\n"), facts(), b"peer").pairs)
    assert pairs[b"Host"] == b"peer"
    assert b"X-Forwarded-Host" not in pairs


def test_an_absolute_target_gives_the_host_and_is_what_was_asked_for() -> None:
    request = get(target=b"http://APP.example:80/a")
    pairs = dict(PLAIN.fields(request, facts(), b"peer").pairs)
    assert pairs[b"Host"] == pairs[b"X-Forwarded-Host"] == b"APP.example:80"
    assert pairs[b"X-Original-URI"] == b"http://APP.example:80/a"


def test_insecure_requests_are_upgraded_by_option() -> None:
    field = (b"Upgrade-Insecure-Requests", b"1")
    assert sent(get(), rewriter=options("upgrade_insecure_requests"))[1:] == [field]
    assert sent(get(b"upgrade-insecure-requests: 1"), rewriter=options("upgrade_insecure_requests"))[1:] == [
        (b"upgrade-insecure-requests", b"1")
    ]


def test_forwarded_is_written_by_option_and_rewritten_where_there_is_one() -> None:
    field = (b"Forwarded", b"for=203.0.113.10;proto=https;host=app.example")
    assert sent(get(), rewriter=options("forwarded_header"))[1:] == [field]
    assert sent(get(b"forwarded: for=6.6.6.6"))[1:] == [field]


def test_a_trusted_peer_is_believed_and_added_to_the_chain() -> None:
    request = get(
        b"X-Forwarded-For: 198.51.100.10", b"X-Forwarded-Proto: https", b"Forwarded: for=198.51.100.10"
    )
    client = facts(Inet("10.1.2.3", 1), https=False, port=80)
    pairs = dict(PLAIN.fields(request, client, b"peer").pairs)
    assert pairs[b"X-Forwarded-For"] == b"198.51.100.10, 10.1.2.3"
    assert pairs[b"X-Real-IP"] == b"198.51.100.10"
    assert (pairs[b"X-Forwarded-Proto"], pairs[b"X-Forwarded-Port"]) == (b"https", b"443")
    assert pairs[b"Forwarded"] == b"for=198.51.100.10, for=10.1.2.3;proto=http;host=app.example"
    assert client.is_trusted
    assert client.claims(request.headers).https


def test_a_client_that_is_not_trusted_is_not_believed() -> None:
    request = get(b"X-Forwarded-For: 10.9.9.9", b"X-Forwarded-Proto: http", b"X-Forwarded-Port: 1")
    assert dict(PLAIN.fields(request, facts(), b"peer").pairs).items() >= OURS.items()
    assert not facts().is_trusted
    assert facts().claims(request.headers).https


def test_a_trusted_unix_socket_passes_on_the_addresses_behind_it() -> None:
    client = facts(Unix(b"/run/a"), https=False, port=0, trusted="unix")
    pairs = dict(PLAIN.fields(get(b"X-Forwarded-For: 198.51.100.10"), client, b"peer").pairs)
    assert pairs[b"X-Forwarded-For"] == pairs[b"X-Real-IP"] == b"198.51.100.10"


def test_rules_come_last_and_may_change_what_we_add() -> None:
    rules = HeaderRules(Side.REQUEST, set={"X-Forwarded-Prefix": "/app"}, remove=["X-Real-IP", "User-Agent"])
    pairs = dict(RequestRewriter(frozenset(), rules).fields(get(b"User-Agent: a"), facts(), b"peer").pairs)
    assert pairs[b"X-Forwarded-Prefix"] == b"/app"
    assert not {b"X-Real-IP", b"User-Agent"} & set(pairs)


def test_rules_about_what_differs_per_request_are_applied_per_request() -> None:
    rules = HeaderRules(Side.REQUEST, set={"Host": "fixed"}, remove=["X-Original-URI"])
    rewriter = RequestRewriter(frozenset(), rules)
    request, client = get(), facts()
    for _ in range(2):
        pairs = rewriter.fields(request, client, b"peer", b"forced").pairs
        assert [pair for pair in pairs if pair[0].lower() == b"host"] == [(b"Host", b"fixed")]
        assert b"X-Original-URI" not in dict(pairs)


def test_repeated_fields_are_worked_out_once_and_the_rest_is_not_mixed_up() -> None:
    reader, client = RequestReader(), facts()
    for path in (b"/a", b"/b"):
        reader.receive(b"GET %b HTTP/1.1\r\nHost: app.example\r\nA: b\r\n\r\n" % path)
    one, two = reader.read_head(), reader.read_head()
    assert one is not None
    assert two is not None
    assert one.headers is two.headers
    first = PLAIN.fields(one, client, b"peer")
    second = PLAIN.fields(two, client, b"peer", b"forced")
    assert second.block is first.block
    assert second.own == [(b"Host", b"forced"), (b"X-Original-URI", b"/b")]
    first.own.clear()
    assert PLAIN.fields(two, client, b"peer", b"forced").pairs == second.pairs


def test_what_is_remembered_is_for_one_route_and_one_authority() -> None:
    request, client = get(b"Cookie: stick=x"), facts()
    sticky = RequestRewriter(frozenset(), HeaderRules(Side.REQUEST), sticky=b"stick")
    assert b"Cookie" in dict(PLAIN.fields(request, client, b"peer").pairs)
    assert b"Cookie" not in dict(sticky.fields(request, client, b"peer").pairs)
    other = changed(request, authority=b"other.example")
    assert dict(sticky.fields(other, client, b"peer").pairs)[b"X-Forwarded-Host"] == b"other.example"
    assert b"Upgrade" not in dict(sticky.fields(other, client, b"peer", upgrade=True).pairs)


def test_large_fields_are_not_kept_for_an_idle_client() -> None:
    client = facts()
    large = get(b"Cookie: " + b"a" * MAX_REMEMBERED)
    PLAIN.fields(get(), client, b"peer")
    PLAIN.fields(large, client, b"peer")
    assert client.memory.recall(PLAIN, large.headers, large.authority) is None
    small = get()
    PLAIN.fields(small, client, b"peer")
    assert client.memory.recall(PLAIN, small.headers, small.authority) is not None
    client.memory.forget()
    assert client.memory.recall(PLAIN, small.headers, small.authority) is None
