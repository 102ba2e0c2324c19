"""A certificate counts for the app that asked for it: what requests on other connections are told."""

from __future__ import annotations

from typing import Any

import pytest

from rproxy.errors import Misdirected, NotAuthorised, Redirect, Refusal, UnknownHost
from rproxy.interfaces import Arrival
from rproxy.policy.identity import Authorized, ClientPolicy, Identity, Shown
from rproxy.sites import Site, Sites
from rproxy.wire.clienthello import ClientHello
from tests.test_sites import CLIENT, ROUTE, ask, site

BOB = Identity("CN=bob@admin", ("bob@admin",), ("admin",), "bob@admin")
ANN = Identity("CN=ann@ops", ("ann@ops",), ("ops",), "ann@ops")
CLOSED = ClientPolicy("closed", "ca")
TWIN = ClientPolicy("twin", "ca")
MAYBE = ClientPolicy("maybe", "ca", required=False)
ADMINS = ClientPolicy("admins", "ca", authorized=Authorized(("admin",)))
POLICIES = {"open": None, "closed": CLOSED, "twin": TWIN, "maybe": MAYBE, "admins": ADMINS}


def sites(*, check_sni: bool = True, redirect_to: int = 443, default: str = "") -> Sites:
    apps = {key: site(key, clients=policy, redirect_to=redirect_to) for key, policy in POLICIES.items()}
    names = {f"{key}.test": app for key, app in apps.items()}
    return Sites(names, names, apps.get(default), check_sni=check_sni)


def arrival(made_for: str | None, identity: Identity | None = None) -> Arrival:
    """A connection for this app, None for one in clear text."""
    if made_for is None:
        return Arrival("tcp:80", CLIENT, CLIENT)
    known = Arrival("tcp:443", CLIENT, CLIENT, hello=ClientHello(f"{made_for}.test", (), (0x0304,)))
    policy = POLICIES[made_for]
    if policy is None:
        return known
    shown = Shown(policy)
    shown.identity = identity
    return known.with_shown(shown)


def routed(
    made_for: str | None, wanted: str, identity: Identity | None = None, **options: Any
) -> str | type[Refusal]:
    """The app that serves a request, or what the client is told."""
    known = arrival(made_for, identity)
    try:
        found, route, _ = sites(**options).route(ask(f"{wanted}.test".encode()), known, made_for is not None)
    except Refusal as refusal:
        return type(refusal)
    assert route is ROUTE
    return found.app


def test_a_connection_serves_the_app_that_it_was_made_for() -> None:
    for key in ("open", "closed", "twin", "maybe", "admins"):
        assert routed(key, key, BOB) == key
    assert routed("maybe", "maybe", None) == "maybe"


@pytest.mark.parametrize("check_sni", [True, False])
@pytest.mark.parametrize("made_for", POLICIES)
@pytest.mark.parametrize("wanted", POLICIES)
def test_it_serves_no_other_where_one_of_them_wants_certificates(
    made_for: str, wanted: str, check_sni: bool
) -> None:
    for identity in (BOB, None):
        if made_for != wanted:
            assert routed(made_for, wanted, identity, check_sni=check_sni) is Misdirected


def test_without_client_certificates_the_check_of_names_can_be_turned_off_as_before() -> None:
    names = {"a.test": site("a"), "b.test": site("b")}
    known = Arrival("tcp:443", CLIENT, CLIENT, hello=ClientHello("a.test", (), (0x0304,)))
    found, _, _ = Sites(names, {}, check_sni=False).route(ask(b"b.test"), known, True)
    assert found.app == "b"


def test_an_app_that_has_changed_is_another() -> None:
    """A request that is routed by newer tables than its connection."""
    changed = ClientPolicy("closed", "another ca")
    newer = Sites({"closed.test": site("closed", clients=changed)}, {})
    with pytest.raises(Misdirected):
        newer.route(ask(b"closed.test"), arrival("closed", BOB), True)
    same = Sites({"closed.test": site("closed", clients=ClientPolicy("closed", "ca"))}, {})
    assert same.route(ask(b"closed.test"), arrival("closed", BOB), True)[0].app == "closed"
    none = Sites({"closed.test": site("closed")}, {})
    with pytest.raises(Misdirected):
        none.route(ask(b"closed.test"), arrival("closed", BOB), True)


def test_who_may_not_is_told_so_by_the_app() -> None:
    assert routed("admins", "admins", ANN) is NotAuthorised
    assert routed("admins", "admins", BOB) == "admins"
    assert routed("closed", "closed", None) is NotAuthorised  # its handshake would have failed
    with pytest.raises(NotAuthorised) as caught:
        sites().route(ask(b"admins.test"), arrival("admins", ANN), True)
    refused_by: Site = caught.value.site
    assert (refused_by.app, caught.value.status, caught.value.reason) == ("admins", 403, "not_authorised")


def test_who_may_not_learns_nothing_else() -> None:
    """Not which paths and methods there are."""
    for request in (ask(b"admins.test", b"/x", b"TRACE"), ask(b"admins.test", b"/%2e%2e/x")):
        with pytest.raises(NotAuthorised):
            sites().route(request, arrival("admins", ANN), True)


def test_clear_text_is_redirected() -> None:
    for key in POLICIES:
        assert routed(None, key) is Redirect


def test_clear_text_that_is_not_redirected_is_served_where_nobody_has_to_be_known() -> None:
    for key in POLICIES:
        expected = key if key in ("open", "maybe") else NotAuthorised
        assert routed(None, key, redirect_to=0) == expected


def test_the_default_app_is_no_way_in() -> None:
    for made_for in POLICIES:
        assert routed(made_for, "nobody", BOB, check_sni=False, default="closed") is UnknownHost
    assert routed(None, "nobody", redirect_to=0, default="closed") is NotAuthorised
    assert routed(None, "nobody", redirect_to=0, default="open") == "open"
