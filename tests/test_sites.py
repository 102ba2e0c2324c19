"""Which site and route a request gets, and the order of the checks, which decides what a client is told."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rproxy import sites as module
from rproxy.errors import (
    BodyTooLarge,
    MethodNotAllowed,
    Misdirected,
    NoRoute,
    Redirect,
    Refusal,
    UnknownHost,
)
from rproxy.interfaces import Arrival
from rproxy.policy.balance import InOrder
from rproxy.policy.forwarding import RequestRewriter, ResponseRewriter
from rproxy.policy.paths import PathTable
from rproxy.policy.rules import HeaderRules, Side
from rproxy.sites import Route, Site, Sites, host_name
from rproxy.upstream.peer import Group, Peer
from rproxy.wire.address import Inet
from rproxy.wire.clienthello import ClientHello
from rproxy.wire.http1_write import response_head
from rproxy.wire.message import BadRequest, Request
from tests.wire.reading import request_of, requests

CLIENT = Inet("192.0.2.7", 1234)
ROUTE = Route(
    b"/",
    None,
    Group([Peer("10.0.0.1:80")], InOrder()),
    RequestRewriter(frozenset(), HeaderRules(Side.REQUEST)),
    ResponseRewriter(HeaderRules(Side.RESPONSE)),
)


def site(app: str = "app", prefix: bytes = b"/", **rest: Any) -> Site:
    return Site(app, PathTable({prefix: ROUTE}), **rest)


def ask(host: bytes = b"a.test", path: bytes = b"/x", method: bytes = b"GET", *lines: bytes) -> Request:
    return request_of(b"\r\n".join([b"%b %b HTTP/1.1" % (method, path), b"Host: " + host, *lines, b"", b""]))


def arrival(name: str | None = None) -> Arrival:
    return Arrival("tcp:80", CLIENT, CLIENT, hello=ClientHello(name, (), (0x0304,)) if name else None)


def routed(sites: Sites, request: Request, name: str | None = None) -> Any:
    """The app, and the Host that is forced; or what the client is told. `name` makes it TLS."""
    try:
        found, route, forced = sites.route(request, arrival(name), name is not None)
    except Refusal as refusal:
        return type(refusal)
    assert route is ROUTE
    return found.app, forced


A, WILD = site("a"), site("wild")
CLEAR = Sites({}, {"a.test": A, "*.wild.test": WILD})


@pytest.mark.parametrize(
    ("host", "app"),
    [
        (b"a.test", "a"),
        (b"A.TEST", "a"),
        (b"a.test:8080", "a"),
        (b"b.wild.test", "wild"),
        (b"c.B.wild.test:80", "wild"),
    ],
)
def test_a_site_is_found_by_its_name_however_it_is_spelled(host: bytes, app: str) -> None:
    assert routed(CLEAR, ask(host)) == (app, None)


@pytest.mark.parametrize(
    "host", [b"b.test", b"wild.test", b"a.test.", b"127.0.0.1", b"[::1]:80", b"a_b", b"-"]
)
def test_a_host_that_nobody_has_is_unknown(host: bytes) -> None:
    assert routed(CLEAR, ask(host)) is UnknownHost


@pytest.mark.parametrize("host", [b"b.test", b"127.0.0.1", b"[::1]:80", b"a_b"])
def test_the_default_app_gets_what_is_unknown_under_its_own_name(host: bytes) -> None:
    sites = Sites({}, {}, site("a", forced_host=b"a.test"))
    assert routed(sites, ask(host)) == ("a", b"a.test")


def test_the_default_app_gets_no_unknown_host_over_tls() -> None:
    sites = Sites({"a.test": A}, {}, A, check_sni=False)
    assert routed(sites, ask(b"b.test"), "a.test") is UnknownHost


@pytest.mark.parametrize("count", [1, 500])
def test_case_and_number_of_hosts_change_nothing(count: int) -> None:
    sites = Sites({}, {f"h{number}.test": site(f"h{number}") for number in range(count)})
    assert routed(sites, ask(b"H0.tEST")) == ("h0", None)


# -- SNI and Host

COVERING = site("two", covers=lambda name: name != "uncovered.test")
SECURE = {
    "one.test": site("one"),
    "two.test": COVERING,
    "also-two.test": COVERING,
    "uncovered.test": COVERING,
}


@pytest.mark.parametrize(
    ("name", "host", "told"),
    [
        ("one.test", b"one.test", ("one", None)),
        ("one.test", b"ONE.test:443", ("one", None)),
        ("two.test", b"also-two.test", ("two", None)),
        ("two.test", b"uncovered.test", Misdirected),
        ("one.test", b"two.test", Misdirected),
        ("one.test", b"unknown.test", Misdirected),
        ("one.test", b"127.0.0.1", Misdirected),
    ],
)
def test_a_connection_is_for_one_name_or_for_those_of_its_app(name: str, host: bytes, told: Any) -> None:
    assert routed(Sites(SECURE, {}), ask(host), name) == told


def test_the_check_can_be_switched_off() -> None:
    assert routed(Sites(SECURE, {}, check_sni=False), ask(b"two.test"), "one.test") == ("two", None)


# -- what a site refuses


@pytest.mark.parametrize(
    ("request_", "kind"),
    [
        (ask(path=b"/x"), NoRoute),
        (ask(path=b"/api/../x"), BadRequest),
        (ask(method=b"TRACE"), MethodNotAllowed),
        (ask(b"b.test", b"/api"), Redirect),
        (request_of(b"POST /api HTTP/1.1\r\nHost: a.test\r\nContent-Length: 11\r\n\r\n"), BodyTooLarge),
    ],
)
def test_what_a_site_refuses_is_answered_and_logged_in_its_way(
    request_: Request, kind: type[Refusal]
) -> None:
    sites = {"a.test": site("a", b"/api", max_body=10), "b.test": site("b", redirect_to=443)}
    with pytest.raises(kind) as told:
        Sites({}, sites).route(request_, arrival(), False)
    assert told.value.site is sites[request_.authority.decode()]


@pytest.mark.parametrize(("host", "name"), [(b"b.test", None), (b"b.test", "a.test")])
def test_where_no_site_was_found_none_is_said_to_refuse(host: bytes, name: str | None) -> None:
    with pytest.raises((UnknownHost, Misdirected)) as told:
        Sites({"a.test": A}, {"a.test": A}).route(ask(host), arrival(name), name is not None)
    assert told.value.site is None


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        (ask(method=b"TRACE"), MethodNotAllowed),
        (request_of(b"CONNECT a.test:80 HTTP/1.1\r\nHost: a.test:80\r\n\r\n"), MethodNotAllowed),
        (ask(path=b"/a/../b"), BadRequest),
        (ask(path=b"/a/%2e%2e/b"), BadRequest),
        (ask(path=b"/a%00"), BadRequest),
        (ask(path=b"/a\\b"), BadRequest),
        (ask(path=b"/a//b"), ("a", None)),
        (ask(path=b"/a?../b"), ("a", None)),
    ],
)
def test_methods_and_paths(request_: Request, told: Any) -> None:
    assert routed(CLEAR, request_) == told


@pytest.mark.parametrize(("length", "told"), [(10, ("app", None)), (11, BodyTooLarge)])
def test_the_length_of_a_body_is_limited(length: int, told: Any) -> None:
    request = (
        requests([b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % length]).messages[0].head
    )
    assert isinstance(request, Request)
    assert routed(Sites({}, {"a": site(max_body=10)}), request) == told


def test_a_path_without_a_route_is_told_from_an_unknown_host() -> None:
    sites = Sites({}, {"a.test": site(prefix=b"/api")})
    assert routed(sites, ask(path=b"/apix")) is NoRoute
    assert routed(sites, ask(path=b"/api/x")) == ("app", None)


@pytest.mark.parametrize(
    "line", [b"OPTIONS * HTTP/1.1", b"OPTIONS http://a.test HTTP/1.1", b"OPTIONS http://a.test? HTTP/1.1"]
)
@pytest.mark.parametrize(("prefix", "told"), [(b"/", ("app", None)), (b"/api", NoRoute)])
def test_a_question_about_the_whole_server_is_for_the_default_route(
    line: bytes, prefix: bytes, told: Any
) -> None:
    """RFC 9110 §9.3.7; the third is one about `/?`."""
    request = request_of(line + b"\r\nHost: a.test\r\n\r\n")
    assert routed(Sites({}, {"a.test": site(prefix=prefix)}), request) == told


def test_a_route_that_replaces_its_prefix_leaves_the_whole_server_alone() -> None:
    route = replace(ROUTE, replacement=b"/api")
    assert (route.target(b"/x"), route.target(b"*")) == (b"/api/x", b"*")


# -- the hosts folder


class Folder:
    """A folder with one name in it."""

    def find(self, name: str) -> Any:
        return (site("hosts"), ROUTE) if name == "in.folder" else None


def with_folder(default: Site | None = None) -> Sites:
    return Sites({}, {"a.test": A}, default, folder=Folder())


@pytest.mark.parametrize(
    ("host", "told"),
    [
        (b"in.folder", ("hosts", None)),
        (b"IN.folder.:80", ("hosts", None)),
        (b"a.test", ("a", None)),
        (b"b.test", UnknownHost),
        (b"127.0.0.1", UnknownHost),
        (b"a_b.test", BadRequest),
        (b"[::1]:80", BadRequest),
        (b".in.folder", BadRequest),
        (b"in..folder", BadRequest),
        (b"in.folder..", BadRequest),
        (b"-in.folder", BadRequest),
        (b".", BadRequest),
        (b"..", BadRequest),
        (b"x" * 255, BadRequest),
    ],
)
def test_where_there_is_a_folder_a_host_that_cannot_be_a_name_is_a_bad_request(
    host: bytes, told: Any
) -> None:
    """D-2."""
    assert routed(with_folder(), ask(host)) == told


def test_a_request_without_a_host_is_a_bad_one_too() -> None:
    """D-7."""
    assert routed(with_folder(), request_of(b"GET / HTTP/1.0\r\n\r\n")) is BadRequest


@pytest.mark.parametrize("host", [b"b.test", b"a_b.test", b"[::1]", b"127.0.0.1"])
def test_behind_the_folder_the_default_app_gets_whatever_comes(host: bytes) -> None:
    assert routed(with_folder(site("rest", forced_host=b"rest.test")), ask(host)) == ("rest", b"rest.test")


def test_the_folder_serves_no_tls() -> None:
    sites = Sites({"a.test": A}, {}, folder=Folder(), check_sni=False)
    assert routed(sites, ask(b"in.folder"), "a.test") is UnknownHost
    assert routed(sites, ask(b"a_b.test"), "a.test") is UnknownHost


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        (ask(b"in.folder", b"*", b"OPTIONS"), ("hosts", None)),
        (request_of(b"CONNECT in.folder:80 HTTP/1.1\r\nHost: in.folder:80\r\n\r\n"), MethodNotAllowed),
        (ask(b"in.folder", b"/a/../b"), BadRequest),
    ],
)
def test_a_folder_is_asked_whatever_an_app_would_be(request_: Request, told: Any) -> None:
    assert routed(with_folder(), request_) == told


# -- redirects


def redirect(sites: Sites, request: Request) -> tuple[int, bytes]:
    with pytest.raises(Redirect) as told:
        sites.route(request, arrival(), False)
    return told.value.moved, told.value.location


@pytest.mark.parametrize(
    ("port", "request_", "told"),
    [
        (443, ask(), (301, b"https://a.test/x")),
        (443, ask(b"A.test:8080"), (301, b"https://a.test/x")),
        (8443, ask(path=b"/x/?y=%0d%0a"), (301, b"https://a.test:8443/x/?y=%0d%0a")),
        (443, ask(method=b"HEAD"), (301, b"https://a.test/x")),
        (443, ask(method=b"POST"), (308, b"https://a.test/x")),
        (443, ask(path=b"//evil.test/"), (301, b"https://a.test//evil.test/")),
        (443, ask(path=b"*", method=b"OPTIONS"), (308, b"https://a.test/")),
        (443, ask(path=b"http://a.test/z"), (301, b"https://a.test/z")),
    ],
)
def test_clear_text_goes_to_the_same_place_in_https(
    port: int, request_: Request, told: tuple[int, bytes]
) -> None:
    assert redirect(Sites({}, {"a.test": site(redirect_to=port)}), request_) == told


def test_a_redirect_never_leads_to_a_host_that_is_not_the_sites() -> None:
    default = site(redirect_to=443, forced_host=b"a.test")
    sites = Sites({}, {"*.wild.test": default}, default)
    assert redirect(sites, ask(b"evil.test")) == (301, b"https://a.test/x")
    assert redirect(sites, ask(b"b.wild.test")) == (301, b"https://b.wild.test/x")


def test_a_default_app_that_has_no_name_to_redirect_to_does_not() -> None:
    assert routed(Sites({}, {}, site(redirect_to=443)), ask(b"evil.test")) is UnknownHost


@given(st.binary(max_size=30), st.binary(max_size=60))
def test_no_host_and_no_path_makes_two_lines_of_a_location(host: bytes, path: bytes) -> None:
    sites = Sites({}, {"*.test": site(redirect_to=443)}, site(redirect_to=443, forced_host=b"a.test"))
    whole = requests([b"GET /%b HTTP/1.1\r\nHost: %b.test\r\n\r\n" % (path, host)])
    for message in whole.messages:
        assert isinstance(message.head, Request)
        with pytest.raises(Refusal) as told:
            sites.route(message.head, arrival(), False)
        if isinstance(told.value, Redirect):
            head = response_head(told.value.moved, b"", [(b"Location", told.value.location)])
            assert head.count(b"\r\n") == 3
            assert told.value.location.startswith(b"https://")


@given(st.binary(max_size=40))
def test_any_authority_has_a_name_or_none(authority: bytes) -> None:
    name = host_name(authority)
    assert name is None or name == name.lower()


def test_names_are_kept_up_to_a_number_and_what_is_none_never() -> None:
    """Or a stranger could fill the memory with heads."""
    sites = Sites({}, {}, default=A)
    kept: dict[bytes, str] = sites._names
    for no_name in (b"b" * (module.LONGEST + 1), b"b" * 60000, b"[::1]:80", b"-"):
        assert routed(sites, ask(no_name)) == ("a", None)
        assert kept == {}
    for number in range(module.MOST_NAMES):
        routed(sites, ask(b"%d.test:80" % number))
    assert len(kept) == module.MOST_NAMES
    assert routed(sites, ask(b"B.test")) == ("a", None)
    assert kept == {b"B.test": "b.test"}
