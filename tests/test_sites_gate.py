"""The gate of requests: asked first who it is, and last what he wants."""

from __future__ import annotations

from typing import Any

import pytest

from rproxy.errors import Banned, Misdirected, NoRoute, RateLimited, Redirect, Refusal, UnknownHost
from rproxy.policy.forwarding import ClientFacts
from rproxy.policy.networks import NetworkSet
from rproxy.sites import Gate as BareGate
from rproxy.sites import Route, Site, Sites
from rproxy.wire.message import Headers, Request
from tests.test_sites import CLIENT, ROUTE, arrival, ask, site


class Gate(BareGate):
    """Remembers what it was asked, and refuses with what it is given."""

    def __init__(self, client: Refusal | None = None, admit: Refusal | None = None) -> None:
        self._client, self._admit = client, admit
        self.calls: list[Any] = []

    def client(self, facts: ClientFacts, headers: Headers) -> str:
        self.calls.append(facts.node)
        if self._client is not None:
            raise self._client
        return f"client {facts.node}"

    def admit(self, client: str, site: Site, route: Route | None) -> None:
        self.calls.append((client, site.app, route))
        if self._admit is not None:
            raise self._admit


def sites(gate: Gate, **options: Any) -> Sites:
    made = Sites({"a.test": site("a")}, {"a.test": site("a"), "b.test": site("b", b"/b")}, **options)
    made.gate = gate
    return made


FACTS = ClientFacts(CLIENT, https=False, port=80, trusted=NetworkSet())


def told(it: Sites, request: Request, name: str | None = None) -> Any:
    try:
        return it.route(request, arrival(name), name is not None, FACTS)[0].app
    except Refusal as refusal:
        return type(refusal)


def test_a_request_is_asked_who_it_is_from_and_then_what_it_wants() -> None:
    gate = Gate()
    assert told(sites(gate), ask()) == "a"
    assert gate.calls == [CLIENT.host, (f"client {CLIENT.host}", "a", ROUTE)]


@pytest.mark.parametrize(("host", "name"), [(b"a.test", None), (b"nobody.test", None), (b"b.test", "a.test")])
def test_who_is_banned_is_told_nothing_else(host: bytes, name: str | None) -> None:
    assert told(sites(Gate(client=Banned("x"))), ask(host), name) is Banned


def test_a_request_without_a_route_counts_for_its_app() -> None:
    gate = Gate()
    assert told(sites(gate), ask(b"b.test", b"/x")) is NoRoute
    assert gate.calls[1:] == [(f"client {CLIENT.host}", "b", None)]
    assert told(sites(Gate(admit=RateLimited("x", 1.0))), ask(b"b.test", b"/x")) is RateLimited


def test_what_is_no_app_s_request_is_not_counted() -> None:
    for host, name, answer in ((b"nobody.test", None, UnknownHost), (b"b.test", "a.test", Misdirected)):
        gate = Gate()
        assert told(sites(gate), ask(host), name) is answer
        assert gate.calls == [CLIENT.host]


def test_a_redirect_is_not_counted_as_the_request_comes_again() -> None:
    made = Sites({}, {"a.test": site("a", redirect_to=443)})
    made.gate = gate = Gate()
    assert told(made, ask()) is Redirect
    assert gate.calls == [CLIENT.host]


def test_without_facts_nobody_is_asked() -> None:
    gate = Gate(client=Banned("x"))
    assert sites(gate).route(ask(), arrival(), False)[0].app == "a"
    assert gate.calls == []
