"""Gates let in whom they should, on the real address, and count nobody whom they refuse."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from twisted.internet.task import Clock

from rproxy.errors import Banned, Denied, RateLimited, Refusal, TooMany
from rproxy.interfaces import Arrival, Lease
from rproxy.policy.bantable import EVER, BanTable, read_network
from rproxy.policy.bucket import Allowance
from rproxy.policy.forwarding import ClientFacts
from rproxy.policy.networks import NetworkSet
from rproxy.policy.paths import PathTable
from rproxy.services.bancheck import BanCheck
from rproxy.services.gates import MOST_KNOWN, AppGate, Gate, Gated, Lists, RequestGate
from rproxy.services.ratelimits import RateLimiter
from rproxy.sites import Route, Site
from rproxy.wire.address import Address, Inet, Unix
from rproxy.wire.message import Headers
from tests.test_sites import ROUTE

CLIENT, OTHER, FRONT = Inet("192.0.2.7", 1234), Inet("192.0.2.8", 1234), Inet("10.0.0.1", 1234)


def bans_on(*networks: str) -> BanCheck:
    table = BanTable()
    for network in networks:
        table.add(read_network(network), EVER)
    table.settle()
    return BanCheck(Clock(), table)


def lists(allow: str = "", deny: str = "", also: str = "") -> Lists:
    made = [NetworkSet(text.split()) if text else None for text in (allow, deny, also)]
    return Lists(*made)


def limiter(capacity: int = 0, most_open: int = 0) -> RateLimiter:
    return RateLimiter(Clock(), "limit", Allowance(capacity, 60.0, most_open))


def told(what: Any, *arguments: Any) -> str:
    """The reason of the refusal, or nothing."""
    try:
        what(*arguments)
    except Refusal as refusal:
        return refusal.reason
    return ""


@pytest.mark.parametrize(
    ("allow", "deny", "host", "passes"),
    [
        ("", "192.0.2.7", "192.0.2.7", False),
        ("", "192.0.2.7", "192.0.2.8", True),
        ("192.0.2.0/24", "", "192.0.2.7", True),
        ("192.0.2.0/24", "", "198.51.100.1", False),
        ("192.0.2.0/24", "192.0.2.7", "192.0.2.7", False),
        ("192.0.2.0/24", "192.0.2.7", "192.0.2.8", True),
        ("192.0.2.0/24", "", "2001:db8::1", False),
        ("192.0.2.0/24", "", "", False),
        ("192.0.2.0/24 unix", "", "", True),
        ("", "unix", "", False),
        ("", "192.0.2.7", "", True),
    ],
)
def test_deny_goes_before_allow(allow: str, deny: str, host: str, passes: bool) -> None:
    it = lists(allow, deny)
    for _ in range(2):  # the second time it is remembered
        assert told(it.check, host) == ("" if passes else "denied")


def test_who_speaks_for_others_may_come_unless_it_is_denied() -> None:
    it = lists("192.0.2.0/24", "10.0.0.2", also="10.0.0.0/8")
    assert [told(it.check, host) for host in ("10.0.0.1", "10.0.0.2", "11.0.0.1")] == ["", "denied", "denied"]


def test_few_addresses_are_remembered() -> None:
    it = lists("10.0.0.0/8")
    for number in range(3 * MOST_KNOWN):
        it.check(f"10.0.{number >> 8}.{number & 255}")
    assert len(it._known) <= MOST_KNOWN


# -- Connections --------------------------------------------------------------------------------------------


def test_bans_come_before_lists_and_are_counted() -> None:
    bans = bans_on("192.0.2.7")
    gate = Gate(bans, lists(deny="192.0.2.0/24"))
    assert told(gate.check, CLIENT) == "banned"
    assert told(gate.check, OTHER) == "denied"
    assert bans.refused == 1


def test_nobody_on_a_unix_socket_is_banned_or_counted() -> None:
    gate = Gate(bans_on("0.0.0.0/0", "::/0"), None, limiter(most_open=1))
    for _ in range(3):
        assert told(gate.check, Unix(b"/x")) == ""
        assert told(gate.count, Unix(b"/x"), Lease()) == ""


def test_connections_are_counted_by_client_and_given_back() -> None:
    gate, lease = Gate(limiter=limiter(most_open=1)), Lease()
    gate.count(Inet("2001:db8:0:1::1", 1), lease)
    assert told(gate.count, Inet("2001:db8:0:1::2", 2), Lease()) == "too_many"
    assert told(gate.count, Inet("2001:db8:0:2::1", 1), Lease()) == ""
    lease.release()
    assert told(gate.count, Inet("2001:db8:0:1::2", 2), Lease()) == ""


def test_a_gate_tells_whom_it_turned_away_if_anybody_listens() -> None:
    heard: list[tuple[Address, str]] = []
    Gate().turned_away(CLIENT, Denied("x"))
    Gate(hears=lambda client, refusal: heard.append((client, refusal.reason))).turned_away(
        CLIENT, Denied("x")
    )
    assert heard == [(CLIENT, "denied")]


class Built:
    """A route that takes everybody."""

    def __init__(self) -> None:
        self.arrivals: list[Any] = []

    def buildProtocol(self, arrival: Any) -> str:
        self.arrivals.append(arrival)
        return "protocol"


def test_a_route_behind_a_gate_is_not_asked_for_who_may_not() -> None:
    route, limit = Built(), limiter(most_open=1)
    gated = Gated(route, Gate(bans_on("192.0.2.8"), lists(deny="192.0.2.9"), limit))  # type: ignore[arg-type]
    arrivals = [Arrival("l", FRONT, Inet(f"192.0.2.{n}", 1)) for n in (7, 8, 9, 7)]
    assert [told(gated.buildProtocol, each) for each in arrivals] == ["", "banned", "denied", "too_many"]
    assert route.arrivals == arrivals[:1]
    arrivals[0].lease.release()
    assert limit.open == 0
    assert gated.buildProtocol(arrivals[3]) == "protocol"


# -- Requests -----------------------------------------------------------------------------------------------

SITE = Site("site", PathTable({}))


def facts(client: Address = CLIENT, trusted: str = "10.0.0.0/8") -> ClientFacts:
    return ClientFacts(client, https=True, port=443, trusted=NetworkSet(trusted.split()))


def headers(forwarded_for: str = "") -> Headers:
    return Headers([(b"X-Forwarded-For", forwarded_for.encode())] if forwarded_for else [])


def route(prefix: bytes) -> Route:
    return replace(ROUTE, prefix=prefix)


def test_who_is_connected_is_not_asked_about_again() -> None:
    gate = RequestGate(bans_on("192.0.2.7"), lists(deny="192.0.2.7"), {})
    assert gate.client(facts(), headers("198.51.100.9")) == "192.0.2.7"


@pytest.mark.parametrize(
    ("client", "reason"),
    [("192.0.2.7", "banned"), ("192.0.2.8", "denied"), ("192.0.2.9", ""), ("2001:db8::1", "denied")],
)
def test_whom_a_trusted_proxy_speaks_for_is(client: str, reason: str) -> None:
    bans = bans_on("192.0.2.7")
    gate = RequestGate(bans, lists("192.0.2.0/24", "192.0.2.8"), {})
    assert told(gate.client, facts(FRONT), headers(client)) == reason
    assert bans.refused == (reason == "banned")


def test_without_the_header_it_is_the_proxy_itself() -> None:
    assert RequestGate(bans_on(), None, {}).client(facts(FRONT), headers()) == "10.0.0.1"


def test_nobody_knows_who_comes_over_a_unix_socket() -> None:
    gate = RequestGate(bans_on("10.0.0.0/8"), None, {"site": AppGate(None, limiter(capacity=1), {})})
    for who in (facts(Unix(b"")), facts(Unix(b""), "unix")):
        client = gate.client(who, headers())
        assert client == ""
        for _ in range(3):
            assert told(gate.admit, client, SITE, None) == ""
    assert gate.client(facts(Unix(b""), "unix"), headers("192.0.2.7")) == "192.0.2.7"


def test_an_app_has_lists_of_its_own() -> None:
    gate = RequestGate(None, None, {"site": AppGate(lists("10.0.0.0/8 unix"), None, {})})
    assert told(gate.admit, "192.0.2.7", SITE, None) == "denied"
    assert told(gate.admit, "10.0.0.1", SITE, None) == ""
    assert told(gate.admit, "", SITE, None) == ""
    assert told(gate.admit, "192.0.2.7", Site("other", PathTable({})), None) == ""


def test_a_refusal_knows_the_site_and_the_time_to_wait() -> None:
    gate = RequestGate(None, None, {"site": AppGate(None, limiter(capacity=1), {})})
    gate.admit("192.0.2.7", SITE, None)
    with pytest.raises(RateLimited) as refused:
        gate.admit("192.0.2.7", SITE, None)
    assert (refused.value.site, refused.value.wait, refused.value.status) == (SITE, 60.0, 429)
    assert told(gate.admit, "192.0.2.8", SITE, None) == ""


def test_a_path_is_limited_besides_its_app() -> None:
    app, path = limiter(capacity=3), limiter(capacity=1)
    gate = RequestGate(None, None, {"site": AppGate(None, app, {b"/login": path})})
    paths = [b"/login", b"/login", b"/", b"/", b"/"]
    reasons = [told(gate.admit, "192.0.2.7", SITE, route(prefix)) for prefix in paths]
    assert reasons == ["", "rate_limited", "", "", "rate_limited"]
    assert told(gate.admit, "192.0.2.8", SITE, None) == ""


def test_a_path_may_be_limited_alone() -> None:
    gate = RequestGate(None, None, {"site": AppGate(None, None, {b"/login": limiter(capacity=1)})})
    assert [told(gate.admit, "192.0.2.7", SITE, route(b"/login")) for _ in range(2)] == ["", "rate_limited"]
    assert [told(gate.admit, "192.0.2.7", SITE, route(b"/")) for _ in range(2)] == ["", ""]


def test_ipv6_clients_share_what_their_64_has() -> None:
    gate = RequestGate(None, None, {"site": AppGate(None, limiter(capacity=1), {})})
    assert told(gate.admit, "2001:db8::1", SITE, None) == ""
    assert told(gate.admit, "2001:db8::2", SITE, None) == "rate_limited"


def test_refusals_are_of_the_kinds_that_are_caught() -> None:
    assert issubclass(RateLimited, TooMany)
    assert Banned.alert is None
    assert {Banned.status, Denied.status} == {403}
