"""What HTTP connections say beside the backends' words: whose page it is, and what stands in which log."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from rproxy.errors import NoRoute, Redirect, Refusal
from rproxy.policy.forwarding import RequestRewriter
from rproxy.policy.paths import PathTable
from rproxy.policy.rules import HeaderRules, Side
from rproxy.services.answers import Answers
from rproxy.services.pages import HTML, JSON, TEXT, Pages
from rproxy.sites import Site, Sites
from rproxy.wire.message import Headers, bare_request
from tests.http_world import GET, OK, World, Written, head_of, request

SERVER = SimpleNamespace(request_id=lambda: "0123")


def asking(*accept: bytes) -> Any:
    """A request with these Accept fields."""
    ask = bare_request(b"GET", b"/")
    ask.headers = Headers([(b"Accept", value) for value in accept])
    return ask


# -- pages


def test_a_page_is_in_the_form_that_the_client_prefers() -> None:
    answers = Answers(Random(1))
    for accept, form in (([b"text/html"], HTML), ([b"application/json"], JSON), ([], TEXT)):
        kind, body = answers.page(SERVER, NoRoute("app"), asking(*accept), None)
        assert (kind, b"404" in body, b"no_route" in body, b"0123" in body) == (form, True, True, True)


def test_accept_fields_are_one_list() -> None:
    both = asking(b"text/html;q=0.1", b"application/json")
    assert Answers(Random(1)).page(SERVER, NoRoute("app"), both, None)[0] == JSON


def test_who_has_sent_no_request_gets_text() -> None:
    kind, body = Answers(Random(1)).page(SERVER, Refusal("of no status"), None, None)
    assert (kind, body[:4]) == (TEXT, b"500 ")


def test_a_redirect_is_called_by_its_own_status() -> None:
    assert Answers(Random(1)).page(SERVER, Redirect(308, b"/"), None, None)[1].startswith(b"308 ")


@pytest.mark.parametrize(("pages", "ours"), [(Pages({"404": b"its own"}), False), (None, True)])
def test_an_app_may_have_pages_of_its_own(pages: Pages | None, ours: bool) -> None:
    site = Site("app", PathTable({}), pages=pages)
    _, body = Answers(Random(1)).page(SERVER, NoRoute("app"), asking(b"text/html"), site)
    assert (body != b"its own") is ours


# -- the log


class Place:
    """A proxy with a log for its app, whose routes are called by `option`, and one for the rest."""

    def __init__(self, option: str = "", **route: Any) -> None:
        self.app, self.rest = Written(), Written()
        if option:
            route["requests"] = RequestRewriter(frozenset((option,)), HeaderRules(Side.REQUEST))
        self.world = World(sites=lambda site: Sites({}, {"a": replace(site, log=self.app)}), **route)
        self.answers = Answers(Random(1))
        self.answers.log = self.rest
        self.world.factory.answers = self.answers


@pytest.fixture
def places() -> Iterator[Callable[..., Place]]:
    made: list[Place] = []

    def make(*options: Any, **route: Any) -> Place:
        made.append(Place(*options, **route))
        return made[-1]

    yield make
    for place in made:
        place.world.end()


Making = Callable[..., Place]


def test_a_request_is_one_line_in_the_log_of_its_app(places: Making) -> None:
    place = places()
    ask = request(b"/x?y", b"User-Agent: tester", b"Referer: there", b"X-Forwarded-For: 192.0.2.9")
    client = place.world.connect().send(ask)
    peer = place.world.asked()
    place.world.wait(2)
    peer.send(OK)
    place.world.loop.spin()
    (line,) = place.app.lines
    assert (line.method, line.host, line.path, line.version) == (b"GET", b"a", b"/x?y", 11)
    assert (line.status, line.reason, line.size, line.app) == (200, "ok", 2, "app")
    assert (line.user_agent, line.referer, line.tls) == (b"tester", b"there", "")
    assert line.forwarded_for == b"127.0.0.1", "what a client claims is not believed"
    assert (line.upstream, line.upstream_path) == (place.world.peers[0].origin, b"/x?y")
    assert (line.seconds, line.upstream_seconds) == (2.0, 2.0)
    assert line.client.host == client.socket.getsockname()[0]
    assert place.rest.lines == []


def test_what_no_app_serves_is_in_the_log_for_the_rest(places: Making) -> None:
    place = places()
    answer = place.world.connect().send(GET.replace(b"Host: a", b"Host: b")).read()
    (line,) = place.rest.lines
    assert (line.status, line.reason, line.app, line.host) == (404, "unknown_host", "-", b"b")
    assert (line.upstream, line.upstream_seconds) == ("", None)
    assert line.id.encode() in answer, "by which its page is found"
    assert place.app.lines == []


def test_what_never_became_a_request_has_a_line_too(places: Making) -> None:
    place = places()
    answer = place.world.connect().send(b"GET / HTTP/1.1\r\n\r\n").read()
    (line,) = place.rest.lines
    assert (line.status, line.reason, line.app, line.version) == (400, "bad_request", "-", 0)
    assert (line.method, line.host, line.path) == (b"", b"", b"")
    assert line.id.encode() in answer


def test_without_a_log_nothing_is_written(places: Making) -> None:
    place = places()
    place.answers.log = None
    place.world.connect().send(b"GET / HTTP/1.1\r\n\r\n")
    place.world.connect().send(GET.replace(b"Host: a", b"Host: b"))
    assert place.rest.lines == []


def test_a_number_is_made_only_where_it_is_shown(places: Making) -> None:
    place = places()
    place.app.shows_id = False
    place.world.connect().send(GET)
    place.world.asked().send(OK)
    place.world.loop.spin()
    assert [line.id for line in place.app.lines] == [""]


def test_each_request_of_a_connection_has_its_own_fields(places: Making) -> None:
    place = places()
    client = place.world.connect()
    peer = None
    for agent in (b"one", b"one", b"two", b""):
        client.send(request(b"/", *([b"User-Agent: " + agent] if agent else [])))
        peer = peer or place.world.asked()
        peer.send(OK)
        client.read()
    assert [line.user_agent for line in place.app.lines] == [b"one", b"one", b"two", b""]
    assert len({id(line.client) for line in place.app.lines}) == 1, "written once for the connection"
    assert len({line.id for line in place.app.lines}) == 4


@pytest.mark.parametrize(
    ("option", "fields", "shown"),
    [("", [], False), ("", [b"Forwarded: for=192.0.2.9"], True), ("forwarded_header", [], True)],
)
def test_forwarded_is_shown_where_the_peer_gets_it(
    places: Making, option: str, fields: list[bytes], shown: bool
) -> None:
    place = places(option)
    place.world.connect().send(request(b"/", *fields))
    peer = place.world.asked()
    passed = head_of(peer.read())[1].get(b"forwarded", b"")
    peer.send(OK)
    place.world.loop.spin()
    (line,) = place.app.lines
    assert (bool(line.forwarded), line.forwarded) == (shown, passed)


def test_a_client_that_leaves_is_written_down_as_that(places: Making) -> None:
    place = places()
    place.world.connect().send(GET).reset()
    (line,) = place.app.lines
    assert (line.status, line.reason) == (499, "client_left")


def test_what_was_answered_is_counted_also_where_it_never_became_a_request(places: Making) -> None:
    place, counted = places(), list[tuple[Any, ...]]()
    place.answers.jails = SimpleNamespace(
        request=lambda facts, headers, *rest: counted.append((facts.node, headers is None, *rest))
    )
    client = place.world.connect()
    client.send(GET)
    place.world.asked().send(OK)
    client.send(b"no request\r\n\r\n")
    assert [line[1:] for line in counted] == [(False, 200, "ok", "app"), (True, 400, "bad_request", "-")]
    assert {line[0] for line in counted} == {"127.0.0.1"}
