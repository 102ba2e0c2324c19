"""Our own answers: the page, the fields that say what it is, and that no version of HTTP has others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet.task import Clock

from rproxy.downstream.refusals import METHODS, Page, page_of
from rproxy.errors import LastHop, MethodNotAllowed, NoRoute, Redirect, Refusal
from rproxy.sites import Site, Sites
from rproxy.wire.message import BadRequest, bare_request
from tests.http2_world import Http2World
from tests.http_world import body_of, head_of, making

SERVER = SimpleNamespace(reactor=Clock())
ANSWERS = SimpleNamespace(page=lambda server, refusal, request, site: (b"text/plain", b"page"))


def page(refusal: Refusal, method: bytes | None = b"GET") -> Page:
    request = bare_request(method, b"/") if method is not None else None
    return page_of(SERVER, ANSWERS, refusal, request, None)


def test_a_refusal_is_a_page_that_nobody_may_keep() -> None:
    status, fields, length, body = page(NoRoute("app"))
    assert (status, length, body) == (404, 4, b"page")
    assert fields.own == [
        (b"Content-Type", b"text/plain"),
        (b"Server", b"rproxy"),
        (b"Date", b"Thu, 01 Jan 1970 00:00:00 GMT"),
        (b"Cache-Control", b"no-store"),
    ]


def test_every_refusal_has_a_status() -> None:
    assert (page(Refusal("of no status")).status, page(NoRoute("app")).status) == (500, 404)


def test_head_has_the_length_and_not_the_page() -> None:
    answer = page(NoRoute("app"), b"HEAD")
    assert (answer.length, answer.body) == (4, b"")


def test_what_never_was_a_request_has_a_page_too() -> None:
    assert page(BadRequest("no"), None).body == b"page"


def test_a_redirect_says_where_to_and_may_be_kept() -> None:
    answer = page(Redirect(308, b"https://a/"))
    fields = dict(answer.fields.own)
    assert (answer.status, fields[b"Location"], b"Cache-Control" in fields) == (308, b"https://a/", False)


@pytest.mark.parametrize("refusal", [MethodNotAllowed("TRACE"), LastHop("OPTIONS")])
def test_methods_that_are_allowed_are_listed(refusal: Refusal) -> None:
    assert dict(page(refusal).fields.own)[b"Allow"] == METHODS


# -- in both versions

Making = Callable[..., Http2World]


@pytest.fixture
def worlds() -> Iterator[Making]:
    yield from making(Http2World)


def elsewhere(site: Site) -> Sites:
    return Sites({}, {"a": Site("app", site.routes, redirect_to=443)})


def nowhere(site: Site) -> Sites:
    return Sites({}, {"b": site})


@pytest.mark.parametrize(
    ("sites", "method", "fields", "status"),
    [
        (nowhere, b"GET", (), 404),
        (nowhere, b"HEAD", (), 404),
        (elsewhere, b"GET", (), 301),
        (None, b"TRACE", (), 405),
        (None, b"OPTIONS", ((b"max-forwards", b"0"),), 200),
        (None, b"GET", ((b"x", b"y"),) * 129, 431),
    ],
)
def test_both_versions_answer_alike(
    worlds: Making, sites: Any, method: bytes, fields: Any, status: int
) -> None:
    world = worlds(sites=sites)
    client = world.client()
    number = client.begin(b"/", *fields, method=method)
    lines = [b"%b / HTTP/1.1" % method, b"Host: a", *(b"%b: %b" % pair for pair in fields), b"", b""]
    old = world.connect().send(b"\r\n".join(lines)).read()
    new = client.take()[number]
    line, told = head_of(old)
    told.pop(b"connection", None)
    assert (int(line.split()[1]), new.status) == (status, status)
    assert told == dict(new.fields[1:])
    assert body_of(old.removesuffix(b"<end>")) == new.body
